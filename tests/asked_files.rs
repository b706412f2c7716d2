//! Names of files over real sockets: read when asked for, followed when they change, refused when they lead elsewhere.
#![cfg(feature = "dev-issuer")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod support;

#[path = "asked_files/fixture.rs"]
mod fixture;

use std::{collections::BTreeMap, fs, os::unix::fs::symlink, path::Path, time::Duration};

use fixture::{Pair, mkfifo, replace};
use support::{
    app::{Place, Running},
    log::lines,
    secrets::{self, Content, content},
    world::{bounded, eventually, unix_channel},
    xds::{Delta, SENTINEL, Sotw, envoy, fetch},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
};
use tonic::{Code, transport::Channel};

const ALLOWED: &str = "secrets: { files: { allow: [$/certs], system_roots: $/system.pem } }\n";

/// The configuration with a name that a silence is found out with.
fn audible(more: &str) -> String {
    let sentinel = format!("secrets: {{ names: [{{ name: '{SENTINEL}', svid: default }}]");
    match more.strip_prefix("secrets: {") {
        Some(rest) => format!("{sentinel},{rest}"),
        None => format!("{sentinel} }}\n{more}"),
    }
}

/// A program that serves what is in `certs`, and a connection to it.
async fn serving(more: &str) -> (Place, Running, Channel) {
    let place = Place::new().await;
    fs::create_dir_all(place.at("certs/sub")).unwrap();
    let running = place.run(&audible(more)).await;
    let channel = unix_channel(place.at("sds.sock")).await;
    (place, running, channel)
}

/// `file-cert:` of `certs/<name>.crt` and its key.
fn cert(place: &Place, name: &str) -> String {
    let at = |extension| place.at(&format!("certs/{name}.{extension}")).display().to_string();
    format!("file-cert:{}~{}", at("crt"), at("key"))
}

fn root(place: &Place, path: &str) -> String {
    format!("file-root:{}", place.at(path).display())
}

/// Both variants, each subscribed to `names` and with what came.
async fn both(channel: &Channel, names: [&str; 2]) -> (Sotw, Delta) {
    let (mut sotw, mut delta) = (Sotw::secrets(channel).await, Delta::secrets(channel).await);
    sotw.subscribe(names).await;
    delta.subscribe(names).await;
    (sotw, delta)
}

#[tokio::test]
async fn what_is_asked_for_is_served_and_followed_when_it_is_renamed() {
    let (place, running, channel) = serving(ALLOWED).await;
    let mut held = Pair::new("one.test");
    held.write(&place.at("certs"), "web");
    fs::write(place.at("certs/ca.pem"), &held.chain).unwrap();
    let (cert, ca) = (cert(&place, "web"), root(&place, "certs/ca.pem"));
    let (mut sotw, mut delta) = both(&channel, [&cert, &ca]).await;
    for round in 0..3 {
        // Trust first.
        for found in [sotw.expect([&*ca, &*cert]).await, delta.expect([&*ca, &*cert]).await] {
            assert_eq!(content(&found[0]), Content::Plain(held.chain.clone()), "round {round}");
            assert_eq!(content(&found[1]), held.content(), "round {round}");
        }
        sotw.ack().await;
        delta.ack().await;
        held = Pair::new("one.test");
        replace(&place.at("certs/ca.pem"), &held.chain);
        replace(&place.at("certs/web.key"), &held.key);
        replace(&place.at("certs/web.crt"), &held.chain);
    }
    drop((sotw, delta));
    running.stop().await;
}

#[tokio::test]
async fn a_kubernetes_volume_is_followed_through_its_links() {
    let (place, running, channel) = serving(ALLOWED).await;
    let swap = |generation: u32, held: &Pair| {
        let directory = place.at(&format!("certs/..2026_{generation}"));
        fs::create_dir(&directory).unwrap();
        held.write(&directory, "web");
        symlink(directory.file_name().unwrap(), place.at("certs/..data_tmp")).unwrap();
        fs::rename(place.at("certs/..data_tmp"), place.at("certs/..data")).unwrap();
        for name in ["web.crt", "web.key"] {
            let link = place.at("certs").join(name);
            if !link.is_symlink() {
                symlink(Path::new("..data").join(name), link).unwrap();
            }
        }
        if generation > 0 {
            fs::remove_dir_all(place.at(&format!("certs/..2026_{}", generation - 1))).unwrap();
        }
    };
    let cert = cert(&place, "web");
    let mut client = Delta::secrets(&channel).await;
    client.subscribe([&*cert]).await;
    for generation in 0..4 {
        let held = Pair::new("one.test");
        swap(generation, &held);
        assert_eq!(content(&client.expect([&*cert]).await[0]), held.content());
        client.ack().await;
    }
    running.stop().await;
}

