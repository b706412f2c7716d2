//! One session: the SVID stream and, for a workload without an identity, the bundle stream.

use std::{
    error::Error as _,
    future::{Future, pending},
    sync::PoisonError,
    time::{Duration, SystemTime},
};

use futures_util::stream::{self, Stream};
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};
use tonic::{Code, Request, Status, Streaming, metadata::MetadataValue, transport::Channel};

use super::{WorkloadApi, channel, overdue};
use crate::{
    identity::IdentitySnapshot,
    printable::is_hidden,
    source::{
        ErrorKind, SourceError, backoff,
        decode::{self, DecodeError},
    },
    workload_api_proto::{
        X509BundlesRequest, X509BundlesResponse, X509svidRequest, X509svidResponse,
        spiffe_workload_api_client::SpiffeWorkloadApiClient,
    },
};

/// On every request, so that nobody can be tricked into asking the API for an attacker (Workload Endpoint, section 6).
const SECURITY_HEADER: &str = "workload.spiffe.io";
/// A peer's words in our logs are bounded.
const REASON_CHARACTERS: usize = 256;
const SHORTEST_WAIT: Duration = Duration::from_millis(10);
const LONGEST_WAIT: Duration = Duration::from_secs(60);

pub(super) type Client = SpiffeWorkloadApiClient<Channel>;
type Step = Result<Option<(IdentitySnapshot, State)>, SourceError>;

enum State {
    Start,
    /// The workload has identities.
    Svids {
        client: Client,
        stream: Streaming<X509svidResponse>,
        again: Option<Again>,
        /// When it should have said something; never while it may be silent.
        overdue: Option<Instant>,
    },
    /// It has none: follow the bundles, and end with `denial` at `recheck` so that the next session asks again.
    Bundles {
        stream: Streaming<X509BundlesResponse>,
        recheck: Instant,
        denial: SourceError,
    },
}

/// A message with an SVID whose life has not begun: it is looked at again when it has, because the source does not send
/// the same twice.
struct Again {
    message: Box<X509svidResponse>,
    at: SystemTime,
}

impl Again {
    fn of(message: X509svidResponse, snapshot: &IdentitySnapshot) -> Option<Self> {
        let at = snapshot.refusals.iter().filter_map(|refusal| refusal.heals_at).min()?;
        Some(Self { message: Box::new(message), at })
    }

    /// Until it is time; never for none. In steps: the wall clock may be set.
    async fn due(again: Option<&Self>) {
        let Some(Self { at, .. }) = again else { return pending().await };
        while let Ok(left) = at.duration_since(SystemTime::now()) {
            sleep(left.clamp(SHORTEST_WAIT, LONGEST_WAIT)).await;
        }
    }
}

/// The session as a stream. Dropping it closes the connection.
pub(super) fn open(api: WorkloadApi) -> impl Stream<Item = Result<IdentitySnapshot, SourceError>> + Send + 'static {
    stream::try_unfold(State::Start, move |state| {
        let api = api.clone();
        async move {
            match state {
                State::Start => api.start().await,
                State::Svids { client, stream, again, overdue } => api.next_svids(client, stream, again, overdue).await,
                State::Bundles { stream, recheck, denial } => api.next_bundles(stream, recheck, denial).await,
            }
        }
    })
}

impl WorkloadApi {
    async fn start(&self) -> Step {
        self.trying();
        let channel = channel::connect(&self.config.endpoint, self.deadlines.connect).await?;
        let mut client = Client::new(channel).max_decoding_message_size(self.limits.message_bytes);
        // The response headers often come only with the first message, so one deadline covers both.
        let call = async {
            let mut stream = client.fetch_x509svid(request(X509svidRequest {})).await?.into_inner();
            let message = stream.message().await;
            Ok((stream, message))
        };
        match self.within_first_message(call).await? {
            Ok((stream, message)) => self.on_svids(client, stream, message).await,
            Err(status) => self.on_svid_status(client, status).await,
        }
    }

    /// The next message, be it of a fresh session: that is opened beside this one when it should have said something, or
    /// when the source leaves another call without an answer, and takes its place once it delivers. If nothing is heard
    /// in either, the source hangs.
    async fn next_svids(
        &self,
        client: Client,
        mut stream: Streaming<X509svidResponse>,
        again: Option<Again>,
        overdue: Option<Instant>,
    ) -> Step {
        let late = async {
            match overdue {
                Some(at) => sleep_until(at).await,
                None => pending().await,
            }
        };
        tokio::select! {
            biased;
            message = stream.message() => return self.on_svids(client, stream, message).await,
            () = Again::due(again.as_ref()) => {
                return self.on_svids(client, stream, Ok(again.map(|again| *again.message))).await;
            }
            () = late => tracing::debug!(endpoint = %self.config.endpoint, "the source is overdue, trying a fresh session"),
            () = self.suspicion.notified() => {
                tracing::debug!(endpoint = %self.config.endpoint, "the source left a call unanswered, trying a fresh session");
            }
        }
        tokio::select! {
            biased;
            message = stream.message() => self.on_svids(client, stream, message).await,
            fresh = self.start() => fresh,
        }
    }

