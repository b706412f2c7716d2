//! One state as it is sent.

use std::sync::Arc;

use crate::secret::{Contents, Flavour, Part};

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
