//! Hosts that are joined by a network of their own, in which packets can be lost.
//!
//! A star: every host is a network namespace with one cable to a switch, a namespace that only
//! forwards. What is cut is dropped there in silence, also for connections that exist: nobody is
//! told anything, the sender sends again and again, and after the cut what it had sent arrives
//! late. The process that makes a [`Network`] is a host of it too, the first one.
//!
//! Nothing of the machine's own network is touched: [`apart`] puts the process itself into a new
//! namespace before anything else, and with it into one of process ids, so that the kernel ends
//! everything that was started, and with it removes every host and cable, when the process ends in
//! whatever way. Nothing has a name that a later run could find.

use std::{
    fmt::Write as _,
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use futures_util::future::join_all;
use tempfile::TempDir;

/// Tells the program that it has been put apart already.
const APART: &str = "--in-a-network-of-its-own";
/// Without an answer for so long nothing has come back. A connection between hosts of one machine
/// takes microseconds.
const SILENCE: Duration = Duration::from_millis(700);

/// Starts this program again, with the same arguments, in a network and among process ids of its
/// own; returns where that has been done already. Must be called before there are threads.
///
/// # Errors
/// Why this machine does not allow it. The process is where it was.
pub fn apart() -> Result<(), String> {
    if std::env::args().any(|arg| arg == APART) {
        return Ok(());
    }
    let namespaces = ["--net", "--pid", "--fork", "--kill-child", "--mount-proc"];
    let mut refused = Vec::new();
    // Root may; others only where they may be root of a namespace of their own.
    for user in [&[][..], &["--map-root-user"]] {
        let unshare = || {
            let mut command = Command::new("unshare");
            command.args(user).args(namespaces);
            command
        };
        match succeeds(unshare().args(["ip", "link", "set", "lo", "up"])) {
            Ok(()) => {
                let failed = unshare()
                    .args(["sh", "-c", r#"ip link set lo up && exec "$0" "$@""#])
                    .arg(std::env::current_exe().unwrap())
                    .arg(APART)
                    .args(std::env::args().skip(1))
                    .exec();
                refused.push(failed.to_string());
            }
            Err(why) => refused.push(why),
        }
    }
    Err(refused.join("; "))
}

/// The arguments of this program, without what [`apart`] adds.
pub fn arguments() -> impl Iterator<Item = String> {
    std::env::args().skip(1).filter(|arg| arg != APART)
}

/// A switch and the hosts around it. All gone when dropped, once the programs in them have ended.
#[derive(Debug)]
pub struct Network {
    switch: Holder,
    hosts: Vec<Host>,
    /// What each host knows names by.
    _names: TempDir,
}

/// One host.
#[derive(Debug)]
pub struct Host {
    address: Ipv4Addr,
    /// `None` for the host that this process is.
    holder: Option<Holder>,
}

/// From one host to another, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// Who sends.
    pub from: usize,
    /// Who does not get it.
    pub to: usize,
}

/// How somebody answers who is asked for a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It came about.
    Connected,
    /// It was refused, so packets pass.
    Refused,
    /// Nothing came back.
    Silent,
}

/// Both ways between each of the first and each of the second.
pub fn between(some: &[usize], others: &[usize]) -> Vec<Way> {
    [towards(some, others), towards(others, some)].concat()
}

/// One way from each of the first to each of the second.
pub fn towards(some: &[usize], others: &[usize]) -> Vec<Way> {
    let ways = some.iter().flat_map(|from| others.iter().map(|to| Way { from: *from, to: *to }));
    ways.filter(|way| way.from != way.to).collect()
}

impl Network {
    /// Makes so many hosts beside our own, which has the number 0. All but that one know the given
    /// names; a name for several hosts means them in an order that begins elsewhere at each host.
    ///
    /// # Errors
    /// Why this machine does not allow it; always if the process was not put [`apart`].
    pub fn start(hosts: usize, names: &[(&str, &[usize])]) -> Result<Self, String> {
        if !std::env::args().any(|arg| arg == APART) {
            return Err("the process is in the machine's own network".to_owned());
        }
        let dir = tempfile::tempdir().map_err(|error| error.to_string())?;
        let switch = Holder::start(FORWARD, Path::new("/"))?;
        let mut this = Self { switch, hosts: Vec::new(), _names: dir };
        for number in 0..=hosts {
            let holder = match number {
                0 => None,
                _ => {
                    let file = this._names.path().join(number.to_string());
                    let text = known(names, number);
                    std::fs::write(&file, text).map_err(|error| error.to_string())?;
                    Some(Holder::start(NAMES, &file)?)
                }
            };
            this.join(number, holder)?;
        }
        Ok(this)
    }

    /// Lays the cable of a host.
    fn join(&mut self, number: usize, holder: Option<Holder>) -> Result<(), String> {
        let (near, far) = (address(number, 2), address(number, 1));
        let switch = self.switch.pid();
        let mut cable = Command::new("ip");
        cable.args(["link", "add", "name", "cable"]);
        if let Some(holder) = &holder {
            cable.args(["netns", &holder.pid()]);
        }
        cable.args(["type", "veth", "peer", "name", &format!("port{number}"), "netns", &switch]);
        succeeds(&mut cable)?;
        batch(
            &self.switch.launcher(),
            &format!("addr add {far}/30 dev port{number}\nlink set port{number} up\n"),
        )?;
        let launcher = holder.as_ref().map(Holder::launcher).unwrap_or_default();
        batch(
            &launcher,
            &format!(
                "link set lo up\naddr add {near}/30 dev cable\nlink set cable up\n\
                 route add default via {far}\n"
            ),
        )?;
        self.hosts.push(Host { address: near, holder });
        Ok(())
    }

    /// A host.
    pub fn host(&self, number: usize) -> &Host {
        &self.hosts[number]
    }

    /// The numbers of all hosts, our own first.
    pub fn everybody(&self) -> Vec<usize> {
        (0..self.hosts.len()).collect()
    }

    /// Loses every packet on these ways until the answer is dropped.
    pub fn cut(&self, ways: Vec<Way>) -> Cut<'_> {
        let cut = Cut { network: self, ways };
        cut.rules("add").unwrap();
        cut
    }

    /// Asks for connections from host to host, all at once; the second hosts are asked at this
    /// port.
    pub async fn ask(&self, ways: &[Way], port: u16) -> Vec<Answer> {
        join_all(ways.iter().map(|way| {
            let to = SocketAddr::V4(SocketAddrV4::new(self.hosts[way.to].address, port));
            self.hosts[way.from].ask(to)
        }))
        .await
    }
}

