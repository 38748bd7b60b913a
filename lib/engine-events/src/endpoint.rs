//! Addresses as ZMQ writes them, `tcp://HOST:PORT`.

use std::fmt;
use std::str::FromStr;

/// A publisher's socket: where to connect.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ZmqEndpoint {
    host: String,
    port: u16,
}

/// Why an address cannot be connected to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EndpointError {
    /// Not a tcp address with a port.
    #[error("{0:?} is not a tcp address; write tcp://HOST:PORT")]
    Malformed(String),
    /// The engine's own bind address.
    #[error("{0:?} is where an engine listens, not where it is; write its host instead of {1:?}")]
    Wildcard(String, String),
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
        let port = u16::try_from(rank)
            .ok()
            .and_then(|rank| self.port.checked_add(rank));
        match port {
            Some(port) => Ok(Self {
                host: self.host.clone(),
                port,
            }),
            None => Err(EndpointError::Port {
                port: self.port,
                rank,
            }),
        }
    }

    /// `host:port`, as sockets take it.
    pub fn address(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }
}

impl FromStr for ZmqEndpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let malformed = || EndpointError::Malformed(text.to_owned());
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
        Ok(Self {
            host: host.to_owned(),
            port,
        })
    }
}

impl fmt::Display for ZmqEndpoint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "tcp://{}:{}", self.host, self.port)
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
            "ipc:///tmp/x",
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
    fn each_rank_has_its_port() {
        let endpoint: ZmqEndpoint = "tcp://h:65534".parse().unwrap();
        assert_eq!(endpoint.for_rank(0).unwrap(), endpoint);
        assert_eq!(endpoint.for_rank(1).unwrap().address(), "h:65535");
        assert!(endpoint.for_rank(2).is_err());
        assert!(endpoint.for_rank(u32::MAX).is_err());
    }
}
