//! Where identities come from.
//!
//! A [`Source`] opens *one session* and reports what it hears, validated ([`decode`]) and otherwise untouched. The one
//! place that retries, keeps the last good state and decides what a failure means is [`supervisor`].

pub mod asked;
pub mod backoff;
pub mod caveats;
pub mod decode;
mod endpoint;
pub mod event;
pub mod failover;
pub mod files;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
pub mod jwt;
mod merge;
mod refused;
mod renewal;
pub mod supervisor;
pub mod warm;
pub mod workload_api;

pub use asked::AskedFiles;
pub use endpoint::{Endpoint, EndpointError};
pub use event::RenewalEvent;
pub use files::Files;
pub use jwt::{JwtRefresh, JwtSource, JwtSupervisor};
pub use supervisor::{LineStatus, SourceStatus, Standing, Supervisor};
pub use warm::WarmStart;
pub use workload_api::WorkloadApi;

use std::{
    error::Error,
    future::pending,
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures_util::{FutureExt as _, future::BoxFuture, stream::BoxStream};
use tonic::Code;

use crate::{
    identity::{IdentitySnapshot, SpiffeId, TrustDomain, Workload},
    secret::DefaultIdentity,
    telemetry::logs,
};
use decode::{DecodeError, Limits, jwt::JwtError};
use files::FilesError;

/// Something that knows the identities of workloads.
pub trait Source: Send + Sync {
    /// One session about `workload`: every complete state the source reports, until the session ends.
    ///
    /// Nothing is retried inside. An `Err` is the last item; a stream that ends without one was closed by the source.
    /// A snapshot without SVIDs means "entitled to no identity, but this is whom to trust". Dropping the stream ends
    /// the session and releases its connection.
    fn watch(&self, workload: &Workload) -> BoxStream<'static, Result<IdentitySnapshot, SourceError>>;

    /// What logs, events and status pages call it: its address, where it has one.
    fn name(&self) -> Arc<str> {
        Arc::from("source")
    }

    /// Ends when something tells that a session that failed may work now, so that nobody need wait for the time to try
    /// again. By default nothing does.
    fn back(&self) -> BoxFuture<'static, ()> {
        pending().boxed()
    }

    /// The trust domain that is configured to be ours; a message that says otherwise is refused. Without one it is that
    /// of the first identity.
    fn trust_domain(&self) -> Option<TrustDomain> {
        None
    }
}

impl<S: Source + ?Sized> Source for Arc<S> {
    fn watch(&self, workload: &Workload) -> BoxStream<'static, Result<IdentitySnapshot, SourceError>> {
        (**self).watch(workload)
    }

    fn name(&self) -> Arc<str> {
        (**self).name()
    }

    fn back(&self) -> BoxFuture<'static, ()> {
        (**self).back()
    }

    fn trust_domain(&self) -> Option<TrustDomain> {
        (**self).trust_domain()
    }
}

/// A source as it is configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Config {
    /// A SPIFFE Workload API.
    WorkloadApi(workload_api::Config),
    /// Certificates, keys and bundles in files.
    Files(files::Config),
}

impl Config {
    /// The source itself, and the same as a source of tokens, where those that name nobody are `default`'s. Files have
    /// none. Nothing is opened yet. What is more than `limits` allow is left out, but never the default identity.
    #[must_use]
    pub fn open(&self, limits: &Limits, default: &DefaultIdentity) -> (Arc<dyn Source>, Arc<dyn JwtSource>) {
        match self {
            Self::WorkloadApi(api) => {
                // One and the same, so that each hears of what the other notices.
                let api = WorkloadApi::new(api.clone()).with_limits(*limits).with_default(default.clone());
                let api = Arc::new(api);
                (api.clone(), api)
            }
            Self::Files(files) => {
                let files = Arc::new(Files::new(files.clone()).with_limits(*limits));
                (files.clone(), files)
            }
        }
    }

    /// The source itself. Nothing is opened yet. What is more than `limits` allow is left out, but never the default
    /// identity.
    #[must_use]
    pub fn source(&self, limits: &Limits, default: &DefaultIdentity) -> Arc<dyn Source> {
        self.open(limits, default).0
    }

    /// The same as a source of tokens, where those that name nobody are `default`'s. Files have none.
    #[must_use]
    pub fn jwt_source(&self, limits: &Limits, default: &DefaultIdentity) -> Arc<dyn JwtSource> {
        self.open(limits, default).1
    }
}

/// What a failure means for what is already in service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// May heal by itself: keep the last good state, ask again.
    Transient,
    /// The source answers, and says that this workload has no identity (any more).
    NotEntitled,
    /// Asking again cannot help until somebody changes the configuration.
    Misconfigured,
}

impl ErrorKind {
    /// How logs and metrics spell it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Transient => "transient",
            Self::NotEntitled => "not_entitled",
            Self::Misconfigured => "misconfigured",
        }
    }
}

