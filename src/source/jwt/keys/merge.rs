//! The keys of several sources side by side, one bundle a trust domain.

use std::{collections::BTreeSet, sync::Arc};

use serde_json::Value;

use crate::{identity::JwtBundle, source::decode::jwt::JwtBundles};

/// The keys of `first`, and of the others those whose name is not taken: a verifier looks keys up by `kid`, so no
/// name may mean two of them.
pub(super) fn merged<'a>(first: &JwtBundles, others: impl IntoIterator<Item = &'a JwtBundles>) -> JwtBundles {
    let mut all = first.clone();
    for (trust_domain, bundle) in others.into_iter().flatten() {
        let Some(present) = all.get_mut(trust_domain) else {
            all.insert(trust_domain.clone(), bundle.clone());
            continue;
        };
        let taken: BTreeSet<Option<&str>> = present.keys().iter().map(name).collect();
        let more = bundle.keys().iter().filter(|key| !taken.contains(&name(key)));
        let keys: Vec<Value> = present.keys().iter().chain(more).cloned().collect();
        if keys.len() > present.keys().len() {
            *present = Arc::new(JwtBundle::new(trust_domain.clone(), keys));
        }
    }
    all
}

fn name(key: &Value) -> Option<&str> {
    key.get("kid").and_then(Value::as_str)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::identity::TrustDomain;

    fn bundles(all: &[(&str, &[(&str, &str)])]) -> JwtBundles {
        let bundle = |(domain, keys): &(&str, &[(&str, &str)])| {
            let td = TrustDomain::new(domain).unwrap();
            let keys = keys.iter().map(|(kid, x)| json!({"kid": kid, "x": x})).collect();
            (td.clone(), Arc::new(JwtBundle::new(td, keys)))
        };
        all.iter().map(bundle).collect()
    }

    #[test]
    fn each_trust_domain_for_itself_and_no_name_twice() {
        let ours = bundles(&[("a", &[("1", "ours"), ("2", "ours")])]);
        let theirs = bundles(&[("a", &[("2", "theirs"), ("3", "theirs")]), ("b", &[("1", "theirs")])]);
        let both = bundles(&[("a", &[("1", "ours"), ("2", "ours"), ("3", "theirs")]), ("b", &[("1", "theirs")])]);
        assert_eq!(merged(&ours, [&theirs]), both);
        assert_eq!(merged(&ours, [&ours]), ours);
    }
}
