//! The start of a connection: both sides say HELLO and agree on a version; and the reader of
//! frames that both sides use from then on.

use super::frame::{self, Frame, FrameError, Hello, MAGIC, MAX_FRAME_BYTES, MAX_HELLO_BYTES};
use crate::environment::Connection;
use bytes::{Buf, BytesMut};
use dynamo_protocols::{ErrorCode, RequestError};
use std::io;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::time::timeout;

/// How long a peer may take for its HELLO. A healthy one needs a round trip; longer than a
/// liveness bound is no use to anybody.
pub(super) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(3);

/// Bytes to make room for before each read: one read takes in a thousand tokens.
const READ_BYTES: usize = 64 * 1024;

/// A read buffer that grew beyond this for a large frame is given back.
const KEPT_BUFFER_BYTES: usize = 1024 * 1024;

/// Feature of connections that carry bulk data.
pub(super) const BULK_FEATURE: &str = "bulk";

/// Why a connection cannot be used any more.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectionError {
    #[error("the connection failed")]
    Io(#[from] io::Error),
    #[error("the peer closed the connection")]
    Closed,
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("the peer does not speak the request plane's protocol")]
    NotThisProtocol,
    #[error(
        "the peer speaks protocol versions {theirs_min} to {theirs_max}, this process {ours_min} to {ours_max}; update the older one"
    )]
    Version {
        theirs_min: u16,
        theirs_max: u16,
        ours_min: u16,
        ours_max: u16,
    },
    #[error("the peer said nothing for {0:?} after the connection was made")]
    HandshakeTimeout(Duration),
    #[error("the peer is silent: frozen, cut off or starved")]
    Silent,
    #[error("a {0} frame came where it makes no sense")]
    WrongState(&'static str),
    #[error("the peer does not read what it is sent")]
    NotReading,
    #[error("this process is stopping")]
    Stopping,
    #[error("the peer ended the connection: {0}")]
    Ended(RequestError),
}

/// Reads frames in large pieces.
pub(super) struct FrameReader {
    connection: ReadHalf<Box<dyn Connection>>,
    buffer: BytesMut,
    taken: usize,
    limit: usize,
}

/// A connection after its handshake.
pub(super) struct Greeted {
    pub(super) reader: FrameReader,
    pub(super) writer: WriteHalf<Box<dyn Connection>>,
    pub(super) peer: Hello,
    /// The version that both speak from now on.
    pub(super) version: u16,
}

/// Says HELLO and waits for the peer's, on either side.
pub(super) async fn greet(
    connection: Box<dyn Connection>,
    ours: Hello,
) -> Result<Greeted, ConnectionError> {
    let (read, mut writer) = tokio::io::split(connection);
    let mut reader = FrameReader {
        connection: read,
        buffer: BytesMut::new(),
        taken: 0,
        limit: MAX_HELLO_BYTES,
    };
    let exchange = async {
        let mut out = BytesMut::new();
        frame::put_hello(&mut out, &ours);
        writer.write_all(&out).await?;
        reader.hello().await
    };
    let peer = timeout(HANDSHAKE_TIMEOUT, exchange)
        .await
        .map_err(|_| ConnectionError::HandshakeTimeout(HANDSHAKE_TIMEOUT))??;
    let Some(version) = ours.common_version(&peer) else {
        return Err(ConnectionError::Version {
            theirs_min: peer.min,
            theirs_max: peer.max,
            ours_min: ours.min,
            ours_max: ours.max,
        });
    };
    reader.limit = MAX_FRAME_BYTES;
    Ok(Greeted {
        reader,
        writer,
        peer,
        version,
    })
}

// === impl ConnectionError ===

impl ConnectionError {
    /// Whether the peer speaks, and speaks wrongly. Such a peer is told before the connection is
    /// closed, so that its side can say what happened.
    pub(super) fn is_violation(&self) -> bool {
        matches!(
            self,
            Self::Frame(_) | Self::NotThisProtocol | Self::Version { .. } | Self::WrongState(_)
        )
    }

    /// What those are told whose streams end with the connection.
    pub(super) fn as_lost(&self) -> RequestError {
        match self {
            Self::Ended(reason) => reason.clone(),
            violation if violation.is_violation() => RequestError::new(
                ErrorCode::WorkerProtocol,
                format!("the worker broke the protocol: {violation}"),
            ),
            lost => RequestError::new(
                ErrorCode::WorkerLost,
                format!("the worker was lost before its answer was complete: {lost}"),
            ),
        }
    }

    /// What those are told who wait for the connection to be made.
    pub(super) fn as_unreachable(&self, address: &str) -> RequestError {
        let code = if self.is_violation() {
            ErrorCode::WorkerProtocol
        } else {
            ErrorCode::WorkerUnreachable
        };
        RequestError::new(
            code,
            format!("cannot reach the worker at {address}: {self}"),
        )
    }
}

// === impl FrameReader ===

impl FrameReader {
    /// Reads more; frames that were given out before are gone.
    pub(super) async fn fill(&mut self) -> Result<(), ConnectionError> {
        self.buffer.advance(self.taken);
        self.taken = 0;
        if self.buffer.is_empty() && self.buffer.capacity() > KEPT_BUFFER_BYTES {
            self.buffer = BytesMut::new();
        }
        self.buffer.reserve(READ_BYTES);
        if self.connection.read_buf(&mut self.buffer).await? == 0 {
            return Err(ConnectionError::Closed);
        }
        Ok(())
    }

    /// The next frame that has come in completely.
    pub(super) fn next(&mut self) -> Result<Option<Frame<'_>>, FrameError> {
        let Some((frame, length)) = frame::decode(&self.buffer[self.taken..], self.limit)? else {
            return Ok(None);
        };
        self.taken += length;
        Ok(Some(frame))
    }

    async fn hello(&mut self) -> Result<Hello, ConnectionError> {
        loop {
            self.fill().await?;
            match self.next() {
                Ok(None) => {}
                Ok(Some(Frame::Hello(hello))) if hello.magic == MAGIC => return Ok(hello),
                Ok(Some(Frame::End {
                    error: Some(reason),
                    ..
                })) => return Err(ConnectionError::Ended(reason)),
                Ok(Some(_)) | Err(_) => return Err(ConnectionError::NotThisProtocol),
            }
        }
    }
}
