//! What goes wrong, or is a lot, beside the data path.

use std::{sync::Arc, time::Duration};

use envoy_types::pb::envoy::service::status::v3::{
    ClientStatusRequest, client_status_discovery_service_client::ClientStatusDiscoveryServiceClient,
};
use hyper_util::rt::TokioIo;
use tokio::{
    net::UnixStream,
    task::JoinSet,
    time::{MissedTickBehavior, interval},
};
use tonic::transport::{Endpoint, Uri};

use super::{
    garbage,
    stage::{Stage, tcp},
};

/// One trouble, and how the operator notices it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Trouble {
    pub(crate) name: &'static str,
    /// What the configuration says; `$/` stands for the stage's directory.
    pub(crate) yaml: &'static str,
    /// What a shell does before it becomes the program.
    pub(crate) shell: &'static str,
    /// What somebody does all the time.
    pub(crate) work: Work,
    /// Texts that are in the log then.
    pub(crate) logged: &'static [&'static str],
    /// Beginnings of samples that are more than zero then.
    pub(crate) counted: &'static [&'static str],
}

/// What somebody does all the time.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Work {
    Nothing,
    /// A page each 10 ms.
    Get(&'static str),
    /// The Client Status Discovery Service each 10 ms.
    Csds,
    /// Four at a time, as fast as they are answered, over TCP.
    Flood(fn(usize) -> Vec<u8>),
    /// A configuration that is put into force, or refused, each 20 ms.
    Reload(&'static [&'static str]),
}

const NOTHING: Trouble =
    Trouble { name: "nothing", yaml: "", shell: "", work: Work::Nothing, logged: &[], counted: &[] };
const PACE: Duration = Duration::from_millis(10);
/// Too many for somebody who waits for the answers of one of them.
const FLOODERS: usize = 4;
const GOOD: &str = "spiffe_sds_http_requests_total{endpoint=\"admin\",class=\"2xx\"}";

impl Trouble {
    pub(crate) const fn none() -> Self {
        NOTHING
    }

    /// Every trouble there is.
    pub(crate) fn all() -> Vec<Self> {
        [callbacks(), files(), readers(), changes()].concat()
    }

    /// Makes it; until the tasks are dropped.
    pub(crate) fn begin(&self, stage: &Arc<Stage>) -> JoinSet<()> {
        let mut tasks = JoinSet::new();
        match self.work {
            Work::Nothing => {}
            Work::Get(path) => drop(tasks.spawn(get(stage.clone(), path))),
            Work::Csds => drop(tasks.spawn(csds(stage.clone()))),
            Work::Flood(request) => {
                for first in 0..FLOODERS {
                    tasks.spawn(flood(stage.clone(), request, first));
                }
            }
            Work::Reload(texts) => drop(tasks.spawn(reload(stage.clone(), texts))),
        }
        tasks
    }

    /// What the operator should notice and does not.
    pub(crate) async fn unnoticed(&self, stage: &Stage) -> Vec<String> {
        let mut unnoticed = Vec::new();
        for text in self.logged {
            if !stage.logs(text).await {
                unnoticed.push(format!("{}: the log does not say {text:?}", self.name));
            }
        }
        for sample in self.counted {
            if !stage.counts(sample).await {
                unnoticed.push(format!("{}: {sample} is not counted", self.name));
            }
        }
        unnoticed
    }
}

fn callbacks() -> Vec<Trouble> {
    vec![
        Trouble {
            name: "a hook that hangs",
            yaml: "hooks: [{name: it, events: [all], exec: {command: [/bin/sleep, '600']}, timeout: 1s, attempts: 1}]",
            logged: &["ran for longer than 1s and was killed"],
            counted: &["spiffe_sds_callbacks_total{hook=\"it\",result=\"failed\"}"],
            ..NOTHING
        },
        Trouble {
            name: "a hook that fails",
            yaml: "hooks: [{name: it, events: [all], exec: {command: [/bin/false]}, attempts: 2, \
                   backoff: {initial: 10ms, max: 10ms}}]",
            logged: &["callback failed, it will be tried again", "callback failed, this event is not tried again"],
            counted: &["spiffe_sds_callbacks_total{hook=\"it\",result=\"retried\"}"],
            ..NOTHING
        },
        Trouble {
            name: "a webhook that is down",
            yaml: "hooks: [{name: it, events: [all], webhook: {url: 'http://localhost/', socket: '$/none', queue: 1}}]",
            logged: &["cannot connect to http://localhost", "callback_dropped"],
            counted: &["spiffe_sds_callbacks_total{hook=\"it\",result=\"dropped\"}"],
            ..NOTHING
        },
        Trouble {
            name: "a webhook that is mute",
            yaml: "hooks: [{name: it, events: [all], webhook: {url: 'http://localhost/', socket: '$/mute.sock', queue: 1}, \
                   timeout: 1s, attempts: 1}]",
            logged: &["took longer than 1s and was given up"],
            counted: &["spiffe_sds_callbacks_total{hook=\"it\",result=\"failed\"}"],
            ..NOTHING
        },
    ]
}

