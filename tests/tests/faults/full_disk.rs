//! A disk that fills up under the journal, and gets room again.

use std::path::Path;

use sluice_tests::{
    disk::SmallDisk,
    eventually,
    process::{Process, run_behind},
    skipped,
};

use super::support::{
    BLOCK, INGESTOR, Program, Site, config, everything_is_there, fails, status, status_says,
    verified,
};

const DISK: u64 = 24 << 20;
/// The file of somebody else that takes room, and goes.
const FILLER: u64 = 12 << 20;
/// More blocks than fit beside the filler.
const TOO_MANY: u64 = DISK / BLOCK;
/// Blocks that fit where the filler was.
const MORE: u64 = FILLER / BLOCK / 4;

/// A small disk with a filler in it; none where the machine allows no mounts.
fn disk(test: &str, dir: &Path) -> Option<SmallDisk> {
    std::fs::create_dir(dir).unwrap();
    match SmallDisk::mount(dir, DISK) {
        Ok(disk) => {
            disk.fill("filler", FILLER);
            Some(disk)
        }
        Err(why) => {
            skipped(test, &why);
            None
        }
    }
}

/// The program captures until the disk is full, everybody is told why, and when there is room
/// again everything goes on by itself.
async fn fill_up_and_recover(
    router: &Process,
    producer: &Process,
    program: &Program,
    disk: &SmallDisk,
) {
    let screen = status_says(router, 1, "appends refused: ").await;
    assert!(screen.contains("No space left on device"), "{screen}");
    assert!(screen.contains("df -h"), "the command that helps is named: {screen}");
    program.refused_with("starts over").await;
    // Twice in a row: what was being prepared when the disk became full is used up.
    fails(producer, 2, "no space for the journal").await;
    let acked = program.told().last();
    fails(producer, 3, "no space for the journal").await;
    assert_eq!(program.told().last(), acked, "acknowledged without room");

    disk.remove("filler");
    program.go_on_to(acked + MORE);
    program.done().await;
    eventually("the refusal is over", || {
        std::future::ready((status(router).0 == Some(0)).then_some(()))
    })
    .await;
    assert!(acked > 100 && acked < TOO_MANY, "{acked}");
    let told = program.told();
    everything_is_there(&router.url(), acked + MORE, &told.acked).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_router_goes_on_by_itself_when_a_full_disk_has_room_again() {
    let dir = tempfile::tempdir().unwrap();
    let small = dir.path().join("small");
    let Some(disk) = disk("a router on a full disk", &small) else { return };
    let journals = small.join("journal");
    let settings: Vec<String> = [
        "--set".to_owned(),
        format!("journal.dir={}", journals.display()),
        "--set".to_owned(),
        "journal.segment_bytes=1MiB".to_owned(),
    ]
    .into();
    let mut site = Site::start(dir.path(), disk.launcher(), &settings).await;
    let router = site.router.pid();
    let program = Program::start(&site.producer.url(), TOO_MANY);
    fill_up_and_recover(&site.router, &site.producer, &program, &disk).await;
    assert_eq!(site.router.pid(), router);
    let blocks = program.told().last();
    drop(program);
    site.stop().await;
    verified(disk.launcher(), &journals, blocks);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_process_with_everything_on_a_full_disk_goes_on_by_itself() {
    let dir = tempfile::tempdir().unwrap();
    let small = dir.path().join("data");
    let Some(disk) = disk("one process on a full disk", &small) else { return };
    let more = format!(
        "[journal]\nsegment_bytes = \"1MiB\"\n\
         [sinks.files]\ntype = \"file\"\nroot = \"{}\"\n\
         [streams.heights]\nsink = \"files\"\ningestor = \"{INGESTOR}\"\nfrom = \"earliest\"\n\
         filter = {{ stores = [\"gov\"] }}\nfile = {{ format = \"jsonl\", align_blocks = 10 }}\n",
        small.join("files").display()
    );
    let config = config(dir.path(), &more).display().to_string();
    let mut node =
        Process::new("run", dir.path(), &["run", "--config", &config]).behind(disk.launcher());
    node.start(&[]).await;
    let program = Program::start(&node.url(), TOO_MANY);
    fill_up_and_recover(&node, &node, &program, &disk).await;
    let blocks = program.told().last();
    drop(program);
    eventually("the files are written up to the head", || {
        let all = status(&node).1.contains(&format!("running at height {blocks}"));
        std::future::ready(all.then_some(()))
    })
    .await;
    assert_eq!(node.stop().await.code(), Some(0), "{}", node.log());
    assert!(node.log().contains("drained, 0 lost"), "{}", node.log());
    verified(disk.launcher(), &small.join("journal"), blocks);
    let files = small.join("files/heights").display().to_string();
    let verify = run_behind(disk.launcher(), &["files", "verify", &files]);
    assert_eq!(verify.status.code(), Some(0), "{}", String::from_utf8_lossy(&verify.stderr));
}
