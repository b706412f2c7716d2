//! Connections of the bundle endpoint.

use std::{convert::Infallible, sync::Arc, time::Duration};

use hyper::service::service_fn;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    answer::{answer, refused},
    pages::Pages,
};
use crate::listen::{
    accept::{Connection, Io, Serve},
    guard::Hosts,
    http::{self, Meter, Patience},
};

/// Answers take no time, only reading them does.
const PATIENCE: Patience = Patience {
    first: Duration::from_secs(10),
    idle: Duration::from_secs(75),
    stall: Duration::from_secs(10),
    grace: Duration::from_secs(1),
    head: None,
};

/// Serves verifiers.
pub(super) struct Verifiers {
    pub(super) pages: watch::Receiver<Arc<Pages>>,
    pub(super) hosts: Arc<Hosts>,
    pub(super) meter: Meter,
    pub(super) drain: CancellationToken,
    pub(super) drain_deadline: Duration,
}

impl Serve for Verifiers {
    fn serve(&self, io: Io, connection: Connection) -> impl Future<Output = ()> + Send + 'static {
        let (pages, hosts) = (self.pages.clone(), self.hosts.clone());
        let (peer, transport) = (connection.peer, connection.transport);
        let service = service_fn(move |request| {
            let response = match hosts.refuse(&request, transport) {
                Some((status, reason)) => refused(status, reason),
                None => answer(&pages.borrow().clone(), &request),
            };
            tracing::debug!(%peer, path = request.uri().path(), status = response.status().as_u16(), "bundle request");
            std::future::ready(Ok::<_, Infallible>(response))
        });
        http::serve(io, connection, service, PATIENCE, self.meter.clone(), self.drain.clone())
    }

    fn drain_deadline(&self) -> Duration {
        self.drain_deadline
    }
}
