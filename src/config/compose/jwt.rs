//! The tokens to serve.

use std::collections::BTreeSet;

use super::{Compose, raw, scalar};
use crate::{
    identity::{JwtRequest, JwtSubject},
    source::{Config as Source, jwt},
};

impl Compose {
    pub(super) fn jwt(&mut self, raw: raw::Jwt) -> jwt::Config {
        let mut svids = BTreeSet::new();
        for (index, svid) in raw.svids.unwrap_or_default().into_iter().enumerate() {
            let key = format!("jwt.svids[{index}]");
            let Some(request) = self.jwt_request(&key, svid) else { continue };
            if !svids.insert(request) {
                self.complain(&key, "asks for the same token as an earlier item; remove one of them");
            }
        }
        jwt::Config { svids, ..jwt::Config::default() }
    }

    /// Files hold no tokens. Where nothing else could give any, nobody shall wait for them.
    pub(super) fn tokens_from_files(&mut self, sources: &[Source], served: &jwt::Config, outputs: &[raw::Output]) {
        if sources.is_empty() || sources.iter().any(|source| !matches!(source, Source::Files(_))) {
            return;
        }
        let written = outputs.iter().enumerate().filter(|(_, output)| output.jwt_svids.is_some());
        let written = written.map(|(index, _)| format!("outputs[{index}].jwt_svids"));
        for key in (!served.svids.is_empty()).then(|| "jwt.svids".to_owned()).into_iter().chain(written) {
            let fix = "`source.files` holds no tokens; add a `source.workload_api`, or remove this key";
            self.complain(&key, format!("cannot be had: {fix}"));
        }
    }

    pub(super) fn jwt_request(&mut self, key: &str, raw: raw::JwtSvid) -> Option<JwtRequest> {
        let sound = self.is_sound(key);
        let mut audience = BTreeSet::new();
        for (index, raw::Audience(text)) in raw.audience.unwrap_or_default().into_iter().enumerate() {
            let key = format!("{key}.audience[{index}]");
            if !sound && text.is_empty() {
                // Complained about by the schema, which left a gap behind.
                continue;
            }
            let text = self.parse(&key, Some(text), |text| scalar::audience(&text))?;
            if !audience.insert(text) {
                self.complain(&key, "is written twice; remove one of them");
            }
        }
        if audience.is_empty() && sound {
            self.complain(key, "has no `audience`; write for whom the token is");
        }
        let given = (raw.id.is_some(), raw.hint.is_some());
        let id = self.parse(&format!("{key}.id"), raw.id, |text| scalar::spiffe_id(&text));
        let hint = self.parse(&format!("{key}.hint"), raw.hint, |text| scalar::hint(&text));
        let subject = match given {
            (true, true) => {
                self.complain(key, "has both `id` and `hint`; keep the one that says whose the token is");
                return None;
            }
            (true, false) => JwtSubject::Id(id?),
            (false, true) => JwtSubject::Hint(hint?),
            (false, false) => JwtSubject::Default,
        };
        self.is_sound(key).then_some(JwtRequest { subject, audience })
    }
}
