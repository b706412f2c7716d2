//! `status`: who holds what, on the terminal.

mod alarms;
mod clients;

use std::{process::ExitCode, time::Duration};

use anstyle::{AnsiColor, Style};
use comfy_table::{Table, presets};
use serde::{Deserialize, Serialize};

use super::admin::{self, encoded};
use crate::{
    admin::view::{
        Clients, Condition, Configuration, Gone, Identity, InService, LeftOut, Life, Source, Standing, Token, Trust,
    },
    printable,
};

const HEADER: Style = Style::new().bold();
const TITLE: Style = AnsiColor::Green.on_default().bold();
const PLAIN: Style = Style::new();
const GOOD: Style = AnsiColor::Green.on_default();
const WARN: Style = AnsiColor::Yellow.on_default();
const BAD: Style = AnsiColor::Red.on_default();

/// Shows sources, identities and who holds what, of a running server.
///
/// Exit codes: 0 all is well; 1 a source is down or denies us, nothing is in service, an SVID has expired, an identity was
/// withdrawn and is in service or used still, something that a source sent is left out, clients cannot reach a listener,
/// another condition of readiness does not hold or the server is degraded, a client waits for a name that nothing provides,
/// a client or the server itself (its new configuration) refused something, or no server answers.
#[derive(Debug, clap::Args)]
#[command(after_long_help = super::examples(&[
    ("Is all well?", "spiffe-sds status"),
    ("Follow a roll-out", "spiffe-sds status --watch"),
    ("Who refused something, and why?", "spiffe-sds status --state error"),
    ("Who asks for what cannot be had?", "spiffe-sds status --state never"),
    ("For a script", "spiffe-sds status --json | jq '.clients.totals'"),
]))]
pub(super) struct Args {
    #[command(flatten)]
    server: admin::Args,
    /// Only clients whose node, peer, names, versions or words contain this.
    #[arg(value_name = "TEXT", default_value = "")]
    search: String,
    /// Only clients with a name in this state: synced, stale, not_sent, never or error.
    #[arg(long, value_name = "STATE", default_value = "")]
    state: String,
    /// At most this many streams.
    #[arg(long, value_name = "COUNT", default_value_t = 100)]
    limit: usize,
    /// Prints JSON instead of tables.
    #[arg(long)]
    json: bool,
    /// Prints again whenever something changes, until interrupted.
    #[arg(long)]
    watch: bool,
}

/// Everything at one moment.
#[derive(Serialize)]
struct Status {
    good: bool,
    conditions: Vec<Condition>,
    sources: Vec<Source>,
    refused: Vec<LeftOut>,
    in_service: InService,
    identities: Vec<Identity>,
    withdrawn: Vec<Gone>,
    tokens: Vec<Token>,
    trust_domains: Vec<Trust>,
    clients: Clients,
    configuration: Option<Configuration>,
}

#[derive(Deserialize)]
struct Sources {
    sources: Vec<Source>,
    /// An older server does not say it.
    #[serde(default)]
    refused: Vec<LeftOut>,
    /// Nor this.
    #[serde(default)]
    conditions: Vec<Condition>,
}

#[derive(Deserialize)]
struct Identities {
    in_service: InService,
    identities: Vec<Identity>,
    #[serde(default)]
    withdrawn: Vec<Gone>,
    tokens: Vec<Token>,
}

#[derive(Deserialize)]
struct Domains {
    trust_domains: Vec<Trust>,
}

#[derive(Deserialize)]
struct News {
    revision: u64,
}

