//! Files that clients may ask for by path.

use std::path::{Component, Path, PathBuf};

use super::{Compose, raw, scalar};
use crate::{
    config::quoted,
    identity::{FilePolicy, SystemRoots},
    secret::{self, Naming},
};

impl Compose {
    pub(super) fn asked_files(&mut self, raw: raw::AskedFiles) -> FilePolicy {
        let default = FilePolicy::default();
        let mut allow: Vec<PathBuf> = Vec::new();
        for (at, text) in raw.allow.unwrap_or_default().into_iter().enumerate() {
            let key = format!("secrets.files.allow[{at}]");
            let Some(path) = self.parse(&key, Some(text), |text| place(&text)) else { continue };
            if allow.contains(&path) {
                self.complain(&key, "is written twice; remove one of them");
            }
            allow.push(path);
        }
        let system_roots = self.parse("secrets.files.system_roots", raw.system_roots, |text| match text.as_str() {
            "auto" => Ok(SystemRoots::Probed),
            path if path.starts_with('/') => scalar::file_path(path).map(SystemRoots::File),
            other => Err(format!("{} is neither `auto` nor an absolute path; write one", quoted(other))),
        });
        let max = raw.max.and_then(|max| usize::try_from(max).ok()).unwrap_or(default.max);
        FilePolicy { allow, system_roots, max }
    }

    /// Where names of files mean something, they mean nothing else.
    pub(super) fn names_of_files(&mut self, naming: &Naming, names: &[raw::Name]) {
        let keys = [
            ("default_svid_name", &naming.default_svid),
            ("default_bundle_name", &naming.default_bundle),
            ("default_all_bundles_name", &naming.all_bundles),
        ];
        let keys = keys.into_iter().map(|(key, name)| (format!("secrets.{key}"), name.as_str()));
        let names = names
            .iter()
            .enumerate()
            .filter_map(|(at, name)| Some((format!("secrets.names[{at}].name"), name.name.as_deref()?)));
        let taken: Vec<_> = keys.chain(names).filter(|(_, name)| secret::is_file(name)).map(|(key, _)| key).collect();
        for key in taken {
            self.complain(
                &key,
                "looks like the name of a file, which names itself with `secrets.files`; write another name",
            );
        }
    }
}

/// A file or directory, in the one spelling that names are compared with.
fn place(text: &str) -> Result<PathBuf, String> {
    let path = scalar::file_path(text)?;
    let sound = |component| matches!(component, Component::RootDir | Component::Normal(_));
    if !path.components().all(sound) {
        return Err(format!("{} holds `..`; write the path without it", quoted(text)));
    }
    if path == Path::new("/") {
        return Err("is every file there is; write the directories that clients may ask for".to_owned());
    }
    // Without `.`, doubled slashes and the one at the end.
    Ok(path.components().collect())
}
