//! Logs on standard error: for people on a terminal, JSON for machines otherwise.
//!
//! Every message is a constant lower-case text, and everything that varies is a field. Field names are part of the
//! interface: `spiffe_id`, `trust_domain`, `resource`, `version`, `nonce`, `node`, `peer`, `stream`, `endpoint`,
//! `error`, `kind`, `serial`, `not_after`.
//!
//! Logging is never in the way: lines go through a bounded [`Queue`], of one kind there are only so many, and whatever would
//! move or hide something on a terminal is escaped.

mod admission;
mod control;
mod limit;
mod output;
mod queue;
#[cfg(test)]
mod tests;

use std::{
    error, fmt,
    io::{self, IsTerminal as _},
    str::FromStr,
};

use tracing_subscriber::{
    Layer as _,
    filter::{FilterExt as _, LevelFilter, Targets},
    fmt::MakeWriter,
    layer::SubscriberExt as _,
    reload,
    util::{SubscriberInitExt as _, TryInitError},
};

use admission::Admission;
pub use control::Control;
pub use output::{flush, print};
pub use queue::Queue;

use crate::printable;

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

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InitError {
    /// The operating system has no thread or file descriptor left.
    #[error("cannot start the thread that writes the log")]
    Thread(#[source] io::Error),
    /// The process already logs.
    #[error("the log is set up already")]
    Twice(#[from] TryInitError),
}

/// Starts logging to standard error for the whole process, panics included; `colored` is about [`Format::Human`] only.
///
/// From then on nothing else may write there: use [`print()`], and [`flush`] before the process ends.
///
/// # Errors
/// [`InitError`].
pub fn init(config: &Config, colored: bool) -> Result<Control, InitError> {
    let admission = Admission::default();
    let queue = Queue::attended("log", io::stderr(), admission.attendant()).map_err(InitError::Thread)?;
    let admission = admission.before(queue.clone());
    let (subscriber, control) = subscriber(config, colored, io::stderr().is_terminal(), queue.clone(), admission);
    subscriber.try_init()?;
    output::install(queue);
    Ok(control)
}

/// What [`init`] installs, for any writer.
fn subscriber<W>(
    config: &Config,
    colored: bool,
    terminal: bool,
    writer: W,
    admission: Admission,
) -> (impl tracing::Subscriber + Send + Sync, Control)
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let json = match config.format {
        Format::Auto => !terminal,
        Format::Human => false,
        Format::Json => true,
    };
    let form = if json {
        Form::Json
    } else if colored {
        Form::Styled
    } else {
        Form::Plain
    };
    let lines = tracing_subscriber::fmt::layer().with_writer(Escaping { writer, form });
    let layer = if json {
        lines.json().flatten_event(true).with_current_span(true).with_span_list(false).boxed()
    } else {
        lines.compact().with_ansi(colored).with_target(false).boxed()
    };
    let (filter, handle) = reload::Layer::new(config.filter.0.clone());
    let control = Control::new(handle, config.filter.clone(), admission.clone());
    (tracing_subscriber::registry().with(layer.with_filter(filter.and(admission))), control)
}

/// Escapes what must not stand in a line of this form.
struct Escaping<W> {
    writer: W,
    form: Form,
}

#[derive(Clone, Copy)]
enum Form {
    Json,
    Styled,
    Plain,
}

struct Escaped<W>(W, Form);

impl<'a, W: MakeWriter<'a>> MakeWriter<'a> for Escaping<W> {
    type Writer = Escaped<W::Writer>;

    fn make_writer(&'a self) -> Self::Writer {
        Escaped(self.writer.make_writer(), self.form)
    }
}

/// Is given whole lines, with the line break at their end.
impl<W: io::Write> io::Write for Escaped<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(bytes);
        let line = text.strip_suffix('\n').unwrap_or(&text);
        let line = match self.1 {
            Form::Json => printable::json(line),
            Form::Styled => printable::styled_line(line),
            Form::Plain => printable::line(line),
        };
        self.0.write_all(format!("{line}\n").as_bytes())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
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
