//! The running issuer and its setters.

mod jwt;

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{
    sync::{broadcast, watch},
    task::JoinSet,
};
use tonic::Status;

use crate::{
    identity::{SpiffeId, TrustBundle, TrustDomain},
    source::Endpoint,
    workload_api_proto::X509BundlesResponse,
};

use super::{
    CaStep, Config, DevError, Event, Issued, RawMessage, Rotation, Template, ca, schedule,
    serve::{self, Mode, SocketFile, Traffic, WorkloadApi},
    shared::Shared,
    state::State,
};

/// How long [`DevIssuer::shutdown`] waits for connections that are already being torn down.
const TEARDOWN: Duration = Duration::from_secs(1);

/// A running development issuer. Dropping it stops it, cuts its connections and removes its socket.
///
/// The setters are synchronous. Each makes one new state, which every open stream hears at once; a stream that is
/// slow hears only the newest. While a setter fails nothing changes.
pub struct DevIssuer {
    // First, so that nobody serves when the sockets go.
    tasks: JoinSet<()>,
    _sockets: Vec<SocketFile>,
    /// The first of `endpoints`.
    endpoint: Endpoint,
    endpoints: Vec<Endpoint>,
    shared: Arc<Shared>,
}

impl DevIssuer {
    /// Makes the CAs and the first leaves, binds every endpoint and serves. Must run inside a Tokio runtime.
    ///
    /// # Errors
    /// The configuration contradicts itself, or an endpoint cannot be bound.
    pub async fn start(config: Config) -> Result<Self, DevError> {
        schedule::check(config.rotation, &[config.ca_rotate_every, config.jwt_rotate_every])?;
        let (state, _) = State::new(&config, SystemTime::now())?;
        let shared = Arc::new(Shared::new(state, config.bundles_need_identity));
        let mut tasks = JoinSet::new();
        let mut sockets = Vec::new();
        let mut endpoints = Vec::new();
        for endpoint in &config.listen {
            let (bound, endpoint, socket) = serve::bind(endpoint, config.socket_mode).await?;
            let served = shared.served.subscribe();
            let api = WorkloadApi { served, traffic: shared.traffic.clone(), shared: Arc::clone(&shared) };
            tasks.spawn(serve::accept(bound, api.traffic.clone(), serve::services(api).await?));
            tracing::warn!(
                %endpoint,
                trust_domain = %config.trust_domain,
                "development issuer started: it gives private keys to whoever connects, never use it in production"
            );
            endpoints.push(endpoint);
            sockets.extend(socket);
        }
        let endpoint = endpoints.first().cloned().ok_or(DevError::NoEndpoint)?;
        if config.rotation != Rotation::Never {
            tasks.spawn(schedule::leaves(Arc::clone(&shared), config.rotation));
        }
        if let Some(every) = config.ca_rotate_every {
            tasks.spawn(schedule::roll_over(Arc::clone(&shared), every, Shared::own_ca_step));
        }
        if let Some(every) = config.jwt_rotate_every {
            tasks.spawn(schedule::roll_over(Arc::clone(&shared), every, Shared::own_jwt_key_step));
        }
        Ok(Self { tasks, _sockets: sockets, endpoint, endpoints, shared })
    }

    /// Stops: cuts every connection, as a killed agent would, and removes the sockets. Takes a second at most.
    pub async fn shutdown(mut self) {
        self.tasks.shutdown().await;
        let mut traffic = self.traffic();
        // Sockets that the kernel still tears down are no reason to wait for ever.
        let _ = tokio::time::timeout(TEARDOWN, traffic.wait_for(|it| it.connections_open == 0)).await;
    }

