//! Callbacks with real programs, processes and receivers: what they are told, what they cannot break.
#![cfg(feature = "dev-issuer")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

#[path = "hooks/receiver.rs"]
mod receiver;
mod support;

use std::{collections::BTreeMap, fs};

use aws_lc_rs::hmac;
use base64ct::{Base64, Encoding as _};
use receiver::Receiver;
use spiffe_sds::hooks::HookEvent;
use support::{
    app::{Place, Running},
    secrets,
    world::{bounded, eventually, id, unix_channel},
    xds::Sotw,
};
use tokio::process::Command;

/// A callback that runs a shell script; `$/` in it stands for the directory. Delays are short.
fn script(events: &str, script: &str, more: &str) -> String {
    let script = serde_json::to_string(script).unwrap();
    format!(
        "hooks: [{{name: it, events: [{events}], exec: {{command: [/bin/sh, -c, {script}]}}, \
         backoff: {{initial: 10ms, max: 50ms}}, {more}}}]\n"
    )
}

fn webhook(url: &str, more: &str) -> String {
    format!(
        "hooks: [{{name: it, events: [svid_renewed], webhook: {{url: '{url}', {more}}}, backoff: {{initial: 10ms, max: 50ms}}}}]\n"
    )
}

/// The error of the next attempt, and whether there will be another.
async fn failure(running: &mut Running) -> (String, bool) {
    match running.callback().await {
        HookEvent::Failed { error, retry_in, .. } => (error.to_string(), retry_in.is_some()),
        other => panic!("{other:?}"),
    }
}

async fn success(running: &mut Running) {
    match running.callback().await {
        HookEvent::Succeeded { .. } => {}
        other => panic!("{other:?}"),
    }
}

fn pem(der: &[u8]) -> String {
    pem_rfc7468::encode_string("CERTIFICATE", pem_rfc7468::LineEnding::LF, der).unwrap()
}

fn serial(place: &Place) -> String {
    place.issuer.svid(&id("workload")).unwrap().serial
}

#[tokio::test]
async fn a_program_finds_the_event_in_its_environment_and_nothing_else() {
    let place = Place::new().await;
    let yaml = script("svid_renewed", "/usr/bin/env > $/env; pwd > $/pwd; cat > $/stdin", "");
    let mut running = place.run(&yaml).await;
    success(&mut running).await;
    let environment = place.read("env");
    let found: BTreeMap<_, _> = environment.lines().map(|line| line.split_once('=').unwrap()).collect();
    let serial = serial(&place);
    for (name, value) in [
        ("SDS_EVENT", "svid_renewed"),
        ("SDS_SPIFFE_ID", "spiffe://domain.test/workload"),
        ("SDS_TRUST_DOMAIN", "domain.test"),
        ("SDS_SERIAL", &serial),
        ("SDS_ATTEMPT", "1"),
        ("SDS_MISSED", "0"),
    ] {
        assert_eq!(found.get(name), Some(&value), "{name}");
    }
    humantime::parse_rfc3339(found["SDS_NOT_AFTER"]).unwrap();
    // PWD, OLDPWD, SHLVL and _ are the shell's own.
    let expected = ["PATH", "PWD", "OLDPWD", "SHLVL", "_"];
    let others: Vec<_> = found.keys().filter(|name| !name.starts_with("SDS_") && !expected.contains(name)).collect();
    assert!(others.is_empty(), "inherited: {others:?}");
    assert!(!environment.contains("PRIVATE KEY"));
    assert_eq!((place.read("pwd").as_str(), place.read("stdin").as_str()), ("/\n", ""));
    running.stop().await;
}

#[tokio::test]
async fn a_program_that_fails_is_tried_again_up_to_its_bound() {
    let place = Place::new().await;
    let yaml = script("svid_renewed", "echo try >> $/tries; echo 'no good' >&2; exit 3", "attempts: 3");
    let mut running = place.run(&yaml).await;
    for last in [false, false, true] {
        let (error, again) = failure(&mut running).await;
        assert!(error.contains("exit status: 3") && error.contains("no good") && again != last, "{error}");
    }
    assert_eq!(place.read("tries").lines().count(), 3);
    running.stop().await;

    let missing = "hooks: [{events: [svid_renewed], exec: {command: [/no/such/program]}, attempts: 1}]";
    let mut running = place.run(missing).await;
    let (error, _) = failure(&mut running).await;
    assert!(error.contains("cannot start /no/such/program") && error.contains("No such file"), "{error}");
    running.stop().await;
}

