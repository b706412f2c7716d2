//! Who is on the other end of a connection, and how much it may ask of us.

use std::{
    collections::HashMap,
    fmt,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
};

use crate::{identity::Asker, telemetry::metrics::PeerClass};

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

/// Whose share a connection or a stream is counted against: a user, or an address whatever its port.
///
/// Not a process: whoever may fork has as many of those as it likes, and those in other PID namespaces are all process 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Owner {
    User(u32),
    Address(IpAddr),
}

impl From<Peer> for Owner {
    fn from(peer: Peer) -> Self {
        match peer {
            Peer::Process { uid, .. } => Self::User(uid),
            Peer::Address(address) => Self::Address(match address.ip().to_canonical() {
                // Whoever has one address of a network of this size has all of them.
                IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX))),
                ip @ IpAddr::V4(_) => ip,
            }),
        }
    }
}

impl From<Peer> for Asker {
    fn from(peer: Peer) -> Self {
        match Owner::from(peer) {
            Owner::User(uid) => Self::User(uid),
            Owner::Address(ip) => Self::Address(ip),
        }
    }
}

/// How many streams there may be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StreamBounds {
    /// All peers together.
    pub(crate) all: u32,
    /// Of one user, or of one address.
    pub(crate) of_peer: u32,
}

/// Why there is no place for a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// The peer has as many as it may.
    Peer,
    /// There are as many as there may be.
    All,
}

/// Counts the streams of each owner over all its connections.
#[derive(Clone, Debug, Default)]
pub(crate) struct PeerStreams(Arc<Mutex<Counts>>);

#[derive(Debug, Default)]
struct Counts {
    all: u32,
    of: HashMap<Owner, u32>,
}

/// One stream's place in its peer's share; gives it back when dropped.
pub(crate) struct StreamPermit {
    streams: PeerStreams,
    owner: Owner,
}

impl StreamBounds {
    /// Whether somebody who has `mine` of `all` may have one more. The last eighth is for those who have few, so that
    /// nobody who has many keeps a newcomer out.
    fn admit(self, mine: u32, all: u32) -> Result<(), Refused> {
        if mine >= self.of_peer {
            return Err(Refused::Peer);
        }
        let (reserve, few) = (self.all / 8, (self.all / 128).max(1));
        if all >= self.all || (all >= self.all - reserve && mine >= few) {
            return Err(Refused::All);
        }
        Ok(())
    }
}

impl PeerStreams {
    /// A place for one more stream, if the bounds leave one.
    pub(crate) fn admit(&self, peer: Peer, bounds: StreamBounds) -> Result<StreamPermit, Refused> {
        let owner = Owner::from(peer);
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        bounds.admit(counts.of.get(&owner).copied().unwrap_or_default(), counts.all)?;
        counts.all += 1;
        *counts.of.entry(owner).or_default() += 1;
        Ok(StreamPermit { streams: self.clone(), owner })
    }
}

impl Drop for StreamPermit {
    fn drop(&mut self) {
        let mut counts = self.streams.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts.all -= 1;
        if let Some(count) = counts.of.get_mut(&self.owner) {
            *count -= 1;
            if *count == 0 {
                counts.of.remove(&self.owner);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: StreamBounds = StreamBounds { all: 100, of_peer: 1 };

    fn process(pid: i32, uid: u32) -> Peer {
        Peer::Process { pid, uid, gid: 1 }
    }

    #[test]
    fn streams_are_counted_per_user_whatever_its_processes() {
        let streams = PeerStreams::default();
        let first = streams.admit(process(7, 1), ONE).unwrap();
        // A fork is no way around, and in a container all are process 0.
        assert_eq!(streams.admit(process(8, 1), ONE).err(), Some(Refused::Peer));
        let _other = streams.admit(process(0, 2), ONE).unwrap();
        drop(first);
        assert!(streams.admit(process(7, 1), ONE).is_ok());
        assert_eq!(streams.0.lock().unwrap().of.len(), 1);
    }

    #[test]
    fn an_address_is_one_peer_whatever_its_port() {
        let streams = PeerStreams::default();
        let at = |address: &str| Peer::Address(address.parse().unwrap());
        let _first = streams.admit(at("127.0.0.1:1000"), ONE).unwrap();
        assert_eq!(streams.admit(at("127.0.0.1:2000"), ONE).err(), Some(Refused::Peer));
        assert_eq!(streams.admit(at("[::ffff:127.0.0.1]:2000"), ONE).err(), Some(Refused::Peer));
        let _third = streams.admit(at("[2001:db8::1]:1"), ONE).unwrap();
        assert_eq!(streams.admit(at("[2001:db8::2]:1"), ONE).err(), Some(Refused::Peer), "the same network");
    }

    #[test]
    fn the_last_places_are_for_newcomers() {
        let (streams, bounds) = (PeerStreams::default(), StreamBounds { all: 16, of_peer: 16 });
        let held: Vec<_> = std::iter::from_fn(|| streams.admit(process(1, 1), bounds).ok()).collect();
        assert_eq!(held.len(), 14);
        let second = streams.admit(process(1, 2), bounds).unwrap();
        assert_eq!(streams.admit(process(1, 2), bounds).err(), Some(Refused::All));
        let third = streams.admit(process(1, 3), bounds).unwrap();
        assert_eq!(streams.admit(process(1, 4), bounds).err(), Some(Refused::All));
        drop((held, second, third));
        assert_eq!(streams.0.lock().unwrap().all, 0);
    }
}
