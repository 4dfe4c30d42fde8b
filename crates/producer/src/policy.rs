//! What to do after an attempt to ingest has ended. Pure: no clock, no randomness of its own.

use std::time::Duration;

use sluice_model::Pointer;

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The process was asked to stop.
    Stopped,
    /// The lock is lost.
    Lost(String),
    /// A newer writer has opened the journal.
    Fenced(String),
    /// The source has no more blocks and all are durable.
    Finished,
    /// A block was refused and whoever sent it was told.
    Refused(String),
    /// Going on would hide a loss.
    Halt(String),
    /// Operators want something, or what they wanted is done: look at it and go on.
    Control,
    /// Somebody else is to have the lock.
    HandOver,
    /// The source gave another block than the journal has; the common one is looked for.
    Diverged(String),
    /// The router did not answer; nobody can tell whether it is the router or the way there.
    Unanswered(String),
    /// The router has not answered for so long that a replica that waits is to try.
    Unfit(String),
    /// Anything else went wrong.
    Failed(Failure),
}

/// What went wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The block it is about, if it is about one.
    pub pointer: Option<Pointer>,
    /// In words.
    pub cause: String,
    /// Trying again at once cannot help: something has to change first.
    pub lasting: bool,
    /// One word for counting.
    pub reason: &'static str,
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// End, for good.
    Stop,
    /// There is nothing more to do.
    Finish,
    /// Wait for an operator.
    Halt(String),
    /// Open the journal again under the same lock, after a while.
    Reopen(Duration),
    /// Give the lock up and queue for it again, after a while.
    Requeue(Duration),
}

/// The numbers of the policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Bound of the first wait; doubles with each failure.
    pub first: Duration,
    /// Largest bound.
    pub max: Duration,
    /// Failures in a row without progress until the ingestor counts as blocked.
    pub blocked_after: u32,
    /// How long a blocked ingestor waits between attempts.
    pub blocked_wait: Duration,
    /// How long an owner captures without a failure until it counts as not blocked.
    pub settle: Duration,
    /// How long an owner that handed over stays out of the queue.
    pub hand_over: Duration,
    /// How long the router may owe an answer before the lock is given to a replica that waits;
    /// zero for ever. Also the first bound of how long such an owner stays out of the queue.
    pub silence: Duration,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            first: Duration::from_millis(250),
            max: Duration::from_secs(10),
            blocked_after: 5,
            blocked_wait: Duration::from_secs(30),
            settle: Duration::from_secs(10),
            hand_over: Duration::from_secs(3),
            silence: Duration::from_secs(30),
        }
    }
}

/// The block that an ingestor does not get past.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocked {
    /// The block, if the failure is about one.
    pub pointer: Option<Pointer>,
    /// What is wrong.
    pub cause: String,
}

/// Counts failures and decides.
#[derive(Debug)]
pub struct Policy {
    rules: Rules,
    failures: u32,
    /// Attempts that ended without an answer of the router. They say nothing about a block, so
    /// they never block the ingestor.
    unanswered: u32,
    /// Times in a row that the lock was given up for it.
    unfit: u32,
    blocked: Option<Blocked>,
}

/// Doublings of the time that an unfit owner stays out of the queue, at most.
const UNFIT_DOUBLINGS: u32 = 2;

impl Policy {
    /// A policy that has seen nothing yet.
    pub const fn new(rules: Rules) -> Self {
        Self { rules, failures: 0, unanswered: 0, unfit: 0, blocked: None }
    }

    /// A new block became durable: what failed before is over.
    pub fn progress(&mut self) {
        (self.failures, self.unanswered, self.unfit) = (0, 0, 0);
        self.blocked = None;
    }

    /// Failures in a row since the last progress.
    pub const fn failures(&self) -> u32 {
        self.failures.saturating_add(self.unanswered)
    }

    /// What the ingestor does not get past, if it is blocked.
    pub const fn blocked(&self) -> Option<&Blocked> {
        self.blocked.as_ref()
    }

