//! Hosts of a network of their own: network namespaces on a bridge, each with its own address,
//! that are cut off and connected again.
//!
//! Needs root and iproute2. What is made is named after this process, taken away when dropped, and
//! taken away by the next run if this one is killed.

use dynamo_testkit::site::Site;
use std::fmt;
use std::path::Path;
use std::process::Command;

/// What the names of all bridges and namespaces begin with.
const PREFIX: &str = "dyf";

/// The name of a namespace's device.
const DEVICE: &str = "eth0";

/// Where frames go that are to reach nobody: no device has this address.
const NOWHERE: &str = "02:00:00:00:00:01";

/// A bridge and its hosts.
#[derive(Debug)]
pub struct Network {
    bridge: String,
    /// The first three bytes of all addresses: of the block that is meant for tests between
    /// devices, by RFC 2544.
    subnet: String,
    hosts: usize,
}

/// A namespace with a device on the bridge.
#[derive(Debug, Clone)]
pub struct Host {
    namespace: String,
    /// The bridge's end of its cable.
    port: String,
    address: String,
}

/// Why there can be no network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Forbidden {
    /// Only root may make namespaces: the one reason for which this may be left out.
    NotRoot,
    /// What the system says to root.
    Refused(String),
}

impl fmt::Display for Forbidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotRoot => f.write_str("network namespaces need root: left out"),
            Self::Refused(said) => write!(
                f,
                "this machine refuses network namespaces: {said}; on Debian: apt-get install iproute2"
            ),
        }
    }
}

// === impl Network ===

impl Network {
    /// A bridge without hosts. This machine is on it, too.
    pub fn new() -> Result<Self, Forbidden> {
        if !rustix::process::geteuid().is_root() {
            return Err(Forbidden::NotRoot);
        }
        sweep();
        let id = std::process::id();
        let network = Self {
            bridge: format!("{PREFIX}{id}"),
            subnet: format!("198.18.{}", id % 254),
            hosts: 0,
        };
        let bridge = network.bridge.as_str();
        let own = format!("{}.1/24", network.subnet);
        ip(&[
            "link",
            "add",
            bridge,
            "type",
            "bridge",
            "forward_delay",
            "0",
        ])?;
        ip(&["address", "add", &own, "dev", bridge])?;
        ip(&["link", "set", bridge, "up"])?;
        Ok(network)
    }

    /// A host with an address of its own.
    pub fn host(&mut self) -> Result<Host, Forbidden> {
        self.hosts += 1;
        let name = format!("{}-{}", self.bridge, self.hosts);
        let host = Host {
            namespace: name.clone(),
            port: name,
            address: format!("{}.{}", self.subnet, 10 + self.hosts),
        };
        let (namespace, port) = (host.namespace.as_str(), host.port.as_str());
        let address = format!("{}/24", host.address);
        ip(&["netns", "add", namespace])?;
        let cable = ["link", "add", port, "type", "veth", "peer", "name", DEVICE];
        ip(&[&cable[..], &["netns", namespace]].concat())?;
        ip(&["link", "set", port, "master", &self.bridge, "up"])?;
        for words in [
            ["address", "add", address.as_str(), "dev", DEVICE].as_slice(),
            &["link", "set", DEVICE, "up"],
            &["link", "set", "lo", "up"],
        ] {
            ip(&[&["-n", namespace], words].concat())?;
        }
        Ok(host)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        remove(&self.bridge);
    }
}

// === impl Host ===

impl Host {
    /// Its address.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// To start processes there.
    pub fn site(&self) -> Site {
        Site::new(&["ip", "netns", "exec", &self.namespace], &self.address)
    }

    /// Pulls its cable.
    pub fn cut(&self) {
        ip(&["link", "set", &self.port, "down"]).unwrap();
    }

    /// Puts it back.
    pub fn heal(&self) {
        ip(&["link", "set", &self.port, "up"]).unwrap();
    }

    /// What it sends to another one is lost; what comes from there arrives.
    pub fn cannot_reach(&self, other: &Self) {
        let to = ["neighbour", "replace", &other.address, "lladdr", NOWHERE];
        let words = [
            &["-n", &self.namespace],
            &to[..],
            &["dev", DEVICE, "nud", "permanent"],
        ];
        ip(&words.concat()).unwrap();
    }

    /// What it sends to another one arrives again.
    pub fn can_reach(&self, other: &Self) {
        let words = ["neighbour", "delete", &other.address, "dev", DEVICE];
        ip(&[&["-n", &self.namespace], &words[..]].concat()).unwrap();
    }
}

/// Takes away what is left of processes that are gone.
fn sweep() {
    for name in namespaces() {
        let owner = name
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.split('-').next());
        let is_gone = |owner: &str| !Path::new("/proc").join(owner).exists();
        if let Some(owner) = owner.filter(|owner| is_gone(owner)) {
            remove(&format!("{PREFIX}{owner}"));
        }
    }
}

/// Takes away a bridge and its hosts. Their cables go with them.
fn remove(bridge: &str) {
    let hosts = format!("{bridge}-");
    for name in namespaces().iter().filter(|name| name.starts_with(&hosts)) {
        drop(ip(&["netns", "delete", name]));
    }
    drop(ip(&["link", "delete", bridge]));
}

fn namespaces() -> Vec<String> {
    let listed = ip(&["netns", "list"]).unwrap_or_default();
    let names = listed.lines().filter_map(|line| line.split(' ').next());
    names.map(str::to_owned).collect()
}

fn ip(words: &[&str]) -> Result<String, Forbidden> {
    let refused = |said: String| Forbidden::Refused(format!("ip {}: {said}", words.join(" ")));
    let output = Command::new("ip").args(words).output();
    let output = output.map_err(|error| refused(error.to_string()))?;
    let said = String::from_utf8_lossy(&output.stderr);
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(refused(said.trim().to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether a connection comes back as refused: nobody listens there.
    fn reaches(from: &Host, to: &Host) -> bool {
        let connect = format!("exec 3<>/dev/tcp/{}/9", to.address());
        let words = ["1", "bash", "-c", connect.as_str()];
        let tried = from.site().command("timeout").args(words).output();
        let said = tried.unwrap().stderr;
        String::from_utf8_lossy(&said).contains("refused")
    }

    /// The same where it takes a moment: who was cut off asks anew where the others are.
    fn comes_to_reach(from: &Host, to: &Host) -> bool {
        (0..20).any(|_| reaches(from, to))
    }

    #[test]
    fn hosts_reach_each_other_unless_they_are_cut_off() {
        let mut network = match Network::new() {
            Ok(network) => network,
            Err(Forbidden::NotRoot) => return,
            Err(refused) => panic!("{refused}"),
        };
        let (one, other) = (network.host().unwrap(), network.host().unwrap());
        assert!(comes_to_reach(&one, &other));
        one.cut();
        assert!(!reaches(&one, &other));
        one.heal();
        assert!(comes_to_reach(&other, &one));
        one.cannot_reach(&other);
        assert!(!reaches(&one, &other));
        one.can_reach(&other);
        assert!(comes_to_reach(&one, &other));
        drop(network);
        assert!(!namespaces().contains(&one.namespace));
    }
}
