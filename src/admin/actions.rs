//! What an operator can make the server do. Each wish is logged and noted with who had it.

use std::{fmt, sync::Arc, time::Duration};

use axum::{
    Extension, Form, Json,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Redirect, Response},
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{debug::bad_request, view::Sight};
use crate::{
    listen::Peer,
    telemetry::{journal::Weight, logs},
};

/// The longest time that more may be logged: nobody remembers to turn it back.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);
/// How long more is logged when nothing is said.
const USUAL: Duration = Duration::from_secs(10 * 60);

/// What can be done besides what the streams themselves can. A `None` is answered with 501.
#[derive(Clone, Default)]
pub struct Actions {
    /// Changes the log's level for a while.
    pub logs: Option<logs::Control>,
    /// Asks the source for all tokens again; says how many that is.
    pub refresh_tokens: Option<Arc<dyn Fn() -> usize + Send + Sync>>,
}

impl fmt::Debug for Actions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Actions").field("logs", &self.logs.is_some()).finish_non_exhaustive()
    }
}

/// To whom something is sent again.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Resend {
    #[serde(default)]
    node: String,
    #[serde(default)]
    name: String,
}

/// What is logged for a while.
#[derive(Debug, Deserialize)]
pub(super) struct LogLevel {
    filter: String,
    #[serde(default, rename = "for")]
    period: String,
}

type Done = Result<Response, Response>;

/// Sends a name, everything of a node, or both, again.
pub(super) async fn resend(
    State(sight): State<Arc<Sight>>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
    Form(wish): Form<Resend>,
) -> Done {
    let (node, name) = (wish.node.trim(), wish.name.trim());
    if node.is_empty() && name.is_empty() {
        return Err(bad_request("say which node or which name is sent again").into_response());
    }
    let given = |text: &'static str, value: &str| (!value.is_empty()).then(|| format!("{text} {value}"));
    let what: Vec<_> = [given("node", node), given("name", name)].into_iter().flatten().collect();
    let streams = sight.streams.resend(Some(node).filter(|it| !it.is_empty()), Some(name).filter(|it| !it.is_empty()));
    sight.audit(peer, "operator_resend", &what.join(", "), &format!("{streams} streams"));
    Ok(done(&headers, json!({ "streams": streams })))
}

/// Asks the source for all tokens again.
pub(super) async fn refresh_tokens(
    State(sight): State<Arc<Sight>>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
) -> Done {
    let Some(refresh) = &sight.actions.refresh_tokens else {
        return Err(unavailable("no token is served, so none can be renewed"));
    };
    let tokens = refresh();
    sight.audit(peer, "operator_refresh_tokens", "", &format!("{tokens} tokens"));
    Ok(done(&headers, json!({ "tokens": tokens })))
}

/// Changes what is logged for a while.
pub(super) async fn log_level(
    State(sight): State<Arc<Sight>>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
    Form(wish): Form<LogLevel>,
) -> Done {
    let Some(logs) = &sight.actions.logs else {
        return Err(unavailable("this process does not log by itself, so its level cannot be changed here"));
    };
    let filter: logs::Filter = wish
        .filter
        .trim()
        .parse()
        .map_err(|error: logs::FilterError| bad_request(&error.to_string()).into_response())?;
    let period = match wish.period.trim() {
        "" => USUAL,
        text => humantime::parse_duration(text)
            .ok()
            .filter(|period| !period.is_zero() && *period <= LONGEST)
            .ok_or_else(|| bad_request("the time is none, such as 10m, or longer than a day").into_response())?,
    };
    let shown = format!("{filter} for {}", humantime::format_duration(period));
    sight.audit(peer, "operator_log_level", &shown, "");
    logs.set_for(filter, period);
    Ok(done(&headers, json!({ "filter": wish.filter.trim(), "seconds": period.as_secs() })))
}

impl Sight {
    fn audit(&self, peer: Peer, action: &'static str, subject: &str, detail: &str) {
        tracing::info!(event = action, %peer, subject, detail, "an operator acted");
        self.journal.note(Weight::Notice, action, subject, detail, &peer);
    }
}

fn unavailable(reason: &str) -> Response {
    (StatusCode::NOT_IMPLEMENTED, Json(json!({ "error": reason }))).into_response()
}

/// A browser goes back to the page, everybody else gets JSON.
fn done(headers: &HeaderMap, value: Value) -> Response {
    let html = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    if html.is_some_and(|accept| accept.contains("text/html")) {
        return Redirect::to("/#events").into_response();
    }
    Json(value).into_response()
}
