//! How long to wait before trying again.

use std::time::Duration;

/// Exponential waits with full jitter, so that many clients that lost the same server do not come
/// back in step.
#[derive(Clone, Debug)]
pub struct Backoff {
    base: Duration,
    cap: Duration,
    attempt: u32,
}

impl Default for Backoff {
    /// From 100 ms up to 10 s.
    fn default() -> Self {
        Self::new(Duration::from_millis(100), Duration::from_secs(10))
    }
}

impl Backoff {
    /// Waits of at most `base`, doubling up to `cap`.
    pub const fn new(base: Duration, cap: Duration) -> Self {
        Self { base, cap, attempt: 0 }
    }

    /// The next wait: evenly distributed between nothing and the current bound.
    pub fn next_delay(&mut self) -> Duration {
        let bound = self.base.saturating_mul(1 << self.attempt.min(20)).min(self.cap);
        self.attempt = self.attempt.saturating_add(1);
        bound.mul_f64(rand::random::<f64>())
    }

    /// Begins again from the base; to be called on progress, not on mere connection.
    pub const fn reset(&mut self) {
        self.attempt = 0;
    }

    /// Attempts since the last progress.
    pub const fn attempts(&self) -> u32 {
        self.attempt
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_to_the_cap_and_starts_over() {
        let mut backoff = Backoff::new(Duration::from_millis(8), Duration::from_secs(1));
        for attempt in 0..64u32 {
            let bound = Duration::from_millis(8 << attempt.min(20)).min(Duration::from_secs(1));
            assert!(backoff.next_delay() <= bound, "attempt {attempt}");
        }
        assert_eq!(backoff.attempts(), 64);
        backoff.reset();
        assert!(backoff.next_delay() <= Duration::from_millis(8));
    }
}
