//! The pushes of one stream that wait for their answers, as spans: of `tracing` for the log and for whoever subscribes to it,
//! and in the traces of the rotations that caused them.

use std::{collections::VecDeque, sync::Arc, time::SystemTime};

use tokio::sync::broadcast::{self, error::TryRecvError};

use super::observe::Client;
use crate::{
    telemetry::traces::{self, Attribute, Context, Rotation, Step, Traces, Value, Verdict},
    xds::{Outgoing, Resource, ResourceName, Update, Version},
};

/// As many as the subscription remembers. Further ones are not told apart.
const KEPT: usize = 1024;

/// What is waited for on one stream. Empty, and free, unless somebody looks.
#[derive(Default)]
pub(super) struct Trail {
    follower: Option<Box<Follower>>,
    pushes: VecDeque<Push>,
}

/// What a stream knows of rotations.
struct Follower {
    steps: broadcast::Receiver<Arc<Step>>,
    /// Steps that the stream has not dealt with.
    open: Vec<Arc<Step>>,
    /// The number of the last step that the stream has seen the resources of.
    seen: u64,
    /// What is the same for all pushes.
    stream: Option<Arc<[Attribute]>>,
}

struct Push {
    name: ResourceName,
    version: Version,
    span: tracing::Span,
    /// The rotations that wait for it, the one whose trace shows it first.
    rotations: Vec<Rotation>,
    number: Option<u64>,
}

impl Trail {
    /// Follows the steps of rotations, if they are traced.
    pub(super) fn of(traces: &Traces) -> Self {
        let follower = traces.follow().map(|steps| Follower { steps, open: Vec::new(), seen: 0, stream: None });
        Self { follower: follower.map(Box::new), pushes: VecDeque::new() }
    }

    /// The stream looks at the resources of this step.
    pub(super) fn looks_at(&mut self, step: u64) {
        if let Some(follower) = &mut self.follower {
            follower.seen = step;
            follower.catch_up();
        }
    }

    /// The stream has said all that it has to say to what it has seen.
    pub(super) fn settles(&mut self) {
        if let Some(follower) = &mut self.follower {
            let seen = follower.seen;
            follower.open.retain(|step| step.number > seen);
        }
    }

    /// A response goes out. The span is for what is logged about it.
    pub(super) fn sent(&mut self, client: &Client, outgoing: &Outgoing) -> tracing::Span {
        let Some(Update::Resource { resource, nonce, .. }) = &outgoing.update else { return tracing::Span::none() };
        let (name, version) = (resource.name(), resource.version());
        let span = tracing::debug_span!(
            "push",
            peer = %client.peer,
            node = client.node,
            service = client.service.as_str(),
            variant = client.variant.as_str(),
            name = %name,
            version = %version,
            nonce = &**nonce,
        );
        let bytes = outgoing.frame.size();
        let traced = self.follower.as_mut().and_then(|follower| follower.pushed(client, resource, nonce, bytes));
        if span.is_disabled() && traced.is_none() {
            return span;
        }
        let (rotations, number) = traced.unwrap_or_default();
        if self.pushes.len() == KEPT
            && let Some(oldest) = self.pushes.pop_front()
        {
            oldest.ends(Verdict::Unanswered("too many responses wait for an answer"));
        }
        let (name, version) = (name.clone(), version.clone());
        self.pushes.push_back(Push { name, version, span: span.clone(), rotations, number });
        span
    }

    /// The client answered. The span is for what is logged about it.
    pub(super) fn answered(&mut self, name: &ResourceName, version: &Version, verdict: Verdict<'_>) -> tracing::Span {
        let is = |push: &Push| push.name == *name && push.version == *version;
        let push = self.pushes.iter().position(is).and_then(|at| self.pushes.remove(at));
        push.map_or_else(tracing::Span::none, |push| push.ends(verdict))
    }
}

impl Drop for Trail {
    fn drop(&mut self) {
        for push in self.pushes.drain(..) {
            push.ends(Verdict::Unanswered("the stream ended"));
        }
    }
}

impl Push {
    fn ends(self, verdict: Verdict<'_>) -> tracing::Span {
        if let (Some((first, others)), Some(number)) = (self.rotations.split_first(), self.number) {
            let now = SystemTime::now();
            first.answered(number, verdict, now);
            others.iter().for_each(|other| other.completed(now));
        }
        self.span
    }
}

impl Follower {
    fn catch_up(&mut self) {
        loop {
            match self.steps.try_recv() {
                Ok(step) => self.open.push(step),
                // What it missed has been replaced meanwhile.
                Err(TryRecvError::Lagged(_)) => {}
                Err(TryRecvError::Empty | TryRecvError::Closed) => return,
            }
        }
    }

    /// Puts a push into the trace of the rotation that caused it, if one did: the newest that brought this content. Names that depend on
    /// the node may stand for content that no step lists; those belong to the newest of all.
    fn pushed(
        &mut self,
        client: &Client,
        resource: &Resource,
        nonce: &str,
        bytes: usize,
    ) -> Option<(Vec<Rotation>, Option<u64>)> {
        let seen: Vec<_> = self.open.iter().rev().filter(|step| step.number <= self.seen).collect();
        let mut causes: Vec<_> = seen.iter().filter(|step| step.versions.contains(resource.version())).collect();
        if causes.is_empty() {
            causes.extend(seen.first());
        }
        let mut rotations: Vec<Rotation> = Vec::new();
        for rotation in causes.into_iter().map(|step| &step.rotation) {
            // Several steps of one rotation may be taken at once.
            if !rotations.iter().any(|known| known.context() == rotation.context()) {
                rotations.push(rotation.clone());
            }
        }
        let (first, others) = rotations.split_first()?;
        let links: Vec<Context> = others.iter().map(Rotation::context).collect();
        let stream = self.stream.get_or_insert_with(|| described(client)).clone();
        let number = first.pushed(traces::Push {
            stream,
            type_url: resource.origin().type_url,
            name: resource.name().clone(),
            version: resource.version().clone(),
            nonce: nonce.into(),
            bytes,
            at: SystemTime::now(),
            links,
        });
        Some((rotations, number))
    }
}

fn described(client: &Client) -> Arc<[Attribute]> {
    [
        ("peer", Value::Text(client.peer.to_string())),
        ("node", Value::Shared(client.node.as_str().into())),
        ("service", client.service.as_str().into()),
        ("variant", client.variant.as_str().into()),
    ]
    .into()
}

#[cfg(test)]
mod tests;
