//! A snapshot for people (tables) and scripts (JSON). Pure: the time is a parameter.

mod jwt;
mod trouble;

pub(super) use jwt::Asked;
use trouble::Trouble;

use std::time::{Duration, SystemTime};

use anstyle::{AnsiColor, Style};
use comfy_table::{Table, presets};
use serde::Serialize;

use crate::{
    identity::{IdentitySnapshot, Svid, TrustBundle, Validity},
    printable,
    secret::{DefaultIdentity, Naming},
    source::decode::jwt::JwtKeys,
};

const HEADER: Style = Style::new().bold();
const TITLE: Style = AnsiColor::Green.on_default().bold();

/// Everything a source gave, as it would be served.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// RFC 3339, like every time here.
    at: String,
    /// In order of preference. The first one that is not down is what would be in service.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    sources: Vec<SourceRow>,
    svids: Vec<SvidRow>,
    bundles: Vec<BundleRow>,
    /// Certificate revocation lists.
    crls: usize,
    #[serde(flatten)]
    trouble: Trouble,
    /// Absent where no token is configured.
    #[serde(flatten)]
    tokens: Option<jwt::Tokens>,
}

/// One of the sources.
#[derive(Debug, Serialize)]
pub(super) struct SourceRow {
    name: String,
    /// `active`, `standby` or `down`.
    state: &'static str,
    error: Option<String>,
}

#[derive(Debug, Serialize)]
struct SvidRow {
    spiffe_id: String,
    /// The names that Envoy can ask for, besides the SPIFFE ID.
    aliases: Vec<String>,
    hint: Option<String>,
    /// Hexadecimal, as OpenSSL prints it.
    serial: Option<String>,
    /// Certificates, the leaf included.
    chain_length: usize,
    not_before: String,
    not_after: String,
    expires_in_seconds: u64,
    state: State,
}

#[derive(Debug, Serialize)]
struct BundleRow {
    trust_domain: String,
    aliases: Vec<String>,
    authorities: Vec<AuthorityRow>,
    state: State,
}

#[derive(Debug, Serialize)]
struct AuthorityRow {
    subject: String,
    serial: String,
    not_after: String,
    expires_in_seconds: u64,
}

/// What the validity says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
enum State {
    Valid,
    /// Less than a third of its life is left: a source that renews in time has renewed by then.
    Expiring,
    NotYetValid,
    Expired,
    /// A bundle without authorities trusts nobody.
    Empty,
}

impl State {
    fn of(not_before: SystemTime, not_after: SystemTime, now: SystemTime) -> Self {
        let life = not_after.duration_since(not_before).unwrap_or_default();
        let left = not_after.duration_since(now);
        match left {
            Err(_) => Self::Expired,
            Ok(_) if now < not_before => Self::NotYetValid,
            Ok(left) if left < life / 3 => Self::Expiring,
            Ok(_) => Self::Valid,
        }
    }

    fn text(self) -> &'static str {
        match self {
            Self::Valid => "valid",
            Self::Expiring => "expiring",
            Self::NotYetValid => "not yet valid",
            Self::Expired => "expired",
            Self::Empty => "empty",
        }
    }

    fn style(self) -> Style {
        match self {
            Self::Valid => Style::new(),
            Self::Expiring => AnsiColor::Yellow.on_default(),
            Self::NotYetValid | Self::Expired | Self::Empty => AnsiColor::Red.on_default(),
        }
    }
}

