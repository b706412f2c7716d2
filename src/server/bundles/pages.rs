//! The documents as they are served: rendered once a change, found by path.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use http::HeaderValue;
use serde_json::{Value, json};

use crate::{
    identity::{Availability, JwtBundle, JwtSnapshot, TrustBundle, TrustDomain},
    secret::jwks::{self, BundleKeys},
    xds::Version,
};

/// RFC 7517, section 8.5.2. Envoy looks at the status and the body alone.
const JWK_SET: HeaderValue = HeaderValue::from_static("application/jwk-set+json");
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// What the documents are made of.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Known {
    /// The domain that `/jwks` and `/bundle` mean.
    pub(super) own: Option<TrustDomain>,
    /// `None` until the source has spoken, and when it grants nothing.
    pub(super) x509: Option<BTreeMap<TrustDomain, Arc<TrustBundle>>>,
    /// `None` until the source has named any.
    pub(super) jwt: Option<BTreeMap<TrustDomain, Arc<JwtBundle>>>,
    /// SPIFFE bundles are not shown yet, because the JWT keys may be about to come.
    pub(super) waits_for_jwt: bool,
    /// Domains whose JWT keys cannot be read and never could. A bundle without them would be a false statement: every
    /// verifier would refuse every token of the domain.
    pub(super) unreadable: BTreeSet<TrustDomain>,
}

/// Every document there is.
#[derive(Debug, Default)]
pub(super) struct Pages {
    pages: BTreeMap<String, Arc<Page>>,
    x509_known: bool,
    jwt_known: bool,
    /// Domains whose documents are not there yet.
    unreadable: BTreeSet<TrustDomain>,
    own: Option<TrustDomain>,
}

/// One document.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) content_type: HeaderValue,
    /// Strong: equal for equal bytes, on every replica.
    pub(super) etag: HeaderValue,
    pub(super) cache_control: HeaderValue,
    pub(super) body: Bytes,
}

/// What there is at a path.
#[derive(Debug)]
pub(super) enum Found<'a> {
    Page(&'a Arc<Page>),
    /// There may be something soon.
    NotYet,
    Nothing,
}

/// Turns what is known into documents, and counts the changes of each bundle.
#[derive(Debug)]
pub(super) struct Renderer {
    refresh_hint: Duration,
    cache_control: HeaderValue,
    /// The keys and the sequence number of each bundle shown last. A withdrawn domain stays, with a bundle without keys,
    /// which says that none of its SVIDs is trusted; if it comes back, its number goes on.
    sequences: BTreeMap<TrustDomain, (BundleKeys, u64)>,
    /// Every domain whose JWT keys were ever shown. One that is withdrawn gets a set that verifies nothing, because
    /// "not found" would leave Envoy with the keys it has.
    verified: BTreeSet<TrustDomain>,
}

impl Known {
    /// What these two states say.
    pub(super) fn new(x509: &Availability, jwt: &JwtSnapshot) -> Self {
        let (own, x509) = match x509 {
            Availability::Ready(snapshot) => (snapshot.trust_domain.clone(), Some(snapshot.bundles.clone())),
            Availability::Pending | Availability::Denied(_) => (None, None),
        };
        let unreadable = jwt.unreadable.clone();
        let jwt = (!jwt.bundles.is_empty()).then(|| jwt.bundles.clone());
        Self { own, x509, jwt, waits_for_jwt: false, unreadable }
    }
}

impl Pages {
    /// What there is at `path`, which has no query.
    pub(super) fn find(&self, path: &str) -> Found<'_> {
        if let Some(page) = self.pages.get(path) {
            return Found::Page(page);
        }
        let (kind, domain) = path.strip_prefix('/').map_or(("", None), |path| match path.split_once('/') {
            Some((kind, domain)) => (kind, Some(domain)),
            None => (path, None),
        });
        let meant = domain.and_then(|domain| TrustDomain::new(domain).ok()).or_else(|| self.own.clone());
        if matches!(kind, "jwks" | "bundle") && meant.is_some_and(|domain| self.unreadable.contains(&domain)) {
            return Found::NotYet;
        }
        let possible = domain.is_none_or(|domain| TrustDomain::new(domain).is_ok_and(|td| td.as_ref() == domain));
        let known = match kind {
            "jwks" if domain.is_none() => self.x509_known && self.jwt_known,
            "jwks" => self.jwt_known,
            "bundle" => self.x509_known,
            "" if domain.is_none() => false,
            _ => true,
        };
        if possible && !known { Found::NotYet } else { Found::Nothing }
    }
}

impl Renderer {
    /// A renderer of documents that are good for this long.
    pub(super) fn new(refresh_hint: Duration) -> Self {
        let cache_control = format!("max-age={}", refresh_hint.as_secs());
        let cache_control = HeaderValue::try_from(cache_control).unwrap_or(HeaderValue::from_static("no-cache"));
        Self { refresh_hint, cache_control, sequences: BTreeMap::new(), verified: BTreeSet::new() }
    }

