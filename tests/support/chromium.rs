//! A real browser, driven over WebDriver. Without one a test fails; it is never skipped.

use std::{
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
};

use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpStream;

use super::world::bounded;

/// One browser with one empty profile; ends when dropped.
pub struct Browser {
    driver: Child,
    address: SocketAddr,
    session: String,
    profile: TempDir,
}

impl Browser {
    /// A headless Chromium that asks nobody but the pages it is sent to.
    pub async fn start() -> Self {
        Self::with(&[]).await
    }

    /// The same with more flags.
    pub async fn with(more: &[&str]) -> Self {
        let profile = tempfile::tempdir().unwrap();
        let mut driver = Command::new("chromedriver")
            .arg("--port=0")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("no chromedriver ({error}): apt-get install chromium chromium-driver"));
        let lines = BufReader::new(driver.stdout.take().unwrap()).lines();
        let (found, port) = std::sync::mpsc::channel();
        // It reads on, so that the driver can write on.
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                if let Some((_, port)) = line.split_once("started successfully on port ") {
                    let _ = found.send(port.trim_end_matches('.').to_owned());
                }
            }
        });
        let port = port.recv_timeout(super::world::BOUND);
        let address = format!("127.0.0.1:{}", port.expect("chromedriver says on which port it is")).parse().unwrap();
        let mut browser = Self { driver, address, session: String::new(), profile };
        let data = format!("--user-data-dir={}", browser.profile.path().display());
        let flags = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--disable-dev-shm-usage",
            &data,
        ];
        let flags: Vec<_> = flags.iter().chain(more).collect();
        let capabilities = json!({ "capabilities": { "alwaysMatch": {
            "goog:chromeOptions": { "args": flags },
            "goog:loggingPrefs": { "browser": "ALL" },
        } } });
        let session = browser.call("POST", "/session", capabilities).await;
        browser.session = session["sessionId"].as_str().expect("a session").to_owned();
        browser
    }

    /// Opens an address and waits until it is loaded.
    pub async fn open(&self, url: &str) {
        self.command("url", json!({ "url": url })).await;
    }

    /// What a script returns.
    pub async fn run(&self, script: &str) -> Value {
        self.command("execute/sync", json!({ "script": script, "args": [] })).await
    }

    /// The whole document as it is now.
    pub async fn dom(&self) -> String {
        self.run("return document.documentElement.outerHTML").await.as_str().unwrap().to_owned()
    }

    /// Until the script returns true.
    pub async fn until(&self, script: &str) {
        let asked = async {
            let mut pace = tokio::time::interval(std::time::Duration::from_millis(50));
            while self.run(script).await != Value::Bool(true) {
                pace.tick().await;
            }
        };
        if tokio::time::timeout(super::world::BOUND, asked).await.is_err() {
            panic!("never: {script}\n{}", self.dom().await);
        }
    }

    /// `light` or `dark`.
    pub async fn prefer(&self, scheme: &str) {
        let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        self.devtools("Emulation.setEmulatedMedia", json!({ "features": features })).await;
    }

    /// From the next page on nothing of a page runs; what tests ask still does.
    pub async fn without_scripts(&self) {
        self.devtools("Emulation.setScriptExecutionDisabled", json!({ "value": true })).await;
    }

    /// The size of the window in CSS pixels.
    pub async fn resize(&self, width: u32, height: u32) {
        let metrics = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600 });
        self.devtools("Emulation.setDeviceMetricsOverride", metrics).await;
    }

    /// PNG of the whole page, base64, into a file below the target directory, for people.
    pub async fn screenshot(&self, name: &str) {
        let shot = self.devtools("Page.captureScreenshot", json!({ "captureBeyondViewport": true })).await;
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.png.base64"));
        std::fs::write(path, shot["data"].as_str().unwrap()).unwrap();
    }

    /// What the page complained about.
    pub async fn complaints(&self) -> Vec<String> {
        let lines = self.command("se/log", json!({ "type": "browser" })).await;
        lines.as_array().unwrap().iter().map(|line| line["message"].to_string()).collect()
    }

    async fn devtools(&self, command: &str, params: Value) -> Value {
        self.command("goog/cdp/execute", json!({ "cmd": command, "params": params })).await
    }

    async fn command(&self, name: &str, body: Value) -> Value {
        self.call("POST", &format!("/session/{}/{name}", self.session), body).await
    }

    async fn call(&self, method: &str, path: &str, body: Value) -> Value {
        let stream = bounded(TcpStream::connect(self.address)).await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        let connection = tokio::spawn(connection);
        let request = http::Request::builder()
            .method(method)
            .uri(path)
            .header("host", self.address.to_string())
            .header("content-type", "application/json")
            .body(Full::new(bytes::Bytes::from(body.to_string())))
            .unwrap();
        let response = bounded(sender.send_request(request)).await.unwrap();
        let status = response.status();
        let body = bounded(response.into_body().collect()).await.unwrap().to_bytes();
        connection.abort();
        let mut answer: Value = serde_json::from_slice(&body).unwrap();
        assert!(status.is_success(), "{path}: {answer}");
        answer["value"].take()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The driver takes its browser along only when it is asked to shut down.
        let _ = std::net::TcpStream::connect(self.address).and_then(|mut stream| {
            use std::io::{Read as _, Write as _};
            stream.set_read_timeout(Some(std::time::Duration::from_secs(5)))?;
            let path = format!("/session/{}", self.session);
            write!(stream, "DELETE {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.address)?;
            stream.read_to_end(&mut Vec::new())
        });
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}
