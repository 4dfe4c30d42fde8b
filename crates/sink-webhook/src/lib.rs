//! sluice-sink-webhook
