use bytes::Bytes;
use sluice_model::{Epoch, IngestorName};

use super::{Action, ActionKind, ActionResult, Control, Pause};
use crate::{
    audit::{self, Note},
    coordination::{Coordination, TRIES, Ticket, got, modified, pause},
    error::Error,
    keys::KeyError,
    kv::{Op, Txn},
    record,
};

/// Longest name of an actor, in bytes.
const MAX_ACTOR: usize = 256;
/// Longest reason, in bytes.
const MAX_REASON: usize = 1024;

/// An action to be asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Made by the client, 8 to 64 bytes: a repeated request is the same one.
    pub nonce: Bytes,
    /// Who asks.
    pub actor: String,
    /// Why.
    pub reason: String,
    /// What for.
    pub kind: ActionKind,
}

/// How the owner ended an action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finish {
    /// The action's.
    pub id: u64,
    /// False if it was refused or failed.
    pub done: bool,
    /// What came of it; cut at 1 KiB.
    pub message: String,
}

/// Who changes the control: anybody, or only the owner under an epoch.
type Guard<'a> = Option<(&'a Ticket, Epoch)>;

impl Coordination {
    /// The control of an ingestor. Linearizable.
    pub async fn control(&self, ingestor: &IngestorName) -> Result<Control, Error> {
        let key = self.keys.control(ingestor);
        let (_, entry) = self.kv.get(&key).await?;
        entry.map_or_else(|| Ok(Control::default()), |entry| record::decode(&key, &entry.value))
    }

    /// Pauses or resumes. Idempotent: where nothing is to change, nothing does, and who paused
    /// first stays named. Not held back by the write budget.
    pub async fn set_paused(
        &self,
        ingestor: &IngestorName,
        paused: bool,
        actor: &str,
        reason: &str,
    ) -> Result<Control, Error> {
        check(actor, reason)?;
        let now = self.clock.millis();
        self.change(ingestor, None, |control| {
            if control.paused.is_some() == paused {
                return Ok(None);
            }
            let (by, why) = (actor.to_owned(), reason.to_owned());
            control.paused = paused.then_some(Pause { by, reason: why, at: now, alarm: false });
            let kind = if paused { audit::PAUSED } else { audit::RESUMED };
            Ok(Some(note(kind, actor, Epoch::ZERO, reason.to_owned())))
        })
        .await
    }

    /// Pauses because two feeds differ, until somebody resumes. Idempotent. Not held back by the
    /// write budget.
    ///
    /// Errors: [`Error::PausedBefore`] while a person has paused it: their resuming must not end
    /// an alarm that they were not shown.
    pub async fn raise_alarm(
        &self,
        ingestor: &IngestorName,
        actor: &str,
        reason: &str,
    ) -> Result<Control, Error> {
        check(actor, reason)?;
        let now = self.clock.millis();
        self.change(ingestor, None, |control| match &control.paused {
            Some(pause) if pause.alarm => Ok(None),
            Some(pause) => {
                Err(Error::PausedBefore { ingestor: ingestor.clone(), by: pause.by.clone() })
            }
            None => {
                let (by, why) = (actor.to_owned(), reason.to_owned());
                control.paused = Some(Pause { by, reason: why, at: now, alarm: true });
                Ok(Some(note(audit::DIVERGED, actor, Epoch::ZERO, reason.to_owned())))
            }
        })
        .await
    }

    /// Asks the owner, present or next, to do something once. Idempotent by nonce.
    ///
    /// Errors: [`Error::ActionWaits`] while another action waits. Not held back by the write
    /// budget.
    pub async fn request_action(
        &self,
        ingestor: &IngestorName,
        request: &Request,
    ) -> Result<Control, Error> {
        check(&request.actor, &request.reason)?;
        let nonce = audit::stamp(&request.nonce)?;
        if let ActionKind::Skip { pointer, through } = &request.kind
            && through < pointer
        {
            let message = format!("a skip of {pointer} through {through}, which is before it");
            return Err(Error::Invalid(message));
        }
        let now = self.clock.millis();
        self.change(ingestor, None, |control| {
            let ended = control.last.as_ref();
            if ended.is_some_and(|last| last.nonce == nonce) {
                return Ok(None);
            }
            if let Some(action) = &control.action {
                if action.nonce == nonce {
                    return Ok(None);
                }
                let (ingestor, action) = (ingestor.clone(), Box::new(action.clone()));
                return Err(Error::ActionWaits { ingestor, action });
            }
            let action = Action {
                id: ended.map_or(0, |last| last.id) + 1,
                actor: request.actor.clone(),
                reason: request.reason.clone(),
                requested: now,
                kind: request.kind.clone(),
                nonce,
            };
            let detail = detail(action.id, &action.kind.text(), &action.reason);
            control.action = Some(action);
            Ok(Some(note(audit::ACTION_REQUESTED, &request.actor, Epoch::ZERO, detail)))
        })
        .await
    }

