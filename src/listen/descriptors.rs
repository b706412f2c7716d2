//! File descriptors: how many connections they allow, and what stays for everything else.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// No program needs more, and some walk through all that there may be.
const MOST: u64 = 1 << 20;

/// What connections are for. Each has a share of its own, so that none can take what another one needs; three of
/// sixteen parts are for sources, files, callbacks and whatever else is opened.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Share {
    /// xDS clients.
    Clients,
    /// Verifiers that fetch bundles.
    Verifiers,
    /// Operators and monitoring.
    Operators,
}

impl Share {
    /// As many connections as were wished for, and as the process may have.
    pub(crate) fn at_most(self, wished: usize) -> usize {
        self.of(limit(), wished)
    }

    fn of(self, limit: u64, wished: usize) -> usize {
        let sixteenths = match self {
            Self::Clients => 10,
            Self::Verifiers => 2,
            Self::Operators => 1,
        };
        wished.min(usize::try_from(limit / 16 * sixteenths).unwrap_or(usize::MAX)).max(1)
    }
}

/// Lets the process open as many files as it may, instead of as many as it is given to begin with: the difference is for
/// programs that cannot handle more, and this is none.
pub fn raise() {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return };
    let wanted = hard.min(MOST);
    if soft < wanted
        && let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, wanted, hard)
    {
        let error = std::io::Error::from(error);
        tracing::warn!(%error, soft, hard, "the limit on open files cannot be raised");
    }
}

/// As many files as may be open now.
pub(crate) fn limit() -> u64 {
    getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_shares_fit_and_leave_a_reserve() {
        for limit in [256, 1024, 20_000] {
            let all: usize =
                [Share::Clients, Share::Verifiers, Share::Operators].iter().map(|it| it.of(limit, usize::MAX)).sum();
            assert!(all as u64 <= limit / 16 * 13, "{all} of {limit}");
        }
        assert_eq!(Share::Clients.of(1024, 16_384), 640);
        assert_eq!(Share::Clients.of(u64::MAX, 16_384), 16_384);
        assert_eq!(Share::Operators.of(3, 64), 1, "one always gets in");
    }
}