/// Why a session ended, or a message was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// Nobody accepts connections there.
    #[error(
        "cannot connect to the Workload API at {endpoint}; is the agent running, and its socket reachable from here?"
    )]
    Unreachable {
        /// Where it should listen.
        endpoint: Endpoint,
        /// The operating system's reason.
        source: Box<dyn Error + Send + Sync>,
    },
    /// The source answered with a gRPC status.
    #[error("the Workload API at {endpoint} answered {code:?} ({reason}); {}", status_fix(*code))]
    Status {
        /// Who answered.
        endpoint: Endpoint,
        /// The gRPC status code; it decides the [`ErrorKind`].
        code: Code,
        /// The source's own words, shortened and without control characters.
        reason: String,
    },
    /// The source accepted the call and then said nothing.
    #[error(
        "the Workload API at {endpoint} sent nothing for {after:?}; is the agent hanging, or still waiting for its server?"
    )]
    Silent {
        /// Who is silent.
        endpoint: Endpoint,
        /// For how long.
        after: Duration,
    },
    /// The source ended the stream without a status that says why.
    #[error("the source ended the stream; is it restarting?")]
    Closed,
    /// A message was refused as a whole.
    #[error("the source sent a message that cannot be used; the last good one stays in service")]
    Invalid(#[from] DecodeError),
    /// An answer about JWT-SVIDs was refused.
    #[error("the source gave an answer about JWT-SVIDs that cannot be used; the last good one stays in service")]
    InvalidJwt(#[from] JwtError),
    /// Files cannot be read, or hold something else than they should.
    #[error("the files cannot be used; what was good before stays in service")]
    Files(#[from] FilesError),
    /// A message would change the trust domain that is ours.
    #[error(
        "the source names identities of {found}, but our trust domain is {own}; what is in service stays. {}",
        trust_domain_fix(*configured)
    )]
    OtherTrustDomain {
        /// Whose identities came.
        found: String,
        /// Ours.
        own: TrustDomain,
        /// Whether ours is configured, rather than that of the first identity.
        configured: bool,
    },
    /// An update was refused because it had expired before it came.
    #[error(
        "the source sent an SVID of {spiffe_id} that is already expired; check the issuer, and the clocks of both machines"
    )]
    Expired {
        /// Whose SVID.
        spiffe_id: SpiffeId,
        /// The end of its life.
        not_after: SystemTime,
    },
}

impl SourceError {
    /// What the failure means; the mapping of statuses is that of SPIFFE Workload Endpoint, appendix A.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Status { code: Code::InvalidArgument | Code::Unimplemented, .. } => ErrorKind::Misconfigured,
            Self::Status { code: Code::PermissionDenied, .. }
            | Self::Invalid(DecodeError::NoIdentity)
            | Self::InvalidJwt(JwtError::NoToken | JwtError::NoSuchHint { .. } | JwtError::NoDefault { .. }) => {
                ErrorKind::NotEntitled
            }
            _ => ErrorKind::Transient,
        }
    }

    /// Whether the source is there and it is its message that is bad.
    #[must_use]
    pub fn is_bad_message(&self) -> bool {
        match self {
            Self::Invalid(_) | Self::InvalidJwt(_) | Self::Expired { .. } | Self::OtherTrustDomain { .. } => {
                self.kind() != ErrorKind::NotEntitled
            }
            Self::Files(error) => error.is_content(),
            _ => false,
        }
    }

    /// The message and those of its causes, in one line.
    #[must_use]
    pub fn chain(&self) -> String {
        logs::chain(self)
    }
}

/// What is served of the first thing that `source` says, where a trust domain is configured to be ours.
///
/// # Errors
/// [`SourceError::OtherTrustDomain`] when nothing in it is ours.
pub fn pinned(source: &impl Source, mut snapshot: IdentitySnapshot) -> Result<IdentitySnapshot, SourceError> {
    renewal::Pin::new(vec![source.trust_domain()]).apply(0, &mut snapshot)?;
    Ok(snapshot)
}

fn trust_domain_fix(configured: bool) -> &'static str {
    if configured {
        "If the move is meant, change source.workload_api.trust_domain; else correct the issuer"
    } else {
        "If the move is meant, restart (with warm_start.path removed) or set source.workload_api.trust_domain; else \
         correct the issuer"
    }
}

fn status_fix(code: Code) -> &'static str {
    match code {
        Code::PermissionDenied => "register this workload with the issuer, or wait for the registration to arrive",
        Code::InvalidArgument => "is this really a SPIFFE Workload API? It refused the request itself",
        Code::Unimplemented => {
            "this endpoint does not offer this: check the address, and that the agent's Workload API is enabled"
        }
        Code::OutOfRange => "the message is larger than limits.source.message_bytes allows; raise it",
        _ => "asking again",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(code: Code) -> SourceError {
        SourceError::Status { endpoint: "unix:///a.sock".parse().unwrap(), code, reason: "because".to_owned() }
    }

    #[test]
    fn every_status_code_has_its_kind() {
        for code in (0..17).map(Code::from_i32) {
            let expected = match code {
                Code::InvalidArgument | Code::Unimplemented => ErrorKind::Misconfigured,
                Code::PermissionDenied => ErrorKind::NotEntitled,
                _ => ErrorKind::Transient,
            };
            assert_eq!(status(code).kind(), expected, "{code:?}");
        }
    }

    #[test]
    fn an_empty_message_is_a_denial_and_a_bad_one_is_not() {
        let empty = SourceError::from(DecodeError::NoIdentity);
        assert_eq!((empty.kind(), empty.is_bad_message()), (ErrorKind::NotEntitled, false));
        let bad = SourceError::from(DecodeError::TooLarge { bytes: 101, limit: 100 });
        assert_eq!((bad.kind(), bad.is_bad_message()), (ErrorKind::Transient, true));
        assert!(!status(Code::Unavailable).is_bad_message());
    }

    #[test]
    fn the_chain_names_causes_once() {
        let error = SourceError::Unreachable {
            endpoint: "unix:///a.sock".parse().unwrap(),
            source: Box::new(std::io::Error::from(std::io::ErrorKind::NotFound)),
        };
        assert!(error.chain().starts_with("cannot connect to the Workload API at unix:///a.sock"), "{}", error.chain());
        assert!(error.chain().ends_with("entity not found"), "{}", error.chain());
    }
}