    /// Withdraws the action that waits, if it has this id. Idempotent. Not held back by the write
    /// budget.
    ///
    /// Errors: [`Error::ActionEnded`] if it ended otherwise, [`Error::Invalid`] if there never was
    /// one with this id.
    pub async fn cancel_action(
        &self,
        ingestor: &IngestorName,
        id: u64,
        actor: &str,
        reason: &str,
    ) -> Result<Control, Error> {
        check(actor, reason)?;
        let now = self.clock.millis();
        self.change(ingestor, None, |control| {
            let Some(action) = control.action.take_if(|action| action.id == id) else {
                return match &control.last {
                    Some(last) if last.id == id && last.cancelled => Ok(None),
                    last => Err(not_there(ingestor, id, last.as_ref())),
                };
            };
            let message = match reason {
                "" => format!("withdrawn by {actor}"),
                _ => format!("withdrawn by {actor}: {reason}"),
            };
            let detail = detail(id, &action.kind.text(), reason);
            let finish = Finish { id, done: false, message };
            control.last = Some(ActionResult {
                cancelled: true,
                ..ended(&action, &finish, (Epoch::ZERO, now))
            });
            Ok(Some(note(audit::ACTION_CANCELLED, actor, Epoch::ZERO, detail)))
        })
        .await
    }

    /// Says how an action ended, if the caller owns `ingestor/<name>` under this epoch, checked in
    /// one transaction with the write. Idempotent by the action's id: one that ended before stays
    /// as it is, except that a withdrawn action which the owner did all the same counts as done.
    /// Not held back by the write budget.
    ///
    /// Errors: [`Error::LostOwnership`], [`Error::Invalid`] if there is no such action.
    pub async fn finish_action(
        &self,
        ticket: &Ticket,
        epoch: Epoch,
        ingestor: &IngestorName,
        finish: &Finish,
    ) -> Result<Control, Error> {
        if ticket.lock != format!("ingestor/{ingestor}") {
            let lock = &ticket.lock;
            return Err(Error::Invalid(format!("the lock {lock:?} does not guard {ingestor}")));
        }
        let now = self.clock.millis();
        self.change(ingestor, Some((ticket, epoch)), |control| {
            let kind = if finish.done { audit::ACTION_DONE } else { audit::ACTION_FAILED };
            let Some(action) = control.action.take_if(|action| action.id == finish.id) else {
                return finish_ended(ingestor, control, finish, (epoch, now));
            };
            let message = audit::cut(&finish.message);
            let detail = detail(action.id, &action.kind.text(), &message);
            let finish = Finish { message, ..finish.clone() };
            let actor = action.actor.clone();
            control.last = Some(ended(&action, &finish, (epoch, now)));
            Ok(Some(note(kind, &actor, epoch, detail)))
        })
        .await
    }

    /// Reads the control, lets it be changed, and writes it together with its audit entry; again
    /// if somebody else was faster or the outcome is unknown, so the change must be idempotent.
    async fn change(
        &self,
        ingestor: &IngestorName,
        guard: Guard<'_>,
        mut decide: impl FnMut(&mut Control) -> Result<Option<Note>, Error> + Send,
    ) -> Result<Control, Error> {
        for tries in 1..=TRIES {
            match self.try_change(ingestor, guard, &mut decide).await {
                Ok(Some(control)) => return Ok(control),
                // Overtaken: reading again tells by what.
                Ok(None) => {}
                // Reading again tells whether it took effect.
                Err(error) if error.is_unknown() && tries < TRIES => {}
                Err(error) => return Err(error),
            }
            pause(tries).await;
        }
        Err(Error::Contended(format!("the control of {ingestor}")))
    }

