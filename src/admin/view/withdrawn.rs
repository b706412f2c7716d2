//! Identities that the source lists no longer.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::{Life, Sight, left, seconds, time};
use crate::{identity::Withdrawn, server::still_held};

/// An identity that the source lists no longer, while it is in service for the grace time or a client still has it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Gone {
    /// Whose it was.
    pub spiffe_id: String,
    /// The operator's label.
    pub hint: Option<String>,
    /// Of the last leaf, hexadecimal.
    pub serial: String,
    /// The end of the last certificate.
    pub not_after: String,
    /// What is left of it.
    pub left_seconds: u64,
    /// What that means.
    pub state: Life,
    /// When the source stopped listing it.
    pub since: String,
    /// Whether it is in service still, for the grace time.
    pub in_service: bool,
    /// Streams that have its last certificate.
    pub clients: usize,
}

impl Sight {
    /// Those that somebody should look at.
    #[must_use]
    pub fn gone(&self, now: SystemTime) -> Vec<Gone> {
        let withdrawn = self.withdrawn.borrow().clone();
        still_held(&withdrawn, &self.streams).iter().map(|(it, clients)| Gone::new(it, *clients, now)).collect()
    }
}

impl Gone {
    fn new(it: &Withdrawn, clients: usize, now: SystemTime) -> Self {
        Self {
            spiffe_id: it.id.to_string(),
            hint: it.hint.as_ref().map(|hint| hint.as_str().to_owned()),
            serial: it.serial.to_string(),
            not_after: seconds(it.validity.not_after),
            left_seconds: it.validity.remaining(now).as_secs(),
            state: Life::of(it.validity.not_before, it.validity.not_after, now),
            since: time(it.since),
            in_service: it.in_service,
            clients,
        }
    }

    /// What is left, for people.
    #[must_use]
    pub fn left(&self) -> String {
        left(Duration::from_secs(self.left_seconds))
    }

    /// What it means, for people.
    #[must_use]
    pub fn text(&self) -> String {
        let clients = match self.clients {
            0 => "no client has it".to_owned(),
            1 => "one stream has it and gets no renewal".to_owned(),
            many => format!("{many} streams have it and get no renewal"),
        };
        let served = if self.in_service { "in service for the grace time" } else { "out of service" };
        format!("withdrawn by the source, {served}; {clients}")
    }
}