    /// Where the issuer listens first.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Where the issuer listens, in the order of the configuration, with the real ports.
    #[must_use]
    pub fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }

    /// What the clients have done so far; wait on it with `wait_for`.
    #[must_use]
    pub fn traffic(&self) -> watch::Receiver<Traffic> {
        self.shared.traffic.subscribe()
    }

    /// What the issuer does from now on.
    #[must_use]
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.shared.events.subscribe()
    }

    /// The present leaves, in the order of the messages.
    #[must_use]
    pub fn svids(&self) -> Vec<Issued> {
        self.shared.state().svids().to_vec()
    }

    /// The present leaf of one identity.
    #[must_use]
    pub fn svid(&self, id: &SpiffeId) -> Option<Issued> {
        self.shared.state().svids().iter().find(|it| it.svid.id == *id).cloned()
    }

    /// The trusted roots of the own or of a federated trust domain.
    #[must_use]
    pub fn bundle(&self, trust_domain: &TrustDomain) -> Option<TrustBundle> {
        self.shared.state().bundle(trust_domain)
    }

    /// The same roots in PEM, one block each.
    #[must_use]
    pub fn bundle_pem(&self, trust_domain: &TrustDomain) -> Option<String> {
        self.bundle(trust_domain).map(|bundle| ca::certificates_pem(bundle.authorities().iter()))
    }

    /// Issues an identity at the end of the order; one that is there keeps its place and gets a new leaf and this hint.
    ///
    /// # Errors
    /// The ID is of a foreign trust domain or has no path, or the hint is another identity's.
    pub fn issue(&self, id: &SpiffeId, hint: Option<&str>) -> Result<(), DevError> {
        self.shared.change(|state, now| Ok(vec![state.issue(id, hint, now)?]))
    }

    /// Withdraws an identity. Streams end with `PERMISSION_DENIED` when it was the last one.
    ///
    /// # Errors
    /// It has no SVID.
    pub fn revoke(&self, id: &SpiffeId) -> Result<(), DevError> {
        self.shared.change(|state, _| Ok(vec![state.revoke(id)?]))
    }

    /// A new leaf and a new key for every identity, in one message.
    ///
    /// # Errors
    /// Keys or certificates cannot be made.
    pub fn rotate(&self) -> Result<(), DevError> {
        self.shared.rotate()
    }

    /// A new leaf and a new key for one identity.
    ///
    /// # Errors
    /// It has no SVID.
    pub fn rotate_one(&self, id: &SpiffeId) -> Result<(), DevError> {
        self.shared.change(|state, now| Ok(vec![state.rotate_one(id, now)?]))
    }

    /// The life of the leaves to come; the present ones keep theirs.
    ///
    /// # Errors
    /// Shorter than 2 s.
    pub fn set_ttl(&self, ttl: Duration) -> Result<(), DevError> {
        self.shared.change(|state, _| state.set_ttl(ttl).map(|()| Vec::new()))?;
        self.shared.ttl.send_replace(ttl);
        Ok(())
    }

    /// Puts the listed identities first, in this order; the first of all is the default identity.
    pub fn set_order(&self, order: &[SpiffeId]) {
        let mut state = self.shared.state();
        state.set_order(order);
        self.shared.publish(&state, false);
    }

    /// Adds a new root to the own bundle; nothing is signed by it yet.
    ///
    /// # Errors
    /// One is prepared already.
    pub fn prepare_ca(&self) -> Result<(), DevError> {
        self.shared.own_ca_step(CaStep::Prepare)
    }

    /// Lets the prepared root sign, and replaces every leaf by one of its own, in one message.
    ///
    /// # Errors
    /// None is prepared.
    pub fn activate_ca(&self) -> Result<(), DevError> {
        self.shared.own_ca_step(CaStep::Activate)
    }

    /// Takes the old roots out of the own bundle.
    ///
    /// # Errors
    /// The first root is still the active one.
    pub fn retire_ca(&self) -> Result<(), DevError> {
        self.shared.own_ca_step(CaStep::Retire)
    }

    /// One step of the roll-over of any CA that lives here, own or federated.
    ///
    /// # Errors
    /// No such CA, or the step is out of order.
    pub fn ca_step(&self, trust_domain: &TrustDomain, step: CaStep) -> Result<(), DevError> {
        self.shared.change(|state, now| state.ca_step(trust_domain, step, now))
    }

    /// Serves the bundle of another trust domain, with a new CA of its own; replaces the one it may have had.
    ///
    /// # Errors
    /// It is the issuer's own.
    pub fn federate(&self, trust_domain: &TrustDomain) -> Result<(), DevError> {
        self.shared.change(|state, now| Ok(vec![state.federate(trust_domain.clone(), now)?]))
    }

    /// Serves a bundle whose CA lives elsewhere, for instance in another issuer; may be empty.
    ///
    /// # Errors
    /// It is of the issuer's own trust domain.
    pub fn federate_with(&self, bundle: TrustBundle) -> Result<(), DevError> {
        self.shared.change(|state, _| Ok(vec![state.federate_with(bundle)?]))
    }

    /// Serves the bundle of a trust domain no longer.
    ///
    /// # Errors
    /// It was not served.
    pub fn defederate(&self, trust_domain: &TrustDomain) -> Result<(), DevError> {
        self.shared.change(|state, _| Ok(vec![state.defederate(trust_domain)?]))
    }

    /// Ends every stream with `status`, and answers every new one with it, until [`recover`](Self::recover).
    pub fn fail_with(&self, status: Status) {
        self.shared.served.send_modify(|served| served.mode = Mode::Failing(status));
    }

    /// Falls silent: new calls get no answer and open streams no message, until [`recover`](Self::recover).
    pub fn hang(&self) {
        self.shared.served.send_modify(|served| served.mode = Mode::Hanging);
    }

    /// Ends [`fail_with`](Self::fail_with), [`hang`](Self::hang), [`send_raw`](Self::send_raw) and
    /// [`set_jwt_fault`](Self::set_jwt_fault): calls that hang
    /// are answered, and open streams hear what they missed.
    pub fn recover(&self) {
        let state = self.shared.state();
        self.shared.served.send_modify(|served| served.mode = Mode::Serving);
        self.set_jwt_fault(None);
        self.shared.publish(&state, false);
    }

    /// Says the present state once more to every open stream, though nothing has changed.
    pub fn resend(&self) {
        self.shared.publish(&self.shared.state(), true);
    }

    /// The present message of `FetchX509SVID`, to tamper with; without SVIDs while no identity is issued.
    #[must_use]
    pub fn message(&self) -> RawMessage {
        RawMessage(self.shared.state().svid_response().unwrap_or_default())
    }

    /// Says `message` to every open and every new `FetchX509SVID` stream, until the state changes or
    /// [`recover`](Self::recover).
    pub fn send_raw(&self, message: RawMessage) {
        // Under the lock, so that no setter's message is overtaken.
        let _state = self.shared.state();
        self.shared.served.send_modify(|served| served.svids.update(Some(message.0), true));
    }

    /// Says `message` to every open and every new `FetchX509Bundles` stream, until the state changes or
    /// [`recover`](Self::recover).
    pub fn send_raw_bundles(&self, message: X509BundlesResponse) {
        let _state = self.shared.state();
        self.shared.served.send_modify(|served| served.bundles.update(Some(message), true));
    }

    /// Signs anything with the CA of `signed_by`, own or federated; nobody is told.
    ///
    /// # Errors
    /// No such CA lives here, or the certificate cannot be made.
    pub fn sign(&self, template: &Template, signed_by: &TrustDomain) -> Result<Issued, DevError> {
        self.shared.state().sign(template, signed_by)
    }

    /// A leaf that is correct but for its signer, who may be of another trust domain than `id`.
    ///
    /// # Errors
    /// As of [`sign`](Self::sign).
    pub fn forge(&self, id: &SpiffeId, signed_by: &TrustDomain) -> Result<Issued, DevError> {
        let state = self.shared.state();
        state.sign(&Template::leaf(id.clone(), SystemTime::now(), state.ttl()), signed_by)
    }
}

impl fmt::Debug for DevIssuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DevIssuer").field("endpoints", &self.endpoints).finish_non_exhaustive()
    }
}
