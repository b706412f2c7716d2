//! The `spiffe-sds` command: exit codes and the runtime, nothing else.

use std::process::ExitCode;

use clap::Parser as _;
use spiffe_sds::cli::{self, Cli};
use tikv_jemallocator::Jemalloc;
use zeroizing_alloc::ZeroAlloc;

/// Wipes what is freed: keys pass through buffers of libraries, which do not (docs/adr/0027-wiping-allocator.md). jemalloc gives it
/// back to the system (`.cargo/config.toml`), which glibc's allocator does not: docs/adr/0031-allocator.md.
#[global_allocator]
static ALLOCATOR: ZeroAlloc<Jemalloc> = ZeroAlloc(Jemalloc);

/// Work comes in bursts, one per rotation, and is over in milliseconds: more threads would only cost memory.
const WORKER_THREADS: usize = 2;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(WORKER_THREADS).enable_all().build();
    let outcome = match runtime {
        Ok(runtime) => {
            let outcome = runtime.block_on(cli.run(cli::environment()));
            // A look-up of a host name may still be under way, and nobody waits for its answer.
            runtime.shutdown_background();
            outcome
        }
        Err(error) => Err(error.into()),
    };
    let code = outcome.unwrap_or_else(|error| cli::report(&error));
    cli::flush();
    code
}
