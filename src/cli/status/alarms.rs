//! What must not be overlooked.

use super::{BAD, Status, WARN, line};

impl Status {
    /// Stands above everything else.
    pub(super) fn alarms(&self) -> String {
        let gone = self.withdrawn.iter().map(|it| {
            format!("{BAD}{}: {}; its last certificate ends {}{BAD:#}\n", it.spiffe_id, it.text(), it.not_after)
        });
        let pending = self.conditions.iter().filter(|condition| condition.is_problem()).map(|condition| {
            let (style, said) = if condition.required { (BAD, "Not ready") } else { (WARN, "Degraded") };
            let reason = line(condition.reason.as_deref().unwrap_or_default());
            format!("{style}{said}: {}: {reason}{style:#}\n", condition.name)
        });
        gone.chain(pending).collect()
    }
}
