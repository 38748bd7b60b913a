//! Runs a plan: starts the hosts, makes faults begin and end, and looks on.

use super::fault::{Fault, FaultKind, Host, Link, link};
use super::plan::{ClusterPlan, TRAFFIC_ENDS};
use super::tamper::FrameFault;
use super::world::World;
use super::{Broken, Ending, Failure, MODEL, Report, Violation, frontend, judge, worker};
use dynamo_kv_router::Slot;
use dynamo_kv_router::index::TierEvent;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio_util::sync::CancellationToken;
use turmoil::Sim;

/// Time between two looks at everything.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// From the last request's end to when bookings, caches and members must agree: what was lost is
/// noticed and made good in the time that a worker takes to recover.
const QUIET: Duration = Duration::from_secs(12);

/// The longest that the last request may take, and what comes after it.
const LONGEST_RUN: Duration = Duration::from_secs(300);

/// How long the hosts may take to end.
const STOP_BOUND: Duration = Duration::from_secs(8);

/// Segments that a simulated socket holds; the simulator panics if more come at once. A host that
/// was frozen for ten seconds gets all that was sent to it meanwhile.
const SOCKET_SEGMENTS: usize = 1 << 16;

/// The simulation's time of day at its start, in seconds since 1970.
const START_OF_TIME: u64 = 1_700_000_000;

/// Blocks of dead workers that a broken frontend keeps.
type Kept = Vec<(usize, Slot, Vec<TierEvent>)>;

struct Driver<'a> {
    sim: Sim<'a>,
    world: Arc<World>,
    hosts: Vec<Host>,
    links: BTreeMap<(Host, Host), (Link, Option<Duration>)>,
    kept: Kept,
    /// The begins and ends of faults that are still to come.
    changes: VecDeque<(Duration, Change, Fault)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Change {
    Begins,
    Ends,
}

/// Runs the plan of a seed.
pub(super) fn run(seed: u64, broken: Broken) -> Result<Report, Box<Failure>> {
    let plan = ClusterPlan::draw(seed);
    let world = Arc::new(World::new(plan, broken));
    let mut driver = Driver::new(&world);
    if let Err(error) = driver.drive() {
        let failed = Violation::Simulation(error.to_string());
        world.violated(driver.sim.elapsed(), failed);
    }
    let elapsed = driver.sim.elapsed();
    drop(driver);
    let violations = std::mem::take(&mut *world.violations.lock());
    let report = Report {
        seed,
        hash: world.trace.hash(),
        events: world.trace.events(),
        endings: world
            .requests
            .lock()
            .iter()
            .filter_map(|state| state.ended.map(|(_, ending)| ending))
            .collect(),
        faults: world.plan.faults.iter().map(|it| it.kind.name()).collect(),
        happened: world.happened(),
        story: world.story(),
        plan: world.plan.to_string(),
        elapsed,
    };
    match violations.is_empty() {
        true => Ok(report),
        false => Err(Box::new(Failure { report, violations })),
    }
}

