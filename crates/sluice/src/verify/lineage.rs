//! Which of a journal's blocks belong to its present history.

use sluice_model::{Generation, Pointer};

/// The rewinds of a journal.
#[derive(Clone, Debug, Default)]
pub(super) struct Lineage(Vec<(Generation, Pointer)>);

impl Lineage {
    /// A generation began after this block.
    pub(super) fn rewound(&mut self, generation: Generation, base: Pointer) {
        self.0.push((generation, base));
    }

    /// True unless a later generation left the block behind.
    pub(super) fn keeps(&self, generation: Generation, pointer: &Pointer) -> bool {
        self.0.iter().all(|(begun, base)| generation >= *begun || pointer <= base)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_rewind_left_behind_does_not_count() {
        let at = Pointer::from_height;
        let mut lineage = Lineage::default();
        assert!(lineage.keeps(Generation(0), &at(9)));
        lineage.rewound(Generation(1), at(5));
        lineage.rewound(Generation(2), at(3));
        lineage.rewound(Generation(3), at(7));
        let kept = |generation, height| lineage.keeps(Generation(generation), &at(height));
        assert!(kept(0, 3) && !kept(0, 4) && !kept(0, 6));
        assert!(!kept(1, 6), "its base was left behind in turn");
        assert!(kept(2, 4) && kept(2, 7) && !kept(2, 8));
        assert!(kept(3, 8));
    }
}
