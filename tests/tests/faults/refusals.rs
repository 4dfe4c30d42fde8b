//! Starts that must be refused, with an exit code and a sentence that says what to do.

use std::path::Path;

use sluice_tests::{eventually, process::Process};

use super::support::{INGESTOR, Program, Site, config, ingestor, status};

/// Starts a process that must end by itself; gives its exit code and what it said.
async fn refused(name: &str, dir: &Path, args: &[&str]) -> (Option<i32>, String) {
    let mut process = Process::new(name, dir, args);
    process.spawn(&[]);
    let ended = process.ended().await;
    (ended.code(), process.log())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_router_on_the_same_directory_is_told_whose_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let mut site = Site::start(dir.path(), &[], &[]).await;
    let program = Program::start(&site.producer.url(), 5);
    program.done().await;
    let config = dir.path().join("sluice.toml").display().to_string();

    let (code, said) = refused("second", dir.path(), &["router", "--config", &config]).await;
    assert_eq!(code, Some(1), "{said}");
    let journals = dir.path().join("data/journal").display().to_string();
    let holder = format!("{journals} is already in use by process {}", site.router.pid());
    assert!(said.contains(&holder), "{said}");
    let (code, said) =
        refused("coordinator-2", dir.path(), &["coordinator", "--config", &config]).await;
    assert_eq!(code, Some(1), "{said}");
    let locks = dir.path().join("data/coordinator").display().to_string();
    assert!(said.contains(&locks) && said.contains("another process"), "{said}");

    // The first ones did not notice; and what a killed one held is free at once.
    program.go_on_to(10);
    program.done().await;
    site.router.kill_and_restart().await;
    program.go_on_to(15);
    program.done().await;
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_service_starts_with_a_configuration_it_does_not_know() {
    let dir = tempfile::tempdir().unwrap();
    let stream =
        |more: &str| format!("[streams.s]\nsink = \"x\"\ningestor = \"{INGESTOR}\"\n{more}\n");
    let kafka = format!("[sinks.x]\ntype = \"kafka\"\n{}", stream(""));
    let wrong_file = format!(
        "[sinks.x]\ntype = \"file\"\nroot = \"files\"\n{}",
        stream("file = { formt = \"jsonl\" }")
    );
    let filter = stream("filter = { store = [\"bank\"] }");
    let cases: [(&[&str], &str, &str); 9] = [
        (&["run"], "[jurnal]\n", "jurnal"),
        (&["router"], "[journal]\nsegment_byte = \"1MiB\"\n", "journal.segment_byte"),
        (&["coordinator"], "[coordinator]\nlease = \"1s\"\n", "coordinator.lease"),
        (
            &["producer"],
            "[ingestors.b]\nsource = { type = \"kafka\" }\n",
            "ingestors.b.source.type",
        ),
        (
            &["producer"],
            "[ingestors.b]\nsource = { type = \"cosmos-files\", dirr = \"/x\" }\n",
            "dir",
        ),
        (&["run"], &kafka, "sinks.x.type"),
        (&["sink", "x"], &kafka, "sinks.x.type"),
        (&["sink", "x"], &wrong_file, "streams.s.file"),
        (&["run"], &filter, "streams.s.filter.store"),
    ];
    for (number, (command, text, key)) in cases.into_iter().enumerate() {
        let config = config(dir.path(), text).display().to_string();
        let args = [command, &["--config", &config]].concat();
        let (code, said) = refused(&format!("wrong-{number}"), dir.path(), &args).await;
        assert_eq!(code, Some(2), "{command:?} {text}: {said}");
        assert!(said.contains(key) && said.contains("run: sluice "), "{text}: {said}");
    }
    let config = config(dir.path(), "").display().to_string();
    let (code, said) =
        refused("nobody", dir.path(), &["sink", "nobody", "--config", &config]).await;
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("sinks.nobody"), "{said}");
}

/// A store that is misspelt would capture nothing, silently.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_not_there_is_told_and_refused_where_the_first_block_has_all() {
    let recording = sluice_tests::recording::dir().display().to_string();
    let dir = tempfile::tempdir().unwrap();
    let more = format!(
        "[ingestors.loose]\nstores = [\"bank\", \"bnak\"]\n\
         source = {{ type = \"cosmos-files\", dir = \"{recording}\" }}\n\
         [ingestors.strict]\nstores = [\"bank\", \"bnak\"]\n\
         source = {{ type = \"cosmos-files\", dir = \"{recording}\", strict_stores = true }}\n"
    );
    let config = config(dir.path(), &more).display().to_string();
    let mut node = Process::new("run", dir.path(), &["run", "--config", &config]);
    node.start(&[]).await;
    let loose = eventually("the loose one has everything", || {
        let own = ingestor(&node, "loose");
        std::future::ready((own["height"] == 300).then_some(own))
    })
    .await;
    assert!(loose["repairs"].to_string().contains("bnak"), "{loose}");
    let strict = eventually("the strict one is blocked", || {
        let own = ingestor(&node, "strict");
        std::future::ready((own["state"] == "blocked").then_some(own))
    })
    .await;
    assert!(strict["cause"].to_string().contains("bnak"), "{strict}");
    assert_eq!(strict["height"], 0);
    let (code, screen) = status(&node);
    assert!(code == Some(1) && screen.contains("bnak"), "{screen}");
    assert_eq!(node.stop().await.code(), Some(0), "{}", node.log());
}
