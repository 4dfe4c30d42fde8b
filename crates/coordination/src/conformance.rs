//! What every backend must do, and what the recipe must do on every backend, as plain functions.
//!
//! [`cases`] may run at the same time on one store: each keeps to its own keys. [`alone`] may not,
//! because they drop history. All need a tokio runtime with more than one thread.
//!
//! Beside the store's own rules these are the cases of one active owner per name. Where each of the
//! 44 is proven (`committer`, `locks`, … are modules here and run on memory, disk and a real etcd;
//! "client" is `crates/coordinator/tests/client`, a real client against whole coordinators over
//! memory and etcd; the others are crates):
//!
//! | case | given, then | where |
//! |---|---|---|
//! | C1 | nothing committed: none, and no error | `committer::c1_empty` |
//! | C2 | a first commit is the latest | `committer::c2_first` |
//! | C3 | the next one is, of that name only | `committer::c3_next_and_only_that_name` |
//! | C4 | another parent: conflict | `committer::c4_wrong_parent` |
//! | C5 | backwards: refused | `committer::c5_backwards` |
//! | C6 | the same place: refused | `committer::c6_same_place` |
//! | C7 | a first commit that names a parent: refused | `committer::c7_first_with_a_parent` |
//! | C8 | the caller changes its buffer: nothing changes | `committer::c8_the_callers_buffer` |
//! | C9 | 64 at once: one | `committer::c9_race` |
//! | C10 | an older epoch with the right parent: refused | `committer::c10_older_epoch`, `c10_between_read_and_write` |
//! | C11 | a lost reply: once | `committer::c11_lost_reply`, `checkpoint_lost_reply`; client `lost_replies_take_effect_once` |
//! | C12 | a commit from before a rewind: refused | `committer::c12_rewind`; producer `ingest::tests`, `c12_…` |
//! | C13 | a commit on another node is seen | `committer::c13_other_node` |
//! | C14 | pointers compare by bytes | `committer::c14_pointer_order` |
//! | L1 | owners never overlap | `locks::l1_no_overlap` |
//! | L2 | names are strangers | `locks::l2_names_are_strangers`; `keys` |
//! | L3 | first come, first served | `locks::l3_first_come_first_served` |
//! | L4 | a waiter that goes is skipped | `locks::l4_cancelled_waiter`; client `a_dropped_wait_gives_its_place_up` |
//! | L5 | a crash: the next one within the lease and 2 s | `locks::l5_crashed_holder`; client `a_crashed_holder_is_followed` |
//! | L6 | a release: within 500 ms | `locks::l6_graceful_exit`; client `an_owner_commits_and_hands_over` |
//! | L7 | a stopped owner commits nothing | `locks::l7_paused_holder`; client `a_paused_holder_stops_in_time` |
//! | L8 | a stopped waiter is no phantom | `locks::l8_phantom_waiter`; client `a_paused_waiter_is_no_phantom` |
//! | L9 | own key deleted while holding | `locks::l9_own_key_deleted_while_holding`; client `a_key_deleted_while_holding_is_reported` |
//! | L10 | own key deleted while waiting | `locks::l10_own_key_deleted_while_waiting`; client `a_key_deleted_while_waiting_is_queued_again` |
//! | L11 | no store: stop at the deadline, then a fresh session | `tests/etcd.rs` `an_absent_store_is_an_error_not_a_hang`; client `over_etcd` |
//! | L12 | etcd's leader killed: same owner in time, else at most one | client `cluster`, on three members |
//! | L13 | etcd restarted: never two | `tests/etcd.rs` `a_restart_keeps_the_owner_and_the_epoch`, `a_stopped_store_ends_leases_but_never_doubles_owners` |
//! | L14 | two tasks of one process: one owns | `locks::l14_one_session_two_tasks`; client `tasks_of_one_session_contend` |
//! | L15 | released twice, or after a loss: the successor stays | `locks::l15_release_spares_the_successor` |
//! | L16 | compacted history: looks again | `locks::l16_compacted_watch` |
//! | L17 | the wall clock stepped: no effect | `locks::l17_wall_clock_stepped`; client `clock`, a process under a faked clock |
//! | L18 | 200 waiters: at most two wake | `locks::l18_one_wakeup` |
//! | R1 | a stop while waiting: at once | producer `ingest::tests`, `r1_…` |
//! | R2 | a stop in the middle: tasks end before the lock | producer `r2_…` |
//! | R3 | an error: again from the latest, counted in a row | producer `r3_…` |
//! | R4 | a block that always fails: blocked, visibly | producer `r4_…` |
//! | R5 | a source that just ends: started again | producer `r5_…` |
//! | R6 | commits in order, a bounded window | producer `r6_…` |
//! | R7 | a lost lock: nothing starts, late writes are fenced | producer `r7_…`; journal (epochs) |
//! | R8 | another parent: never across | producer `r8_…` |
//! | R9 | missing inside the range: an error, not empty | producer `r9_…` |
//! | R10 | a receiver that fails: in order, no checkpoint before | sink `stream::tests`; sink-webhook `in_process` |
//! | R11 | catching up goes over into live without a gap | router `tests/router/live.rs`, `catching_up_goes_over_into_live_without_gap_or_repeat` |
//! | R12 | resumed after any position: each event once | router `tests/router/delivery.rs`, `resumes_after_every_position`, `a_position_that_retention_passed_is_out_of_range` |
//!
//! Of wall clocks only a hold that expires knows; locks, epochs, commits and checkpoints do not.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a suite reports by panicking"
)]

