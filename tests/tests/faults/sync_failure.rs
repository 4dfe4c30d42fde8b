//! A disk that fails to sync: what was not synced was never acknowledged, and what was
//! acknowledged is there.

use std::path::Path;

use sluice_tests::{eventually, skipped, syscalls::FailingCalls};

use super::support::{Program, Site, everything_is_there, fails, status, status_says, verified};

/// Both, so that neither segments nor control records nor directories become durable.
const SYNCS: &str = "fdatasync,fsync";

/// Lets every sync of the router fail.
async fn attach(site: &Site, dir: &Path) -> Option<FailingCalls> {
    let failing = FailingCalls::attach(site.router.pid(), SYNCS, "EIO", dir).await;
    failing.map_err(|why| skipped("a sync that fails", &why)).ok()
}

/// Waits until everybody knows; gives the last acknowledged block.
async fn known(site: &Site, program: &Program, failing: &FailingCalls) -> u64 {
    program.refused().await;
    // strace writes it down after the process has gone on.
    eventually("a sync was made to fail", || {
        std::future::ready(failing.said().contains("(INJECTED)").then_some(()))
    })
    .await;
    let screen = status_says(&site.router, 1, "appends refused: ").await;
    assert!(screen.contains("Input/output error"), "{screen}");
    fails(&site.producer, 2, "Input/output error").await;
    let acked = program.told().last();
    fails(&site.producer, 3, "Input/output error").await;
    assert_eq!(program.told().last(), acked, "acknowledged without a sync");
    acked
}

async fn goes_on(site: &Site, program: &Program, to: u64) {
    program.go_on_to(to);
    program.done().await;
    eventually("the refusal is over", || {
        std::future::ready((status(&site.router).0 == Some(0)).then_some(()))
    })
    .await;
    everything_is_there(&site.router.url(), to, &program.told().acked).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_acknowledged_while_syncs_fail_and_nothing_acknowledged_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let mut site = Site::start(dir.path(), &[], &[]).await;
    let program = Program::start(&site.producer.url(), 20);
    program.done().await;

    // Not one block is acknowledged, and when the disk works again the ingestor goes on by itself.
    let Some(failing) = attach(&site, dir.path()).await else { return };
    program.go_on_to(u64::MAX);
    assert_eq!(known(&site, &program, &failing).await, 20, "acknowledged without a sync");
    assert!(site.router.log().contains("the writer is poisoned"), "{}", site.router.log());
    failing.detach();
    goes_on(&site, &program, 70).await;

    // In the middle of the work; and the router dies with what it had not synced.
    program.go_on_to(u64::MAX);
    let Some(failing) = attach(&site, dir.path()).await else { return };
    let acked = known(&site, &program, &failing).await;
    site.router.kill();
    failing.detach();
    site.router.start(&[]).await;
    goes_on(&site, &program, acked + 50).await;

    let blocks = program.told().last();
    drop(program);
    site.stop().await;
    verified(&[], &dir.path().join("data/journal"), blocks);
}
