//! Compares what arrived with what the recording says.

use std::{collections::BTreeMap, path::Path};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::Deserialize;

use super::recording::{Pair, Recording, data_file, meta_file};
use crate::exit::{Exit, Failure, on_path};

/// Most differences that are listed.
const LISTED: usize = 10;

/// What was compared.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    /// Data files that are byte for byte as expected.
    pub(crate) files: u64,
    /// Distinct events that were expected and arrived.
    pub(crate) accepted: u64,
    /// Events that arrived again.
    pub(crate) repeated: u64,
    /// Expected events that did not arrive.
    pub(crate) lost: u64,
    /// Everything that is wrong, in words, up to a bound.
    pub(crate) wrong: Vec<String>,
}

impl Verdict {
    fn wrong(&mut self, what: String) {
        if self.wrong.len() < LISTED {
            self.wrong.push(what);
        }
    }

    /// Compares data files with the recording: of all stores, or of some. With all of them there
    /// are meta files too.
    pub(crate) fn block_files(
        &mut self,
        recording: &Recording,
        dir: &Path,
        stores: Option<&[&str]>,
    ) {
        for block in &recording.blocks {
            let data = match stores {
                None => block.data.clone(),
                Some(stores) => block.filtered(stores),
            };
            self.files += u64::from(self.same_bytes(&data_file(dir, block.height), &data));
            if stores.is_some() {
                continue;
            }
            let meta = meta_file(dir, block.height);
            match block.own_meta() {
                Some(expected) => drop(self.same_bytes(&meta, &expected)),
                None => self.whole(&meta, block.meta.len()),
            }
        }
    }

    fn same_bytes(&mut self, path: &Path, expected: &[u8]) -> bool {
        let wrong = match std::fs::read(path) {
            Ok(found) if found == expected => return true,
            Ok(found) => format!(
                "{}: {} bytes, expected {} others",
                path.display(),
                found.len(),
                expected.len()
            ),
            Err(error) => format!("{}: {error}", path.display()),
        };
        self.wrong(wrong);
        false
    }

    /// A meta file is whole, and no larger than the node's. All that can be said where the
    /// recording does not tell which of its transactions repeat those of earlier blocks.
    fn whole(&mut self, path: &Path, recorded: usize) {
        let found = match std::fs::read(path) {
            Ok(found) => found,
            Err(error) => return self.wrong(format!("{}: {error}", path.display())),
        };
        let whole = found.split_first_chunk::<8>().is_some_and(|(length, body)| {
            u64::from_be_bytes(*length) == body.len() as u64 && !body.is_empty()
        });
        if !whole || found.len() > recorded {
            self.wrong(format!("{}: {} bytes, not a whole meta file", path.display(), found.len()));
        }
    }

    /// Compares the events at a receiver with those of one store: each is there, in order once
    /// repeated ids are dropped, with the right content. Up to `floor`, a stored checkpoint, nothing
    /// may come twice.
    pub(crate) fn events(
        &mut self,
        recording: &Recording,
        received: &Path,
        store: &str,
        floor: &str,
    ) -> Result<(), Failure> {
        let text = std::fs::read_to_string(received).map_err(on_path(received))?;
        let mut expected = expected(recording, store);
        let mut last = String::new();
        for (number, line) in text.lines().enumerate() {
            if line.starts_with("{\"batch\":") {
                continue;
            }
            let event: Event = serde_json::from_str(line).map_err(|error| {
                let message = format!("{}, line {}: {error}", received.display(), number + 1);
                Failure::new(Exit::Data, message)
            })?;
            if self.event(&event, &mut expected, &mut last) && event.sequence_id.as_str() <= floor {
                let id = &event.sequence_id;
                self.wrong(format!("event {id} was repeated after the checkpoint {floor}"));
            }
        }
        for (id, (_, state)) in &expected {
            if *state == Arrived::No {
                self.lost += 1;
                self.wrong(format!("event {id} was lost"));
            }
        }
        Ok(())
    }

    /// The window is one batch and the checkpoint is stored after each, so a kill repeats no more.
    pub(crate) fn repeats_at_most(&mut self, most: u64) {
        if self.repeated > most {
            self.wrong(format!("{} events came again, {most} may", self.repeated));
        }
    }

