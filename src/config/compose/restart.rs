//! What makes a restart cheap: the service manager, and the sealed identity.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use super::{super::quoted, Compose, raw};
use crate::{
    source::warm,
    systemd::{self, notify::ReadyWhen},
};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Words that are none of these were refused by the schema.
pub(super) fn systemd(raw: &raw::Systemd) -> systemd::Config {
    let ready = if raw.ready.as_deref() == Some("listening") { ReadyWhen::Listening } else { ReadyWhen::Identity };
    let store = match raw.keep_sockets.as_deref() {
        Some("always") => Some(true),
        Some("never") => Some(false),
        _ => None,
    };
    systemd::Config { ready, store }
}

impl Compose {
    /// `credentials` is the directory of systemd's credentials, if there is one.
    pub(super) fn warm_start(&mut self, raw: raw::WarmStart, credentials: Option<&Path>) -> Option<warm::Config> {
        let section = "warm_start";
        let max_age = self.duration("warm_start.max_age", raw.max_age, DAY, Duration::from_secs(60)..=30 * DAY);
        let (given, keys) = (raw.path.is_some(), (raw.key_file.is_some(), raw.credential.is_some()));
        let path = self.parse("warm_start.path", raw.path, |text| absolute(&text));
        let file = self.parse("warm_start.key_file", raw.key_file, |text| absolute(&text)).map(warm::Key::File);
        let credential = self.parse("warm_start.credential", raw.credential, |text| credential(&text, credentials));
        match (given, keys) {
            (_, (true, true)) => self.complain("warm_start.credential", "is a second key beside `key_file`; keep one"),
            (true, (false, false)) if self.is_sound(section) => {
                self.complain("warm_start.path", "needs a key; write `key_file` or `credential` beside it");
            }
            (false, (true, _) | (_, true)) if self.is_sound(section) => {
                self.complain(section, "has a key and no `path`; write where the sealed file shall be");
            }
            _ => {}
        }
        let key = file.or(credential)?;
        let (warm::Key::File(key_path) | warm::Key::Credential(key_path)) = &key;
        let path = path?;
        if *key_path == path {
            self.complain("warm_start.path", "is the key's file; the sealed file would replace it");
        }
        Some(warm::Config { path, key, max_age })
    }
}

fn absolute(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    if path.is_absolute() && path.file_name().is_some() && !text.ends_with('/') {
        Ok(path)
    } else {
        Err(format!("{} is not the absolute path of a file", quoted(text)))
    }
}

fn credential(name: &str, directory: Option<&Path>) -> Result<warm::Key, String> {
    if name.is_empty() || name.starts_with('.') || name.contains('/') {
        return Err(format!(
            "{} is not the name of a credential; write it as in LoadCredentialEncrypted=",
            quoted(name)
        ));
    }
    match directory {
        Some(directory) => Ok(warm::Key::Credential(directory.join(name))),
        None => Err("needs systemd, which sets CREDENTIALS_DIRECTORY; outside of a unit use `key_file`".to_owned()),
    }
}