mod audit;
mod committer;
mod control;
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
            c6_same_place, c7_first_with_a_parent, c8_the_callers_buffer, c9_race, c10_older_epoch, c10_between_read_and_write, c11_lost_reply,
            c12_rewind, c13_other_node, c14_pointer_order, journal_is_minted_once,
            wrong_journal, checkpoint_moves, checkpoint_needs_the_lock, checkpoint_goes_not_back,
            checkpoint_after_reset, checkpoint_lost_reply, checkpoint_between_read_and_write;
        locks: l1_no_overlap, l2_names_are_strangers, l3_first_come_first_served,
            l4_cancelled_waiter, l5_crashed_holder, l6_graceful_exit, l7_paused_holder,
            l8_phantom_waiter, l9_own_key_deleted_while_holding, l10_own_key_deleted_while_waiting,
            l14_one_session_two_tasks, l15_release_spares_the_successor, l17_wall_clock_stepped, l18_one_wakeup,
            asking_twice_is_asking_once, unwanted_candidates_go, epochs_rise, raised_incarnation,
            promotion_with_a_lost_reply,
            promotion_of_a_key_that_just_went, promotion_while_the_incarnation_rises, listing;
        holds: explicit_holds, implied_holds;
        control: pausing_is_idempotent_and_audited_once, an_alarm_is_no_persons_pause, racing_changes_are_one_after_another,
            a_change_between_read_and_write, actions_come_one_at_a_time,
            a_repeated_request_is_one_action, only_the_owner_finishes,
            finishing_twice_is_finishing_once, withdrawn_actions,
            watch_tells_the_present_and_every_last_state, watch_survives_lost_watches,
            the_next_owner_finds_what_waits;
        audit: ownership_is_in_the_trail, ownership_and_entry_are_one_write,
            racing_entries_are_all_there, a_repeated_entry_is_one_entry, the_trail_is_bounded,
            a_refused_entry_is_an_error, a_damaged_trail_costs_no_lock;
    }
}

/// Cases that must have the store to themselves.
pub fn alone() -> Vec<Case> {
    cases! {
        store: compaction_is_reported;
        locks: l16_compacted_watch;
        control: watch_survives_compaction;
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
