//! What can be said about a configuration without touching disk or network.

use sluice_config::Config;
use sluice_sink::{SinkConfig, StreamConfig};
use sluice_sink_file::{FileOptions, RootOptions, config::TYPE_NAME as FILE};
use sluice_sink_webhook::WebhookFactory;

use super::{Peers, producer, sink_config};
use crate::exit::Failure;

/// Builds every source and reads every table of streams and sinks. The failure names the key.
pub(crate) fn check(config: &Config) -> Result<(), Failure> {
    // Never called: building does no I/O.
    let (nowhere, _) = sluice_service::transport::late();
    producer(config, &Peers { coordinator: nowhere.clone(), router: nowhere })?;
    let registry = sluice_sink::Registry::default().with(WebhookFactory);
    for (name, section) in config.sinks.iter().filter(|(_, sink)| sink.kind != FILE) {
        let sink = SinkConfig::from_section(name, section, &config.data_dir);
        registry.get(&sink).map_err(|error| wrong(&error))?;
    }
    for (name, section) in &config.streams {
        let sink = sink_config(config, &section.sink);
        let stream = StreamConfig::from_section(name, section, &sink.type_name)
            .map_err(|error| wrong(&error))?;
        if !config.ingestors.contains_key(&stream.ingestor) && !config.ingestors.is_empty() {
            let message = format!(
                "streams.{name}.ingestor: there is no [ingestors.{}] in this file",
                stream.ingestor
            );
            return Err(Failure::usage(message));
        }
        if sink.type_name == FILE {
            RootOptions::read(&sink).map_err(|error| wrong(&error))?;
            FileOptions::read(&stream).map_err(|error| wrong(&error))?;
            continue;
        }
        let factory = registry.get(&sink).map_err(|error| wrong(&error))?;
        factory.build(&stream, &sink).map_err(|error| wrong(&error))?;
    }
    Ok(())
}

fn wrong(error: &sluice_sink::ConfigError) -> Failure {
    Failure::usage(error.to_string())
}
