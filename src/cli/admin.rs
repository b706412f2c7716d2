//! Asking a running server over its admin socket.

use std::path::PathBuf;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http::StatusCode;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
};

use crate::{config, source::Endpoint};

/// Bytes of an answer: a thousand streams with all that a client can say.
const LONGEST: usize = 64 << 20;

/// Where servers have it unless they are told otherwise.
const DEFAULT: &str = "/run/spiffe-sds/admin.sock";

/// Which server is asked.
#[derive(Debug, clap::Args)]
#[group(id = "server")]
pub(super) struct Args {
    /// The admin listener of the server: unix:///absolute/path, a path, or tcp://IP:port.
    #[arg(long, value_name = "ADDRESS", default_value = DEFAULT, env = config::ADMIN, value_parser = address)]
    admin: Endpoint,
}

impl Args {
    /// What `path` says.
    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        understood(request(&self.admin, "GET", path, String::new()).await?)
    }

    /// The status and the body that it answers `path` with.
    pub(super) async fn ask(&self, path: &str) -> anyhow::Result<(StatusCode, Bytes)> {
        request(&self.admin, "GET", path, String::new()).await
    }

    /// The same; nothing if this server has nothing to say there.
    pub(super) async fn find<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<Option<T>> {
        let answer = request(&self.admin, "GET", path, String::new()).await?;
        match answer.0 {
            StatusCode::NOT_FOUND | StatusCode::NOT_IMPLEMENTED => Ok(None),
            _ => understood(answer).map(Some),
        }
    }

    /// Does what `path` stands for.
    pub(super) async fn post<T: DeserializeOwned>(&self, path: &str, form: &[(&str, &str)]) -> anyhow::Result<T> {
        let pair = |(key, value): &(&str, &str)| format!("{key}={}", encoded(value));
        let body = form.iter().map(pair).collect::<Vec<_>>().join("&");
        understood(request(&self.admin, "POST", path, body).await?)
    }
}

/// An address as it is written for every flag; a path alone, and `IP:port` alone, do as well.
pub(super) fn address(text: &str) -> Result<Endpoint, String> {
    if let Ok(address) = text.parse() {
        return Ok(Endpoint::Tcp(address));
    }
    match text.parse::<Endpoint>() {
        Ok(endpoint) => Ok(endpoint),
        Err(_) if !text.is_empty() && !text.contains("://") => Ok(Endpoint::Unix(PathBuf::from(text))),
        Err(error) => Err(error.to_string()),
    }
}

/// Asks whoever serves plain HTTP at `server`.
pub(super) async fn request(
    server: &Endpoint,
    method: &str,
    path: &str,
    body: String,
) -> anyhow::Result<(StatusCode, Bytes)> {
    let nobody = || format!("no server answers at {server}; is it running, with this admin listener? (--admin)");
    match server {
        Endpoint::Unix(socket) => {
            exchange(UnixStream::connect(socket).await.with_context(nobody)?, method, path, body).await
        }
        Endpoint::Tcp(address) => {
            exchange(TcpStream::connect(address).await.with_context(nobody)?, method, path, body).await
        }
    }
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    method: &str,
    path: &str,
    body: String,
) -> anyhow::Result<(StatusCode, Bytes)> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let request = http::Request::builder()
        .method(method)
        .uri(path)
        .header(http::header::HOST, "localhost")
        .header(http::header::CONTENT_TYPE, "application/x-www-form-urlencoded")
        .body(Full::new(Bytes::from(body)))?;
    let response = sender.send_request(request).await.context("the server hung up")?;
    let status = response.status();
    let body = Limited::new(response.into_body(), LONGEST).collect().await;
    let body = body.map_err(|error| anyhow::anyhow!("the answer broke off: {error}"))?.to_bytes();
    connection.abort();
    Ok((status, body))
}

fn understood<T: DeserializeOwned>((status, body): (StatusCode, Bytes)) -> anyhow::Result<T> {
    if !status.is_success() {
        let said: Option<serde_json::Value> = serde_json::from_slice(&body).ok();
        let reason = said.as_ref().and_then(|said| said.get("error")?.as_str()).unwrap_or("no reason was given");
        bail!("the server refused ({}): {reason}", status.as_u16());
    }
    serde_json::from_slice(&body).context("the answer is not what this version expects; is the server another one?")
}

/// A value for a query or a form.
pub(super) fn encoded(text: &str) -> String {
    let escape = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(escape).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_written_as_for_every_flag() {
        let unix = |path: &str| Ok(Endpoint::Unix(path.into()));
        assert_eq!(address("/run/a.sock"), unix("/run/a.sock"));
        assert_eq!(address("a.sock"), unix("a.sock"));
        assert_eq!(address("unix:///run/a.sock"), unix("/run/a.sock"));
        let tcp = Ok(Endpoint::Tcp(([127, 0, 0, 1], 9901).into()));
        assert_eq!(address("tcp://127.0.0.1:9901"), tcp);
        assert_eq!(address("127.0.0.1:9901"), tcp);
        for wrong in ["", "http://127.0.0.1:9901", "tcp://localhost:9901", "unix://run/a.sock"] {
            address(wrong).unwrap_err();
        }
    }
}
