//! sluice-sink-file
