//! Connections that come in: the process shows its certificate, and may ask for one.

use super::files::NamedFile;
use super::{Reloaded, TlsError, provider};
use crate::environment::{Connection, Listener};
use futures_core::future::BoxFuture;
use rustls::ServerConfig;
use rustls::server::WebPkiClientVerifier;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::server::TlsStream;
use tokio_rustls::{Accept, TlsAcceptor};

/// Who a process is to those who connect to it, and whom it lets in.
#[derive(Debug)]
pub struct ServerTls {
    config: Reloaded<ServerConfig>,
}

/// A listener whose connections are encrypted.
pub struct TlsListener {
    inner: Box<dyn Listener>,
    tls: Arc<ServerTls>,
}

impl std::fmt::Debug for TlsListener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TlsListener")
            .field("tls", &self.tls)
            .finish_non_exhaustive()
    }
}

/// A connection that shakes hands when it is first used.
struct Secured {
    state: State,
}

type Encrypted = TlsStream<Box<dyn Connection>>;

enum State {
    Shaking(Box<Accept<Box<dyn Connection>>>),
    Open(Box<Encrypted>),
}

impl ServerTls {
    /// Reads certificate and key; and, if clients are to show certificates too, the authorities
    /// that theirs must be signed by. `protocols` are those to agree on, the preferred first.
    pub fn new(
        certificate: NamedFile,
        key: NamedFile,
        client_authorities: Option<NamedFile>,
        protocols: &[&str],
    ) -> Result<Self, TlsError> {
        let files = [Some(&certificate), Some(&key), client_authorities.as_ref()];
        let files = files.into_iter().flatten().cloned().collect();
        let protocols: Vec<Vec<u8>> = protocols.iter().map(|it| it.as_bytes().to_vec()).collect();
        let config = Reloaded::new(files, move || {
            let authorities = client_authorities.as_ref();
            let mut config = config(&certificate, &key, authorities)?;
            config.alpn_protocols.clone_from(&protocols);
            Ok(Arc::new(config))
        })?;
        Ok(Self { config })
    }
}

fn config(
    certificate: &NamedFile,
    key: &NamedFile,
    client_authorities: Option<&NamedFile>,
) -> Result<ServerConfig, TlsError> {
    let builder = ServerConfig::builder_with_provider(provider());
    let builder = builder.with_safe_default_protocol_versions()?;
    let builder = match client_authorities {
        None => builder.with_no_client_auth(),
        Some(file) => {
            let roots = Arc::new(file.authorities()?);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider());
            let verifier = verifier.build().map_err(|error| TlsError::Authority {
                option: file.option,
                reason: error.to_string(),
            })?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let identity = builder.with_single_cert(certificate.certificates()?, key.key()?);
    identity.map_err(|source| TlsError::Identity {
        certificate: certificate.option,
        key: key.option,
        source,
    })
}

impl TlsListener {
    /// Encrypts what `inner` accepts, if there is something to encrypt it with.
    pub fn around(inner: Box<dyn Listener>, tls: Option<ServerTls>) -> Box<dyn Listener> {
        match tls {
            Some(tls) => Box::new(Self::new(inner, Arc::new(tls))),
            None => inner,
        }
    }

    /// Encrypts what `inner` accepts.
    pub fn new(inner: Box<dyn Listener>, tls: Arc<ServerTls>) -> Self {
        Self { inner, tls }
    }
}

impl Listener for TlsListener {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    fn accept(&self) -> BoxFuture<'_, io::Result<(Box<dyn Connection>, SocketAddr)>> {
        Box::pin(async move {
            let (connection, peer) = self.inner.accept().await?;
            let shaking = TlsAcceptor::from(self.tls.config.get()).accept(connection);
            let secured = Secured {
                state: State::Shaking(Box::new(shaking)),
            };
            Ok((Box::new(secured) as Box<dyn Connection>, peer))
        })
    }
}

// === impl Secured ===

impl Secured {
    fn poll_open(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Pin<&mut Encrypted>>> {
        if let State::Shaking(shaking) = &mut self.state {
            let stream = ready!(Pin::new(&mut **shaking).poll(cx))?;
            self.state = State::Open(Box::new(stream));
        }
        match &mut self.state {
            State::Open(stream) => Poll::Ready(Ok(Pin::new(&mut **stream))),
            State::Shaking(_) => Poll::Pending,
        }
    }
}

impl AsyncRead for Secured {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.poll_open(cx))?.poll_read(cx, buffer)
    }
}

impl AsyncWrite for Secured {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_open(cx))?.poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_open(cx))?.poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        // Records are made of what is there: many small writes would be as many records.
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_open(cx))?.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.state {
            // Nothing was said yet: there is nothing to end.
            State::Shaking(_) => Poll::Ready(Ok(())),
            State::Open(stream) => Pin::new(&mut **stream).poll_shutdown(cx),
        }
    }
}
