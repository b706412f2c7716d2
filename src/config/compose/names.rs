//! Names: the three that always mean something, the operator's own, and which of them are answered.

use std::{collections::BTreeSet, str::FromStr, time::Duration};

use super::{Compose, SECOND};
use crate::{
    config::{quoted, raw, scalar},
    identity::JwtRequest,
    secret::{
        self, CrlPolicy, DefaultIdentity, Flavour, NameTable, Naming, Pattern, Template,
        table::{Entry, Fault, Field, SanKind, SanRule, SubjectAltName, TableError, Wanted, WantedContext},
    },
};

impl Compose {
    pub(super) fn secrets(&mut self, raw: raw::Secrets, tokens: &BTreeSet<JwtRequest>) -> secret::Config {
        let default = secret::Config::default();
        let naming = self.naming(&raw);
        let hold = Duration::ZERO..=10 * SECOND;
        let files = self.asked_files(raw.files);
        if files.is_open() {
            self.names_of_files(&naming, raw.names.as_deref().unwrap_or_default());
        }
        secret::Config {
            names: self.names(raw.names.unwrap_or_default(), &naming, tokens),
            naming,
            files,
            default_identity: self.default_identity(raw.default_identity),
            allowed: raw.allowed_names.map(|patterns| self.allowed(&patterns)),
            crls: match raw.crls.as_deref() {
                Some("always") => CrlPolicy::Always,
                Some("never") => CrlPolicy::Never,
                // Anything else was refused by the schema.
                _ => CrlPolicy::Complete,
            },
            disable_spiffe_cert_validation: raw
                .disable_spiffe_cert_validation
                .unwrap_or(default.disable_spiffe_cert_validation),
            jwt_svids: tokens.clone(),
            wildcard: raw.wildcard.unwrap_or(default.wildcard),
            rollout_hold: self.duration("secrets.rollout_hold", raw.rollout_hold, default.rollout_hold, hold),
            rollout_max_wait: self.duration(
                "secrets.rollout_max_wait",
                raw.rollout_max_wait,
                default.rollout_max_wait,
                Duration::ZERO..=60 * SECOND,
            ),
        }
    }

    fn naming(&mut self, raw: &raw::Secrets) -> Naming {
        let default = Naming::default();
        let svid_key = "secrets.default_svid_name";
        let mut name = |key: &str, value: &Option<String>, default: String| {
            self.parse(key, value.as_deref(), scalar::name).unwrap_or(default)
        };
        let naming = Naming {
            default_svid: name(svid_key, &raw.default_svid_name, default.default_svid),
            default_bundle: name("secrets.default_bundle_name", &raw.default_bundle_name, default.default_bundle),
            all_bundles: name("secrets.default_all_bundles_name", &raw.default_all_bundles_name, default.all_bundles),
        };
        // Two names for bundles may be equal, as in SPIRE: the one for our own bundle then wins. A certificate and a
        // bundle are different kinds of secret, and Envoy would refuse one of them.
        let bundles =
            [("default_bundle_name", &naming.default_bundle), ("default_all_bundles_name", &naming.all_bundles)];
        for (other, _) in bundles.into_iter().filter(|(_, bundle)| **bundle == naming.default_svid) {
            let written = [svid_key.to_owned(), format!("secrets.{other}")];
            let at = written.iter().find(|key| self.places.contains_key(*key)).cloned().unwrap_or_default();
            let rival = if at == svid_key { other } else { "default_svid_name" };
            let value = quoted(&naming.default_svid);
            self.complain(&at, format!("{value} is the value of `{rival}` too; a certificate needs a name of its own"));
        }
        naming
    }

    fn default_identity(&mut self, raw: raw::DefaultIdentity) -> DefaultIdentity {
        let key = "secrets.default_identity";
        let given = [&raw.spiffe_id, &raw.pattern, &raw.hint].into_iter().flatten().count();
        if given > 1 {
            self.complain(key, "has more than one of `spiffe_id`, `pattern` and `hint`; keep one");
        }
        let id = self.parse(&format!("{key}.spiffe_id"), raw.spiffe_id, |text| scalar::spiffe_id(&text));
        let pattern = self.parse(&format!("{key}.pattern"), raw.pattern, |text| parsed::<Pattern>(&text));
        let hint = self.parse(&format!("{key}.hint"), raw.hint, |text| scalar::hint(&text));
        let id = id.map(DefaultIdentity::Id);
        id.or(pattern.map(DefaultIdentity::Pattern))
            .or(hint.map(|hint| DefaultIdentity::Hint(hint.as_str().to_owned())))
            .unwrap_or_default()
    }

