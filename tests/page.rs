//! The admin page, in a real browser and without one; the same as JSON; and what an operator can do.
#![cfg(feature = "dev-issuer")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

#[path = "admin/fixture.rs"]
#[allow(dead_code, reason = "shared with other files")]
mod fixture;
mod support;

use envoy_types::pb::envoy::config::core::v3::Node;
use fixture::{Answer, Site};
use serde_json::Value;
use support::{
    chromium::Browser,
    traces,
    xds::{Sotw, envoy},
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const EVIL: &str = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">";

fn json(answer: &Answer) -> Value {
    assert_eq!(answer.status, 200, "{answer:?}");
    serde_json::from_str(&answer.body).unwrap()
}

fn post(path: &str, head: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{head}\
         Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {length}\r\n\r\n{body}"
    )
}

/// An Envoy that has taken `default`, and one that has refused it in words that attack the page.
async fn clients(site: &Site) -> (Sotw, Sotw) {
    let mut good = Sotw::secrets(&site.xds().await).await;
    good.subscribe(["default"]).await;
    good.expect(["default"]).await;
    good.ack().await;
    let node = Node { id: EVIL.into(), cluster: EVIL.into(), ..envoy(40) };
    let mut bad = Sotw::secrets(&site.xds().await).await.node(Some(node));
    bad.subscribe(["default", EVIL]).await;
    bad.expect(["default"]).await;
    bad.nack(EVIL).await;
    site.until("/debug/clients", |answer| {
        let clients = json(answer);
        clients["totals"]["error"] == 1 && clients["totals"]["synced"] == 1
    })
    .await;
    (good, bad)
}

#[tokio::test]
async fn a_browser_sees_who_holds_what_and_sees_it_change() {
    let site = Site::ready(&[("jwt.svids", "payments,billing")]).await;
    site.until("/debug/identities", |answer| answer.body.matches("\"state\":\"valid\"").count() == 3).await;
    let (mut good, _bad) = clients(&site).await;
    let browser = Browser::start().await;
    browser.resize(1280, 900).await;
    browser.open(&format!("http://{}/", site.address)).await;
    let dom = browser.dom().await;
    for text in ["spiffe://domain.test/workload", "domain.test", "envoy-1", "up to date", "rejected", "resource_sent"] {
        assert!(dom.contains(text), "{text} is not in {dom}");
    }
    assert!(!dom.contains("PRIVATE KEY") && !dom.contains("BEGIN") && !dom.contains("eyJ"));
    let mut secrets = site.secrets();
    traces::assert_none("the page", &dom, &secrets);
    assert_eq!(browser.run("return document.title").await, "spiffe-sds", "a client's text ran");
    assert_eq!(browser.run("return document.querySelectorAll('main img, main script').length").await, 0);
    browser.until("return document.getElementById('live').textContent === 'live'").await;
    browser.run("window.same = 'document'").await;
    let serial = "document.querySelector('#identities h3 + p code').textContent";
    let before = browser.run(&format!("return {serial}")).await;
    site.issuer.rotate().unwrap();
    good.expect(["default"]).await;
    good.ack().await;
    browser.until(&format!("return {serial} !== '{}'", before.as_str().unwrap())).await;
    browser.until("return document.getElementById('event-list').textContent.includes('svid_renewed')").await;
    assert_eq!(browser.run("return window.same").await, "document", "the page was loaded again");
    secrets.extend(site.secrets());
    traces::assert_none("the page after a rotation", &browser.dom().await, &secrets);
    for path in ["sources", "identities", "trust", "clients", "events"] {
        traces::assert_none(path, &site.get(&format!("/debug/{path}?limit=1000")).await.body, &secrets);
    }
    assert_eq!(browser.complaints().await, Vec::<String>::new());
    site.stop().await;
}

#[tokio::test]
async fn it_can_be_read_by_day_by_night_and_on_a_phone() {
    let site = Site::ready(&[]).await;
    let (_good, _bad) = clients(&site).await;
    let browser = Browser::start().await;
    let ground = "return getComputedStyle(document.body).backgroundColor";
    let mut grounds = Vec::new();
    for scheme in ["light", "dark"] {
        browser.prefer(scheme).await;
        for (device, width) in [("desktop", 1280), ("phone", 360)] {
            browser.resize(width, 800).await;
            browser.open(&format!("http://{}/", site.address)).await;
            let overflow = browser.run("return document.documentElement.scrollWidth - window.innerWidth").await;
            assert!(overflow.as_i64().unwrap() <= 0, "{scheme} {device}: {overflow} pixels too wide");
            browser.screenshot(&format!("page-{scheme}-{device}")).await;
        }
        grounds.push(browser.run(ground).await);
    }
    assert_ne!(grounds[0], grounds[1], "night is as bright as day");
    browser.open(&format!("http://{}/?q=envoy-1", site.address)).await;
    assert_eq!(browser.run("return document.querySelectorAll('#client-list tbody').length").await, 1);
    site.stop().await;
}

