//! When a failed delivery is tried again.

use std::{fmt, time::Duration};

/// The schedule of retries: exponential from `first` to `max` with full jitter, and a state that
/// shows after `for_` without success. Attempts never end and order is always kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    /// Upper bound of the first wait.
    pub first: Duration,
    /// Upper bound of every wait.
    pub max: Duration,
    /// How long a batch is tried before the stream shows as blocked.
    pub for_: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            first: Duration::from_millis(250),
            max: Duration::from_secs(30),
            for_: Duration::from_secs(300),
        }
    }
}

/// Longest wait that a destination can ask for. A receiver must not be able to park a stream.
pub const MAX_RETRY_AFTER: Duration = Duration::from_secs(3600);

/// What comes after a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Next {
    /// How long to wait.
    pub wait: Duration,
    /// True once the retry time is used up: the stream shows as blocked.
    pub blocked: bool,
}

impl Retry {
    /// Upper bound of the wait after failure number `failure`, counted from 1.
    pub fn bound(&self, failure: u32) -> Duration {
        let doublings = failure.saturating_sub(1).min(31);
        self.first.saturating_mul(1 << doublings).min(self.max)
    }

    /// Decides the next attempt of a batch that has failed `failure` times, `elapsed` after its
    /// first attempt began. `random` is uniform in `[0, 1)`; `asked` is what the destination
    /// asked for, which is the least wait.
    pub fn next(
        &self,
        failure: u32,
        elapsed: Duration,
        asked: Option<Duration>,
        random: f64,
    ) -> Next {
        let blocked = elapsed >= self.for_;
        // Full jitter, so that streams which failed together do not come back together. Once
        // blocked the wait is at least half the longest, so that a dead receiver is not pestered.
        let wait = if blocked {
            self.max.mul_f64(0.5 + random / 2.0)
        } else {
            self.bound(failure).mul_f64(random)
        };
        let asked = asked.unwrap_or_default().min(MAX_RETRY_AFTER);
        Next { wait: wait.max(asked), blocked }
    }

    /// The schedule in words: what `streams explain` shows.
    pub fn explain(&self) -> Explanation {
        let mut bounds = Vec::new();
        let mut spent = Duration::ZERO;
        for failure in 1.. {
            let bound = self.bound(failure);
            if spent >= self.for_ || bounds.len() >= EXPLAINED {
                break;
            }
            bounds.push(bound);
            spent = spent.saturating_add(bound);
        }
        Explanation { retry: *self, bounds }
    }
}

/// Most waits that an explanation lists.
const EXPLAINED: usize = 16;

/// The schedule of a stream's retries, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// The settings.
    pub retry: Retry,
    /// Upper bounds of the waits, in order, until the stream shows as blocked.
    pub bounds: Vec<Duration>,
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("waits are random, at most")?;
        for (i, bound) in self.bounds.iter().enumerate() {
            write!(f, "{} {bound:?}", if i == 0 { "" } else { "," })?;
        }
        if self.bounds.len() >= EXPLAINED {
            f.write_str(", …")?;
        }
        let Retry { max, for_, .. } = self.retry;
        write!(
            f,
            "; after {for_:?} without success the stream shows as blocked and goes on every {:?} to \
             {max:?}; Retry-After is kept up to {MAX_RETRY_AFTER:?}; nothing is skipped",
            max / 2
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RETRY: Retry = Retry {
        first: Duration::from_millis(250),
        max: Duration::from_secs(2),
        for_: Duration::from_secs(10),
    };

    fn next(failure: u32, elapsed: u64, random: f64) -> Next {
        RETRY.next(failure, Duration::from_secs(elapsed), None, random)
    }

    #[test]
    fn bounds_double_up_to_the_longest() {
        let bounds: Vec<u128> = (1..=6).map(|n| RETRY.bound(n).as_millis()).collect();
        assert_eq!(bounds, [250, 500, 1000, 2000, 2000, 2000]);
        assert_eq!(RETRY.bound(u32::MAX), RETRY.max);
        assert_eq!(RETRY.bound(0), RETRY.first);
    }

    #[test]
    fn jitter_is_full_until_blocked() {
        assert_eq!(next(3, 0, 0.0), Next { wait: Duration::ZERO, blocked: false });
        assert_eq!(next(3, 9, 0.5), Next { wait: Duration::from_millis(500), blocked: false });
        let blocked = next(3, 10, 0.0);
        assert_eq!(blocked, Next { wait: Duration::from_secs(1), blocked: true });
        assert!(next(9, 99, 0.99).wait <= RETRY.max);
    }

    #[test]
    fn the_destination_may_ask_for_more_but_not_park_the_stream() {
        let asked = |wait| RETRY.next(1, Duration::ZERO, Some(wait), 0.0).wait;
        assert_eq!(asked(Duration::from_secs(7)), Duration::from_secs(7));
        assert_eq!(asked(Duration::from_secs(1 << 40)), MAX_RETRY_AFTER);
        let less = RETRY.next(4, Duration::ZERO, Some(Duration::from_millis(1)), 0.5).wait;
        assert_eq!(less, Duration::from_secs(1));
    }

    #[test]
    fn the_explanation_is_the_schedule() {
        let explained = RETRY.explain();
        assert_eq!(explained.bounds, (1..=8).map(|n| RETRY.bound(n)).collect::<Vec<_>>());
        let text = explained.to_string();
        assert!(text.contains("250ms, 500ms, 1s, 2s"), "{text}");
        assert!(text.contains("after 10s"), "{text}");
    }
}
