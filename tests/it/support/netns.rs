//! Network namespaces: machines that cannot reach each other except through what they share. Needs root.

use std::net::Ipv4Addr;
use std::process::Command;
use std::sync::atomic::{AtomicU8, Ordering};

/// Networks of this process; each test that makes one gets its own.
static NETWORKS: AtomicU8 = AtomicU8::new(0);

/// Two machines behind separate networks, and a server that both reach and nothing else. Taken down when dropped.
pub(crate) struct Isolated {
    names: [String; 2],
    links: [String; 2],
    server: Ipv4Addr,
}

impl Isolated {
    /// Makes the networks; `None`, with a message, where that is not allowed.
    pub(crate) fn new() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: network namespaces need root");
            return None;
        }
        if Command::new("ip").arg("-Version").output().is_err() {
            println!("skipped: network namespaces need `ip` (iproute2)");
            return None;
        }
        let number = NETWORKS.fetch_add(1, Ordering::Relaxed);
        let tag = format!("{}-{number}", std::process::id());
        // 10.128.0.0/9, by process and network: tests run side by side.
        let [_, middle] = u16::try_from(std::process::id() % 0x8000).expect("15 bits").to_be_bytes();
        let net = |last: u8| Ipv4Addr::new(10, 128 | (middle >> 1), (middle << 7) | (number & 0x3f), last);
        let isolated = Self {
            names: [format!("cs-{tag}-a"), format!("cs-{tag}-b")],
            links: [format!("cs{tag}a"), format!("cs{tag}b")],
            server: net(1),
        };
        ip(&format!("address add {}/32 dev lo", isolated.server));
        for (i, (name, link)) in isolated.names.iter().zip(&isolated.links).enumerate() {
            let base = 16 * u8::try_from(i + 1).expect("two of them");
            let (near, far) = (net(base + 1), net(base + 2));
            ip(&format!("netns add {name}"));
            ip(&format!("link add {link} type veth peer name eth0 netns {name}"));
            ip(&format!("address add {near}/30 dev {link}"));
            ip(&format!("link set {link} up"));
            ip(&format!("-n {name} link set lo up"));
            ip(&format!("-n {name} address add {far}/30 dev eth0"));
            ip(&format!("-n {name} link set eth0 up"));
            ip(&format!("-n {name} route add {}/32 via {near}", isolated.server));
        }
        Some(isolated)
    }

    /// Names of the two namespaces.
    pub(crate) fn names(&self) -> [&str; 2] {
        [&self.names[0], &self.names[1]]
    }

    /// The address that both reach.
    pub(crate) fn server(&self) -> Ipv4Addr {
        self.server
    }
}

impl Drop for Isolated {
    fn drop(&mut self) {
        for (name, link) in self.names.iter().zip(&self.links) {
            let _ = Command::new("ip").args(["link", "delete", link]).output();
            let _ = Command::new("ip").args(["netns", "delete", name]).output();
        }
        let server = format!("{}/32", self.server);
        let _ = Command::new("ip").args(["address", "delete", &server, "dev", "lo"]).output();
    }
}

/// Two machines in networks of their own, and a router between them that can be told to forward nothing. Taken down when dropped.
pub(crate) struct Routed {
    /// The machines, then the router.
    names: [String; 3],
}

impl Routed {
    /// Makes the networks; `None`, with a message, where that is not allowed.
    pub(crate) fn new() -> Option<Self> {
        if !rustix::process::geteuid().is_root() || Command::new("ip").arg("-Version").output().is_err() {
            println!("skipped: network namespaces need root and `ip` (iproute2)");
            return None;
        }
        let tag = format!("{}-{}", std::process::id(), NETWORKS.fetch_add(1, Ordering::Relaxed));
        let routed = Self { names: ["a", "b", "r"].map(|end| format!("cs-{tag}-{end}")) };
        let [.., router] = &routed.names;
        for name in &routed.names {
            ip(&format!("netns add {name}"));
            ip(&format!("-n {name} link set lo up"));
        }
        // Nobody outside of these namespaces sees their addresses.
        for (number, name) in routed.names[..2].iter().enumerate() {
            let (near, far) = (format!("10.77.{number}.1"), format!("10.77.{number}.2"));
            ip(&format!("-n {router} link add to{number} type veth peer name eth0 netns {name}"));
            ip(&format!("-n {router} address add {near}/30 dev to{number}"));
            ip(&format!("-n {router} link set to{number} up"));
            ip(&format!("-n {name} address add {far}/30 dev eth0"));
            ip(&format!("-n {name} link set eth0 up"));
            ip(&format!("-n {name} route add default via {near}"));
        }
        routed.forward(true);
        Some(routed)
    }

    /// Names of the machines' namespaces.
    pub(crate) fn names(&self) -> [&str; 2] {
        [&self.names[0], &self.names[1]]
    }

    /// Whether the router passes anything on. The machines' own networks stay as they are.
    pub(crate) fn forward(&self, on: bool) {
        let set = format!("echo {} > /proc/sys/net/ipv4/ip_forward", u8::from(on));
        let output = Command::new("ip").args(["netns", "exec", &self.names[2], "sh", "-c", &set]).output();
        assert!(output.expect("the program `ip` (iproute2)").status.success(), "{set}");
    }
}

impl Drop for Routed {
    fn drop(&mut self) {
        for name in &self.names {
            let _ = Command::new("ip").args(["netns", "delete", name]).output();
        }
    }
}

fn ip(args: &str) {
    let output = Command::new("ip").args(args.split(' ')).output().expect("the program `ip` (iproute2)");
    assert!(output.status.success(), "ip {args}: {}", String::from_utf8_lossy(&output.stderr));
}
