//! The configuration in force, told to the admin pages.

use std::{path::Path, sync::Arc, time::SystemTime};

use tokio::sync::watch;

use super::reload::ReloadError;
use crate::{
    admin::view::{self, Configuration, Origin, Reloaded},
    config::{self, Problem, Sources},
    telemetry::{
        journal::{Journal, Weight},
        logs::chain,
        metrics::Outcomes,
    },
};

/// What the pages show; none until somebody has said what the program was made of.
pub(super) type Shown = watch::Sender<Option<Arc<Configuration>>>;

/// What is counted about reloads.
pub(super) fn metrics() -> Outcomes {
    let metrics = Outcomes::of_one();
    metrics.begin("", &["applied", "refused"]);
    metrics
}

/// Tells the pages, the journal and the metrics.
pub(super) struct Standing {
    shown: Shown,
    journal: Journal,
    metrics: Outcomes,
    started: SystemTime,
}

impl Standing {
    /// The program was started with `sources`.
    pub(super) fn new(shown: Shown, journal: Journal, metrics: Outcomes, sources: &Sources) -> Self {
        let standing = Self { shown, journal, metrics, started: SystemTime::now() };
        standing.show(sources, sources, None);
        standing
    }

    /// It was read again, and what is `live` has changed to `current`.
    pub(super) fn applied(&self, started: &Sources, current: &Sources, changes: &[config::Change]) {
        self.metrics.count("", "applied", 1);
        self.metrics.good("", SystemTime::now());
        let (live, waiting): (Vec<_>, Vec<_>) = changes.iter().partition(|change| change.live);
        let reload = Reloaded {
            at: view::seconds(SystemTime::now()),
            applied: true,
            changes: live.iter().map(|change| told(change)).collect(),
            problems: Vec::new(),
        };
        self.show(started, current, Some(reload));
        let detail = format!("{} applied, {} waiting for a restart", live.len(), waiting.len());
        self.journal.note(Weight::Notice, "configuration_reloaded", "", &detail, &"");
    }

    /// It was read again, and is wrong.
    pub(super) fn refused(&self, error: &ReloadError) {
        self.metrics.count("", "refused", 1);
        let problems = match error {
            ReloadError::Invalid(problems) => problems.iter().map(shown).collect(),
            ReloadError::Read(error) => vec![chain(error)],
        };
        let detail = format!("{} problems", problems.len());
        self.shown.send_modify(|configuration| {
            let mut now = configuration.as_deref().cloned().unwrap_or_default();
            let at = view::seconds(SystemTime::now());
            now.last_reload = Some(Reloaded { at, applied: false, changes: Vec::new(), problems });
            *configuration = Some(Arc::new(now));
        });
        self.journal.note(Weight::Problem, "configuration_refused", "", &detail, &"");
    }

    fn show(&self, started: &Sources, current: &Sources, last_reload: Option<Reloaded>) {
        // Both were read before: what cannot be told is nothing.
        let settings = |sources| config::settings(sources).unwrap_or_default().into_iter();
        let live = settings(current).filter(|setting| setting.live);
        let mut settings: Vec<_> = live.chain(settings(started).filter(|setting| !setting.live)).map(setting).collect();
        settings.sort_by(|a, b| a.key.cmp(&b.key));
        let changes = config::diff(started, current).unwrap_or_default();
        let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        self.shown.send_replace(Some(Arc::new(Configuration {
            file: started.file.as_ref().map(|file| absolute(&file.path).display().to_string()),
            started: view::seconds(self.started),
            settings,
            waiting: changes.iter().filter(|change| !change.live).map(told).collect(),
            last_reload,
        })));
    }
}

fn setting(setting: config::Setting) -> view::Setting {
    let from = match &setting.origin {
        None => Origin::Default,
        Some(origin) if origin.is_in_file() => Origin::File,
        Some(origin) if origin.source().starts_with('-') => Origin::Flag,
        Some(_) => Origin::Variable,
    };
    let origin = setting.origin.map_or_else(|| "default".to_owned(), |origin| origin.to_string());
    view::Setting { key: setting.key, value: setting.value, from, origin, live: setting.live }
}

fn told(change: &config::Change) -> view::Change {
    let config::Change { key, old, new, live } = change.clone();
    view::Change { key, old, new, live }
}

/// A problem repeats the value that is wrong, and that of a callback may be a credential.
fn shown(problem: &Problem) -> String {
    if problem.key().starts_with("hooks") {
        return format!("{}: wrong; the log and `spiffe-sds check --offline` say why", problem.key());
    }
    problem.to_string()
}
