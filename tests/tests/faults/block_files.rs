//! A node's directory as it is found in life: a file still being written, files of others, a
//! block that is missing.

use std::{fs, io::Write, path::Path};

use sluice_tests::{
    eventually,
    process::{Process, run},
    recording,
};

use super::support::{ingestor, status_says};

const LAST: u64 = 24;
const TORN: u64 = 10;
const MISSING: u64 = 15;

fn copy(dir: &Path, name: &str) {
    fs::copy(recording::dir().join(name), dir.join(name)).unwrap();
}

/// As the node does: the meta file, then the data file.
fn copy_block(dir: &Path, height: u64) {
    copy(dir, &format!("block-{height}-meta"));
    copy(dir, &format!("block-{height}-data"));
}

async fn reaches(node: &Process, height: u64) -> serde_json::Value {
    eventually(&format!("block {height} is durable"), || {
        let own = ingestor(node, "rec-1");
        std::future::ready((own["height"] == height).then_some(own))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_with_a_growing_file_foreign_files_and_a_gap() {
    let dir = tempfile::tempdir().unwrap();
    let blocks = dir.path().join("blocks");
    fs::create_dir(&blocks).unwrap();
    let config = dir.path().join("sluice.toml");
    let text = format!(
        "data_dir = \"{}\"\n[ingestors.rec-1]\nsource = {{ type = \"cosmos-files\", dir = \"{}\", \
         rescan = \"50ms\", torn_after = \"2s\" }}\n",
        dir.path().join("data").display(),
        blocks.display()
    );
    fs::write(&config, text).unwrap();

    // Files that are not the streamer's, or not of this prefix.
    let foreign =
        ["README", "block-7-data.tmp", "block-07-data", "block-x-data", "hub-block-9-data"];
    for name in foreign {
        fs::write(blocks.join(name), b"not a block").unwrap();
    }
    fs::create_dir(blocks.join("block-9999-data.d")).unwrap();
    (1..TORN).for_each(|height| copy_block(&blocks, height));

    let mut node =
        Process::new("run", dir.path(), &["run", "--config", &config.display().to_string()]);
    node.start(&[]).await;
    let own = reaches(&node, TORN - 1).await;
    let told = own["repairs"].to_string();
    assert!(told.contains("6 files are no block files") && told.contains("README"), "{own}");

    // A block that is being written is seen and not taken, at every length.
    copy(&blocks, &format!("block-{TORN}-meta"));
    let name = format!("block-{TORN}-data");
    let whole = fs::read(recording::dir().join(&name)).unwrap();
    let mut file = fs::File::create(blocks.join(&name)).unwrap();
    file.write_all(&whole[..whole.len() / 2]).unwrap();
    eventually("the file is seen", || {
        let seen = ingestor(&node, "rec-1")["sourceHeight"] == TORN;
        std::future::ready(seen.then_some(()))
    })
    .await;
    file.write_all(&whole[whole.len() / 2..whole.len() - 1]).unwrap();
    assert_eq!(ingestor(&node, "rec-1")["height"], TORN - 1);
    file.write_all(&whole[whole.len() - 1..]).unwrap();
    drop(file);
    let own = reaches(&node, TORN).await;
    assert_eq!((&own["failures"], &own["state"]), (&0.into(), &"active".into()), "{own}");

    // A block that is missing is waited for, then named, and nothing after it is taken.
    (TORN + 1..=LAST).filter(|height| *height != MISSING).for_each(|h| copy_block(&blocks, h));
    let screen = status_says(&node, 1, &format!("block-{MISSING}-data")).await;
    assert!(screen.contains(&format!("block-{}-data", MISSING + 1)), "{screen}");
    assert_eq!(ingestor(&node, "rec-1")["height"], MISSING - 1);

    // When it is there the ingestor goes on by itself.
    copy_block(&blocks, MISSING);
    reaches(&node, LAST).await;
    let tail = run(&[
        "--server",
        &node.url(),
        "tail",
        "rec-1",
        "--from",
        "earliest",
        "--until",
        &LAST.to_string(),
        "-o",
        "name",
    ]);
    let got: Vec<String> =
        String::from_utf8(tail.stdout).unwrap().lines().map(str::to_owned).collect();
    let recorded = recording::blocks();
    let expected = recorded[..usize::try_from(LAST).unwrap()].iter().flat_map(|block| {
        (0..block.pairs.len()).map(|index| format!("{:020}-{index:08x}", block.height))
    });
    assert!(got.iter().cloned().eq(expected), "{} changes", got.len());
    for name in foreign {
        assert_eq!(fs::read(blocks.join(name)).unwrap(), b"not a block", "{name} was touched");
    }
    assert_eq!(node.stop().await.code(), Some(0), "{}", node.log());
}
