use std::{fmt, time::Duration};

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::error::Error;

/// How many writes per second a coordinator lets through.
#[derive(Clone, Copy, Debug)]
pub struct BudgetOptions {
    /// Commits, checkpoints and holds per second. Sessions and locks are never held back.
    pub writes_per_second: u32,
    /// How long one write may be held back before it is refused instead.
    pub longest_wait: Duration,
}

impl Default for BudgetOptions {
    fn default() -> Self {
        Self { writes_per_second: 500, longest_wait: Duration::from_secs(2) }
    }
}

/// A token bucket that hands out turns in the order of asking: writers above the budget are
/// slowed evenly, and refused when the queue is longer than they should wait.
pub struct WriteBudget {
    options: BudgetOptions,
    next: Mutex<Next>,
}

struct Next {
    /// When the next turn is due; a second of unused turns is saved up.
    due: Instant,
    waited: Duration,
    granted: u64,
    refused: u64,
}

impl fmt::Debug for WriteBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WriteBudget").field("options", &self.options).finish_non_exhaustive()
    }
}

impl WriteBudget {
    /// A full budget.
    pub fn new(options: BudgetOptions) -> Self {
        let now = Instant::now();
        let due = now.checked_sub(Duration::from_secs(1)).unwrap_or(now);
        Self {
            options,
            next: Mutex::new(Next { due, waited: Duration::ZERO, granted: 0, refused: 0 }),
        }
    }

    /// Waits for a turn. [`Error::Busy`] if that would take too long. A cancelled wait uses its
    /// turn up.
    pub(crate) async fn turn(&self) -> Result<(), Error> {
        let wait = self.reserve(Instant::now())?;
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
        Ok(())
    }

    /// Turns given, turns refused, and the time writers were held back, so far. For metrics.
    pub fn totals(&self) -> (u64, u64, Duration) {
        let next = self.next.lock();
        (next.granted, next.refused, next.waited)
    }

    fn reserve(&self, now: Instant) -> Result<Duration, Error> {
        let step = Duration::from_secs(1) / self.options.writes_per_second.max(1);
        let mut next = self.next.lock();
        let saved = now.checked_sub(Duration::from_secs(1)).unwrap_or(now);
        let due = next.due.max(saved) + step;
        let wait = due.saturating_duration_since(now);
        if wait > self.options.longest_wait {
            next.refused += 1;
            return Err(Error::Busy(wait));
        }
        next.due = due;
        next.granted += 1;
        next.waited += wait;
        Ok(wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_is_saved_up_then_turns_are_spaced_then_refused() {
        let options =
            BudgetOptions { writes_per_second: 10, longest_wait: Duration::from_millis(250) };
        let budget = WriteBudget::new(options);
        let now = Instant::now();
        budget.next.lock().due = now.checked_sub(Duration::from_secs(1)).unwrap();
        for _ in 0..10 {
            assert_eq!(budget.reserve(now).unwrap(), Duration::ZERO);
        }
        assert_eq!(budget.reserve(now).unwrap(), Duration::from_millis(100));
        assert_eq!(budget.reserve(now).unwrap(), Duration::from_millis(200));
        assert!(matches!(budget.reserve(now), Err(Error::Busy(_))));
        let later = now + Duration::from_millis(200);
        assert_eq!(budget.reserve(later).unwrap(), Duration::from_millis(100));
        assert_eq!(budget.totals().0, 13);
    }
}
