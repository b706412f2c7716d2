//! Streams put together as clients: an Envoy opens a stream for each secret, and people think of the Envoy.

use std::cmp::Reverse;

use crate::admin::view::{Name, Stream};

/// One client as the page shows it: all streams of one process or connection under one node.
pub(super) struct Client<'a> {
    pub(super) node: &'a str,
    pub(super) cluster: &'a str,
    pub(super) peer: &'a str,
    /// Such as `sds sotw`; several with commas.
    pub(super) protocols: String,
    /// Since when the first of the streams is there.
    pub(super) since: &'a str,
    pub(super) streams: usize,
    /// Those in trouble first.
    pub(super) names: Vec<&'a Name>,
    /// How many more there are.
    pub(super) more: usize,
}

/// The clients behind streams that are sorted by node and peer, each with at most `shown` names.
pub(super) fn clients(streams: &[Stream], shown: usize) -> Vec<Client<'_>> {
    let alike = |a: &Stream, b: &Stream| (&a.node, &a.cluster, &a.peer) == (&b.node, &b.cluster, &b.peer);
    streams.chunk_by(alike).filter_map(|streams| Client::new(streams, shown)).collect()
}

impl<'a> Client<'a> {
    fn new(streams: &'a [Stream], shown: usize) -> Option<Self> {
        let first = streams.first()?;
        let mut protocols: Vec<_> =
            streams.iter().map(|stream| format!("{} {}", stream.service, stream.variant)).collect();
        protocols.sort();
        protocols.dedup();
        let mut names: Vec<_> = streams.iter().flat_map(|stream| &stream.names).collect();
        names.sort_by(|a, b| (Reverse(a.trouble()), &a.name).cmp(&(Reverse(b.trouble()), &b.name)));
        names.truncate(shown);
        let total: usize = streams.iter().map(|stream| stream.names_total).sum();
        Some(Self {
            node: &first.node,
            cluster: &first.cluster,
            peer: &first.peer,
            protocols: protocols.join(", "),
            since: streams.iter().map(|stream| stream.opened.as_str()).min()?,
            streams: streams.len(),
            more: total.saturating_sub(names.len()),
            names,
        })
    }

    /// Rows of the table.
    pub(super) fn rows(&self) -> usize {
        self.names.len().max(1) + usize::from(self.more > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(node: &str, peer: &str, names: &[(&str, &str)]) -> Stream {
        let name = |(name, state): &(&str, &str)| Name {
            name: (*name).to_owned(),
            state: (*state).to_owned(),
            held: None,
            sent: None,
            never: false,
            reason: None,
            current: None,
            last_sent: None,
            last_ack: None,
            rejection: None,
        };
        Stream {
            id: 1,
            node: node.to_owned(),
            cluster: String::new(),
            peer: peer.to_owned(),
            service: "sds".to_owned(),
            variant: "sotw".to_owned(),
            opened: "2026-01-01T00:00:00Z".to_owned(),
            names_total: names.len(),
            names: names.iter().map(name).collect(),
        }
    }

    #[test]
    fn the_streams_of_one_process_are_one_client() {
        let streams = [
            stream("a", "pid:1", &[("default", "synced")]),
            stream("a", "pid:1", &[("ROOTCA", "synced"), ("x", "error")]),
            stream("a", "pid:2", &[("default", "stale")]),
            stream("b", "pid:2", &[]),
        ];
        let waiting = [stream("a", "pid:1", &[("a", "synced"), ("b", "stale"), ("c", "not_sent"), ("d", "never")])];
        let names: Vec<_> = super::clients(&waiting, 4)[0].names.iter().map(|name| name.name.as_str()).collect();
        assert_eq!(names, ["d", "c", "b", "a"], "what nothing provides comes before what will be answered");
        let clients = clients(&streams, 2);
        let shown: Vec<_> = clients.iter().map(|it| (it.node, it.peer, it.streams, it.more, it.rows())).collect();
        assert_eq!(shown, [("a", "pid:1", 2, 1, 3), ("a", "pid:2", 1, 0, 1), ("b", "pid:2", 1, 0, 1)]);
        let names: Vec<_> = clients[0].names.iter().map(|name| name.name.as_str()).collect();
        assert_eq!(names, ["x", "ROOTCA"], "what is in trouble comes first");
    }
}