impl Host {
    /// Its address.
    pub const fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// What to put before a command so that it runs there; it becomes the command.
    pub fn launcher(&self) -> Vec<String> {
        self.holder.as_ref().map(Holder::launcher).unwrap_or_default()
    }

    /// Asks for a connection.
    pub async fn ask(&self, to: SocketAddr) -> Answer {
        let patience = SILENCE.as_secs_f64().to_string();
        let mut command = self.launcher();
        command.extend(["timeout".to_owned(), patience, "bash".to_owned(), "-c".to_owned()]);
        command.push(format!("exec 3<>/dev/tcp/{}/{}", to.ip(), to.port()));
        let mut asked = tokio::process::Command::new(&command[0]);
        asked.args(&command[1..]).stdin(Stdio::null()).stderr(Stdio::null());
        match asked.status().await.unwrap().code() {
            Some(0) => Answer::Connected,
            // What `timeout` says when it ends a command.
            Some(124) => Answer::Silent,
            _ => Answer::Refused,
        }
    }

    /// True if somebody there has a connection to this address, at least as far as is known there.
    pub fn is_connected_to(&self, to: SocketAddrV4) -> bool {
        self.unanswered(to).is_some()
    }

    /// How many bytes were sent to this address that are not known to have arrived, over all
    /// connections; `None` if there is none.
    pub fn unanswered(&self, to: SocketAddrV4) -> Option<u64> {
        let remote = format!("{:08X}:{:04X}", u32::from_ne_bytes(to.ip().octets()), to.port());
        let table = self.read("tcp");
        let queues = table.lines().filter_map(|line| {
            let mut fields = line.split_whitespace().skip(2);
            // 01 is what an established connection is marked with.
            let ours = fields.next() == Some(&remote) && fields.next() == Some("01");
            let (sent, _) = fields.next().filter(|_| ours)?.split_once(':')?;
            u64::from_str_radix(sent, 16).ok()
        });
        queues.fold(None, |sum, sent| Some(sum.unwrap_or(0) + sent))
    }