    /// Decides after an attempt. `jitter` is a random number from 0 to 1; waits spread over it so
    /// that producers that failed together do not return together.
    pub fn decide(&mut self, outcome: Outcome, jitter: f64) -> Next {
        match outcome {
            Outcome::Stopped => Next::Stop,
            Outcome::Finished => Next::Finish,
            Outcome::Halt(cause) => Next::Halt(cause),
            Outcome::Lost(_) | Outcome::Fenced(_) => {
                Next::Requeue(self.rules.first.mul_f64(jitter))
            }
            // Every opening costs the journal a record: a program that insists is slowed down.
            Outcome::Refused(_) | Outcome::Diverged(_) => {
                Next::Reopen(self.rules.first.mul_f64(jitter))
            }
            Outcome::Control => Next::Reopen(Duration::ZERO),
            Outcome::HandOver => Next::Requeue(self.rules.hand_over),
            Outcome::Unanswered(_) => self.unanswered(jitter),
            Outcome::Unfit(_) => self.unfit(jitter),
            Outcome::Failed(failure) => self.failed(failure, jitter),
        }
    }

    fn failed(&mut self, failure: Failure, jitter: f64) -> Next {
        self.failures = self.failures.saturating_add(1);
        if self.blocked.is_some() || failure.lasting || self.failures >= self.rules.blocked_after {
            self.blocked = Some(Blocked { pointer: failure.pointer, cause: failure.cause });
            // The fault may be local: another producer gets its turn. Half the wait is fixed, so
            // that a block that fails for ever costs a bounded amount of work.
            return Next::Requeue(half_fixed(self.rules.blocked_wait, jitter));
        }
        Next::Reopen(self.backoff(self.failures).mul_f64(jitter))
    }

    fn unanswered(&mut self, jitter: f64) -> Next {
        self.unanswered = self.unanswered.saturating_add(1);
        if self.blocked.is_some() {
            return Next::Requeue(half_fixed(self.rules.blocked_wait, jitter));
        }
        Next::Reopen(self.backoff(self.unanswered).mul_f64(jitter))
    }

    /// Longer with every time in a row: where no replica reaches the router they take turns, but
    /// slowly, and while one is out of the queue the other has nobody to give the lock to.
    fn unfit(&mut self, jitter: f64) -> Next {
        let doublings = self.unfit.min(UNFIT_DOUBLINGS);
        self.unfit = self.unfit.saturating_add(1);
        Next::Requeue(half_fixed(self.rules.silence.saturating_mul(1 << doublings), jitter))
    }

    fn backoff(&self, count: u32) -> Duration {
        let doublings = count.saturating_sub(1).min(20);
        self.rules.first.saturating_mul(1 << doublings).min(self.rules.max)
    }
}

