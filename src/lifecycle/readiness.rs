//! Readiness as a list of named conditions: ready is when none of them is pending.

use std::{
    borrow::Cow,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::sync::watch;

use super::{Heartbeat, heartbeat};

/// Conditions that are watched and do not count for readiness unless they are [required](Readiness::require): identities that
/// are over beside valid ones, identities that were withdrawn, our own trust, tokens, and directories of files.
pub const OPTIONAL: [&str; 5] = ["svids", "withdrawn", "trust", "tokens", "outputs"];

/// What must hold before the program counts as ready. Clones are the same list.
///
/// Without any condition nothing is pending; whoever has one [takes a latch](Readiness::latch) before it starts.
#[derive(Clone, Debug, Default)]
pub struct Readiness {
    conditions: Arc<watch::Sender<Vec<Condition>>>,
    /// Those of the optional ones that count.
    required: Arc<Mutex<Vec<&'static str>>>,
    /// The tasks that keep them true.
    heartbeats: Arc<Mutex<Vec<Heartbeat>>>,
}

/// One thing that must hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// Lower-case, stable: it stands in `/ready` and in the label of a metric.
    pub name: &'static str,
    /// Why it does not hold; `None` when it does.
    pub pending: Option<Cow<'static, str>>,
    /// Whether the program is not ready while it does not hold. It is degraded otherwise.
    pub required: bool,
}

impl Condition {
    /// Whether it keeps the program from being ready.
    #[must_use]
    pub fn blocks(&self) -> bool {
        self.required && self.pending.is_some()
    }

    /// Whether it does not hold, and the program is ready all the same.
    #[must_use]
    pub fn degrades(&self) -> bool {
        !self.required && self.pending.is_some()
    }
}

/// The right to say how one condition stands. Dropped, the condition is pending for good: who kept it is gone.
#[derive(Debug)]
pub struct Latch {
    readiness: Readiness,
    name: &'static str,
    required: bool,
}

impl Readiness {
    /// A condition of this name, pending for `reason` until the latch says otherwise. The second latch of a name
    /// takes the condition over.
    #[must_use]
    pub fn latch(&self, name: &'static str, reason: impl Into<Cow<'static, str>>) -> Latch {
        self.set(name, Some(reason.into()), true);
        Latch { readiness: self.clone(), name, required: true }
    }

    /// Makes these of the [`OPTIONAL`] conditions count. Before their latches are taken.
    pub fn require(&self, names: &[&'static str]) {
        names.clone_into(&mut self.required.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// One of the [`OPTIONAL`] conditions; it holds until the latch says otherwise.
    #[must_use]
    pub fn optional(&self, name: &'static str) -> Latch {
        let required = self.required.lock().unwrap_or_else(PoisonError::into_inner).contains(&name);
        self.set(name, None, required);
        Latch { readiness: self.clone(), name, required }
    }

    /// Every condition, in the order of their first latches.
    #[must_use]
    pub fn conditions(&self) -> Vec<Condition> {
        self.conditions.borrow().clone()
    }

    /// Whether every condition holds.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        is_ready(&self.conditions.borrow())
    }

    /// The conditions, now and as they change.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Vec<Condition>> {
        self.conditions.subscribe()
    }

    /// Everything depends on this task too: conditions are worth what those who keep them are.
    pub fn depends_on(&self, heartbeat: Heartbeat) {
        self.heartbeats.lock().unwrap_or_else(PoisonError::into_inner).push(heartbeat);
    }

    /// The names of the tasks that everything depends on and that do not answer within `bound`. While there are any, the
    /// conditions are what they were when those last ran.
    pub async fn silent(&self, bound: Duration) -> Vec<&'static str> {
        let heartbeats = self.heartbeats.lock().unwrap_or_else(PoisonError::into_inner).clone();
        heartbeat::silent(&heartbeats, bound).await
    }

    fn set(&self, name: &'static str, pending: Option<Cow<'static, str>>, required: bool) {
        self.conditions.send_if_modified(|conditions| {
            match conditions.iter_mut().find(|condition| condition.name == name) {
                Some(condition) if condition.pending == pending => false,
                Some(condition) => {
                    condition.pending = pending;
                    true
                }
                None => {
                    conditions.push(Condition { name, pending, required });
                    true
                }
            }
        });
    }
}

impl Latch {
    /// The condition holds.
    pub fn ready(&self) {
        self.readiness.set(self.name, None, self.required);
    }

    /// The condition does not hold (any more), for this reason. Reasons are shown to operators: nothing secret.
    pub fn pending(&self, reason: impl Into<Cow<'static, str>>) {
        self.readiness.set(self.name, Some(reason.into()), self.required);
    }
}

impl Drop for Latch {
    fn drop(&mut self) {
        self.pending("this part of the program has ended");
    }
}

/// Whether none of `conditions` that count is pending.
fn is_ready(conditions: &[Condition]) -> bool {
    !conditions.iter().any(Condition::blocks)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pending(readiness: &Readiness) -> Vec<&'static str> {
        let conditions = readiness.conditions();
        conditions.into_iter().filter(|condition| condition.pending.is_some()).map(|condition| condition.name).collect()
    }

    #[test]
    fn ready_is_when_nothing_is_pending() {
        let readiness = Readiness::default();
        assert!(readiness.is_ready());
        let (source, identity) = (readiness.latch("source", "not yet"), readiness.latch("identity", "not yet"));
        assert_eq!(pending(&readiness), ["source", "identity"]);
        identity.ready();
        assert_eq!(pending(&readiness), ["source"]);
        source.ready();
        assert!(readiness.is_ready());
        identity.pending("expired");
        assert_eq!(pending(&readiness), ["identity"]);
    }

    #[test]
    fn what_is_optional_degrades_unless_it_is_required() {
        for required in [false, true] {
            let readiness = Readiness::default();
            if required {
                readiness.require(&["tokens"]);
            }
            let (tokens, outputs) = (readiness.optional("tokens"), readiness.optional("outputs"));
            assert!(readiness.is_ready(), "they hold at first");
            tokens.pending("never granted");
            outputs.pending("disk full");
            assert_eq!(readiness.is_ready(), !required);
            let degraded = readiness.conditions().iter().filter(|it| it.degrades()).count();
            assert_eq!(degraded, if required { 1 } else { 2 });
            tokens.ready();
            assert!(readiness.is_ready());
        }
    }

    #[test]
    fn who_is_gone_is_not_ready() {
        let readiness = Readiness::default();
        let latch = readiness.latch("source", "not yet");
        latch.ready();
        drop(latch);
        assert_eq!(pending(&readiness), ["source"]);
    }

    #[test]
    fn only_news_wakes() {
        let readiness = Readiness::default();
        let latch = readiness.latch("source", "not yet");
        let mut watch = readiness.watch();
        watch.mark_unchanged();
        latch.pending("not yet");
        assert!(!watch.has_changed().unwrap());
        latch.ready();
        assert!(watch.has_changed().unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_does_not_answer_is_named() {
        let readiness = Readiness::default();
        assert!(readiness.silent(Duration::from_secs(1)).await.is_empty());
        let (heartbeat, _responder) = heartbeat::heartbeat("publisher");
        readiness.clone().depends_on(heartbeat);
        assert_eq!(readiness.silent(Duration::from_secs(1)).await, ["publisher"]);
    }
}
