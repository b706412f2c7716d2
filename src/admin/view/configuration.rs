//! The configuration in force.

use serde::{Deserialize, Serialize};

/// What the server runs with, and what it was last told to run with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Configuration {
    /// The file, absolute; none if everything comes from variables and flags.
    pub file: Option<String>,
    /// When the server started with it.
    pub started: String,
    /// Every key that has a value, in the order of their names.
    pub settings: Vec<Setting>,
    /// Changes that were read and wait for a restart.
    pub waiting: Vec<Change>,
    /// The last time that it was read again.
    pub last_reload: Option<Reloaded>,
}

/// A key and its value. What may be a credential is hidden.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setting {
    /// Dotted, such as `secrets.wildcard`.
    pub key: String,
    /// As it would be written; lists as JSON.
    pub value: String,
    /// What decided it.
    pub from: Origin,
    /// Where it was written: a place in the file, a variable or a flag; `default` otherwise.
    pub origin: String,
    /// Whether it changes while the program runs.
    pub live: bool,
}

/// What decides a value, the strongest last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// Nothing was written.
    Default,
    /// The configuration file.
    File,
    /// A variable of the environment.
    Variable,
    /// The command line.
    Flag,
}

/// A key that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Dotted.
    pub key: String,
    /// What it is.
    pub old: Option<String>,
    /// What it would be.
    pub new: Option<String>,
    /// Whether it changes while the program runs.
    pub live: bool,
}

/// One reading of the configuration while the program ran.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// When.
    pub at: String,
    /// Whether it is in force now, as far as that goes without a restart.
    pub applied: bool,
    /// What changed at once.
    pub changes: Vec<Change>,
    /// Everything that is wrong with it, when it was not applied.
    pub problems: Vec<String>,
}

impl Configuration {
    /// One line for people: the file, when it was read last, what waits.
    #[must_use]
    pub fn summary(&self) -> String {
        let file = self.file.as_deref().unwrap_or("no file, variables and flags alone");
        let read = match &self.last_reload {
            None => format!("since {}", self.started),
            Some(reload) if reload.applied => format!("reloaded at {}", reload.at),
            Some(reload) => format!("REFUSED at {}, the one before stays in force", reload.at),
        };
        let waiting = match self.waiting.len() {
            0 => String::new(),
            1 => ", 1 change waits for a restart".to_owned(),
            count => format!(", {count} changes wait for a restart"),
        };
        format!("{file}, {read}{waiting}")
    }

    /// Whether the file says something that is not in force because it is wrong.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        self.last_reload.as_ref().is_some_and(|reload| !reload.applied)
    }

    /// The values that somebody has written.
    #[must_use]
    pub fn written(&self) -> Vec<&Setting> {
        self.settings.iter().filter(|setting| setting.from != Origin::Default).collect()
    }
}

impl Change {
    /// The old or new value for people.
    #[must_use]
    pub fn value(value: &Option<String>) -> &str {
        value.as_deref().unwrap_or("(not set)")
    }
}
