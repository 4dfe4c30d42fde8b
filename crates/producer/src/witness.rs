//! Compares what the journal says with what is remembered elsewhere. Pure.
//!
//! The committed position and this process's own last acknowledgement are witnesses of what the
//! journal once held. A journal that is behind a witness, or has another block in its place, has
//! lost data: nobody may go on silently.

use sluice_client::coordination::CommitRecord;
use sluice_model::{Generation, Head, JournalId, Pointer};

use crate::source::Ack;

/// What the comparison says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// They agree.
    Agree,
    /// The journal is ahead of the commit, which is to be moved to the head.
    Repair,
    /// The journal lost data; in words that name both sides.
    Loss(String),
}

/// Compares the head of the journal with this id with its witnesses.
pub fn compare(
    id: JournalId,
    head: Option<&Head>,
    commit: Option<&CommitRecord>,
    own: Option<&Ack>,
) -> Verdict {
    if let Some(own) = own.filter(|ack| !ack.unverifiable) {
        let place = (own.generation, &own.pointer);
        if let Some(loss) = behind(head, place, &own.digest, "the last acknowledged block") {
            return Verdict::Loss(loss);
        }
    }
    let Some(commit) = commit else {
        return if head.is_some() { Verdict::Repair } else { Verdict::Agree };
    };
    if commit.journal != id {
        return Verdict::Loss(format!(
            "the committed block {} is in journal {}, but the journal is {id}",
            commit.pointer, commit.journal
        ));
    }
    let place = (commit.generation, &commit.pointer);
    if let Some(loss) = behind(head, place, &commit.digest, "the committed block") {
        return Verdict::Loss(loss);
    }
    let at_head = head.is_none_or(|head| (head.generation, &head.pointer) == place);
    if at_head { Verdict::Agree } else { Verdict::Repair }
}

fn behind(
    head: Option<&Head>,
    (generation, pointer): (Generation, &Pointer),
    digest: &sluice_model::Digest,
    witness: &str,
) -> Option<String> {
    if pointer.is_origin() {
        return None;
    }
    let named = format!("{witness} is {pointer} (generation {generation}, {})", digest.short());
    let Some(head) = head else {
        return Some(format!("{named}, but the journal is empty"));
    };
    let place = (head.generation, &head.pointer);
    let ends =
        format!("{} (generation {}, {})", head.pointer, head.generation, head.digest.short());
    match place.cmp(&(generation, pointer)) {
        std::cmp::Ordering::Less => Some(format!("{named}, but the journal ends at {ends}")),
        std::cmp::Ordering::Equal if head.digest != *digest => {
            Some(format!("{named}, but the journal has another block there: {ends}"))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use sluice_model::{Digest, Durability, Epoch};

    use super::*;

    const ID: JournalId = JournalId::from_array([1; 16]);

    fn head(generation: u32, height: u64, digest: u8) -> Head {
        Head {
            generation: Generation(generation),
            pointer: Pointer::from_height(height),
            height,
            digest: Digest::from_array([digest; 32]),
            time: None,
            appended: 0,
        }
    }

    fn commit(generation: u32, height: u64, digest: u8) -> CommitRecord {
        CommitRecord {
            journal: ID,
            epoch: Epoch::ZERO,
            generation: Generation(generation),
            pointer: Pointer::from_height(height),
            digest: Digest::from_array([digest; 32]),
            durability: Durability::Fsynced,
            sequence: 1,
        }
    }

    fn loss(verdict: &Verdict) -> &str {
        let Verdict::Loss(text) = verdict else { panic!("{verdict:?}") };
        text
    }

    #[test]
    fn agreement_and_repair() {
        assert_eq!(compare(ID, None, None, None), Verdict::Agree);
        let at = head(0, 5, 5);
        assert_eq!(compare(ID, Some(&at), Some(&commit(0, 5, 5)), None), Verdict::Agree);
        assert_eq!(compare(ID, Some(&at), Some(&commit(0, 3, 3)), None), Verdict::Repair);
        assert_eq!(compare(ID, Some(&at), None, None), Verdict::Repair);
        let rewound = head(1, 2, 9);
        assert_eq!(
            compare(ID, Some(&rewound), Some(&commit(0, 5, 5)), None),
            Verdict::Repair,
            "a later history may be lower"
        );
    }

    #[test]
    fn loss_names_both_sides() {
        let behind = compare(ID, Some(&head(0, 4, 4)), Some(&commit(0, 5, 5)), None);
        assert!(loss(&behind).contains("committed block is 5"), "{behind:?}");
        assert!(loss(&behind).contains("ends at 4"), "{behind:?}");
        let empty = compare(ID, None, Some(&commit(0, 5, 5)), None);
        assert!(loss(&empty).contains("empty"));
        let other = compare(ID, Some(&head(0, 5, 6)), Some(&commit(0, 5, 5)), None);
        assert!(loss(&other).contains("another block"));
        let id = JournalId::from_array([2; 16]);
        assert!(loss(&compare(id, None, Some(&commit(0, 5, 5)), None)).contains("in journal"));
    }

    #[test]
    fn the_own_acknowledgement_counts_too() {
        let own = Ack {
            pointer: Pointer::from_height(7),
            height: 7,
            generation: Generation(0),
            digest: Digest::from_array([7; 32]),
            time: None,
            durability: Durability::Fsynced,
            duplicate: false,
            unverifiable: false,
        };
        let verdict = compare(ID, Some(&head(0, 6, 6)), Some(&commit(0, 5, 5)), Some(&own));
        assert!(loss(&verdict).contains("last acknowledged block is 7"));
        let agreed = compare(ID, Some(&head(0, 7, 7)), Some(&commit(0, 7, 7)), Some(&own));
        assert_eq!(agreed, Verdict::Agree);
    }
}