    /// Takes one event; true if it came before.
    fn event(
        &mut self,
        event: &Event,
        expected: &mut BTreeMap<String, (&Pair, Arrived)>,
        last: &mut String,
    ) -> bool {
        let Some((pair, arrived)) = expected.get_mut(&event.sequence_id) else {
            self.wrong(format!("event {} was never captured", event.sequence_id));
            return false;
        };
        if !event.is(pair) {
            self.wrong(format!("event {} has other content", event.sequence_id));
        }
        if *arrived == Arrived::Yes {
            self.repeated += 1;
            return true;
        }
        *arrived = Arrived::Yes;
        self.accepted += 1;
        if event.sequence_id <= *last {
            self.wrong(format!("event {} came after {last}", event.sequence_id));
        }
        last.clone_from(&event.sequence_id);
        false
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Arrived {
    No,
    Yes,
}

/// The ids are derived from height and place in the block, so they can be computed here.
fn expected<'a>(recording: &'a Recording, store: &str) -> BTreeMap<String, (&'a Pair, Arrived)> {
    let mut expected = BTreeMap::new();
    for block in &recording.blocks {
        for (index, pair) in block.pairs.iter().enumerate().filter(|(_, pair)| pair.store == store)
        {
            let id = format!("{:020}-{index:08x}", block.height);
            expected.insert(id, (pair, Arrived::No));
        }
    }
    expected
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Event {
    sequence_id: String,
    store: String,
    op: String,
    key: String,
    value: Option<String>,
    encoding: String,
}

impl Event {
    fn is(&self, pair: &Pair) -> bool {
        let value = if pair.delete { None } else { Some(STANDARD.encode(&pair.value)) };
        self.encoding == "base64"
            && self.store == pair.store
            && self.op == if pair.delete { "delete" } else { "set" }
            && self.key == STANDARD.encode(&pair.key)
            && self.value == value
    }
}

#[cfg(test)]
mod tests {
    use super::super::recording::Block;
    use super::*;

    fn recording() -> Recording {
        let data = b"\0\0\0\0\0\0\0\x0e\x0d\x0a\x04bank\x1a\x01k\x22\x02vv".to_vec();
        let dir = tempfile::tempdir().unwrap();
        for height in 1..=3 {
            std::fs::write(data_file(dir.path(), height), &data).unwrap();
            std::fs::write(meta_file(dir.path(), height), b"\0\0\0\0\0\0\0\x02mm").unwrap();
        }
        let recording = Recording::read(dir.path()).unwrap();
        assert_eq!((recording.blocks.len(), recording.changes()), (3, 3));
        recording
    }

    fn line(height: u64, value: &str) -> String {
        format!(
            r#"{{"sequenceId":"{height:020}-00000000","store":"bank","op":"set","key":"aw==","value":"{value}","encoding":"base64"}}"#
        )
    }

    fn judge(lines: &[String]) -> Verdict {
        judge_above("", lines)
    }

    fn judge_above(floor: &str, lines: &[String]) -> Verdict {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("received.jsonl");
        std::fs::write(&file, lines.join("\n")).unwrap();
        let mut verdict = Verdict::default();
        verdict.events(&recording(), &file, "bank", floor).unwrap();
        verdict
    }

    #[test]
    fn repeats_are_fine_and_everything_else_is_found() {
        let good = |height| line(height, "dnY=");
        let verdict = judge(&[good(1), good(2), good(1), good(2), good(3)]);
        assert_eq!((verdict.accepted, verdict.repeated, verdict.lost), (3, 2, 0));
        assert!(verdict.wrong.is_empty(), "{:?}", verdict.wrong);

        let stored = format!("{:020}-ffffffff", 1);
        let lines = [good(1), good(2), good(2), good(3)];
        assert!(judge_above(&stored, &lines).wrong.is_empty());
        let lines = [good(1), good(2), good(1), good(3)];
        assert!(judge_above(&stored, &lines).wrong[0].contains("after the checkpoint"));

        assert_eq!(judge(&[good(1), good(3)]).lost, 1);
        assert!(judge(&[good(2), good(1), good(3)]).wrong[0].contains("came after"));
        assert!(judge(&[good(1), line(2, "eA=="), good(3)]).wrong[0].contains("other content"));
        assert!(judge(&[good(1), good(2), good(3), good(4)]).wrong[0].contains("never captured"));
    }

    #[test]
    fn a_byte_that_differs_is_found() {
        let (recording, dir) = (recording(), tempfile::tempdir().unwrap());
        for Block { height, data, meta, .. } in &recording.blocks {
            std::fs::write(data_file(dir.path(), *height), data).unwrap();
            std::fs::write(meta_file(dir.path(), *height), meta).unwrap();
        }
        let judge = || {
            let mut verdict = Verdict::default();
            verdict.block_files(&recording, dir.path(), None);
            verdict
        };
        assert_eq!((judge().files, judge().wrong.len()), (3, 0));
        let mut data = recording.blocks[1].data.clone();
        *data.last_mut().unwrap() ^= 1;
        std::fs::write(data_file(dir.path(), 2), data).unwrap();
        assert_eq!((judge().files, judge().wrong.len()), (2, 1));
        std::fs::write(meta_file(dir.path(), 3), b"\0\0\0\0\0\0\0\x02m").unwrap();
        assert_eq!((judge().files, judge().wrong.len()), (2, 2), "a torn meta file");
    }

    #[test]
    fn a_meta_file_with_a_transaction_of_an_earlier_block_is_found() {
        let recorded =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/cosmos-recording");
        let mut recording = Recording::read(&recorded).unwrap();
        recording.blocks.truncate(2);
        let dir = tempfile::tempdir().unwrap();
        for block in &recording.blocks {
            std::fs::write(data_file(dir.path(), block.height), &block.data).unwrap();
            let meta = block.own_meta().unwrap();
            std::fs::write(meta_file(dir.path(), block.height), meta).unwrap();
        }
        let judge = || {
            let mut verdict = Verdict::default();
            verdict.block_files(&recording, dir.path(), None);
            (verdict.files, verdict.wrong)
        };
        assert_eq!(judge(), (2, Vec::new()));
        std::fs::write(meta_file(dir.path(), 1), &recording.blocks[0].meta).unwrap();
        let (files, wrong) = judge();
        assert_eq!((files, wrong.len()), (2, 1));
        assert!(wrong[0].contains("block-1-meta"), "{wrong:?}");
    }
}
