//! What to do about what operators want of an ingestor. Pure: the owner looks, this decides.

use sluice_client::coordination::{Action, ActionKind, Control, Paused};
use sluice_model::{Digest, Generation, Head, IngestorName, Pointer, Position};

use crate::policy::Blocked;

/// Most generations that one action may begin: as many as the journal is behind its witnesses.
const MOST_GENERATIONS: u32 = 1024;

/// What an owner has to do first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Duty<'a> {
    /// Nothing: go on capturing.
    Capture,
    /// An action waits. It comes before a pause, which may be what made it necessary.
    Perform(&'a Action),
    /// Keep the lock and capture nothing.
    Hold,
}

/// What an owner has to do first.
pub const fn duty(control: &Control) -> Duty<'_> {
    match &control.action {
        Some(action) => Duty::Perform(action),
        None if control.paused.is_some() => Duty::Hold,
        None => Duty::Capture,
    }
}

/// What the last record of the journal is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Top {
    /// There is none.
    Nothing,
    /// A block.
    Block,
    /// A gap.
    Gap,
    /// The begin of a history that has no block yet.
    Generation,
}

/// What the owner knows when it decides: it has opened the journal, so nobody else appends.
#[derive(Clone, Copy, Debug)]
pub struct Situation<'a> {
    /// The journal's head.
    pub head: Option<&'a Head>,
    /// What kind of record the head is.
    pub top: Top,
    /// What the ingestor does not get past.
    pub blocked: Option<&'a Blocked>,
    /// What the witnesses say is lost.
    pub loss: Option<&'a str>,
    /// The newest generation that anything names: the journal, the commit, the own last
    /// acknowledgement.
    pub newest: Generation,
    /// The owner has captured for a while, or waited, without a failure: what is not blocked by
    /// now is not about to be.
    pub settled: bool,
}

/// What to do about an action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plan {
    /// It cannot be told yet: this owner has just begun.
    Wait,
    /// It must not be done, for this reason.
    Refuse(String),
    /// An owner before this one did it and could not say so.
    Done(String),
    /// Forget the failures and try again.
    Retry,
    /// Write a gap.
    Skip {
        /// The first block that is given up.
        from: Pointer,
        /// The last one.
        to: Pointer,
    },
    /// Begin a history, or several, the last of which has this number.
    Begin {
        /// Its base: a block of the journal; `None` for the head.
        base: Option<(Position, Option<Digest>)>,
        /// The number.
        generation: Generation,
    },
    /// Give the lock up so that a waiting producer gets it.
    HandOver,
}

/// What to do about an action. Doing it twice must not happen: whoever did it and died before it
/// could say so left a journal that tells.
pub fn plan(action: &ActionKind, now: &Situation<'_>) -> Plan {
    match action {
        ActionKind::Retry => Plan::Retry,
        ActionKind::HandOver => Plan::HandOver,
        ActionKind::Skip { pointer, through } => skip(pointer, through, now),
        ActionKind::Rewind { to, digest } => rewind(to, *digest, now),
        ActionKind::AcceptLoss => accept_loss(now),
    }
}

/// Only the block that the ingestor stands at may be skipped: anything else is a mistake or an
/// answer to a state that is over.
fn skip(pointer: &Pointer, to: &Pointer, now: &Situation<'_>) -> Plan {
    if let Some(loss) = now.loss {
        return Plan::Refuse(format!("the ingestor is halted, nothing can be skipped: {loss}"));
    }
    if pointer.is_origin() || to < pointer {
        return Plan::Refuse(format!("blocks {pointer} to {to} are no range"));
    }
    if let Some(head) = now.head.filter(|head| *pointer <= head.pointer) {
        if now.top == Top::Gap && head.pointer == *to {
            return Plan::Done(format!("the gap {pointer} to {to} is in the journal"));
        }
        return Plan::Refuse(format!(
            "the journal has passed block {pointer}, its head is {}; to leave a history that it \
             holds, rewind",
            head.pointer
        ));
    }
    match now.blocked {
        Some(Blocked { pointer: Some(at), .. }) if at == pointer => {
            Plan::Skip { from: pointer.clone(), to: to.clone() }
        }
        Some(Blocked { pointer: Some(at), cause }) => Plan::Refuse(format!(
            "the ingestor is blocked at block {at}, not at {pointer}: {cause}"
        )),
        Some(Blocked { pointer: None, cause }) => {
            Plan::Refuse(format!("the ingestor is not blocked at a block: {cause}"))
        }
        None if now.settled => {
            Plan::Refuse(format!("the ingestor is not blocked at block {pointer}"))
        }
        None => Plan::Wait,
    }
}

fn rewind(to: &Position, digest: Option<Digest>, now: &Situation<'_>) -> Plan {
    let Some(head) = now.head else {
        return Plan::Refuse("the journal is empty, there is nothing to go back to".to_owned());
    };
    let newer = head.generation > to.generation;
    if now.top == Top::Generation && newer && head.pointer == to.pointer {
        return Plan::Done(begun(head.generation, &head.pointer));
    }
    let to = Position::end_of(to.generation, to.pointer.clone());
    if to > head.position() {
        return Plan::Refuse(format!(
            "block {} of generation {} is beyond the journal's head, {} of generation {}",
            to.pointer, to.generation, head.pointer, head.generation
        ));
    }
    begin(Some((to, digest)), now)
}

fn accept_loss(now: &Situation<'_>) -> Plan {
    match (now.loss, now.head) {
        (Some(_), _) => begin(None, now),
        (None, Some(head)) if now.top == Top::Generation => {
            Plan::Done(begun(head.generation, &head.pointer))
        }
        (None, _) => Plan::Refuse(
            "the journal agrees with the commit and with what was acknowledged: there is no loss \
             to accept"
                .to_owned(),
        ),
    }
}

/// A history above every one that anything names, so that no position of it was ever used.
fn begin(base: Option<(Position, Option<Digest>)>, now: &Situation<'_>) -> Plan {
    let head = now.head.map_or(Generation(0), |head| head.generation);
    let behind = now.newest.0.saturating_sub(head.0);
    match now.newest.0.checked_add(1).filter(|_| behind < MOST_GENERATIONS) {
        Some(next) => Plan::Begin { base, generation: Generation(next) },
        None => Plan::Refuse(format!(
            "the journal is at generation {head} and the newest one named is {}: that cannot be",
            now.newest
        )),
    }
}

/// What was done, for the trail.
pub fn begun(generation: Generation, base: &Pointer) -> String {
    format!("generation {generation} begins after block {base}")
}

/// An action in words.
pub fn describe(action: &Action) -> String {
    let Action { id, actor, reason, kind, .. } = action;
    let by = if actor.is_empty() { String::new() } else { format!(", by {actor}") };
    let why = if reason.is_empty() { String::new() } else { format!(": {reason}") };
    format!("{kind} (#{id}{by}){why}")
}

/// Why a paused ingestor captures nothing, and the command that ends it. Feeds that differ halt it
/// in the same way.
pub fn paused(ingestor: &IngestorName, paused: &Paused) -> String {
    let Paused { by, reason, alarm, .. } = paused;
    let word = if *alarm { "halted" } else { "paused" };
    let by = if by.is_empty() { String::new() } else { format!(" by {by}") };
    let why = if reason.is_empty() { String::new() } else { format!(": {reason}") };
    format!("{word}{by}{why}; to go on: sluice ingestors resume {ingestor}")
}

#[cfg(test)]
mod tests;
