//! On whose behalf an identity is held.

/// Whose identities a snapshot holds. The Workload API attests the process that connects to it, so a server on that
/// API only ever holds its own identities; sources that act for others add their own kinds.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Workload {
    /// The identities that this process itself is entitled to.
    #[default]
    Own,
}
