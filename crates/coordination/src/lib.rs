//! sluice-coordination
