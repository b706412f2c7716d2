//! Files for programs that do not speak SDS: whole generations, the right permissions, and failures that keep the last one.
#![cfg(feature = "dev-issuer")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::PermissionsExt as _,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use base64ct::{Base64, Encoding as _};
use pem_rfc7468::LineEnding;
use spiffe_sds::{dev::Issued, output::OutputEvent};
use support::{
    app::Place,
    world::{bounded, id, td},
};
use tokio::io::{AsyncBufReadExt as _, BufReader};

const OUTPUT: &str = "outputs: [{directory: '$/out', combined_file: all.pem}]";

fn pem(label: &str, der: &[u8]) -> String {
    pem_rfc7468::encode_string(label, LineEnding::LF, der).unwrap()
}

fn chain(issued: &Issued) -> String {
    issued.svid.chain.iter().map(|it| pem("CERTIFICATE", it.der())).collect()
}

fn key(issued: &Issued) -> String {
    pem("PRIVATE KEY", issued.svid.key.pkcs8_der())
}

async fn place() -> Place {
    let place = Place::new().await;
    fs::create_dir(place.at("out")).unwrap();
    place
}

/// The files are those of the issuer's present certificate.
fn is_current(place: &Place) -> bool {
    let issued = place.issuer.svid(&id("workload")).unwrap();
    place.read("out/svid.pem") == chain(&issued)
        && place.read("out/svid_key.pem") == key(&issued)
        && place.read("out/all.pem") == key(&issued) + &chain(&issued)
        && place.read("out/svid_bundle.pem") == place.issuer.bundle_pem(&td("domain.test")).unwrap()
}

#[tokio::test]
async fn files_follow_the_source_and_survive_a_restart() {
    let place = place().await;
    let mut running = place.run(OUTPUT).await;
    let first = running.written().await;
    assert!(is_current(&place));
    let mode = |name: &str| fs::metadata(place.at(name)).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode("out/svid.pem"), mode("out/svid_key.pem"), mode("out/all.pem")), (0o644, 0o600, 0o600));
    place.issuer.rotate().unwrap();
    let second = running.written().await;
    assert!(second != first && is_current(&place));
    running.stop().await;

    // Nothing changed: nothing is written, and so nobody is told to reload.
    let mut running = place.run(OUTPUT).await;
    place.issuer.resend();
    place.issuer.rotate().unwrap();
    let third = running.written().await;
    assert!(third > second && is_current(&place), "{third} {second}");
    running.stop().await;
    let names = fs::read_dir(place.at("out")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let expected = ["..data", &format!("..{third}"), "all.pem", "svid.pem", "svid_bundle.pem", "svid_key.pem"];
    assert_eq!(names.collect::<BTreeSet<_>>(), expected.map(str::to_owned).into(), "old generations go");
}

/// A reader that resolves `..data` once never sees a key that does not belong to its certificate.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_never_sees_half_a_generation() {
    let place = place().await;
    let mut running = place.run(OUTPUT).await;
    running.written().await;
    let stop = Arc::new(AtomicBool::new(false));
    let reader = std::thread::spawn({
        let (stop, out) = (stop.clone(), place.at("out"));
        move || {
            let (mut whole, mut seen) = (0_u32, BTreeSet::new());
            while !stop.load(Ordering::Relaxed) {
                let generation = out.join(fs::read_link(out.join("..data")).unwrap());
                let read = |name: &str| fs::read_to_string(generation.join(name));
                // One that was removed meanwhile is not half of one: the reader looks again.
                let (Ok(all), Ok(key), Ok(chain)) = (read("all.pem"), read("svid_key.pem"), read("svid.pem")) else {
                    continue;
                };
                assert_eq!(all, key + &chain);
                seen.insert(chain);
                whole += 1;
            }
            (whole, seen.len())
        }
    });
    for _ in 0..30 {
        place.issuer.rotate().unwrap();
        running.written().await;
    }
    stop.store(true, Ordering::Relaxed);
    let (whole, seen) = reader.join().unwrap();
    assert!(whole > 30 && seen > 5, "{whole} reads, {seen} generations");
    running.stop().await;
}