pub(super) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    if !args.watch {
        let status = Status::read(&args).await?;
        status.show(&args)?;
        return Ok(if status.good { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    tokio::select! {
        () = super::reader_gone() => Ok(ExitCode::SUCCESS),
        ended = watch(&args) => ended,
    }
}

async fn watch(args: &Args) -> anyhow::Result<ExitCode> {
    let mut revision = args.server.get::<News>("/debug/revision?after=0").await?.revision;
    loop {
        let status = Status::read(args).await?;
        if !args.json {
            // Home, and clear what is below: no flicker, and what was on the screen before stays in its history.
            super::print_as_it_is("\x1b[H\x1b[2J")?;
        }
        status.show(args)?;
        // A rotation is thousands of changes and one picture.
        tokio::time::sleep(Duration::from_millis(500)).await;
        loop {
            let now = args.server.get::<News>(&format!("/debug/revision?after={revision}")).await?.revision;
            if std::mem::replace(&mut revision, now) != now {
                break;
            }
        }
    }
}

impl Status {
    fn show(&self, args: &Args) -> anyhow::Result<()> {
        if args.json {
            super::print_json(&(serde_json::to_string_pretty(self)? + "\n"))
        } else {
            super::print(&self.tables())
        }
    }

    async fn read(args: &Args) -> anyhow::Result<Self> {
        let Sources { sources, refused, conditions } = args.server.get("/debug/sources").await?;
        let Identities { in_service, identities, withdrawn, tokens } = args.server.get("/debug/identities").await?;
        let Domains { trust_domains } = args.server.get("/debug/trust").await?;
        let (text, state) = (encoded(&args.search), encoded(&args.state));
        let query = format!("/debug/clients?q={text}&state={state}&limit={}", args.limit);
        let clients: Clients = args.server.get(&query).await?;
        let configuration: Option<Configuration> = args.server.find("/debug/config").await?;
        let good = matches!(in_service.state, Standing::Served | Standing::Warm | Standing::BundlesOnly)
            && !sources.iter().any(|source| source.state.is_problem())
            && !conditions.iter().any(Condition::is_problem)
            && identities.iter().all(|identity| identity.state != Life::Expired)
            && refused.is_empty()
            && withdrawn.is_empty()
            && clients.totals.error + clients.totals.not_sent + clients.totals.never == 0
            && !configuration.as_ref().is_some_and(Configuration::is_refused);
        Ok(Self {
            good,
            conditions,
            sources,
            refused,
            in_service,
            identities,
            withdrawn,
            tokens,
            trust_domains,
            clients,
            configuration,
        })
    }

    fn tables(&self) -> String {
        let parts = [
            self.source_table() + &self.refused_lines(),
            self.identity_table(),
            self.trust_table(),
            self.client_table(),
        ];
        let mut text = self.alarms() + &parts.join("\n");
        if let Some(configuration) = &self.configuration {
            let style = if configuration.is_refused() { BAD } else { PLAIN };
            text.push_str(&format!("\n{TITLE}Configuration{TITLE:#}\n{style}{}{style:#}\n", configuration.summary()));
            for change in &configuration.waiting {
                let value = crate::admin::view::Change::value;
                text.push_str(&format!("  {}: {} -> {}\n", change.key, value(&change.old), value(&change.new)));
            }
            for problem in configuration.last_reload.iter().flat_map(|reload| &reload.problems) {
                text.push_str(&format!("  {BAD}{}{BAD:#}\n", line(problem)));
            }
        }
        text
    }

    fn source_table(&self) -> String {
        let rows = self.sources.iter().map(|source| {
            let style = match source.state.is_problem() {
                true => BAD,
                false if source.connected => GOOD,
                false => PLAIN,
            };
            let serves = if source.active { "yes" } else { "no" };
            let update = source.last_update.clone().unwrap_or_else(|| "never".to_owned());
            let error = line(source.last_error.as_deref().unwrap_or_default());
            (style, vec![source.name.clone(), source.state.text().to_owned(), serves.to_owned(), update, error])
        });
        table("Sources", &["SOURCE", "STATE", "IN SERVICE", "LAST UPDATE", "ERROR"], rows.collect())
    }

    /// Nothing where nothing is left out.
    fn refused_lines(&self) -> String {
        let word = |kept| if kept { ", its last good state is kept" } else { "" };
        let said = self
            .refused
            .iter()
            .map(|it| format!("{BAD}left out: {} ({}){}{BAD:#}\n", line(&it.item), line(&it.reason), word(it.kept)));
        said.collect()
    }

    fn identity_table(&self) -> String {
        let rows = self.identities.iter().map(|identity| {
            let style = match identity.state {
                Life::Valid => PLAIN,
                Life::Expiring => WARN,
                Life::NotYetValid | Life::Expired => BAD,
            };
            let cells = [
                identity.spiffe_id.clone(),
                identity.serial.clone(),
                identity.not_after.clone(),
                identity.left(),
                identity.state.text().to_owned(),
            ];
            (style, cells.to_vec())
        });
        let tokens = self.tokens.iter().map(|token| {
            let style = if token.state == "valid" { PLAIN } else { WARN };
            let audience = token.audience.join(", ");
            let expires = token.expires.clone().unwrap_or_default();
            (
                style,
                vec![token.subject.clone(), format!("JWT for {audience}"), expires, token.left(), token.state.clone()],
            )
        });
        let header = ["IDENTITY", "SERIAL", "NOT AFTER", "LEFT", "STATE"];
        let mut text = table("Identities", &header, rows.chain(tokens).collect());
        if let Some(said) = self.in_service.state.text() {
            let style = if self.in_service.state.is_problem() { BAD } else { WARN };
            text.push_str(&format!("{style}{said}{style:#}\n"));
            if let Some(reason) = &self.in_service.reason {
                text.push_str(&format!("  {}\n", line(reason)));
            }
        }
        text
    }

    fn trust_table(&self) -> String {
        let rows = self.trust_domains.iter().map(|domain| {
            let first = domain.authorities.iter().min_by_key(|authority| authority.left_seconds);
            let style = if first.is_none() { BAD } else { PLAIN };
            let cells = [
                domain.trust_domain.clone(),
                domain.authorities.len().to_string(),
                first.map(|first| first.not_after.clone()).unwrap_or_default(),
                domain.jwt_keys.to_string(),
            ];
            (style, cells.to_vec())
        });
        table("Trust domains", &["TRUST DOMAIN", "AUTHORITIES", "FIRST NOT AFTER", "JWT KEYS"], rows.collect())
    }
}

/// A client's words, without what a terminal would obey.
fn line(text: &str) -> String {
    printable::line(&text.chars().take(240).collect::<String>()).into_owned()
}

fn table(title: &str, header: &[&str], rows: Vec<(Style, Vec<String>)>) -> String {
    if rows.is_empty() {
        return format!("{TITLE}{title}{TITLE:#}\nnone\n");
    }
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header);
    let styles: Vec<_> = rows.iter().map(|(style, _)| *style).collect();
    let shown = |cells: Vec<String>| cells.iter().map(|cell| printable::line(cell).into_owned()).collect::<Vec<_>>();
    table.add_rows(rows.into_iter().map(|(_, cells)| shown(cells)));
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let mut text = format!("{TITLE}{title}{TITLE:#}\n");
    for (row, style) in table.lines().zip(std::iter::once(HEADER).chain(styles)) {
        text.push_str(&format!("{style}{}{style:#}\n", row.trim_end()));
    }
    text
}
