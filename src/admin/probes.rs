//! `/live`, `/ready` and `/metrics`.

use std::time::Duration;

use axum::{
    Json,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;

use super::Parts;
use crate::telemetry::metrics::CONTENT_TYPE;

/// How long a part of the program may take to answer. Long, because on a busy machine late is not stuck; a probe that waits for
/// less sees no answer, which is no better.
const PATIENCE: Duration = Duration::from_secs(2);

/// The body of `/ready`.
#[derive(Serialize)]
struct Ready {
    ready: bool,
    conditions: Vec<Shown>,
}

#[derive(Serialize)]
struct Shown {
    name: &'static str,
    ready: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

/// The process answers; more would make an orchestrator kill a server whose source is down.
pub(super) async fn live() -> impl IntoResponse {
    Json(serde_json::json!({ "live": true }))
}

/// Each condition, and 503 as long as one is pending. Judged now: a task that does not answer would leave its conditions
/// as they were.
pub(super) async fn ready(State(parts): State<Parts>) -> impl IntoResponse {
    let silent = parts.readiness.silent(PATIENCE).await.into_iter().map(|name| {
        let reason = Some("this part of the program does not answer".to_owned());
        Shown { name, ready: false, reason }
    });
    let conditions = parts.readiness.conditions().into_iter().map(|condition| Shown {
        name: condition.name,
        ready: condition.pending.is_none(),
        reason: condition.pending.map(std::borrow::Cow::into_owned),
    });
    let conditions: Vec<_> = silent.chain(conditions).collect();
    let ready = conditions.iter().all(|condition| condition.ready);
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(Ready { ready, conditions }))
}

/// Everything that is counted.
pub(super) async fn metrics(State(parts): State<Parts>) -> Response {
    match parts.metrics.render() {
        Ok(text) => ([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
