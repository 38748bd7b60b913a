//! The request plane and the event plane that the options ask for.

use crate::process::Process;
use dynamo_engine_events::ZmqEvents;
use dynamo_nats::{Link, NatsEvents, NatsOptions, NatsPlane};
use dynamo_runtime::config::{EventPlaneKind, RequestPlaneKind, RuntimeOptions};
use dynamo_runtime::event_plane::Broadcast;
use dynamo_runtime::request_plane::{RequestPlane, TcpPlane, TcpPlaneOptions};
use dynamo_runtime::tls::TcpTlsOptions;
use std::sync::Arc;

/// How this process speaks with the others.
pub(crate) struct Planes {
    pub(crate) requests: Arc<dyn RequestPlane>,
    /// What brings events, if they do not just go over the request plane.
    pub(crate) events: Option<Arc<dyn Broadcast>>,
}

/// Opens both planes; they share one link to the NATS server.
pub(crate) async fn open(process: &Process) -> anyhow::Result<Planes> {
    let options: &RuntimeOptions = process.options.get();
    let nats: &NatsOptions = process.options.get();
    let (environment, tasks) = (&process.environment, &process.tasks);
    let link = if options.request_plane == RequestPlaneKind::Nats
        || options.event_plane == EventPlaneKind::Nats
    {
        Some(Link::open(nats, environment, tasks, &process.health).await?)
    } else {
        None
    };
    let plane_options = TcpPlaneOptions {
        host: options.tcp_host.clone(),
        port: options.tcp_port,
        advertise_host: options.advertise_host.clone(),
        newest_version: options.request_plane_version,
        ..TcpPlaneOptions::default()
    };
    let requests: Arc<dyn RequestPlane> = match (&link, options.request_plane) {
        (Some(link), RequestPlaneKind::Nats) => {
            let (link, tasks) = (link.clone(), tasks.child());
            let plane = NatsPlane::start(link, environment.clone(), tasks, &plane_options);
            Arc::new(plane.await?)
        }
        (_, RequestPlaneKind::Tcp | RequestPlaneKind::Nats) => {
            let (tasks, tls) = (tasks.child(), process.options.get::<TcpTlsOptions>());
            let plane = match tls.network(Arc::clone(&environment.network))? {
                Some(encrypted) => {
                    let environment = environment.clone();
                    TcpPlane::bind_encrypted(environment, encrypted, tasks, &plane_options).await
                }
                None => TcpPlane::bind(environment.clone(), tasks, &plane_options).await,
            };
            Arc::new(plane?)
        }
    };
    let events: Option<Arc<dyn Broadcast>> = match (link, options.event_plane) {
        (Some(link), EventPlaneKind::Nats) => {
            let random = Arc::clone(&environment.random);
            let events = NatsEvents::start(link, tasks.child(), random, nats.nats_jetstream);
            Some(Arc::new(events.await))
        }
        (_, EventPlaneKind::Zmq) => {
            let (host, advertise) = (&options.tcp_host, options.advertise_host.as_deref());
            let events = ZmqEvents::bind(environment.clone(), tasks, host, advertise);
            Some(Arc::new(events.await?))
        }
        (_, EventPlaneKind::Tcp | EventPlaneKind::Nats) => None,
    };
    Ok(Planes { requests, events })
}
