//! Connections of the bundle endpoint.

use std::{convert::Infallible, sync::Arc, time::Duration};

use hyper::service::service_fn;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{answer::answer, pages::Pages};
use crate::listen::{
    Peer,
    accept::{Io, Serve},
    http::{self, Meter, Patience},
};

/// Answers take no time, only reading them does.
const PATIENCE: Patience = Patience {
    first: Duration::from_secs(10),
    idle: Duration::from_secs(75),
    grace: Duration::from_secs(1),
    head: None,
};

/// Serves verifiers.
pub(super) struct Verifiers {
    pub(super) pages: watch::Receiver<Arc<Pages>>,
    pub(super) meter: Meter,
    pub(super) drain: CancellationToken,
    pub(super) drain_deadline: Duration,
}

impl Serve for Verifiers {
    fn serve(&self, io: Io, peer: Peer) -> impl Future<Output = ()> + Send + 'static {
        let pages = self.pages.clone();
        let service = service_fn(move |request| {
            let pages = pages.borrow().clone();
            let response = answer(&pages, &request);
            tracing::debug!(%peer, path = request.uri().path(), status = response.status().as_u16(), "bundle request");
            std::future::ready(Ok::<_, Infallible>(response))
        });
        http::serve(io, peer, service, PATIENCE, self.meter.clone(), self.drain.clone())
    }

    fn drain_deadline(&self) -> Duration {
        self.drain_deadline
    }
}
