//! `/live`, `/ready` and `/metrics`.

use std::time::Duration;

use axum::{
    Json,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;

use super::{Parts, view};
use crate::telemetry::metrics::CONTENT_TYPE;

/// How long a part of the program may take to answer. Long, because on a busy machine late is not stuck; a probe that waits for
/// less sees no answer, which is no better.
const PATIENCE: Duration = Duration::from_secs(2);

/// The body of `/ready`.
#[derive(Serialize)]
struct Ready {
    ready: bool,
    degraded: bool,
    conditions: Vec<view::Condition>,
}

/// The process answers; more would make an orchestrator kill a server whose source is down.
pub(super) async fn live() -> impl IntoResponse {
    Json(serde_json::json!({ "live": true }))
}

/// Each condition, and 503 as long as one that counts is pending. Judged now: a task that does not answer would leave its conditions
/// as they were.
pub(super) async fn ready(State(parts): State<Parts>) -> impl IntoResponse {
    let silent = parts.readiness.silent(PATIENCE).await.into_iter().map(|name| {
        let reason = Some("this part of the program does not answer".to_owned());
        view::Condition { name: name.to_owned(), ready: false, required: true, reason }
    });
    let conditions = parts.readiness.conditions().into_iter().map(view::Condition::from);
    let conditions: Vec<_> = silent.chain(conditions).collect();
    let ready = conditions.iter().all(|condition| condition.ready || !condition.required);
    let degraded = conditions.iter().any(|condition| !condition.ready && !condition.required);
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(Ready { ready, degraded, conditions }))
}

/// Everything that is counted.
pub(super) async fn metrics(State(parts): State<Parts>) -> Response {
    match parts.metrics.render() {
        Ok(text) => ([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
