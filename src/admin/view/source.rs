//! Where identities come from, and whether what is in service came from there.

use serde::{Deserialize, Serialize};

use super::{Sight, time};
use crate::{
    identity::{Availability, Refusal},
    source::{ErrorKind, LineStatus, Standing as Session},
};

/// How a source does.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Source {
    /// Its address.
    pub name: String,
    /// Its identities are in service, even while it is away.
    pub active: bool,
    /// What it does.
    pub state: SourceState,
    /// A session is open and has delivered usable data.
    pub connected: bool,
    /// When usable data last came from it.
    pub last_update: Option<String>,
    /// Failures since then.
    pub consecutive_failures: u32,
    /// The last failure with its causes.
    pub last_error: Option<String>,
    /// `transient`, `not_entitled` or `misconfigured`.
    pub last_error_kind: Option<String>,
}

/// What a source does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SourceState {
    /// It delivers, and is in service.
    Active,
    /// It delivers, and another one is in service.
    Standby,
    /// It is not asked: a preferred one serves.
    Idle,
    /// It has not answered yet.
    Connecting,
    /// It says that there is no identity for us.
    Denied,
    /// It failed, and is asked again.
    Down,
}

/// Something that a source sent and that is left out of what is served.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LeftOut {
    /// `svid`, `bundle`, `authority`, `crl`, `jwt_bundle` or `jwt_key`.
    pub kind: String,
    /// What it is, in words.
    pub item: String,
    /// The rule that it breaks, and what to do about it.
    pub reason: String,
    /// How many things this stands for: 1, but for those beyond a limit.
    pub count: usize,
    /// Whether what was good of it before is in service in its place.
    pub kept: bool,
}

impl From<&Refusal> for LeftOut {
    fn from(refusal: &Refusal) -> Self {
        Self {
            kind: refusal.item.kind().to_owned(),
            item: refusal.item.to_string(),
            reason: refusal.reason.to_string(),
            count: refusal.count,
            kept: refusal.kept,
        }
    }
}

/// What is in service, as a whole.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct InService {
    /// Which case.
    pub state: Standing,
    /// The source's words, where it gave some.
    pub reason: Option<String>,
}

/// What is in service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// Nothing yet: clients wait.
    Pending,
    /// What the source said.
    Served,
    /// What was sealed before the restart; the source has not confirmed it.
    Warm,
    /// The last good identity, for the grace time: the source says that there is none any more.
    Grace,
    /// Trust bundles, and no identity.
    BundlesOnly,
    /// Nothing: the source says that there is no identity.
    Denied,
}

impl Sight {
    /// Every source, the preferred one first.
    #[must_use]
    pub fn sources(&self) -> Vec<Source> {
        self.sources.borrow().iter().map(Source::from).collect()
    }

    /// What of the sources' answers is left out.
    #[must_use]
    pub fn refused(&self) -> Vec<LeftOut> {
        self.refused.borrow().iter().map(LeftOut::from).collect()
    }

    /// What is in service.
    #[must_use]
    pub fn in_service(&self) -> InService {
        let (status, identities) = (self.source.borrow().clone(), self.identities.borrow().clone());
        let error = || status.last_error.as_ref().map(ToString::to_string);
        let (state, reason) = match identities {
            Availability::Pending => (Standing::Pending, error()),
            Availability::Denied(reason) => (Standing::Denied, Some(reason.to_string())),
            Availability::Ready(_) if status.last_update.is_none() => (Standing::Warm, error()),
            Availability::Ready(snapshot) if snapshot.svids.is_empty() => (Standing::BundlesOnly, error()),
            Availability::Ready(_) if status.last_error_kind == Some(ErrorKind::NotEntitled) => {
                (Standing::Grace, error())
            }
            Availability::Ready(_) => (Standing::Served, None),
        };
        InService { state, reason }
    }
}

impl From<&LineStatus> for Source {
    fn from(line: &LineStatus) -> Self {
        let state = match line.standing {
            Session::Up if line.active => SourceState::Active,
            Session::Up => SourceState::Standby,
            Session::Idle => SourceState::Idle,
            Session::Asked => SourceState::Connecting,
            Session::Down if line.last_error_kind == Some(ErrorKind::NotEntitled) => SourceState::Denied,
            Session::Down => SourceState::Down,
        };
        Self {
            name: line.name.to_string(),
            active: line.active,
            state,
            connected: line.standing == Session::Up,
            last_update: line.last_update.map(time),
            consecutive_failures: line.consecutive_failures,
            last_error: line.last_error.as_ref().map(ToString::to_string),
            last_error_kind: line.last_error_kind.map(|kind| kind.as_str().to_owned()),
        }
    }
}

impl SourceState {
    /// For people.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Standby => "standby",
            Self::Idle => "idle",
            Self::Connecting => "connecting",
            Self::Denied => "denies us",
            Self::Down => "down",
        }
    }

    /// Whether somebody should look.
    #[must_use]
    pub fn is_problem(self) -> bool {
        matches!(self, Self::Denied | Self::Down)
    }
}

impl Standing {
    /// For people; nothing where all is as it should be.
    #[must_use]
    pub fn text(self) -> Option<&'static str> {
        match self {
            Self::Served => None,
            Self::Pending => Some("Nothing is in service yet: clients wait for the source's first answer."),
            Self::Warm => {
                Some("Warm start: this was sealed before the restart, and the source has not confirmed it yet.")
            }
            Self::Grace => {
                Some("The source says that we have no identity. The last good one stays in service for the grace time.")
            }
            Self::BundlesOnly => Some("Trust bundles alone are in service: the source gives us no identity."),
            Self::Denied => Some("Nothing is in service: the source says that we have no identity."),
        }
    }

    /// Whether somebody should look.
    #[must_use]
    pub fn is_problem(self) -> bool {
        matches!(self, Self::Grace | Self::Denied)
    }
}
