//! One state as it is sent.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::time::Instant;

use super::Publisher;
use crate::{
    identity::IdentitySnapshot,
    secret::{Contents, Flavour, Part},
};

/// One state, as clients of each flavour get it.
#[derive(Debug)]
pub(super) struct Encoded {
    /// `None` for a workload that is entitled to nothing.
    pub(super) contents: Option<Arc<Contents>>,
    pub(super) spiffe: Part,
    pub(super) plain: Part,
}

impl Encoded {
    pub(super) fn of(&self, flavour: Flavour) -> &Part {
        match flavour {
            Flavour::Spiffe => &self.spiffe,
            Flavour::Plain => &self.plain,
        }
    }
}

impl Publisher {
    /// Encodes one state to be sent; on failure the last one stays.
    pub(super) fn encode(&mut self, state: &Arc<IdentitySnapshot>) -> bool {
        let at = SystemTime::now();
        let encoded = self.catalog.contents(state, at).and_then(|contents| {
            let spiffe = self.catalog.x509(&contents, Flavour::Spiffe)?;
            let plain = self.catalog.x509(&contents, Flavour::Plain)?;
            Ok((contents, spiffe, plain))
        });
        match encoded {
            Ok((contents, spiffe, plain)) => {
                self.note(contents.notes());
                self.encoded = Some(Encoded { contents: Some(contents), spiffe, plain });
                self.expiry = next_expiry(state, at);
                true
            }
            Err(error) => {
                self.metrics.failed();
                self.traced.ends(Some(error.to_string()));
                tracing::error!(%error, "identity update cannot be served, the last good one stays");
                false
            }
        }
    }
}

/// When the next certificate of `snapshot` stops being served to newcomers, of those that were when it was encoded.
pub(super) fn next_expiry(snapshot: &IdentitySnapshot, encoded: SystemTime) -> Option<Instant> {
    let ends = snapshot.svids.iter().map(|svid| svid.validity.not_after);
    let next = ends.filter(|end| *end >= encoded).min()?;
    // One tick later, because the last moment still counts as valid.
    let left = next.duration_since(SystemTime::now()).unwrap_or_default() + Duration::from_millis(1);
    Instant::now().checked_add(left)
}
