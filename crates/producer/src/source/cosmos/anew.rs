//! Notices files that were made anew after their blocks were taken, as a node does that was rolled
//! back or restored: it writes the same heights again.

use std::{collections::BTreeMap, fs, io, os::unix::fs::MetadataExt, path::Path};

/// Blocks whose files are remembered.
const REMEMBERED: usize = 256;

/// Tells whether a file is still the one that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

impl Identity {
    /// Of the file at this path; `None` if there is none.
    pub(super) fn of(path: &Path) -> io::Result<Option<Self>> {
        match fs::metadata(path) {
            Ok(found) => Ok(Some(Self {
                inode: found.ino(),
                size: found.size(),
                modified: (found.mtime(), found.mtime_nsec()),
            })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// The files of the newest blocks that were taken; `None` for one that was taken away since.
#[derive(Clone, Debug, Default)]
pub(super) struct Taken(BTreeMap<u64, Option<Identity>>);

impl Taken {
    /// A block was taken from this file.
    pub(super) fn took(&mut self, height: u64, file: Option<Identity>) {
        self.0.insert(height, file);
        if self.0.len() > REMEMBERED {
            self.0.pop_first();
        }
    }

    /// Looks at the file of one block; true if it was made anew.
    pub(super) fn look(&mut self, height: u64, now: Option<Identity>) -> bool {
        match self.0.get_mut(&height) {
            // Nothing is known of it.
            None => false,
            Some(known) if now.is_none() => {
                *known = None;
                false
            }
            Some(known) => *known != now,
        }
    }

    /// Looks at all of them; the lowest block whose file was made anew.
    pub(super) fn lowest(
        &mut self,
        now: impl Fn(u64) -> io::Result<Option<Identity>>,
    ) -> io::Result<Option<u64>> {
        let heights: Vec<u64> = self.0.keys().copied().collect();
        for height in heights {
            if self.look(height, now(height)?) {
                return Ok(Some(height));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(inode: u64) -> Option<Identity> {
        Some(Identity { inode, size: 8, modified: (1, 2) })
    }

    #[test]
    fn a_file_that_changed_or_came_back_was_made_anew_and_one_that_went_was_not() {
        let mut taken = Taken::default();
        for height in 1..=4 {
            taken.took(height, file(height));
        }
        assert_eq!(taken.lowest(|height| Ok(file(height))).unwrap(), None);
        assert_eq!(taken.lowest(|height| Ok(file(height.max(3)))).unwrap(), Some(1));
        assert_eq!(taken.lowest(|_| Ok(None)).unwrap(), None, "consumed");
        assert_eq!(taken.lowest(|h| Ok((h >= 3).then(|| file(h)).flatten())).unwrap(), Some(3));
        assert!(!taken.look(9, file(9)), "never taken");
    }

    #[test]
    fn remembers_a_bounded_number() {
        let mut taken = Taken::default();
        for height in 0..1000 {
            taken.took(height, file(1));
        }
        assert_eq!(taken.0.len(), REMEMBERED);
        assert!(!taken.look(0, file(2)) && taken.look(999, file(2)));
    }
}
