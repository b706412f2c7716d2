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
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt as _};
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use tonic::{Code, Status, body::Body, service::Routes};

use super::{Shared, fetch, observe::code_name};
use crate::xds::{Node, Resource, Version};

const PATH: &str = "/v3/discovery:secrets";
/// How long a client may take to send its one request.
const PATIENCE: Duration = Duration::from_secs(10);

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
    let body = Limited::new(request.into_body(), shared.settings.limits().request_bytes as usize).collect();
    let body = match tokio::time::timeout(PATIENCE, body).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            return text(StatusCode::PAYLOAD_TOO_LARGE, "the request is larger than limits.request_bytes");
        }
        Ok(Err(_)) => return text(StatusCode::BAD_REQUEST, "the request did not arrive whole"),
        Err(_) => return text(StatusCode::REQUEST_TIMEOUT, "the request did not arrive in time"),
    };
    let asked: json::Asked = match serde_json::from_slice(&body) {
        Ok(asked) => asked,
        Err(error) => return text(StatusCode::BAD_REQUEST, &format!("not a DiscoveryRequest in JSON: {error}")),
    };
    let node = Node::from(asked.node);
    let held = asked.version_info;
    let _files = fetch::read_files(shared, &asked.resource_names).await;
    match fetch::find(shared, &node, &asked.type_url, asked.resource_names, |found| respond(&held, found)) {
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