    /// How many TCP segments have come in.
    pub fn segments(&self) -> u64 {
        let text = self.read("snmp");
        let mut lines = text.lines().filter_map(|line| line.strip_prefix("Tcp: "));
        let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
        let mut both = names.split(' ').zip(values.split(' '));
        both.find(|(name, _)| *name == "InSegs").unwrap().1.parse().unwrap()
    }

    fn read(&self, table: &str) -> String {
        let pid = self.holder.as_ref().map_or_else(|| "self".to_owned(), Holder::pid);
        std::fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap()
    }
}

/// Packets are lost as long as it lives.
#[derive(Debug)]
pub struct Cut<'a> {
    network: &'a Network,
    ways: Vec<Way>,
}

impl Cut<'_> {
    /// Tells the switch to take the ways for a black hole, or not to any more.
    fn rules(&self, verb: &str) -> Result<(), String> {
        let address = |number: usize| self.network.hosts[number].address;
        let mut rules = String::new();
        for Way { from, to } in &self.ways {
            let (from, to) = (address(*from), address(*to));
            writeln!(rules, "rule {verb} pref 100 from {from} to {to} blackhole").ok();
        }
        batch(&self.network.switch.launcher(), &rules)
    }

    /// Makes sure that no connection comes about on the ways that are cut, at the port at which the
    /// hosts listen.
    pub async fn prove(&self, port: u16) {
        let answers = self.network.ask(&self.ways, port).await;
        for (way, answer) in self.ways.iter().zip(answers) {
            assert_eq!(answer, Answer::Silent, "{way:?} is not cut");
        }
    }
}

impl Drop for Cut<'_> {
    fn drop(&mut self) {
        let healed = self.rules("del");
        assert!(healed.is_ok() || std::thread::panicking(), "{healed:?}");
    }
}

/// The address of a host (2) and of the switch's end of its cable (1).
fn address(number: usize, end: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, u8::try_from(number).unwrap(), end)
}

/// A file of names and addresses.
fn known(names: &[(&str, &[usize])], at: usize) -> String {
    let mut text = "127.0.0.1 localhost\n".to_owned();
    for (name, hosts) in names {
        let begin = at % hosts.len();
        for host in hosts.iter().cycle().skip(begin).take(hosts.len()) {
            writeln!(text, "{} {name}", address(*host, 2)).ok();
        }
    }
    text
}

/// Forwards, also what comes from where its answers do not pass.
const FORWARD: &str = "cd /proc/sys/net/ipv4 && echo 1 > ip_forward && \
    echo 0 > conf/all/rp_filter && echo 0 > conf/default/rp_filter";
/// Knows the names of the file.
const NAMES: &str = r#"mount --bind "$0" /etc/hosts"#;

/// A process that keeps namespaces alive.
#[derive(Debug)]
struct Holder(Child);

impl Holder {
    fn start(prepare: &str, file: &Path) -> Result<Self, String> {
        let mut holder = Command::new("unshare")
            .args(["--net", "--mount", "sh", "-c"])
            .arg(format!("{prepare} && echo ready && exec cat"))
            .arg(file)
            // The end of the test, however it ends, closes it; then the holder ends.
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| format!("unshare: {error}"))?;
        let mut answer = [0; 6];
        if holder.stdout.as_mut().unwrap().read_exact(&mut answer).is_err() {
            let output = holder.wait_with_output().unwrap();
            return Err(String::from_utf8_lossy(&output.stderr).trim().to_owned());
        }
        Ok(Self(holder))
    }

    fn pid(&self) -> String {
        self.0.id().to_string()
    }

    fn launcher(&self) -> Vec<String> {
        ["nsenter", "--target", &self.pid(), "--net", "--mount"].map(str::to_owned).to_vec()
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// Runs commands of `ip`, one a line.
fn batch(launcher: &[String], commands: &str) -> Result<(), String> {
    let line = [launcher, &["ip".to_owned(), "-batch".to_owned(), "-".to_owned()]].concat();
    let mut ip = Command::new(&line[0])
        .args(&line[1..])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("ip: {error}"))?;
    ip.stdin.take().unwrap().write_all(commands.as_bytes()).ok();
    told(&ip.wait_with_output().unwrap())
}

fn succeeds(command: &mut Command) -> Result<(), String> {
    let output = command.stdin(Stdio::null()).output();
    told(&output.map_err(|error| format!("{}: {error}", command.get_program().display()))?)
}

fn told(output: &std::process::Output) -> Result<(), String> {
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(()) } else { Err(said.trim().to_owned()) }
}
