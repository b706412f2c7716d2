//! What fuzzers need and nobody else may have. No interface: it changes whenever it likes.

use super::rest::json;
use crate::xds::{Node, Resource, Version};

/// A request over REST: the names it asks for and who asks; `None` for what is none.
#[must_use]
pub fn rest_request(body: &[u8]) -> Option<(Vec<String>, Node)> {
    let asked: json::Asked = serde_json::from_slice(body).ok()?;
    Some((asked.resource_names, asked.node.into()))
}

/// A response over REST; `None` for what has no JSON.
#[must_use]
pub fn rest_response(version: &Version, found: &[&Resource]) -> Option<Vec<u8>> {
    json::render(version, found).ok().map(|body| body.to_vec())
}
