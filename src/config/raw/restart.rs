//! What makes a restart cheap.

use schemars::JsonSchema;
use serde::Deserialize;

/// How we live with systemd.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct Systemd {
    /// When a start counts as successful (`Type=notify`): `identity` once one is held and valid, so that what is ordered
    /// after us finds it; `listening` at once.
    #[schemars(extend("enum" = ["identity", "listening"], "default" = "identity"))]
    pub(in crate::config) ready: Option<String>,
    /// Whether systemd keeps our sockets over a restart (`FileDescriptorStoreMax=`), so that clients wait instead of being
    /// refused: `auto` does what systemd says, which it does since version 254; `always` for older ones; `never`.
    #[schemars(extend("enum" = ["auto", "always", "never"], "default" = "auto"))]
    pub(in crate::config) keep_sockets: Option<String>,
}

/// The last good identity on disk.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct WarmStart {
    /// The sealed file: absolute, in a directory that exists and that only we write to. Read `docs/warm-start.md` first:
    /// private keys lie there.
    #[schemars(extend("examples" = ["/var/lib/spiffe-sds/warm"]))]
    pub(in crate::config) path: Option<String>,
    /// The file with the key, mode 0600: 32 random bytes or 64 hexadecimal digits. Not beside the sealed file.
    #[schemars(extend("examples" = ["/etc/spiffe-sds/warm.key"]))]
    pub(in crate::config) key_file: Option<String>,
    /// The systemd credential with the key, in place of `key_file`, as in `LoadCredentialEncrypted=warm-key`.
    #[schemars(extend("examples" = ["warm-key"]))]
    pub(in crate::config) credential: Option<String>,
    /// A state that was sealed longer ago is not used, valid or not: trust may have changed since. From 1m to 30days.
    #[schemars(extend("default" = "1day"))]
    pub(in crate::config) max_age: Option<String>,
}