#[tokio::test]
async fn only_what_is_asked_for_by_a_subscriber_is_sent_to_it() {
    let (place, running, channel) = serving(ALLOWED).await;
    let (one, two) = (Pair::new("one.test"), Pair::new("two.test"));
    one.write(&place.at("certs"), "one");
    two.write(&place.at("certs/sub"), "two");
    let (first, second) = (cert(&place, "one"), cert(&place, "sub/two"));
    let (mut a, mut b) = (Sotw::secrets(&channel).await, Delta::secrets(&channel).await);
    a.subscribe([&*first]).await;
    assert_eq!(content(&a.expect([&*first]).await[0]), one.content());
    a.ack().await;
    b.subscribe([&*second]).await;
    assert_eq!(content(&b.expect([&*second]).await[0]), two.content());
    b.ack().await;
    Pair::new("two.test").write(&place.at("certs/sub"), "two");
    b.expect([&*second]).await;
    a.expect_silence().await;
    // Dot-free, under the spelling that was asked for.
    let dotless = first.replace('.', "%2E");
    let mut c = Delta::secrets(&channel).await;
    c.subscribe([&*dotless]).await;
    assert_eq!(content(&c.expect([&*dotless]).await[0]), one.content());
    running.stop().await;
}

#[tokio::test]
async fn nothing_else_is_read() {
    let (place, running, channel) = serving(ALLOWED).await;
    let secret = Pair::new("secret.test");
    fs::create_dir(place.at("outside")).unwrap();
    fs::create_dir(place.at("certs-too")).unwrap();
    for directory in ["outside", "certs-too"] {
        secret.write(&place.at(directory), "web");
    }
    let names = [
        cert(&place, "../outside/web"),
        root(&place, "certs/../outside/web.crt"),
        root(&place, "outside/web.crt"),
        root(&place, "certs-too/web.crt"),
        format!("file-root:/{}", place.at("certs/web.crt").display()),
        "file-root:certs/web.crt".to_owned(),
        "file-root:/etc/passwd".to_owned(),
        "file-cert:/etc/passwd".to_owned(),
    ];
    let mut client = Delta::secrets(&channel).await;
    for name in &names {
        client.subscribe([&**name]).await;
        client.expect_removed([&**name]).await;
        client.ack().await;
    }
    // Half of a pair is as bad as both.
    let mixed = format!("file-cert:{}~/etc/shadow", place.at("certs/web.crt").display());
    client.subscribe([&*mixed]).await;
    client.expect_removed([&*mixed]).await;
    client.ack().await;
    let mut client = Sotw::secrets(&channel).await;
    client.subscribe([&*names[0], &*names[2]]).await;
    client.expect_silence().await;
    running.stop().await;
}

#[tokio::test]
async fn links_that_lead_out_are_not_followed() {
    let log = lines(tracing::Level::INFO);
    let (place, running, channel) = serving(ALLOWED).await;
    let (secret, good) = (Pair::new("secret.test"), Pair::new("good.test"));
    fs::create_dir(place.at("outside")).unwrap();
    secret.write(&place.at("outside"), "web");
    symlink(place.at("outside"), place.at("certs/directory")).unwrap();
    symlink("../outside/web.crt", place.at("certs/link.crt")).unwrap();
    symlink("../outside/web.key", place.at("certs/link.key")).unwrap();
    good.write(&place.at("certs"), "inside");
    symlink(place.at("certs/inside.crt"), place.at("certs/alias.crt")).unwrap();
    symlink("inside.key", place.at("certs/alias.key")).unwrap();
    let (link, below, alias) = (cert(&place, "link"), cert(&place, "directory/web"), cert(&place, "alias"));
    let mut client = Delta::secrets(&channel).await;
    client.subscribe([&*link, &*below, &*alias]).await;
    // A link inside is as good as the file.
    assert_eq!(content(&client.expect([&*alias]).await[0]), good.content());
    client.ack().await;
    eventually("a warning about each", || log.about("is a link to a place").len() == 2).await;
    // A file that was good and becomes such a link: the good one stays.
    fs::remove_file(place.at("certs/inside.crt")).unwrap();
    symlink(place.at("outside/web.crt"), place.at("certs/inside.crt")).unwrap();
    eventually("a warning about the third", || log.about("is a link to a place").len() == 3).await;
    client.expect_silence().await;
    let mut late = Sotw::secrets(&channel).await;
    late.subscribe([&*alias]).await;
    assert_eq!(content(&late.expect([&*alias]).await[0]), good.content());
    assert!(!log.text().contains("BEGIN") && !log.text().contains(&good.key[60..90]));
    running.stop().await;
}

