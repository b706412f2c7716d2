//! Who holds what.

use std::cmp::Reverse;

use super::{BAD, PLAIN, Status, WARN, line, table};

impl Status {
    /// A row for each name, those in trouble first.
    pub(super) fn client_table(&self) -> String {
        let mut rows = Vec::new();
        for stream in &self.clients.streams {
            for name in &stream.names {
                let style = match name.state.as_str() {
                    "error" | "never" => BAD,
                    "stale" | "not_sent" => WARN,
                    _ => PLAIN,
                };
                let short = |version: &Option<String>| {
                    version.as_deref().map_or("-", |version| version.get(..10).unwrap_or(version)).to_owned()
                };
                let sent = short(&name.sent_only().map(str::to_owned));
                let cells = [
                    line(&stream.node),
                    line(&stream.peer),
                    format!("{} {}", stream.service, stream.variant),
                    line(&name.name),
                    name.state.clone(),
                    short(&name.held),
                    sent,
                    short(&name.current),
                    line(name.words().unwrap_or_default()),
                ];
                rows.push((Reverse(name.trouble()), (style, cells.to_vec())));
            }
        }
        // What is in trouble comes first; else they stay as they were.
        rows.sort_by_key(|(trouble, _)| *trouble);
        let rows = rows.into_iter().map(|(_, row)| row).collect();
        let totals = &self.clients.totals;
        let title = format!(
            "Clients: {} streams; names: {} synced, {} stale, {} not sent, {} never, {} rejected",
            totals.streams, totals.synced, totals.stale, totals.not_sent, totals.never, totals.error
        );
        let mut text =
            table(&title, &["NODE", "PEER", "PROTOCOL", "NAME", "STATE", "HOLDS", "SENT", "CURRENT", "REASON"], rows);
        let shown = self.clients.streams.len();
        if shown < self.clients.matched {
            text.push_str(&format!("{shown} of {} streams; more with --limit\n", self.clients.matched));
        }
        text
    }
}
