//! Private keys stay where they belong: not in logs, not in errors, not in `Debug`, and not in memory once for each client.
#![cfg(feature = "dev-issuer")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod support;

use std::{
    collections::{HashMap, HashSet},
    fs::File,
    os::unix::fs::FileExt as _,
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, SystemTime},
};

use base64ct::{Base64, Encoding as _};
use bytes::Bytes;
use pem_rfc7468::LineEnding;
use spiffe_sds::{
    dev::Template,
    identity::{Availability, IdentitySnapshot, Validity},
    secret::{Flavour, Naming, SecretCatalog},
    source::RenewalEvent,
    xds::{self, Origin, SECRET_TYPE_URL, Service, StreamState, Variant, WireSotw},
};
use support::{
    log::lines,
    traces,
    world::{DOMAIN, World, bounded, eventually, id, td},
    xds::{Delta, Raw, Sotw, framed, request},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
};

const STREAM: &str = "/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets";

fn assert_secret(what: &str, text: &str, keys: &[Vec<u8>]) {
    traces::assert_none(what, text, &keys.iter().flat_map(|key| traces::of_key(key)).collect::<Vec<_>>());
}

#[test]
fn the_traces_find_what_they_look_for() {
    let der: Vec<u8> = (0..138).collect();
    let pem = pem_rfc7468::encode_string("PRIVATE KEY", LineEnding::LF, &der).unwrap();
    for leak in [format!("{der:?}"), format!("{:?}", Bytes::from(der.clone())), pem] {
        assert!(traces::of_key(&der).iter().any(|trace| leak.contains(trace)), "{leak}");
    }
}

#[tokio::test]
async fn no_log_line_and_no_event_shows_a_key() {
    let log = lines(tracing::Level::TRACE);

    let world = World::with(|setup| setup.issuer.federated = vec![td("otherdomain.test")]).await;
    let mut keys = vec![world.svid("workload").svid.key.pkcs8_der().to_vec()];
    let mut sotw = Sotw::aggregated(&world.unix().await).await;
    sotw.subscribe(["default", "ALL"]).await;
    sotw.expect(["ALL", "default"]).await;
    sotw.nack("no such\nluck").await;
    let mut delta = Delta::secrets(&world.tcp().await).await;
    delta.subscribe(["default", "no such thing"]).await;
    delta.expect(["default"]).await;
    delta.expect_removed(["no such thing"]).await;
    delta.nack("no").await;
    for _ in 0..3 {
        world.issuer.rotate().unwrap();
        keys.push(world.svid("workload").svid.key.pkcs8_der().to_vec());
        sotw.expect(["default"]).await;
        delta.expect(["default"]).await;
        delta.nack("no").await;
    }
    let mut renewals = world.renewals();
    let past = SystemTime::now() - Duration::from_secs(60);
    let validity = Validity { not_before: past - Duration::from_secs(60), not_after: past };
    let expired = Template { validity, ..Template::leaf(id("workload"), past, Duration::from_secs(60)) };
    let expired = world.issuer.sign(&expired, &td(DOMAIN)).unwrap();
    let foreign = world.issuer.forge(&id("workload"), &td("otherdomain.test")).unwrap();
    let good = || world.issuer.message();
    for bad in [
        good().mismatched_key(0).unwrap(),
        good().replaced(0, &expired),
        good().replaced(0, &foreign),
        good().spiffe_id(0, "spiffe://domain.test/another"),
        good().garbage_chain(0),
        good().garbage_bundle(0),
        // A key where a certificate should be, and one that is cut short.
        good().svid(0, |svid| svid.x509_svid = svid.x509_svid_key.clone()),
        good().svid(0, |svid| svid.x509_svid_key.truncate(100)),
    ] {
        keys.push(bad.response().svids[0].x509_svid_key.to_vec());
        world.issuer.send_raw(bad);
        let error = bounded(async {
            loop {
                if let RenewalEvent::RenewalFailed { error, .. } = renewals.recv().await.unwrap() {
                    return error;
                }
            }
        })
        .await;
        assert_secret("an error", &error, &keys);
    }
    world.issuer.recover();
    drop((sotw, delta));
    drop(world);

    let text = log.text();
    for expected in ["resource sent", "resource rejected by the client", "TRACE", "h2::"] {
        assert!(text.contains(expected), "{expected:?} was not logged, so this proves nothing");
    }
    assert_secret("the log", &text, &keys);
}

