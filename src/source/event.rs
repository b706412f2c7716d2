//! What happens to identities, as typed events: a library user subscribes to them, `tracing` logs each under a stable
//! name (its `event` field, one of [`RenewalEvent::NAMES`]).

mod log;
mod reporter;

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::{ErrorKind, failover::SwitchReason};
use crate::identity::{JwtRequest, RefusedItem, SpiffeId, TrustDomain};
pub(super) use reporter::{BAD_MESSAGE, Reporter};

/// One outcome of the renewal engine.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RenewalEvent {
    /// The source delivered usable data, for the first time or after it was down.
    SourceUp,
    /// Of several sources another one is in service now. What it says replaces what the one before said, as a whole.
    SourceSwitched {
        /// The [name](super::Source::name) of the one before; at the start, of the preferred one.
        from: Arc<str>,
        /// The name of the one in service.
        to: Arc<str>,
        /// Why.
        reason: SwitchReason,
    },
    /// The session with a source that is not in service ended.
    StandbyDown {
        /// Its [name](super::Source::name).
        source: Arc<str>,
        /// What the failure means.
        kind: ErrorKind,
        /// The failure with its causes.
        error: Arc<str>,
        /// Its failures in a row, this one included.
        failures: u32,
    },
    /// The session with the source ended. What is in service stays there.
    SourceDown {
        /// What the failure means.
        kind: ErrorKind,
        /// The failure with its causes.
        error: Arc<str>,
        /// Failures in a row, this one included.
        failures: u32,
    },
    /// A new X.509-SVID is in service.
    Renewed {
        /// Whose.
        spiffe_id: SpiffeId,
        /// Of the leaf, hexadecimal.
        serial: Arc<str>,
        /// The end of its life.
        not_after: SystemTime,
    },
    /// The source repeated what is in service already.
    Unchanged,
    /// A message was refused as a whole; what is in service stays there.
    RenewalFailed {
        /// What is wrong with the message, with causes.
        error: Arc<str>,
        /// Failures in a row, this one included.
        failures: u32,
    },
    /// One thing that the source sent is left out, for the first time or for another reason than before. Everything
    /// beside it is served.
    ItemRefused {
        /// What.
        item: RefusedItem,
        /// The rule that it breaks, and what to do about it.
        reason: Arc<str>,
        /// Whether what was good of it before is in service in its place.
        kept: bool,
    },
    /// What was left out is so no more: it is good now, or the source does not send it any more.
    ItemAccepted {
        /// What.
        item: RefusedItem,
    },
    /// Less than a third of an SVID's life is left and no renewal came.
    Expiring {
        /// Whose.
        spiffe_id: SpiffeId,
        /// Of the leaf, hexadecimal.
        serial: Arc<str>,
        /// The end of its life.
        not_after: SystemTime,
    },
    /// An SVID's life is over and no renewal came.
    Expired {
        /// Whose.
        spiffe_id: SpiffeId,
        /// Of the leaf, hexadecimal.
        serial: Arc<str>,
        /// The end of its life.
        not_after: SystemTime,
    },
    /// Other authorities than before vouch for a trust domain.
    TrustChanged {
        /// Which domain.
        trust_domain: TrustDomain,
        /// Authorities that are new.
        added: usize,
        /// Authorities that are gone.
        removed: usize,
    },
    /// The source says that this workload has no identity. SVIDs in service stay there for `grace`.
    Denied {
        /// The source's reason.
        reason: Arc<str>,
        /// How long SVIDs stay in service; `None` when there are none.
        grace: Option<Duration>,
    },
    /// The grace time is over: the SVIDs are out of service.
    Withdrawn {
        /// The source's reason.
        reason: Arc<str>,
    },
    /// The source lists an identity no longer, though it lists others.
    SvidWithdrawn {
        /// Whose.
        spiffe_id: SpiffeId,
        /// Of the last leaf, hexadecimal.
        serial: Arc<str>,
        /// The end of its life.
        not_after: SystemTime,
        /// How long it stays in service; `None` if it does not.
        grace: Option<Duration>,
    },
    /// The grace time of a withdrawn identity is over, or its life is: it is out of service.
    SvidRemoved {
        /// Whose.
        spiffe_id: SpiffeId,
        /// Of the last leaf, hexadecimal.
        serial: Arc<str>,
        /// The end of its life.
        not_after: SystemTime,
    },
    /// The source lists a withdrawn identity again.
    SvidRestored {
        /// Whose.
        spiffe_id: SpiffeId,
        /// Of the leaf before, hexadecimal.
        serial: Arc<str>,
        /// The end of the life of that.
        not_after: SystemTime,
    },
    /// The life of a renewal has not begun. Its predecessor stays in service until then.
    NotYetValid {
        /// Whose.
        spiffe_id: SpiffeId,
        /// Of the new leaf, hexadecimal.
        serial: Arc<str>,
        /// The beginning of its life.
        not_before: SystemTime,
    },
    /// Another identity is the default one.
    DefaultChanged {
        /// The one before.
        from: SpiffeId,
        /// The one now.
        to: SpiffeId,
    },
    /// The source named an identity of another trust domain as ours. What is ours stays as it is.
    TrustDomainRefused {
        /// What it named.
        found: Arc<str>,
        /// The trust domain that is ours.
        own: TrustDomain,
        /// What follows, and what to do.
        error: Arc<str>,
        /// Messages in a row that were refused for that; 0 where only the order of identities was.
        failures: u32,
    },
    /// A trust domain is trusted no longer: nobody vouches for it any more.
    TrustWithdrawn {
        /// Which domain.
        trust_domain: TrustDomain,
    },
    /// Something about our own trust keeps peers from accepting us, or will.
    TrustImpaired {
        /// What, and what to do.
        reason: Arc<str>,
    },
    /// A new JWT-SVID is in service.
    JwtRenewed {
        /// Whose.
        spiffe_id: SpiffeId,
        /// For whom, as it was asked for.
        audience: BTreeSet<String>,
        /// The end of its life.
        not_after: SystemTime,
    },
    /// A JWT-SVID could not be had, or was refused. The one in service stays there until its end.
    JwtRenewalFailed {
        /// What was asked for.
        request: JwtRequest,
        /// What the failure means.
        kind: ErrorKind,
        /// The failure with its causes.
        error: Arc<str>,
        /// Failures of this request in a row, this one included.
        failures: u32,
    },
    /// Less than a quarter of a JWT-SVID's life is left and no renewal came.
    JwtExpiring {
        /// Whose.
        spiffe_id: SpiffeId,
        /// For whom, as it was asked for.
        audience: BTreeSet<String>,
        /// The end of its life.
        not_after: SystemTime,
    },
    /// A JWT-SVID's life is over and no renewal came: clients have an empty one now.
    JwtExpired {
        /// Whose.
        spiffe_id: SpiffeId,
        /// For whom, as it was asked for.
        audience: BTreeSet<String>,
        /// The end of its life.
        not_after: SystemTime,
    },
    /// The source says that this JWT-SVID is not granted any more, and the grace time is over: clients have an empty one.
    JwtWithdrawn {
        /// What was asked for.
        request: JwtRequest,
        /// The source's reason.
        reason: Arc<str>,
    },
    /// Other keys than before verify a trust domain's JWT-SVIDs.
    JwtKeysChanged {
        /// Which domain.
        trust_domain: TrustDomain,
        /// Keys that are new.
        added: usize,
        /// Keys that are gone.
        removed: usize,
    },
    /// The JWT keys could not be had, or were refused. Those that are known stay.
    JwtKeysFailed {
        /// What the failure means.
        kind: ErrorKind,
        /// The failure with its causes.
        error: Arc<str>,
        /// Failures in a row, this one included.
        failures: u32,
    },
    /// The state that was sealed on disk is in service until the source answers.
    WarmStarted {
        /// When it was sealed.
        sealed_at: SystemTime,
        /// X.509-SVIDs in it.
        svids: usize,
    },
    /// The source has answered: what is in service is its own word now.
    WarmEnded {
        /// Whether it gave something, rather than deny us an identity.
        confirmed: bool,
    },
}

