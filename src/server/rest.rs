//! `POST /v3/discovery:secrets`: secrets for clients that poll with JSON (Envoy's `api_type: REST`).
//!
//! The same answer as `FetchSecrets`, in [protobuf's JSON](https://protobuf.dev/programming-guides/json/). A client that
//! names the version it holds gets `304 Not Modified` for as long as that is current, so keys travel only when they
//! change. What a stream would wait for is an error here; Envoy asks again after its `refresh_delay`.
//!
//! Envoy logs the whole of a response that it cannot parse, keys included. So nothing is rendered that is not known to
//! the last field, and a secret with anything else is refused (`RenderError`).

pub(super) mod json;

use std::{
    convert::Infallible,
    error::Error as StdError,
    pin::pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt as _};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::Body as _;
use http_body_util::{BodyExt as _, Full};
use tonic::{Code, Status, body::Body, service::Routes};

use super::{
    Shared,
    budget::{Charge, Charged},
    fetch,
    inbound::Bounds,
    observe::code_name,
};
use crate::{
    listen::Peer,
    xds::{Node, Resource, Version},
};

pub(super) const PATH: &str = "/v3/discovery:secrets";

/// Serves REST beside the gRPC services, over HTTP/1.1 and HTTP/2.
pub(super) fn add(routes: Routes, shared: Arc<Shared>) -> Routes {
    Routes::from(routes.into_axum_router().route_service(PATH, Rest(shared)))
}

#[derive(Clone)]
struct Rest(Arc<Shared>);

impl<B> tower::Service<Request<B>> for Rest
where
    B: http_body::Body<Data = Bytes, Error: Into<Box<dyn StdError + Send + Sync>>> + Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let shared = self.0.clone();
        async move { Ok(answer(&shared, request).await) }.boxed()
    }
}

async fn answer<B>(shared: &Shared, request: Request<B>) -> Response<Body>
where
    B: http_body::Body<Data = Bytes, Error: Into<Box<dyn StdError + Send + Sync>>> + Send + 'static,
{
    if request.method() != Method::POST {
        return text(StatusCode::METHOD_NOT_ALLOWED, "POST a DiscoveryRequest as JSON");
    }
    // What a web page may send to other origins without being asked for consent first is never JSON.
    if !is_json(request.headers()) {
        return text(StatusCode::UNSUPPORTED_MEDIA_TYPE, "send content-type: application/json");
    }
    let Some(peer) = request.extensions().get::<Peer>().copied() else {
        return text(StatusCode::INTERNAL_SERVER_ERROR, "the connection has no peer");
    };
    let mut charge = shared.budgets.open(peer);
    let asked = match read(request.into_body(), shared.bounds(), &mut charge).await {
        Ok(asked) => asked,
        Err((code, words)) => return text(code, &words),
    };
    match ask(shared, peer, asked, charge).await {
        Ok(response) => {
            shared.metrics.fetched("rest", code_name(Code::Ok));
            response
        }
        Err(status) => {
            shared.metrics.fetched("rest", code_name(status.code()));
            failed(&status)
        }
    }
}

/// Reads the request, and reserves nothing on a promise.
async fn read<B>(body: B, bounds: Bounds, charge: &mut Charge) -> Result<json::Asked, (StatusCode, String)>
where
    B: http_body::Body<Data = Bytes, Error: Into<Box<dyn StdError + Send + Sync>>> + Send + 'static,
{
    let mut body = pin!(body);
    let mut whole = Vec::new();
    let too_large = || (StatusCode::PAYLOAD_TOO_LARGE, "the request is larger than limits.request_bytes".to_owned());
    if body.size_hint().lower() > bounds.bytes as u64 {
        return Err(too_large());
    }
    let all = async {
        while let Some(frame) = body.frame().await {
            let broken = (StatusCode::BAD_REQUEST, "the request did not arrive whole".to_owned());
            let data = frame.map_err(|_| broken)?.into_data().unwrap_or_default();
            if whole.len() + data.len() > bounds.bytes {
                return Err(too_large());
            }
            // Growing copies; and what is parsed is there twice.
            let cost = 2 * (whole.len() + data.len());
            charge.set(cost).map_err(|exhausted| (StatusCode::TOO_MANY_REQUESTS, exhausted.to_string()))?;
            whole.extend_from_slice(&data);
        }
        Ok(())
    };
    let late = |_| (StatusCode::REQUEST_TIMEOUT, "the request did not arrive in time".to_owned());
    tokio::time::timeout(bounds.patience, all).await.map_err(late)??;
    let invalid = |error| (StatusCode::BAD_REQUEST, format!("not a DiscoveryRequest in JSON: {error}"));
    serde_json::from_slice(&whole).map_err(invalid)
}

async fn ask(shared: &Shared, peer: Peer, asked: json::Asked, mut charge: Charge) -> Result<Response<Body>, Status> {
    let node = Node::from(asked.node);
    let held = asked.version_info;
    charge.set(fetch::weight(&asked.resource_names))?;
    let _files = fetch::read_files(shared, peer, &asked.resource_names).await;
    let render = |found: &[&Resource]| respond(&held, found);
    let response = fetch::find(shared, &node, &asked.type_url, asked.resource_names, &mut charge, render)?;
    charge.set(response.body().size_hint().lower() as usize)?;
    Ok(response.map(|body| Body::new(Charged::new(body, charge))))
}

fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let essence = kind.split(';').next().unwrap_or_default();
    essence.trim().eq_ignore_ascii_case("application/json")
}

fn respond(held: &str, found: &[&Resource]) -> Response<Body> {
    let pairs = found.iter().flat_map(|found| [found.name().as_str().as_bytes(), found.version().as_str().as_bytes()]);
    let version = Version::digest(pairs);
    if version.as_str() == held {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        return response;
    }
    match json::render(&version, found) {
        Ok(body) => {
            let mut response = Response::new(Body::new(Full::new(body)));
            let headers = response.headers_mut();
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
            headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
            response
        }
        Err(error) => {
            tracing::error!(%error, "a secret cannot be rendered as JSON, use gRPC for it");
            text(StatusCode::NOT_IMPLEMENTED, "this secret cannot be rendered as JSON; use gRPC")
        }
    }
}

fn failed(status: &Status) -> Response<Body> {
    let code = match status.code() {
        Code::InvalidArgument => StatusCode::BAD_REQUEST,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::ResourceExhausted => StatusCode::PAYLOAD_TOO_LARGE,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    text(code, status.message())
}

fn text(code: StatusCode, message: &str) -> Response<Body> {
    let mut response = Response::new(Body::new(Full::new(Bytes::from(format!("{message}\n")))));
    *response.status_mut() = code;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}
