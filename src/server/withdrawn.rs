//! Identities that the source lists no longer, and who still has them.

use crate::{identity::Withdrawn, secret};

use super::Streams;

/// Those of `withdrawn` that somebody should know of, with how many streams have their last certificate: they are in service
/// for the grace time, or clients go on using what they got.
#[must_use]
pub fn still_held(withdrawn: &[Withdrawn], streams: &Streams) -> Vec<(Withdrawn, usize)> {
    let held = withdrawn.iter().map(|it| (it.clone(), streams.holders(&secret::certificate_version(&it.chain))));
    held.filter(|(it, clients)| it.in_service || *clients > 0).collect()
}
