//! What a source sent and is not served, and what is served and does not work.

use std::time::SystemTime;

use serde::Serialize;

use super::{State, table};
use crate::{
    identity::{IdentitySnapshot, Refusal},
    source::caveats::{self, Caveat},
};

/// All of it.
#[derive(Debug, Serialize)]
pub(super) struct Trouble {
    /// Revocation lists whose next update is overdue, counted from 1.
    overdue_crls: Vec<usize>,
    /// What the source sent and is left out.
    refused: Vec<RefusedRow>,
    /// What is served, and does not work with Envoy as it is.
    caveats: Vec<CaveatRow>,
}

#[derive(Debug, Serialize)]
struct RefusedRow {
    kind: &'static str,
    item: String,
    reason: String,
    count: usize,
}

#[derive(Debug, Serialize)]
struct CaveatRow {
    item: String,
    text: &'static str,
}

impl Trouble {
    pub(super) fn new(snapshot: &IdentitySnapshot, now: SystemTime) -> Self {
        Self {
            overdue_crls: caveats::overdue_crls(snapshot, now),
            refused: snapshot.refusals.iter().map(RefusedRow::from).collect(),
            caveats: caveats::of(snapshot).iter().map(CaveatRow::from).collect(),
        }
    }

    /// Whether nothing is left out, nor overdue. Caveats are for other people than the issuer's, and not for a script.
    pub(super) fn is_good(&self) -> bool {
        self.refused.is_empty() && self.overdue_crls.is_empty()
    }

    pub(super) fn tables(&self) -> String {
        let mut text = String::new();
        let bad = State::Expired.style();
        for number in &self.overdue_crls {
            text.push_str(&format!("{bad}list {number} is overdue: Envoy refuses everybody that it is about{bad:#}\n"));
        }
        if !self.refused.is_empty() {
            let row = |it: &RefusedRow| (State::Expired, vec![it.item.clone(), it.reason.clone()]);
            text.push_str(&format!(
                "\n{}",
                table("Left out", &["WHAT", "WHY"], self.refused.iter().map(row).collect())
            ));
        }
        if !self.caveats.is_empty() {
            let row = |it: &CaveatRow| (State::Expiring, vec![it.item.clone(), it.text.to_owned()]);
            let rows = self.caveats.iter().map(row).collect();
            text.push_str(&format!("\n{}", table("Will not work as it is", &["WHAT", "WHY"], rows)));
        }
        text
    }
}

impl From<&Refusal> for RefusedRow {
    fn from(refusal: &Refusal) -> Self {
        let (item, reason) = (refusal.item.to_string(), refusal.reason.to_string());
        Self { kind: refusal.item.kind(), item, reason, count: refusal.count }
    }
}

impl From<&Caveat> for CaveatRow {
    fn from(caveat: &Caveat) -> Self {
        Self { item: caveat.item.clone(), text: caveat.text }
    }
}
