use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds on the clock that also runs while the machine sleeps. The usual monotonic clock
/// stops then, and a lease would seem to live on.
pub(super) fn boottime() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    let nanos = i128::from(now.tv_sec) * 1_000_000_000 + i128::from(now.tv_nsec);
    u64::try_from(nanos).unwrap_or_default()
}

/// Nanoseconds of a duration; saturates after 584 years.
pub(super) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// What is taken off a lease's remaining time: a fifth of it, at least a second, at most half.
/// Covers the drift of clocks and the time between a check and the effect it permits.
pub(super) fn margin(ttl: Duration) -> Duration {
    (ttl / 5).max(Duration::from_secs(1)).min(ttl / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn margin_is_a_fifth_but_at_least_a_second_and_at_most_half() {
        let secs = Duration::from_secs;
        assert_eq!(margin(secs(10)), secs(2));
        assert_eq!(margin(secs(3)), secs(1));
        assert_eq!(margin(Duration::from_millis(1000)), Duration::from_millis(500));
    }

    #[test]
    fn boottime_moves_forward() {
        let before = boottime();
        assert!(before > 0);
        assert!(boottime() >= before);
    }
}
