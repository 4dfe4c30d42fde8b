//! Flipped bits, cut files, missing files in a journal of several segments: acknowledged blocks
//! are either there unchanged or reported, and what follows stays readable.

use std::path::{Path, PathBuf};

use sluice_journal::{
    Journal, JournalError, Options, ReadError, ReadFrom,
    conformance::{ID, name, stores},
    files::{
        Files,
        fault::{FaultFiles, Plan},
    },
};

use super::support::{
    Content, DIR, append, check_whole, content, covers, filled, keeping, open, options, runtime,
    segments, start, start_with,
};

const LAST: u64 = 24;

/// A closed journal of some segments.
async fn sound() -> FaultFiles {
    let files = FaultFiles::new();
    let (journal, _writer) = filled(&files, options(), LAST).await;
    journal.close().await;
    assert!(segments(&files).len() >= 3);
    files
}

/// The same files with one of them replaced.
fn with(files: &FaultFiles, path: &Path, content: Vec<u8>) -> FaultFiles {
    let copy = files.kill();
    copy.put(path, content);
    copy
}

async fn look(files: &FaultFiles, what: &str) -> (Content, u64) {
    let journal = start(files);
    let content = content(journal.as_ref()).await;
    content.lost(LAST, what);
    let status = journal.status(&name()).await.unwrap();
    if !content.corrupt.is_empty() {
        assert!(status.quarantined > 0, "{what}: not counted");
    }
    // Whatever is damaged, the journal can be opened and appended to.
    let (mut writer, head) = open(journal.as_ref(), 6).await.unwrap();
    append(writer.as_mut(), head + 1).await.unwrap();
    journal.close().await;
    (content, status.quarantined)
}

#[test]
fn flipped_bits_are_harmless_or_reported() {
    let runtime = runtime();
    let files = runtime.block_on(sound());
    let mut damaged = 0;
    for path in segments(&files) {
        let original = files.content(&path).unwrap();
        // Zeros behind the records and between the copies of the header carry nothing; a few of
        // them are flipped too.
        let used: Vec<usize> = (0..original.len())
            .filter(|at| original[*at] != 0 || at % 1999 == 0)
            .enumerate()
            .filter(|(number, _)| number % 29 == 0)
            .map(|(_, at)| at)
            .collect();
        for at in used {
            let mut broken = original.clone();
            broken[at] ^= 1 << (at % 8);
            let what = format!("{} byte {at}", path.display());
            let (content, _) = runtime.block_on(look(&with(&files, &path, broken), &what));
            // One bit never costs more than a block.
            let lost = LAST - content.heights.len() as u64;
            assert!(lost <= 1, "{what}: {lost} blocks");
            damaged += lost;
        }
    }
    assert!(damaged > 20, "{damaged}");
}

#[test]
fn cut_segments_are_reported() {
    let runtime = runtime();
    let files = runtime.block_on(sound());
    for path in segments(&files) {
        let original = files.content(&path).unwrap();
        let used = original.iter().rposition(|byte| *byte != 0).unwrap() + 1;
        for len in (0..used).step_by(97) {
            let what = format!("{} cut to {len}", path.display());
            let cut = with(&files, &path, original[..len].to_vec());
            let (content, _) = runtime.block_on(look(&cut, &what));
            assert!(
                len < 4096 || !content.corrupt.is_empty() || content.heights.len() as u64 == LAST
            );
        }
    }
}

/// A block that begins in a segment that is gone is damage, not something retention did.
#[test]
fn a_missing_first_segment_is_reported_from_the_earliest() {
    let runtime = runtime();
    let files = runtime.block_on(sound());
    runtime.block_on(async {
        let mut spanning = 0;
        let paths = segments(&files);
        for gone in 1..paths.len() {
            let copy = files.kill();
            paths[..gone].iter().for_each(|path| copy.take(path));
            let journal = start(&copy);
            let content = content(journal.as_ref()).await;
            let first = content.heights[0];
            assert_eq!(content.heights, (first..=LAST).collect::<Vec<_>>());
            let oldest = journal.status(&name()).await.unwrap().oldest.pointer.height().unwrap();
            let reported = |height| content.corrupt.iter().any(|c| covers(c, height));
            assert!((oldest + 1..first).all(reported));
            spanning += content.corrupt.len();
            journal.close().await;
        }
        assert!(spanning > 0, "no block spans two segments");
    });
}

#[test]
fn a_missing_segment_is_reported_and_the_rest_is_readable() {
    let runtime = runtime();
    let files = runtime.block_on(sound());
    let paths = segments(&files);
    for path in &paths[1..] {
        let copy = files.kill();
        copy.take(path);
        let what = format!("without {}", path.display());
        let (content, _) = runtime.block_on(look(&copy, &what));
        assert!(!content.corrupt.is_empty() && !content.heights.is_empty(), "{what}");
    }
}

