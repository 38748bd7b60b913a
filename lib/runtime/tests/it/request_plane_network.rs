//! Networks whose processes can be frozen and killed: one in memory, for virtual time, and the
//! system's.

use dynamo_runtime::Environment;
use dynamo_runtime::environment::{Connection, Listener, Network};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::sync::mpsc;

/// Bytes on their way in one direction of an in-memory connection, as in a socket's buffers.
const PIPE_BYTES: usize = 64 * 1024;

/// Connections that wait to be accepted.
const BACKLOG: usize = 128;

/// The traffic of one process: it flows, stands, or has ended.
#[derive(Debug, Default)]
pub(crate) struct Switch {
    state: Mutex<(Traffic, Vec<Waker>)>,
}

#[derive(Debug, Default, Clone, Copy)]
pub(crate) enum Traffic {
    #[default]
    Flows,
    Stands,
    Ended,
}

/// A network whose connections obey a process's switch.
#[derive(Debug)]
struct Switched<N> {
    inner: N,
    switch: Arc<Switch>,
}

/// Listeners by address.
#[derive(Debug, Clone, Default)]
pub(crate) struct MemoryNetwork {
    listeners: Arc<Mutex<BTreeMap<String, mpsc::Sender<DuplexStream>>>>,
}

struct MemoryListener {
    address: SocketAddr,
    incoming: tokio::sync::Mutex<mpsc::Receiver<DuplexStream>>,
}

/// The environment of a process on this network.
pub(crate) fn switched(network: Arc<dyn Network>, switch: &Arc<Switch>) -> Environment {
    Environment {
        network: Arc::new(Switched {
            inner: network,
            switch: Arc::clone(switch),
        }),
        ..Environment::system()
    }
}

impl Switch {
    pub(crate) fn set(&self, traffic: Traffic) {
        let mut state = self.state.lock();
        state.0 = traffic;
        state.1.drain(..).for_each(Waker::wake);
    }

    fn poll_flow(&self, context: &Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.state.lock();
        match state.0 {
            Traffic::Flows => Poll::Ready(Ok(())),
            Traffic::Ended => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            Traffic::Stands => {
                state.1.push(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl Network for Switched<Arc<dyn Network>> {
    fn connect<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Connection>>> {
        let switch = Arc::clone(&self.switch);
        Box::pin(async move {
            let inner = self.inner.connect(address).await?;
            Ok(Box::new(Switched { inner, switch }) as Box<dyn Connection>)
        })
    }

    fn bind<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Listener>>> {
        let switch = Arc::clone(&self.switch);
        Box::pin(async move {
            let inner = self.inner.bind(address).await?;
            Ok(Box::new(Switched { inner, switch }) as Box<dyn Listener>)
        })
    }
}

impl Listener for Switched<Box<dyn Listener>> {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    fn accept(&self) -> BoxFuture<'_, io::Result<(Box<dyn Connection>, SocketAddr)>> {
        let switch = Arc::clone(&self.switch);
        Box::pin(async move {
            let (inner, peer) = self.inner.accept().await?;
            let connection: Box<dyn Connection> = Box::new(Switched { inner, switch });
            Ok((connection, peer))
        })
    }
}

impl AsyncRead for Switched<Box<dyn Connection>> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.switch.poll_flow(context))?;
        Pin::new(&mut self.inner).poll_read(context, buffer)
    }
}

impl AsyncWrite for Switched<Box<dyn Connection>> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.switch.poll_flow(context))?;
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.switch.poll_flow(context))?;
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.switch.poll_flow(context))?;
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

impl Network for MemoryNetwork {
    fn connect<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Connection>>> {
        let listener = self.listeners.lock().get(address).cloned();
        Box::pin(async move {
            let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
            let listener = listener.ok_or_else(refused)?;
            let (near, far) = tokio::io::duplex(PIPE_BYTES);
            listener.send(far).await.map_err(|_| refused())?;
            Ok(Box::new(near) as Box<dyn Connection>)
        })
    }

    fn bind<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Listener>>> {
        async move {
            let mut address: SocketAddr = address.parse().map_err(io::Error::other)?;
            let mut listeners = self.listeners.lock();
            if address.port() == 0 {
                address.set_port(1000 + listeners.len() as u16);
            }
            let (sender, incoming) = mpsc::channel(BACKLOG);
            listeners.insert(address.to_string(), sender);
            Ok(Box::new(MemoryListener {
                address,
                incoming: tokio::sync::Mutex::new(incoming),
            }) as Box<dyn Listener>)
        }
        .boxed()
    }
}

impl Listener for MemoryListener {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }

    fn accept(&self) -> BoxFuture<'_, io::Result<(Box<dyn Connection>, SocketAddr)>> {
        Box::pin(async move {
            match self.incoming.lock().await.recv().await {
                Some(connection) => Ok((Box::new(connection) as Box<dyn Connection>, self.address)),
                None => std::future::pending().await,
            }
        })
    }
}
