//! Which process has which host, where every process has one.

use crate::network::Network;

/// Where the capturing program, the consumer and the harness are.
pub(crate) const PROGRAM: usize = 0;
pub(crate) const PRODUCERS: [usize; 3] = [1, 2, 3];
pub(crate) const ROUTER: usize = 4;
pub(crate) const COORDINATORS: [usize; 2] = [5, 6];
pub(crate) const ETCD: [usize; 3] = [7, 8, 9];
/// Every process listens at this port of its host, and for its own kind or people at the next.
pub(crate) const DOOR: u16 = 7400;
/// What producers know both coordinators by.
pub(crate) const COORDINATORS_NAME: &str = "coordinators";

/// Makes the hosts.
///
/// # Errors
/// Why this machine does not allow it.
pub(crate) fn start() -> Result<Network, String> {
    let last = ETCD[ETCD.len() - 1];
    Network::start(last, &[(COORDINATORS_NAME, &COORDINATORS)])
}

/// The host of a process.
pub(crate) fn number(kind: &str, at: usize) -> usize {
    match kind {
        "producer" => PRODUCERS[at],
        "coordinator" => COORDINATORS[at],
        _ => ROUTER,
    }
}
