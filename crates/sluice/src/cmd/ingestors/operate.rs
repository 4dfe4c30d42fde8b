//! What operators may do. Every verb says what it will do, asks back, is recorded with who and why
//! by the coordinator, and is waited for.

use std::time::Duration;

use serde_json::{Value, json};
use sluice_model::Pointer;
use sluice_proto::v1 as pb;

use super::{
    Known, Peers,
    consent::{Plan, actor, consent},
    member, one, pointer, show, target, wait,
};
use crate::{
    cli::{ActArgs, To},
    connect::Access,
    exit::{Exit, Failure, Outcome},
    output::{Out, count},
};

/// One verb on its way.
pub(super) struct Operator<'a> {
    pub(super) access: &'a Access,
    pub(super) peers: &'a Peers,
    pub(super) act: &'a ActArgs,
}

impl Operator<'_> {
    fn name(&self) -> &str {
        self.act.ingestor.as_str()
    }

    fn show(&self) -> String {
        format!("sluice ingestors get {} --server {}", self.name(), self.peers.coordinator.url())
    }

    fn withdraw(&self) -> String {
        format!(
            "sluice ingestors cancel-action {} --server {}",
            self.name(),
            self.peers.coordinator.url()
        )
    }

    async fn known(&self) -> Result<Known, Failure> {
        one(self.access, self.peers, &self.act.ingestor).await
    }

    pub(super) async fn set_paused(&self, out: &mut Out, paused: bool, reason: &str) -> Outcome {
        let known = self.known().await?;
        let owner = known.owner().map_or_else(|| "its next owner".to_owned(), member);
        let plan = Plan::harmless(match paused {
            true => format!("{owner} stops capturing, finishes what is under way, keeps the lock"),
            false => format!("{owner} captures again"),
        });
        self.agree(if paused { "pause" } else { "resume" }, &plan).await?;
        let request = pb::SetPausedRequest {
            ingestor: self.name().to_owned(),
            paused,
            actor: actor(self.act),
            reason: reason.to_owned(),
            alarm: false,
        };
        let coordinator = &self.peers.coordinator;
        let mut client = coordinator.coordinator();
        let control = coordinator.ask_or(client.set_paused(request), &self.show()).await?;
        let seen = match self.timeout() {
            Some(timeout) => wait::for_pause(self, &known, paused, timeout).await?,
            None => "not waited for".to_owned(),
        };
        let word = if paused { "paused" } else { "resumed" };
        let written = json!({
            "ingestor": self.name(),
            "paused": control.paused,
            "by": control.paused_by,
            "reason": control.paused_reason,
            "seen": seen,
        });
        tell(out, &written, &format!("{}: {word}; {seen}", self.name()))?;
        Ok(Exit::Ok)
    }

    pub(super) async fn retry(&self, out: &mut Out, reason: &str) -> Outcome {
        let known = self.known().await?;
        let at = known.owned().map(|own| pointer(&own.blocked_pointer)).unwrap_or_default();
        let plan = Plan::harmless(match at.as_str() {
            "" => "whatever it does not get past is tried again at once".to_owned(),
            at => format!("block {at} is tried again at once, as if it had never failed"),
        });
        let kind = pb::action::Kind::Retry(pb::action::Retry {});
        self.act(out, &known, kind, reason, &plan).await
    }

    pub(super) async fn skip(
        &self,
        out: &mut Out,
        reason: &str,
        through: Option<u64>,
        at: Option<u64>,
    ) -> Outcome {
        let known = self.known().await?;
        let blocked = match at {
            Some(height) => Pointer::from_height(height).to_bytes(),
            None => self.blocked(&known)?,
        };
        let through = through.map(|height| Pointer::from_height(height).to_bytes());
        if through.as_ref().is_some_and(|through| *through < blocked) {
            let message = format!("--through lies before the block {}", pointer(&blocked));
            return Err(Failure::usage(message).fix(self.show()));
        }
        let first = pointer(&blocked);
        let plan = Plan::lossy(match &through {
            Some(through) if *through != blocked => format!(
                "the blocks {first} to {} will never be in the journal; every reader is told of \
                 the gap",
                pointer(through)
            ),
            _ => format!(
                "block {first} will never be in the journal; every reader is told of the gap"
            ),
        });
        let through = through.unwrap_or_default();
        let kind = pb::action::Kind::Skip(pb::action::Skip { pointer: blocked, through });
        self.act(out, &known, kind, reason, &plan).await
    }

    /// The block that the owner does not get past.
    fn blocked(&self, known: &Known) -> Result<bytes::Bytes, Failure> {
        match known.owned() {
            Some(own) if !own.blocked_pointer.is_empty() => Ok(own.blocked_pointer.clone()),
            Some(own) => {
                let message = format!(
                    "{} is {}, not blocked at a block; there is nothing to skip",
                    self.name(),
                    show::state(own)
                );
                Err(Failure::new(Exit::Refused, message).fix(self.show()))
            }
            None => {
                let why = known.not_asked.join("; ");
                let message = format!(
                    "the owner of {} cannot be asked which block it does not get past ({why})",
                    self.name()
                );
                Err(Failure::new(Exit::Unreachable, message).fix("the same with --at HEIGHT"))
            }
        }
    }

    pub(super) async fn rewind(&self, out: &mut Out, to: &To, reason: &str) -> Outcome {
        let known = self.known().await?;
        let block = target::block(&self.peers.router, &self.act.ingestor, to).await?;
        let head = known.head().cloned().unwrap_or_default();
        let behind = head.height.saturating_sub(block.height);
        let next = head.generation.saturating_add(1);
        let plan = Plan::lossy(format!(
            "history goes on after block {} as generation {next}; {} blocks up to {} stay readable \
             in generation {}, are captured again, and every reader is told to go back",
            count(block.height),
            count(behind),
            count(head.height),
            head.generation,
        ));
        let position =
            pb::Position { generation: block.generation, pointer: block.pointer, index: u32::MAX };
        let rewind = pb::action::Rewind { to: Some(position), digest: block.digest };
        self.act(out, &known, pb::action::Kind::Rewind(rewind), reason, &plan).await
    }

    pub(super) async fn accept_loss(&self, out: &mut Out, reason: &str) -> Outcome {
        let known = self.known().await?;
        let head = known.head().map_or("no block".to_owned(), |head| count(head.height));
        let commit = known.commit.as_ref().map(|commit| pointer(&commit.pointer));
        let plan = Plan::lossy(format!(
            "the journal's head ({head}) counts as the truth from now on, although {} was committed; \
             what lay between is given up and a new generation begins",
            commit.unwrap_or_else(|| "nothing".to_owned()),
        ));
        let kind = pb::action::Kind::AcceptLoss(pb::action::AcceptLoss {});
        self.act(out, &known, kind, reason, &plan).await
    }

    pub(super) async fn hand_over(&self, out: &mut Out, reason: &str) -> Outcome {
        let known = self.known().await?;
        let owner = known.owner().map_or_else(|| "nobody".to_owned(), member);
        let next = known.lock.as_ref().and_then(|lock| lock.waiters.first()).map(member);
        let plan = Plan::harmless(match next {
            Some(next) => format!("{owner} finishes what is under way and {next} takes over"),
            None => format!(
                "{owner} finishes what is under way and gives the lock up; nobody else waits for \
                 it, so it will take it again"
            ),
        });
        let kind = pb::action::Kind::HandOver(pb::action::HandOver {});
        self.act(out, &known, kind, reason, &plan).await
    }

    pub(super) async fn cancel(&self, out: &mut Out, id: Option<u64>, reason: &str) -> Outcome {
        let known = self.known().await?;
        let waiting = known.control.as_ref().and_then(|control| control.action.clone());
        let wanted = waiting.filter(|action| id.is_none_or(|id| id == action.id));
        let Some(action) = wanted else {
            let which = id.map_or_else(|| "no action".to_owned(), |id| format!("no action {id}"));
            let message = format!("{which} of {} waits to be done", self.name());
            return Err(Failure::new(Exit::NotFound, message).fix(self.show()));
        };
        let said = target::describe(&action);
        self.agree("cancel-action", &Plan::harmless(format!("{said} is withdrawn"))).await?;
        let request = pb::CancelActionRequest {
            ingestor: self.name().to_owned(),
            id: action.id,
            actor: actor(self.act),
            reason: reason.to_owned(),
        };
        let coordinator = &self.peers.coordinator;
        let mut client = coordinator.coordinator();
        coordinator.ask_or(client.cancel_action(request), &self.show()).await?;
        let written = json!({"ingestor": self.name(), "withdrawn": target::action_json(&action)});
        tell(out, &written, &format!("{}: withdrawn: {said}", self.name()))?;
        Ok(Exit::Ok)
    }

    /// Asks the owner, present or next, to do something once, and waits for how it ended.
    async fn act(
        &self,
        out: &mut Out,
        known: &Known,
        kind: pb::action::Kind,
        reason: &str,
        plan: &Plan,
    ) -> Outcome {
        let action = pb::Action {
            actor: actor(self.act),
            reason: reason.to_owned(),
            kind: Some(kind),
            ..Default::default()
        };
        if let Some(other) = known.control.as_ref().and_then(|control| control.action.as_ref()) {
            let message = format!("another action waits: {}", target::describe(other));
            return Err(Failure::new(Exit::Refused, message).fix(self.withdraw()));
        }
        self.agree(target::kind(&action), plan).await?;
        let request = pb::RequestActionRequest {
            ingestor: self.name().to_owned(),
            nonce: rand::random::<[u8; 16]>().to_vec().into(),
            action: Some(action),
        };
        let coordinator = &self.peers.coordinator;
        let mut client = coordinator.coordinator();
        let control = coordinator.ask_or(client.request_action(request), &self.withdraw()).await?;
        let Some(action) = control.action else {
            // Done before the answer was put together.
            return self.ended(out, &control.last.unwrap_or_default());
        };
        let Some(timeout) = self.timeout() else {
            let written = json!({"ingestor": self.name(), "action": target::action_json(&action)});
            let text = format!("{}: {}", self.name(), target::describe(&action));
            tell(out, &written, &text)?;
            return Ok(Exit::Ok);
        };
        let asked = wait::Asked { ingestor: self.name(), id: action.id, version: control.version };
        match wait::for_result(coordinator, &asked, timeout).await? {
            Some(result) => self.ended(out, &result),
            None => Err(self.unanswered(known, &action)),
        }
    }

    /// What the owner answered.
    fn ended(&self, out: &mut Out, result: &pb::ActionResult) -> Outcome {
        let text = format!("{}: {}", self.name(), target::ended(result));
        let written = json!({"ingestor": self.name(), "result": target::result_json(result)});
        if result.done {
            tell(out, &written, &text)?;
            return Ok(Exit::Ok);
        }
        if out.is_json() {
            tell(out, &written, &text)?;
            return Ok(Exit::Refused);
        }
        Err(Failure::new(Exit::Refused, text).fix(self.show()))
    }

    /// Nobody has done it in time; it stays asked for.
    fn unanswered(&self, known: &Known, action: &pb::Action) -> Failure {
        let owner = known.owner().map_or_else(
            || "nobody owns the ingestor".to_owned(),
            |owner| format!("{} owns the ingestor", member(owner)),
        );
        let message = format!(
            "{}: nobody has done {} {} within {}; {owner}, and it stays asked for until it is done \
             or withdrawn",
            self.name(),
            target::kind(action),
            action.id,
            self.act.timeout,
        );
        Failure::new(Exit::Unreachable, message).fix(self.withdraw())
    }

    async fn agree(&self, verb: &str, plan: &Plan) -> Result<(), Failure> {
        consent(self.act, verb, plan).await.map_err(|failure| failure.fix(self.show()))
    }

    fn timeout(&self) -> Option<Duration> {
        Some(self.act.timeout.get()).filter(|timeout| !timeout.is_zero())
    }
}

fn tell(out: &mut Out, written: &Value, text: &str) -> Result<(), Failure> {
    if out.is_json() {
        out.json(written)?;
    } else {
        out.line(text)?;
    }
    out.flush()
}
