//! The page for people: rendered here, complete without JavaScript, and kept up to date by a few lines of it.
//!
//! Node IDs, names and rejections are what clients say: the template escapes everything, and the content security
//! policy lets nothing run but the script of this answer.

mod clients;
#[cfg(test)]
mod tests;

use std::{borrow::Borrow, fmt, sync::Arc, time::SystemTime};

use askama::{
    Template,
    filters::{Escaper, Html},
};
use axum::{
    Extension, Json,
    extract::{Query, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::{Duration, sleep, timeout};

use super::{
    debug::{Params, Refused},
    view::{
        self, Clients, Condition, Configuration, Event, Gone, Identity, InService, LeftOut, Sight, Source, Token, Trust,
    },
};
use crate::printable;

use crate::listen::Transport;

/// Streams on one page.
const STREAMS: usize = 50;
/// Names shown of one client; its other names are in `/debug/clients`.
const NAMES: usize = 12;
/// Identities, tokens and trust domains shown; the others are in `/debug`.
const CARDS: usize = 24;
/// Events on the page.
const EVENTS: usize = 40;
/// How often it is looked for news meanwhile: streams, which make most of it, wake nobody.
const LOOK: Duration = Duration::from_millis(100);
/// How long a browser waits for news before it is told that there is none; less than the guard's patience.
const NEWS: Duration = Duration::from_secs(8);

/// Escapes what means something in HTML, and what moves, hides or reorders text.
#[derive(Clone, Copy, Debug)]
struct Shown;

impl Escaper for Shown {
    fn write_escaped_str<W: fmt::Write>(&self, dest: W, text: &str) -> fmt::Result {
        Html.write_escaped_str(dest, &printable::lines(text))
    }
}

#[derive(Template)]
#[template(path = "page.html")]
struct Page<'a> {
    nonce: &'a str,
    version: &'static str,
    now: String,
    uptime: String,
    revision: u64,
    ready: bool,
    pending: Vec<Condition>,
    sources: Vec<Source>,
    refused: Vec<LeftOut>,
    in_service: InService,
    identities: Vec<Identity>,
    gone: Vec<Gone>,
    tokens: Vec<Token>,
    trust: Vec<Trust>,
    clients: &'a Clients,
    groups: Vec<clients::Client<'a>>,
    cards: usize,
    params: &'a Params,
    pages: Pages,
    events: Vec<Event>,
    configuration: Option<Arc<Configuration>>,
    can_act: bool,
    can_log: bool,
    can_refresh: bool,
}

/// Links to the neighbours of this page of streams.
struct Pages {
    first: usize,
    last: usize,
    previous: Option<String>,
    next: Option<String>,
}

/// The page.
pub(super) async fn page(
    State(sight): State<Arc<Sight>>,
    Extension(transport): Extension<Transport>,
    Query(params): Query<Params>,
) -> Result<Response, Refused> {
    let query = params.streams(STREAMS)?;
    let now = SystemTime::now();
    // Before anything is read: what changes meanwhile is news.
    let revision = sight.journal.revision();
    let clients = sight.clients(&query);
    let (state, tokens) = (sight.identities.borrow().clone(), sight.tokens.borrow().clone());
    let pages = Pages::new(&params, &clients, query.limit.max(1));
    let nonce = nonce();
    let page = Page {
        nonce: &nonce,
        version: env!("CARGO_PKG_VERSION"),
        now: view::seconds(now),
        uptime: view::left(now.duration_since(sight.started).unwrap_or_default()),
        revision,
        ready: sight.readiness.is_ready(),
        pending: sight.conditions().into_iter().filter(|condition| !condition.ready).collect(),
        sources: sight.sources(),
        refused: sight.refused(),
        in_service: sight.in_service(),
        identities: view::identities(&state, now),
        gone: sight.gone(now),
        tokens: view::tokens(&tokens, now),
        trust: view::trust(&state, &tokens, now),
        groups: clients::clients(&clients.streams, NAMES),
        clients: &clients,
        cards: CARDS,
        params: &params,
        pages,
        events: sight.events("", 0, EVENTS).events,
        configuration: sight.configuration.borrow().clone(),
        // A form that would be refused is no offer.
        can_act: transport != Transport::Public,
        can_log: sight.actions.logs.is_some(),
        can_refresh: sight.actions.refresh_tokens.is_some(),
    };
    Ok(match page.render() {
        Ok(html) => (headers(&nonce), html).into_response(),
        Err(error) => {
            tracing::error!(%error, "an admin page failed");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    })
}

/// What a browser has seen.
#[derive(Debug, Deserialize)]
pub(super) struct Seen {
    #[serde(default)]
    after: u64,
}

/// Waits for news, a few seconds at most.
pub(super) async fn news(State(sight): State<Arc<Sight>>, Query(seen): Query<Seen>) -> Json<Value> {
    let news = async {
        while sight.journal.revision() == seen.after {
            sleep(LOOK).await;
        }
    };
    let _ = timeout(NEWS, news).await;
    Json(json!({ "revision": sight.journal.revision() }))
}

impl Pages {
    fn new(params: &Params, clients: &Clients, limit: usize) -> Self {
        let at = |offset: usize| {
            let mut link = format!("/?offset={offset}&limit={limit}");
            for (key, value) in [("q", &params.q), ("state", &params.state)] {
                if !value.is_empty() {
                    link.push_str(&format!("&{key}={}", encoded(value)));
                }
            }
            link + "#clients"
        };
        let end = clients.offset + clients.streams.len();
        Self {
            first: if clients.streams.is_empty() { 0 } else { clients.offset + 1 },
            last: end,
            previous: (clients.offset > 0).then(|| at(clients.offset.saturating_sub(limit))),
            next: (end < clients.matched && !clients.streams.is_empty()).then(|| at(end)),
        }
    }
}

/// A value for the query of a link.
fn encoded(text: &str) -> String {
    let escape = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(escape).collect()
}

/// Unguessable, and new with each answer.
fn nonce() -> String {
    let mut random = [0u8; 16];
    // Without randomness the nonce is known, and no worse than no policy: everything is escaped all the same.
    let _ = aws_lc_rs::rand::fill(&mut random);
    random.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn headers(nonce: &str) -> HeaderMap {
    let policy = format!(
        "default-src 'none'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; connect-src 'self'; img-src data:; \
         form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    );
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    // A form on a page without referrer says that it comes from nowhere, and would be refused as a stranger's.
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("same-origin"));
    if let Ok(policy) = HeaderValue::from_str(&policy) {
        headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    headers
}

/// The start of a version: enough to tell two apart.
fn short(version: Option<&str>) -> &str {
    version.map_or("–", |version| version.get(..10).unwrap_or(version))
}

/// The time of day of an RFC 3339 time; the date is in the tooltip.
fn clock(time: &str) -> &str {
    time.get(11..19).unwrap_or(time)
}

/// `1 key`, `2 keys`.
fn count(number: impl Borrow<usize>, what: &str) -> String {
    let number = *number.borrow();
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}