#[test]
fn side_indexes_only_repeat_what_the_segments_say() {
    let runtime = runtime();
    let files = runtime.block_on(sound());
    let indexes: Vec<PathBuf> = files
        .paths()
        .into_iter()
        .filter(|path| path.extension().is_some_and(|e| e == "idx"))
        .collect();
    assert!(indexes.len() >= 2);
    for index in indexes {
        let missing = files.kill();
        missing.take(&index);
        let original = files.content(&index).unwrap();
        let mut disks = vec![missing];
        for at in [0, 20, 60, original.len() - 40, original.len() / 2 + 512] {
            let mut broken = original.clone();
            broken[at.min(original.len() - 1)] ^= 4;
            disks.push(with(&files, &index, broken));
        }
        disks.push(with(&files, &index, original[..original.len() / 2].to_vec()));
        for disk in disks {
            runtime.block_on(async {
                let journal = start(&disk);
                assert_eq!(check_whole(journal.as_ref(), LAST).await, 1);
                journal.close().await;
            });
        }
    }
}

#[test]
fn nothing_is_made_or_deleted_without_fence_state() {
    let runtime = runtime();
    let files = runtime.block_on(sound());
    let control = Path::new(DIR).join("chain/control");
    let missing = files.kill();
    missing.take(&control);
    let damaged = with(&files, &control, vec![0; 8192]);
    for disk in [missing, damaged] {
        runtime.block_on(async {
            let before = segments(&disk).len();
            let journal = start(&disk);
            for result in [
                journal.create(&name(), ID).await.err(),
                open(journal.as_ref(), 9).await.err(),
                journal.status(&name()).await.err(),
            ] {
                assert!(matches!(result, Some(JournalError::NoFenceState { .. })), "{result:?}");
            }
            assert_eq!(segments(&disk).len(), before);
            assert_eq!(journal.list().await.unwrap(), [name()], "it is still shown");
            journal.close().await;
        });
    }
    // One bad slot is survived with the fence intact.
    for slot in [0, 4096] {
        let mut content = files.content(&control).unwrap();
        content[slot + 30] ^= 1;
        let disk = with(&files, &control, content);
        runtime.block_on(async {
            let journal = start(&disk);
            let error = open(journal.as_ref(), 4).await.unwrap_err();
            assert!(matches!(error, JournalError::Fenced { .. }), "{error}");
            journal.close().await;
        });
    }
}

#[test]
fn damage_after_the_start_is_reported_where_it_is_read() {
    let runtime = runtime();
    let files = runtime.block_on(sound());
    runtime.block_on(async {
        let path = segments(&files).remove(0);
        let journal = start_with(&files, Options { tail_cache_bytes: 0, ..options() });
        let original = files.content(&path).unwrap();
        let file = files.open(&path).unwrap();
        let at = original.iter().rposition(|byte| *byte != 0).unwrap() as u64 - 100;
        file.write(&[std::io::IoSlice::new(&[0xaa; 40])], at).unwrap();
        let content = content(journal.as_ref()).await;
        assert_eq!(content.lost(LAST, "overwritten"), 1);
        assert_eq!(content.corrupt.len(), 1);
        assert_eq!(content.corrupt[0].file, path.display().to_string());
        let status = journal.status(&name()).await.unwrap();
        assert_eq!(status.quarantined, 1);
        assert!(!journal.verify(&name(), Box::new(|_| ())).await.unwrap().is_sound());
        journal.close().await;
    });
}

#[test]
fn an_interrupted_write_is_cut_and_kept_aside() {
    let runtime = runtime();
    let mut cuts = 0;
    for operation in 10..70 {
        let files = FaultFiles::new();
        runtime.block_on(async {
            files.plan(Plan { crash_at: Some(operation), ..Plan::default() });
            let journal = start(&files);
            let Ok((mut writer, _)) = open(journal.as_ref(), 1).await else { return };
            let mut acked = 0;
            for height in 1..40 {
                if append(writer.as_mut(), height).await.is_err() {
                    break;
                }
                acked = height;
            }
            let disk = files.reboot(operation);
            let journal = start(&disk);
            check_whole(journal.as_ref(), acked).await;
            let status = journal.status(&name()).await.unwrap();
            let aside = disk.paths().iter().any(|p| p.extension().is_some_and(|e| e == "cut"));
            assert_eq!(status.cut_bytes > 0, aside);
            cuts += u64::from(aside);
            journal.close().await;
        });
    }
    assert!(cuts > 0, "no write was torn");
}

#[test]
fn readers_that_fall_off_retention_are_told() {
    runtime().block_on(async {
        let files = FaultFiles::new();
        let options = Options { tail_cache_bytes: 0, ..keeping(1) };
        let (journal, _writer) = filled(&files, options, LAST).await;
        let mut reader = journal.read(&name(), ReadFrom::Earliest, stores(&[])).await.unwrap();
        reader.next().await.unwrap();
        journal.trim(&name(), Some(&[]), 0).await.unwrap();
        let error = loop {
            if let Err(error) = reader.next().await {
                break error;
            }
        };
        let oldest = journal.status(&name()).await.unwrap().oldest;
        assert!(
            matches!(&error, ReadError::OutOfRange { oldest: told } if *told == oldest),
            "{error}"
        );
        journal.close().await;
    });
}