#[tokio::test]
async fn off_by_default_such_names_mean_nothing() {
    for more in ["", "secrets: { files: { allow: [$/other] } }", "secrets: { files: { system_roots: $/system.pem } }"] {
        let (place, running, channel) = serving(more).await;
        Pair::new("one.test").write(&place.at("certs"), "web");
        let mut names = vec![cert(&place, "web"), root(&place, "certs/web.crt")];
        if !more.contains("system") {
            names.push("file-root:system".to_owned());
        }
        let mut client = Delta::secrets(&channel).await;
        for name in &names {
            client.subscribe([&**name]).await;
            client.expect_removed([&**name]).await;
            client.ack().await;
        }
        let mut client = Sotw::secrets(&channel).await;
        client.subscribe([&*names[0], &*names[1]]).await;
        client.expect_silence().await;
        let status = fetch(&channel, envoy(40), &[&names[0]]).await.unwrap_err();
        assert_eq!(status.code(), Code::NotFound);
        running.stop().await;
    }
}

#[tokio::test]
async fn the_names_that_are_answered_are_a_limit_for_files_too() {
    let more = "secrets: { files: { allow: [$/certs] }, allowed_names: ['**/web.crt~**'] }";
    let (place, running, channel) = serving(more).await;
    let held = Pair::new("one.test");
    held.write(&place.at("certs"), "web");
    held.write(&place.at("certs"), "other");
    let (web, other) = (cert(&place, "web"), cert(&place, "other"));
    let mut client = Delta::secrets(&channel).await;
    client.subscribe([&*other]).await;
    client.expect_removed([&*other]).await;
    client.ack().await;
    client.subscribe([&*web]).await;
    client.expect([&*web]).await;
    running.stop().await;
}

/// Makes a file bad.
type Damage<'a> = Box<dyn Fn() + 'a>;

