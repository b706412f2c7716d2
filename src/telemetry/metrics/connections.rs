//! Connections that there was no room for.

use prometheus_client::{
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};

/// What was done for want of room. Clones are the same metrics.
#[derive(Clone, Debug, Default)]
pub struct ConnectionMetrics {
    refused: Family<[(&'static str, &'static str); 2], Counter>,
    closed: Family<[(&'static str, &'static str); 1], Counter>,
}

impl ConnectionMetrics {
    /// Begins at zero.
    pub fn begin(&self, endpoint: &'static str) {
        for reason in ["peer", "all"] {
            drop(self.refused.get_or_create(&[("endpoint", endpoint), ("reason", reason)]));
        }
        drop(self.closed.get_or_create(&[("endpoint", endpoint)]));
    }

    /// A connection was refused, because its peer had as many as it may, or there were as many as there may be.
    pub fn refused(&self, endpoint: &'static str, reason: &'static str) {
        self.refused.get_or_create(&[("endpoint", endpoint), ("reason", reason)]).inc();
    }

    /// A connection was closed to make room for another one.
    pub fn closed(&self, endpoint: &'static str) {
        self.closed.get_or_create(&[("endpoint", endpoint)]).inc();
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        let help = "Connections that were refused for want of room: of their peer, or of all";
        registry.register("connections_refused", help, self.refused.clone());
        let help = "Connections that were closed to make room for others, idle ones first";
        registry.register("connections_closed_for_room", help, self.closed.clone());
    }
}
