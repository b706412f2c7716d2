//! Keeps of a request, while it arrives, only what is used.
//!
//! Nine tenths of Envoy's first request describe its extensions. Whatever no field of [`Wire`] takes up passes through
//! without being stored, so a request under way costs what it will be worth and not what it announces.

use std::marker::PhantomData;

use prost::{
    DecodeError,
    encoding::{WireType, encode_key, encode_varint},
};
use thiserror::Error;

use super::Wire;

/// A key and a length: two variable-length integers of at most ten bytes.
const HEAD: usize = 20;
/// Bytes of one integer.
const VARINT: usize = 10;
/// What a field costs once it is decoded, beside its bytes.
const FIELD: usize = 64;
/// Fields of `envoy.config.core.v3.Node` that are used.
const NODE_FIELDS: &[u32] = &[1, 2, 3, 6, 7, 8];

/// The bytes are no message.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Malformed {
    /// Not protobuf at all.
    #[error("it is not protobuf")]
    Encoding,
    /// Protobuf, but not of this message.
    #[error(transparent)]
    Message(#[from] DecodeError),
}

/// One request on its way.
#[derive(Debug)]
pub struct Sieve<W> {
    head: [u8; HEAD],
    /// How much of `head` there is.
    have: usize,
    /// What is to come of a field's content, and whether it is kept.
    body: Option<(usize, bool)>,
    /// What is to come of the node.
    node_left: Option<usize>,
    /// Whole fields of the message, and of its node.
    kept: Vec<u8>,
    node: Vec<u8>,
    fields: usize,
    wire: PhantomData<fn() -> W>,
}

impl<W> Default for Sieve<W> {
    fn default() -> Self {
        let (kept, node) = (Vec::new(), Vec::new());
        Self { head: [0; HEAD], have: 0, body: None, node_left: None, kept, node, fields: 0, wire: PhantomData }
    }
}

impl<W: Wire> Sieve<W> {
    /// Bytes that it holds, and will once it is decoded.
    #[must_use]
    pub fn weight(&self) -> usize {
        self.kept.capacity() + self.node.capacity() + self.kept.len() + self.node.len() + self.fields * FIELD
    }

    /// Takes in the next bytes of the message.
    ///
    /// # Errors
    /// [`Malformed`] ends the message.
    pub fn push(&mut self, mut bytes: &[u8]) -> Result<(), Malformed> {
        while let Some((&first, rest)) = bytes.split_first() {
            if let Some((left, keep)) = self.body {
                let (content, rest) = bytes.split_at_checked(left).unwrap_or((bytes, &[]));
                if keep {
                    self.target().extend_from_slice(content);
                }
                self.body = Some((left - content.len(), keep)).filter(|(left, _)| *left > 0);
                self.pass(content.len())?;
                bytes = rest;
                continue;
            }
            *self.head.get_mut(self.have).ok_or(Malformed::Encoding)? = first;
            self.have += 1;
            self.pass(1)?;
            self.judge()?;
            bytes = rest;
        }
        Ok(())
    }

    /// The message, which has arrived whole. What it took is given back.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn finish(&mut self) -> Result<W, Malformed> {
        let Self { have, body, node_left, mut kept, node, .. } = std::mem::take(self);
        if have > 0 || body.is_some() || node_left.is_some() {
            return Err(Malformed::Encoding);
        }
        if !node.is_empty() {
            encode_key(W::NODE_FIELD, WireType::LengthDelimited, &mut kept);
            encode_varint(node.len() as u64, &mut kept);
            kept.extend_from_slice(&node);
        }
        Ok(W::decode(kept.as_slice())?)
    }

    /// Where kept fields go.
    fn target(&mut self) -> &mut Vec<u8> {
        if self.node_left.is_some() { &mut self.node } else { &mut self.kept }
    }

    /// Counts bytes of the node.
    fn pass(&mut self, count: usize) -> Result<(), Malformed> {
        let Some(left) = self.node_left else { return Ok(()) };
        let left = left.checked_sub(count).ok_or(Malformed::Encoding)?;
        let within = left > 0 || self.have > 0 || self.body.is_some();
        self.node_left = within.then_some(left);
        Ok(())
    }

    /// Decides about a field once its head is whole.
    fn judge(&mut self) -> Result<(), Malformed> {
        let head = self.head.get(..self.have).unwrap_or_default();
        let Some((key, size)) = varint(head)? else { return Ok(()) };
        let field = u32::try_from(key >> 3).map_err(|_| Malformed::Encoding)?;
        let rest = head.get(size..).unwrap_or_default();
        let left = match key & 7 {
            0 if varint(rest)?.is_none() => return Ok(()),
            0 => 0,
            1 => 8,
            2 => match varint(rest)? {
                None => return Ok(()),
                Some((length, _)) => usize::try_from(length).map_err(|_| Malformed::Encoding)?,
            },
            5 => 4,
            // Groups were given up before any of these messages was made.
            _ => return Err(Malformed::Encoding),
        };
        let have = std::mem::take(&mut self.have);
        let head = self.head;
        if self.node_left.is_none() && field == W::NODE_FIELD && key & 7 == 2 {
            self.node_left = Some(left).filter(|left| *left > 0);
            return Ok(());
        }
        if self.node_left.is_some_and(|node| left > node) {
            return Err(Malformed::Encoding);
        }
        let keep = match self.node_left {
            Some(_) => NODE_FIELDS.contains(&field),
            None => W::FIELDS.contains(&field),
        };
        if keep {
            self.fields += 1;
            let head = head.get(..have).unwrap_or_default();
            self.target().extend_from_slice(head);
        }
        self.body = Some((left, keep)).filter(|(left, _)| *left > 0);
        // The head of a field may have been the node's last byte.
        self.pass(0)
    }
}

