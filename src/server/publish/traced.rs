//! The publisher's part of the trace of a rotation.

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, SystemTime},
};

use crate::{
    identity::{Availability, JwtSnapshot},
    secret::{Change, View},
    telemetry::traces::{Rotation, Span, Traces},
    xds::Version,
};

/// Which rotation is being published, and what of it is under way. Does nothing unless rotations are traced.
#[derive(Debug, Default)]
pub(super) struct Traced {
    traces: Traces,
    /// The rotation whose steps are published, from the first to the last one.
    rollout: Option<Rotation>,
    /// When the present hold began.
    held_since: Option<SystemTime>,
    /// The step at hand.
    step: Option<Begun>,
    /// The number of the last step.
    last: u64,
}

#[derive(Debug)]
struct Begun {
    rotation: Rotation,
    change: Change,
    start: SystemTime,
    announced: bool,
    encode: Duration,
    resources: usize,
    streams: usize,
}

impl Traced {
    pub(super) fn by(traces: Traces) -> Self {
        Self { traces, ..Self::default() }
    }

    /// The publisher works towards `state` from now on.
    pub(super) fn takes_up(&mut self, state: &Availability) {
        if let Some(rotation) = self.traces.claim(state)
            && let Some(before) = self.rollout.replace(rotation)
        {
            before.supersede();
        }
    }

    /// The next step has to wait.
    pub(super) fn holds(&mut self) {
        if self.rollout.is_some() {
            self.held_since.get_or_insert_with(SystemTime::now);
        }
    }

    /// A step towards the state that was taken up is encoded from now on.
    pub(super) fn begins(&mut self, change: Change) {
        let Some(rotation) = &self.rollout else { return };
        let start = SystemTime::now();
        if let Some(since) = self.held_since.take() {
            rotation.child(Span::new("hold", since, start));
        }
        self.step = Some(Begun::new(rotation.clone(), change, start));
    }

    /// The same for tokens, which have no steps.
    pub(super) fn begins_tokens(&mut self, tokens: &Arc<JwtSnapshot>) {
        let start = SystemTime::now();
        self.step = self.traces.claim_tokens(tokens).map(|rotation| Begun::new(rotation, Change::default(), start));
    }

    /// What is encoded is about to be told to streams that know `old`. Returns the number of the step.
    pub(super) fn announces(&mut self, old: Option<&View>, new: &View) -> u64 {
        if let Some(step) = self.step.as_mut().filter(|step| !step.announced) {
            step.announced = true;
            let versions = |view: &View| view.set().iter().map(|resource| resource.version().clone()).collect();
            let mut fresh: HashSet<Version> = versions(new);
            for known in old.map(versions).unwrap_or_default() {
                fresh.remove(&known);
            }
            step.encode = step.start.elapsed().unwrap_or_default();
            (step.resources, step.streams) = (fresh.len(), self.traces.followers());
            self.last = self.traces.step(&step.rotation, fresh);
        }
        self.last
    }

    /// The step has been told to all streams, or could not be.
    pub(super) fn ends(&mut self, error: Option<String>) {
        let Some(Begun { rotation, change, start, encode, resources, streams, .. }) = self.step.take() else { return };
        let attributes = vec![
            ("trust_grows", change.trust_grows.into()),
            ("certificates", change.certificates.into()),
            ("trust_shrinks", change.trust_shrinks.into()),
            ("resources", resources.into()),
            ("streams", streams.into()),
            ("encode_us", (encode.as_micros() as usize).into()),
        ];
        rotation.child(Span { attributes, error, ..Span::new("publish", start, SystemTime::now()) });
    }

    /// There is no further step.
    pub(super) fn settles(&mut self) {
        (self.rollout, self.held_since) = (None, None);
    }
}

impl Begun {
    fn new(rotation: Rotation, change: Change, start: SystemTime) -> Self {
        Self { rotation, change, start, announced: false, encode: Duration::ZERO, resources: 0, streams: 0 }
    }
}
