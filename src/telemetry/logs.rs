//! Logs on standard error: for people on a terminal, JSON for machines otherwise.
//!
//! Every message is a constant lower-case text, and everything that varies is a field. Field names are part of the
//! interface: `spiffe_id`, `trust_domain`, `resource`, `version`, `nonce`, `node`, `peer`, `stream`, `endpoint`,
//! `error`, `kind`, `serial`, `not_after`.

mod control;

use std::{
    error, fmt,
    io::{self, IsTerminal as _},
    str::FromStr,
};

use tracing_subscriber::{
    Layer as _,
    filter::{LevelFilter, Targets},
    fmt::MakeWriter,
    layer::SubscriberExt as _,
    reload,
    util::{SubscriberInitExt as _, TryInitError},
};

pub use control::Control;

/// What is logged, and in which form.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// The form.
    pub format: Format,
    /// How much.
    pub filter: Filter,
}

/// The form of a log line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// [`Format::Human`] on a terminal, [`Format::Json`] otherwise.
    #[default]
    Auto,
    /// One short line an event, coloured if wanted.
    Human,
    /// One JSON object an event: `timestamp`, `level`, `target`, `message` and the event's fields.
    Json,
}

/// A level, and levels for single targets (module paths) that differ from it.
#[derive(Clone, Debug, PartialEq)]
pub struct Filter(Targets);

impl Eq for Filter {}

/// Why a text is no [`Filter`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// A level that does not exist.
    #[error("{0:?} is not a log level; write off, error, warn, info, debug or trace, or target=level")]
    Level(String),
    /// More than one level that is for everything.
    #[error("{0:?} is a second level for everything; write target=level")]
    SecondLevel(String),
}

impl FromStr for Filter {
    type Err = FilterError;

    /// `info`, or `info,spiffe_sds::server=debug,h2=off`. Unlike tracing's own filters, a lone word must be a level:
    /// there `inof` is a target, and everything of it is logged, which is nothing.
    fn from_str(text: &str) -> Result<Self, FilterError> {
        let level = |word: &str| match word.trim().to_ascii_lowercase().as_str() {
            known @ ("off" | "error" | "warn" | "info" | "debug" | "trace") => {
                known.parse::<LevelFilter>().map_err(|_| FilterError::Level(word.to_owned()))
            }
            _ => Err(FilterError::Level(word.trim().to_owned())),
        };
        let mut default = None;
        let mut targets = Targets::new();
        for directive in text.split(',') {
            match directive.split_once('=') {
                Some((target, word)) if !target.trim().is_empty() => {
                    targets = targets.with_target(target.trim(), level(word)?);
                }
                Some(_) => return Err(FilterError::Level(directive.trim().to_owned())),
                None => {
                    if default.replace(level(directive)?).is_some() {
                        return Err(FilterError::SecondLevel(directive.trim().to_owned()));
                    }
                }
            }
        }
        Ok(Self(targets.with_default(default.unwrap_or(LevelFilter::INFO))))
    }
}