impl Driver<'_> {
    fn new(world: &Arc<World>) -> Self {
        let plan = &world.plan;
        let mut sim = turmoil::Builder::new()
            .rng_seed(plan.seed)
            .epoch(SystemTime::UNIX_EPOCH + Duration::from_secs(START_OF_TIME))
            .simulation_duration(LONGEST_RUN)
            .tick_duration(plan.step)
            .min_message_latency(plan.step)
            .max_message_latency(plan.max_latency)
            .tcp_capacity(SOCKET_SEGMENTS)
            .enable_random_order()
            .build();
        let hosts = plan.hosts();
        for host in &hosts {
            let world = Arc::clone(world);
            let gate = world.orders(*host).gate;
            match *host {
                Host::Worker(number) => {
                    sim.host(host.to_string(), move || {
                        gate.hold(Box::pin(worker::run(number, Arc::clone(&world))))
                    });
                }
                Host::Frontend(number) => {
                    sim.host(host.to_string(), move || {
                        gate.hold(Box::pin(frontend::run(number, Arc::clone(&world))))
                    });
                }
            }
        }
        Self {
            sim,
            world: Arc::clone(world),
            hosts,
            links: BTreeMap::new(),
            kept: Kept::new(),
            changes: changes(world),
        }
    }

    fn drive(&mut self) -> Result<(), Box<dyn std::error::Error>> {
        let (mut quiet_at, mut doubled) = (None, BTreeMap::new());
        let mut next_look = Duration::ZERO;
        while self.sim.elapsed() < LONGEST_RUN - STOP_BOUND {
            let now = self.sim.elapsed();
            self.apply_faults(now);
            self.expire_leases(now);
            if now >= next_look {
                judge::look(&self.world, now);
                judge::owners(&self.world, now, &mut doubled);
                next_look = now + LOOK_INTERVAL;
                let is_over = now > TRAFFIC_ENDS && self.all_ended();
                quiet_at = quiet_at.or(is_over.then_some(now + QUIET));
            }
            if quiet_at.is_some_and(|at| at <= now) {
                break;
            }
            self.sim.step()?;
        }
        let now = self.sim.elapsed();
        self.put_back_kept();
        judge::requests(&self.world);
        judge::quiet(&self.world, now);
        self.stop(now)
    }

    fn all_ended(&self) -> bool {
        let requests = self.world.requests.lock();
        requests.iter().all(|state| state.ended.is_some())
    }

    /// Asks all hosts to end, and sees that they do.
    fn stop(&mut self, now: Duration) -> Result<(), Box<dyn std::error::Error>> {
        for number in 0..self.world.frontends.len() {
            frontend::count_moves(&self.world, number);
        }
        for seat in &self.world.workers {
            seat.lock().orders.stop.cancel();
        }
        for seat in &self.world.frontends {
            seat.lock().orders.stop.cancel();
        }
        while self.sim.elapsed() < now + STOP_BOUND {
            if !self
                .hosts
                .iter()
                .any(|it| self.sim.is_host_running(it.to_string()))
            {
                return Ok(());
            }
            self.sim.step()?;
        }
        for host in &self.hosts {
            if self.sim.is_host_running(host.to_string()) {
                let host = *host;
                self.world
                    .violated(self.sim.elapsed(), Violation::NotStopped { host });
            }
        }
        Ok(())
    }

    fn expire_leases(&self, now: Duration) {
        let on = self.world.on.lock();
        if on.contains(&FaultKind::Outage) {
            return;
        }
        drop(on);
        let gone = self.world.leases.lock().expire(now);
        if now < TRAFFIC_ENDS {
            self.world
                .count("leases run out under load", gone.len() as u64);
        }
        for id in gone {
            let what = format_args!("the lease of {} runs out", id.get());
            self.world.tell(now, "discovery", what);
        }
    }

    /// Makes begin and end what the plan says for now.
    fn apply_faults(&mut self, now: Duration) {
        let world = Arc::clone(&self.world);
        let mut changed = false;
        while let Some((at, change, fault)) = self.changes.front().copied()
            && at <= now
        {
            self.changes.pop_front();
            changed = true;
            match change {
                Change::Begins => self.begin(&fault, now),
                Change::Ends => self.end(&fault, now),
            }
        }
        if changed {
            let on = world.on.lock().clone();
            self.set_links(&on);
        }
    }

    fn begin(&mut self, fault: &Fault, now: Duration) {
        let world = Arc::clone(&self.world);
        world.tell(now, "fault", format_args!("{}", fault.kind));
        if fault.ends > fault.begins {
            world.on.lock().push(fault.kind);
        }
        match fault.kind {
            FaultKind::Crash(host) => self.crash(host, now),
            FaultKind::LateAnnouncement(worker, _) => self.crash(Host::Worker(worker), now),
            FaultKind::Drain(worker) => world.workers[worker].lock().orders.terminate.cancel(),
            FaultKind::ClockJump(host, by) => world.orders(host).skew.jump(by),
            FaultKind::Freeze(host) => world.orders(host).gate.shut(),
            FaultKind::FrameLost(worker) => {
                let orders = world.orders(Host::Worker(worker));
                orders.frames.add(FrameFault::Lost);
            }
            FaultKind::FrameDoubled(worker) => {
                let orders = world.orders(Host::Worker(worker));
                orders.frames.add(FrameFault::Doubled);
            }
            _ => {}
        }
    }

    fn end(&mut self, fault: &Fault, now: Duration) {
        let world = Arc::clone(&self.world);
        if fault.ends > fault.begins {
            world.tell(now, "fault", format_args!("over: {}", fault.kind));
            let mut on = world.on.lock();
            if let Some(at) = on.iter().position(|kind| *kind == fault.kind) {
                on.remove(at);
            }
        }
        match fault.kind {
            FaultKind::Outage => world.leases.lock().extend_all(now),
            FaultKind::Freeze(host) => {
                let held_back = world.orders(host).gate.open();
                world.count("tasks held back by freezes", held_back as u64);
            }
            FaultKind::Drain(worker) => {
                let host = Host::Worker(worker);
                if self.sim.is_host_running(host.to_string()) {
                    world.violated(now, Violation::NotDrained { host });
                }
            }
            _ => {}
        }
        let Some(host) = fault.kind.restarts() else {
            return;
        };
        let late = match fault.kind {
            FaultKind::LateAnnouncement(_, by) => by,
            _ => Duration::ZERO,
        };
        let renew = |orders: &mut super::world::Orders| {
            orders.incarnation += 1;
            orders.die = CancellationToken::new();
            orders.terminate = CancellationToken::new();
            orders.announced_late = late;
        };
        match host {
            Host::Worker(number) => renew(&mut world.workers[number].lock().orders),
            Host::Frontend(number) => renew(&mut world.frontends[number].lock().orders),
        }
        self.sim.bounce(host.to_string());
    }

    fn crash(&mut self, host: Host, now: Duration) {
        let world = &self.world;
        match host {
            Host::Worker(number) => {
                let life = world.workers[number].lock().life.take();
                if let Some(life) = life.filter(|_| world.broken == Broken::KeepDeadBlocks) {
                    self.kept.extend(blocks_of(world, life.instance));
                }
            }
            Host::Frontend(number) => {
                world.frontends[number].lock().registry = None;
                frontend::count_moves(world, number);
                self.lose_clients(number, now);
            }
        }
        // Its connections end first, in an order that repeats.
        world.orders(host).die.cancel();
        if let Err(error) = self.sim.step() {
            self.world
                .violated(now, Violation::Simulation(error.to_string()));
        }
        self.sim.crash(host.to_string());
        if let Host::Frontend(number) = host {
            // Those that came in that step.
            self.lose_clients(number, now);
        }
    }

    /// Ends the requests that a frontend has taken.
    fn lose_clients(&self, frontend: usize, now: Duration) {
        let world = &self.world;
        for (index, request) in world.plan.requests.iter().enumerate() {
            let begun = world.requests.lock()[index].begun.is_some();
            if request.frontend == frontend && begun {
                world.ended(index, now, Ending::ConnectionLost);
            }
        }
    }

    /// Brings every link to the state that the faults that are on ask for.
    fn set_links(&mut self, on: &[FaultKind]) {
        for (at, one) in self.hosts.iter().enumerate() {
            for other in &self.hosts[at + 1..] {
                let (one, other) = (*one.min(other), *one.max(other));
                let wanted = link(on.iter(), one, other);
                let latencies = on
                    .iter()
                    .flat_map(|it| [it.latency(one), it.latency(other)]);
                let latency = latencies.flatten().max();
                let known = self.links.entry((one, other)).or_default();
                let (sim, plan) = (&self.sim, &self.world.plan);
                let (one, other) = (one.to_string(), other.to_string());
                let names = (one.as_str(), other.as_str());
                if known.0 != wanted {
                    set_link(sim, names, known.0, wanted);
                }
                if known.1 != latency {
                    sim.set_link_latency(names.0, names.1, latency.unwrap_or(plan.step));
                    if latency.is_none() {
                        sim.set_link_max_message_latency(names.0, names.1, plan.max_latency);
                    }
                }
                *known = (wanted, latency);
            }
        }
    }

    fn put_back_kept(&self) {
        for (number, slot, events) in &self.kept {
            let registry = self.world.frontends[*number].lock().registry.clone();
            let model = registry.and_then(|registry| registry.find(MODEL).ok());
            if let Some(router) = model.and_then(|model| model.router.clone()) {
                for TierEvent { tier, event } in events {
                    router.index().apply(*slot, *tier, event);
                }
            }
        }
    }
}

