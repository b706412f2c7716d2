//! Identities in real directories, written the way others write them, and every way in which that can go wrong.
#![cfg(feature = "dev-issuer")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

#[path = "files_source/fixture.rs"]
mod fixture;

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::PathBuf,
    sync::Arc,
};

use fixture::{Ca, Client, Volume, pem, write};
use spiffe_sds::{
    dev::{self, DevIssuer},
    identity::{Availability, TrustDomain},
    source::{
        Endpoint, Files, RenewalEvent, WorkloadApi,
        failover::SwitchReason,
        files::{Config, Paths, SvidFiles},
        workload_api,
    },
};

fn each(directory: &std::path::Path) -> Config {
    let paths = Paths::Each {
        certificate: directory.join("svid.pem"),
        key: directory.join("svid_key.pem"),
        bundle: Some(directory.join("svid_bundle.pem")),
    };
    Config { svids: vec![SvidFiles { paths, hint: "files".to_owned() }], ..Config::default() }
}

#[tokio::test]
async fn a_volume_of_csi_driver_spiffe_is_followed() {
    let (ca, volume) = (Ca::new("example.org").await, Volume::new());
    let mut held = ca.rotate();
    volume.swap(&held.files(["tls.crt", "tls.key", "ca.crt"]));
    let mut client = Client::of(volume.config());
    client.serves(&held).await;
    for _ in 0..3 {
        held = ca.rotate();
        volume.swap(&held.files(["tls.crt", "tls.key", "ca.crt"]));
        client.serves(&held).await;
    }
    assert_eq!(client.count("source_up"), 1, "one session for all of it");
    assert_eq!(client.count("renewal_failed") + client.count("source_down"), 0);
}

#[tokio::test]
async fn files_of_spiffe_helper_are_followed_though_each_is_replaced_by_itself() {
    let (ca, directory) = (Ca::new("example.org").await, tempfile::tempdir().unwrap());
    let mut held = ca.rotate();
    for (name, text) in held.files(["svid.pem", "svid_key.pem", "svid_bundle.pem"]) {
        write(&directory.path().join(name), &text);
    }
    let paths = Paths::Directory { directory: directory.path().to_owned(), bundle: None };
    let config = Config { svids: vec![SvidFiles { paths, hint: String::new() }], ..Config::default() };
    let mut client = Client::of(config);
    client.serves(&held).await;
    for _ in 0..3 {
        held = ca.rotate();
        for (name, text) in held.files(["svid.pem", "svid_key.pem", "svid_bundle.pem"]) {
            let temporary = directory.path().join("temporary");
            write(&temporary, &text);
            fs::rename(&temporary, directory.path().join(name)).unwrap();
        }
        client.serves(&held).await;
    }
    assert_eq!(client.count("renewal_failed"), 0);
}

#[tokio::test]
async fn a_generation_half_written_is_waited_for_and_the_last_good_one_stays() {
    let (ca, directory) = (Ca::new("example.org").await, tempfile::tempdir().unwrap());
    let names = ["svid.pem", "svid_key.pem", "svid_bundle.pem"];
    let held = ca.rotate();
    held.write(directory.path(), names);
    let mut client = Client::of(each(directory.path()));
    client.serves(&held).await;

    // The certificate is there, its key is not: in time nobody hears of it, later it is said.
    let next = ca.rotate();
    let files = next.files(names);
    write(&directory.path().join(names[0]), &files[0].1);
    match client.event("renewal_failed").await {
        RenewalEvent::RenewalFailed { error, .. } => assert!(error.contains("does not belong"), "{error}"),
        other => panic!("{other:?}"),
    }
    assert!(client.is_serving(&held));
    write(&directory.path().join(names[1]), &files[1].1);
    client.serves(&next).await;

    // Half of a file.
    let last = ca.rotate();
    let files = last.files(names);
    write(&directory.path().join(names[0]), &files[0].1[..200]);
    match client.event("renewal_failed").await {
        RenewalEvent::RenewalFailed { error, .. } => assert!(error.contains("svid.pem is not valid PEM"), "{error}"),
        other => panic!("{other:?}"),
    }
    assert!(client.is_serving(&next));
    last.write(directory.path(), names);
    client.serves(&last).await;
}

