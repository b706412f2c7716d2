//! What one crate cannot enforce by itself: imports go downward, pure modules stay pure, no file is forgotten or too long.
//!
//! The rules, with their reasons and exceptions, stand in `architecture/rules.rs`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "architecture/rules.rs"]
mod rules;
#[path = "architecture/scan.rs"]
mod scan;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use scan::{Named, Scan};

/// One file of the crate and what it says.
struct Source {
    /// Relative to the repository.
    path: PathBuf,
    /// The module it is: `["server", "listen", "unix"]`; empty for `lib.rs`.
    module: Vec<String>,
    scan: Scan,
}

/// Every file that a `mod` leads to outside tests, the test files that one leads to, and what is wrong with the declarations.
#[derive(Default)]
struct Tree {
    sources: Vec<Source>,
    tests: BTreeSet<PathBuf>,
    faults: Vec<String>,
}

impl Tree {
    /// Follows the `mod` items of `src/lib.rs` and `src/main.rs`.
    fn read() -> Self {
        let mut tree = Self::default();
        tree.follow(PathBuf::from("src/lib.rs"), Vec::new(), Path::new("src"), false);
        tree.follow(PathBuf::from("src/main.rs"), vec!["main".to_owned()], Path::new("src"), false);
        tree
    }

    /// Reads one file; its child modules are in `directory`.
    fn follow(&mut self, path: PathBuf, module: Vec<String>, directory: &Path, test_only: bool) {
        let text = fs::read_to_string(root().join(&path)).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let scan = scan::scan(&text, &module);
        for declared in scan.declared.clone() {
            let place = format!("{}:{}", path.display(), declared.line);
            let child = declared.path.iter().fold(directory.to_owned(), |at, name| at.join(name));
            let file = child.with_extension("rs");
            if declared.relocated {
                self.faults.push(format!("{place}: #[path] hides where a module is: put it at {}", file.display()));
            } else if !root().join(&file).is_file() {
                self.faults.push(format!("{place}: no {}: use x.rs with x/, not x/mod.rs", file.display()));
            } else {
                let module = module.iter().cloned().chain(declared.path).collect();
                self.follow(file, module, &child, test_only || declared.test_only);
            }
        }
        if test_only {
            self.tests.insert(path);
        } else {
            self.sources.push(Source { path, module, scan });
        }
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every Rust file below `directory`, relative to the repository.
fn files(directory: &Path, found: &mut BTreeSet<PathBuf>) {
    for entry in fs::read_dir(root().join(directory)).unwrap() {
        let entry = entry.unwrap();
        let path = directory.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.insert(path);
        }
    }
}

fn none(rule: &str, faults: &[String]) {
    assert!(faults.is_empty(), "{rule}\n  {}\n", faults.join("\n  "));
}

#[test]
fn imports_go_downward_and_pure_modules_stay_pure() {
    let mut faults = Vec::new();
    for source in Tree::read().sources {
        // The crate root declares and documents; it belongs to no layer.
        let Some(module) = source.module.first() else { continue };
        for named in &source.scan.named {
            let objection = rules::objection(module, named);
            faults.extend(objection.map(|text| format!("{}:{}: {text}", source.path.display(), named.line)));
        }
    }
    none("layers, see docs/architecture.md:", &faults);
}

#[test]
fn every_file_is_a_module() {
    let tree = Tree::read();
    none("module declarations:", &tree.faults);
    let mut found = BTreeSet::new();
    files(Path::new("src"), &mut found);
    let reached: BTreeSet<_> = tree.sources.into_iter().map(|source| source.path).chain(tree.tests).collect();
    let orphans: Vec<_> = found.difference(&reached).map(|path| format!("{}", path.display())).collect();
    none("files that no `mod` leads to, which nothing compiles: declare or delete them", &orphans);
}

#[test]
fn no_file_is_too_long() {
    let mut faults = Vec::new();
    for Source { path, scan, .. } in Tree::read().sources {
        let longer = rules::LONGER.iter().any(|(allowed, _)| Path::new(allowed) == path);
        if scan.lines > rules::LINES && !longer {
            faults.push(format!(
                "{}:1: {} lines outside tests, at most {}: split what does a second thing off, or list it with a reason \
                 in LONGER",
                path.display(),
                scan.lines,
                rules::LINES
            ));
        } else if scan.lines <= rules::LINES && longer {
            faults.push(format!("{}:1: short enough now: take it off LONGER", path.display()));
        }
    }
    none("file length:", &faults);
}

/// The objections to `text` as a file of `module`, each with its line.
fn objections(module: &str, text: &str) -> Vec<String> {
    let path: Vec<_> = module.split("::").map(str::to_owned).collect();
    let named = scan::scan(text, &path).named;
    let top = path.first().unwrap();
    named.iter().filter_map(|named| Some(format!("{}: {}", named.line, rules::objection(top, named)?))).collect()
}

#[test]
fn an_import_upward_is_found_however_it_is_written() {
    for text in [
        "use crate::server::Peer;",
        "use crate::{identity::Svid, server::{Peer, Bound}};",
        "use crate::{\n    server,\n};",
        "use super::super::server::Peer;",
        "fn f() -> crate::server::Peer { loop {} }",
        "impl From<crate::server::Peer> for X {}",
        "mod inner { use super::super::super::server; }",
        "#[cfg(feature = \"x\")]\nmod inner { fn f() { crate::server::f::<u8>() } }",
        "macro_rules! m { () => { $crate::server::f() } }",
    ] {
        assert!(!objections("secret::name", text).is_empty(), "{text}");
    }
}

#[test]
fn what_goes_downward_or_is_not_code_is_left_alone() {
    for text in [
        "use crate::{identity::Svid, xds::{Resource, Version}};",
        "use super::encode::Payload;",
        "use crate::secret::Naming;",
        "// crate::server::Peer\n/* crate::server /* nested */ crate::cli */",
        "const T: &str = \"crate::server::Peer\"; const R: &str = r#\"a \" crate::server::Peer\"#; const C: char = '\"';",
        "fn f<'a>(x: &'a str) -> &'a str { x }",
        "#[cfg(test)]\nmod tests { use crate::server::Peer; }",
        "pub(in super::super) fn f() {}",
        "use crate::{identity as server, xds::{self as cli, Version as app}};",
        "use std::{time::{Duration, SystemTime}, net::SocketAddr};",
        "fn f(now: SystemTime) { let server = now; server.elapsed(); }",
    ] {
        assert_eq!(objections("secret::name", text), [] as [String; 0], "{text}");
    }
}

#[test]
fn impure_names_are_found_in_pure_modules_only() {
    for text in [
        "use tokio::sync::watch;",
        "use tonic::Status;",
        "use hyper::body::Body;",
        "use std::{fs, path::Path};",
        "use std::net::{IpAddr, TcpStream};",
        "use std::time::{Duration, Instant};",
        "use std::env;\nfn f() {}",
        "fn f() -> u32 { fastrand::u32(..) }",
        "fn f() { let now = SystemTime::now(); }",
        "fn f() { let now = std::time::SystemTime::now(); }",
    ] {
        assert_eq!(objections("xds::stream", text).len(), 1, "{text}");
        assert!(objections("server::drive", text).is_empty(), "{text}");
    }
}

#[test]
fn neighbours_and_reserved_modules_need_a_reason() {
    assert!(objections("dev", "use crate::source::Endpoint;").is_empty());
    assert!(!objections("dev", "use crate::source::Supervisor;").is_empty());
    assert!(!objections("source", "use crate::dev::Issuer;").is_empty());
    assert!(objections("source::decode", "use crate::workload_api_proto::X;").is_empty());
    assert!(!objections("server", "use crate::workload_api_proto::X;").is_empty());
    assert!(!objections("server", "use crate::config::Config;").is_empty());
    assert!(objections("app", "use crate::config::Config;").is_empty());
    assert!(!objections("server", "use crate::Svid;").is_empty(), "the crate root is not a way around");
}

#[test]
fn a_finding_names_its_line() {
    assert_eq!(
        scan::scan("\n\nuse crate::{\n    a::b,\n    c,\n};\n", &[]).named,
        [
            Named { line: 4, path: vec!["crate".into(), "a".into(), "b".into()] },
            Named { line: 5, path: vec!["crate".into(), "c".into()] },
        ]
    );
    let with_tests = "fn f() {}\n\n#[cfg(test)]\nmod tests {\n    fn g() {}\n}\n";
    assert_eq!(scan::scan(with_tests, &[]).lines, 2);
}
