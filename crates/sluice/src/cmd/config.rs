//! `sluice config`, and how every command loads its configuration.

use std::path::Path;

use sluice_config::{Config, Sources};

use crate::{
    cli::{ConfigArgs, ConfigCommand},
    exit::{Exit, Failure, Outcome, on_path},
    node,
    output::{Out, note},
};

/// Merges defaults, file, environment and flags.
pub(crate) fn load(args: &ConfigArgs) -> Result<Config, Failure> {
    let sources = Sources {
        file: args.config.clone(),
        environment: sluice_config::process_environment(),
        sets: args.sets.clone(),
    };
    sluice_config::load(&sources).map_err(|error| Failure::from(error).fix(SHOW_ALL))
}

/// The command that shows what could be written instead.
pub(crate) const SHOW_ALL: &str =
    "sluice config print   (without arguments: every key with its default)";

pub(crate) fn run(out: &mut Out, command: &ConfigCommand) -> Outcome {
    match command {
        ConfigCommand::Check(args) => check(out, args)?,
        ConfigCommand::Print(args) => {
            let text = load(args)?.render_redacted()?;
            out.raw(text.as_bytes())?;
        }
        ConfigCommand::AppToml { file } => app_toml(out, file)?,
    }
    out.flush()?;
    Ok(Exit::Ok)
}

/// Loads, and builds everything that can be built without touching disk or network.
fn check(out: &mut Out, args: &ConfigArgs) -> Result<(), Failure> {
    let config = load(args)?;
    node::check(&config).map_err(|failure| failure.fix(SHOW_ALL))?;
    out.line(format!(
        "ok: {} ingestors, {} streams on {} sinks",
        config.ingestors.len(),
        config.streams.len(),
        node::sink_names(&config).len()
    ))
}

/// The streamer block of a node as an ingestor's table.
fn app_toml(out: &mut Out, file: &Path) -> Result<(), Failure> {
    let text = std::fs::read_to_string(file).map_err(on_path(file))?;
    // `<home>/config/app.toml`; a relative write_dir is relative to the home.
    let full = std::fs::canonicalize(file).map_err(on_path(file))?;
    let home = full.parent().and_then(Path::parent).unwrap_or(Path::new("/"));
    let streamer = sluice_config::cosmos_app_toml(&text, home)?.ok_or_else(|| {
        let message =
            format!("{} streams nothing: store.streamers has no \"file\"", file.display());
        Failure::new(Exit::NotFound, message)
            .fix("sluice run --set 'ingestors.NAME.source={type=\"cosmos-files\",dir=\"DIR\"}'")
    })?;
    let mut source = toml::Table::new();
    source.insert("type".into(), "cosmos-files".into());
    source.insert("dir".into(), streamer.write_dir.display().to_string().into());
    source.insert("prefix".into(), streamer.prefix.clone().into());
    source.insert("metadata".into(), streamer.output_metadata.into());
    let mut ingestor = toml::Table::new();
    ingestor.insert("source".into(), toml::Value::Table(source));
    let all = streamer.keys.iter().any(|key| key == "*");
    let stores = if all { vec!["*".to_owned()] } else { streamer.keys.clone() };
    ingestor.insert("stores".into(), stores.into());
    let mut ingestors = toml::Table::new();
    ingestors.insert("my-chain".into(), ingestor.into());
    let mut root = toml::Table::new();
    root.insert("ingestors".into(), ingestors.into());
    let text =
        toml::to_string(&root).map_err(|error| Failure::new(Exit::Failed, error.to_string()))?;
    out.raw(text.as_bytes())?;
    if !streamer.fsync {
        note(
            "the node writes without fsync: a power cut may tear its newest files (set fsync = true)",
        );
    }
    if !streamer.stop_node_on_error {
        note(
            "the node goes on when it cannot write: blocks may be missing (set stop-node-on-error = true)",
        );
    }
    Ok(())
}
