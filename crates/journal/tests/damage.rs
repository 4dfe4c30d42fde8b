//! Flipped bits, cut files, missing files: acknowledged blocks are either there unchanged or
//! reported, and what follows stays readable.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests report by panicking, as tests do"
)]

#[path = "support/shared.rs"]
mod support;

use std::path::{Path, PathBuf};

use sluice_journal::{
    Corruption, Embedded, Journal, JournalError, ReadError, ReadFrom,
    conformance::{name, stores},
    files::fault::{FaultFiles, Plan},
};
use support::{
    Content, DIR, append, check_whole, content, open, options, runtime, segments, start,
};

const LAST: u64 = 24;

/// A closed journal of some segments.
async fn sound() -> FaultFiles {
    let files = FaultFiles::new();
    let journal = start(&files).unwrap();
    let (mut writer, _) = open(journal.as_ref(), 5).await.unwrap();
    for height in 1..=LAST {
        append(writer.as_mut(), height).await.unwrap();
    }
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

fn covered(height: u64, corrupt: &[Corruption]) -> bool {
    corrupt.iter().any(|c| {
        let after = c.after.pointer.height().unwrap_or(0);
        let through = c.through.as_ref().map_or(Some(u64::MAX), |t| t.pointer.height());
        (after + 1..=through.unwrap_or(0)).contains(&height)
            // Where the block before is not known, the position inside the block is named.
            || (c.after.index == 0 && after == height)
    })
}

/// Every block is there or reported; gives what was read. The blocks' bytes were compared.
fn check(content: &Content, what: &str) {
    for height in 1..=LAST {
        assert!(
            content.heights.contains(&height) || covered(height, &content.corrupt),
            "{what}: block {height} is lost silently: {content:?}",
        );
    }
    assert!(content.heights.is_sorted(), "{what}");
}

async fn look(files: &FaultFiles, what: &str) -> (Content, u64) {
    let journal = start(files).unwrap();
    let content = content(journal.as_ref()).await;
    check(&content, what);
    let status = journal.status(&name()).await.unwrap();
    assert_eq!(content.corrupt.is_empty(), content.heights.len() as u64 == LAST, "{what}");
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
fn every_flipped_bit_is_harmless_or_reported() {
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
            .filter(|(number, _)| number % 11 == 0)
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
    assert!(damaged > 30, "{damaged}");
}

#[test]
fn every_cut_of_a_segment_is_reported() {
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
            let journal = start(&copy).unwrap();
            let content = content(journal.as_ref()).await;
            let first = content.heights[0];
            assert_eq!(content.heights, (first..=LAST).collect::<Vec<_>>());
            let oldest = journal.status(&name()).await.unwrap().oldest.pointer.height().unwrap();
            assert!((oldest + 1..first).all(|height| covered(height, &content.corrupt)));
            spanning += content.corrupt.len();
            journal.close().await;
        }
        assert!(spanning > 0, "no block spans two segments");
    });
}

/// A journal of a few blocks in one segment, and what of its file is in use.
async fn small() -> (FaultFiles, PathBuf, usize) {
    let files = FaultFiles::new();
    let journal = start(&files).unwrap();
    let (mut writer, _) = open(journal.as_ref(), 5).await.unwrap();
    for height in 1..=SMALL {
        append(writer.as_mut(), height).await.unwrap();
    }
    journal.close().await;
    let path = segments(&files).remove(0);
    let used = files.content(&path).unwrap().iter().rposition(|byte| *byte != 0).unwrap() + 1;
    assert_eq!(segments(&files).len(), 1);
    (files, path, used)
}

const SMALL: u64 = 3;

/// Every block is there unchanged, or it is reported.
async fn nothing_is_silent(files: &FaultFiles, what: &str) -> u64 {
    let journal = start(files).unwrap();
    let content = content(journal.as_ref()).await;
    let lost: Vec<u64> = (1..=SMALL).filter(|h| !content.heights.contains(h)).collect();
    for height in &lost {
        assert!(covered(*height, &content.corrupt), "{what}: block {height}: {content:?}");
    }
    assert_eq!(content.corrupt.is_empty(), lost.is_empty(), "{what}");
    journal.close().await;
    lost.len() as u64
}

/// A bit of every byte that the segment uses, another one from byte to byte.
#[test]
fn a_bit_of_every_byte_of_a_small_journal() {
    let runtime = runtime();
    let (files, path, used) = runtime.block_on(small());
    let original = files.content(&path).unwrap();
    let mut lost = 0;
    for at in 0..used {
        let mut broken = original.clone();
        broken[at] ^= 1 << (at * 5 % 8);
        let what = format!("byte {at}");
        let cost = runtime.block_on(nothing_is_silent(&with(&files, &path, broken), &what));
        assert!(cost <= 1, "{what}: {cost} blocks");
        lost += cost;
    }
    assert!(lost > 1000, "{lost} of {used}");
}

/// The segment cut to every length.
#[test]
fn every_truncation_of_a_small_journal() {
    let runtime = runtime();
    let (files, path, used) = runtime.block_on(small());
    let original = files.content(&path).unwrap();
    let mut lost = 0;
    for len in 0..used {
        let cut = with(&files, &path, original[..len].to_vec());
        lost += u64::from(runtime.block_on(nothing_is_silent(&cut, &format!("{len} bytes"))) > 0);
    }
    assert!(lost > 4096, "{lost} of {used}");
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
                let journal = start(&disk).unwrap();
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
            let journal = start(&disk).unwrap();
            for result in [
                journal.create(&name(), sluice_journal::conformance::ID).await.err(),
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
            let journal = start(&disk).unwrap();
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
        let mut options = options();
        options.tail_cache_bytes = 0;
        let shared = std::sync::Arc::new(files.clone());
        let journal = Embedded::open_with(shared, Path::new(DIR), options).unwrap();
        let original = files.content(&path).unwrap();
        let file = sluice_journal::files::Files::open(&files, &path).unwrap();
        let at = original.iter().rposition(|byte| *byte != 0).unwrap() as u64 - 100;
        file.write(&[std::io::IoSlice::new(&[0xaa; 40])], at).unwrap();
        let content = content(journal.as_ref()).await;
        check(&content, "overwritten");
        assert_eq!(content.corrupt.len(), 1);
        assert_eq!(content.heights.len() as u64, LAST - 1);
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
            let Ok(journal) = start(&files) else { return };
            let Ok((mut writer, _)) = open(journal.as_ref(), 1).await else { return };
            let mut acked = 0;
            for height in 1..40 {
                if append(writer.as_mut(), height).await.is_err() {
                    break;
                }
                acked = height;
            }
            let disk = files.reboot(operation);
            let journal = start(&disk).unwrap();
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
        let mut options = options();
        options.retention.blocks = Some(1);
        options.tail_cache_bytes = 0;
        let shared = std::sync::Arc::new(files.clone());
        let journal = Embedded::open_with(shared, Path::new(DIR), options).unwrap();
        let (mut writer, _) = open(journal.as_ref(), 1).await.unwrap();
        for height in 1..=LAST {
            append(writer.as_mut(), height).await.unwrap();
        }
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