#[tokio::test]
async fn no_debug_shows_a_key() {
    let world = World::start().await;
    let issued = world.svid("workload");
    let keys = [issued.svid.key.pkcs8_der().to_vec()];
    let mut snapshot = IdentitySnapshot::default();
    snapshot.svids.push(Arc::new(issued.svid.clone()));
    snapshot.trust_domain = Some(td(DOMAIN));

    let origin = Arc::new(Origin { type_url: SECRET_TYPE_URL, control_plane: "test".into() });
    let catalog = SecretCatalog::new(Naming::default(), origin.clone());
    let set = catalog.resources(&snapshot, Flavour::Spiffe, SystemTime::now()).unwrap();
    let limits = xds::Limits { names: 10, name_bytes: 4 << 20 };
    let mut stream = StreamState::new(Variant::Sotw, Service::Secrets, limits, false, origin);
    let wire = WireSotw { resource_names: vec!["default".into()], ..WireSotw::default() };
    let event = stream.on_request(wire, Duration::ZERO).unwrap();
    let outgoing = stream.poll(&set, Duration::ZERO).unwrap();

    let key = issued.svid.key.clone();
    let lookup = set.lookup("default");
    let frame = &outgoing.frame;
    let update = outgoing.update.as_ref().unwrap();
    let (message, issuer, availability) =
        (world.issuer.message(), &world.issuer, Availability::Ready(Arc::new(snapshot.clone())));
    let shown = format!(
        "{key:?} {issued:?} {snapshot:?} {set:?} {lookup:?} {stream:?} {event:?} {frame:?} {update:?} {outgoing:?} \
         {message:?} {issuer:?} {availability:?} {catalog:?}"
    );
    assert!(shown.contains("redacted"));
    assert_secret("Debug", &shown, &keys);
}

/// The program, killed when dropped.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Program {
    /// Its memory can be read by this test whatever user that runs as.
    async fn serve(source: &Path, socket: &Path) -> Self {
        let child = Command::new(env!("CARGO_BIN_EXE_spiffe-sds"))
            .env_clear()
            .args(["serve", "--allow-core-dumps", "--set", "secrets.rollout_hold=0s"])
            .arg("--endpoint")
            .arg(format!("unix://{}", source.display()))
            .arg("--listen")
            .arg(format!("unix://{}", socket.display()))
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let program = Self(child);
        eventually("the program listens", || std::os::unix::net::UnixStream::connect(socket).is_ok()).await;
        program
    }

    /// How often `needle` is in writable memory.
    fn copies(&self, needle: &[u8]) -> usize {
        self.regions().iter().map(|region| count(region, needle)).sum()
    }

    /// How often each of these is, all of one length.
    fn copies_of(&self, needles: &[Vec<u8>]) -> Vec<usize> {
        let length = needles[0].len();
        let places: HashMap<&[u8], usize> =
            needles.iter().enumerate().map(|(place, needle)| (needle.as_slice(), place)).collect();
        let starts: HashSet<[u8; 4]> = needles.iter().map(|needle| needle[..4].try_into().unwrap()).collect();
        let mut copies = vec![0; needles.len()];
        for region in self.regions() {
            for window in region.windows(length).filter(|window| window[0] != 0) {
                if starts.contains(&window[..4])
                    && let Some(place) = places.get(window)
                {
                    copies[*place] += 1;
                }
            }
        }
        copies
    }

    /// Writable memory, without the pages that are empty: an allocator may have reserved a gigabyte.
    fn regions(&self) -> Vec<Vec<u8>> {
        const PAGE: usize = 4096;
        let pid = self.0.id();
        let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
        let memory = File::open(format!("/proc/{pid}/mem")).unwrap();
        let mut regions = Vec::new();
        let mut buffer = vec![0; 1 << 20];
        for line in maps.lines().filter(|line| line.contains(" rw-p ")) {
            let (start, rest) = line.split_once('-').unwrap();
            let (end, _) = rest.split_once(' ').unwrap();
            let [start, end] = [start, end].map(|it| u64::from_str_radix(it, 16).unwrap());
            let mut region = Vec::new();
            for at in (start..end).step_by(buffer.len()) {
                let part = buffer.len().min(usize::try_from(end - at).unwrap());
                let part = &mut buffer[..part];
                // Some regions are the kernel's own.
                if memory.read_exact_at(part, at).is_err() {
                    break;
                }
                for page in part.chunks(PAGE) {
                    if page == &[0; PAGE][..page.len()] {
                        regions.push(std::mem::take(&mut region));
                    } else {
                        region.extend_from_slice(page);
                    }
                }
            }
            regions.push(region);
        }
        regions.retain(|region| !region.is_empty());
        regions
    }
}