    /// All documents, at this moment.
    pub(super) fn render(&mut self, known: &Known, now: SystemTime) -> Pages {
        let mut pages = Pages {
            pages: BTreeMap::new(),
            x509_known: known.x509.is_some() && !known.waits_for_jwt,
            jwt_known: known.jwt.is_some(),
            unreadable: known.unreadable.clone(),
            own: known.own.clone(),
        };
        let mut sets = serde_json::Map::new();
        for (td, bundle) in known.jwt.iter().flatten() {
            self.verified.insert(td.clone());
            let page = self.page(JWK_SET, jwks::jwk_set(bundle));
            sets.insert(td.to_string(), pages.add("jwks", td, known, page));
        }
        let withdrawn = |td: &&TrustDomain| {
            !known.unreadable.contains(*td) && known.jwt.as_ref().is_none_or(|live| !live.contains_key(*td))
        };
        for td in self.verified.iter().filter(withdrawn) {
            pages.add("jwks", td, known, self.page(JWK_SET, jwks::closed_jwk_set()));
        }
        let mut bundles = serde_json::Map::new();
        if let Some(x509) = known.x509.as_ref().filter(|_| pages.x509_known) {
            let nothing = BTreeMap::new();
            let jwt = known.jwt.as_ref().unwrap_or(&nothing);
            let live: BTreeSet<_> = x509.keys().chain(jwt.keys()).chain(&known.unreadable).cloned().collect();
            for td in live.difference(&known.unreadable) {
                let keys = BundleKeys::new(x509.get(td).map(Arc::as_ref), jwt.get(td).map(Arc::as_ref));
                let page = self.bundle(td, keys, now);
                bundles.insert(td.to_string(), pages.add("bundle", td, known, page));
            }
            let withdrawn: Vec<_> = self.sequences.keys().filter(|td| !live.contains(*td)).cloned().collect();
            for td in withdrawn {
                let page = self.bundle(&td, BundleKeys::default(), now);
                pages.add("bundle", &td, known, page);
            }
        }
        if pages.x509_known || pages.jwt_known {
            let own = known.own.as_ref().map(ToString::to_string);
            let index = json!({ "trust_domain": own, "jwks": sets, "bundles": bundles });
            pages.pages.insert("/".to_owned(), Arc::new(self.page(JSON, Bytes::from(index.to_string()))));
        }
        pages
    }

    fn bundle(&mut self, td: &TrustDomain, keys: BundleKeys, now: SystemTime) -> Page {
        let last = self.sequences.get(td);
        let sequence = match last {
            Some((shown, sequence)) if *shown == keys => *sequence,
            _ => next_sequence(last.map(|(_, sequence)| *sequence), now),
        };
        if last.is_none_or(|(_, shown)| *shown != sequence) {
            tracing::info!(trust_domain = %td, sequence, "bundle document changed");
            if keys.unusable() > 0 {
                let left_out = keys.unusable();
                tracing::warn!(trust_domain = %td, left_out, "authorities left out of the bundle document, their keys cannot be written as jwk");
            }
        }
        let page = self.page(JSON, jwks::spiffe_bundle(&keys, sequence, self.refresh_hint));
        self.sequences.insert(td.clone(), (keys, sequence));
        page
    }

    fn page(&self, content_type: HeaderValue, body: Bytes) -> Page {
        let etag = format!("\"{}\"", Version::digest([body.as_ref()]));
        // Hexadecimal digits and quotes are legal in a header.
        let etag = HeaderValue::try_from(etag).unwrap_or(HeaderValue::from_static("\"\""));
        Page { content_type, etag, cache_control: self.cache_control.clone(), body }
    }
}

impl Pages {
    /// Adds a document of one trust domain, under the short name too if the domain is our own. Returns its path.
    fn add(&mut self, kind: &str, td: &TrustDomain, known: &Known, page: Page) -> Value {
        let page = Arc::new(page);
        if known.own.as_ref() == Some(td) {
            self.pages.insert(format!("/{kind}"), page.clone());
        }
        let path = format!("/{kind}/{td}");
        self.pages.insert(path.clone(), page);
        path.into()
    }
}

