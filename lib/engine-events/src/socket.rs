//! A ZMQ socket over one connection: the handshake, then messages.

use crate::zmtp::{
    self, Arrival, Decoder, PeerVersion, ProtocolError, SocketType, peer_socket, ready,
};
use dynamo_runtime::environment::{Connection, Network};
use std::io;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

/// How long connecting and the handshake may take together: far above a datacentre's round trip.
const OPEN_TIMEOUT: Duration = Duration::from_secs(3);

/// How long a request or a heartbeat may wait to be sent. They are a few bytes: a peer that takes
/// none has stopped.
const SEND_TIMEOUT: Duration = Duration::from_secs(3);

/// Room made before each read.
const READ_BYTES: usize = 64 * 1024;

/// A connection past its handshake.
pub(crate) struct Socket {
    io: Box<dyn Connection>,
    decoder: Decoder,
    peer: PeerVersion,
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SocketError {
    #[error("the connection failed")]
    Io(#[from] io::Error),
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
    #[error("the peer closed the connection")]
    Closed,
    #[error("the peer does not answer")]
    Silent,
}

impl Socket {
    /// Connects and shakes hands.
    pub(crate) async fn open(
        network: &dyn Network,
        address: &str,
        socket: SocketType,
    ) -> Result<Self, SocketError> {
        let opening = async {
            let io = network.connect(address).await?;
            Self::greeted(io, socket).await
        };
        timeout(OPEN_TIMEOUT, opening)
            .await
            .map_err(|_| SocketError::Silent)?
    }

    /// Shakes hands with a peer that has connected.
    pub(crate) async fn accept(
        io: Box<dyn Connection>,
        socket: SocketType,
    ) -> Result<Self, SocketError> {
        timeout(OPEN_TIMEOUT, Self::greeted(io, socket))
            .await
            .map_err(|_| SocketError::Silent)?
    }

    async fn greeted(io: Box<dyn Connection>, socket: SocketType) -> Result<Self, SocketError> {
        let mut opened = Self {
            io,
            decoder: Decoder::default(),
            peer: PeerVersion { minor: 0 },
        };
        opened.shake_hands(socket).await?;
        Ok(opened)
    }

    async fn shake_hands(&mut self, socket: SocketType) -> Result<(), SocketError> {
        self.io.write_all(&zmtp::greeting()).await?;
        self.io.flush().await?;
        self.peer = loop {
            if let Some(peer) = self.decoder.greeting()? {
                break peer;
            }
            self.read().await?;
        };
        self.io.write_all(&ready(socket)).await?;
        self.io.flush().await?;
        match self.receive().await? {
            Arrival::Command { name, body } if name == "READY" => {
                let peer = peer_socket(&body)?;
                if socket.matches(peer) {
                    return Ok(());
                }
                let name = String::from_utf8_lossy(peer).into_owned();
                Err(ProtocolError::SocketType(name).into())
            }
            _ => Err(ProtocolError::Frame("no READY after the greeting").into()),
        }
    }

    /// Whether the peer knows heartbeats.
    pub(crate) fn answers_pings(&self) -> bool {
        self.peer.minor > 0
    }

    /// The next message or command. Can be dropped at any point: nothing is lost.
    pub(crate) async fn receive(&mut self) -> Result<Arrival, SocketError> {
        loop {
            if let Some(arrival) = self.decoder.next()? {
                return Ok(arrival);
            }
            self.read().await?;
        }
    }

    async fn read(&mut self) -> Result<(), SocketError> {
        let buffer = self.decoder.buffer();
        buffer.reserve(READ_BYTES);
        match self.io.read_buf(buffer).await? {
            0 => Err(SocketError::Closed),
            _ => Ok(()),
        }
    }

    /// Sends whole frames. The connection is of no use after an error, nor when this is dropped.
    pub(crate) async fn send(&mut self, frames: &[u8]) -> Result<(), SocketError> {
        let sending = async {
            self.io.write_all(frames).await?;
            self.io.flush().await
        };
        timeout(SEND_TIMEOUT, sending)
            .await
            .map_err(|_| SocketError::Silent)?
            .map_err(SocketError::Io)
    }
}
