//! The whole program as its configuration describes it, with a development issuer to follow.

use std::{path::PathBuf, sync::Arc};

use spiffe_sds::{
    app::{App, AppError},
    config::{Config, File, Sources},
    dev::{self, DevIssuer, Rotation},
    hooks::HookEvent,
    output::OutputEvent,
    source::{Endpoint, RenewalEvent},
};
use tempfile::TempDir;
use tokio::{sync::broadcast, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use super::world::{DOMAIN, bounded, id, td};

/// A directory with an issuer in it, and what belongs to a test.
pub struct Place {
    pub directory: TempDir,
    pub issuer: Arc<DevIssuer>,
}

/// A running program.
pub struct Running {
    pub callbacks: broadcast::Receiver<HookEvent>,
    pub files: broadcast::Receiver<OutputEvent>,
    pub renewals: broadcast::Receiver<RenewalEvent>,
    pub socket: PathBuf,
    stop: CancellationToken,
    task: JoinHandle<Result<(), AppError>>,
}

impl Place {
    /// One identity, `spiffe://domain.test/workload`.
    pub async fn new() -> Self {
        Self::with(|_| {}).await
    }

    /// The same, changed.
    pub async fn with(change: impl FnOnce(&mut dev::Config)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut config = dev::Config::new(td(DOMAIN), Endpoint::Unix(directory.path().join("api.sock")));
        config.rotation = Rotation::Never;
        config = config.identity(id("workload"), None);
        change(&mut config);
        Self { issuer: Arc::new(DevIssuer::start(config).await.unwrap()), directory }
    }

    /// A path in the directory.
    pub fn at(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.at(name)).unwrap_or_default()
    }

    /// The configuration file: source and listener, and `more`, in which `$/` stands for the directory.
    pub fn yaml(&self, more: &str) -> String {
        let directory = self.directory.path().display().to_string();
        format!(
            "source: {{workload_api: {{endpoint: 'unix://{directory}/api.sock'}}, backoff: {{initial: 10ms, max: 100ms}}}}\n\
             listeners: [{{unix: {{path: '{directory}/sds.sock', mode: '0600'}}}}]\n{}",
            more.replace("$/", &format!("{directory}/"))
        )
    }

    /// Starts the program with this configuration.
    pub async fn run(&self, more: &str) -> Running {
        let file = File { path: "sds.yaml".into(), text: self.yaml(more) };
        let config = Config::new(&Sources { file: Some(file), ..Sources::default() });
        let app = App::bind(&config.unwrap_or_else(|problems| panic!("{problems}"))).await.unwrap();
        let stop = CancellationToken::new();
        Running {
            callbacks: app.callbacks(),
            files: app.files(),
            renewals: app.renewals(),
            socket: self.at("sds.sock"),
            task: tokio::spawn(app.run(stop.clone())),
            stop,
        }
    }
}

impl Running {
    /// What becomes of the next attempt of a callback.
    pub async fn callback(&mut self) -> HookEvent {
        bounded(self.callbacks.recv()).await.expect("events were missed")
    }

    /// Until the certificate with this serial number is in service.
    pub async fn renewed(&mut self, wanted: &str) {
        let renewed = |event| matches!(event, RenewalEvent::Renewed { serial, .. } if *serial == *wanted);
        bounded(async { while !renewed(self.renewals.recv().await.expect("events were missed")) {} }).await;
    }

    /// Until files could not be written.
    pub async fn not_written(&mut self) {
        bounded(async { while !matches!(self.file().await, OutputEvent::Failed { .. }) {} }).await;
    }

    /// The next generation of files.
    pub async fn written(&mut self) -> String {
        let written = async {
            loop {
                if let OutputEvent::Written { generation, .. } = self.file().await {
                    return generation.to_string();
                }
            }
        };
        bounded(written).await
    }

    /// What becomes of files next.
    pub async fn file(&mut self) -> OutputEvent {
        bounded(self.files.recv()).await.expect("events were missed")
    }

    pub async fn stop(self) {
        self.stop.cancel();
        bounded(self.task).await.unwrap().unwrap();
    }
}
