//! Cutting a frame between two changes, without copying any.

use sluice_frame::{Elements, Frame, FrameError, Run};

/// How many of a frame's changes fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fit {
    pub(crate) changes: u32,
    pub(crate) bytes: usize,
}

/// How many leading changes of a frame are within `changes` and `bytes`; the first always is if
/// `at_least_one`.
pub(crate) fn fit(
    frame: &Frame,
    changes: usize,
    bytes: usize,
    at_least_one: bool,
) -> Result<Fit, FrameError> {
    let mut elements = Elements::new(&frame.changes);
    let mut fit = Fit { changes: 0, bytes: 0 };
    while (fit.changes as usize) < changes {
        match elements.next() {
            None => break,
            Some(element) => element?,
        };
        let first = fit.changes == 0 && at_least_one;
        if elements.offset() > bytes && !first {
            break;
        }
        fit = Fit { changes: fit.changes + 1, bytes: elements.offset() };
    }
    Ok(fit)
}

/// Cuts a frame behind the changes that fit: two frames that together are the first one. The
/// block's end stays with the last piece and its metadata with the first, as in the journal.
pub(crate) fn split(mut frame: Frame, fit: Fit) -> (Frame, Frame) {
    let right_changes = frame.changes.split_off(fit.bytes.min(frame.changes.len()));
    let mut left = frame;
    let mut right = Frame { header: left.header.clone(), changes: right_changes };
    right.header.metadata = None;
    left.header.end = None;
    let (mut left_runs, mut right_runs) = (Vec::new(), Vec::new());
    let (mut count, mut bytes) = (fit.changes, u32::try_from(fit.bytes).unwrap_or(u32::MAX));
    let mut index = left.header.first_index;
    for run in std::mem::take(&mut left.header.runs) {
        if run.count <= count {
            count -= run.count;
            bytes = bytes.saturating_sub(run.bytes);
            index = index.saturating_add(run.skip).saturating_add(run.count);
            left_runs.push(run);
        } else if count > 0 {
            let kept = Run { count, bytes, ..run };
            let rest = Run {
                count: run.count - count,
                bytes: run.bytes.saturating_sub(bytes),
                skip: 0,
                ..run
            };
            index = index.saturating_add(run.skip).saturating_add(count);
            left_runs.push(kept);
            right_runs.push(rest);
            count = 0;
        } else {
            right_runs.push(run);
        }
    }
    left.header.runs = left_runs;
    right.header.runs = right_runs;
    right.header.first_index = index;
    (left, right)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{block, changes_of};

    proptest! {
        /// Wherever it is cut, both pieces verify and together say what the whole said.
        #[test]
        fn pieces_are_the_whole(
            stores in proptest::collection::vec(0u8..3, 1..40), at in 0usize..40,
            skip in 0u32..3,
        ) {
            let names: Vec<String> = stores.iter().map(|n| format!("s{n}")).collect();
            let pairs: Vec<(&str, Vec<u8>)> =
                names.iter().enumerate().map(|(i, s)| (s.as_str(), vec![b'k'; i % 7 + 1])).collect();
            let mut whole = block(7, &pairs);
            for run in &mut whole.header.runs {
                run.skip = skip;
            }
            let found = fit(&whole, at, usize::MAX, false).unwrap();
            let (left, right) = split(whole.clone(), found);
            left.verify().unwrap();
            right.verify().unwrap();
            prop_assert_eq!(left.header.changes() as usize, at.min(pairs.len()));
            let joined: Vec<_> = changes_of(&left).into_iter().chain(changes_of(&right)).collect();
            prop_assert_eq!(joined, changes_of(&whole));
            prop_assert_eq!(right.header.next_index(), whole.header.next_index());
            prop_assert!(left.header.end.is_none() && right.header.end == whole.header.end);
        }
    }

    #[test]
    fn bytes_bound_the_fit_but_one_change_always_goes() {
        let frame = block(1, &[("a", vec![1; 100]), ("a", vec![2; 100])]);
        let one = frame.changes.len() / 2;
        assert_eq!(fit(&frame, 9, one, false).unwrap(), Fit { changes: 1, bytes: one });
        assert_eq!(fit(&frame, 9, one - 1, false).unwrap(), Fit { changes: 0, bytes: 0 });
        assert_eq!(fit(&frame, 9, one - 1, true).unwrap(), Fit { changes: 1, bytes: one });
        assert_eq!(fit(&frame, 9, usize::MAX, false).unwrap().changes, 2);
    }
}
