//! Callbacks.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    time::Duration,
};

use http::{Uri, uri::Scheme};

use super::{Compose, MINUTE, raw, scalar};
use crate::{
    config::quoted,
    hooks::{self, Action, exec, signal, webhook},
    source::backoff,
};

const SHORTEST_TIMEOUT: Duration = Duration::from_millis(100);
const SHORTEST_DELAY: Duration = Duration::from_millis(10);
/// The kernel cuts names of processes off.
const LONGEST_PROCESS_NAME: usize = 15;

impl Compose {
    pub(super) fn hooks(&mut self, raw: Option<Vec<raw::Hook>>) -> Vec<hooks::Config> {
        let mut names = BTreeMap::new();
        let mut hooks = Vec::new();
        for (index, hook) in raw.unwrap_or_default().into_iter().enumerate() {
            let key = format!("hooks[{index}]");
            if let Some(hook) = self.hook(&key, hook) {
                self.once(names.insert(hook.name.clone(), key.clone()), &format!("{key}.name"));
                hooks.push(hook);
            }
        }
        hooks
    }

    fn hook(&mut self, key: &str, raw: raw::Hook) -> Option<hooks::Config> {
        let named = self.parse(&format!("{key}.name"), raw.name, |text| scalar::label(&text));
        let events = self.hook_events(key, raw.events.unwrap_or_default());
        let action = match (raw.exec, raw.signal, raw.webhook) {
            (Some(exec), None, None) => self.exec(&format!("{key}.exec"), exec).map(Action::Exec),
            (None, Some(signal), None) => self.signal(&format!("{key}.signal"), signal).map(Action::Signal),
            (None, None, Some(webhook)) => self.webhook(&format!("{key}.webhook"), webhook).map(Action::Webhook),
            (None, None, None) => {
                if self.is_sound(key) {
                    self.complain(key, "has none of `exec`, `signal` and `webhook`; write what it shall do");
                }
                None
            }
            _ => {
                self.complain(key, "has more than one of `exec`, `signal` and `webhook`; make them items of the list");
                None
            }
        };
        let default = hooks::Config::new(&named.unwrap_or_else(|| key.to_owned()), &[], action?);
        let timeout =
            self.duration(&format!("{key}.timeout"), raw.timeout, default.timeout, SHORTEST_TIMEOUT..=10 * MINUTE);
        let backoff = self.hook_backoff(key, raw.backoff, default.backoff);
        Some(hooks::Config { events, timeout, attempts: raw.attempts.unwrap_or(default.attempts), backoff, ..default })
    }

    fn hook_events(&mut self, key: &str, raw: Vec<raw::EventName>) -> BTreeSet<String> {
        let key_of_events = format!("{key}.events");
        if raw.is_empty() && self.is_sound(key) {
            self.complain(&key_of_events, "has no event; write which it shall be told, or [all]");
        }
        let known = raw::event_names().into_iter().filter(|name| *name != raw::ALL_EVENTS);
        if raw.iter().any(|raw::EventName(name)| name == raw::ALL_EVENTS) {
            return known.map(str::to_owned).collect();
        }
        // Unknown ones were complained about by the schema.
        raw.into_iter().map(|raw::EventName(name)| name).collect()
    }

    fn hook_backoff(&mut self, key: &str, raw: raw::HookBackoff, default: backoff::Config) -> backoff::Config {
        let max_key = format!("{key}.backoff.max");
        let initial = self.duration(
            &format!("{key}.backoff.initial"),
            raw.initial,
            default.initial,
            SHORTEST_DELAY..=10 * MINUTE,
        );
        let given = raw.max.is_some();
        let max = self.duration(&max_key, raw.max, default.max.max(initial), SHORTEST_DELAY..=60 * MINUTE);
        if given && initial > max && self.is_sound(key) {
            self.complain(&max_key, "is shorter than the first delay; raise it, or lower `initial`");
        }
        backoff::Config { initial, max }
    }

    fn exec(&mut self, key: &str, raw: raw::Exec) -> Option<exec::Config> {
        let key = format!("{key}.command");
        let mut command = raw.command.unwrap_or_default().into_iter().map(|raw::Argument(text)| text);
        let Some(program) = command.next() else {
            if self.is_sound(&key) {
                self.complain(&key, "is empty; write the program and its arguments, as a list");
            }
            return None;
        };
        let program = self.parse(&format!("{key}[0]"), Some(program), |text| scalar::file_path(&text).map(|_| text))?;
        let arguments: Vec<_> = command.collect();
        if let Some(index) = arguments.iter().position(|argument| argument.contains('\0')) {
            self.complain(&format!("{key}[{}]", index + 1), "holds a NUL character; remove it");
        }
        Some(exec::Config { program, arguments })
    }

    fn signal(&mut self, key: &str, raw: raw::SignalProcess) -> Option<signal::Config> {
        let pid_file = self.required_path(key, "pid_file", raw.pid_file);
        // Others were refused by the schema.
        let signal = raw.signal.as_deref().unwrap_or("SIGHUP").parse().ok();
        let process = self.parse(&format!("{key}.process"), raw.process, |text| match text.len() {
            1..=LONGEST_PROCESS_NAME => Ok(text),
            _ => Err(format!("{} is not 1 to 15 bytes long; write it as `ps -o comm` shows it", quoted(&text))),
        });
        Some(signal::Config { pid_file: pid_file?, signal: signal?, process })
    }

    fn webhook(&mut self, key: &str, raw: raw::Webhook) -> Option<webhook::Config> {
        let url_key = format!("{key}.url");
        if raw.url.is_none() && self.is_sound(key) {
            self.complain(key, "has no `url`; write where to send events");
        }
        let url = self.parse(&url_key, raw.url, |text| receiver(&text));
        let mut path =
            |name: &str, value| self.parse(&format!("{key}.{name}"), value, |text: String| scalar::file_path(&text));
        let (socket, key_file, ca_file) =
            (path("socket", raw.socket), path("key_file", raw.key_file), path("ca_file", raw.ca_file));
        if ca_file.is_some() && url.as_ref().is_some_and(|url| url.scheme() == Some(&Scheme::HTTP)) {
            self.complain(&format!("{key}.ca_file"), "is for `https`, and the URL is `http`; correct one of them");
        }
        let queue = raw.queue.unwrap_or(256) as usize;
        Some(webhook::Config { url: url?, socket, key_file, ca_file, queue })
    }

    /// An absolute path that must be written.
    pub(super) fn required_path(&mut self, section: &str, name: &str, value: Option<String>) -> Option<PathBuf> {
        let key = format!("{section}.{name}");
        if value.is_none() && self.is_sound(section) {
            self.complain(section, format!("has no `{name}`; write an absolute path"));
        }
        self.parse(&key, value, |text| scalar::file_path(&text))
    }
}

/// A URL that events can be sent to.
fn receiver(text: &str) -> Result<Uri, String> {
    let fix = "write such as https://events.example.org/spiffe";
    let url: Uri = text.parse().map_err(|error| format!("{} is no URL ({error}); {fix}", quoted(text)))?;
    if !matches!(url.scheme_str(), Some("http" | "https")) {
        return Err(format!("{} is neither http nor https; {fix}", quoted(text)));
    }
    let authority = url.authority().map_or("", |authority| authority.as_str());
    if url.host().is_none_or(str::is_empty) {
        return Err(format!("{} has no host; {fix}", quoted(text)));
    }
    // Not quoted: it may hold a password.
    if authority.contains('@') {
        return Err("holds a user name or password, which logs would show; sign with `key_file` instead".to_owned());
    }
    Ok(url)
}
