//! Clients and what they hold.

use serde::{Deserialize, Serialize};

use super::{Sight, time};
use crate::server::registry::{Counts, NameView, Query, State, StreamView};

/// Names shown of one stream. Aggregated streams may have thousands.
const NAMES_SHOWN: usize = 100;
/// Characters of one text of a client's.
const LONGEST: usize = 512;

/// Some of the streams.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Clients {
    /// Over all streams.
    pub totals: Totals,
    /// Streams found.
    pub matched: usize,
    /// How many of them were passed over.
    pub offset: usize,
    /// By node and peer.
    pub streams: Vec<Stream>,
}

/// How all streams stand.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Totals {
    /// Live streams.
    pub streams: usize,
    /// Names that clients have in their newest version.
    pub synced: usize,
    /// Names that were never sent.
    pub not_sent: usize,
    /// Names that wait for the client's answer.
    pub stale: usize,
    /// Names whose content the client refused.
    pub error: usize,
}

/// One stream.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Stream {
    /// Unique in the life of the process.
    pub id: u64,
    /// `node.id`, as the client says.
    pub node: String,
    /// `node.cluster`, as the client says.
    pub cluster: String,
    /// The process or address, as the kernel says.
    pub peer: String,
    /// `sds` or `ads`.
    pub service: String,
    /// `sotw` or `delta`.
    pub variant: String,
    /// Since when.
    pub opened: String,
    /// How many names it wants.
    pub names_total: usize,
    /// The first hundred of them, those in trouble first.
    pub names: Vec<Name>,
}

/// One name that a client wants.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Name {
    /// As asked.
    pub name: String,
    /// `synced`, `not_sent`, `stale` or `error`.
    pub state: String,
    /// The version that the client took last: what it uses.
    pub held: Option<String>,
    /// The version that was sent last. Other than `held`, it was not answered yet, or refused.
    #[serde(default)]
    pub sent: Option<String>,
    /// There is nothing of this name, and never will be for this client.
    #[serde(default)]
    pub never: bool,
    /// The version that there is now.
    pub current: Option<String>,
    /// When it was last sent.
    pub last_sent: Option<String>,
    /// When the client last took it.
    pub last_ack: Option<String>,
    /// The client's words, when it refused it.
    pub rejection: Option<String>,
}

impl Sight {
    /// The streams that `query` asks for.
    #[must_use]
    pub fn clients(&self, query: &Query) -> Clients {
        let found = self.streams.find(query);
        Clients {
            totals: found.counts.into(),
            matched: found.matched,
            offset: query.offset,
            streams: found.streams.into_iter().map(Stream::from).collect(),
        }
    }
}

impl From<Counts> for Totals {
    fn from(counts: Counts) -> Self {
        Self {
            streams: counts.streams,
            synced: counts.of(State::Synced),
            not_sent: counts.of(State::NotSent),
            stale: counts.of(State::Stale),
            error: counts.of(State::Error),
        }
    }
}

impl From<StreamView> for Stream {
    fn from(stream: StreamView) -> Self {
        let mut names = stream.names;
        let names_total = names.len();
        names.sort_by_key(|name| std::cmp::Reverse(name.state));
        names.truncate(NAMES_SHOWN);
        let client = &stream.client;
        Self {
            id: stream.id,
            node: client.node.clone(),
            cluster: client.cluster.clone(),
            peer: client.peer.to_string(),
            service: client.service.as_str().to_owned(),
            variant: client.variant.as_str().to_owned(),
            opened: time(stream.opened),
            names_total,
            names: names.into_iter().map(Name::from).collect(),
        }
    }
}

impl From<NameView> for Name {
    fn from(name: NameView) -> Self {
        Self {
            name: name.name.to_string(),
            state: name.state.as_str().to_owned(),
            held: name.held.map(|version| bounded(version.as_str())),
            sent: name.sent_version.map(|version| bounded(version.as_str())),
            never: name.never,
            current: name.current.map(|version| version.to_string()),
            last_sent: name.sent.map(time),
            last_ack: name.acked.map(time),
            rejection: name.rejection.map(|words| bounded(&words)),
        }
    }
}

impl Name {
    /// The state for people.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self.state.as_str() {
            "synced" => "up to date",
            "not_sent" if self.never => "never",
            "not_sent" => "not sent",
            "stale" => "waiting for its answer",
            _ => "rejected",
        }
    }

    /// How much somebody should look.
    pub(in crate::admin) fn trouble(&self) -> u8 {
        match self.state.as_str() {
            "error" => 3,
            "stale" => 2,
            "not_sent" => 1,
            _ => 0,
        }
    }
}

/// A client's text: clients can say as much as a request may hold.
fn bounded(text: &str) -> String {
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => text.get(..end).unwrap_or_default().to_owned() + "…",
        None => text.to_owned(),
    }
}
