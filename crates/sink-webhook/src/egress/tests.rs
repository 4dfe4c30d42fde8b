use super::*;

fn egress(deny_private: Option<bool>, allow: &[&str]) -> Egress {
    let allow = allow.iter().map(ToString::to_string).collect();
    Egress::new(&EgressSection { deny_private, allow }).unwrap()
}

fn permits(egress: &Egress, url: &str) -> bool {
    egress.check_literal(&Url::parse(url).unwrap()).is_ok()
}

/// However an address is written, it is the address that counts.
#[test]
fn every_spelling_of_an_address_is_seen() {
    let strict = egress(Some(true), &[]);
    for url in [
        "http://127.0.0.1/",
        "http://2130706433/",
        "http://0x7f.1/",
        "http://0177.0.0.1/",
        "http://127.1/",
        "http://[::1]/",
        "http://[::ffff:127.0.0.1]/",
        "http://[::ffff:10.0.0.1]/",
        "http://[::7f00:1]/",
        "http://[64:ff9b::a00:1]/",
        "http://[2002:a00:1::]/",
        "http://10.1.2.3/",
        "http://172.16.0.1/",
        "http://192.168.1.1/",
        "http://100.64.0.1/",
        "http://198.18.0.1/",
        "http://[fd12::1]/",
        "http://0.0.0.0/",
        "http://255.255.255.255/",
        "http://224.0.0.1/",
        "http://[::]/",
        "http://[ff02::1]/",
    ] {
        assert!(!permits(&strict, url), "{url}");
    }
    for url in ["http://93.184.216.34/", "http://[2606:2800:220:1::1]/", "http://172.32.0.1/"] {
        assert!(permits(&strict, url), "{url}");
    }
}

#[test]
fn metadata_is_denied_whatever_the_mode() {
    for mode in [None, Some(true), Some(false)] {
        let egress = egress(mode, &["metadata.internal"]);
        for url in [
            "http://169.254.169.254/latest/meta-data",
            "http://[::ffff:169.254.169.254]/",
            "http://[fd00:ec2::254]/",
            "http://[fe80::1]/",
            "http://100.100.100.200/",
        ] {
            assert!(!permits(&egress, url), "{mode:?} {url}");
        }
        let metadata = "169.254.169.254".parse().unwrap();
        assert!(
            egress.check("metadata.internal", metadata).is_err(),
            "a host's name is not enough"
        );
    }
    let listed = egress(Some(true), &["169.254.169.254", "fd00:ec2::/64"]);
    assert!(
        permits(&listed, "http://169.254.169.254/") && permits(&listed, "http://[fd00:ec2::254]/")
    );
}

#[test]
fn by_default_only_literal_loopback_is_private_and_allowed() {
    let default = egress(None, &[]);
    assert!(permits(&default, "http://127.0.0.1/") && permits(&default, "http://[::1]/"));
    assert!(!permits(&default, "http://10.0.0.1/"));
    let loopback = "127.0.0.1".parse().unwrap();
    assert!(default.check("localhost", loopback).is_ok());
    assert!(default.check("LOCALHOST.", loopback).is_ok());
    let error = default.check("evil.example", loopback).unwrap_err().to_string();
    assert!(
        error.contains("evil.example is 127.0.0.1") && error.contains("egress.allow"),
        "{error}"
    );
    assert!(default.check("localhost", "10.0.0.1".parse().unwrap()).is_err());
}

#[test]
fn lists_of_networks_addresses_and_hosts() {
    let listed =
        egress(Some(true), &["10.20.0.0/16", "192.168.7.7", "ledger.internal", "fd12::/16"]);
    let check = |host: &str, ip: &str| listed.check(host, ip.parse().unwrap()).is_ok();
    assert!(check("x", "10.20.255.1") && !check("x", "10.21.0.1"));
    assert!(check("x", "::ffff:10.20.0.1"), "a mapped address is the address");
    assert!(check("x", "192.168.7.7") && !check("x", "192.168.7.8"));
    assert!(check("Ledger.Internal.", "172.16.0.9") && !check("other.internal", "172.16.0.9"));
    assert!(check("x", "fd12::9") && !check("x", "fd13::9"));
    assert!(egress(Some(true), &["0.0.0.0/0"]).check("x", "127.0.0.1".parse().unwrap()).is_ok());
    assert!(egress(Some(false), &[]).check("x", "10.0.0.1".parse().unwrap()).is_ok());
}

#[test]
fn wrong_entries_are_named() {
    for entry in ["10.0.0.0/33", "10.0.0/8", "fd00::/129", "", "a b", "http://x"] {
        let section = EgressSection { deny_private: None, allow: vec![entry.to_owned()] };
        let error = Egress::new(&section).unwrap_err();
        assert!(error.starts_with("allow[0]"), "{error}");
    }
}
