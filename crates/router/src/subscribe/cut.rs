use bytes::Bytes;
use sluice_frame::{Elements, Frame, Header, Run};

/// What of a stored frame comes after a change of its block. Runs keep their routes; the changes
/// before count as left out, so that every index stays what it is.
///
/// For the one block in which a reader starts; everything else goes out as it is stored.
pub(super) fn after_index(header: &Header, changes: &Bytes, index: u32) -> (Header, Bytes) {
    let mut kept: Vec<Run> = Vec::new();
    let (mut at, mut skipped, mut begin) = (header.first_index, 0u32, 0usize);
    for run in &header.runs {
        at = at.saturating_add(run.skip);
        skipped = skipped.saturating_add(run.skip);
        // Changes of this run that are not wanted any more.
        let passed = index.saturating_add(1).saturating_sub(at).min(run.count);
        at = at.saturating_add(run.count);
        skipped = skipped.saturating_add(passed);
        if passed == run.count {
            begin = begin.saturating_add(run.bytes as usize);
            continue;
        }
        let gone = length_of(changes.get(begin_of(&kept, begin)..).unwrap_or_default(), passed);
        if kept.is_empty() {
            begin = begin.saturating_add(gone);
        }
        kept.push(Run {
            route: run.route,
            count: run.count - passed,
            bytes: run.bytes.saturating_sub(u32::try_from(gone).unwrap_or(u32::MAX)),
            skip: skipped,
        });
        skipped = 0;
    }
    let mut header = header.clone();
    header.runs = kept;
    (header, changes.slice(begin.min(changes.len())..))
}

/// Where the next run begins, as far as it matters: only the first kept run can be cut.
fn begin_of(kept: &[Run], begin: usize) -> usize {
    kept.iter().fold(begin, |at, run| at.saturating_add(run.bytes as usize))
}

/// The frame with at most its first `limit` changes.
pub(crate) fn first_changes(frame: &Frame, limit: u32) -> Frame {
    let mut header = frame.header.clone();
    let mut left = limit;
    header.runs.retain_mut(|run| {
        let kept = run.count.min(left);
        left -= kept;
        run.count = kept;
        kept > 0
    });
    let end = length_of(&frame.changes, limit);
    // Only the last run can have lost changes: it has the bytes that the others leave.
    let before: usize = header.runs.iter().rev().skip(1).map(|run| run.bytes as usize).sum();
    if let Some(last) = header.runs.last_mut() {
        last.bytes = u32::try_from(end.saturating_sub(before)).unwrap_or(u32::MAX);
    }
    Frame { header, changes: frame.changes.slice(..end) }
}

/// Bytes of the first `count` changes of a region.
fn length_of(region: &[u8], count: u32) -> usize {
    let mut elements = Elements::new(region);
    for _ in 0..count {
        if !matches!(elements.next(), Some(Ok(_))) {
            break;
        }
    }
    elements.offset()
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use proptest::prelude::*;
    use sluice_frame::{put_change, scan};
    use sluice_model::{Kind, Op, Pointer, TopicRules};

    use super::*;

    fn frame(stores: &[u8], first_index: u32) -> Frame {
        let mut changes = BytesMut::new();
        for (i, store) in (0u8..).zip(stores) {
            let store = format!("s{store}");
            put_change(&store, Op::Set, &[i], &vec![7; usize::from(i) * 3], &mut changes);
        }
        let changes = changes.freeze();
        let table = scan(&changes, &TopicRules::default()).unwrap();
        let mut header =
            Header::new(Kind::Block, "hub".parse().unwrap(), Pointer::from_height(5), 5);
        header.routes = table.routes;
        header.runs = table.runs;
        header.first_index = first_index;
        Frame { header, changes }
    }

    fn list(frame: &Frame) -> Vec<(u32, String, Vec<u8>)> {
        frame.verify().unwrap();
        frame
            .changes()
            .map(|change| {
                let (index, route, change) = change.unwrap();
                (index, route.store.to_string(), change.key.to_vec())
            })
            .collect()
    }

    proptest! {
        #[test]
        fn cuts_are_exact(
            stores in prop::collection::vec(0u8..3, 0..40),
            first_index in 0u32..100,
            at in 0u32..160,
            limit in 0u32..50,
        ) {
            let whole = frame(&stores, first_index);
            let (header, changes) = after_index(&whole.header, &whole.changes, at);
            let expected: Vec<_> =
                list(&whole).into_iter().filter(|(index, ..)| *index > at).collect();
            prop_assert_eq!(list(&Frame { header, changes }), expected);

            let mut expected = list(&whole);
            expected.truncate(limit as usize);
            prop_assert_eq!(list(&first_changes(&whole, limit)), expected);
        }
    }
}
