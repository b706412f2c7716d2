//! Finding streams among many.

use std::{cmp::Reverse, fmt::Write as _};

use crate::secret::Config;

use super::{Cell, State, StreamView, Streams, View};

/// Which streams are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query {
    /// Part of a node, cluster, peer, name, version or rejection, in any case; empty: all.
    pub text: String,
    /// Streams with at least one name in this state.
    pub state: Option<State>,
    /// How many of those found to pass over.
    pub offset: usize,
    /// How many of those found to return.
    pub limit: usize,
}

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// Over all streams, found or not.
    pub counts: Counts,
    /// Streams found, of which some are returned.
    pub matched: usize,
    /// Clients in trouble first: those that refuse something, then those that wait for what is not there. Else by node and
    /// peer, so that the streams of one client stand together; those of one client in the order of opening.
    pub streams: Vec<StreamView>,
}

/// How all streams stand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Live streams.
    pub streams: usize,
    /// Names on them, by [`State`] in the order of [`State::ALL`].
    pub names: [usize; State::ALL.len()],
}

impl Streams {
    /// The streams that `query` asks for. Ten thousand streams take a few milliseconds; none of them waits for that.
    #[must_use]
    pub fn find(&self, query: &Query) -> Found {
        let mut needle = Needle::new(&query.text);
        let mut counts = Counts::default();
        let mut matches = Vec::new();
        for cell in self.cells() {
            let view = cell.view();
            let states = counts.add(&view);
            if query.state.is_none_or(|state| states.contains(state)) && needle.is_in(&view) {
                let client = view.client.clone();
                drop(view);
                matches.push((states.trouble(), client, cell));
            }
        }
        let matched = matches.len();
        matches.sort_by(|(_, a, first), (_, b, second)| (&a.node, a.peer, first.id).cmp(&(&b.node, b.peer, second.id)));
        // All streams of a client go where its worst one does.
        let mut clients: Vec<_> =
            matches.chunk_by(|(_, a, _), (_, b, _)| (&a.node, a.peer) == (&b.node, b.peer)).collect();
        clients.sort_by_key(|streams| Reverse(streams.iter().map(|(trouble, ..)| *trouble).max()));
        let page = clients.into_iter().flatten().skip(query.offset).take(query.limit);
        let settings = self.live_settings();
        let config = settings.as_deref().map(|live| &live.secrets);
        Found { counts, matched, streams: page.map(|(_, _, cell)| cell.show(&cell.view(), config)).collect() }
    }

    /// Every stream.
    #[must_use]
    pub fn all(&self) -> Vec<StreamView> {
        let settings = self.live_settings();
        let config = settings.as_deref().map(|live| &live.secrets);
        self.cells().iter().map(|cell| cell.show(&cell.view(), config)).collect()
    }
}

impl Counts {
    /// Names in this state.
    #[must_use]
    pub fn of(&self, state: State) -> usize {
        self.names.get(state as usize).copied().unwrap_or_default()
    }

    /// Adds a stream; says which states it has.
    fn add(&mut self, view: &View) -> States {
        self.streams += 1;
        let mut states = States::default();
        for row in &view.rows {
            let state = row.state(view.now.as_deref());
            if let Some(count) = self.names.get_mut(state as usize) {
                *count += 1;
            }
            states.0 |= 1 << state as u8;
        }
        states
    }
}

/// A set of states.
#[derive(Clone, Copy, Default)]
struct States(u8);

impl States {
    fn contains(self, state: State) -> bool {
        self.0 & (1 << state as u8) != 0
    }

    /// How much somebody should look.
    fn trouble(self) -> u8 {
        match self {
            _ if self.contains(State::Error) => 2,
            _ if self.contains(State::Never) || self.contains(State::NotSent) => 1,
            _ => 0,
        }
    }
}

impl Cell {
    fn show(&self, view: &View, config: Option<&Config>) -> StreamView {
        let names = view.rows.iter().map(|row| row.view(view.now.as_deref(), config)).collect();
        StreamView {
            id: self.id,
            client: view.client.clone(),
            details: view.details.clone(),
            opened: self.opened,
            names,
        }
    }
}

/// What is looked for, in any case.
struct Needle {
    text: String,
    scratch: String,
}

impl Needle {
    fn new(text: &str) -> Self {
        Self { text: text.to_lowercase(), scratch: String::new() }
    }

    /// Whether it occurs in anything that the page shows of the stream.
    fn is_in(&mut self, view: &View) -> bool {
        if self.text.is_empty() {
            return true;
        }
        let client = &view.client;
        self.scratch.clear();
        // Writing to a String cannot fail.
        let _ = write!(self.scratch, "{}", client.peer);
        let within = |shown: &str| contains(shown, &self.text);
        within(&client.node)
            || within(&client.cluster)
            || within(&self.scratch)
            || within(client.service.as_str())
            || within(client.variant.as_str())
            || view.rows.iter().any(|row| {
                within(row.name.as_str())
                    || [&row.held, &row.told].into_iter().flatten().any(|version| within(version.as_str()))
                    || row.rejected.as_ref().is_some_and(|rejected| within(&rejected.1))
            })
    }
}

/// Whether `text` has the lower-case `needle` in it, in any case.
fn contains(text: &str, needle: &str) -> bool {
    if !text.is_ascii() {
        return text.to_lowercase().contains(needle);
    }
    text.len() >= needle.len()
        && text.as_bytes().windows(needle.len()).any(|window| window.eq_ignore_ascii_case(needle.as_bytes()))
}