#[tokio::test]
async fn files_that_are_not_there_yet_are_waited_for() {
    let (ca, directory) = (Ca::new("example.org").await, tempfile::tempdir().unwrap());
    let below = directory.path().join("a/b");
    let mut client = Client::of(each(&below));
    match client.event("source_down").await {
        RenewalEvent::SourceDown { error, .. } => {
            assert!(error.contains("cannot read") && error.contains("svid.pem"), "{error}")
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(client.state(), Availability::Pending);
    fs::create_dir_all(&below).unwrap();
    let held = ca.rotate();
    held.write(&below, ["svid.pem", "svid_key.pem", "svid_bundle.pem"]);
    client.serves(&held).await;
}

#[tokio::test]
async fn a_directory_that_goes_and_comes_back_is_found_again() {
    let (ca, directory) = (Ca::new("example.org").await, tempfile::tempdir().unwrap());
    let names = ["svid.pem", "svid_key.pem", "svid_bundle.pem"];
    let below = directory.path().join("identity");
    let mut held = ca.rotate();
    fs::create_dir(&below).unwrap();
    held.write(&below, names);
    let mut client = Client::of(each(&below));
    client.serves(&held).await;
    for said in [false, true] {
        fs::remove_dir_all(&below).unwrap();
        if said {
            client.event("source_down").await;
        }
        assert!(client.is_serving(&held));
        fs::create_dir(&below).unwrap();
        held = ca.rotate();
        held.write(&below, names);
        client.serves(&held).await;
        // And the new one is followed too.
        held = ca.rotate();
        held.write(&below, names);
        client.serves(&held).await;
    }
}

#[tokio::test]
async fn a_directory_behind_a_link_is_found_when_the_link_is_swapped() {
    let (ca, directory) = (Ca::new("example.org").await, tempfile::tempdir().unwrap());
    let names = ["svid.pem", "svid_key.pem", "svid_bundle.pem"];
    let link = directory.path().join("current");
    let generation = |name: &str| {
        let (held, below) = (ca.rotate(), directory.path().join(name));
        fs::create_dir(&below).unwrap();
        held.write(&below, names);
        let temporary = directory.path().join("temporary");
        symlink(below, &temporary).unwrap();
        fs::rename(temporary, &link).unwrap();
        held
    };
    let held = generation("1");
    let mut client = Client::of(each(&link));
    client.serves(&held).await;
    for name in ["2", "3"] {
        let held = generation(name);
        client.serves(&held).await;
    }
}

#[tokio::test]
async fn bundles_of_other_trust_domains_come_as_pem_and_as_json() {
    let (ca, other, third) = (Ca::new("example.org").await, Ca::new("other.org").await, Ca::new("third.org").await);
    let directory = tempfile::tempdir().unwrap();
    let held = ca.rotate();
    held.write(directory.path(), ["svid.pem", "svid_key.pem", "svid_bundle.pem"]);
    let place = |name: &str| directory.path().join(name);
    write(&place("other.pem"), &other.bundle_pem());
    write(&place("third.json"), &third.bundle_json());
    write(&place("own.json"), &ca.bundle_json());
    let td = |name| TrustDomain::new(name).unwrap();
    let mut config = each(directory.path());
    config.bundles = [(td("other.org"), place("other.pem")), (td("third.org"), place("third.json"))].into();
    let mut client = Client::of(config.clone());
    let snapshot = client.serves(&held).await;
    assert_eq!(snapshot.bundles[&td("other.org")].authorities(), other.authorities());
    assert_eq!(snapshot.bundles[&td("third.org")].authorities(), third.authorities());
    assert_eq!(snapshot.trust_domain, Some(td("example.org")));

    // The own one may be there too.
    let Paths::Each { bundle, .. } = &mut config.svids[0].paths else { panic!() };
    *bundle = None;
    config.bundles.insert(td("example.org"), place("own.json"));
    Client::of(config.clone()).serves(&held).await;

    // Without identities there are still bundles.
    config.svids.clear();
    let snapshot = Client::of(config).ready(|_| true).await;
    assert_eq!((snapshot.svids.len(), snapshot.bundles.len()), (0, 3));
}

#[tokio::test]
async fn keys_and_chains_in_every_spelling_are_the_same_identity() {
    let ca = Ca::with_intermediate("example.org").await;
    let held = ca.rotate();
    let [chain, pkcs8, bundle] = held.files(["", "", ""]).map(|(_, text)| text);
    let sec1 = pem("EC PRIVATE KEY", &fixture::sec1(held.issued.svid.key.pkcs8_der()));
    let parameters = "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n";
    let (leaf, intermediate) = chain.split_at(chain.rfind("-----BEGIN").unwrap());
    let rooted = format!("{bundle}{intermediate}some text\n{leaf}");
    for (name, chain, key) in [
        ("pkcs8", chain.clone(), pkcs8.clone()),
        ("sec1", chain.clone(), format!("{parameters}{sec1}")),
        ("crlf", chain.replace('\n', "\r\n"), pkcs8.replace('\n', "\r\n")),
        ("upside down, with root and text", rooted, sec1.clone()),
        ("all in one", format!("{pkcs8}{chain}"), format!("{chain}{pkcs8}")),
    ] {
        let directory = tempfile::tempdir().unwrap();
        for (file, text) in [("svid.pem", &chain), ("svid_key.pem", &key), ("svid_bundle.pem", &bundle)] {
            write(&directory.path().join(file), text);
        }
        let snapshot = Client::of(each(directory.path())).ready(|_| true).await;
        let svid = snapshot.default_svid().unwrap();
        assert_eq!(svid.chain, held.issued.svid.chain, "{name}");
        assert_eq!(svid.hint.as_ref().unwrap().as_str(), "files");
        assert_eq!(fixture::public_key(svid.key.pkcs8_der()), fixture::public_key(held.issued.svid.key.pkcs8_der()));
    }
}

/// Reading a pipe would wait for somebody to write.
#[tokio::test]
async fn what_is_no_file_holds_nobody_up() {
    let (ca, directory) = (Ca::new("example.org").await, tempfile::tempdir().unwrap());
    let names = ["svid.pem", "svid_key.pem", "svid_bundle.pem"];
    let (held, key) = (ca.rotate(), directory.path().join(names[1]));
    held.write(directory.path(), names);
    fs::remove_file(&key).unwrap();
    nix::unistd::mkfifo(&key, nix::sys::stat::Mode::S_IRUSR).unwrap();
    let mut client = Client::of(each(directory.path()));
    match client.event("renewal_failed").await {
        RenewalEvent::RenewalFailed { error, .. } => assert!(error.contains("svid_key.pem is no file"), "{error}"),
        other => panic!("{other:?}"),
    }
    fs::remove_file(&key).unwrap();
    held.write(directory.path(), names);
    client.serves(&held).await;
}

#[tokio::test]
async fn every_bad_content_is_named_with_its_file() {
    let (ca, other) = (Ca::new("example.org").await, Ca::new("other.org").await);
    let [chain, key, bundle] = ca.rotate().files(["", "", ""]).map(|(_, text)| text);
    let foreign_bundle = other.bundle_pem();
    let encrypted = key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
    let huge = "x".repeat((8 << 20) + 1);
    let damaged = key.replace("MIG", "MIH");
    let cases: [(&str, &str, &str, &str); 11] = [
        (&chain, &encrypted, &bundle, "svid_key.pem is encrypted"),
        (&chain, "", &bundle, "svid_key.pem holds no private key"),
        (&chain, &format!("{key}{key}"), &bundle, "svid_key.pem holds several private keys"),
        (&chain, &damaged, &bundle, "no unencrypted PKCS#8 key"),
        ("", &key, &bundle, "svid.pem holds no certificate"),
        (&bundle, &key, &bundle, "its SPIFFE ID has no path"),
        (&huge, &key, &bundle, "svid.pem has more than 8388608 bytes"),
        (&chain, &key, "{\"keys\": 1}", "svid_bundle.pem is no SPIFFE trust bundle"),
        (&chain, &key, "{\"keys\": [{\"use\": \"x509-svid\", \"kty\": \"EC\", \"x5c\": [\"?\"]}]}", "key 0 of"),
        (
            &chain,
            &key,
            "{\"keys\": []}",
            "the trust bundle of its own trust domain, which comes with it, cannot be used",
        ),
        (&chain, &key, &foreign_bundle, "does not vouch for it"),
    ];
    let clients = cases.map(|(chain, key, bundle, expected)| {
        let directory = tempfile::tempdir().unwrap();
        for (file, text) in [("svid.pem", chain), ("svid_key.pem", key), ("svid_bundle.pem", bundle)] {
            write(&directory.path().join(file), text);
        }
        (Client::of(each(directory.path())), directory, key, expected)
    });
    for (mut client, _directory, key, expected) in clients {
        match client.event("renewal_failed").await {
            RenewalEvent::RenewalFailed { error, .. } => {
                assert!(error.contains(expected), "{expected}: {error}");
                assert!(!error.contains(&key.lines().nth(1).unwrap_or("nothing")[..7]), "{error}");
            }
            other => panic!("{other:?}"),
        }
    }
    let nothing = tempfile::tempdir().unwrap();
    let paths = Paths::Directory { directory: nothing.path().to_owned(), bundle: None };
    let mut client = Client::of(Config { svids: vec![SvidFiles { paths, hint: String::new() }], ..Config::default() });
    match client.event("source_down").await {
        RenewalEvent::SourceDown { error, .. } => assert!(error.contains("holds neither tls.crt"), "{error}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn what_others_do_beside_the_files_or_who_reads_them_starts_nothing() {
    let (ca, directory) = (Ca::new("example.org").await, tempfile::tempdir().unwrap());
    let below = directory.path().join("identity");
    fs::create_dir(&below).unwrap();
    let held = ca.rotate();
    held.write(&below, ["svid.pem", "svid_key.pem", "svid_bundle.pem"]);
    let mut client = Client::of(each(&below));
    client.serves(&held).await;
    for index in 0..20 {
        write(&directory.path().join(format!("noise{index}")), "noise");
        fs::read(below.join("svid.pem")).unwrap();
    }
    // A change that counts comes after them, so whatever they started has been seen by then.
    fs::set_permissions(below.join("svid_key.pem"), fs::Permissions::from_mode(0o600)).unwrap();
    client.event("identity_unchanged").await;
    let held = ca.rotate();
    held.write(&below, ["svid.pem", "svid_key.pem", "svid_bundle.pem"]);
    client.serves(&held).await;
    assert!(client.count("identity_unchanged") <= 3, "{:?}", client.names);
}

/// Each identity and each bundle counts for itself.
#[tokio::test]
async fn one_bad_file_costs_no_other() {
    let (ca, second, other) = (Ca::new("example.org").await, Ca::new("second.org").await, Ca::new("other.org").await);
    let directory = tempfile::tempdir().unwrap();
    let (first, below) = (directory.path().join("a"), directory.path().join("b"));
    fs::create_dir(&first).unwrap();
    fs::create_dir(&below).unwrap();
    let names = ["svid.pem", "svid_key.pem", "svid_bundle.pem"];
    let (held, neighbour) = (ca.rotate(), second.rotate());
    held.write(&first, names);
    neighbour.write(&below, names);
    let mut config = each(&first);
    let mut two = each(&below);
    two.svids[0].hint = "second".to_owned();
    config.svids.append(&mut two.svids);
    let td = |name| TrustDomain::new(name).unwrap();
    let odd = directory.path().join("other.pem");
    let broken = "-----BEGIN CERTIFICATE-----\n?\n-----END CERTIFICATE-----\n";
    write(&odd, &format!("{broken}{}", other.bundle_pem()));
    config.bundles = [(td("other.org"), odd.clone()), (td("gone.org"), directory.path().join("gone.pem"))].into();

    // Not there, or not fitting: the first one is served, and the other trust domain with what can be read of it.
    fs::remove_file(below.join(names[1])).unwrap();
    let mut client = Client::of(config);
    let snapshot = client.serves(&held).await;
    assert_eq!(snapshot.svids.len(), 1);
    assert_eq!(snapshot.bundles[&td("other.org")].authorities(), other.authorities());
    let told: Vec<_> = snapshot.refusals.iter().map(ToString::to_string).collect();
    assert!(told.iter().any(|it| it.contains("svid_key.pem; is its volume mounted")), "{told:?}");
    assert!(told.iter().any(|it| it.starts_with("the authority number 1 of other.org")), "{told:?}");
    assert!(told.iter().any(|it| it.starts_with("the trust bundle of gone.org")), "{told:?}");
    assert_eq!(told.len(), 3, "{told:?}");
    neighbour.write(&below, names);
    let both = client.ready(|snapshot| snapshot.svids.len() == 2).await;
    assert_eq!(both.svids[1].chain, neighbour.issued.svid.chain);

    // While it runs, its last good state stays in its place, and the first one is renewed.
    fs::remove_file(below.join(names[0])).unwrap();
    match client.event("item_refused").await {
        RenewalEvent::ItemRefused { .. } => {}
        other => panic!("{other:?}"),
    }
    let renewed = ca.rotate();
    renewed.write(&first, names);
    let snapshot = client.serves(&renewed).await;
    assert_eq!(snapshot.svids[1].chain, neighbour.issued.svid.chain);
    assert_eq!(client.count("renewal_failed") + client.count("source_down"), 0);
}

#[test]
fn names_are_those_of_the_first_file() {
    use spiffe_sds::source::{Files, Source as _};
    assert_eq!(&*Files::new(each(&PathBuf::from("/a"))).name(), "file:///a/svid.pem");
}

#[tokio::test]
async fn files_serve_until_the_agent_is_there() {
    let (ca, directory) = (Ca::new("example.org").await, tempfile::tempdir().unwrap());
    let held = ca.rotate();
    held.write(directory.path(), ["svid.pem", "svid_key.pem", "svid_bundle.pem"]);
    let endpoint = Endpoint::Unix(directory.path().join("agent.sock"));
    let api = WorkloadApi::new(workload_api::Config { endpoint: endpoint.clone(), trust_domain: None });
    let mut client = Client::of_several(vec![Arc::new(api), Arc::new(Files::new(each(directory.path())))]);
    client.serves(&held).await;
    let mut config = dev::Config::new(TrustDomain::new("example.org").unwrap(), endpoint.clone());
    config = config.identity(held.issued.svid.id.clone(), None);
    let agent = DevIssuer::start(config).await.unwrap();
    match client.event("source_switched").await {
        RenewalEvent::SourceSwitched { to, reason: SwitchReason::Lost, .. } => {
            assert!(to.starts_with("file:///"), "{to}")
        }
        other => panic!("{other:?}"),
    }
    match client.event("source_switched").await {
        RenewalEvent::SourceSwitched { from, to, reason } => {
            assert_eq!((&*to, reason), (endpoint.to_string().as_str(), SwitchReason::Preferred));
            assert!(from.starts_with("file:///"), "{from}");
        }
        other => panic!("{other:?}"),
    }
    let issued = agent.svid(&held.issued.svid.id).unwrap();
    client.ready(|snapshot| snapshot.default_svid().unwrap().chain == issued.svid.chain).await;
}