    fn allowed(&mut self, patterns: &[String]) -> Vec<Pattern> {
        let key = |at: usize| format!("secrets.allowed_names[{at}]");
        let patterns = patterns.iter().enumerate();
        patterns.filter_map(|(at, text)| self.parse(&key(at), Some(text.as_str()), parsed)).collect()
    }

    fn names(&mut self, raw: Vec<raw::Name>, naming: &Naming, tokens: &BTreeSet<JwtRequest>) -> NameTable {
        let mut places = Vec::new();
        let mut entries = Vec::new();
        let mut sound = true;
        for (at, name) in raw.into_iter().enumerate() {
            // What is wrong with one entry must not hide what is wrong with the others.
            match self.entry(&format!("secrets.names[{at}]"), name) {
                Some(entry) => {
                    places.push(at);
                    entries.push(entry);
                }
                None => sound = false,
            }
        }
        match NameTable::new(entries, naming) {
            Ok(table) if sound => {
                self.unknown_tokens(&table, tokens);
                table
            }
            Ok(_) => NameTable::default(),
            Err(faults) => {
                faults.into_iter().for_each(|fault| self.fault(&fault, &places));
                NameTable::default()
            }
        }
    }

    fn unknown_tokens(&mut self, table: &NameTable, tokens: &BTreeSet<JwtRequest>) {
        let unknown = table.tokens().filter(|(_, request)| !tokens.contains(*request));
        let unknown: Vec<_> = unknown.map(|(name, _)| name.to_owned()).collect();
        for name in unknown {
            let message = format!("{} stands for a token that `jwt.svids` does not have; add it there", quoted(&name));
            self.complain("secrets.names", message);
        }
    }

    /// `places` has each entry's position in the file.
    fn fault(&mut self, fault: &Fault, places: &[usize]) {
        let place = |entry: usize| format!("secrets.names[{}]", places.get(entry).copied().unwrap_or(entry));
        let entry = place(fault.entry);
        let key = match fault.field {
            Field::Name => format!("{entry}.name"),
            Field::Svid => format!("{entry}.svid"),
            Field::Jwt => format!("{entry}.jwt"),
            Field::Bundle(Some(at)) if self.places.contains_key(&format!("{entry}.bundle[{at}]")) => {
                format!("{entry}.bundle[{at}]")
            }
            Field::Bundle(_) => format!("{entry}.bundle"),
            Field::SubjectAltName(at) => format!("{entry}.match_subject_alt_names[{at}]"),
        };
        let earlier = |at: usize| {
            let origin = self.places.get(&format!("{}.name", place(at)));
            origin.map_or_else(|| place(at), |origin| format!("the entry at {origin}"))
        };
        let message = match &fault.error {
            TableError::Duplicate(first) => format!("is the name of {} too; remove one of them", earlier(*first)),
            TableError::Refers(other) => format!(
                "is the name of {}; a name stands for an identity or a trust domain, not for another name",
                earlier(*other)
            ),
            error => error.to_string(),
        };
        // What does not fit the schema was complained about, and left something empty behind.
        if self.is_sound(&key) {
            self.complain(&key, message);
        }
    }

