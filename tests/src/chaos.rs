//! Faults against a whole installation, by a seeded schedule, judged by an independent checker.
//!
//! Three etcd members, two coordinators, a router and three producers of one ingestor run as real
//! processes, every link between them through a proxy of ours, or, for faults of the network itself,
//! each on a host of its own. A program captures through
//! whichever producer is the owner, a consumer reads everything. One fault after the other is
//! injected, healed, and waited out; then the program pauses, and the checker reads the journal's
//! files and compares them with what was acknowledged and what was delivered.

pub mod chain;
mod clock;
mod fault;
mod history;
mod hosts;
mod inject;
mod packets;
mod reader;
mod recorder;
mod report;
mod rogue;
mod run;
mod scenario;
mod site;

pub use fault::{Fault, faults, losses};
pub use run::{Options, run};

/// The ingestor that everything is about.
pub const INGESTOR: &str = "app-1";
