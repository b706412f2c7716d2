//! The configuration file, flags and environment, as one validated value.
//!
//! A [`Config`] can only be built valid, and everything that is wrong with one is said at once. The way there:
//!
//! ```text
//!   YAML --tree--> values with places --env--> flags and variables on top --shape--> only what the schema allows
//!        --raw--> typed --compose--> the Config of each subsystem
//! ```
//!
//! The environment is a parameter ([`Sources`]); only the command line reads the real one.

mod compose;
mod diff;
mod env;
mod error;
mod file;
mod raw;
mod scalar;
mod shape;
#[cfg(test)]
mod tests;
mod tree;

use std::{collections::BTreeMap, path::Path, sync::Arc};

pub use diff::{Change, Setting, changes, diff, settings};
pub use env::{ADMIN, FILE};
pub use error::{Error, Origin, Problem, Problems};
pub use file::File;
pub use shape::{Key, keys, schema};

use crate::{
    admin, hooks, output, secret,
    server::{self, bundles},
    source::{self, failover, jwt, supervisor, warm},
    systemd,
    telemetry::{logs, traces},
};

/// Everything the server needs to know before it starts. Valid by construction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    sources: Vec<source::Config>,
    source_limits: source::decode::Limits,
    failover: failover::Config,
    supervisor: supervisor::Config,
    jwt: jwt::Config,
    secrets: secret::Config,
    server: server::Config,
    bundles: bundles::Config,
    admin: admin::Config,
    hooks: Vec<hooks::Config>,
    outputs: Vec<output::Config>,
    logs: logs::Config,
    traces: Option<traces::Config>,
    systemd: systemd::Config,
    warm_start: Option<warm::Config>,
}

/// All that a configuration is made of. Nothing else has an influence.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The configuration file, if there is one.
    pub file: Option<File>,
    /// The environment: `SPIFFE_SDS_...` for every key, `SPIFFE_ENDPOINT_SOCKET`, and
    /// `CREDENTIALS_DIRECTORY` where a key names a credential. Others are ignored.
    pub variables: BTreeMap<String, String>,
    /// What the command line says; stronger than everything else.
    pub flags: Vec<Flag>,
}

/// A flag that stands for a key of the file.
#[derive(Clone, Debug)]
pub struct Flag {
    /// As the user wrote it, such as `--endpoint`.
    pub flag: &'static str,
    /// Dotted, such as `source.workload_api.endpoint`. Unknown keys are reported.
    pub key: String,
    /// As a variable would hold it: lists have commas.
    pub value: String,
}

impl Config {
    /// Puts flags over variables over the file over the defaults, and checks the result.
    ///
    /// # Errors
    /// Everything that is wrong, each with its place, key and fix.
    pub fn new(sources: &Sources) -> Result<Self, Problems> {
        let (tree, problems) = effective(sources)?;
        let credentials = sources.variables.get("CREDENTIALS_DIRECTORY").map(Path::new);
        compose::compose(&tree, problems, credentials)
    }

    /// The sources of identities, the preferred one first; never empty.
    #[must_use]
    pub fn sources(&self) -> &[source::Config] {
        &self.sources
    }

    /// How much of each thing one message of a source may hold.
    #[must_use]
    pub fn source_limits(&self) -> &source::decode::Limits {
        &self.source_limits
    }

    /// When one of them takes the place of another.
    #[must_use]
    pub fn failover(&self) -> &failover::Config {
        &self.failover
    }

    /// How their failures are treated.
    #[must_use]
    pub fn supervisor(&self) -> &supervisor::Config {
        &self.supervisor
    }

    /// The tokens to keep fresh.
    #[must_use]
    pub fn jwt(&self) -> &jwt::Config {
        &self.jwt
    }

    /// What is served under which names.
    #[must_use]
    pub fn secrets(&self) -> &secret::Config {
        &self.secrets
    }

    /// Where and to whom.
    #[must_use]
    pub fn server(&self) -> &server::Config {
        &self.server
    }

    /// Where the public keys of each trust domain are served over HTTP, if anywhere.
    #[must_use]
    pub fn bundles(&self) -> &bundles::Config {
        &self.bundles
    }

    /// Where operators and monitoring look.
    #[must_use]
    pub fn admin(&self) -> &admin::Config {
        &self.admin
    }

    /// Where the last good identity is sealed; nowhere by default.
    #[must_use]
    pub fn warm_start(&self) -> Option<&warm::Config> {
        self.warm_start.as_ref()
    }

    /// How we live with the service manager.
    #[must_use]
    pub fn systemd(&self) -> &systemd::Config {
        &self.systemd
    }

    /// Who is told of events.
    #[must_use]
    pub fn hooks(&self) -> &[hooks::Config] {
        &self.hooks
    }

    /// Files for programs that do not speak SDS.
    #[must_use]
    pub fn outputs(&self) -> &[output::Config] {
        &self.outputs
    }

    /// What is logged.
    #[must_use]
    pub fn logs(&self) -> &logs::Config {
        &self.logs
    }

    /// Where traces are sent; nowhere by default.
    #[must_use]
    pub fn traces(&self) -> Option<&traces::Config> {
        self.traces.as_ref()
    }
}

/// What is written, the strongest source on top, and what of it is not allowed.
fn effective(sources: &Sources) -> Result<(tree::Node, Vec<Problem>), Problems> {
    let mut problems = Vec::new();
    let name: Arc<str> =
        sources.file.as_ref().map_or_else(|| Arc::from(""), |file| Arc::from(file.path.to_string_lossy()));
    let text = sources.file.as_ref().map_or("", |file| &file.text);
    // With a file that cannot be read, or is no mapping, every further complaint would be a guess.
    let mut tree = tree::Node::parse(text, &name)?;
    if let Some(problem) = shape::not_a_mapping(&tree) {
        return Err(problem.into());
    }
    env::overlay(&mut tree, sources, &mut problems);
    shape::prune(&mut tree, &mut problems);
    Ok((tree, problems))
}

/// The candidate that was probably meant by `word`, if one is near enough to be a typing mistake.
fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let distance = |candidate: &&str| strsim::damerau_levenshtein(&word.to_lowercase(), &candidate.to_lowercase());
    let nearest = candidates.into_iter().min_by_key(distance)?;
    (distance(&nearest) <= (nearest.len().max(word.len()) / 3).max(1)).then_some(nearest)
}

/// A value for an error message: in quotes, control characters escaped, and not longer than a line.
fn quoted(text: &str) -> String {
    const LONGEST: usize = 120;
    if text.chars().count() <= LONGEST {
        return format!("{text:?}");
    }
    let start: String = text.chars().take(LONGEST).collect();
    format!("{start:?}... ({} bytes)", text.len())
}
