//! The request plane over NATS: the frames of the tcp plane over connections that are made of
//! messages.

use crate::link::{Link, NatsError};
use crate::network::NatsNetwork;
use bytes::Bytes;
use dynamo_runtime::request_plane::{
    Carrier, Handlers, RequestHeader, RequestPlane, ResponseStream, TcpPlane, TcpPlaneOptions,
};
use dynamo_runtime::{Environment, Tasks};
use futures_core::future::BoxFuture;
use std::ops::RangeInclusive;
use std::sync::Arc;

/// The transport's name in addresses.
const SCHEME: &str = "nats://";

/// The `nats` request plane of one process. Cheap to clone; clones are the same plane.
#[derive(Debug, Clone)]
pub struct NatsPlane {
    frames: TcpPlane,
}

impl NatsPlane {
    /// Listens at the link's subject, and serves what is registered, until `tasks` are cancelled.
    /// Of `options`, host and port mean nothing here.
    pub async fn start(
        link: Link,
        environment: Environment,
        tasks: Tasks,
        options: &TcpPlaneOptions,
    ) -> Result<Self, NatsError> {
        let address = link.subject().to_owned();
        let random = Arc::clone(&environment.random);
        let (network, listener) = NatsNetwork::start(link, tasks.clone(), random)
            .await
            .map_err(|_| NatsError::Ended)?;
        let carrier = Carrier {
            scheme: SCHEME,
            network: Arc::new(network),
            listener: Box::new(listener),
            address,
        };
        Ok(Self {
            frames: TcpPlane::over(environment, tasks, carrier, options),
        })
    }
}

impl RequestPlane for NatsPlane {
    fn handlers(&self) -> &Handlers {
        self.frames.handlers()
    }

    fn address(&self) -> &str {
        self.frames.address()
    }

    fn versions(&self) -> RangeInclusive<u16> {
        self.frames.versions()
    }

    fn call<'a>(
        &'a self,
        address: &'a str,
        header: RequestHeader,
        body: Bytes,
    ) -> BoxFuture<'a, Result<ResponseStream, dynamo_protocols::RequestError>> {
        self.frames.call(address, header, body)
    }
}
