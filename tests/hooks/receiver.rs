//! A receiver of webhooks on a loopback port or a Unix socket, which answers as it is told.

use std::{
    collections::VecDeque,
    convert::Infallible,
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex},
};

use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt as _, Empty};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
    sync::mpsc,
    task::AbortHandle,
};
use tokio_rustls::TlsAcceptor;

use crate::support::world::bounded;

/// One request that came.
pub(crate) struct Delivery {
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

impl Delivery {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

pub(crate) struct Receiver {
    deliveries: mpsc::UnboundedReceiver<Delivery>,
    answers: Arc<Mutex<VecDeque<u16>>>,
    address: Option<SocketAddr>,
    task: AbortHandle,
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Receiver {
    pub(crate) async fn tcp() -> Self {
        Self::tls(None).await
    }

    pub(crate) async fn tls(tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut receiver = Self::start(async move |talk| {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (talk, tls) = (talk.clone(), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => talk.serve(stream).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                talk.serve(stream).await;
                            }
                        }
                    }
                });
            }
        });
        receiver.address = Some(address);
        receiver
    }

    pub(crate) fn unix(path: &Path) -> Self {
        let listener = UnixListener::bind(path).unwrap();
        Self::start(async move |talk| {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let talk = talk.clone();
                tokio::spawn(async move { talk.serve(stream).await });
            }
        })
    }

    fn start<F: Future<Output = ()> + Send + 'static>(accept: impl FnOnce(Talk) -> F) -> Self {
        let (sender, deliveries) = mpsc::unbounded_channel();
        let answers: Arc<Mutex<VecDeque<u16>>> = Arc::default();
        let task = tokio::spawn(accept(Talk { sender, answers: answers.clone() })).abort_handle();
        Self { deliveries, answers, address: None, task }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address.unwrap()
    }

    /// The next requests are answered so; those after them with 204.
    pub(crate) fn answer(&self, statuses: &[u16]) {
        self.answers.lock().unwrap().extend(statuses);
    }

    pub(crate) async fn next(&mut self) -> Delivery {
        bounded(self.deliveries.recv()).await.unwrap()
    }
}

#[derive(Clone)]
struct Talk {
    sender: mpsc::UnboundedSender<Delivery>,
    answers: Arc<Mutex<VecDeque<u16>>>,
}

impl Talk {
    async fn serve(&self, stream: impl AsyncRead + AsyncWrite + Unpin) {
        let service = service_fn(|request: Request<Incoming>| async move {
            let (head, body) = request.into_parts();
            let body = String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap();
            let _ = self.sender.send(Delivery { path: head.uri.to_string(), headers: head.headers, body });
            let status = self.answers.lock().unwrap().pop_front().unwrap_or(204);
            let answer = Response::builder().status(status).header("location", "/elsewhere");
            Ok::<_, Infallible>(answer.body(Empty::<bytes::Bytes>::new()).unwrap())
        });
        let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
    }
}
