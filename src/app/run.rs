//! The program as it runs: the parts that serve, and everything that goes on beside them.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use super::{
    App, AppError,
    conditions::{self, Watched},
    notices,
    service::Service,
};
use crate::{
    admin::{self, note_renewals},
    identity::Workload,
    lifecycle::Readiness,
    source::SourceStatus,
};

/// Events between where they happen and the callbacks' planning, which never takes long.
const NOTICES: usize = 64;
/// How long the last traces may take to be sent.
const FLUSH: Duration = Duration::from_secs(2);

impl App {
    /// Runs until `stop`, then drains.
    ///
    /// # Errors
    /// Whatever ended the program though nobody asked for it; clients were drained all the same.
    pub async fn run(self, stop: CancellationToken) -> Result<(), AppError> {
        let traces = self.traces.clone();
        let ended = self.run_parts(stop).await;
        // The streams are gone, and with them everything that a trace waits for.
        traces.shutdown(FLUSH).await;
        ended
    }

    async fn run_parts(mut self, stop: CancellationToken) -> Result<(), AppError> {
        let stop = stop.child_token();
        self.readiness().depends_on(self.supervisor.heartbeat());
        self.announce();
        let (states, keys) = (self.identities(), self.tokens());
        let parts = admin::Parts {
            readiness: self.readiness().clone(),
            metrics: Arc::new(self.metrics()),
            sight: Arc::new(self.sight()),
        };
        let pages = admin::router(parts);
        let mut beside = self.watchers(&stop);
        // Subscribed to before the first event can happen.
        let (notices, planned) = mpsc::channel(NOTICES);
        let notices = notices::forward(self.supervisor.events(), self.outputs.events(), notices, self.missed.clone());
        beside.spawn(guarded(&stop, until(stop.clone(), notices)));
        beside.spawn(guarded(&stop, self.hooks.run(planned, stop.clone())));
        beside.spawn(guarded(&stop, self.outputs.run(states.clone(), keys.clone(), stop.clone())));
        if let Some(mut warm) = self.warm {
            until(stop.clone(), warm.begin(&self.store)).await;
            if let Some(snapshot) = warm.unconfirmed() {
                self.supervisor.begin_with(snapshot);
            }
            let status = self.supervisor.status();
            beside.spawn(guarded(&stop, warm.run(self.store.clone(), status, self.denied_grace, stop.clone())));
        }
        beside.spawn(guarded(&stop, self.jwt.run(stop.clone())));
        beside.spawn(guarded(&stop, self.asked.run(stop.clone())));
        // Half a program is none: whichever of these ends takes the others along.
        let renewal = tokio::spawn(last(&stop, self.supervisor.run(stop.clone())));
        let served = last(&stop, self.server.run(states.clone(), stop.clone()));
        let bundles = last(&stop, self.bundles.run(states, keys, stop.clone()));
        let administered = last(&stop, self.admin.run(pages, stop.clone()));
        let (served, bundles, administered) = tokio::join!(served, bundles, administered);
        renewal.await.map_err(AppError::Task)??;
        while let Some(ended) = beside.join_next().await {
            ended.map_err(AppError::Task)?;
        }
        served?;
        bundles.map_err(AppError::Bundles)?;
        administered.map_err(AppError::Admin)?;
        tracing::info!("stopped");
        Ok(())
    }

    fn announce(&self) {
        for listener in self.server.bound() {
            tracing::info!(%listener, "serving");
        }
        for listener in self.bundles_bound() {
            tracing::info!(%listener, "serving bundles");
        }
        for listener in self.admin_bound() {
            tracing::info!(%listener, "serving the admin pages");
        }
    }

    /// What only looks on, and tells others.
    fn watchers(&self, stop: &CancellationToken) -> JoinSet<()> {
        let service = Service {
            notifier: self.notifier.clone(),
            ready: self.systemd.ready,
            states: self.identities(),
            source: self.source(),
            readiness: self.readiness().clone(),
        };
        let mut watchers = JoinSet::new();
        watchers.spawn(guarded(stop, service.accompany(stop.clone())));
        let watched = Watched {
            states: self.identities(),
            withdrawn: self.store.watch_withdrawn(&Workload::Own),
            tokens: self.tokens(),
            outputs: self.outputs.standing(),
            crls: self.crls,
        };
        watchers.spawn(guarded(stop, conditions::keep(self.readiness(), watched, stop.clone())));
        watchers.spawn(guarded(stop, first_contact(self.source(), self.readiness().clone(), stop.clone())));
        let journal = self.server.journal().clone();
        watchers.spawn(guarded(stop, note_renewals(self.renewals(), journal, self.missed.clone(), stop.clone())));
        watchers
    }
}

/// The condition `source`: the source has been reached once. That it is down later is no reason to take us out of
/// service, as long as what it gave is valid.
async fn first_contact(mut status: watch::Receiver<SourceStatus>, readiness: Readiness, stop: CancellationToken) {
    let latch = readiness.latch("source", "the source has not given anything usable yet");
    loop {
        let status_now = status.borrow_and_update().clone();
        if status_now.last_update.is_some() {
            latch.ready();
            // Kept, because a latch that is dropped is pending.
            return stop.cancelled().await;
        }
        if let Some(error) = status_now.last_error {
            latch.pending(error.to_string());
        }
        tokio::select! {
            () = stop.cancelled() => return,
            changed = status.changed() => if changed.is_err() { return },
        }
    }
}

/// The same, given up at `stop`.
async fn until(stop: CancellationToken, task: impl Future<Output = ()>) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = task => {}
    }
}

/// The same, and its panic stops everything.
fn guarded<T, F: Future<Output = T>>(stop: &CancellationToken, task: F) -> impl Future<Output = T> + use<T, F> {
    let stop = stop.clone();
    async move {
        let guard = stop.drop_guard();
        let done = task.await;
        guard.disarm();
        done
    }
}

/// The same, and its end stops everything.
fn last<T, F: Future<Output = T>>(stop: &CancellationToken, task: F) -> impl Future<Output = T> + use<T, F> {
    let stop = stop.clone();
    async move {
        let _guard = stop.drop_guard();
        task.await
    }
}
