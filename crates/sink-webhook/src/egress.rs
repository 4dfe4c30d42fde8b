//! Which addresses a webhook may reach. Checked when connecting, on the addresses that are then
//! dialled, so a name that changes its mind between check and use gains nothing.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use serde::Deserialize;
use url::{Host, Url};

/// `egress` of a sink, as written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EgressSection {
    /// Private and loopback addresses: `true` denies them, `false` allows them. Left out, they
    /// are allowed only where the URL's host is literally loopback (`localhost`, `127.0.0.1`,
    /// `[::1]`).
    pub deny_private: Option<bool>,
    /// Networks (`10.20.0.0/16`), addresses and host names that are allowed in any case. Only
    /// this allows link-local addresses, where clouds answer with credentials.
    pub allow: Vec<String>,
}

/// The rules, ready to decide.
#[derive(Clone, Debug, Default)]
pub struct Egress {
    deny_private: Option<bool>,
    networks: Vec<Network>,
    hosts: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Network {
    address: IpAddr,
    prefix: u8,
}

/// Why an address is not reached.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{host} is {address}, {what}; add it to egress.allow of the sink if that is meant")]
pub struct Denied {
    host: String,
    address: IpAddr,
    what: &'static str,
}

/// What kind of place an address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Public,
    Private,
    Loopback,
    /// Link-local, where clouds keep their metadata, and their other such addresses.
    Metadata,
    /// Nothing that a request can be sent to.
    Reserved,
}

impl Egress {
    /// Reads the rules. The error names the entry.
    pub fn new(section: &EgressSection) -> Result<Self, String> {
        let (mut networks, mut hosts) = (Vec::new(), Vec::new());
        for (i, entry) in section.allow.iter().enumerate() {
            match network(entry) {
                Ok(network) => networks.push(network),
                Err(Some(why)) => return Err(format!("allow[{i}] {entry:?}: {why}")),
                Err(None) => hosts.push(plain_host(entry)),
            }
        }
        Ok(Self { deny_private: section.deny_private, networks, hosts })
    }

    /// Decides an address that a host stands for.
    pub fn check(&self, host: &str, address: IpAddr) -> Result<(), Denied> {
        let host = plain_host(host);
        let denied = |what| Err(Denied { host: host.clone(), address, what });
        let inner = unwrap_v6(address);
        if self.networks.iter().any(|network| network.contains(address) || network.contains(inner))
        {
            return Ok(());
        }
        let listed = self.hosts.contains(&host);
        match place(inner) {
            Place::Public => Ok(()),
            Place::Metadata => denied("a link-local address, where clouds keep credentials"),
            Place::Reserved => denied("not an address of a receiver"),
            Place::Private | Place::Loopback if listed || self.deny_private == Some(false) => {
                Ok(())
            }
            Place::Loopback if self.deny_private.is_none() && is_loopback_host(&host) => Ok(()),
            Place::Loopback => denied("a loopback address"),
            Place::Private => denied("a private address"),
        }
    }

    /// Decides a URL whose host is an address: resolvers are never asked for those.
    pub fn check_literal(&self, url: &Url) -> Result<(), Denied> {
        match url.host() {
            Some(Host::Ipv4(address)) => self.check(&address.to_string(), address.into()),
            Some(Host::Ipv6(address)) => self.check(&address.to_string(), address.into()),
            Some(Host::Domain(_)) | None => Ok(()),
        }
    }
}

/// Resolves names and refuses a name as soon as one of its addresses is denied.
#[derive(Clone, Debug)]
pub struct VettingResolver(pub Arc<Egress>);

