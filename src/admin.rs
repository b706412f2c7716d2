//! The admin listener: what operators and monitoring see of a running server. It never shows key material.
//!
//! | Path | Content |
//! |---|---|
//! | `/live` | 200 as long as the process answers at all |
//! | `/ready` | 200 or 503, and each condition by name |
//! | `/metrics` | OpenMetrics text |
//! | `/` | the page: sources, identities, trust, clients, events (`?q=`, `?state=`, `?offset=`) |
//! | `/debug/sources`, `/debug/identities`, `/debug/trust` | the same as JSON |
//! | `/debug/clients`, `/debug/events` | the same, searched and paged (`?q=`, `?offset=`, `?limit=`) |
//! | `/debug/config` | the configuration in force, each value with its origin; the last reload; what waits for a restart |
//! | `POST /actions/...` | what an operator can make the server do |
//! | `ClientStatusDiscoveryService` | who holds what, over gRPC |
//!
//! It is kept out of the data path: its own sockets, its own bounds on connections and requests, and everything it
//! shows is read from atomics and channels that the data path writes without waiting. Pages are made aside from the
//! threads that serve proxies, one at a time; `/live` and `/ready` wait for none, and `/metrics` for no page.

pub mod actions;
mod debug;
mod desk;
mod guard;
mod listen;
mod page;
mod probes;
mod renewals;
pub mod view;

use std::{sync::Arc, time::Duration};

use axum::{
    Router, middleware,
    routing::{get, post},
};

use crate::{lifecycle::Readiness, listen as sockets, server::csds, telemetry::metrics::Exposition};

use desk::Desk;
pub use listen::Admin;
pub use renewals::note_renewals;

/// Where the admin listener is, and who may ask it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// None: it is off.
    pub listeners: Vec<sockets::Config>,
    /// A listener that cannot be opened stops the start; else it is logged and left out. Off for the default one, that
    /// nobody asked for.
    pub required: bool,
    /// Allows TCP addresses that are not loopback. Whoever reaches one sees every SPIFFE ID and every client.
    pub allow_public: bool,
    /// Names besides `localhost` that requests over TCP may be addressed to, without port.
    pub hosts: Vec<String>,
    /// Which of the [`OPTIONAL`](crate::lifecycle::OPTIONAL) conditions count for readiness.
    pub ready_requires: Vec<&'static str>,
    /// From when on a subscription without an answer counts as starved.
    pub starved_after: Duration,
}

impl Default for Config {
    fn default() -> Self {
        let starved_after = Duration::from_secs(30);
        Self {
            listeners: Vec::new(),
            required: true,
            allow_public: false,
            hosts: Vec::new(),
            ready_requires: Vec::new(),
            starved_after,
        }
    }
}

/// What the pages show.
#[derive(Clone, Debug)]
pub struct Parts {
    /// For `/ready`.
    pub readiness: Readiness,
    /// For `/metrics`.
    pub metrics: Arc<Exposition>,
    /// For everything else.
    pub sight: Arc<view::Sight>,
}

/// Every page. [`Admin::run`] puts the guards in front of it.
pub fn router(parts: Parts) -> Router {
    let desk = || middleware::from_fn_with_state(Desk::default(), desk::aside);
    let csds = Router::new()
        .route_service(
            "/envoy.service.status.v3.ClientStatusDiscoveryService/{method}",
            csds::service(parts.sight.streams.clone()),
        )
        .route_layer(middleware::from_fn(csds::bounded));
    let sight = Router::new()
        .route("/", get(page::page))
        .route("/debug/sources", get(debug::sources))
        .route("/debug/identities", get(debug::identities))
        .route("/debug/trust", get(debug::trust))
        .route("/debug/clients", get(debug::clients))
        .route("/debug/config", get(debug::config))
        .route("/debug/events", get(debug::events))
        .route_layer(desk())
        .route("/debug/revision", get(page::news))
        .route("/actions/resend", post(actions::resend))
        .route("/actions/refresh-tokens", post(actions::refresh_tokens))
        .route("/actions/log-level", post(actions::log_level))
        .with_state(parts.sight.clone());
    Router::new()
        // With a place of their own: monitoring waits for no page.
        .route("/metrics", get(probes::metrics))
        .route_layer(desk())
        .route("/live", get(probes::live))
        .route("/ready", get(probes::ready))
        .with_state(parts)
        .merge(sight)
        .merge(csds)
}
