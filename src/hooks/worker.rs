//! The task of one callback: takes events in, asks the plan, starts attempts, and reports what becomes of them.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    Action, ActionError, Config, HookEvent,
    event::Outlet,
    exec,
    notice::Shared,
    plan::{Plan, Run, Verdict},
    signal, webhook,
};
use crate::telemetry::logs;

struct Worker {
    config: Arc<Config>,
    hook: Arc<str>,
    plan: Plan,
    attempts: JoinSet<Done>,
    outlet: Outlet,
    stop: CancellationToken,
}

/// An attempt that is over.
struct Done {
    run: Run,
    result: Result<(), ActionError>,
    took: Duration,
}

/// Serves one callback until `stop` or the end of `notices`; then ends the programs that run.
pub(super) async fn run(config: Config, mut notices: mpsc::Receiver<Shared>, outlet: Outlet, stop: CancellationToken) {
    let mut worker = Worker {
        hook: config.name.as_str().into(),
        plan: Plan::new(config.rules(), fastrand::Rng::new()),
        config: Arc::new(config),
        attempts: JoinSet::new(),
        outlet,
        // Attempts hear of both ends.
        stop: stop.child_token(),
    };
    loop {
        for run in worker.plan.due(now()) {
            worker.start(run);
        }
        // Whatever became due since then is next all the same: nothing else would wake us for it.
        let next = worker.plan.next_due();
        tokio::select! {
            () = stop.cancelled() => break,
            notice = notices.recv() => match notice {
                Some(notice) => worker.offer(notice),
                None => break,
            },
            Some(done) = worker.attempts.join_next() => worker.finish(done),
            () = sleep_until(next.unwrap_or_else(Instant::now).into()), if next.is_some() => {}
        }
    }
    worker.stop.cancel();
    while worker.attempts.join_next().await.is_some() {}
}

/// Tokio's clock, which tests can pause, as the plan's.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

impl Worker {
    fn offer(&mut self, notice: Shared) {
        let dropped = self.plan.offer(notice);
        // For a program only the newest counts: that older ones go is how it shall be.
        if dropped > 0 && matches!(self.config.action, Action::Webhook(_)) {
            self.outlet.report(HookEvent::Dropped { hook: self.hook.clone(), count: dropped });
        } else if dropped > 0 {
            tracing::debug!(hook = %self.hook, "a newer event takes the place of one that waits");
        }
    }

    fn start(&mut self, run: Run) {
        let (config, stop) = (self.config.clone(), self.stop.clone());
        self.attempts.spawn(async move {
            let started = now();
            // In a task of its own, so that a defect in one attempt is a failure of that attempt.
            let attempt = tokio::spawn({
                let run = run.clone();
                async move { attempt(&config, &run, &stop).await }
            });
            let result = match attempt.await {
                Ok(result) => result,
                Err(defect) => Err(defect.into()),
            };
            Done { run, result, took: now() - started }
        });
    }

    fn finish(&mut self, done: Result<Done, tokio::task::JoinError>) {
        // What the attempt does runs in a task of its own, so nothing is left here that could panic.
        let Ok(Done { run, result, took }) = done else { return };
        let (hook, on, attempt) = (self.hook.clone(), run.notice.event, run.attempt.number);
        let outcome = match result {
            Ok(()) => {
                self.plan.succeeded(run.lane, run.attempt);
                HookEvent::Succeeded { hook, on, attempt, took }
            }
            Err(error) => {
                let retry_in = match self.plan.failed(run.lane, now()) {
                    Verdict::Retry(delay) => Some(delay),
                    Verdict::Superseded | Verdict::GivenUp => None,
                };
                HookEvent::Failed { hook, on, attempt, error: logs::chain(&error).into(), retry_in }
            }
        };
        self.outlet.report(outcome);
    }
}

async fn attempt(config: &Config, run: &Run, stop: &CancellationToken) -> Result<(), ActionError> {
    let other = async {
        match &config.action {
            Action::Exec(exec) => {
                let environment = run.notice.environment(run.attempt);
                return Ok(exec::run(exec, environment, config.timeout, stop).await?);
            }
            Action::Signal(signal) => bounded(config.timeout, signal::send(signal)).await??,
            Action::Webhook(webhook) => bounded(config.timeout, webhook::deliver(webhook, run)).await??,
        }
        Ok(())
    };
    match &config.action {
        // A program is ended in good order, and that takes a moment.
        Action::Exec(_) => other.await,
        _ => tokio::select! {
            result = other => result,
            // Nobody hears of it any more.
            () = stop.cancelled() => Ok(()),
        },
    }
}

async fn bounded<T>(bound: Duration, work: impl Future<Output = T>) -> Result<T, ActionError> {
    timeout(bound, work).await.map_err(|_| ActionError::Timeout(bound))
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use tokio::sync::broadcast;

    use super::*;
    use crate::{
        hooks::{Notice, backoff},
        telemetry::metrics::Outcomes,
    };

    /// Delays of about the time between two looks at the clock.
    #[tokio::test]
    async fn no_retry_is_forgotten() {
        for moment in [4, 8, 16, 32, 64].map(Duration::from_micros) {
            tried_again(moment).await;
        }
    }

    async fn tried_again(delay: Duration) {
        const ATTEMPTS: u32 = 1000;
        let missing =
            signal::Config { pid_file: "/nowhere/pid".into(), signal: nix::sys::signal::SIGHUP, process: None };
        let config = Config {
            attempts: ATTEMPTS,
            backoff: backoff::Config { initial: delay, max: delay },
            ..Config::new("it", &["event"], Action::Signal(missing))
        };
        let events = broadcast::Sender::new(2 * ATTEMPTS as usize);
        let mut told = events.subscribe();
        let outlet = Outlet { events, metrics: Outcomes::by("hook") };
        let (inbox, notices) = mpsc::channel(1);
        inbox.try_send(Arc::new(Notice::new("event", SystemTime::UNIX_EPOCH))).unwrap();
        let stop = CancellationToken::new();
        let running = tokio::spawn(run(config, notices, outlet, stop.clone()));
        for number in 1..=ATTEMPTS {
            let heard = timeout(Duration::from_secs(60), told.recv()).await;
            match heard.unwrap_or_else(|_| panic!("attempt {number} never came after {delay:?}")).unwrap() {
                HookEvent::Failed { attempt, .. } => assert_eq!(attempt, number),
                other => panic!("{other:?}"),
            }
        }
        stop.cancel();
        running.await.unwrap();
        drop(inbox);
    }
}