impl Default for Filter {
    fn default() -> Self {
        Self(Targets::new().with_default(LevelFilter::INFO))
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Starts logging to standard error for the whole process; `colored` is about [`Format::Human`] only.
///
/// # Errors
/// If the process already logs.
pub fn init(config: &Config, colored: bool) -> Result<Control, TryInitError> {
    let (subscriber, control) = subscriber(config, colored, io::stderr().is_terminal(), io::stderr);
    subscriber.try_init()?;
    Ok(control)
}

/// What [`init`] installs, for any writer.
fn subscriber<W>(
    config: &Config,
    colored: bool,
    terminal: bool,
    writer: W,
) -> (impl tracing::Subscriber + Send + Sync, Control)
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let json = match config.format {
        Format::Auto => !terminal,
        Format::Human => false,
        Format::Json => true,
    };
    let lines = tracing_subscriber::fmt::layer().with_writer(writer);
    let layer = if json {
        lines.json().flatten_event(true).with_current_span(true).with_span_list(false).boxed()
    } else {
        lines.compact().with_ansi(colored).with_target(false).boxed()
    };
    let (filter, handle) = reload::Layer::new(config.filter.0.clone());
    (tracing_subscriber::registry().with(layer.with_filter(filter)), Control::new(handle, config.filter.clone()))
}

/// An error with its causes in one line, for the field `error`.
#[must_use]
pub fn chain(error: &dyn error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        // Errors of transports like to repeat their cause in their own message.
        if !text.ends_with(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing::{info, info_span, subscriber::with_default, trace, warn};

    use super::*;

    /// What was written, for all who hold a clone.
    #[derive(Clone, Default)]
    struct Captured(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// The lines logged by `events`.
    fn logged(config: &Config, colored: bool, terminal: bool, events: impl FnOnce()) -> Vec<String> {
        let captured = Captured::default();
        let writer = captured.clone();
        with_default(subscriber(config, colored, terminal, move || writer.clone()).0, events);
        let text = String::from_utf8(captured.0.lock().unwrap().clone()).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    fn config(format: Format, filter: &str) -> Config {
        Config { format, filter: filter.parse().unwrap() }
    }

    #[tokio::test(start_paused = true)]
    async fn more_is_logged_for_a_while() {
        let captured = Captured::default();
        let writer = captured.clone();
        let (subscriber, control) = subscriber(&config(Format::Json, "info"), false, false, move || writer.clone());
        let _guard = tracing::subscriber::set_default(subscriber);
        let lines = || String::from_utf8(captured.0.lock().unwrap().clone()).unwrap().matches("seen").count();
        tracing::debug!("seen");
        assert_eq!(lines(), 0);
        control.set_for("debug".parse().unwrap(), std::time::Duration::from_secs(60));
        tracing::debug!("seen");
        assert_eq!(lines(), 1);
        control.set_for("trace".parse().unwrap(), std::time::Duration::from_secs(90));
        tokio::time::sleep(std::time::Duration::from_secs(80)).await;
        tracing::debug!("seen");
        assert_eq!(lines(), 2, "the end of the first wish ended the second");
        control.configure(&"warn".parse().unwrap());
        tracing::debug!("seen");
        assert_eq!(lines(), 3, "a new configuration ended the wish");
        tokio::time::sleep(std::time::Duration::from_secs(20)).await;
        tracing::info!("seen");
        assert_eq!(lines(), 3, "the wish did not end at what is configured now");
        control.configure(&"info".parse().unwrap());
        tracing::info!("seen");
        assert_eq!(lines(), 4);
    }

    #[test]
    fn json_has_the_fields_at_the_top() {
        let lines = logged(&Config::default(), true, false, || {
            let _span = info_span!("stream", peer = 7).entered();
            info!(spiffe_id = "spiffe://example.org/web", "svid renewed");
        });
        let json: serde_json::Value = serde_json::from_str(&lines[0]).unwrap();
        assert_eq!(json["message"], "svid renewed");
        assert_eq!(json["spiffe_id"], "spiffe://example.org/web");
        assert_eq!(json["level"], "INFO");
        assert_eq!(json["target"], "spiffe_sds::telemetry::logs::tests");
        assert_eq!(json["span"]["peer"], 7);
        assert!(json["timestamp"].as_str().unwrap().ends_with('Z'));
        assert!(!lines[0].contains('\u{1b}'), "{}", lines[0]);
    }

    #[test]
    fn people_get_one_plain_line_and_colours_only_if_wanted() {
        let event = || warn!(kind = "transient", "source down");
        let lines = logged(&Config::default(), false, true, event);
        assert_eq!(lines.len(), 1);
        assert!(lines[0].ends_with(r#"WARN source down kind="transient""#), "{}", lines[0]);
        assert!(logged(&Config::default(), true, true, event)[0].contains("\u{1b}[33m"));
    }

    #[test]
    fn the_form_can_be_forced() {
        let event = || info!("started");
        assert!(logged(&config(Format::Json, "info"), false, true, event)[0].starts_with('{'));
        assert!(!logged(&config(Format::Human, "info"), false, false, event)[0].starts_with('{'));
    }

    #[test]
    fn the_filter_is_for_targets_too() {
        let count = |filter: &str| {
            logged(&config(Format::Json, filter), false, false, || {
                info!("here");
                trace!("here too");
                info!(target: "h2::codec", "elsewhere");
            })
            .len()
        };
        assert_eq!([count("info"), count("off"), count("warn,spiffe_sds=trace"), count("info,h2=off")], [2, 0, 2, 1]);
        assert_eq!(count("h2=trace"), 2, "without a level for everything it is info");
    }

    #[test]
    fn a_chain_of_causes_is_one_line() {
        #[derive(Debug, thiserror::Error)]
        #[error("cannot connect to the source")]
        struct Outer(#[source] io::Error);
        let error = Outer(io::Error::new(io::ErrorKind::NotFound, "no such socket"));
        assert_eq!(chain(&error), "cannot connect to the source: no such socket");
    }
}
