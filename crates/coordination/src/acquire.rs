use std::{fmt, time::Duration};

use futures_util::StreamExt;
use sluice_model::{Epoch, IngestorName};

use crate::{
    audit::{self, Trail},
    coordination::{Coordination, LIST_LIMIT, TRIES, Ticket, got, modified, pause},
    error::Error,
    kv::{Answer, Compare, Entry, EventKind, Kv, KvError, Op, Revision, Txn},
    record::{self, Candidate, Incarnation, Member, Wish},
};

/// A watch that failed is looked at again after this.
pub(crate) const AGAIN: Duration = Duration::from_millis(200);

/// Where a candidate stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LockState {
    /// Others are before it.
    Waiting {
        /// How many.
        ahead: u32,
        /// The first of them.
        owner: Option<Member>,
    },
    /// It owns the lock.
    Owned {
        /// The fencing number.
        epoch: Epoch,
    },
    /// Its key is gone. Nothing follows.
    Lost {
        /// What is known of how.
        cause: String,
    },
}

/// A candidate on its way: queued, then owner, then gone. It lives in the store; this only
/// follows it. Dropping it leaves the candidate where it is.
pub struct Acquisition {
    coordination: Coordination,
    ticket: Ticket,
    member: Member,
    key: String,
    /// Whose trail tells of this lock.
    ingestor: Option<IngestorName>,
    phase: Phase,
    told: Option<LockState>,
    wakeups: u64,
}

enum Phase {
    Start,
    Queued { created: Revision },
    Waiting { created: Revision, behind: String, revision: Revision },
    Owned { created: Revision, revision: Revision },
    Ended,
}

/// What a look at the queue showed.
enum Look {
    Gone,
    Turn(Epoch, Revision),
    Behind {
        ahead: u32,
        owner: Member,
        nearest: String,
        revision: Revision,
    },
    /// Something changed while looking.
    Again,
}

impl fmt::Debug for Acquisition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acquisition")
            .field("key", &self.key)
            .field("told", &self.told)
            .finish_non_exhaustive()
    }
}

impl Coordination {
    /// Queues a candidate, or finds it if it already is, and follows it. Does no I/O before the
    /// first [`Acquisition::next`].
    pub fn acquire(&self, ticket: Ticket, member: Member) -> Result<Acquisition, Error> {
        Ok(Acquisition {
            coordination: self.clone(),
            key: self.candidate_key(&ticket)?,
            ingestor: audit::ingestor_of(&ticket.lock),
            ticket,
            member,
            phase: Phase::Start,
            told: None,
            wakeups: 0,
        })
    }
}

impl Acquisition {
    /// The next thing worth knowing: waiting (again when the first in the queue changes), owned,
    /// lost. `None` after lost or an error. Cancel safe.
    pub async fn next(&mut self) -> Option<Result<LockState, Error>> {
        loop {
            match self.advance().await {
                Ok(None) if matches!(self.phase, Phase::Ended) => return None,
                Ok(None) => {}
                Ok(Some(state)) if self.told.as_ref() == Some(&state) => {}
                Ok(Some(state)) => {
                    self.told = Some(state.clone());
                    return Some(Ok(state));
                }
                Err(error) => {
                    self.phase = Phase::Ended;
                    return Some(Err(error));
                }
            }
        }
    }

    /// How often this candidate was woken to look at the queue.
    pub fn wakeups(&self) -> u64 {
        self.wakeups
    }

    async fn advance(&mut self) -> Result<Option<LockState>, Error> {
        match &self.phase {
            Phase::Start => {
                let created = self.enqueue().await?;
                self.phase = Phase::Queued { created };
                Ok(None)
            }
            Phase::Queued { created } => {
                let created = *created;
                let look = self.look(created).await?;
                Ok(self.take(created, look))
            }
            Phase::Waiting { created, behind, revision } => {
                let created = *created;
                self.wait(behind, revision + 1).await;
                self.wakeups += 1;
                self.phase = Phase::Queued { created };
                Ok(None)
            }
            Phase::Owned { created, revision } => {
                let (created, revision) = (*created, *revision);
                match deleted(&*self.coordination.kv, &self.key, revision + 1).await {
                    Ok(()) => Ok(Some(self.lost())),
                    Err(error) => {
                        tracing::debug!(key = self.key, %error, "watching the own key anew");
                        if !matches!(error, KvError::Compacted { .. }) {
                            tokio::time::sleep(AGAIN).await;
                        }
                        self.phase = Phase::Queued { created };
                        Ok(None)
                    }
                }
            }
            Phase::Ended => Ok(None),
        }
    }