/// From half of it to all of it.
fn half_fixed(wait: Duration, jitter: f64) -> Duration {
    wait.mul_f64(f64::midpoint(1.0, jitter))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_never_blocks_and_the_time_out_of_the_queue_grows() {
        let mut policy = Policy::new(Rules::default());
        let silent = || Outcome::Unanswered("connection refused".into());
        for _ in 0..20 {
            assert!(matches!(policy.decide(silent(), 1.0), Next::Reopen(_)));
        }
        assert_eq!((policy.blocked(), policy.failures()), (None, 20));
        assert_eq!(policy.decide(silent(), 1.0), Next::Reopen(Rules::default().max));
        let unfit = |policy: &mut Policy, jitter| policy.decide(Outcome::Unfit("u".into()), jitter);
        let waits = [0, 1, 2, 3].map(|_| unfit(&mut policy, 1.0));
        let expected = [30, 60, 120, 120];
        assert_eq!(waits, expected.map(|secs| Next::Requeue(Duration::from_secs(secs))));
        policy.progress();
        assert_eq!(unfit(&mut policy, 0.0), Next::Requeue(Duration::from_secs(15)));
        assert_eq!(policy.blocked(), None);
    }

    #[test]
    fn an_answer_that_fails_blocks_as_soon_as_without_the_silence_before_it() {
        let mut policy = Policy::new(Rules::default());
        for _ in 0..10 {
            policy.decide(Outcome::Unanswered("x".into()), 1.0);
        }
        for _ in 0..4 {
            assert!(matches!(policy.decide(failure(), 1.0), Next::Reopen(_)));
        }
        assert!(matches!(policy.decide(failure(), 1.0), Next::Requeue(_)));
        let blocked = policy.blocked().cloned().unwrap();
        let wait = policy.decide(Outcome::Unanswered("x".into()), 1.0);
        assert_eq!(wait, Next::Requeue(Rules::default().blocked_wait));
        assert_eq!(policy.blocked(), Some(&blocked), "what it is blocked by is not forgotten");
    }

    fn failure() -> Outcome {
        Outcome::Failed(Failure {
            pointer: Some(Pointer::from_height(7)),
            cause: "no route".into(),
            lasting: false,
            reason: "router",
        })
    }

    #[test]
    fn waits_double_up_to_the_bound_and_start_over_after_progress() {
        let mut policy = Policy::new(Rules { blocked_after: 100, ..Rules::default() });
        let waits: Vec<_> = (0..8).map(|_| policy.decide(failure(), 1.0)).collect();
        let expected = [250, 500, 1000, 2000, 4000, 8000, 10_000, 10_000];
        assert_eq!(waits, expected.map(|ms| Next::Reopen(Duration::from_millis(ms))));
        policy.progress();
        assert_eq!(policy.decide(failure(), 0.5), Next::Reopen(Duration::from_millis(125)));
    }

    #[test]
    fn failures_in_a_row_block_and_progress_unblocks() {
        let mut policy = Policy::new(Rules::default());
        for _ in 0..4 {
            assert!(matches!(policy.decide(failure(), 1.0), Next::Reopen(_)));
            assert_eq!(policy.blocked(), None);
        }
        assert_eq!(policy.decide(failure(), 1.0), Next::Requeue(Duration::from_secs(30)));
        let blocked = policy.blocked().unwrap();
        assert_eq!(blocked.pointer, Some(Pointer::from_height(7)));
        assert!(matches!(policy.decide(failure(), 0.0), Next::Requeue(wait)
            if wait == Duration::from_secs(15)));
        policy.progress();
        assert_eq!((policy.blocked(), policy.failures()), (None, 0));
        assert!(matches!(policy.decide(failure(), 1.0), Next::Reopen(_)));
    }

    #[test]
    fn failures_spread_over_progress_never_block() {
        let mut policy = Policy::new(Rules::default());
        for _ in 0..50 {
            assert!(matches!(policy.decide(failure(), 1.0), Next::Reopen(_)));
            policy.progress();
        }
    }

    #[test]
    fn a_gap_blocks_at_once() {
        let mut policy = Policy::new(Rules::default());
        let Outcome::Failed(mut gap) = failure() else { unreachable!() };
        gap.lasting = true;
        assert!(matches!(policy.decide(Outcome::Failed(gap), 1.0), Next::Requeue(_)));
        assert!(policy.blocked().is_some());
    }

    #[test]
    fn ends_and_losses() {
        let mut policy = Policy::new(Rules::default());
        assert_eq!(policy.decide(Outcome::Stopped, 0.0), Next::Stop);
        assert_eq!(policy.decide(Outcome::Finished, 0.0), Next::Finish);
        assert_eq!(policy.decide(Outcome::Halt("x".into()), 0.0), Next::Halt("x".into()));
        for outcome in [Outcome::Lost("l".into()), Outcome::Fenced("f".into())] {
            assert!(matches!(policy.decide(outcome, 1.0), Next::Requeue(_)));
        }
        let refused = Outcome::Refused("r".into());
        assert_eq!(policy.decide(refused, 1.0), Next::Reopen(Duration::from_millis(250)));
        let diverged = Outcome::Diverged("d".into());
        assert_eq!(policy.decide(diverged, 1.0), Next::Reopen(Duration::from_millis(250)));
        assert_eq!(policy.decide(Outcome::Control, 1.0), Next::Reopen(Duration::ZERO));
        let rules = Rules::default();
        assert_eq!(policy.decide(Outcome::HandOver, 0.0), Next::Requeue(rules.hand_over));
        assert_eq!(policy.failures(), 0, "none of these is a failure of a block");
    }
}
