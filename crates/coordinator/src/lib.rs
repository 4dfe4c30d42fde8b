//! sluice-coordinator
