//! Shared by the tests of this crate.

use crate::{
    notes::Notes,
    source::{OnGap, SourceContext, capture::Doors},
};

/// A context of an ingestor with this name.
pub(crate) fn context(name: &str) -> SourceContext {
    SourceContext {
        ingestor: name.parse().unwrap(),
        on_gap: OnGap::Halt,
        notes: Notes::default(),
        doors: Doors::default(),
    }
}
