//! The program under test, in the test's process, and what it tells its library users.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use spiffe_sds::{
    app::{App, AppError},
    config::{self, Sources},
    server::StreamEvent,
    source::{RenewalEvent, SourceStatus},
};
use tempfile::TempDir;
use tokio::{
    sync::{broadcast, watch},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use super::{BOUND, STANDBY};

/// The program under test, from one start to its stop.
pub struct Program {
    task: JoinHandle<Result<(), AppError>>,
    stop: CancellationToken,
    source: watch::Receiver<SourceStatus>,
    seen: Arc<Mutex<Seen>>,
}

/// What it told its library users.
#[derive(Default)]
struct Seen {
    streams: Vec<(Instant, StreamEvent)>,
    renewals: Vec<(Instant, RenewalEvent)>,
}

/// A resource that went to an Envoy.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Delivery {
    /// `server` or `client`.
    pub node: String,
    pub name: String,
    pub version: String,
}

impl Program {
    pub async fn start(dir: &TempDir, standby: bool) -> Self {
        let sds = dir.path().join("sds.sock");
        let agents = ["agent.sock", STANDBY].map(|name| format!("\"unix://{}\"", dir.path().join(name).display()));
        let agents = agents.get(..1 + usize::from(standby)).unwrap_or_default().join(", ");
        let text = format!(
            "source:\n  workload_api: {{ endpoints: [{agents}] }}\n  backoff: {{ initial: 50ms, max: 500ms }}\n  \
             failover: {{ lost_after: 200ms, failback_after: 1s }}\n\
             listeners:\n  - unix: {{ path: \"{}\" }}\ndrain_deadline: 2s\n",
            sds.display()
        );
        let file = config::File { path: "e2e.yaml".into(), text };
        let config = config::Config::new(&Sources { file: Some(file), variables: BTreeMap::new(), flags: Vec::new() });
        let app = App::bind(&config.unwrap_or_else(|problems| panic!("{problems}"))).await.unwrap();
        let seen = Arc::new(Mutex::new(Seen::default()));
        tokio::spawn(follow(app.streams(), seen.clone(), |seen, event| seen.streams.push(event)));
        tokio::spawn(follow(app.renewals(), seen.clone(), |seen, event| seen.renewals.push(event)));
        let (source, stop) = (app.source(), CancellationToken::new());
        Self { task: tokio::spawn(app.run(stop.clone())), stop, source, seen }
    }

    /// Stops it as SIGTERM does and waits until it is gone.
    pub async fn stop(&mut self) {
        self.stop.cancel();
        let ended = tokio::time::timeout(BOUND, &mut self.task).await.expect("the program ends");
        ended.expect("no panic").expect("a clean end");
    }

    /// How its source does.
    pub fn source(&self) -> watch::Receiver<SourceStatus> {
        self.source.clone()
    }

    /// What happened on streams since its start, in order.
    pub fn stream_events(&self) -> Vec<StreamEvent> {
        self.seen.lock().unwrap().streams.iter().map(|(_, event)| event.clone()).collect()
    }

    /// Everything that was sent since its start, in order.
    pub fn deliveries(&self) -> Vec<Delivery> {
        let sent = self.stream_events().into_iter().filter_map(|event| match event {
            StreamEvent::Sent { client, name, version, .. } => {
                Some(Delivery { node: client.node.clone(), name: name.to_string(), version: version.to_string() })
            }
            _ => None,
        });
        sent.collect()
    }

    /// For a test that fails.
    pub fn print_last_events(&self) {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let mut lines: Vec<_> = seen.streams.iter().map(|(at, event)| (*at, brief(event))).collect();
        lines.extend(seen.renewals.iter().map(|(at, event)| (*at, format!("{event:?}"))));
        lines.sort();
        for (at, line) in lines.iter().skip(lines.len().saturating_sub(60)) {
            println!("{:>8.3} s ago  {line}", at.elapsed().as_secs_f64());
        }
    }
}

async fn follow<E: Clone>(
    mut events: broadcast::Receiver<E>,
    seen: Arc<Mutex<Seen>>,
    keep: impl Fn(&mut Seen, (Instant, E)),
) {
    loop {
        match events.recv().await {
            Ok(event) => keep(&mut seen.lock().unwrap(), (Instant::now(), event)),
            Err(broadcast::error::RecvError::Lagged(missed)) => panic!("{missed} events missed"),
            Err(broadcast::error::RecvError::Closed) => return,
        }
    }
}

fn brief(event: &StreamEvent) -> String {
    match event {
        StreamEvent::Opened { client } => format!("{} opened", client.node),
        StreamEvent::Sent { client, name, version, .. } => format!("{} <- {name} @ {version}", client.node),
        StreamEvent::Acked { client, name, version, latency } => {
            format!("{} -> ACK {name} @ {version} after {latency:?}", client.node)
        }
        StreamEvent::Nacked { client, name, version, detail } => {
            format!("{} -> NACK {name} @ {version}: {detail}", client.node)
        }
        StreamEvent::Closed { client, code } => format!("{} closed {code:?}", client.node),
        _ => format!("{event:?}"),
    }
}