#[tokio::test]
async fn a_program_that_hangs_ends_with_all_its_children() {
    let place = Place::new().await;
    // Neither heeds SIGTERM.
    let text = "trap '' TERM; (trap '' TERM; echo $$ > $/leader; sh -c 'echo $PPID > $/child'; sleep 600) & sleep 600";
    let mut running = place.run(&script("svid_renewed", text, "timeout: 300ms, attempts: 1")).await;
    let (error, again) = failure(&mut running).await;
    assert!(error.contains("ran for longer than 300ms and was killed") && !again, "{error}");
    for name in ["leader", "child"] {
        let process = format!("/proc/{}/stat", place.read(name).trim());
        // Nobody may have reaped it yet.
        let gone = || fs::read_to_string(&process).map_or(true, |stat| stat.contains(") Z "));
        eventually("the process is gone", gone).await;
    }
    running.stop().await;
}

#[tokio::test]
async fn children_that_stay_behind_hold_up_nobody() {
    let place = Place::new().await;
    let mut running = place.run(&script("svid_renewed", "sleep 100 & exit 0", "timeout: 5m")).await;
    // It waits for less long than the child sleeps.
    success(&mut running).await;
    running.stop().await;
}

#[tokio::test]
async fn ten_megabytes_of_output_are_read_and_not_kept() {
    let place = Place::new().await;
    let text = "head -c 10000000 /dev/zero | tr '\\0' 'x'; echo the end; exit 1";
    let mut running = place.run(&script("svid_renewed", text, "attempts: 1")).await;
    let (error, _) = failure(&mut running).await;
    assert!(error.len() < 5000 && error.contains("the end (10000008 bytes in all)"), "{} bytes: {error}", error.len());
    running.stop().await;
}

#[tokio::test]
async fn one_runs_at_a_time_and_the_newest_event_waits() {
    let place = Place::new().await;
    let text =
        "echo $SDS_SERIAL $SDS_MISSED >> $/told; while [ ! -e $/go ]; do read x < /dev/null; /bin/sleep 0.01; done";
    let mut running = place.run(&script("svid_renewed", text, "")).await;
    eventually("the first run", || !place.read("told").is_empty()).await;
    let first = serial(&place);
    running.renewed(&first).await;
    for _ in 0..5 {
        place.issuer.rotate().unwrap();
        running.renewed(&serial(&place)).await;
    }
    fs::write(place.at("go"), "").unwrap();
    success(&mut running).await;
    success(&mut running).await;
    assert_eq!(place.read("told"), format!("{first} 0\n{} 4\n", serial(&place)));
    running.stop().await;
}

#[tokio::test]
async fn the_end_of_the_process_ends_programs() {
    let place = Place::new().await;
    let running = place.run(&script("svid_renewed", "echo $$ > $/pid; exec sleep 600", "timeout: 5m")).await;
    eventually("it runs", || place.read("pid").ends_with('\n')).await;
    running.stop().await;
    assert!(!std::path::Path::new(&format!("/proc/{}", place.read("pid").trim())).exists());
}

#[tokio::test]
async fn a_process_is_signalled_by_its_file_read_each_time() {
    let place = Place::new().await;
    let yaml = "hooks: [{name: it, events: [svid_renewed], attempts: 1, backoff: {initial: 10ms, max: 10ms}, signal: {pid_file: '$/pid', signal: SIGUSR1, process: sh}}]";
    let mut running = place.run(yaml).await;
    let (error, _) = failure(&mut running).await;
    assert!(error.contains("cannot read the pid file"), "{error}");

    // Another program, then nobody, then nonsense.
    let mut other = Command::new("/bin/sleep").arg("600").kill_on_drop(true).spawn().unwrap();
    let number = other.id().unwrap();
    for content in [number.to_string(), "2147483647".to_owned(), "-1".to_owned(), std::process::id().to_string()] {
        fs::write(place.at("pid"), &content).unwrap();
        place.issuer.rotate().unwrap();
        let (error, _) = failure(&mut running).await;
        let expected = match content.as_str() {
            "2147483647" => "does not exist",
            "-1" => "no process number",
            _ if content == number.to_string() => "which is \"sleep\" and not \"sh\"",
            _ => "which is this one",
        };
        assert!(error.contains(expected), "{content}: {error}");
    }
    assert!(other.try_wait().unwrap().is_none(), "untouched");

    let text = format!(
        "trap 'echo told >> {0}/told' USR1; echo $$ > {0}/pid; while :; do /bin/sleep 0.01; done",
        place.at("").display()
    );
    let _server = Command::new("/bin/sh").args(["-c", &text]).kill_on_drop(true).spawn().unwrap();
    let old = std::process::id().to_string();
    eventually("it runs", || place.read("pid").ends_with('\n') && place.read("pid").trim() != old).await;
    place.issuer.rotate().unwrap();
    success(&mut running).await;
    eventually("it heard", || place.read("told") == "told\n").await;
    running.stop().await;
}

