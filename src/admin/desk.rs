//! Where pages are made: aside from the threads that serve proxies, and one at a time.
//!
//! What ten thousand streams hold takes a while to write down. On a thread of the runtime everything that is queued
//! there would wait for it, and several at once would take every processor.

use std::{sync::Arc, time::Duration};

use axum::{
    body::{Body, to_bytes},
    extract::{Request, State},
    http::StatusCode,
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use tokio::{runtime::Handle, sync::Semaphore, task::spawn_blocking, time::timeout};

/// How long the rest of a request may take to arrive.
const PATIENCE: Duration = Duration::from_secs(5);
/// Bytes of what comes with a request for a page, which needs none.
const BODY: usize = 4 << 10;

/// The place for whoever makes a page. Clones are the same place.
#[derive(Clone, Debug)]
pub(super) struct Desk(Arc<Semaphore>);

impl Default for Desk {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(1)))
    }
}

/// Makes the page when it is its turn. For what takes processors, not for what waits: the request is read before.
pub(super) async fn aside(State(desk): State<Desk>, request: Request, next: Next) -> Response {
    let (head, body) = request.into_parts();
    let body = match timeout(PATIENCE, to_bytes(body, BODY)).await {
        Ok(Ok(body)) => body,
        Ok(Err(_)) => return StatusCode::BAD_REQUEST.into_response(),
        Err(_) => return StatusCode::REQUEST_TIMEOUT.into_response(),
    };
    let request = Request::from_parts(head, Body::from(body));
    let Ok(place) = desk.0.acquire_owned().await else { return StatusCode::SERVICE_UNAVAILABLE.into_response() };
    let runtime = Handle::current();
    // Whoever has lost patience leaves the place to the next one only when the page is made.
    let made = spawn_blocking(move || {
        let response = runtime.block_on(next.run(request));
        drop(place);
        response
    });
    match made.await {
        Ok(response) => response,
        Err(error) => {
            tracing::error!(%error, "an admin page failed");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicUsize, Ordering},
        thread,
    };

    use axum::{Router, middleware, routing::get};
    use tower::ServiceExt as _;

    use super::*;

    #[tokio::test]
    async fn pages_are_made_one_at_a_time_and_elsewhere() {
        static AT_WORK: AtomicUsize = AtomicUsize::new(0);
        let here = thread::current().id();
        let page = async move || {
            assert_eq!(AT_WORK.fetch_add(1, Ordering::SeqCst), 0, "two at once");
            assert_ne!(thread::current().id(), here);
            thread::sleep(Duration::from_millis(5));
            AT_WORK.fetch_sub(1, Ordering::SeqCst);
            "page"
        };
        let router = Router::new()
            .route("/", get(page))
            .route("/broken", get(async || -> &'static str { panic!("on purpose") }))
            .layer(middleware::from_fn_with_state(Desk::default(), aside));
        let ask = async |path: &str| {
            router.clone().oneshot(Request::get(path).body(Body::empty()).unwrap()).await.unwrap().status()
        };
        let all = futures_util::future::join_all((0..8).map(|_| ask("/")));
        assert!(all.await.iter().all(|status| *status == StatusCode::OK));
        assert_eq!(ask("/broken").await, StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(ask("/").await, StatusCode::OK, "the place is free again");
    }
}
