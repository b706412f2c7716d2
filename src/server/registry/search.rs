//! Finding streams among many.

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
    /// In the order of opening.
    pub streams: Vec<StreamView>,
}

/// How all streams stand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Live streams.
    pub streams: usize,
    /// Names on them, by [`State`] in the order of [`State::ALL`].
    pub names: [usize; 4],
}

impl Streams {
    /// The streams that `query` asks for. Ten thousand streams take a few milliseconds; none of them waits for that.
    #[must_use]
    pub fn find(&self, query: &Query) -> Found {
        let text = query.text.to_lowercase();
        let mut found = Found::default();
        for cell in self.cells() {
            let view = cell.view();
            let worst = found.counts.add(&view);
            if !query.state.is_none_or(|state| worst.contains(&state)) || !(text.is_empty() || view.mentions(&text)) {
                continue;
            }
            if found.matched >= query.offset && found.streams.len() < query.limit {
                found.streams.push(cell.show(&view));
            }
            found.matched += 1;
        }
        found
    }

    /// Every stream.
    #[must_use]
    pub fn all(&self) -> Vec<StreamView> {
        self.cells().iter().map(|cell| cell.show(&cell.view())).collect()
    }
}

impl Counts {
    /// Names in this state.
    #[must_use]
    pub fn of(&self, state: State) -> usize {
        self.names.get(state as usize).copied().unwrap_or_default()
    }

    /// Adds a stream; says which states it has.
    fn add(&mut self, view: &View) -> Vec<State> {
        self.streams += 1;
        let mut states = Vec::with_capacity(1);
        for row in &view.rows {
            let state = row.view(view.now.as_deref()).state;
            if let Some(count) = self.names.get_mut(state as usize) {
                *count += 1;
            }
            if !states.contains(&state) {
                states.push(state);
            }
        }
        states
    }
}

impl Cell {
    fn show(&self, view: &View) -> StreamView {
        let names = view.rows.iter().map(|row| row.view(view.now.as_deref())).collect();
        StreamView { id: self.id, client: view.client.clone(), opened: self.opened, names }
    }
}

impl View {
    /// Whether the lower-case `text` occurs in anything that the page shows of the stream.
    fn mentions(&self, text: &str) -> bool {
        let within = |shown: &str| shown.to_lowercase().contains(text);
        let client = &self.client;
        within(&client.node)
            || within(&client.cluster)
            || within(&client.peer.to_string())
            || within(client.service.as_str())
            || within(client.variant.as_str())
            || self.rows.iter().any(|row| {
                within(row.name.as_str())
                    || row.held.as_ref().is_some_and(|held| within(held.as_str()))
                    || row.rejected.as_ref().is_some_and(|rejected| within(&rejected.1))
            })
    }
}