#[tokio::test]
async fn a_webhook_is_signed_json_and_retries_are_the_same_event() {
    let place = Place::new().await;
    let mut receiver = Receiver::tcp().await;
    receiver.answer(&[500, 302]);
    fs::write(place.at("key"), "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n").unwrap();
    let mut running = place.run(&webhook(&format!("http://{}/in?a=b", receiver.address()), "key_file: '$/key'")).await;
    let mut ids = Vec::new();
    for attempt in 1..=3 {
        let delivery = receiver.next().await;
        let json = delivery.json();
        assert_eq!((delivery.path.as_str(), delivery.header("content-type")), ("/in?a=b", "application/json"));
        assert_eq!((&json["event"], &json["attempt"]), (&"svid_renewed".into(), &attempt.into()));
        assert_eq!(json["spiffe_id"], "spiffe://domain.test/workload");
        assert_eq!(json["serial"], serial(&place).as_str());
        let (id, timestamp) = (delivery.header("webhook-id"), delivery.header("webhook-timestamp"));
        assert_eq!(json["id"], id);
        timestamp.parse::<u64>().unwrap();
        let signature = Base64::decode_vec(delivery.header("webhook-signature").strip_prefix("v1,").unwrap()).unwrap();
        let key = hmac::Key::new(hmac::HMAC_SHA256, &Base64::decode_vec("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap());
        hmac::verify(&key, format!("{id}.{timestamp}.{}", delivery.body).as_bytes(), &signature).unwrap();
        ids.push(id.to_owned());
    }
    ids.dedup();
    assert_eq!(ids.len(), 1, "one event has one id");
    assert!(failure(&mut running).await.0.contains("answered 500"));
    assert!(failure(&mut running).await.0.contains("redirects are not followed"));
    success(&mut running).await;

    // Without its key nothing is sent.
    fs::remove_file(place.at("key")).unwrap();
    place.issuer.rotate().unwrap();
    assert!(failure(&mut running).await.0.contains("nothing is sent unsigned"));
    fs::write(place.at("key"), "another key of more than 24 bytes").unwrap();
    assert_eq!(receiver.next().await.json()["serial"], serial(&place).as_str());
    running.stop().await;
}

#[tokio::test]
async fn a_webhook_goes_over_a_unix_socket_too() {
    let place = Place::new().await;
    let mut running = place.run(&webhook("http://localhost/in", "socket: '$/hook.sock'")).await;
    let (error, again) = failure(&mut running).await;
    assert!(error.contains("nobody accepts connections there") && again, "{error}");
    let mut receiver = Receiver::unix(&place.at("hook.sock"));
    let delivery = receiver.next().await;
    assert_eq!((delivery.path.as_str(), delivery.header("host")), ("/in", "localhost"));
    assert_eq!(delivery.header("webhook-signature"), "");
    running.stop().await;
}

#[tokio::test]
async fn a_webhook_over_tls_checks_the_certificate() {
    use std::sync::Arc;
    use tokio_rustls::{TlsAcceptor, rustls};
    let place = Place::new().await;
    let signed = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    fs::write(place.at("ca.pem"), pem(signed.cert.der())).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(signed.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![signed.cert.der().clone()], key)
        .unwrap();
    let mut receiver = Receiver::tls(Some(TlsAcceptor::from(Arc::new(tls)))).await;
    let url = format!("https://{}/in", receiver.address());

    let other = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    fs::write(place.at("other.pem"), pem(other.cert.der())).unwrap();
    let mut running = place.run(&webhook(&url, "ca_file: '$/other.pem'")).await;
    let (error, _) = failure(&mut running).await;
    assert!(error.contains("the TLS handshake failed"), "{error}");
    fs::copy(place.at("ca.pem"), place.at("other.pem")).unwrap();
    assert_eq!(receiver.next().await.json()["event"], "svid_renewed");
    running.stop().await;
}

#[tokio::test]
async fn a_full_queue_drops_the_oldest_and_says_so() {
    let place = Place::new().await;
    let more = "socket: '$/hook.sock', queue: 2";
    let yaml = webhook("http://localhost/in", more).replace("hooks: [{", "hooks: [{attempts: 100, ");
    let mut running = place.run(&yaml).await;
    let mut renewed = vec![serial(&place)];
    running.renewed(&renewed[0]).await;
    for _ in 0..4 {
        place.issuer.rotate().unwrap();
        renewed.push(serial(&place));
        running.renewed(&renewed[renewed.len() - 1]).await;
    }
    let mut dropped = 0;
    while dropped < 3 {
        dropped += match running.callback().await {
            HookEvent::Dropped { count, .. } => count,
            // Its place was taken while it was tried.
            HookEvent::Failed { retry_in: None, .. } => 1,
            _ => 0,
        };
    }
    let mut receiver = Receiver::unix(&place.at("hook.sock"));
    for (serial, missed) in [(&renewed[3], 3), (&renewed[4], 0)] {
        let told = receiver.next().await.json();
        assert_eq!((&told["serial"], &told["missed"]), (&serial.as_str().into(), &missed.into()));
    }
    running.stop().await;
}

/// Programs that hang, receivers that are dead and directories that are missing: every change still reaches the proxy. To
/// wait for one of them would take ten minutes.
#[tokio::test]
async fn the_data_path_does_not_notice() {
    let place = Place::new().await;
    // Accepts connections and never answers.
    let _mute = tokio::net::UnixListener::bind(place.at("mute.sock")).unwrap();
    let yaml = "outputs: [{directory: '$/nowhere'}]\nhooks:\n\
        - {events: [all], exec: {command: [/bin/sleep, '600']}, timeout: 10m}\n\
        - {events: [all], webhook: {url: 'http://localhost/', socket: '$/mute.sock', queue: 1}, timeout: 10m}\n\
        - {events: [all], signal: {pid_file: '$/none'}, backoff: {initial: 10ms, max: 10ms}}\n";
    for more in ["", yaml] {
        let mut running = place.run(&format!("secrets: {{rollout_hold: 0s}}\n{more}")).await;
        let mut client = Sotw::secrets(&unix_channel(running.socket.clone()).await).await;
        client.subscribe(["default"]).await;
        client.expect(["default"]).await;
        client.ack().await;
        for _ in 0..50 {
            place.issuer.rotate().unwrap();
            let secret = client.expect(["default"]).await;
            assert_eq!(
                secrets::content(&secret[0]),
                secrets::certificate(&place.issuer.svid(&id("workload")).unwrap())
            );
            client.ack().await;
        }
        // The drain would wait for it.
        drop(client);
        if !more.is_empty() {
            running.not_written().await;
        }
        running.stop().await;
    }
}

/// Keys are in the files they belong into, and nowhere else: not in the log at its loudest, not in an environment, not in
/// what a receiver gets, and not in the log when a program prints them.
#[tokio::test]
async fn keys_stay_in_their_files() {
    use tokio::io::AsyncReadExt as _;
    let place = Place::new().await;
    fs::create_dir(place.at("out")).unwrap();
    let mut receiver = Receiver::unix(&place.at("hook.sock"));
    fs::write(place.at("key"), "0123456789-a-key-that-signs-0123456789").unwrap();
    let yaml = "log: {filter: trace, format: json}\noutputs: [{directory: '$/out', combined_file: all.pem}]\nhooks:\n\
        - {events: [all], exec: {command: [/bin/sh, -c, '/usr/bin/env >> $/env; cat $/out/*.pem; exit 1']}, attempts: 1}\n\
        - {events: [output_written], webhook: {url: 'http://localhost/', socket: '$/hook.sock', key_file: '$/key'}}\n";
    fs::write(place.at("sds.yaml"), place.yaml(yaml)).unwrap();
    let mut program = Command::new(env!("CARGO_BIN_EXE_spiffe-sds"))
        .args(["serve", "--config"])
        .arg(place.at("sds.yaml"))
        .stdin(std::process::Stdio::null())
        .stderr(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut log = program.stderr.take().unwrap();
    let reading = tokio::spawn(async move {
        let mut text = String::new();
        log.read_to_string(&mut text).await.unwrap();
        text
    });
    let mut told = receiver.next().await.body;
    place.issuer.rotate().unwrap();
    told += &receiver.next().await.body;
    eventually("the program ran", || place.read("env").contains("output_written")).await;
    let pid = nix::unistd::Pid::from_raw(i32::try_from(program.id().unwrap()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    bounded(program.wait()).await.unwrap();
    let log = bounded(reading).await.unwrap();
    assert!(log.contains("withheld because they look like a private key") && log.contains("files written"), "{log}");

    let (key, token) = (place.read("out/svid_key.pem"), "a-key-that-signs");
    let secret = key.lines().nth(1).expect("a key");
    for (what, text) in [("log", &log), ("environment", &place.read("env")), ("webhook", &told)] {
        assert!(!text.contains(secret) && !text.contains("PRIVATE KEY-") && !text.contains(token), "in the {what}");
    }
}