impl RenewalEvent {
    /// Every name that [`RenewalEvent::name`] returns, and so every value of the log field `event`.
    pub const NAMES: [&'static str; 31] = [
        "source_up",
        "source_down",
        "source_switched",
        "standby_down",
        "svid_renewed",
        "identity_unchanged",
        "renewal_failed",
        "item_refused",
        "item_accepted",
        "svid_expiring",
        "svid_expired",
        "trust_changed",
        "identity_denied",
        "identity_withdrawn",
        "svid_withdrawn",
        "svid_removed",
        "svid_restored",
        "svid_not_yet_valid",
        "default_changed",
        "trust_domain_refused",
        "trust_withdrawn",
        "trust_impaired",
        "jwt_renewed",
        "jwt_renewal_failed",
        "jwt_expiring",
        "jwt_expired",
        "jwt_withdrawn",
        "jwt_keys_changed",
        "jwt_keys_failed",
        "warm_started",
        "warm_ended",
    ];

    /// The stable name, for logs and metrics.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::SourceUp => "source_up",
            Self::SourceDown { .. } => "source_down",
            Self::SourceSwitched { .. } => "source_switched",
            Self::StandbyDown { .. } => "standby_down",
            Self::Renewed { .. } => "svid_renewed",
            Self::Unchanged => "identity_unchanged",
            Self::RenewalFailed { .. } => "renewal_failed",
            Self::ItemRefused { .. } => "item_refused",
            Self::ItemAccepted { .. } => "item_accepted",
            Self::Expiring { .. } => "svid_expiring",
            Self::Expired { .. } => "svid_expired",
            Self::TrustChanged { .. } => "trust_changed",
            Self::Denied { .. } => "identity_denied",
            Self::Withdrawn { .. } => "identity_withdrawn",
            Self::SvidWithdrawn { .. } => "svid_withdrawn",
            Self::SvidRemoved { .. } => "svid_removed",
            Self::SvidRestored { .. } => "svid_restored",
            Self::NotYetValid { .. } => "svid_not_yet_valid",
            Self::DefaultChanged { .. } => "default_changed",
            Self::TrustDomainRefused { .. } => "trust_domain_refused",
            Self::TrustWithdrawn { .. } => "trust_withdrawn",
            Self::TrustImpaired { .. } => "trust_impaired",
            Self::JwtRenewed { .. } => "jwt_renewed",
            Self::JwtRenewalFailed { .. } => "jwt_renewal_failed",
            Self::JwtExpiring { .. } => "jwt_expiring",
            Self::JwtExpired { .. } => "jwt_expired",
            Self::JwtWithdrawn { .. } => "jwt_withdrawn",
            Self::JwtKeysChanged { .. } => "jwt_keys_changed",
            Self::JwtKeysFailed { .. } => "jwt_keys_failed",
            Self::WarmStarted { .. } => "warm_started",
            Self::WarmEnded { .. } => "warm_ended",
        }
    }
}