    async fn try_change(
        &self,
        ingestor: &IngestorName,
        guard: Guard<'_>,
        decide: &mut (impl FnMut(&mut Control) -> Result<Option<Note>, Error> + Send),
    ) -> Result<Option<Control>, Error> {
        let (key, trail) = (self.keys.control(ingestor), self.keys.audit(ingestor));
        let mut read = vec![Op::Get(key.clone()), Op::Get(trail)];
        if let Some((ticket, _)) = guard {
            read.push(Op::Get(self.candidate_key(ticket)?));
        }
        let mut answers = self.kv.txn(Txn::read(read)).await?.answers.into_iter();
        let entry = got(answers.next())?;
        let mut trail = self.trail(ingestor, got(answers.next())?)?;
        let mut when = vec![modified(&key, entry.as_ref())];
        if let Some((ticket, epoch)) = guard {
            let own = got(answers.next())?;
            when.push(self.owned(ticket, epoch, own.as_ref()).await?);
        }
        let mut control: Control = entry
            .as_ref()
            .map(|entry| record::decode(&key, &entry.value))
            .transpose()?
            .unwrap_or_default();
        let Some(note) = decide(&mut control)? else { return Ok(Some(control)) };
        control.version += 1;
        trail.add(note, None)?;
        let (unchanged, mut then) = trail.write()?;
        when.push(unchanged);
        then.push(Op::Put { key, value: record::encode(&control)?, lease: None });
        let txn = Txn { when, then, otherwise: vec![] };
        let written = self.kv.txn(txn).await?.succeeded;
        if written {
            trail.log();
        }
        Ok(written.then_some(control))
    }
}

/// An action that is not there any more: done is done, and the truth even if it was withdrawn.
fn finish_ended(
    ingestor: &IngestorName,
    control: &mut Control,
    finish: &Finish,
    (epoch, now): (Epoch, u64),
) -> Result<Option<Note>, Error> {
    match &mut control.last {
        Some(last) if last.id == finish.id && last.cancelled && finish.done => {
            let message = audit::cut(&finish.message);
            let detail = detail(last.id, &last.kind, &format!("{message} (withdrawn too late)"));
            last.done = true;
            last.cancelled = false;
            last.message = message;
            last.epoch = epoch;
            last.finished = now;
            Ok(Some(note(audit::ACTION_DONE, &last.actor, epoch, detail)))
        }
        Some(last) if last.id >= finish.id && finish.id > 0 => Ok(None),
        last => Err(not_there(ingestor, finish.id, last.as_ref())),
    }
}

fn not_there(ingestor: &IngestorName, id: u64, last: Option<&ActionResult>) -> Error {
    match last {
        Some(last) if last.id >= id && id > 0 => {
            Error::ActionEnded { ingestor: ingestor.clone(), id, last: Box::new(last.clone()) }
        }
        _ => Error::Invalid(format!("{ingestor} has no action {id}")),
    }
}

fn ended(action: &Action, finish: &Finish, (epoch, now): (Epoch, u64)) -> ActionResult {
    ActionResult {
        id: action.id,
        done: finish.done,
        message: finish.message.clone(),
        kind: action.kind.name().to_owned(),
        actor: action.actor.clone(),
        epoch,
        finished: now,
        cancelled: false,
        nonce: action.nonce,
    }
}

fn note(kind: &str, actor: &str, epoch: Epoch, detail: String) -> Note {
    Note { kind: kind.to_owned(), actor: actor.to_owned(), epoch, detail }
}

fn detail(id: u64, what: &str, why: &str) -> String {
    if why.is_empty() { format!("{id}: {what}") } else { format!("{id}: {what}: {why}") }
}

fn check(actor: &str, reason: &str) -> Result<(), Error> {
    if actor.trim().is_empty() {
        return Err(KeyError::Empty("actor").into());
    }
    for (what, text, max) in [("actor", actor, MAX_ACTOR), ("reason", reason, MAX_REASON)] {
        if text.len() > max {
            return Err(KeyError::TooLong { what, len: text.len(), max }.into());
        }
    }
    Ok(())
}
