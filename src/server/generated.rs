//! What calls of generated services (health, reflection) may cost: they have no decoder of ours and no place among the
//! streams, so each of them is charged to its client.

use std::sync::Arc;

use axum::{
    body::Body,
    extract::{Request, State},
    middleware::{Next, from_fn_with_state},
    response::Response,
};
use tonic::{Status, service::Routes};

use super::{Shared, budget::Charged};
use crate::listen::{
    Peer,
    messages::{Bounds, Messages},
};

/// Bytes of one request: a service's, a symbol's or a file's name.
const REQUEST: usize = 4 << 10;
/// What one call costs at most, its request included.
const CALL: usize = 8 << 10;
/// The one method that is asked more than once.
const STREAMING: &str = "/ServerReflectionInfo";

/// Bounds all calls of these services.
pub(super) fn bound(routes: Routes, shared: Arc<Shared>) -> Routes {
    Routes::from(routes.into_axum_router().layer(from_fn_with_state(shared, charge)))
}

async fn charge(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let Some(peer) = request.extensions().get::<Peer>().copied() else {
        return Status::internal("the connection has no peer").into_http();
    };
    let mut charge = shared.budgets.open(peer);
    if let Err(exhausted) = charge.set(CALL) {
        return Status::from(exhausted).into_http();
    }
    let unary = !request.uri().path().ends_with(STREAMING);
    let bounds = Bounds { bytes: REQUEST, patience: shared.bounds().patience, unary };
    let request = request.map(|body| Body::new(Messages::new(body, bounds)));
    next.run(request).await.map(|body| Body::new(Charged::new(body, charge)))
}
