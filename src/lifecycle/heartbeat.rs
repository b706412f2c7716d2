//! Signs of life: a task that everything depends on is asked, and answers from its own loop.
//!
//! Whoever asks sets the bound. A task that is stuck, or a runtime that is, does not answer in time; a task that is gone
//! does not answer at all.

use std::{future::pending, time::Duration};

use futures_util::future::join_all;
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};

/// Asks one task for a sign of life. Clones ask the same task.
#[derive(Clone, Debug)]
pub struct Heartbeat {
    name: &'static str,
    questions: mpsc::Sender<oneshot::Sender<()>>,
}

/// The end that the task keeps: it polls [`Responder::answer`] in its loop.
#[derive(Debug)]
pub struct Responder(mpsc::Receiver<oneshot::Sender<()>>);

/// A question that waits for its answer.
#[derive(Debug)]
pub struct Question(oneshot::Sender<()>);

/// A heartbeat of this name, and what answers it.
#[must_use]
pub fn heartbeat(name: &'static str) -> (Heartbeat, Responder) {
    let (questions, asked) = mpsc::channel(1);
    (Heartbeat { name, questions }, Responder(asked))
}

impl Heartbeat {
    /// What is asked, in words for operators.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// Whether the task answers within `bound`.
    pub async fn answers(&self, bound: Duration) -> bool {
        let answer = async {
            let (answer, answered) = oneshot::channel();
            self.questions.send(answer).await.is_ok() && answered.await.is_ok()
        };
        timeout(bound, answer).await.unwrap_or(false)
    }
}

impl Responder {
    /// Waits for the next question and answers it. Can be dropped at any time without losing one.
    pub async fn answer(&mut self) {
        self.question().await.answer();
    }

    /// Waits for the next question, to be answered once what it is about has been looked at.
    pub async fn question(&mut self) -> Question {
        match self.0.recv().await {
            Some(answer) => Question(answer),
            None => pending().await,
        }
    }
}

impl Question {
    /// Answers it.
    pub fn answer(self) {
        // Whoever asked may have given up.
        let _ = self.0.send(());
    }
}

/// The names of those that do not answer within `bound`; all are asked at the same time.
pub(super) async fn silent(heartbeats: &[Heartbeat], bound: Duration) -> Vec<&'static str> {
    let answers = join_all(heartbeats.iter().map(|heartbeat| heartbeat.answers(bound))).await;
    heartbeats.iter().zip(answers).filter(|(_, answers)| !answers).map(|(heartbeat, _)| heartbeat.name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUND: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn who_is_stuck_or_gone_is_named() {
        let (alive, mut responder) = heartbeat("alive");
        let (stuck, _kept) = heartbeat("stuck");
        let (gone, responder_of_gone) = heartbeat("gone");
        drop(responder_of_gone);
        tokio::spawn(async move {
            loop {
                responder.answer().await;
            }
        });
        let all = [alive.clone(), stuck, gone];
        // Twice: a question that nobody took is no answer to the next one.
        for _ in 0..2 {
            assert_eq!(silent(&all, BOUND).await, ["stuck", "gone"]);
        }
        assert!(alive.answers(BOUND).await);
    }

    #[tokio::test(start_paused = true)]
    async fn without_anybody_who_could_ask_nothing_spins() {
        let (heartbeat, mut responder) = heartbeat("nobody asks");
        drop(heartbeat);
        assert!(timeout(BOUND, responder.answer()).await.is_err());
    }
}
