//! `/debug/*`: what the page shows, as JSON.

use std::{sync::Arc, time::SystemTime};

use axum::{
    Json,
    extract::{Query, State},
    http::StatusCode,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::view::{self, Sight};
use crate::server::registry::{self, State as Standing};

/// Rows in one answer, unless fewer are asked for.
const MOST: usize = 1_000;
/// Rows in one answer, unless asked otherwise.
pub(super) const USUAL: usize = 100;
/// Characters of a search.
const LONGEST: usize = 256;

/// What a request asks for.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(super) struct Params {
    /// Text to look for.
    #[serde(default)]
    pub(super) q: String,
    /// `synced`, `stale`, `not_sent`, `never` or `error`; empty: any.
    #[serde(default)]
    pub(super) state: String,
    #[serde(default)]
    pub(super) offset: usize,
    pub(super) limit: Option<usize>,
}

/// A request that cannot be answered.
pub(super) type Refused = (StatusCode, Json<Value>);

impl Params {
    /// The search for streams that this is.
    pub(super) fn streams(&self, usual: usize) -> Result<registry::Query, Refused> {
        let state = match self.state.as_str() {
            "" => None,
            word => Some(
                Standing::ALL
                    .into_iter()
                    .find(|state| state.as_str() == word)
                    .ok_or_else(|| bad_request("state is none of synced, stale, not_sent, never, error"))?,
            ),
        };
        let limit = self.limit.unwrap_or(usual).min(MOST);
        Ok(registry::Query { text: self.text(), state, offset: self.offset, limit })
    }

    fn text(&self) -> String {
        self.q.trim().chars().take(LONGEST).collect()
    }
}

pub(super) fn bad_request(reason: &str) -> Refused {
    (StatusCode::BAD_REQUEST, Json(json!({ "error": reason })))
}

pub(super) async fn sources(State(sight): State<Arc<Sight>>) -> Json<Value> {
    let (sources, refused, conditions) = (sight.sources(), sight.refused(), sight.conditions());
    Json(json!({ "sources": sources, "refused": refused, "conditions": conditions }))
}

pub(super) async fn identities(State(sight): State<Arc<Sight>>) -> Json<Value> {
    let (state, tokens) = (sight.identities.borrow().clone(), sight.tokens.borrow().clone());
    let now = SystemTime::now();
    let identities = view::identities(&state, now);
    Json(json!({
        "in_service": sight.in_service(),
        "identities": identities,
        "withdrawn": sight.gone(now),
        "tokens": view::tokens(&tokens, now),
    }))
}

pub(super) async fn config(State(sight): State<Arc<Sight>>) -> Result<Json<view::Configuration>, Refused> {
    let configuration = sight.configuration.borrow().as_deref().cloned();
    let unknown = "this server is part of a program that does not say what it was configured with";
    configuration.map(Json).ok_or_else(|| (StatusCode::NOT_IMPLEMENTED, Json(json!({ "error": unknown }))))
}

pub(super) async fn trust(State(sight): State<Arc<Sight>>) -> Json<Value> {
    let (state, tokens) = (sight.identities.borrow().clone(), sight.tokens.borrow().clone());
    Json(json!({ "trust_domains": view::trust(&state, &tokens, SystemTime::now()) }))
}

pub(super) async fn clients(
    State(sight): State<Arc<Sight>>,
    Query(params): Query<Params>,
) -> Result<Json<view::Clients>, Refused> {
    Ok(Json(sight.clients(&params.streams(USUAL)?)))
}

pub(super) async fn events(State(sight): State<Arc<Sight>>, Query(params): Query<Params>) -> Json<view::Events> {
    let limit = params.limit.unwrap_or(USUAL).min(MOST);
    Json(sight.events(&params.text(), params.offset, limit))
}
