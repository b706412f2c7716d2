//! What was good before, in place of what is not.

use std::sync::Arc;

use serde_json::Value;

use crate::{
    identity::{JwtBundle, RefusedItem},
    source::decode::jwt::{JwtBundles, JwtKeys},
};

/// Puts into `keys` what was known of everything that is left out: the keys of a trust domain of which none can be used,
/// and single ones. Of `before` the first that knows counts.
pub(super) fn last_good(keys: &mut JwtKeys, before: [&JwtBundles; 2]) {
    for domain in keys.unusable.keys() {
        let Some(known) = before.into_iter().find_map(|known| known.get(domain)) else { continue };
        keys.bundles.insert(domain.clone(), known.clone());
        let item = RefusedItem::jwt_bundle(domain.as_ref());
        let refusals = keys.refusals.iter_mut().filter(|refusal| refusal.item == item);
        refusals.for_each(|refusal| refusal.kept = true);
    }
    for refusal in &mut keys.refusals {
        let RefusedItem::JwtKey { trust_domain, .. } = &refusal.item else { continue };
        let is_it = |key: &&Value| RefusedItem::jwt_key(trust_domain.clone(), name(key)) == refusal.item;
        let known = before.into_iter().filter_map(|known| known.get(trust_domain));
        let Some(known) = known.flat_map(|bundle| bundle.keys()).find(is_it) else { continue };
        let Some(now) = keys.bundles.get(trust_domain) else { continue };
        match now.keys().iter().find(|key| name(key) == name(known)) {
            Some(key) => refusal.kept = key == known,
            None => {
                let all = now.keys().iter().chain([known]).cloned().collect();
                keys.bundles.insert(trust_domain.clone(), Arc::new(JwtBundle::new(trust_domain.clone(), all)));
                refusal.kept = true;
            }
        }
    }
}

fn name(key: &Value) -> &str {
    key.get("kid").and_then(Value::as_str).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        identity::{Refusal, TrustDomain},
        source::decode::jwt::JwksError,
    };

    fn td(name: &str) -> TrustDomain {
        TrustDomain::new(name).unwrap()
    }

    fn bundles(all: &[(&str, &[(&str, u32)])]) -> JwtBundles {
        let bundle = |(domain, keys): &(&str, &[(&str, u32)])| {
            let keys = keys.iter().map(|(kid, x)| json!({"kid": kid, "x": x})).collect();
            (td(domain), Arc::new(JwtBundle::new(td(domain), keys)))
        };
        all.iter().map(bundle).collect()
    }

    #[test]
    fn the_last_good_set_stays_for_one_that_cannot_be_used() {
        let before = bundles(&[("a", &[("1", 1)]), ("b", &[("1", 1)]), ("gone", &[("1", 1)])]);
        let former = bundles(&[("b", &[("1", 7)]), ("c", &[("1", 7)])]);
        let unusable = ["b", "c", "never"].map(|name| (td(name), JwksError::NotASet));
        let refusals = ["b", "c", "never"].map(|name| Refusal::new(RefusedItem::jwt_bundle(name), "bad"));
        let mut keys =
            JwtKeys { bundles: bundles(&[("a", &[("2", 2)])]), unusable: unusable.into(), refusals: refusals.into() };
        last_good(&mut keys, [&before, &former]);
        let expected = bundles(&[("a", &[("2", 2)]), ("b", &[("1", 1)]), ("c", &[("1", 7)])]);
        assert_eq!(keys.bundles, expected, "what is absent is withdrawn");
        assert_eq!(keys.refusals.iter().map(|refusal| refusal.kept).collect::<Vec<_>>(), [true, true, false]);
    }

    #[test]
    fn the_last_good_key_stays_for_one_that_cannot_be_used() {
        let before = bundles(&[("a", &[("1", 1), ("2", 2), ("3", 3), ("4", 4)])]);
        let refusals = ["1", "2", "3", "9"].map(|kid| Refusal::new(RefusedItem::jwt_key(td("a"), kid), "bad"));
        let now = bundles(&[("a", &[("2", 2), ("3", 33), ("5", 5)])]);
        let mut keys = JwtKeys { bundles: now, refusals: refusals.into(), ..JwtKeys::default() };
        last_good(&mut keys, [&before, &JwtBundles::new()]);
        let expected = bundles(&[("a", &[("1", 1), ("2", 2), ("3", 33), ("5", 5)])]);
        assert_eq!(keys.bundles, expected, "1 is the last good one, 4 is withdrawn, and no kid is there twice");
        assert_eq!(keys.refusals.iter().map(|refusal| refusal.kept).collect::<Vec<_>>(), [true, true, false, false]);
    }
}
