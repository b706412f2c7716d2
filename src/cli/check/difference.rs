//! `check --diff`: what a reload would change, compared with a file or with a running server.

use std::{collections::BTreeMap, path::Path};

use anyhow::Context as _;

use crate::{
    admin::view::{Configuration, Origin},
    cli::{admin, config},
    config::{Change, Config, Error, FILE, File, Flag, Sources, changes, diff, settings},
};

/// Stands for the running server in place of a file.
pub(super) const RUNNING: &str = "running";

/// What would change if `old` were in force.
pub(super) fn from_file(old: &Path, new: &Sources) -> anyhow::Result<Vec<Change>> {
    Config::new(new).map_err(Error::from)?;
    let old = Sources { file: Some(File::read(old)?), ..new.clone() };
    Ok(diff(&old, new).map_err(Error::from)?)
}

/// What would change in the running server if it read the file now. Its variables and flags go on to count, as they do for
/// a reload; those of this process do not, but its flags do.
pub(super) async fn from_running(
    server: &admin::Args,
    args: config::Args,
    environment: BTreeMap<String, String>,
) -> anyhow::Result<Vec<Change>> {
    let in_force: Option<Configuration> = server.find("/debug/config").await?;
    let in_force = in_force.context("this server does not say what it was configured with; is it an older one?")?;
    let named = environment.into_iter().filter(|(name, _)| name == FILE).collect();
    let wished = args.sources(named, Vec::new())?;
    let file = match (wished.file, &in_force.file) {
        (Some(file), _) => Some(file),
        (None, Some(path)) => Some(File::read(Path::new(path))?),
        (None, None) => None,
    };
    let mut new = Sources { file, ..Sources::default() };
    for setting in &in_force.settings {
        let value = setting.value.clone();
        match setting.from {
            Origin::Variable => _ = new.variables.insert(setting.origin.clone(), value),
            Origin::Flag => new.flags.push(Flag { flag: "--set", key: setting.key.clone(), value }),
            Origin::File | Origin::Default => {}
        }
    }
    new.flags.extend(wished.flags);
    // Where systemd put them is known to the server alone; that there is a place is all that is checked.
    new.variables.insert("CREDENTIALS_DIRECTORY".to_owned(), "/run/credentials".to_owned());
    Config::new(&new).map_err(Error::from)?;
    let old = in_force.settings.into_iter().map(|setting| (setting.key, setting.value)).collect();
    let new = settings(&new).map_err(Error::from)?;
    Ok(changes(old, new.into_iter().map(|setting| (setting.key, setting.value)).collect()))
}

/// One line a change, what is live first named so.
pub(super) fn lines(changes: &[Change]) -> String {
    if changes.is_empty() {
        return "nothing would change\n".to_owned();
    }
    changes.iter().map(|change| format!("{} {change}\n", if change.live { "live   " } else { "restart" })).collect()
}

/// The same for programs.
pub(super) fn json(changes: &[Change]) -> String {
    let rows = changes.iter().map(|change| {
        let Change { key, old, new, live } = change;
        serde_json::json!({ "key": key, "old": old, "new": new, "live": live })
    });
    format!("{:#}\n", serde_json::json!({ "changes": rows.collect::<Vec<_>>() }))
}