/// A number that is larger than any before it: the milliseconds since 1970, so that it grows over a restart without
/// anything being kept, and one more than the last where the clock has not moved (or moved back). Needs no more than
/// the 53 bits that every JSON parser reads exactly.
fn next_sequence(last: Option<u64>, now: SystemTime) -> u64 {
    let millis = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    let millis = u64::try_from(millis).unwrap_or(u64::MAX);
    last.map_or(millis, |last| millis.max(last.saturating_add(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn td() -> TrustDomain {
        TrustDomain::new("example.org").unwrap()
    }

    fn known(kids: &[&str]) -> Known {
        let key = |kid: &&str| json!({"kty": "EC", "kid": kid, "crv": "P-256", "x": "Xx", "y": "Yy"});
        let jwt = JwtBundle::new(td(), kids.iter().map(key).collect());
        Known {
            own: Some(td()),
            x509: Some(BTreeMap::new()),
            jwt: Some([(td(), Arc::new(jwt))].into()),
            waits_for_jwt: false,
            unreadable: BTreeSet::new(),
        }
    }

    fn body(pages: &Pages, path: &str) -> Value {
        match pages.find(path) {
            Found::Page(page) => serde_json::from_slice(&page.body).unwrap(),
            found => panic!("{path}: {found:?}"),
        }
    }

    fn etag(pages: &Pages, path: &str) -> HeaderValue {
        match pages.find(path) {
            Found::Page(page) => page.etag.clone(),
            found => panic!("{path}: {found:?}"),
        }
    }

    #[test]
    fn the_sequence_grows_with_every_change_and_never_otherwise() {
        let mut renderer = Renderer::new(Duration::from_secs(60));
        let mut sequence = |known: &Known, millis| {
            let now = UNIX_EPOCH + Duration::from_millis(millis);
            body(&renderer.render(known, now), "/bundle")["spiffe_sequence"].as_u64().unwrap()
        };
        assert_eq!(sequence(&known(&["a"]), 1_000_000), 1_000_000);
        assert_eq!(sequence(&known(&["a"]), 2_000_000), 1_000_000, "the same keys");
        assert_eq!(sequence(&known(&["a", "b"]), 2_000_000), 2_000_000);
        assert_eq!(sequence(&known(&["b"]), 2_000_000), 2_000_001, "within one millisecond");
        assert_eq!(sequence(&known(&["a"]), 7), 2_000_002, "a clock that was set back");
    }

    #[test]
    fn a_withdrawn_domain_is_closed_and_goes_on_counting_when_it_comes_back() {
        let mut renderer = Renderer::new(Duration::from_secs(60));
        let gone = Known { jwt: None, ..known(&[]) };
        let now = UNIX_EPOCH + Duration::from_millis(5);
        assert!(matches!(renderer.render(&gone, now).find("/jwks/example.org"), Found::NotYet), "never seen");
        renderer.render(&known(&["a"]), now);
        let closed = renderer.render(&gone, now);
        assert_eq!(body(&closed, "/jwks/example.org")["keys"][0]["kid"], "nobody");
        assert_eq!(body(&closed, "/jwks"), body(&closed, "/jwks/example.org"), "the short path too");
        assert_eq!(body(&closed, "/")["jwks"], json!({}));
        let bundle = json!({"keys": [], "spiffe_sequence": 6, "spiffe_refresh_hint": 60});
        assert_eq!(body(&closed, "/bundle/example.org"), bundle);
        assert_eq!(body(&closed, "/")["bundles"], json!({}));
        assert_eq!(body(&renderer.render(&known(&["b"]), now), "/bundle")["spiffe_sequence"], 7);
    }

    /// One domain whose keys cannot be read takes nothing from another, and is not said to have none.
    #[test]
    fn keys_that_cannot_be_read_are_unknown_and_not_absent() {
        let other = TrustDomain::new("partner.org").unwrap();
        let mut known = known(&["a"]);
        known.x509 =
            Some([&td(), &other].map(|td| (td.clone(), Arc::new(TrustBundle::new(td.clone(), vec![])))).into());
        let render = |known: &Known| Renderer::new(Duration::from_secs(60)).render(known, UNIX_EPOCH);
        let paths = |domain: &str| [format!("/jwks/{domain}"), format!("/bundle/{domain}")];
        known.unreadable = [other.clone()].into();
        let pages = render(&known);
        for path in paths("partner.org") {
            assert!(matches!(pages.find(&path), Found::NotYet), "{path}");
        }
        for path in paths("example.org").iter().map(String::as_str).chain(["/jwks", "/bundle"]) {
            assert_eq!(body(&pages, path)["keys"][0]["kid"], "a", "{path}");
        }
        assert_eq!(body(&pages, "/")["bundles"], json!({"example.org": "/bundle/example.org"}));
        let own = Known { jwt: Some([(other, Arc::new(JwtBundle::new(td(), vec![])))].into()), ..known };
        let pages = render(&Known { unreadable: [td()].into(), ..own });
        for path in paths("example.org").iter().map(String::as_str).chain(["/jwks", "/bundle"]) {
            assert!(matches!(pages.find(path), Found::NotYet), "{path}");
        }
        assert!(matches!(pages.find("/bundle/partner.org"), Found::Page(_)));
    }

    #[test]
    fn tags_follow_the_bytes_on_every_replica() {
        let now = UNIX_EPOCH;
        let render = |kids: &[&str]| Renderer::new(Duration::from_secs(60)).render(&known(kids), now);
        assert_eq!(etag(&render(&["a", "b"]), "/jwks"), etag(&render(&["b", "a"]), "/jwks"));
        assert_ne!(etag(&render(&["a"]), "/jwks"), etag(&render(&["b"]), "/jwks"));
    }
}
