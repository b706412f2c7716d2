//! Tokens and the keys that verify them. The tokens themselves are shown to nobody.

use std::time::SystemTime;

use serde::Serialize;

use super::{State, left, table, time};
use crate::{
    admin::view::LeftOut,
    identity::{JwtBundle, JwtRequest, JwtSvid},
    printable,
    secret::{JwtName, TokenForm},
    source::decode::jwt::JwtKeys,
};

/// What came of asking for one token.
pub(in crate::cli::check) type Asked = (JwtRequest, Result<JwtSvid, String>);

/// Everything about tokens that a source gave.
#[derive(Debug, Serialize)]
pub(super) struct Tokens {
    jwt_svids: Vec<TokenRow>,
    jwt_keys: Vec<KeysRow>,
    /// Why there are no keys.
    #[serde(skip_serializing_if = "Option::is_none")]
    jwt_keys_error: Option<String>,
    /// Keys that the source sends and that are left out, single ones and whole sets.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    jwt_keys_refused: Vec<LeftOut>,
}

#[derive(Debug, Serialize)]
struct TokenRow {
    /// The name that Envoy can ask for; also with `jwt-bearer` in front.
    name: String,
    spiffe_id: Option<String>,
    not_after: Option<String>,
    expires_in_seconds: Option<u64>,
    state: Option<State>,
    /// Why there is none.
    error: Option<String>,
}

#[derive(Debug, Serialize)]
struct KeysRow {
    trust_domain: String,
    kids: Vec<String>,
    state: State,
}

impl Tokens {
    pub(super) fn new(asked: &[Asked], keys: &Result<JwtKeys, String>, now: SystemTime) -> Self {
        let known = keys.as_ref().ok();
        let bundles = known.iter().flat_map(|keys| keys.bundles.values());
        let refusals = known.iter().flat_map(|keys| &keys.refusals);
        Self {
            jwt_svids: asked.iter().map(|it| TokenRow::new(it, now)).collect(),
            jwt_keys: bundles.map(|bundle| KeysRow::new(bundle)).collect(),
            jwt_keys_error: keys.as_ref().err().cloned(),
            jwt_keys_refused: refusals.map(LeftOut::from).collect(),
        }
    }

    /// Whether every token is there, and every key that the source sends can be used.
    pub(super) fn is_good(&self) -> bool {
        let usable = |state| matches!(state, Some(State::Valid | State::Expiring));
        let keys = self.jwt_keys_error.is_none() && self.jwt_keys_refused.is_empty();
        keys && self.jwt_svids.iter().all(|token| usable(token.state))
    }

    pub(super) fn tables(&self) -> String {
        let tokens = self.jwt_svids.iter().map(|token| {
            let cells = [
                token.name.clone(),
                token.spiffe_id.clone().unwrap_or_default(),
                token.not_after.clone().unwrap_or_default(),
                token.expires_in_seconds.map(left).unwrap_or_default(),
                token.error.clone().or_else(|| token.state.map(|state| state.text().to_owned())).unwrap_or_default(),
            ];
            (token.state.unwrap_or(State::Empty), cells.to_vec())
        });
        let keys = self.jwt_keys.iter().map(|keys| {
            let cells = [format!("spiffe://{}", keys.trust_domain), keys.kids.join(", "), keys.state.text().to_owned()];
            (keys.state, cells.to_vec())
        });
        let header = ["NAME", "SPIFFE ID", "NOT AFTER", "LEFT", "STATE"];
        let tokens = table("JWT-SVIDs", &header, tokens.collect());
        let mut text = tokens + "\n" + &table("JWT keys", &["TRUST DOMAIN", "KEY IDS", "STATE"], keys.collect());
        let bad = State::Expired.style();
        if let Some(error) = &self.jwt_keys_error {
            text.push_str(&format!("{bad}{}{bad:#}\n", printable::line(error)));
        }
        for refused in &self.jwt_keys_refused {
            let said = format!("left out: {} ({})", refused.item, refused.reason);
            text.push_str(&format!("{bad}{}{bad:#}\n", printable::line(&said)));
        }
        text
    }
}

impl TokenRow {
    fn new((request, answer): &Asked, now: SystemTime) -> Self {
        let name = JwtName { form: TokenForm::Raw, request: request.clone() }.to_string();
        let svid = answer.as_ref().ok();
        let validity = svid.map(|svid| svid.validity);
        Self {
            name,
            spiffe_id: svid.map(|svid| svid.id.to_string()),
            not_after: validity.map(|validity| time(validity.not_after)),
            expires_in_seconds: validity.map(|validity| validity.remaining(now).as_secs()),
            state: validity.map(|validity| State::of(validity.not_before, validity.not_after, now)),
            error: answer.as_ref().err().cloned(),
        }
    }
}

impl KeysRow {
    fn new(bundle: &JwtBundle) -> Self {
        let kid = |key: &serde_json::Value| key.get("kid").and_then(|kid| kid.as_str()).unwrap_or_default().to_owned();
        let kids: Vec<_> = bundle.keys().iter().map(kid).collect();
        let state = if kids.is_empty() { State::Empty } else { State::Valid };
        Self { trust_domain: bundle.trust_domain().to_string(), kids, state }
    }
}
