//! The discovery services: which method drives which stream.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    sync::Arc,
    task::{Context, Poll},
};

use futures_util::future::{BoxFuture, Either, FutureExt as _};
use http::{Request, Response, header};
use tonic::{Status, body::Body, server::NamedService};

use super::{Shared, drive::Drive, fetch};
use crate::{
    listen::{
        Peer,
        peer::{Refused, StreamBounds},
    },
    xds::{Service, Wire, WireDelta, WireSotw},
};

/// `envoy.service.secret.v3.SecretDiscoveryService`.
#[derive(Clone)]
pub(super) struct Secrets(pub(super) Arc<Shared>);

/// `envoy.service.discovery.v3.AggregatedDiscoveryService`.
#[derive(Clone)]
pub(super) struct Aggregated(pub(super) Arc<Shared>);

impl NamedService for Secrets {
    const NAME: &'static str = "envoy.service.secret.v3.SecretDiscoveryService";
}

impl NamedService for Aggregated {
    const NAME: &'static str = "envoy.service.discovery.v3.AggregatedDiscoveryService";
}

type Answer = Either<Ready<Result<Response<Body>, Infallible>>, BoxFuture<'static, Result<Response<Body>, Infallible>>>;

impl tower::Service<Request<Body>> for Secrets {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Answer {
        let method = request.uri().path().rsplit('/').next().unwrap_or_default();
        let response = match method {
            "StreamSecrets" => stream::<WireSotw>(&self.0, Service::Secrets, request),
            "DeltaSecrets" => stream::<WireDelta>(&self.0, Service::Secrets, request),
            "FetchSecrets" => {
                let shared = self.0.clone();
                return Either::Right(async move { Ok(fetch::answer(shared, request).await) }.boxed());
            }
            _ => unknown(),
        };
        Either::Left(ready(Ok(response)))
    }
}

impl tower::Service<Request<Body>> for Aggregated {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let method = request.uri().path().rsplit('/').next().unwrap_or_default();
        ready(Ok(match method {
            "StreamAggregatedResources" => stream::<WireSotw>(&self.0, Service::Aggregated, request),
            "DeltaAggregatedResources" => stream::<WireDelta>(&self.0, Service::Aggregated, request),
            _ => unknown(),
        }))
    }
}

fn stream<W: Wire>(shared: &Arc<Shared>, service: Service, request: Request<Body>) -> Response<Body> {
    let Some(peer) = request.extensions().get::<Peer>().copied() else {
        return Status::internal("the connection has no peer").into_http();
    };
    let limits = shared.settings.limits();
    let bounds = StreamBounds { all: limits.streams, of_peer: limits.streams_per_peer };
    let permit = match shared.peers.admit(peer, bounds) {
        Ok(permit) => permit,
        Err(refused) => {
            shared.metrics.refused(peer.class());
            return too_many(peer, refused, bounds).into_http();
        }
    };
    let drive = Drive::<W>::new(shared.clone(), service, peer, permit, request.into_body());
    respond(Body::new(drive))
}

fn too_many(peer: Peer, refused: Refused, bounds: StreamBounds) -> Status {
    match refused {
        Refused::Peer => {
            let limit = bounds.of_peer;
            tracing::warn!(%peer, limit, "stream refused, the peer has as many as it may");
            Status::resource_exhausted(format!(
                "this peer has {limit} streams open, as many as it may; close some or raise limits.streams_per_peer"
            ))
        }
        Refused::All => {
            let limit = bounds.all;
            tracing::warn!(%peer, limit, "stream refused, there are as many as there may be");
            Status::resource_exhausted(format!(
                "of {limit} streams there are so many that only peers with few may open more; raise limits.streams"
            ))
        }
    }
}

/// A gRPC response with this body.
pub(super) fn respond(body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/grpc"));
    response
}

fn unknown() -> Response<Body> {
    Status::unimplemented("this service has no such method").into_http()
}
