//! What the kernel is told about our memory: keys are in it.

use nix::sys::{
    prctl,
    resource::{Resource, setrlimit},
};

/// Nobody but root may look into this process, and no core file is written of it, whatever its limits were.
///
/// # Errors
/// When the operating system refuses.
pub fn keep_memory_private() -> std::io::Result<()> {
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    // The limit does not count where cores are handed to a program, this does.
    Ok(prctl::set_dumpable(false)?)
}

#[cfg(test)]
mod tests {
    use nix::sys::resource::getrlimit;

    use super::*;

    #[test]
    fn no_core_is_written_and_nobody_attaches() {
        keep_memory_private().unwrap();
        assert!(!prctl::get_dumpable().unwrap());
        assert_eq!(getrlimit(Resource::RLIMIT_CORE).unwrap(), (0, 0));
    }
}
