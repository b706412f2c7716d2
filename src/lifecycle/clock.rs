//! When somebody sets the wall clock: certificates live on it, and timers do not.

use std::{
    os::fd::{AsFd as _, AsRawFd, RawFd},
    time::Duration,
};

use futures_util::{
    StreamExt as _,
    stream::{self, BoxStream},
};
use nix::{
    errno::Errno,
    sys::{
        time::TimeSpec,
        timer::{Expiration, TimerSetTimeFlags},
        timerfd::{ClockId, TimerFd, TimerFlags},
    },
};
use tokio::io::unix::AsyncFd;

/// The timer is of no interest, only that it is cancelled: as far ahead as every kernel takes.
const NEVER: Duration = Duration::from_secs(1 << 33);

/// An item each time that the wall clock is set, or the machine wakes up. Where the system does not tell, there is none.
#[must_use]
pub fn changes() -> BoxStream<'static, ()> {
    stream::unfold(None, |timer| async {
        let timer = match timer {
            Some(timer) => timer,
            None => Timer::armed().inspect_err(|error| tracing::debug!(%error, "cannot watch the clock")).ok()?,
        };
        timer.cancelled().await.ok()?;
        Some(((), Some(timer)))
    })
    .boxed()
}

/// A timer that the kernel cancels when the clock is set (timerfd_create(2), TFD_TIMER_CANCEL_ON_SET).
struct Timer(AsyncFd<Descriptor>);

struct Descriptor(TimerFd);

impl AsRawFd for Descriptor {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl Timer {
    fn armed() -> std::io::Result<Self> {
        let timer = TimerFd::new(ClockId::CLOCK_REALTIME, TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC)?;
        arm(&timer)?;
        #[expect(deprecated, reason = "its replacement is unsafe, and this descriptor is nobody else's")]
        let registered = AsyncFd::new(Descriptor(timer))?;
        Ok(Self(registered))
    }

    async fn cancelled(&self) -> std::io::Result<()> {
        loop {
            let mut ready = self.0.readable().await?;
            ready.clear_ready();
            // A cancelled timer is an error to whoever reads it, which is the news.
            match self.0.get_ref().0.wait() {
                Err(Errno::EAGAIN) => {}
                Ok(()) | Err(Errno::ECANCELED) => return Ok(arm(&self.0.get_ref().0)?),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

fn arm(timer: &TimerFd) -> Result<(), Errno> {
    let flags = TimerSetTimeFlags::TFD_TIMER_ABSTIME | TimerSetTimeFlags::TFD_TIMER_CANCEL_ON_SET;
    timer.set(Expiration::OneShot(TimeSpec::from_duration(NEVER)), flags)
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn a_clock_that_nobody_sets_is_quiet() {
        assert!(Timer::armed().is_ok(), "the kernel takes the timer");
        assert!(changes().next().now_or_never().is_none());
    }
}