#[tokio::test]
async fn json_says_the_same_and_is_searched_and_paged() {
    let site = Site::ready(&[]).await;
    let (_good, _bad) = clients(&site).await;
    let sources = json(&site.get("/debug/sources").await);
    assert_eq!(sources["sources"][0]["connected"], true);
    let identities = json(&site.get("/debug/identities").await);
    assert_eq!(identities["identities"][0]["spiffe_id"], "spiffe://domain.test/workload");
    assert_eq!(identities["identities"][0]["state"], "valid");
    let trust = json(&site.get("/debug/trust").await);
    assert_eq!(trust["trust_domains"][0]["own"], true);
    assert!(!trust["trust_domains"][0]["authorities"].as_array().unwrap().is_empty());
    let rejected = json(&site.get("/debug/clients?state=error").await);
    assert_eq!((&rejected["matched"], &rejected["totals"]["streams"]), (&1.into(), &2.into()));
    assert_eq!(rejected["streams"][0]["names"][0]["rejection"], EVIL);
    let second = json(&site.get("/debug/clients?offset=1&limit=1").await);
    assert_eq!(second["streams"].as_array().unwrap().len(), 1);
    let events = json(&site.get("/debug/events?q=resource_rejected").await);
    assert_eq!((&events["events"][0]["weight"], &events["matched"]), (&"problem".into(), &1.into()));
    assert_eq!(site.get("/debug/clients?state=sideways").await.status, 400);
    assert_eq!(site.get("/debug/clients?offset=-1").await.status, 400);
    let page = site.get("/").await;
    assert!(page.head.contains("content-security-policy: default-src 'none'"), "{}", page.head);
    assert!(!page.body.contains("<script>document") && page.body.contains("script&#62;"), "{}", page.body);
    site.stop().await;
}

#[tokio::test]
async fn an_operator_acts_and_it_is_noted_who() {
    let site = Site::ready(&[]).await;
    let mut envoy = Sotw::secrets(&site.xds().await).await;
    envoy.subscribe(["default"]).await;
    envoy.expect(["default"]).await;
    envoy.ack().await;
    assert_eq!(site.get("/actions/resend").await.status, 405, "a state was changed by GET");
    let cross = post("/actions/resend", "Origin: http://evil.test\r\n", "name=default");
    assert_eq!(site.tcp(&cross).await.status, 403);
    assert_eq!(site.unix(&post("/actions/resend", "", "")).await.status, 400);
    assert_eq!(site.unix(&post("/actions/resend", "", "node=%FF%00&x=1")).await.status, 200);
    let done = json(&site.unix(&post("/actions/resend", "", "node=envoy-1")).await);
    assert_eq!(done["streams"], 1);
    envoy.expect(["default"]).await;
    let events = json(&site.get("/debug/events?q=operator_resend").await);
    let event = &events["events"][0];
    assert_eq!((&event["subject"], &event["detail"]), (&"node envoy-1".into(), &"1 streams".into()));
    assert!(event["who"].as_str().unwrap().contains(&format!("pid:{}", std::process::id())), "{event}");
    let level = site.unix(&post("/actions/log-level", "", "filter=debug")).await;
    assert_eq!(level.status, 501, "this test process has a log of its own: {level:?}");
    site.stop().await;
}

#[tokio::test]
async fn a_browser_may_press_the_buttons() {
    let site = Site::ready(&[]).await;
    let mut envoy = Sotw::secrets(&site.xds().await).await;
    envoy.subscribe(["default"]).await;
    envoy.expect(["default"]).await;
    envoy.ack().await;
    let browser = Browser::start().await;
    browser.open(&format!("http://{}/", site.address)).await;
    browser.run("document.querySelector('#client-list form button').click()").await;
    envoy.expect(["default"]).await;
    browser
        .until("return document.getElementById('event-list')?.textContent.includes('operator_resend') === true")
        .await;
    site.stop().await;
}

