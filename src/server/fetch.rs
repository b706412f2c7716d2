//! `FetchSecrets`: one answer from what is known now.

use std::{future::poll_fn, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::Frame;
use http_body_util::StreamBody;
use tonic::{Status, body::Body};

use super::{
    Shared,
    budget::{Charge, Charged},
    inbound::Inbound,
    observe::code_name,
    publish::Feed,
    service::respond,
    shared::Admission,
};
use crate::{
    identity::FileLease,
    listen::Peer,
    secret::{Flavour, View},
    xds::{self, Lookup, Node, Resource, ResourceName, ResourceSet, SECRET_TYPE_URL, Wire as _, WireSotw},
};

/// How long files may take to be read.
const FILES_PATIENCE: Duration = Duration::from_secs(2);

/// Answers one `FetchSecrets` call, from the request's body to the response's.
pub(super) async fn answer(shared: Arc<Shared>, request: Request<Body>) -> Response<Body> {
    let Some(peer) = request.extensions().get::<Peer>().copied() else {
        return Status::internal("the connection has no peer").into_http();
    };
    let bounds = shared.bounds();
    let mut inbound = Inbound::<WireSotw>::new(request.into_body(), bounds, shared.budgets.open(peer));
    let first = tokio::time::timeout(bounds.patience, poll_fn(|cx| inbound.poll_message(cx))).await;
    let result = match first {
        Ok(Some(Ok(message))) => fetch(&shared, peer, message, inbound.into_charge()).await,
        Ok(Some(Err(status))) => Err(status),
        Ok(None) => Err(Status::invalid_argument("the request is empty; send one DiscoveryRequest")),
        Err(_) => Err(Status::deadline_exceeded("the request did not arrive in time")),
    };
    match result {
        Ok((message, charge)) => {
            shared.metrics.fetched("grpc", code_name(tonic::Code::Ok));
            respond(unary(message, charge))
        }
        Err(status) => {
            shared.metrics.fetched("grpc", code_name(status.code()));
            status.into_http()
        }
    }
}

async fn fetch(
    shared: &Shared,
    peer: Peer,
    mut message: WireSotw,
    mut charge: Charge,
) -> Result<(Bytes, Charge), Status> {
    let node = message.take_node().map(Node::from).unwrap_or_default();
    let names = message.resource_names;
    charge.set(weight(&names))?;
    let _files = read_files(shared, peer, &names).await;
    let render = |found: &[&Resource]| xds::unary_frame(&shared.origin, found);
    let frame = find(shared, &node, &message.type_url, names, &mut charge, render)?;
    charge.set(frame.len())?;
    Ok((frame, charge))
}

/// What names cost that are held for a while.
pub(super) fn weight(names: &[String]) -> usize {
    names.iter().map(|name| size_of::<String>() + name.len()).sum()
}

/// Asks for the files among `names` and waits until they were looked at and what is in them can be found, which a stream
/// would do by itself.
pub(super) async fn read_files(shared: &Shared, peer: Peer, names: &[String]) -> FileLease {
    let mut lease = shared.files.lease(peer.into());
    let live = shared.settings.now();
    let files: Vec<_> = names.iter().filter_map(|name| Some((name, live.secrets.file(name)?))).collect();
    if files.is_empty() {
        return lease;
    }
    lease.hold(files.iter().map(|(_, request)| request.clone()).collect());
    let found = async {
        lease.tried().await;
        let known = shared.files.watch().borrow().clone();
        let is_there = |view: &View| {
            let mut there = files.iter().filter(|(_, request)| known.secrets.contains_key(request));
            there.all(|(name, _)| matches!(view.set().lookup(name), Lookup::Available(_)))
        };
        // The one that is filled last.
        let mut feed = shared.feeds.of(Flavour::Plain);
        let _ = feed.wait_for(|feed| matches!(feed, Feed::Live(view, _) if is_there(view))).await;
    };
    // Whoever has waited enough makes do with what there is.
    let _ = tokio::time::timeout(FILES_PATIENCE, found).await;
    lease
}

/// Finds what of the names there is now and renders it, at the expense of `charge`. Without one of them that is an error, and so is what a stream
/// would wait for.
pub(super) fn find<T>(
    shared: &Shared,
    node: &Node,
    type_url: &str,
    names: Vec<String>,
    charge: &mut Charge,
    render: impl FnOnce(&[&Resource]) -> T,
) -> Result<T, Status> {
    if !matches!(type_url, "" | SECRET_TYPE_URL) {
        let asked = xds::ResourceName::new(type_url);
        return Err(Status::invalid_argument(format!("only {SECRET_TYPE_URL} is served here, not {asked}")));
    }
    let limit = shared.settings.limits().names_per_stream as usize;
    if names.len() > limit {
        return Err(Status::resource_exhausted(format!("more than {limit} names in one request; split it")));
    }
    let live = shared.settings.now();
    let Admission { feed, names: own_names, .. } = shared.admit(&live, node);
    let Feed::Live(view, _) = feed.borrow().clone() else {
        return Err(Status::unavailable("the server is shutting down; ask again"));
    };
    let now = view.for_node(&own_names);
    let names_weight = weight(&names);
    let mut names = names.into_iter().map(ResourceName::from).collect();
    let found = select(&now, &mut names, live.secrets.wildcard);
    // Files may be there before any identity is; whatever else is asked for is waited for.
    if !now.is_known() && (found.is_empty() || found.len() < names.len()) {
        return Err(Status::unavailable("no identity has been received yet; ask again"));
    }
    if found.is_empty() {
        return Err(Status::not_found("none of these names is available to this client"));
    }
    // Twice: as a response, and what it takes to make one.
    let size = found.iter().map(|found| found.name().as_str().len() + found.content().body().len()).sum::<usize>();
    charge.set(names_weight + 2 * size)?;
    Ok(render(&found))
}

/// What of the names there is, in their order and once each, and then everything listed if that was asked for: what the first
/// request of a stream would be sent. `names` are left as those that were asked for one by one.
fn select<'a>(now: &'a ResourceSet, names: &mut Vec<ResourceName>, wildcard: bool) -> Vec<&'a Resource> {
    let everything;
    (*names, everything) = xds::asked(std::mem::take(names), true, wildcard);
    let mut seen = std::collections::BTreeSet::new();
    names.retain(|name| seen.insert(name.clone()));
    let named = names.iter().filter_map(|name| match now.lookup(name.as_str()) {
        Lookup::Available(resource) => Some(resource.as_ref()),
        _ => None,
    });
    let listed = now.listed().map(AsRef::as_ref).filter(|found: &&Resource| everything && !seen.contains(found.name()));
    named.chain(listed).collect()
}

/// A body of one message and an OK.
fn unary(message: Bytes, charge: Charge) -> Body {
    let mut trailers = HeaderMap::new();
    // "0" is always a valid header value, so this cannot fail.
    let _ = Status::ok("").add_header(&mut trailers);
    let frames = [Ok::<_, Status>(Frame::data(message)), Ok(Frame::trailers(trailers))];
    Body::new(Charged::new(StreamBody::new(tokio_stream::iter(frames)), charge))
}
