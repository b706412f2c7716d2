//! Flags that stand for keys of the configuration.

use std::{collections::BTreeMap, path::PathBuf};

use crate::config::{self, File, Flag, Sources};

/// Flags of every subcommand that reads the configuration.
#[derive(Debug, Default, clap::Args)]
#[command(next_help_heading = "Configuration")]
#[group(id = "configuration")]
pub(super) struct Args {
    /// The configuration file (YAML); else the one that SPIFFE_SDS_CONFIG names. None is needed when
    /// SPIFFE_ENDPOINT_SOCKET is set.
    // Not `env`: clap would refuse an empty variable, which means "not set" for all our others.
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where the Workload API listens: unix:///absolute/path or tcp://IP:port.
    #[arg(long, value_name = "ENDPOINT")]
    endpoint: Option<String>,
    /// Our own trust domain, for a verifier without an SVID.
    #[arg(long, value_name = "NAME")]
    trust_domain: Option<String>,
    /// Sets any key of the configuration, as in --set secrets.wildcard=true; can be repeated.
    #[arg(long, value_name = "KEY=VALUE", value_parser = assignment)]
    set: Vec<(String, String)>,
}

impl Args {
    /// What the configuration is made of: file, environment, these flags and `more` of them.
    pub(super) fn sources(
        self,
        variables: BTreeMap<String, String>,
        more: Vec<Flag>,
    ) -> Result<Sources, config::Error> {
        let named = || variables.get(config::FILE).filter(|path| !path.is_empty()).map(PathBuf::from);
        let file = self.config.or_else(named).as_deref().map(File::read).transpose()?;
        let flags = [
            flag("--endpoint", "source.workload_api.endpoint", self.endpoint),
            flag("--trust-domain", "source.workload_api.trust_domain", self.trust_domain),
        ];
        let set = self.set.into_iter().map(|(key, value)| Flag { flag: "--set", key, value });
        let flags = set.chain(flags.into_iter().flatten()).chain(more).collect();
        Ok(Sources { file, variables, flags })
    }
}

/// A flag that was given.
pub(super) fn flag(flag: &'static str, key: &str, value: Option<String>) -> Option<Flag> {
    Some(Flag { flag, key: key.to_owned(), value: value? })
}

fn assignment(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write KEY=VALUE, such as drain_deadline=10s".to_owned()),
    }
}
