//! What the supervisor of tokens asks.

use std::sync::Arc;

use futures_util::{future::BoxFuture, stream::BoxStream};

use crate::{
    identity::{JwtRequest, JwtSvid, Workload},
    source::{
        SourceError,
        decode::jwt::{JwtBundles, JwtKeys},
    },
};

/// Something that mints tokens for workloads and knows the keys that verify them.
pub trait JwtSource: Send + Sync {
    /// One token, validated; its signature too where `keys` has the keys of its trust domain. Ends by itself in bounded
    /// time. Nothing is retried inside.
    fn fetch(
        &self,
        workload: &Workload,
        request: &JwtRequest,
        keys: &JwtBundles,
    ) -> BoxFuture<'static, Result<JwtSvid, SourceError>>;

    /// One session about the keys of every trust domain: every complete state, until the session ends. As
    /// [`Source::watch`](crate::source::Source::watch).
    fn watch_keys(&self, workload: &Workload) -> BoxStream<'static, Result<JwtKeys, SourceError>>;
}

impl<S: JwtSource + ?Sized> JwtSource for Arc<S> {
    fn fetch(
        &self,
        workload: &Workload,
        request: &JwtRequest,
        keys: &JwtBundles,
    ) -> BoxFuture<'static, Result<JwtSvid, SourceError>> {
        (**self).fetch(workload, request, keys)
    }

    fn watch_keys(&self, workload: &Workload) -> BoxStream<'static, Result<JwtKeys, SourceError>> {
        (**self).watch_keys(workload)
    }
}
