//! sluice-frame
