use std::{collections::BTreeSet, time::Duration};

use bytes::Bytes;

use crate::{
    audit,
    coordination::{Coordination, LIST_LIMIT, TRIES, Ticket, got, pause},
    error::Error,
    keys::{KeyError, NONCE},
    kv::{Compare, Entry, KvError, LeaseId, Op, Txn},
    record::{self, Candidate, Wish},
};

/// Bounds of a session's duration.
const TTL: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(3600);

impl Coordination {
    /// Makes a session and returns its id and the duration the store gave it. Idempotent by
    /// nonce: the id is the nonce's first 63 bits.
    pub async fn grant_session(
        &self,
        nonce: &Bytes,
        ttl: Duration,
    ) -> Result<(LeaseId, Duration), Error> {
        if !NONCE.contains(&nonce.len()) {
            return Err(KeyError::Nonce(nonce.len()).into());
        }
        if !TTL.contains(&ttl) {
            return Err(Error::Invalid(format!("a session lasts 1 s to 1 h, not {ttl:?}")));
        }
        let lease = lease_of(nonce);
        let granted = match self.kv.grant(lease, ttl).await {
            // It may exist now; asking again says.
            Err(KvError::Unknown(_)) => self.kv.grant(lease, ttl).await?,
            granted => granted?,
        };
        Ok((lease, granted))
    }

    /// Renews a session once and returns what is left of it, counted by the store; **zero means
    /// that it ended**. Candidates of the session whose nonces are not in `wanted` are deleted:
    /// their askers went away without saying so. Both at once, because what is left counts from
    /// when the caller asked.
    pub async fn keep_alive(&self, session: u64, wanted: &[Bytes]) -> Result<Duration, Error> {
        let (left, swept) =
            tokio::join!(self.kv.keep_alive(session), self.forget_unwanted(session, wanted));
        let left = left?;
        if !left.is_zero()
            && let Err(error) = swept
        {
            // The renewal counts; the next keepalive cleans up.
            tracing::warn!(session, %error, "unwanted candidates stay for now");
        }
        Ok(left)
    }

    async fn forget_unwanted(&self, session: u64, wanted: &[Bytes]) -> Result<(), Error> {
        let prefix = self.keys.session(session);
        let wishes = self.kv.range(&prefix, LIST_LIMIT).await?;
        let wanted: Result<BTreeSet<String>, KeyError> =
            wanted.iter().map(|nonce| self.keys.wish(session, nonce)).collect();
        let wanted = wanted?;
        for wish in wishes.entries.iter().filter(|wish| !wanted.contains(&wish.key)) {
            self.forget(&prefix, session, wish).await?;
        }
        Ok(())
    }

    async fn forget(&self, prefix: &str, session: u64, entry: &Entry) -> Result<(), Error> {
        let Wish { lock } = record::decode(&entry.key, &entry.value)?;
        let nonce = entry.key.strip_prefix(prefix).unwrap_or_default();
        let candidate = format!("{}{session:016x}-{nonce}", self.keys.candidates(&lock)?);
        let txn = Txn {
            when: vec![Compare::Modified(entry.key.clone(), entry.mod_revision)],
            then: vec![Op::Delete(candidate), Op::Delete(entry.key.clone())],
            otherwise: vec![],
        };
        self.repeat(&txn).await?;
        tracing::debug!(session, lock, "deleted a candidate nobody wants");
        Ok(())
    }

    /// Ends a session and deletes every candidate under it. Idempotent.
    pub async fn end_session(&self, session: u64) -> Result<(), Error> {
        match self.kv.revoke(session).await {
            Err(KvError::Unknown(_)) => Ok(self.kv.revoke(session).await?),
            revoked => Ok(revoked?),
        }
    }

    /// Gives a candidate up, owner or waiter. Idempotent; the key is the caller's own, so no
    /// successor's is ever touched.
    pub async fn release(&self, ticket: &Ticket) -> Result<(), Error> {
        let candidate = self.candidate_key(ticket)?;
        let wish = self.keys.wish(ticket.session, &ticket.nonce)?;
        let gone = vec![Op::Delete(candidate), Op::Delete(wish)];
        for tries in 1..=TRIES {
            match self.release_owned(ticket, &gone).await {
                Ok(Some(true)) => return Ok(()),
                Ok(Some(false)) => break,
                Ok(None) => {}
                Err(error) if error.is_unknown() && tries < TRIES => {}
                Err(error) => return Err(error),
            }
            pause(tries).await;
        }
        self.repeat(&Txn::read(gone)).await?;
        Ok(())
    }

    /// Releases an ingestor's lock together with the entry in its trail. False if this is no such
    /// lock or not its owner; `None` if somebody else wrote to the trail meanwhile.
    async fn release_owned(&self, ticket: &Ticket, gone: &[Op]) -> Result<Option<bool>, Error> {
        let Some(ingestor) = audit::ingestor_of(&ticket.lock) else { return Ok(Some(false)) };
        let own = self.candidate_key(ticket)?;
        let read = vec![Op::Get(own), Op::Get(self.keys.audit(&ingestor))];
        let mut answers = self.kv.txn(Txn::read(read)).await?.answers.into_iter();
        let Some(own) = got(answers.next())? else { return Ok(Some(false)) };
        let candidate: Candidate = record::decode(&own.key, &own.value)?;
        let trail = self.trail_of_lock(Some(&ingestor), audit::head_of(answers.next())?);
        let (Some(epoch), Some(mut trail)) = (candidate.epoch, trail) else {
            return Ok(Some(false));
        };
        trail.released(&candidate.member, epoch)?;
        let (unchanged, mut then) = trail.write()?;
        then.extend_from_slice(gone);
        let when = vec![Compare::Modified(own.key, own.mod_revision), unchanged];
        let written = self.kv.txn(Txn { when, then, otherwise: vec![] }).await?.succeeded;
        if written {
            trail.log();
        }
        Ok(written.then_some(true))
    }
}

fn lease_of(nonce: &[u8]) -> LeaseId {
    let bits = nonce.first_chunk::<8>().map_or(0, |bytes| u64::from_be_bytes(*bytes));
    (bits & i64::MAX.unsigned_abs()).max(1)
}