impl Report {
    pub(super) fn new(
        snapshot: &IdentitySnapshot,
        naming: &Naming,
        default: &DefaultIdentity,
        now: SystemTime,
    ) -> Self {
        let default = default.choose(snapshot);
        let svid = |(index, svid): (usize, &std::sync::Arc<Svid>)| {
            let aliases = if Some(index) == default { vec![naming.default_svid.clone()] } else { Vec::new() };
            SvidRow::new(svid, aliases, now)
        };
        let bundle = |bundle: &std::sync::Arc<TrustBundle>| {
            let own = snapshot.trust_domain.as_ref() == Some(bundle.trust_domain());
            let mut aliases = if own { vec![naming.default_bundle.clone()] } else { Vec::new() };
            // Where the two names are equal, the one for our own bundle wins.
            if naming.all_bundles != naming.default_bundle {
                aliases.push(naming.all_bundles.clone());
            }
            BundleRow::new(bundle, aliases, now)
        };
        Self {
            at: time(now),
            sources: Vec::new(),
            svids: snapshot.svids.iter().enumerate().map(svid).collect(),
            bundles: snapshot.bundles.values().map(bundle).collect(),
            crls: snapshot.crls.len(),
            trouble: Trouble::new(snapshot, now),
            tokens: None,
        }
    }

    /// The same with what came of asking for tokens, and for the keys.
    pub(super) fn tokens(mut self, asked: &[Asked], keys: &Result<JwtKeys, String>, now: SystemTime) -> Self {
        self.tokens = Some(jwt::Tokens::new(asked, keys, now));
        self
    }

    /// With what is known of each source.
    pub(super) fn with_sources(mut self, sources: Vec<SourceRow>) -> Self {
        self.sources = sources;
        self
    }

    /// Whether Envoy could work with this: something to verify with, and nothing that is no longer or not yet valid.
    /// That there is no SVID is what a verifier expects. What is left out is wrong, whatever is served beside it.
    pub(super) fn is_good(&self) -> bool {
        let usable = |state| matches!(state, State::Valid | State::Expiring);
        !self.bundles.is_empty()
            && self.trouble.is_good()
            && self.tokens.as_ref().is_none_or(jwt::Tokens::is_good)
            && self.svids.iter().all(|svid| usable(svid.state))
            && self.bundles.iter().all(|bundle| usable(bundle.state))
    }

    pub(super) fn json(&self) -> serde_json::Result<String> {
        serde_json::to_string_pretty(self).map(|text| text + "\n")
    }

    /// Aligned columns with ANSI colours; whoever prints strips those where they are not wanted.
    pub(super) fn tables(&self) -> String {
        let svids = self.svids.iter().map(|svid| {
            let cells = [
                svid.spiffe_id.clone(),
                svid.aliases.join(", "),
                svid.hint.clone().unwrap_or_default(),
                svid.serial.clone().unwrap_or_default(),
                svid.chain_length.to_string(),
                svid.not_after.clone(),
                left(svid.expires_in_seconds),
                svid.state.text().to_owned(),
            ];
            (svid.state, cells.to_vec())
        });
        let svid_header = ["SPIFFE ID", "ALSO AS", "HINT", "SERIAL", "CHAIN", "NOT AFTER", "LEFT", "STATE"];
        let bundles = self.bundles.iter().map(|bundle| {
            let first = bundle.authorities.iter().min_by_key(|authority| authority.expires_in_seconds);
            let cells = [
                format!("spiffe://{}", bundle.trust_domain),
                bundle.aliases.join(", "),
                bundle.authorities.len().to_string(),
                first.map(|first| first.not_after.clone()).unwrap_or_default(),
                first.map(|first| left(first.expires_in_seconds)).unwrap_or_default(),
                bundle.state.text().to_owned(),
            ];
            (bundle.state, cells.to_vec())
        });
        let bundle_header = ["TRUST DOMAIN", "ALSO IN", "AUTHORITIES", "FIRST NOT AFTER", "LEFT", "STATE"];
        let mut text = self.sources_table();
        text.push_str(&table("X.509-SVIDs", &svid_header, svids.collect()));
        text.push('\n');
        text.push_str(&table("Trust bundles", &bundle_header, bundles.collect()));
        if self.crls > 0 {
            text.push_str(&format!("\n{TITLE}Revocation lists{TITLE:#}\n{}\n", self.crls));
        }
        text.push_str(&self.trouble.tables());
        if let Some(tokens) = &self.tokens {
            text.push('\n');
            text.push_str(&tokens.tables());
        }
        text
    }