    async fn on_svids(
        &self,
        client: Client,
        stream: Streaming<X509svidResponse>,
        message: Result<Option<X509svidResponse>, Status>,
    ) -> Step {
        let message = match message {
            Ok(message) => message.ok_or(SourceError::Closed)?,
            Err(status) => return self.on_svid_status(client, status).await,
        };
        let now = SystemTime::now();
        match self.decoded(&message, now) {
            Ok(snapshot) => {
                let again = Again::of(message, &snapshot);
                let overdue = overdue::patience(&snapshot, now).map(|patience| Instant::now() + patience);
                Ok(Some((snapshot, State::Svids { client, stream, again, overdue })))
            }
            Err(error) => self.on_svid_error(client, error.into()).await,
        }
    }

    fn decoded(&self, message: &X509svidResponse, now: SystemTime) -> Result<IdentitySnapshot, DecodeError> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let snapshot = decode::svid_response(message, &self.limits, &known, now)?;
        known.learn(&snapshot);
        Ok(snapshot)
    }

    async fn on_svid_status(&self, client: Client, status: Status) -> Step {
        let error = self.status(&status);
        self.on_svid_error(client, error).await
    }

    /// A workload without an identity may still verify others.
    async fn on_svid_error(&self, mut client: Client, error: SourceError) -> Step {
        if error.kind() != ErrorKind::NotEntitled {
            return Err(error);
        }
        let denial = error;
        let call = async {
            let mut stream = client.fetch_x509_bundles(request(X509BundlesRequest {})).await?.into_inner();
            let message = stream.message().await?;
            Ok((stream, message))
        };
        match self.within_first_message(call).await {
            Ok(Ok((stream, Some(message)))) => {
                let wait = backoff::jittered(self.deadlines.denied_recheck, &mut fastrand::Rng::new());
                self.on_bundles(stream, &message, Instant::now() + wait, denial)
            }
            // The agent is going away, and its denial may be a part of that.
            Ok(Err(status)) if self.status(&status).kind() == ErrorKind::Transient => Err(self.status(&status)),
            // No bundles either: the denial is the answer.
            Ok(Ok((_, None)) | Err(_)) | Err(_) => Err(denial),
        }
    }

    async fn next_bundles(
        &self,
        mut stream: Streaming<X509BundlesResponse>,
        recheck: Instant,
        denial: SourceError,
    ) -> Step {
        match timeout_at(recheck, stream.message()).await {
            Ok(Ok(Some(message))) => self.on_bundles(stream, &message, recheck, denial),
            Ok(Ok(None)) => Err(SourceError::Closed),
            Ok(Err(status)) => Err(self.status(&status)),
            Err(_) => Err(denial),
        }
    }

    fn on_bundles(
        &self,
        stream: Streaming<X509BundlesResponse>,
        message: &X509BundlesResponse,
        recheck: Instant,
        denial: SourceError,
    ) -> Step {
        let trust_domain = self.config.trust_domain.as_ref();
        let snapshot = {
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            let snapshot = decode::bundles_response(message, trust_domain, &self.limits, &known)?;
            known.learn(&snapshot);
            snapshot
        };
        Ok(Some((snapshot, State::Bundles { stream, recheck, denial })))
    }

    pub(super) async fn within_first_message<T>(&self, call: impl Future<Output = T>) -> Result<T, SourceError> {
        let after = self.deadlines.first_message;
        timeout(after, call).await.map_err(|_| SourceError::Silent { endpoint: self.config.endpoint.clone(), after })
    }

    pub(super) fn status(&self, status: &Status) -> SourceError {
        SourceError::Status { endpoint: self.config.endpoint.clone(), code: status.code(), reason: reason(status) }
    }
}

pub(super) fn request<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert(SECURITY_HEADER, MetadataValue::from_static("true"));
    request
}

/// The status message; for failures of the transport also what lies behind them.
fn reason(status: &Status) -> String {
    let mut text = status.message().to_owned();
    let mut cause = status.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    if text.is_empty() {
        text = match status.code() {
            Code::PermissionDenied => "no reason given; usually: no identity issued".to_owned(),
            code => code.description().to_owned(),
        };
    }
    text.chars().map(|c| if is_hidden(c) { ' ' } else { c }).take(REASON_CHARACTERS).collect()
}
