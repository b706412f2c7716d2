//! Names of files as resources.

use std::sync::Arc;

use super::{Config, Part, builder::Builder, encode};
use crate::{identity::FileSnapshot, xds::Origin};

/// Everything in `snapshot` that `config` lets clients ask for.
pub(super) fn part(snapshot: &FileSnapshot, config: &Arc<Config>, origin: &Arc<Origin>, before: Option<&Part>) -> Part {
    let mut set = Builder::new(origin).reusing(before);
    for (request, secret) in &snapshot.secrets {
        let name = request.to_string();
        // Naming may have given the name another meaning since it was asked for.
        if config.file(&name).as_ref() != Some(request) {
            continue;
        }
        let version = encode::file_version(secret);
        let known = before.and_then(|before| before.resource(&name)).map(|resource| resource.content().clone());
        let known = known.filter(|known| *known.version() == version).map(Ok);
        // What cannot be written stays silent; it cannot happen for what was read.
        if let Ok(content) = known.unwrap_or_else(|| encode::file(secret, request)) {
            set.add(&name, false, &content);
        }
    }
    let part = set.finish(Arc::new(|_| false));
    if !config.files.is_open() {
        return part;
    }
    let config = config.clone();
    part.withholding(Arc::new(move |name| config.file(name).is_some()))
}