    fn entry(&mut self, key: &str, raw: raw::Name) -> Option<Entry> {
        if raw.name.is_none() && self.is_sound(key) {
            self.complain(key, "has no `name`; write the name that Envoy asks for");
        }
        let only_bundle = [
            ("flavour", raw.flavour.is_some()),
            ("match_subject_alt_names", raw.match_subject_alt_names.is_some()),
            ("suppress_client_ca_list", raw.suppress_client_ca_list.is_some()),
        ];
        let name = self.parse(&format!("{key}.name"), raw.name, |text| parsed::<Template>(&text));
        let given = [raw.svid.is_some(), raw.bundle.is_some(), raw.jwt.is_some()];
        if given.iter().filter(|given| **given).count() > 1 {
            self.complain(
                key,
                "has more than one of `svid`, `bundle` and `jwt`; make them entries with names of their own",
            );
            return None;
        }
        if raw.bundle.is_none() {
            for (other, _) in only_bundle.into_iter().filter(|(_, given)| *given) {
                self.complain(&format!("{key}.{other}"), "is about trust; it goes with `bundle` only");
            }
        }
        let wanted = match (raw.svid, raw.jwt, raw.bundle) {
            (Some(svid), ..) => self.parse(&format!("{key}.svid"), Some(svid), |text| parsed(&text)).map(Wanted::Svid),
            (_, Some(jwt), _) => self.parse(&format!("{key}.jwt"), Some(jwt), |text| parsed(&text)).map(Wanted::Jwt),
            (.., Some(bundle)) => {
                let bundles = self.trust_domains(&format!("{key}.bundle"), bundle);
                let sans = raw.match_subject_alt_names.map(|sans| self.sans(key, sans));
                let flavour = match raw.flavour.as_deref() {
                    Some("spiffe") => Some(Flavour::Spiffe),
                    Some("plain") => Some(Flavour::Plain),
                    _ => None,
                };
                let suppress_client_ca_list = raw.suppress_client_ca_list.unwrap_or_default();
                let subject_alt_names = sans.unwrap_or_else(|| Some(Vec::new()));
                bundles.zip(subject_alt_names).map(|(bundles, subject_alt_names)| {
                    Wanted::Context(WantedContext { bundles, flavour, subject_alt_names, suppress_client_ca_list })
                })
            }
            (None, None, None) => {
                if self.is_sound(key) {
                    self.complain(key, "has none of `svid`, `bundle` and `jwt`; write what the name stands for");
                }
                None
            }
        };
        Some(Entry { name: name?, wanted: wanted? })
    }

    /// `None` when one of them is wrong, and then it was complained about.
    fn trust_domains(&mut self, key: &str, raw: raw::OneOrMore) -> Option<Vec<Template>> {
        let texts = match raw {
            raw::OneOrMore::One(text) => return self.parse(key, Some(text), |text| parsed(&text)).map(|one| vec![one]),
            raw::OneOrMore::More(texts) => texts,
        };
        let count = texts.len();
        let texts = texts.into_iter().enumerate();
        let bundles: Vec<_> = texts
            .filter_map(|(at, text)| self.parse(&format!("{key}[{at}]"), Some(text), |text| parsed(&text)))
            .collect();
        (bundles.len() == count).then_some(bundles)
    }

    fn sans(&mut self, entry: &str, raw: Vec<raw::SubjectAltName>) -> Option<Vec<SubjectAltName<Template>>> {
        let count = raw.len();
        let key = |at: usize| format!("{entry}.match_subject_alt_names[{at}]");
        let sans: Vec<_> = raw.into_iter().enumerate().filter_map(|(at, san)| self.san(&key(at), san)).collect();
        (sans.len() == count).then_some(sans)
    }

    fn san(&mut self, key: &str, raw: raw::SubjectAltName) -> Option<SubjectAltName<Template>> {
        let kinds = [
            ("uri", SanKind::Uri, raw.uri),
            ("dns", SanKind::Dns, raw.dns),
            ("email", SanKind::Email, raw.email),
            ("ip_address", SanKind::IpAddress, raw.ip_address),
        ];
        let (word, kind, matcher) = self.one_of(key, kinds)?;
        let key = format!("{key}.{word}");
        let rules = [
            ("exact", SanRule::Exact, matcher.exact),
            ("prefix", SanRule::Prefix, matcher.prefix),
            ("suffix", SanRule::Suffix, matcher.suffix),
            ("contains", SanRule::Contains, matcher.contains),
            ("regex", SanRule::Regex, matcher.regex),
        ];
        let (word, rule, value) = self.one_of(&key, rules)?;
        let value = self.parse(&format!("{key}.{word}"), Some(value), |text| parsed(&text))?;
        Some(SubjectAltName { kind, rule, value })
    }

    /// The only one of these keys that is written; anything else is complained about.
    fn one_of<K, V, const N: usize>(
        &mut self,
        key: &str,
        from: [(&'static str, K, Option<V>); N],
    ) -> Option<(&'static str, K, V)> {
        let words = from.each_ref().map(|(word, ..)| format!("`{word}`")).join(", ");
        let mut given: Vec<_> = from.into_iter().filter_map(|(word, what, value)| Some((word, what, value?))).collect();
        if given.len() > 1 {
            self.complain(key, format!("has more than one of {words}; keep one"));
        } else if given.is_empty() && self.is_sound(key) {
            self.complain(key, format!("has none of {words}; write one"));
        }
        if given.len() == 1 { given.pop() } else { None }
    }
}

/// A text as the type that knows its grammar, whose errors say the fix.
fn parsed<T: FromStr<Err: std::fmt::Display>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|error: T::Err| error.to_string())
}