/// An integer at the beginning of `bytes` and how long it is; `None` when it has not come whole.
fn varint(bytes: &[u8]) -> Result<Option<(u64, usize)>, Malformed> {
    let mut value = 0_u64;
    for (at, byte) in bytes.iter().enumerate().take(VARINT) {
        value |= u64::from(byte & 0x7f).checked_shl(7 * at as u32).unwrap_or_default();
        if byte & 0x80 == 0 {
            return Ok(Some((value, at + 1)));
        }
    }
    if bytes.len() >= VARINT { Err(Malformed::Encoding) } else { Ok(None) }
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::envoy::{
        config::core::v3::{Extension, Node as EnvoyNode},
        service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest},
    };
    use proptest::prelude::*;
    use prost::Message as _;

    use super::*;
    use crate::xds::{WireDelta, WireSotw};

    fn sifted<W: Wire>(bytes: &[u8], chunk: usize) -> Result<W, Malformed> {
        let mut sieve = Sieve::<W>::default();
        bytes.chunks(chunk).try_for_each(|chunk| sieve.push(chunk))?;
        let result = sieve.finish();
        assert_eq!((sieve.kept.capacity(), sieve.node.capacity(), sieve.weight()), (0, 0, 0), "all is given back");
        result
    }

    fn envoy_node() -> EnvoyNode {
        EnvoyNode {
            id: "n".into(),
            cluster: "c".into(),
            extensions: vec![Extension { name: "x".repeat(110), ..Default::default() }; 516],
            ..Default::default()
        }
    }

    #[test]
    fn what_is_used_is_the_same_however_it_arrives() {
        let names: Vec<String> = (0..40).map(|at| format!("name-{at}")).collect();
        let sotw = DiscoveryRequest { node: Some(envoy_node()), resource_names: names.clone(), ..Default::default() };
        let delta = DeltaDiscoveryRequest {
            node: Some(envoy_node()),
            resource_names_subscribe: names,
            initial_resource_versions: [("a".to_owned(), "v".to_owned())].into(),
            response_nonce: "n".into(),
            ..Default::default()
        };
        let (sotw, delta) = (sotw.encode_to_vec(), delta.encode_to_vec());
        for chunk in [1, 2, 3, 7, 100, 16 << 10, 1 << 20] {
            assert_eq!(sifted::<WireSotw>(&sotw, chunk), Ok(WireSotw::decode(sotw.as_slice()).unwrap()), "{chunk}");
            assert_eq!(sifted::<WireDelta>(&delta, chunk), Ok(WireDelta::decode(delta.as_slice()).unwrap()), "{chunk}");
        }
    }

    #[test]
    fn what_is_not_used_is_not_stored() {
        let request = DiscoveryRequest { node: Some(envoy_node()), ..Default::default() }.encode_to_vec();
        assert!(request.len() > 50_000);
        let mut sieve = Sieve::<WireSotw>::default();
        let mut most = 0;
        for chunk in request.chunks(1000) {
            sieve.push(chunk).unwrap();
            most = most.max(sieve.weight());
        }
        assert!(most < 512, "{most} bytes");
    }

    #[test]
    fn a_promise_reserves_nothing() {
        let mut sieve = Sieve::<WireSotw>::default();
        // A name of a gigabyte begins.
        sieve.push(&[0x1a, 0x80, 0x80, 0x80, 0x80, 0x04, b'x']).unwrap();
        assert!(sieve.weight() < 512, "{} bytes", sieve.weight());
    }

    proptest! {
        #[test]
        fn garbage_is_taken_as_the_decoder_takes_it(bytes in proptest::collection::vec(any::<u8>(), 0..60), chunk in 1_usize..9) {
            let (sifted, whole) = (sifted::<WireSotw>(&bytes, chunk), WireSotw::decode(bytes.as_slice()));
            match (sifted, whole) {
                (Ok(sifted), Ok(whole)) => prop_assert_eq!(sifted, whole),
                // What is skipped is not judged.
                (Ok(_), Err(_)) | (Err(_), Err(_)) => {}
                (Err(_), Ok(_)) => prop_assert!(bytes.iter().any(|byte| matches!(byte & 7, 3 | 4)), "a group"),
            }
        }
    }
}
