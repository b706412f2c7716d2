//! The section `admin`.

use std::{path::PathBuf, time::Duration};

use super::{Compose, DEFAULT_SOCKET, MINUTE, raw, scalar};
use crate::{
    admin,
    lifecycle::OPTIONAL,
    listen::{self, UnixConfig},
    source,
};

/// Where the admin listener is when nothing else is said.
const DEFAULT_ADMIN_SOCKET: &str = "/run/spiffe-sds/admin.sock";
/// The pages show who is connected; that is for the operator alone unless they say otherwise.
const DEFAULT_ADMIN_MODE: u32 = 0o600;

impl Compose {
    pub(super) fn admin(&mut self, raw: raw::Admin, sources: &[source::Config]) -> admin::Config {
        let allow_public = raw.allow_public.unwrap_or_default();
        let hosts = self.parse("admin.hosts", raw.hosts, |text| scalar::hosts(&text)).unwrap_or_default();
        let starved_after = self.duration(
            "admin.starved_after",
            raw.starved_after,
            admin::Config::default().starved_after,
            Duration::ZERO..=60 * MINUTE,
        );
        // Another name was complained about by the schema.
        let wanted = raw.ready_requires.into_iter().flatten();
        let ready_requires = wanted.filter_map(|it| OPTIONAL.into_iter().find(|name| *name == it.0)).collect();
        let listeners = Vec::new();
        let config = admin::Config { listeners, required: true, allow_public, hosts, ready_requires, starved_after };
        let Some(mut listeners) = raw.listeners else {
            return admin::Config { listeners: vec![default_listener()], required: false, ..config };
        };
        for unix in listeners.iter_mut().filter_map(|listener| listener.unix.as_mut()) {
            unix.mode.get_or_insert_with(|| format!("0{DEFAULT_ADMIN_MODE:o}"));
        }
        self.address = if allow_public { scalar::address } else { scalar::admin_address };
        let section = "admin.listeners";
        let listeners = self.sockets_of(section, listeners, sources);
        self.address = scalar::loopback;
        let own = PathBuf::from(DEFAULT_SOCKET);
        let taken = |listener: &listen::Config| matches!(listener, listen::Config::Unix(unix) if unix.path == own);
        if !self.places.contains_key("listeners")
            && let Some(index) = listeners.iter().position(taken)
        {
            let key = format!("{section}[{index}].unix.path");
            self.complain(&key, "is where Envoy connects when no `listeners` are set; choose another path");
        }
        admin::Config { listeners, ..config }
    }
}

fn default_listener() -> listen::Config {
    let path = PathBuf::from(DEFAULT_ADMIN_SOCKET);
    listen::Config::Unix(UnixConfig { path, mode: DEFAULT_ADMIN_MODE, owner: None, group: None })
}
