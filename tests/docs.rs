//! Documents that name things which no longer exist are worse than none: paths, links and log messages are looked up.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every file below `directory` with this extension.
fn files(directory: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path, extension));
        } else if path.extension().is_some_and(|found| found == extension) {
            found.push(path);
        }
    }
    found
}

/// The documents with their text.
fn documents() -> Vec<(PathBuf, String)> {
    let top = ["README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "proto/README.md"];
    let paths = top.iter().map(|name| root().join(name)).chain(files(&root().join("docs"), "md"));
    paths.map(|path| (path.clone(), fs::read_to_string(&path).unwrap())).collect()
}

/// What stands between `open` and `close`, with its line.
fn between<'a>(text: &'a str, open: &'a str, close: &'a str) -> impl Iterator<Item = (usize, &'a str)> {
    text.lines().enumerate().flat_map(move |(number, line)| {
        let parts = line.split(open).skip(1);
        parts.filter_map(move |part| Some((number + 1, part.split_once(close)?.0)))
    })
}

/// Spans of code, with their lines.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines()
        .enumerate()
        .flat_map(|(number, line)| line.split('`').skip(1).step_by(2).map(move |span| (number + 1, span)))
}

fn none(what: &str, faults: &[String]) {
    assert!(faults.is_empty(), "{what}\n  {}\n", faults.join("\n  "));
}

#[test]
fn links_and_paths_lead_somewhere() {
    let mut faults = Vec::new();
    for (path, text) in documents() {
        let here = path.parent().unwrap();
        let links = between(&text, "](", ")").filter(|(_, link)| !link.contains("://") && !link.starts_with('#'));
        let links = links.map(|(line, link)| (line, here.join(link.split('#').next().unwrap())));
        let places = ["src/", "tests/", "docs/", "examples/", "proto/", "schema/", ".ci/"];
        let paths = code(&text).filter(|(_, span)| places.iter().any(|place| span.starts_with(place)));
        let paths =
            paths.filter(|(_, span)| !span.contains([' ', '*', '<'])).map(|(line, span)| (line, root().join(span)));
        let broken = links.chain(paths).filter(|(_, target)| !target.exists());
        faults.extend(broken.map(|(line, target)| format!("{}:{line}: no {}", path.display(), target.display())));
    }
    none("documents that lead nowhere:", &faults);
}

/// Every log message of the program outside the development tools: the last literal of a `tracing` macro.
fn messages(levels: &[&str]) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for path in files(&root().join("src"), "rs") {
        if path.starts_with(root().join("src/dev")) || path.starts_with(root().join("src/cli")) {
            continue;
        }
        let text = fs::read_to_string(path).unwrap();
        for level in levels {
            for call in text.split(&format!("tracing::{level}!(")).skip(1) {
                found.extend(arguments(call).rsplit('"').nth(1).map(str::to_owned));
            }
        }
    }
    found
}

/// Up to the parenthesis that closes the call.
fn arguments(call: &str) -> &str {
    let (mut depth, mut quoted) = (1, false);
    for (at, c) in call.char_indices() {
        match c {
            '"' => quoted = !quoted,
            '(' if !quoted => depth += 1,
            ')' if !quoted => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return &call[..at];
        }
    }
    call
}

#[test]
fn every_warning_and_error_has_an_action() {
    let operations = fs::read_to_string(root().join("docs/operations.md")).unwrap();
    let spans: BTreeSet<_> = code(&operations).map(|(_, span)| span.to_owned()).collect();
    let missing: Vec<_> = messages(&["warn", "error"]).difference(&spans).cloned().collect();
    none("log messages that docs/operations.md does not explain (symptom, signal, action):", &missing);
}

#[test]
fn operations_names_messages_that_exist() {
    let operations = fs::read_to_string(root().join("docs/operations.md")).unwrap();
    let known = messages(&["error", "warn", "info", "debug"]);
    assert!(known.len() > 20, "the search for messages is broken: {known:?}");
    // Only messages read like prose: at least three words, and none of the punctuation of code.
    let prose = |span: &str| span.matches(' ').count() >= 2 && !span.contains(['=', '>', '/', ':', '-', '{']);
    let stale = code(&operations).filter(|(_, span)| prose(span) && !known.contains(*span));
    let stale: Vec<_> = stale.map(|(line, span)| format!("docs/operations.md:{line}: no message `{span}`")).collect();
    none("log messages that no longer exist:", &stale);
}
