//! `/live` and `/ready`.

use axum::{Json, extract::State, http::StatusCode, response::IntoResponse};
use serde::Serialize;

use super::Parts;

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

/// Each condition, and 503 as long as one is pending.
pub(super) async fn ready(State(parts): State<Parts>) -> impl IntoResponse {
    let conditions: Vec<_> = parts
        .readiness
        .conditions()
        .into_iter()
        .map(|condition| Shown {
            name: condition.name,
            ready: condition.pending.is_none(),
            reason: condition.pending.map(std::borrow::Cow::into_owned),
        })
        .collect();
    let ready = conditions.iter().all(|condition| condition.ready);
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(Ready { ready, conditions }))
}
