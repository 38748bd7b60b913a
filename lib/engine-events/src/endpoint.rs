//! Addresses as ZMQ writes them: `tcp://HOST:PORT`, or `ipc://PATH` on this machine.

use std::fmt;
use std::str::FromStr;

/// Longest path of a socket, in bytes: what the system has room for.
const MAX_PATH: usize = 107;

/// A publisher's socket: where to connect.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ZmqEndpoint(Place);

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Place {
    Tcp { host: String, port: u16 },
    Ipc { path: String },
}

/// Why an address cannot be connected to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EndpointError {
    /// Not a tcp address with a port.
    #[error("{0:?} is no address of a socket; write tcp://HOST:PORT, or ipc:///PATH")]
    Malformed(String),
    /// The engine's own bind address.
    #[error("{0:?} is where an engine listens, not where it is; write its host instead of {1:?}")]
    Wildcard(String, String),
    /// A socket in the file system has no ports to add a rank to.
    #[error(
        "rank {rank} has no socket: engines with ranks need tcp, where the rank is added to the port"
    )]
    NoPort {
        /// The rank.
        rank: u32,
    },
    /// The rank's port does not exist.
    #[error("rank {rank} has no port: {port} plus the rank is above 65535")]
    Port {
        /// Port of rank 0.
        port: u16,
        /// The rank.
        rank: u32,
    },
}

impl ZmqEndpoint {
    /// The address of a data-parallel rank: engines add the rank to the port.
    pub fn for_rank(&self, rank: u32) -> Result<Self, EndpointError> {
        let (host, first) = match &self.0 {
            Place::Ipc { .. } if rank == 0 => return Ok(self.clone()),
            Place::Ipc { .. } => return Err(EndpointError::NoPort { rank }),
            Place::Tcp { host, port } => (host, *port),
        };
        let port = u16::try_from(rank)
            .ok()
            .and_then(|rank| first.checked_add(rank));
        match port {
            Some(port) => Ok(Self(Place::Tcp {
                host: host.clone(),
                port,
            })),
            None => Err(EndpointError::Port { port: first, rank }),
        }
    }

    /// `host:port` or `unix:path`, as the network takes it.
    pub fn address(&self) -> String {
        match &self.0 {
            Place::Tcp { host, port } => format!("{host}:{port}"),
            Place::Ipc { path } => format!("unix:{path}"),
        }
    }
}

impl FromStr for ZmqEndpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let malformed = || EndpointError::Malformed(text.to_owned());
        if let Some(path) = text.strip_prefix("ipc://") {
            // Without a folder it would depend on where each process was started.
            return match path.starts_with('/') && path.len() <= MAX_PATH && !path.contains('\0') {
                true => Ok(Self(Place::Ipc {
                    path: path.to_owned(),
                })),
                false => Err(malformed()),
            };
        }
        let rest = text.strip_prefix("tcp://").ok_or_else(malformed)?;
        let (host, port) = rest.rsplit_once(':').ok_or_else(malformed)?;
        let port: u16 = port.parse().map_err(|_| malformed())?;
        let bare_ip6 = host.contains(':') && !(host.starts_with('[') && host.ends_with(']'));
        if host.is_empty() || host.contains(['/', ' ', ';']) || bare_ip6 || port == 0 {
            return Err(malformed());
        }
        if ["*", "0.0.0.0", "[::]"].contains(&host) {
            return Err(EndpointError::Wildcard(text.to_owned(), host.to_owned()));
        }
        Ok(Self(Place::Tcp {
            host: host.to_owned(),
            port,
        }))
    }
}

impl fmt::Display for ZmqEndpoint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Place::Tcp { host, port } => write!(formatter, "tcp://{host}:{port}"),
            Place::Ipc { path } => write!(formatter, "ipc://{path}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_and_written_back() {
        for text in [
            "tcp://10.0.0.1:5557",
            "tcp://worker-0:1",
            "tcp://[::1]:65535",
        ] {
            let endpoint: ZmqEndpoint = text.parse().unwrap();
            assert_eq!(endpoint.to_string(), text);
            assert_eq!(format!("tcp://{}", endpoint.address()), text);
        }
    }

    #[test]
    fn what_cannot_be_connected_to_is_refused_with_a_hint() {
        for text in [
            "",
            "5557",
            "tcp://",
            "tcp://host",
            "tcp://host:",
            "tcp://:1",
            "tcp://h:0",
            "tcp://h:65536",
            "ipc://x",
            "ipc://",
            "inproc://x",
            "http://h:1",
            "tcp://::1:5",
            "tcp://a;b:1",
        ] {
            let error = text.parse::<ZmqEndpoint>().unwrap_err();
            assert_eq!(error, EndpointError::Malformed(text.to_owned()));
        }
        let error = "tcp://*:5557".parse::<ZmqEndpoint>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "\"tcp://*:5557\" is where an engine listens, not where it is; \
             write its host instead of \"*\""
        );
    }

    #[test]
    fn a_socket_in_the_file_system_is_one_of_this_machine() {
        let endpoint: ZmqEndpoint = "ipc:///run/kv.sock".parse().unwrap();
        assert_eq!(endpoint.to_string(), "ipc:///run/kv.sock");
        assert_eq!(endpoint.address(), "unix:/run/kv.sock");
        assert_eq!(endpoint.for_rank(0).unwrap(), endpoint);
        assert_eq!(endpoint.for_rank(1), Err(EndpointError::NoPort { rank: 1 }));
    }

    #[test]
    fn each_rank_has_its_port() {
        let endpoint: ZmqEndpoint = "tcp://h:65534".parse().unwrap();
        assert_eq!(endpoint.for_rank(0).unwrap(), endpoint);
        assert_eq!(endpoint.for_rank(1).unwrap().address(), "h:65535");
        assert!(endpoint.for_rank(2).is_err());
        assert!(endpoint.for_rank(u32::MAX).is_err());
    }
}