fn count(haystack: &[u8], needle: &[u8]) -> usize {
    let (first, rest) = needle.split_first().unwrap();
    let starts = haystack.iter().enumerate().filter(|(_, byte)| *byte == first);
    starts.filter(|(at, _)| haystack[at + 1..].starts_with(rest)).count()
}

/// With a generated handler each stream leaves two copies and more in memory; with shared frames it leaves none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_clients_do_not_mean_more_copies_of_a_key() {
    let world = World::prepare(|_| {}).await;
    let spiffe_sds::source::Endpoint::Unix(api) = world.issuer.endpoint().clone() else { panic!("not a socket") };
    let program = Program::serve(&api, &world.socket()).await;
    let mut connection = Raw::connect(UnixStream::connect(world.socket()).await.unwrap()).await;
    let mut calls = Vec::new();
    let mut copies = Vec::new();
    for streams in [100, 1000] {
        while calls.len() < streams {
            let mut call = connection.open(STREAM).await;
            call.send(framed(&request(&["default"])));
            call.message().await.unwrap();
            calls.push(call);
        }
        // Everybody gets one more, so that sending to many at once counts too.
        world.issuer.rotate().unwrap();
        for call in &mut calls {
            call.message().await.unwrap();
        }
        let issued = world.svid("workload");
        let der = issued.svid.key.pkcs8_der();
        let pem = pem_rfc7468::encode_string("PRIVATE KEY", LineEnding::LF, der).unwrap();
        let line = pem.lines().nth(2).unwrap();
        copies.push(program.copies(line.as_bytes()) + program.copies(&der[36..68]));
    }
    println!("copies with 100 and with 1,000 streams: {copies:?}");
    assert!(copies[0] > 0, "nothing was found, so this proves nothing");
    assert!(copies[1] <= copies[0] + 5, "copies with 100 and with 1,000 streams: {copies:?}");
}

/// What a poll over REST answers.
async fn rest(socket: &Path) -> String {
    let body = r#"{"resource_names":["default"]}"#;
    let head =
        "POST /v3/discovery:secrets HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close";
    let mut io = UnixStream::connect(socket).await.unwrap();
    io.write_all(format!("{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len()).as_bytes()).await.unwrap();
    let mut answer = String::new();
    bounded(io.read_to_string(&mut answer)).await.unwrap();
    answer
}

/// SECURITY.md has the numbers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_that_were_replaced_are_gone() {
    let world = World::prepare(|_| {}).await;
    let spiffe_sds::source::Endpoint::Unix(api) = world.issuer.endpoint().clone() else { panic!("not a socket") };
    let program = Program::serve(&api, &world.socket()).await;
    let mut client = Sotw::secrets(&world.unix().await).await;
    client.subscribe(["default"]).await;
    client.expect(["default"]).await;
    client.ack().await;
    let mut needles: Vec<[Vec<u8>; 3]> = Vec::new();
    for _ in 0..=100 {
        world.issuer.rotate().unwrap();
        client.expect(["default"]).await;
        client.ack().await;
        assert!(rest(&world.socket()).await.starts_with("HTTP/1.1 200"));
        let issued = world.svid("workload");
        let der = issued.svid.key.pkcs8_der();
        let pem = pem_rfc7468::encode_string("PRIVATE KEY", LineEnding::LF, der).unwrap();
        let json = Base64::encode_string(pem.as_bytes());
        needles.push([der[36..68].to_vec(), pem.lines().nth(2).unwrap()[..32].into(), json[80..112].into()]);
    }
    let mut kept = Vec::new();
    for kind in 0..3 {
        let needles: Vec<_> = needles.iter().map(|needles| needles[kind].clone()).collect();
        let copies = program.copies_of(&needles);
        assert!(kind == 2 || copies[100] > 0, "the key in service was not found, so this proves nothing");
        kept.push(copies);
    }
    let former: Vec<usize> = (0..100).map(|key| kept.iter().map(|copies| copies[key]).sum()).collect();
    let found: Vec<_> = former.iter().enumerate().filter(|(_, copies)| **copies > 0).collect();
    println!("former keys in memory: {found:?}");
    assert!(found.len() <= 6 && found.iter().all(|(_, copies)| **copies <= 4), "former keys in memory: {found:?}");
    assert!(found.iter().all(|(key, _)| *key >= 90), "not even the last ones: {found:?}");
}