#[tokio::test]
async fn a_directory_that_is_missing_is_waited_for() {
    let place = Place::new().await;
    let mut running = place.run(OUTPUT).await;
    let OutputEvent::Failed { error, failures, .. } = running.file().await else { panic!("written") };
    assert!(error.contains("the output directory must exist") && failures == 1, "{error}");
    fs::create_dir(place.at("out")).unwrap();
    running.written().await;
    assert!(is_current(&place));

    // Gone again, and with it the last generation: a change is not lost.
    fs::rename(place.at("out"), place.at("elsewhere")).unwrap();
    place.issuer.rotate().unwrap();
    running.not_written().await;
    fs::create_dir(place.at("out")).unwrap();
    running.written().await;
    assert!(is_current(&place));
    running.stop().await;
}

#[tokio::test]
async fn a_denial_leaves_the_files_and_a_new_identity_replaces_them() {
    let place = place().await;
    let mut running = place.run(OUTPUT).await;
    running.written().await;
    let before = place.read("out/all.pem");
    place.issuer.revoke(&id("workload")).unwrap();
    place.issuer.issue(&id("workload"), None).unwrap();
    running.written().await;
    assert!(is_current(&place) && place.read("out/all.pem") != before);
    running.stop().await;
}

#[tokio::test]
async fn federated_domains_and_another_identity_are_written_when_asked_for() {
    let place = Place::with(|issuer| {
        *issuer = issuer.clone().identity(id("other"), Some("internal"));
        issuer.federated = vec![td("partner.test")];
    })
    .await;
    fs::create_dir(place.at("out")).unwrap();
    let mut running = place
        .run("outputs: [{directory: '$/out', hint: internal, include_federated_domains: true, svid_file: ''}]")
        .await;
    running.written().await;
    let other = place.issuer.svid(&id("other")).unwrap();
    assert_eq!(place.read("out/svid_key.pem"), key(&other));
    assert!(!place.at("out/svid.pem").exists());
    let roots = ["domain.test", "partner.test"].map(|name| place.issuer.bundle_pem(&td(name)).unwrap());
    assert_eq!(place.read("out/svid_bundle.pem"), roots.concat());
    running.stop().await;
}

#[tokio::test]
async fn tokens_and_their_keys_have_files_too() {
    let place = place().await;
    let tokens =
        "outputs: [{directory: '$/out', jwt_bundle_file: keys.json, jwt_svids: [{file: token, audience: [x]}]}]";
    let mut running = place.run(tokens).await;
    let complete = || place.read("out/token").split('.').count() == 3 && place.read("out/keys.json").len() > 50;
    bounded(async {
        while !complete() {
            running.written().await;
        }
    })
    .await;
    let mode = |name: &str| fs::metadata(place.at(name)).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode("out/token"), mode("out/keys.json")), (0o600, 0o644));
    let keys: BTreeMap<String, String> = serde_json::from_str(&place.read("out/keys.json")).unwrap();
    let set = Base64::decode_vec(&keys["domain.test"]).unwrap();
    let set: serde_json::Value = serde_json::from_slice(&set).unwrap();
    assert!(set["keys"][0]["kid"].is_string(), "{set}");
    running.stop().await;
}

/// A limit on the size of files is what a full disk looks like to a process, and needs no rights to set up: the key (some
/// 240 bytes) still fits, the certificate does not.
#[tokio::test]
async fn a_full_disk_costs_nothing_but_the_update() {
    let place = place().await;
    let mut running = place.run(OUTPUT).await;
    running.written().await;
    running.stop().await;
    let before = place.read("out/all.pem");
    let generation = fs::read_link(place.at("out/..data")).unwrap();
    place.issuer.rotate().unwrap();

    fs::write(place.at("sds.yaml"), place.yaml(OUTPUT)).unwrap();
    let script = "trap '' XFSZ; ulimit -f 1; exec \"$0\" serve --config \"$1\"";
    let mut child = tokio::process::Command::new("/bin/sh")
        .args(["-c", script, env!("CARGO_BIN_EXE_spiffe-sds")])
        .arg(place.at("sds.yaml"))
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
    let error = bounded(async {
        loop {
            let line = log.next_line().await.unwrap().expect("the program ended");
            if line.contains("files cannot be written, the last good ones stay") {
                return line;
            }
        }
    });
    let error = error.await;
    assert!(error.contains("make room there"), "{error}");
    assert_eq!(place.read("out/all.pem"), before, "the last good generation stays");
    let names: Vec<_> = fs::read_dir(place.at("out")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(names.len() == 6 && names.contains(&generation.into_os_string()), "{names:?}");
    child.kill().await.unwrap();
}
