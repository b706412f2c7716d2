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
    let admission = Admission::default();
    with_default(subscriber(config, colored, terminal, move || writer.clone(), admission).0, events);
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
    let config = config(Format::Json, "info");
    let (subscriber, control) = subscriber(&config, false, false, move || writer.clone(), Admission::default());
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
fn nothing_that_a_terminal_obeys_gets_into_a_line() {
    let bad = "a\u{202e}\u{2066}\u{200b}\u{feff}\u{1b}[2J\u{9b}0m\u{2028}\n\u{e0041}z";
    for (format, colored) in [(Format::Json, false), (Format::Human, false), (Format::Human, true)] {
        let lines = logged(&config(format, "info"), colored, false, || {
            let error = io::Error::other(bad);
            warn!(client = %bad, name = bad, detail = ?bad, error = &error as &dyn error::Error, "refused {bad}");
        });
        assert_eq!(lines.len(), 1, "{lines:?}");
        let line = lines[0].replace('\u{1b}', if colored { "" } else { "\u{1b}" });
        assert!(line.chars().all(|c| c.is_ascii() && !c.is_ascii_control()), "{format:?}: {line:?}");
        assert!(!lines[0].contains("\u{1b}[2J"), "{lines:?}");
        if format == Format::Json {
            let json: serde_json::Value = serde_json::from_str(&lines[0]).unwrap();
            assert_eq!((&json["client"], &json["name"]), (&bad.into(), &bad.into()));
        }
    }
}

#[test]
fn of_one_kind_there_are_only_so_many() {
    let config = config(Format::Json, "info");
    let said = |lines: &[String], message: &str| lines.iter().filter(|line| line.contains(message)).count();
    let lines = logged(&config, false, false, || {
        for number in 0..1000 {
            warn!(peer = "pid:1", "stream refused");
            warn!(peer = "pid:1", number, "stream ended");
            info!(spiffe_id = "spiffe://a/b", number, "svid renewed");
            info!(target: "h2::codec", "recv_reset");
            tracing::debug!("not wanted");
        }
        warn!(peer = "pid:2", "stream refused");
    });
    // The last one is at another place, so it is another kind.
    assert_eq!(said(&lines, "stream refused"), 2);
    assert_eq!(said(&lines, "stream ended"), 5);
    assert_eq!(said(&lines, "svid renewed"), 10);
    assert_eq!(said(&lines, "recv_reset"), 1);
    assert_eq!(lines.len(), 18);
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