impl Resolve for VettingResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let egress = Arc::clone(&self.0);
        Box::pin(async move {
            let host = name.as_str().to_owned();
            let found = tokio::net::lookup_host((host.as_str(), 0)).await?;
            let addresses: Vec<SocketAddr> = found.collect();
            if addresses.is_empty() {
                let text = format!("{host} has no address");
                return Err(io::Error::new(io::ErrorKind::NotFound, text).into());
            }
            for address in &addresses {
                egress.check(&host, address.ip())?;
            }
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

/// An entry as a network; `Err(None)` if it is a host name.
fn network(entry: &str) -> Result<Network, Option<&'static str>> {
    let (address, prefix) = match entry.split_once('/') {
        Some((address, prefix)) => (address, Some(prefix)),
        None => (entry, None),
    };
    let address: IpAddr = match address.trim_matches(['[', ']']).parse() {
        Ok(address) => address,
        Err(_) if prefix.is_some() => return Err(Some("not a network such as 10.20.0.0/16")),
        Err(_) if entry.is_empty() || entry.contains(|c: char| c.is_whitespace() || c == ':') => {
            return Err(Some("not a network, an address or a host name"));
        }
        Err(_) => return Err(None),
    };
    let most = if address.is_ipv4() { 32 } else { 128 };
    let prefix = match prefix {
        None => most,
        Some(text) => match text.parse::<u8>() {
            Ok(prefix) if prefix <= most => prefix,
            _ => return Err(Some("the prefix length is beyond the address")),
        },
    };
    Ok(Network { address, prefix })
}

impl Network {
    fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                let shift = 32 - u32::from(self.prefix);
                own.to_bits().checked_shr(shift) == other.to_bits().checked_shr(shift)
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                let shift = 128 - u32::from(self.prefix);
                own.to_bits().checked_shr(shift) == other.to_bits().checked_shr(shift)
            }
            _ => false,
        }
    }
}

fn plain_host(host: &str) -> String {
    host.trim_end_matches('.').trim_matches(['[', ']']).to_ascii_lowercase()
}

fn is_loopback_host(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// The IPv4 address that an IPv6 address carries, if it does: mapped, compatible, 6to4, NAT64.
fn unwrap_v6(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else { return address };
    let [a, b, c, d, e, f, g, h] = v6.segments();
    let from = |high: u16, low: u16| {
        IpAddr::V4(Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)))
    };
    match [a, b, c, d, e, f] {
        [0, 0, 0, 0, 0, 0xffff] | [0x64, 0xff9b, 0, 0, 0, 0] => from(g, h),
        [0, 0, 0, 0, 0, 0] if v6 != Ipv6Addr::UNSPECIFIED && v6 != Ipv6Addr::LOCALHOST => {
            from(g, h)
        }
        [0x2002, ..] => from(b, c),
        _ => address,
    }
}

fn place(address: IpAddr) -> Place {
    match address {
        IpAddr::V4(v4) => place_v4(v4),
        IpAddr::V6(v6) => place_v6(v6),
    }
}

fn place_v4(address: Ipv4Addr) -> Place {
    match address.octets() {
        [127, ..] => Place::Loopback,
        [169, 254, ..] | [100, 100, 100, 200] => Place::Metadata,
        [0 | 224..=255, ..] => Place::Reserved,
        [10, ..] | [172, 16..=31, ..] | [192, 168, ..] => Place::Private,
        // Shared address space, protocol assignments, benchmarks.
        [100, 64..=127, ..] | [192, 0, 0, _] | [198, 18..=19, ..] => Place::Private,
        _ => Place::Public,
    }
}

fn place_v6(address: Ipv6Addr) -> Place {
    const EC2: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);
    let [first, ..] = address.segments();
    match first {
        _ if address == Ipv6Addr::LOCALHOST => Place::Loopback,
        _ if address == EC2 => Place::Metadata,
        0xfe80..=0xfebf => Place::Metadata,
        0 | 0xff00.. => Place::Reserved,
        // Unique local, and the retired site-local.
        0xfc00..=0xfdff | 0xfec0..=0xfeff => Place::Private,
        _ => Place::Public,
    }
}

#[cfg(test)]
mod tests;
