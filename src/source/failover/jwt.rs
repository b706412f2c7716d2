//! Tokens from the source whose X.509-SVIDs are in service.

use std::sync::Arc;

use futures_util::{
    FutureExt as _, StreamExt as _,
    future::{BoxFuture, ready},
    stream::{self, BoxStream},
};
use tokio::sync::watch;

use crate::{
    identity::{JwtRequest, JwtSvid, Workload},
    source::{JwtSource, SourceError, decode::jwt::JwtBundles},
};

/// A [`JwtSource`] that is whichever of several is active, the preferred one before any is. Tokens in service stay until
/// they are due; keys are those of the active source at once.
pub struct ActiveJwt {
    sources: Vec<Arc<dyn JwtSource>>,
    active: watch::Receiver<Option<usize>>,
}

impl ActiveJwt {
    /// `active` is the position in `sources`, as [`Supervisor::active`](crate::source::Supervisor::active) tells it.
    #[must_use]
    pub fn new(sources: Vec<Arc<dyn JwtSource>>, active: watch::Receiver<Option<usize>>) -> Self {
        Self { sources, active }
    }
}

/// A session about keys that goes on with another source when that becomes active.
struct Following {
    sources: Vec<Arc<dyn JwtSource>>,
    active: watch::Receiver<Option<usize>>,
    workload: Workload,
    /// The present one's position and session.
    present: Option<(usize, BoxStream<'static, Result<JwtBundles, SourceError>>)>,
}

impl JwtSource for ActiveJwt {
    fn fetch(
        &self,
        workload: &Workload,
        request: &JwtRequest,
        keys: &JwtBundles,
    ) -> BoxFuture<'static, Result<JwtSvid, SourceError>> {
        let active = self.active.borrow().unwrap_or_default();
        match self.sources.get(active) {
            Some(source) => source.fetch(workload, request, keys),
            None => ready(Err(SourceError::Closed)).boxed(),
        }
    }

    fn watch_keys(&self, workload: &Workload) -> BoxStream<'static, Result<JwtBundles, SourceError>> {
        let (sources, active) = (self.sources.clone(), self.active.clone());
        let following = Following { sources, active, workload: workload.clone(), present: None };
        stream::unfold(following, |mut following| async move { Some((following.next().await?, following)) }).boxed()
    }
}

impl Following {
    async fn next(&mut self) -> Option<Result<JwtBundles, SourceError>> {
        loop {
            let wanted = self.active.borrow_and_update().unwrap_or_default();
            if self.present.as_ref().is_none_or(|(index, _)| *index != wanted) {
                self.present = Some((wanted, self.sources.get(wanted)?.watch_keys(&self.workload)));
            }
            let (_, session) = self.present.as_mut()?;
            tokio::select! {
                keys = session.next() => return keys,
                // Nobody decides any more: the program is ending.
                changed = self.active.changed() => changed.ok()?,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::identity::{JwtBundle, TrustDomain};

    /// Knows the keys of one trust domain, and says so for ever.
    struct Fixed(&'static str);

    impl JwtSource for Fixed {
        fn fetch(
            &self,
            _: &Workload,
            _: &JwtRequest,
            _: &JwtBundles,
        ) -> BoxFuture<'static, Result<JwtSvid, SourceError>> {
            ready(Err(SourceError::Closed)).boxed()
        }

        fn watch_keys(&self, _: &Workload) -> BoxStream<'static, Result<JwtBundles, SourceError>> {
            let domain = TrustDomain::new(self.0).unwrap();
            let bundle = Arc::new(JwtBundle::new(domain.clone(), Vec::new()));
            let keys = BTreeMap::from([(domain, bundle)]);
            stream::iter([Ok(keys)]).chain(stream::pending()).boxed()
        }
    }

    #[test]
    fn keys_follow_the_active_source_within_one_session() {
        let active = watch::Sender::new(None);
        let sources: Vec<Arc<dyn JwtSource>> = vec![Arc::new(Fixed("a")), Arc::new(Fixed("b"))];
        let mut session = ActiveJwt::new(sources, active.subscribe()).watch_keys(&Workload::Own);
        let mut said =
            || session.next().now_or_never().map(|keys| keys.unwrap().unwrap().into_keys().next().unwrap().to_string());
        assert_eq!(said().as_deref(), Some("a"), "the preferred one before any is active");
        active.send_replace(Some(0));
        assert_eq!(said(), None, "that changes nothing");
        active.send_replace(Some(1));
        assert_eq!(said().as_deref(), Some("b"));
        drop(active);
        assert!(session.next().now_or_never().unwrap().is_none());
    }
}