/// The begins and ends of a plan's faults, in order.
fn changes(world: &World) -> VecDeque<(Duration, Change, Fault)> {
    let faults = world.plan.faults.iter();
    let mut changes: Vec<_> = faults
        .flat_map(|it| {
            [
                (it.begins, Change::Begins, *it),
                (it.ends, Change::Ends, *it),
            ]
        })
        .collect();
    if world.broken == Broken::NeverThaw {
        let never = |(_, change, fault): &(_, Change, Fault)| {
            *change == Change::Ends && matches!(fault.kind, FaultKind::Freeze(_))
        };
        changes.retain(|it| !never(it));
    }
    changes.sort_by_key(|(at, change, _)| (*at, *change));
    changes.into()
}

fn set_link(sim: &Sim<'_>, (lesser, greater): (&str, &str), from: Link, to: Link) {
    match from {
        Link::Open => {}
        Link::Held => sim.release(lesser, greater),
        Link::Lost | Link::LostForward | Link::LostBackward => sim.repair(lesser, greater),
    }
    match to {
        Link::Open => {}
        Link::Held => sim.hold(lesser, greater),
        Link::Lost => sim.partition(lesser, greater),
        Link::LostForward => sim.partition_oneway(lesser, greater),
        Link::LostBackward => sim.partition_oneway(greater, lesser),
    }
}

/// What each frontend's index has of an instance.
fn blocks_of(world: &World, instance: u64) -> Kept {
    let mut kept = Kept::new();
    for (number, seat) in world.frontends.iter().enumerate() {
        let registry = seat.lock().registry.clone();
        let model = registry.and_then(|registry| registry.find(MODEL).ok());
        let Some(router) = model.and_then(|model| model.router.clone()) else {
            continue;
        };
        let slot = router.with_router(|router| {
            let workers = router.fleet().workers();
            let theirs = workers.iter().find(|it| it.key.instance == instance);
            theirs.map(|it| it.slot)
        });
        if let Some(slot) = slot {
            kept.push((number, slot, router.index().snapshot(slot)));
        }
    }
    kept
}
