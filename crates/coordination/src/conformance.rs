//! What every backend must do, and what the recipe must do on every backend, as plain functions.
//!
//! [`cases`] may run at the same time on one store: each keeps to its own keys. [`alone`] may not,
//! because they drop history. All need a tokio runtime with more than one thread.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a suite reports by panicking"
)]

mod committer;
mod faults;
mod helpers;
mod holds;
mod locks;
mod store;

use std::{sync::Arc, time::Duration};

use futures_util::{FutureExt, future::BoxFuture};

use crate::kv::Kv;

pub use faults::LossyKv;

/// A case: its name and what it does to a store.
#[derive(Clone, Copy)]
pub struct Case {
    /// What must hold.
    pub name: &'static str,
    /// Panics if it does not.
    pub run: fn(Arc<dyn Kv>) -> BoxFuture<'static, ()>,
}

impl std::fmt::Debug for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

macro_rules! cases {
    ($($module:ident: $($name:ident),+ $(,)?;)+) => {
        vec![$($(Case {
            name: concat!(stringify!($module), "::", stringify!($name)),
            run: |kv| $module::$name(kv).boxed(),
        }),+),+]
    };
}

/// Cases that may run at the same time.
pub fn cases() -> Vec<Case> {
    cases! {
        store: put_get_delete, revisions_of_a_key, range_by_prefix, compares, branches,
            refuses_two_changes_of_a_key, reads_its_own_writes, racing_swaps, lease_takes_its_keys,
            keepalive_extends, ended_lease_says_zero, grant_is_idempotent, unknown_lease,
            watch_from_the_past, watch_is_of_one_key, watch_sees_expiry, time_to_live;
        committer: c1_empty, c2_first, c3_next_and_only_that_name, c4_wrong_parent, c5_backwards,
            c6_same_place, c7_first_with_a_parent, c9_race, c10_older_epoch, c10_between_read_and_write, c11_lost_reply,
            c12_rewind, c13_other_node, c14_pointer_order, journal_is_minted_once,
            wrong_journal, checkpoint_moves, checkpoint_needs_the_lock, checkpoint_goes_not_back,
            checkpoint_after_reset, checkpoint_lost_reply, checkpoint_between_read_and_write;
        locks: l1_no_overlap, l2_names_are_strangers, l3_first_come_first_served,
            l4_cancelled_waiter, l5_crashed_holder, l6_graceful_exit, l7_paused_holder,
            l8_phantom_waiter, l9_own_key_deleted_while_holding, l10_own_key_deleted_while_waiting,
            l14_one_session_two_tasks, l15_release_spares_the_successor, l18_one_wakeup,
            asking_twice_is_asking_once, unwanted_candidates_go, epochs_rise, raised_incarnation,
            promotion_with_a_lost_reply,
            promotion_of_a_key_that_just_went, promotion_while_the_incarnation_rises, listing;
        holds: explicit_holds, implied_holds;
    }
}

/// Cases that must have the store to themselves.
pub fn alone() -> Vec<Case> {
    cases! {
        store: compaction_is_reported;
        locks: l16_compacted_watch;
    }
}

/// Runs cases, all at once or one after another, each within a minute, and panics with the names
/// of those that failed.
pub async fn run(kv: Arc<dyn Kv>, cases: Vec<Case>, at_once: bool) {
    let mut failed = Vec::new();
    let mut running = Vec::new();
    for case in cases {
        let body = tokio::time::timeout(Duration::from_secs(60), (case.run)(Arc::clone(&kv)));
        let handle = tokio::spawn(body);
        if at_once {
            running.push((case.name, handle));
        } else if !matches!(handle.await, Ok(Ok(()))) {
            failed.push(case.name);
        }
    }
    for (name, handle) in running {
        if !matches!(handle.await, Ok(Ok(()))) {
            failed.push(name);
        }
    }
    assert!(failed.is_empty(), "failed: {failed:?}");
}