#[tokio::test]
async fn files_that_vanish_or_go_bad_take_nothing_away() {
    let log = lines(tracing::Level::INFO);
    let (place, running, channel) = serving(ALLOWED).await;
    let held = Pair::new("one.test");
    held.write(&place.at("certs"), "web");
    let cert = cert(&place, "web");
    let mut client = Delta::secrets(&channel).await;
    client.subscribe([&*cert]).await;
    client.expect([&*cert]).await;
    client.ack().await;
    let crt = place.at("certs/web.crt");
    let damage: [(&str, Damage<'_>); 6] = [
        ("cannot read", Box::new(|| ())),
        ("is no file", Box::new(|| fs::create_dir(&crt).unwrap())),
        ("holds no certificate", Box::new(|| fs::write(&crt, "garbage").unwrap())),
        ("is no file", Box::new(|| mkfifo(&crt))),
        ("has more than", Box::new(|| fs::File::create(&crt).unwrap().set_len(50 << 20).unwrap())),
        ("does not belong", Box::new(|| fs::write(&crt, Pair::new("other.test").chain).unwrap())),
    ];
    for (said, damage) in damage {
        let before = log.about(said).len();
        let _ = fs::remove_file(&crt).or_else(|_| fs::remove_dir(&crt));
        damage();
        eventually(said, || log.about(said).len() == before + 1).await;
        client.expect_silence().await;
        // Whoever comes now gets the last good one, and so does who comes again.
        let mut late = Sotw::secrets(&channel).await;
        late.subscribe([&*cert]).await;
        assert_eq!(content(&late.expect([&*cert]).await[0]), held.content(), "{said}");
    }
    drop(client);
    let held = BTreeMap::new();
    let mut client = Delta::secrets(&channel).await.holding(&held);
    client.subscribe([&*cert]).await;
    client.expect([&*cert]).await;
    client.ack().await;
    let next = Pair::new("two.test");
    fs::remove_file(&crt).unwrap();
    next.write(&place.at("certs"), "web");
    assert_eq!(content(&client.expect([&*cert]).await[0]), next.content());
    let text = log.text();
    assert!(!text.contains("BEGIN") && !text.contains(&next.key[60..90]), "{text}");
    running.stop().await;
}

#[tokio::test]
async fn files_that_are_not_there_yet_are_waited_for_and_nobody_hears_a_no() {
    let (place, running, channel) = serving(ALLOWED).await;
    let name = cert(&place, "sub/later/web");
    // Also who held it before our start, or before everybody let go of it.
    let before: BTreeMap<String, String> = [(name.clone(), "some version".to_owned())].into();
    let mut client = Delta::secrets(&channel).await.holding(&before);
    client.subscribe([&*name]).await;
    client.expect_silence().await;
    let held = Pair::new("one.test");
    fs::create_dir(place.at("certs/sub/later")).unwrap();
    held.write(&place.at("certs/sub/later"), "web");
    assert_eq!(content(&client.expect([&*name]).await[0]), held.content());
    running.stop().await;
}

#[tokio::test]
async fn certificates_that_have_expired_are_not_served_and_those_that_expire_not_anew() {
    let log = lines(tracing::Level::INFO);
    let (place, running, channel) = serving(ALLOWED).await;
    Pair::living("one.test", Duration::ZERO).write(&place.at("certs"), "old");
    let dying = Pair::living("two.test", Duration::from_secs(6));
    dying.write(&place.at("certs"), "dying");
    let (old, name) = (cert(&place, "old"), cert(&place, "dying"));
    let mut client = Delta::secrets(&channel).await;
    client.subscribe([&*old, &*name]).await;
    assert_eq!(content(&client.expect([&*name]).await[0]), dying.content());
    client.ack().await;
    eventually("a warning about both", || log.about("it expired").len() == 2).await;
    client.expect_silence().await;
    let mut late = Delta::secrets(&channel).await;
    late.subscribe([&*name]).await;
    late.expect_silence().await;
    let next = Pair::new("two.test");
    next.write(&place.at("certs"), "dying");
    assert_eq!(content(&late.expect([&*name]).await[0]), next.content());
    assert_eq!(content(&client.expect([&*name]).await[0]), next.content());
    running.stop().await;
}

#[tokio::test]
async fn the_authorities_of_the_system_are_a_name() {
    let (place, running, channel) = serving(ALLOWED).await;
    let (one, two) = (Pair::new("one.test"), Pair::new("two.test"));
    // One that nobody can read costs the others nothing.
    let odd = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    fs::write(place.at("system.pem"), format!("# comment\n{}{odd}{}", one.chain, two.chain)).unwrap();
    let mut client = Sotw::secrets(&channel).await;
    client.subscribe(["file-root:system"]).await;
    let both = Content::Plain(format!("{}{}", one.chain, two.chain));
    assert_eq!(content(&client.expect(["file-root:system"]).await[0]), both);
    client.ack().await;
    replace(&place.at("system.pem"), &two.chain);
    assert_eq!(content(&client.expect(["file-root:system"]).await[0]), Content::Plain(two.chain));
    running.stop().await;
}

/// Where distributions have them: this needs `ca-certificates` on the machine, as `cargo` does.
#[tokio::test]
async fn the_authorities_of_this_very_system_are_found() {
    let (_place, running, channel) = serving("secrets: { files: { system_roots: auto } }").await;
    let mut client = Delta::secrets(&channel).await;
    client.subscribe(["file-root:system"]).await;
    match content(&client.expect(["file-root:system"]).await[0]) {
        Content::Plain(pem) => assert!(pem.matches("BEGIN CERTIFICATE").count() > 10, "{pem}"),
        other => panic!("{other:?}"),
    }
    running.stop().await;
}

#[tokio::test]
async fn files_do_not_wait_for_the_source() {
    let place = Place::new().await;
    place.issuer.hang();
    fs::create_dir(place.at("certs")).unwrap();
    let held = Pair::new("one.test");
    held.write(&place.at("certs"), "web");
    let running = place.run(&audible(ALLOWED)).await;
    let channel = unix_channel(place.at("sds.sock")).await;
    let name = cert(&place, "web");
    let (mut sotw, mut delta) = both(&channel, [&name, "default"]).await;
    assert_eq!(content(&sotw.expect([&*name]).await[0]), held.content());
    assert_eq!(content(&delta.expect([&*name]).await[0]), held.content());
    sotw.ack().await;
    delta.ack().await;
    let response = fetch(&channel, envoy(40), &[&name]).await.unwrap();
    assert_eq!(content(&secrets::decode(&response.resources[0])), held.content());
    let status = fetch(&channel, envoy(40), &[&name, "default"]).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    place.issuer.recover();
    sotw.expect(["default"]).await;
    delta.expect(["default"]).await;
    running.stop().await;
}

#[tokio::test]
async fn a_reconnect_with_the_version_is_silent() {
    let (place, running, channel) = serving(ALLOWED).await;
    Pair::new("one.test").write(&place.at("certs"), "web");
    let name = cert(&place, "web");
    let mut client = Delta::secrets(&channel).await;
    client.subscribe([&*name]).await;
    client.expect([&*name]).await;
    client.ack().await;
    let held = client.held.clone();
    let mut sotw = Sotw::secrets(&channel).await;
    sotw.subscribe([&*name]).await;
    sotw.expect([&*name]).await;
    sotw.ack().await;
    let version = sotw.version.clone();
    drop((client, sotw));
    running.stop().await;
    let running = place.run(&audible(ALLOWED)).await;
    let channel = unix_channel(place.at("sds.sock")).await;
    let mut sotw = Sotw::secrets(&channel).await.holding(&version);
    sotw.subscribe([&*name]).await;
    let mut probe = Delta::secrets(&channel).await;
    probe.subscribe([&*name]).await;
    probe.expect([&*name]).await;
    probe.ack().await;
    sotw.expect_silence().await;
    let mut client = Delta::secrets(&channel).await.holding(&held);
    client.subscribe([&*name]).await;
    client.expect_silence().await;
    running.stop().await;
}

#[tokio::test]
async fn a_unary_call_reads_the_file_too() {
    let (place, running, channel) = serving(ALLOWED).await;
    let held = Pair::new("one.test");
    held.write(&place.at("certs"), "web");
    let name = cert(&place, "web");
    let response = fetch(&channel, envoy(40), &[&name]).await.unwrap();
    assert_eq!(content(&secrets::decode(&response.resources[0])), held.content());
    // REST too, and it finds what nobody has asked for before.
    held.write(&place.at("certs/sub"), "rest");
    let body = format!(r#"{{"resource_names":["{}"]}}"#, cert(&place, "sub/rest"));
    let head = "POST /v3/discovery:secrets HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length:";
    let mut stream = UnixStream::connect(place.at("sds.sock")).await.unwrap();
    stream.write_all(format!("{head} {}\r\n\r\n{body}", body.len()).as_bytes()).await.unwrap();
    let mut answer = String::new();
    bounded(stream.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("tls_certificate"), "{answer}");
    let missing = cert(&place, "missing");
    let status = fetch(&channel, envoy(40), &[&missing]).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    running.stop().await;
}

#[tokio::test]
async fn no_more_than_so_many_are_followed_and_the_latest_wait() {
    let log = lines(tracing::Level::INFO);
    let (place, running, channel) = serving("secrets: { files: { allow: [$/certs], max: 2 } }").await;
    let names: Vec<_> = ["a", "b", "c"].map(|name| cert(&place, name)).to_vec();
    for name in ["a", "b", "c"] {
        Pair::new("one.test").write(&place.at("certs"), name);
    }
    let mut clients = Vec::new();
    for name in &names {
        let mut client = Delta::secrets(&channel).await;
        client.subscribe([&**name]).await;
        if *name != names[2] {
            client.expect([&**name]).await;
            client.ack().await;
        }
        clients.push(client);
    }
    eventually("a warning", || log.about("more files than are followed").len() == 1).await;
    clients[2].expect_silence().await;
    drop(clients.remove(0));
    clients[1].expect([&*names[2]]).await;
    running.stop().await;
}

#[tokio::test]
async fn what_is_not_there_takes_no_place_of_what_is() {
    let (place, running, channel) = serving("secrets: { files: { allow: [$/certs], max: 2 } }").await;
    let missing = [0, 1, 2, 3, 4, 5, 6, 7].map(|at| root(&place, &format!("certs/missing-{at}.pem")));
    let mut greedy = Delta::secrets(&channel).await;
    greedy.subscribe(missing.each_ref().map(String::as_str)).await;
    greedy.expect_silence().await;
    let held = Pair::new("one.test");
    held.write(&place.at("certs"), "web");
    let web = cert(&place, "web");
    let mut client = Sotw::secrets(&channel).await;
    client.subscribe([&*web]).await;
    assert_eq!(content(&client.expect([&*web]).await[0]), held.content());
    // And what was not there is followed all the same.
    replace(&place.at("certs/missing-0.pem"), &held.chain);
    greedy.expect([&*missing[0]]).await;
    running.stop().await;
}