fn files() -> Vec<Trouble> {
    vec![
        Trouble {
            name: "a full disk",
            // A limit on the size of files is what a full disk looks like to a process, and needs no rights.
            yaml: "outputs: [{directory: '$/out'}]",
            shell: "mkdir \"${1%/*}/out\"; trap '' XFSZ; ulimit -f 1; ",
            logged: &["files cannot be written, the last good ones stay"],
            counted: &["spiffe_sds_outputs_total{directory=\"$/out\",result=\"failed\"}"],
            ..NOTHING
        },
        Trouble {
            name: "a read-only directory",
            // Permissions do not stop root, and this does.
            yaml: "outputs: [{directory: /sys/kernel}]",
            logged: &["files cannot be written, the last good ones stay"],
            counted: &["spiffe_sds_outputs_total{directory=\"/sys/kernel\",result=\"failed\"}"],
            ..NOTHING
        },
    ]
}

fn readers() -> Vec<Trouble> {
    let work = |name, work, counted| Trouble { name, work, counted, ..NOTHING };
    vec![
        work("a scrape each 10 ms", Work::Get("/metrics"), &[GOOD]),
        work("the page each 10 ms", Work::Get("/"), &[GOOD]),
        work("all clients each 10 ms", Work::Get("/debug/clients?limit=1000"), &[GOOD]),
        work("CSDS each 10 ms", Work::Csds, &[GOOD]),
        work("a flood of page requests", Work::Flood(garbage::polite), &[GOOD]),
        work(
            "a flood of garbage",
            Work::Flood(garbage::rude),
            &[
                "spiffe_sds_http_requests_total{endpoint=\"admin\",class=\"broken\"}",
                "spiffe_sds_http_requests_total{endpoint=\"admin\",class=\"4xx\"}",
            ],
        ),
    ]
}

fn changes() -> Vec<Trouble> {
    vec![
        Trouble {
            name: "reloads all the time",
            work: Work::Reload(&["drain_deadline: 3s", "drain_deadline: 4s"]),
            // A file that is never left alone is never read half.
            logged: &["the new configuration is wrong, the old one stays in force"],
            counted: &["spiffe_sds_reloads_total{result=\"refused\"}"],
            ..NOTHING
        },
        Trouble {
            name: "a wrong configuration",
            work: Work::Reload(&["drain_deadline: never\nlogs: 1\n", "wildcard: 7\nhooks: 3\n"]),
            logged: &["the new configuration is wrong, the old one stays in force"],
            counted: &["spiffe_sds_reloads_total{result=\"refused\"}"],
            ..NOTHING
        },
        Trouble { name: "the log at debug", yaml: "log: {filter: debug}", logged: &["resource sent"], ..NOTHING },
    ]
}

async fn get(stage: Arc<Stage>, path: &'static str) {
    let mut pace = paced(PACE);
    loop {
        pace.tick().await;
        let answer = stage.get(path).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{path}: {}", answer.lines().next().unwrap_or("nothing"));
    }
}

async fn csds(stage: Arc<Stage>) {
    let path = stage.at("admin.sock");
    let dial = move |_: Uri| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    };
    let endpoint = Endpoint::from_static("http://localhost");
    let channel = endpoint.connect_with_connector(tower::service_fn(dial)).await.unwrap();
    let mut client = ClientStatusDiscoveryServiceClient::new(channel).max_decoding_message_size(64 << 20);
    let mut pace = paced(PACE);
    loop {
        pace.tick().await;
        let answer = client.fetch_client_status(ClientStatusRequest::default()).await.unwrap().into_inner();
        assert_eq!(answer.config.len(), 1, "the crowd is one client");
    }
}

async fn flood(stage: Arc<Stage>, request: fn(usize) -> Vec<u8>, first: usize) {
    let address = stage.address().await;
    for number in (first..).step_by(FLOODERS) {
        tcp(&address, &request(number)).await;
    }
}

async fn reload(stage: Arc<Stage>, texts: &'static [&'static str]) {
    let mut pace = paced(PACE * 2);
    for text in texts.iter().cycle() {
        pace.tick().await;
        stage.reload(text);
    }
}

fn paced(pace: Duration) -> tokio::time::Interval {
    let mut pace = interval(pace);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    pace
}