    fn take(&mut self, created: Revision, look: Look) -> Option<LockState> {
        match look {
            Look::Again => None,
            Look::Gone => Some(self.lost()),
            Look::Turn(epoch, revision) => {
                self.phase = Phase::Owned { created, revision };
                Some(LockState::Owned { epoch })
            }
            Look::Behind { ahead, owner, nearest, revision } => {
                self.phase = Phase::Waiting { created, behind: nearest, revision };
                Some(LockState::Waiting { ahead, owner: Some(owner) })
            }
        }
    }

    fn lost(&mut self) -> LockState {
        self.phase = Phase::Ended;
        LockState::Lost { cause: "the candidate's key is gone from the store".to_owned() }
    }

    /// Puts the candidate, or finds it, and returns its create revision.
    async fn enqueue(&self) -> Result<Revision, Error> {
        let lease = Some(self.ticket.session);
        let candidate = Candidate { member: self.member.clone(), epoch: None };
        let value = record::encode(&candidate)?;
        let wish = record::encode(&Wish { lock: self.ticket.lock.clone() })?;
        let wish_key = self.coordination.keys.wish(self.ticket.session, &self.ticket.nonce)?;
        let txn = Txn {
            when: vec![Compare::Absent(self.key.clone())],
            then: vec![
                Op::Put { key: self.key.clone(), value, lease },
                Op::Put { key: wish_key, value: wish, lease },
                Op::Get(self.key.clone()),
            ],
            otherwise: vec![Op::Get(self.key.clone())],
        };
        let mut answer = self.coordination.repeat(&txn).await?;
        got(answer.answers.pop())?
            .map(|entry| entry.create_revision)
            .ok_or(Error::SessionLost(self.ticket.session))
    }

    /// Reads the queue, and takes the lock if it is this candidate's turn.
    async fn look(&self, created: Revision) -> Result<Look, Error> {
        let incarnation = self.coordination.keys.incarnation();
        let prefix = self.coordination.keys.candidates(&self.ticket.lock)?;
        let mut read = vec![Op::Range(prefix, LIST_LIMIT), Op::Get(incarnation)];
        read.extend(self.ingestor.as_ref().map(|name| Op::Get(self.coordination.keys.audit(name))));
        let answer = self.coordination.kv.txn(Txn::read(read)).await?;
        let mut answers = answer.answers.into_iter();
        let queue = answers.next();
        let incarnation = got(answers.next())?;
        let trail = audit::head_of(answers.next())?;
        let Some(Answer::Listed(queue)) = queue else {
            return Err(Error::Kv(KvError::Invalid("a range was answered otherwise".to_owned())));
        };
        if queue.len() >= LIST_LIMIT {
            return Err(Error::Invalid(format!("more than {LIST_LIMIT} candidates wait")));
        }
        let own = queue.iter().find(|entry| entry.key == self.key);
        let Some(own) = own.filter(|entry| entry.create_revision == created) else {
            return Ok(Look::Gone);
        };
        let older = || queue.iter().filter(|entry| entry.create_revision < created);
        let (Some(first), Some(nearest)) = (
            older().min_by_key(|entry| entry.create_revision),
            older().max_by_key(|entry| entry.create_revision),
        ) else {
            let trail = self.coordination.trail_of_lock(self.ingestor.as_ref(), trail);
            return self.promote(own, incarnation.as_ref(), trail, answer.revision).await;
        };
        let owner: Candidate = record::decode(&first.key, &first.value)?;
        Ok(Look::Behind {
            ahead: u32::try_from(older().count()).unwrap_or(u32::MAX),
            owner: owner.member,
            nearest: nearest.key.clone(),
            revision: answer.revision,
        })
    }

