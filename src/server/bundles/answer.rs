//! From a request to its response; nothing here waits.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;

use super::pages::{Found, Page, Pages};

/// When to ask again for what is not there yet, in seconds.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("1");
const ALLOWED: HeaderValue = HeaderValue::from_static("GET, HEAD");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

/// The response to `request`.
pub(super) fn answer<B>(pages: &Pages, request: &Request<B>) -> Response<Full<Bytes>> {
    let with_body = match *request.method() {
        Method::GET => true,
        Method::HEAD => false,
        _ => {
            let mut response = refusal(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD are served here\n", true);
            response.headers_mut().insert(header::ALLOW, ALLOWED);
            return response;
        }
    };
    match pages.find(request.uri().path()) {
        Found::Page(page) => document(page, request.headers(), with_body),
        Found::Nothing => {
            refusal(StatusCode::NOT_FOUND, "no such trust domain or document; `/` lists those there are\n", with_body)
        }
        Found::NotYet => {
            let text = "the identity source has not told these keys yet; try again soon\n";
            let mut response = refusal(StatusCode::SERVICE_UNAVAILABLE, text, with_body);
            response.headers_mut().insert(header::RETRY_AFTER, RETRY_AFTER);
            response
        }
    }
}

/// The response to a request that is not for us.
pub(super) fn refused(status: StatusCode, reason: &'static str) -> Response<Full<Bytes>> {
    refusal(status, reason, true)
}

fn document(page: &Page, asked: &HeaderMap, with_body: bool) -> Response<Full<Bytes>> {
    let mut response = if is_held(asked, &page.etag) {
        let mut response = Response::new(Full::default());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response
    } else {
        respond(page.content_type.clone(), page.body.clone(), with_body)
    };
    let headers = response.headers_mut();
    headers.insert(header::ETAG, page.etag.clone());
    headers.insert(header::CACHE_CONTROL, page.cache_control.clone());
    response
}

/// Whether the client has this version already (RFC 9110, section 13.1.2: compared weakly).
fn is_held(asked: &HeaderMap, etag: &HeaderValue) -> bool {
    let lines = asked.get_all(header::IF_NONE_MATCH).iter();
    // Our tags hold no comma, so splitting at each one cannot join two halves to one of ours.
    let mut tags = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b',')).map(<[u8]>::trim_ascii);
    tags.any(|tag| tag == b"*" || tag.strip_prefix(b"W/").unwrap_or(tag) == etag.as_bytes())
}

fn refusal(status: StatusCode, text: &'static str, with_body: bool) -> Response<Full<Bytes>> {
    let mut response = respond(TEXT, Bytes::from_static(text.as_bytes()), with_body);
    *response.status_mut() = status;
    // What is missing now may be there in a moment; a cache must not insist.
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// A response whose length is told even where the body is not sent.
fn respond(content_type: HeaderValue, body: Bytes, with_body: bool) -> Response<Full<Bytes>> {
    let length = HeaderValue::from(body.len());
    let mut response = Response::new(Full::new(if with_body { body } else { Bytes::new() }));
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    response.headers_mut().insert(header::CONTENT_LENGTH, length);
    response
}

#[cfg(test)]
mod tests;