    /// Nothing for the usual single source: the rest of the report is about it.
    fn sources_table(&self) -> String {
        if self.sources.len() < 2 {
            return String::new();
        }
        let rows = self.sources.iter().map(|source| {
            let state = if source.error.is_some() { State::Expired } else { State::Valid };
            (state, vec![source.name.clone(), source.state.to_owned(), source.error.clone().unwrap_or_default()])
        });
        table("Sources", &["SOURCE", "STATE", "ERROR"], rows.collect()) + "\n"
    }
}

impl SourceRow {
    /// A source that would be in service, or not needed now, or that failed.
    pub(super) fn new(name: &str, standby: bool, error: Option<String>) -> Self {
        let state = match (&error, standby) {
            (Some(_), _) => "down",
            (None, true) => "standby",
            (None, false) => "active",
        };
        Self { name: name.to_owned(), state, error }
    }
}

impl SvidRow {
    fn new(svid: &Svid, aliases: Vec<String>, now: SystemTime) -> Self {
        let validity = svid.validity;
        Self {
            spiffe_id: svid.id.to_string(),
            aliases,
            hint: svid.hint.as_ref().map(|hint| hint.as_str().to_owned()),
            serial: svid.chain.leaf().facts().map(|leaf| leaf.serial.clone()),
            chain_length: svid.chain.iter().count(),
            not_before: time(validity.not_before),
            not_after: time(validity.not_after),
            expires_in_seconds: validity.remaining(now).as_secs(),
            state: State::of(validity.not_before, validity.not_after, now),
        }
    }
}

impl BundleRow {
    fn new(bundle: &TrustBundle, aliases: Vec<String>, now: SystemTime) -> Self {
        let mut state = None;
        let mut authorities = Vec::new();
        for authority in bundle.authorities() {
            // What cannot be parsed does not get through the decoder.
            let Some(facts) = authority.facts() else { continue };
            let Validity { not_before, not_after } = facts.validity;
            // One good authority is enough: an old one may wait to be retired, a new one to be activated.
            let this = State::of(not_before, not_after, now);
            state = Some(state.map_or(this, |best: State| best.min(this)));
            authorities.push(AuthorityRow {
                subject: facts.subject.clone(),
                serial: facts.serial.clone(),
                not_after: time(not_after),
                expires_in_seconds: not_after.duration_since(now).unwrap_or_default().as_secs(),
            });
        }
        let trust_domain = bundle.trust_domain().to_string();
        Self { trust_domain, aliases, authorities, state: state.unwrap_or(State::Empty) }
    }
}

fn time(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string()
}

/// The two largest units: nobody plans by the seconds of a year.
fn left(seconds: u64) -> String {
    let full = humantime::format_duration(Duration::from_secs(seconds)).to_string();
    full.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

fn table(title: &str, header: &[&str], rows: Vec<(State, Vec<String>)>) -> String {
    if rows.is_empty() {
        return format!("{TITLE}{title}{TITLE:#}\nnone\n");
    }
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header);
    let styles: Vec<_> = rows.iter().map(|(state, _)| state.style()).collect();
    let shown = |cells: Vec<String>| cells.iter().map(|cell| printable::line(cell).into_owned()).collect::<Vec<_>>();
    table.add_rows(rows.into_iter().map(|(_, cells)| shown(cells)));
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let mut text = format!("{TITLE}{title}{TITLE:#}\n");
    for (line, style) in table.lines().zip(std::iter::once(HEADER).chain(styles)) {
        text.push_str(&format!("{style}{}{style:#}\n", line.trim_end()));
    }
    text
}

// Certificates for the tests come from the issuer's library.
#[cfg(test)]
#[cfg(feature = "dev-issuer")]
mod tests;