#[tokio::test]
async fn garbage_and_floods_leave_the_data_path_alone() {
    let site = Site::ready(&[]).await;
    for path in
        ["/?q=%00%ff", "/?limit=99999999999999999999", "/debug/clients?limit=18446744073709551615", "/?offset=7777777"]
    {
        assert!(matches!(site.get(path).await.status, 200 | 400), "{path}");
    }
    let long = "x".repeat(12_000);
    assert!(matches!(site.get(&format!("/?q={long}")).await.status, 200 | 400 | 414));
    let mut floods = tokio::task::JoinSet::new();
    let socket = site.socket();
    for _ in 0..10 {
        let socket = socket.clone();
        floods.spawn(async move {
            use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
            for _ in 0..20 {
                let Ok(mut stream) = tokio::net::UnixStream::connect(&socket).await else { continue };
                let requests = "GET / HTTP/1.1\r\nHost: a\r\n\r\n".repeat(49)
                    + "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
                let _ = stream.write_all(requests.as_bytes()).await;
                let _ = stream.read_to_end(&mut Vec::new()).await;
            }
        });
    }
    let mut envoy = Sotw::secrets(&site.xds().await).await;
    envoy.subscribe(["default"]).await;
    envoy.expect(["default"]).await;
    envoy.ack().await;
    site.issuer.rotate().unwrap();
    envoy.expect(["default"]).await;
    floods.join_all().await;
    assert_eq!(site.get("/live").await.status, 200);
    site.stop().await;
}

#[tokio::test]
async fn it_is_complete_without_javascript() {
    let site = Site::ready(&[]).await;
    let (_good, _bad) = clients(&site).await;
    let browser = Browser::start().await;
    browser.without_scripts().await;
    browser.open(&format!("http://{}/?state=error", site.address)).await;
    assert_eq!(browser.run("return document.getElementById('live').textContent").await, "", "a script ran");
    let dom = browser.dom().await;
    for text in ["spiffe://domain.test/workload", "renewal due", "rejected", "resource_rejected", "Send again"] {
        assert!(dom.contains(text), "{text} is not in {dom}");
    }
    assert_eq!(browser.run("return document.querySelectorAll('#client-list tbody').length").await, 1);
    browser.run("document.querySelector('.search a').click()").await;
    browser.until("return document.querySelectorAll('#client-list tbody').length === 2").await;
    browser.run("document.querySelector('#client-list form button').click()").await;
    browser
        .until("return document.getElementById('event-list')?.textContent.includes('operator_resend') === true")
        .await;
    site.stop().await;
}

/// Serves a page to whoever asks with GET, and passes everything else on to `server`, as a name does that points to a
/// stranger's machine first and to this one later (DNS rebinding).
async fn rebinding(server: std::net::SocketAddr) -> std::net::SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut browser, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut first = [0; 1];
                if browser.peek(&mut first).await.unwrap_or_default() == 0 {
                    return;
                }
                if first == *b"G" {
                    let page = "<!doctype html><title>evil</title>";
                    let head =
                        format!("HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: {}\r\n", page.len());
                    let mut request = [0; 4096];
                    let _ = browser.read(&mut request).await;
                    let _ = browser.write_all(format!("{head}connection: close\r\n\r\n{page}").as_bytes()).await;
                    return;
                }
                let mut ours = tokio::net::TcpStream::connect(server).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut browser, &mut ours).await;
            });
        }
    });
    address
}

/// What a page gets: the status and the text, or that it gets nothing.
const FETCH: &str = r#"
    const [url, options] = [URL, OPTIONS];
    return fetch(url, { method: 'POST', body: JSON.stringify({ resource_names: ['default'] }), ...options })
        .then(answer => answer.text().then(text => answer.type + ' ' + answer.status + ' ' + text))
        .catch(error => 'nothing: ' + error);
"#;

#[tokio::test(flavor = "multi_thread")]
async fn no_web_page_reads_a_secret() {
    let world = support::world::World::start().await;
    // What such a request is worth to who may make it.
    let mut client = Sotw::secrets(&world.tcp().await).await;
    client.subscribe(["default"]).await;
    client.expect(["default"]).await;
    let page = rebinding(world.address()).await;
    let browser = Browser::with(&["--host-resolver-rules=MAP evil.test 127.0.0.1"]).await;
    for host in ["evil.test", "127.0.0.1", "localhost"] {
        let origin = format!("http://{host}:{}", page.port());
        browser.open(&format!("{origin}/")).await;
        assert_eq!(browser.run("return document.title").await, "evil");
        for base in
            [format!("http://{}", world.address()), format!("http://localhost:{}", world.address().port()), origin]
        {
            for options in [
                "{ mode: 'no-cors' }",
                "{ mode: 'no-cors', headers: { 'content-type': 'text/plain' } }",
                "{ headers: { 'content-type': 'text/plain' } }",
                "{ headers: { 'content-type': 'application/json' } }",
                "{ headers: { 'content-type': 'application/x-www-form-urlencoded' } }",
            ] {
                for path in ["/v3/discovery:secrets", "/envoy.service.secret.v3.SecretDiscoveryService/FetchSecrets"] {
                    let script = FETCH.replace("URL", &format!("'{base}{path}'")).replace("OPTIONS", options);
                    let got = browser.run(&script).await;
                    let got = got.as_str().unwrap();
                    assert!(!got.contains("private_key") && !got.contains(" 200 "), "{host} {base} {options}: {got}");
                }
            }
        }
    }
}
