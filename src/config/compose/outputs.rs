//! File outputs.

use std::collections::BTreeMap;

use super::{Compose, raw, scalar};
use crate::{
    config::quoted,
    output::{self, JwtFile, Selection},
};

/// The longest name of a file on Linux.
const LONGEST_NAME: usize = 255;

impl Compose {
    pub(super) fn outputs(&mut self, raw: Option<Vec<raw::Output>>) -> Vec<output::Config> {
        let mut directories = BTreeMap::new();
        let mut outputs = Vec::new();
        for (index, output) in raw.unwrap_or_default().into_iter().enumerate() {
            let key = format!("outputs[{index}]");
            if let Some(output) = self.output(&key, output) {
                self.once(directories.insert(output.directory.clone(), key.clone()), &format!("{key}.directory"));
                outputs.push(output);
            }
        }
        outputs
    }

    fn output(&mut self, key: &str, raw: raw::Output) -> Option<output::Config> {
        let directory = self.required_path(key, "directory", raw.directory);
        let identity = self.selection(key, raw.id, raw.hint);
        let default = output::Config::new(directory.unwrap_or_default());
        let mut names = BTreeMap::new();
        let mut file = |name: &str, value, default| self.file(&mut names, &format!("{key}.{name}"), value, default);
        let svid_file = file("svid_file", raw.svid_file, default.svid_file);
        let key_file = file("key_file", raw.key_file, default.key_file);
        let bundle_file = file("bundle_file", raw.bundle_file, default.bundle_file);
        let combined_file = file("combined_file", raw.combined_file, None);
        let jwt_bundle_file = file("jwt_bundle_file", raw.jwt_bundle_file, None);
        let jwt_svids = self.jwt_files(key, &mut names, raw.jwt_svids.unwrap_or_default());
        if names.is_empty() && self.is_sound(key) {
            self.complain(key, "writes no file at all; name one, or remove the output");
        }
        let cert_mode = self.parse(&format!("{key}.cert_mode"), raw.cert_mode, |text| scalar::mode(&text));
        let key_mode = self.parse(&format!("{key}.key_mode"), raw.key_mode, |text| match scalar::mode(&text)? {
            mode if mode & 0o007 == 0 => Ok(mode),
            _ => Err(format!("{} gives everyone the private key; end it with 0, and use `group`", quoted(&text))),
        });
        let owner = self.parse(&format!("{key}.owner"), raw.owner, scalar::user);
        let group = self.parse(&format!("{key}.group"), raw.group, scalar::group);
        (!default.directory.as_os_str().is_empty()).then_some(output::Config {
            directory: default.directory,
            identity,
            svid_file,
            key_file,
            bundle_file,
            combined_file,
            jwt_bundle_file,
            jwt_svids,
            add_intermediates_to_bundle: raw.add_intermediates_to_bundle.unwrap_or(default.add_intermediates_to_bundle),
            include_federated_domains: raw.include_federated_domains.unwrap_or(default.include_federated_domains),
            cert_mode: cert_mode.unwrap_or(default.cert_mode),
            key_mode: key_mode.unwrap_or(default.key_mode),
            owner,
            group,
        })
    }

    /// A file's name; none if it is empty.
    fn file(
        &mut self,
        names: &mut BTreeMap<String, String>,
        key: &str,
        value: Option<String>,
        default: Option<String>,
    ) -> Option<String> {
        let name = match value {
            None => default?,
            Some(text) if text.is_empty() => return None,
            Some(text) => self.parse(key, Some(text), |text| file_name(&text))?,
        };
        self.once(names.insert(name.clone(), key.to_owned()), key);
        Some(name)
    }

    fn jwt_files(&mut self, key: &str, names: &mut BTreeMap<String, String>, raw: Vec<raw::JwtFile>) -> Vec<JwtFile> {
        let mut files = Vec::new();
        for (index, raw) in raw.into_iter().enumerate() {
            let key = format!("{key}.jwt_svids[{index}]");
            let raw::JwtFile { file, audience, id, hint } = raw;
            let request = self.jwt_request(&key, raw::JwtSvid { audience, id, hint });
            let file = self.file(names, &format!("{key}.file"), file, None);
            if file.is_none() && self.is_sound(&key) {
                self.complain(&key, "has no `file`; write the name of the token's file");
            }
            files.extend(request.zip(file).map(|(request, file)| JwtFile { request, file }));
        }
        files
    }

    fn selection(&mut self, section: &str, id: Option<String>, hint: Option<String>) -> Selection {
        if id.is_some() && hint.is_some() {
            self.complain(section, "has both `id` and `hint`; keep the one that says which identity is meant");
        }
        let id = self.parse(&format!("{section}.id"), id, |text| scalar::spiffe_id(&text));
        let hint = self.parse(&format!("{section}.hint"), hint, |text| scalar::hint(&text));
        match (id, hint) {
            (Some(id), _) => Selection::Id(id),
            (None, Some(hint)) => Selection::Hint(hint),
            (None, None) => Selection::Default,
        }
    }
}

/// A name within a directory.
fn file_name(text: &str) -> Result<String, String> {
    if text.contains(['/', '\0']) || text == "." {
        return Err(format!("{} is not the name of a file; write one without a directory", quoted(text)));
    }
    if text.starts_with("..") {
        return Err(format!("{} begins with `..`, as what we keep beside the files does; write another", quoted(text)));
    }
    if text.len() > LONGEST_NAME {
        return Err(format!("{} has more than {LONGEST_NAME} bytes; write a shorter one", quoted(text)));
    }
    Ok(text.to_owned())
}
