//! Configuration files: each is taken or refused with places, keys and ways out, and never anything else.
#![no_main]

use std::collections::BTreeMap;

use libfuzzer_sys::fuzz_target;
use spiffe_sds::config::{Config, File, Sources};

fuzz_target!(|text: &str| {
    let file = File { path: "fuzz.yaml".into(), text: text.to_owned() };
    let sources = Sources { file: Some(file), variables: BTreeMap::new(), flags: Vec::new() };
    if let Err(problems) = Config::new(&sources) {
        assert!(problems.to_string().starts_with("the configuration has "));
    }
});
