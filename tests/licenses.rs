//! What we are built with: every crate's licence is known, allowed and shipped, and every crate comes from crates.io.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::{collections::BTreeMap, fs, path::Path};

/// Those that ask for no more than their text, which THIRD-PARTY-LICENSES has.
const ALLOWED: [&str; 14] = [
    "MIT",
    "MIT-0",
    "Apache-2.0",
    "BSD-1-Clause",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "Unlicense",
    "Unicode-3.0",
    "Zlib",
    "BSL-1.0",
    "0BSD",
    "CC0-1.0",
    "CDLA-Permissive-2.0",
];
const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";

fn read(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

/// Name and version of every crate of the lock file but ours, and where it comes from.
fn crates() -> Vec<(String, String)> {
    let lock = read("Cargo.lock");
    let field = |package: &str, name: &str| {
        let line = package.lines().find_map(|line| line.strip_prefix(&format!("{name} = \"")));
        line.map(|value| value.trim_end_matches('"').to_owned())
    };
    let packages = lock.split("[[package]]").skip(1);
    let named = packages.filter_map(|package| {
        let name = format!("{} {}", field(package, "name")?, field(package, "version")?);
        Some((name, field(package, "source").unwrap_or_default()))
    });
    named.filter(|(name, _)| !name.starts_with("spiffe-sds")).collect()
}

/// The list at the beginning of the file: what each crate says about its licence.
fn licences() -> BTreeMap<String, String> {
    let text = read("THIRD-PARTY-LICENSES");
    let list = text.split("\n\n").nth(2).unwrap();
    let entries = list.lines().filter_map(|line| {
        let (name, rest) = line.split_once(": ")?;
        Some((name.to_owned(), rest.split_once("; ")?.0.to_owned()))
    });
    entries.collect()
}

/// Whether an SPDX expression can be fulfilled with what is allowed. `AND` binds more tightly than `OR`; an exception only
/// allows more.
fn is_allowed(expression: &str) -> bool {
    let expression = expression.replace('/', " OR ");
    if let Some(open) = expression.find('(') {
        let close = open + expression[open..].find(')').unwrap();
        let inner = if is_allowed(&expression[open + 1..close]) { "MIT" } else { "refused" };
        return is_allowed(&format!("{}{inner}{}", &expression[..open], &expression[close + 1..]));
    }
    let allowed = |licence: &str| ALLOWED.contains(&licence.split(" WITH ").next().unwrap().trim());
    expression.split(" OR ").any(|all| all.split(" AND ").all(allowed))
}

#[test]
fn every_crate_is_listed_with_a_licence_that_is_allowed() {
    let licences = licences();
    let wrong: Vec<_> = crates()
        .into_iter()
        .filter_map(|(name, _)| match licences.get(&name) {
            None => Some(format!("{name} is not in THIRD-PARTY-LICENSES: run .ci/licenses")),
            Some(licence) if !is_allowed(licence) => Some(format!("{name} is under {licence}")),
            Some(_) => None,
        })
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    let locked: Vec<_> = crates().into_iter().map(|(name, _)| name).collect();
    let gone: Vec<_> = licences.keys().filter(|name| !locked.contains(name)).collect();
    assert!(gone.is_empty(), "no longer in Cargo.lock, run .ci/licenses: {gone:#?}");
}

#[test]
fn every_crate_comes_from_the_registry() {
    let strange: Vec<_> = crates().into_iter().filter(|(_, source)| source != REGISTRY).collect();
    assert!(strange.is_empty(), "{strange:#?}");
}

#[test]
fn the_licences_are_in_the_image() {
    assert!(read("Dockerfile").contains("COPY LICENSE THIRD-PARTY-LICENSES /"));
    let context = read(".dockerignore");
    for needed in ["LICENSE", "THIRD-PARTY-LICENSES", "askama.toml"] {
        assert!(context.lines().any(|line| line == format!("!{needed}")), "{needed} is not in the build's context");
    }
}

#[test]
fn expressions_are_understood() {
    for good in
        ["MIT", "MIT/Apache-2.0", "GPL-2.0 OR MIT", "ISC AND (Apache-2.0 OR GPL-3.0)", "Apache-2.0 WITH LLVM-exception"]
    {
        assert!(is_allowed(good), "{good}");
    }
    for bad in ["GPL-3.0", "MIT AND GPL-3.0", "see its text", "(GPL-3.0 OR AGPL-3.0) AND MIT"] {
        assert!(!is_allowed(bad), "{bad}");
    }
}