    /// Nobody is before this candidate, and nobody can come before it. The transaction that
    /// writes the epoch reads the own key and the incarnation once more, and adds to the trail.
    async fn promote(
        &self,
        own: &Entry,
        incarnation: Option<&Entry>,
        mut trail: Option<Trail>,
        revision: Revision,
    ) -> Result<Look, Error> {
        let candidate: Candidate = record::decode(&own.key, &own.value)?;
        if let Some(epoch) = candidate.epoch {
            return Ok(Look::Turn(epoch, revision));
        }
        let key = self.coordination.keys.incarnation();
        let current = decode_incarnation(incarnation)?;
        let epoch = Epoch::new(current.incarnation, own.create_revision);
        let mut when = vec![
            Compare::Created(self.key.clone(), own.create_revision),
            modified(&key, incarnation),
        ];
        let mut then = Vec::new();
        if let Some(trail) = &mut trail {
            trail.owned(&candidate.member, epoch)?;
            let (unchanged, steps) = trail.write()?;
            when.push(unchanged);
            then.extend(steps);
        }
        let value = record::encode(&Candidate { epoch: Some(epoch), ..candidate })?;
        then.push(Op::Put { key: self.key.clone(), value, lease: own.lease });
        let txn = Txn { when, then, otherwise: vec![] };
        match self.coordination.kv.txn(txn).await {
            Ok(answer) if answer.succeeded => {
                if let Some(trail) = &trail {
                    trail.log();
                }
                Ok(Look::Turn(epoch, answer.revision))
            }
            // Looking again tells which.
            Ok(_) | Err(KvError::Unknown(_) | KvError::LeaseNotFound(_)) => Ok(Look::Again),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits until the queue may have changed for this candidate.
    async fn wait(&self, behind: &str, from: Revision) {
        let kv = &*self.coordination.kv;
        let outcome = tokio::select! {
            outcome = deleted(kv, behind, from) => outcome,
            outcome = deleted(kv, &self.key, from) => outcome,
        };
        if let Err(error) = outcome
            && !matches!(error, KvError::Compacted { .. })
        {
            tracing::debug!(key = self.key, %error, "looking at the queue instead of watching it");
            tokio::time::sleep(AGAIN).await;
        }
    }
}

/// Resolves when a key is deleted at or after a revision.
async fn deleted(kv: &dyn Kv, key: &str, from: Revision) -> Result<(), KvError> {
    let mut watch = kv.watch(key, from).await?;
    while let Some(events) = watch.next().await {
        if events?.iter().any(|event| event.kind == EventKind::Deleted) {
            return Ok(());
        }
    }
    Err(KvError::Unavailable("the watch ended".to_owned()))
}

fn decode_incarnation(entry: Option<&Entry>) -> Result<Incarnation, Error> {
    entry.map_or_else(
        || Ok(Incarnation::default()),
        |entry| record::decode(&entry.key, &entry.value),
    )
}

impl Coordination {
    /// Raises the store's incarnation past a fence that refused the owner's epoch, and gives the
    /// owner an epoch above the fence under the same key. Idempotent. The fence must lie above
    /// the owner's epoch, which happens only if the store went backwards.
    pub async fn raise_incarnation(&self, ticket: &Ticket, fence: Epoch) -> Result<Epoch, Error> {
        for tries in 1..=TRIES {
            match self.try_raise(ticket, fence).await {
                Ok(Some(epoch)) => return Ok(epoch),
                Ok(None) => {}
                Err(error) if error.is_unknown() && tries < TRIES => {}
                Err(error) => return Err(error),
            }
            pause(tries).await;
        }
        Err(Error::Contended(format!("the incarnation for {:?}", ticket.lock)))
    }

    async fn try_raise(&self, ticket: &Ticket, fence: Epoch) -> Result<Option<Epoch>, Error> {
        let (key, store) = (self.candidate_key(ticket)?, self.keys.incarnation());
        let ingestor = audit::ingestor_of(&ticket.lock);
        let mut read = vec![Op::Get(key.clone()), Op::Get(store.clone())];
        read.extend(ingestor.as_ref().map(|name| Op::Get(self.keys.audit(name))));
        let mut answers = self.kv.txn(Txn::read(read)).await?.answers.into_iter();
        let own = got(answers.next())?;
        let incarnation = got(answers.next())?;
        let trail = self.trail_of_lock(ingestor.as_ref(), audit::head_of(answers.next())?);
        let owner = own.as_ref().map(|entry| record::decode::<Candidate>(&entry.key, &entry.value));
        let (Some(entry), Some(Candidate { member, epoch: Some(epoch) })) =
            (own, owner.transpose()?)
        else {
            let lock = ticket.lock.clone();
            return Err(Error::LostOwnership { lock, epoch: Epoch::ZERO, current: None });
        };
        if epoch > fence {
            return Ok(Some(epoch));
        }
        let current = decode_incarnation(incarnation.as_ref())?.incarnation;
        let beyond = |message| Error::Fence { fence, epoch, message };
        let raised = u16::try_from(fence.incarnation() + 1)
            .map_err(|_| beyond("no incarnation lies above it; create a new journal"))?
            .max(current);
        let raised_epoch = Epoch::new(raised, entry.create_revision);
        let mut when = vec![
            Compare::Modified(key.clone(), entry.mod_revision),
            modified(&store, incarnation.as_ref()),
        ];
        let mut then = Vec::new();
        if let Some(mut trail) = trail {
            trail.raised(&member, raised_epoch, fence)?;
            let (unchanged, steps) = trail.write()?;
            when.push(unchanged);
            then.extend(steps);
        }
        let owner = Candidate { member, epoch: Some(raised_epoch) };
        let value = record::encode(&Incarnation { incarnation: raised })?;
        then.push(Op::Put { key: store, value, lease: None });
        then.push(Op::Put { key, value: record::encode(&owner)?, lease: entry.lease });
        let raised = self.kv.txn(Txn { when, then, otherwise: vec![] }).await?.succeeded;
        if raised {
            tracing::warn!(lock = ticket.lock, %fence, epoch = %raised_epoch,
                "the store went backwards; raised its incarnation past the fence");
        }
        Ok(raised.then_some(raised_epoch))
    }
}
