//! Staying awake for what comes in a moment.
//!
//! Waking a thread whose processor sleeps takes 20 to 50 microseconds on a virtual machine, and
//! many times that where the host has lent the processor to others. A block that comes alone
//! passes from thread to thread and back; as long as such blocks follow each other closely, the
//! threads that will be needed next look for it instead of sleeping.

use std::{
    hint,
    num::NonZero,
    sync::{
        LazyLock,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// Threads of the process that may hover at the same time: a block that comes alone needs two,
/// the committer's and that of its connection, which hover in turn for the most part.
const MOST: usize = 2;
/// Pauses of the processor between two looks: about a microsecond.
const PAUSES: u32 = 32;

/// How many may hover yet. None on a single processor, where a thread that hovers stands in the
/// way of what it waits for; a quota of processor time counts like so many processors.
static PROCESS: LazyLock<Permits> = LazyLock::new(|| {
    let processors = thread::available_parallelism().map_or(1, NonZero::get);
    Permits(AtomicUsize::new(if processors > 1 { MOST } else { 0 }))
});

#[derive(Debug)]
struct Permits(AtomicUsize);

impl Permits {
    fn take(&self) -> bool {
        let less = |left: usize| left.checked_sub(1);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok()
    }
}

/// The permission to stay awake for a while.
#[derive(Debug)]
pub(crate) struct Hover {
    until: Instant,
    of: &'static Permits,
}

impl Hover {
    /// For at most this long; `None` if enough threads do it already.
    pub(crate) fn begin(most: Duration) -> Option<Self> {
        Self::with(&PROCESS, most)
    }

    fn with(of: &'static Permits, most: Duration) -> Option<Self> {
        of.take().then(|| Self { until: Instant::now() + most, of })
    }

    /// Leaves the processor to others for a moment, also the one it may share its units with;
    /// false once the time is over.
    pub(crate) fn pause(&self) -> bool {
        (0..PAUSES).for_each(|_| hint::spin_loop());
        thread::yield_now();
        Instant::now() < self.until
    }
}

impl Drop for Hover {
    fn drop(&mut self) {
        self.of.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_threads_than_are_permitted_and_no_longer() {
        static TWO: Permits = Permits(AtomicUsize::new(2));
        let long = Duration::from_secs(3600);
        let one = Hover::with(&TWO, long).unwrap();
        let other = Hover::with(&TWO, Duration::ZERO).unwrap();
        assert!(Hover::with(&TWO, long).is_none(), "a third");
        assert!(one.pause() && !other.pause(), "the other's time is over");
        drop(other);
        assert!(Hover::with(&TWO, long).is_some(), "after one has ended");
    }
}
