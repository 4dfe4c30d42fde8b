//! The network of the chaos run does what it says: hosts reach each other; what is cut is silent,
//! one way or both, for new connections and for those that exist; afterwards everything arrives.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failure here is a failed test"
)]

use std::{
    io::{BufRead, BufReader, ErrorKind, Read, Write},
    net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream},
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc,
    time::Duration,
};

use sluice_tests::{
    network::{self, Answer, Network, Way, between, towards},
    skipped,
};

/// A connection that exists is silent if nothing comes for so long.
const SILENT: Duration = Duration::from_millis(1500);
const PATIENCE: Duration = Duration::from_secs(30);
const PORT: u16 = 7000;

fn main() {
    if let Err(why) = network::apart() {
        return skipped("a network with lost packets", &why);
    }
    let network = match Network::start(4, &[("both", &[1, 2])]) {
        Ok(network) => network,
        Err(why) => return skipped("a network with lost packets", &why),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(new_connections(&network));
    one_way(&network);
    existing_connections(&network);
    names(&network);
    writeln!(std::io::stdout(), "network: cuts are silent, one way or both, and heal").ok();
}

async fn new_connections(network: &Network) {
    // Our own host is listened at; on the others nobody listens, which they say.
    let _listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)).unwrap();
    let ways = [Way { from: 1, to: 0 }, Way { from: 2, to: 0 }, Way { from: 1, to: 2 }];
    let open = [Answer::Connected, Answer::Connected, Answer::Refused];
    assert_eq!(network.ask(&ways, PORT).await, open);
    let cut = network.cut(between(&[1], &[0]));
    cut.prove(PORT).await;
    let one = [Answer::Silent, Answer::Connected, Answer::Refused];
    assert_eq!(network.ask(&ways, PORT).await, one, "only one host is cut off");
    let cuts = (cut, network.cut(between(&[1], &[2])));
    assert_eq!(network.ask(&ways, PORT).await[2], Answer::Silent);
    drop(cuts);
    assert_eq!(network.ask(&ways, PORT).await, open);
}

/// What counts is which host's packets arrive, told by the hosts' own counters.
fn one_way(network: &Network) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let arrived = |from: usize, to: usize| {
        let before = network.host(to).segments();
        let answer = runtime.block_on(network.ask(&[Way { from, to }], PORT));
        assert_eq!(answer, [Answer::Silent], "from {from} to {to}");
        network.host(to).segments() - before
    };
    let cut = network.cut(towards(&[1], &[2]));
    assert_eq!(arrived(1, 2), 0, "requests on the way that is cut");
    assert_ne!(arrived(2, 1), 0, "requests on the other way");
    drop(cut);
}

/// A connection between our host and a program on another one.
struct Talk {
    program: Child,
    to_program: ChildStdin,
    from_program: mpsc::Receiver<String>,
    socket: TcpStream,
}

impl Talk {
    fn begin(network: &Network) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        let ours = network.host(0).address();
        let port = listener.local_addr().unwrap().port();
        let launcher = network.host(1).launcher();
        let mut program = Command::new(&launcher[0])
            .args(&launcher[1..])
            .args(["bash", "-c", r#"exec 3<>"/dev/tcp/$0/$1"; cat <&3 & exec cat >&3"#])
            .args([ours.to_string(), port.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (said, from_program) = mpsc::channel();
        let lines = BufReader::new(program.stdout.take().unwrap()).lines();
        std::thread::spawn(move || {
            lines.map_while(Result::ok).try_for_each(|line| said.send(line))
        });
        let (socket, from) = listener.accept().unwrap();
        let theirs = network.host(1).address();
        assert_eq!(from.ip(), theirs);
        let ours = SocketAddrV4::new(ours, port);
        assert!(network.host(1).is_connected_to(ours) && !network.host(2).is_connected_to(ours));
        socket.set_read_timeout(Some(SILENT)).unwrap();
        Self { to_program: program.stdin.take().unwrap(), program, from_program, socket }
    }

    fn hears(&mut self, within: Duration) -> Option<String> {
        self.socket.set_read_timeout(Some(within)).unwrap();
        let mut bytes = [0; 64];
        match self.socket.read(&mut bytes) {
            Ok(read) => Some(String::from_utf8_lossy(&bytes[..read]).into_owned()),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock, "silence, not an end: {error}");
                None
            }
        }
    }
}

fn existing_connections(network: &Network) {
    let mut talk = Talk::begin(network);
    writeln!(talk.socket, "one").unwrap();
    assert_eq!(talk.from_program.recv_timeout(PATIENCE).unwrap(), "one");
    writeln!(talk.to_program, "two").unwrap();
    assert_eq!(talk.hears(PATIENCE).unwrap(), "two\n");

    // Nothing comes from the program any more, but it hears what it is told.
    let cut = network.cut(towards(&[1], &[0]));
    writeln!(talk.to_program, "three").unwrap();
    writeln!(talk.socket, "four").unwrap();
    assert_eq!(talk.from_program.recv_timeout(PATIENCE).unwrap(), "four");
    assert_eq!(talk.hears(SILENT), None);
    drop(cut);
    assert_eq!(talk.hears(PATIENCE).unwrap(), "three\n", "late, but it arrives");

    let cut = network.cut(between(&[1], &[0, 2]));
    writeln!(talk.to_program, "five").unwrap();
    writeln!(talk.socket, "six").unwrap();
    assert_eq!(talk.hears(SILENT), None);
    assert!(talk.from_program.try_recv().is_err());
    drop(cut);
    assert_eq!(talk.hears(PATIENCE).unwrap(), "five\n");
    assert_eq!(talk.from_program.recv_timeout(PATIENCE).unwrap(), "six");
    talk.program.kill().unwrap();
    talk.program.wait().unwrap();
}

/// A name of two hosts begins with another one at each.
fn names(network: &Network) {
    let ask = |at: usize| {
        let launcher = network.host(at).launcher();
        let mut getent = Command::new(&launcher[0]);
        let output = getent.args(&launcher[1..]).args(["getent", "ahostsv4", "both"]).output();
        let text = String::from_utf8(output.unwrap().stdout).unwrap();
        let stream = text.lines().filter(|line| line.contains("STREAM"));
        stream.map(|line| line.split(' ').next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let addresses = [1, 2].map(|host| network.host(host).address().to_string());
    assert_eq!(ask(4), addresses);
    assert_eq!(ask(3), [addresses[1].clone(), addresses[0].clone()]);
}
