//! Who is on the other end of a connection, and how much it may ask of us.

use std::{
    collections::HashMap,
    fmt,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use crate::telemetry::metrics::PeerClass;

/// The other end of a connection, as the kernel tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Peer {
    /// A process on this machine (`SO_PEERCRED`). A process ID may be reused after its process ends.
    Process {
        /// Process ID; 0 when it lives in a PID namespace that we cannot see.
        pid: i32,
        /// User ID.
        uid: u32,
        /// Group ID.
        gid: u32,
    },
    /// Somebody on the loopback interface.
    Address(SocketAddr),
}

impl Peer {
    /// The one thing about it that becomes a label.
    pub(crate) fn class(self) -> PeerClass {
        match self {
            Self::Process { .. } => PeerClass::Unix,
            Self::Address(_) => PeerClass::Tcp,
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process { pid, uid, .. } => write!(f, "pid:{pid} uid:{uid}"),
            Self::Address(address) => write!(f, "{address}"),
        }
    }
}

/// What counts as one peer when its streams are counted: a process, or an address whatever its port.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Key {
    Process { pid: i32, uid: u32 },
    Address(std::net::IpAddr),
}

impl From<Peer> for Key {
    fn from(peer: Peer) -> Self {
        match peer {
            Peer::Process { pid, uid, .. } => Self::Process { pid, uid },
            Peer::Address(address) => Self::Address(address.ip()),
        }
    }
}

/// Counts the streams of each peer over all its connections.
#[derive(Clone, Default)]
pub(crate) struct PeerStreams(Arc<Mutex<HashMap<Key, u32>>>);

/// One stream's place in its peer's share; gives it back when dropped.
pub(crate) struct StreamPermit {
    streams: PeerStreams,
    key: Key,
}

impl PeerStreams {
    /// A place for one more stream, unless the peer has `limit` already.
    pub(crate) fn admit(&self, peer: Peer, limit: u32) -> Option<StreamPermit> {
        let key = Key::from(peer);
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(key).or_default();
        if *count >= limit {
            return None;
        }
        *count += 1;
        Some(StreamPermit { streams: self.clone(), key })
    }
}

impl Drop for StreamPermit {
    fn drop(&mut self) {
        let mut counts = self.streams.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_counted_per_process_and_given_back() {
        let streams = PeerStreams::default();
        let peer = |pid| Peer::Process { pid, uid: 1, gid: 1 };
        let first = streams.admit(peer(7), 1).unwrap();
        assert!(streams.admit(peer(7), 1).is_none());
        let _other = streams.admit(peer(8), 1).unwrap();
        drop(first);
        assert!(streams.admit(peer(7), 1).is_some());
        assert_eq!(streams.0.lock().unwrap().len(), 1);
    }

    #[test]
    fn an_address_is_one_peer_whatever_its_port() {
        let streams = PeerStreams::default();
        let _first = streams.admit(Peer::Address("127.0.0.1:1000".parse().unwrap()), 1).unwrap();
        assert!(streams.admit(Peer::Address("127.0.0.1:2000".parse().unwrap()), 1).is_none());
    }
}
