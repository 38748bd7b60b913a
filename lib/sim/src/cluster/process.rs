//! What every simulated process is made of: environment, discovery, request plane, event plane.

use super::discovery::SimulatedDiscovery;
use super::fault::Host;
use super::radio::Radio;
use super::tamper::Tampering;
use super::world::{Orders, World};
use crate::environment::{self, Outside, Sockets};
use dynamo_runtime::Tasks;
use dynamo_runtime::component::DistributedRuntime;
use dynamo_runtime::request_plane::{TcpPlane, TcpPlaneOptions};
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

/// Port that everybody listens on.
const PORT: u16 = 7000;

/// How long cancelled tasks may take to end, as the product gives them.
pub(super) const STOP_LIMIT: Duration = Duration::from_secs(5);

pub(super) type Failed = Box<dyn Error>;

/// The runtime of a process that has just started.
pub(super) async fn join(
    host: Host,
    orders: &Orders,
    world: &Arc<World>,
    tasks: &Tasks,
) -> Result<DistributedRuntime, Failed> {
    let name = host.to_string();
    // A process that starts again draws other numbers.
    let seed = world.plan.seed ^ (orders.incarnation << 40);
    let sockets = Sockets::default();
    let outside = Outside {
        skew: orders.skew.clone(),
        sockets: sockets.clone(),
        traffic: Arc::clone(&world.traffic),
        tamper: Some(Tampering::new(host, orders, world)),
    };
    let environment = environment::of_process(&name, seed, &world.trace, &outside);
    let killed = orders.die.clone();
    tasks.spawn_until_cancelled("kill", async move {
        killed.cancelled().await;
        sockets.cut_off();
    });
    let options = TcpPlaneOptions {
        host: "0.0.0.0".to_owned(),
        port: PORT,
        advertise_host: Some(name),
        ..TcpPlaneOptions::default()
    };
    let plane = TcpPlane::bind(environment.clone(), tasks.child(), &options).await?;
    let random = Arc::clone(&environment.random);
    let late = orders.announced_late;
    let discovery = SimulatedDiscovery::join(host, world, late, random, tasks);
    let medium = Radio::new(host, world, &environment);
    let runtime = DistributedRuntime::new(
        environment,
        tasks.clone(),
        Arc::new(discovery),
        Arc::new(plane),
    );
    Ok(match world.plan.broadcast_events {
        true => runtime.with_event_medium(Arc::new(medium)),
        false => runtime,
    })
}
