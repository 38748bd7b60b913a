//! What may go wrong in a cluster, to whom, and what it does to links and to discovery. Pure.

use std::fmt;
use std::time::Duration;

/// A simulated machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Host {
    /// One that takes clients' requests.
    Frontend(usize),
    /// One that has an engine.
    Worker(usize),
}

/// Something that goes wrong, or is done on purpose at a bad time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultKind {
    /// The process is killed, and started again at the fault's end.
    Crash(Host),
    /// The same with a worker; what it announces when it is back is seen this much later.
    LateAnnouncement(usize, Duration),
    /// SIGSTOP, and SIGCONT at the end: nothing of the process runs meanwhile, and what is sent to
    /// it waits in its sockets.
    Freeze(Host),
    /// Nothing comes from the host or reaches it until the end, and then all of it at once.
    Stall(Host),
    /// Messages from and to the host take this long.
    Slow(Host, Duration),
    /// Messages between the two are lost.
    Cut(Host, Host),
    /// Messages from and to the host are lost.
    Isolate(Host),
    /// Messages from the first to the second are lost; the others arrive.
    OneWay(Host, Host),
    /// Messages from the host are lost; those to it arrive.
    HalfOpen(Host),
    /// SIGTERM; the worker is started again at the fault's end.
    Drain(usize),
    /// A worker that was not there begins.
    ScaleUp(usize),
    /// The worker cannot renew its lease, and is not affected otherwise.
    LeaseLost(usize),
    /// Discovery is away.
    Outage,
    /// The host's time of day jumps by so many seconds.
    ClockJump(Host, i64),
    /// One frame that the worker writes is lost, which the positions tell.
    FrameLost(usize),
    /// One frame that the worker writes comes twice, which the positions tell.
    FrameDoubled(usize),
}

/// A fault at its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// What.
    pub kind: FaultKind,
    /// From when.
    pub begins: Duration,
    /// Until when.
    pub ends: Duration,
}

/// What happens to messages between two hosts, of which the first is the lesser.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Link {
    /// They arrive.
    #[default]
    Open,
    /// Those of the lesser host are lost.
    LostForward,
    /// Those of the greater host are lost.
    LostBackward,
    /// They wait.
    Held,
    /// They are lost.
    Lost,
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Frontend(number) => write!(f, "frontend-{number}"),
            Self::Worker(number) => write!(f, "worker-{number}"),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (begins, ends) = (self.begins.as_secs_f64(), self.ends.as_secs_f64());
        write!(f, "{begins:7.3} to {ends:7.3} {}", self.kind)
    }
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.name();
        match self {
            Self::Crash(host)
            | Self::Freeze(host)
            | Self::Stall(host)
            | Self::Isolate(host)
            | Self::HalfOpen(host) => write!(f, "{name} {host}"),
            Self::LateAnnouncement(worker, by) => write!(f, "{name} worker-{worker} by {by:?}"),
            Self::Slow(host, latency) => write!(f, "{name} {host} by {latency:?}"),
            Self::Cut(a, b) => write!(f, "{name} {a} {b}"),
            Self::OneWay(from, to) => write!(f, "{name} {from} to {to}"),
            Self::Drain(worker)
            | Self::ScaleUp(worker)
            | Self::LeaseLost(worker)
            | Self::FrameLost(worker)
            | Self::FrameDoubled(worker) => write!(f, "{name} worker-{worker}"),
            Self::Outage => f.write_str(name),
            Self::ClockJump(host, by) => write!(f, "{name} {host} by {by}s"),
        }
    }
}

impl FaultKind {
    /// The kind's name in reports.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Crash(Host::Worker(_)) => "crash-worker",
            Self::Crash(Host::Frontend(_)) => "crash-frontend",
            Self::LateAnnouncement(..) => "late-announcement",
            Self::Freeze(Host::Worker(_)) => "freeze-worker",
            Self::Freeze(Host::Frontend(_)) => "freeze-frontend",
            Self::Stall(_) => "stall",
            Self::Slow(..) => "slow",
            Self::Cut(..) => "cut",
            Self::Isolate(_) => "isolate",
            Self::OneWay(..) => "one-way",
            Self::HalfOpen(_) => "half-open",
            Self::Drain(_) => "drain",
            Self::ScaleUp(_) => "scale-up",
            Self::LeaseLost(_) => "lease-lost",
            Self::Outage => "discovery-outage",
            Self::ClockJump(..) => "clock-jump",
            Self::FrameLost(_) => "frame-lost",
            Self::FrameDoubled(_) => "frame-doubled",
        }
    }

    /// The process that ends, and is started again at the end of the fault.
    pub fn restarts(&self) -> Option<Host> {
        match *self {
            Self::Crash(host) => Some(host),
            Self::LateAnnouncement(worker, _) | Self::Drain(worker) => Some(Host::Worker(worker)),
            _ => None,
        }
    }

    /// The worker that cannot be relied upon meanwhile.
    pub fn worker(&self) -> Option<usize> {
        let host = match *self {
            Self::Crash(host)
            | Self::Freeze(host)
            | Self::Stall(host)
            | Self::Slow(host, _)
            | Self::Isolate(host)
            | Self::HalfOpen(host) => host,
            Self::Cut(a, b) | Self::OneWay(a, b) => a.max(b),
            Self::LateAnnouncement(worker, _)
            | Self::Drain(worker)
            | Self::ScaleUp(worker)
            | Self::LeaseLost(worker) => Host::Worker(worker),
            Self::Outage | Self::ClockJump(..) | Self::FrameLost(_) | Self::FrameDoubled(_) => {
                return None;
            }
        };
        match host {
            Host::Worker(worker) => Some(worker),
            Host::Frontend(_) => None,
        }
    }

    /// The frontend whose requests may fail meanwhile.
    pub fn frontend(&self) -> Option<usize> {
        match *self {
            Self::Crash(Host::Frontend(frontend))
            | Self::Freeze(Host::Frontend(frontend))
            | Self::Stall(Host::Frontend(frontend))
            | Self::Slow(Host::Frontend(frontend), _)
            | Self::Isolate(Host::Frontend(frontend))
            | Self::HalfOpen(Host::Frontend(frontend)) => Some(frontend),
            _ => None,
        }
    }

    /// What it does to the link between two hosts.
    pub fn link(&self, lesser: Host, greater: Host) -> Link {
        let has = |host| lesser == host || greater == host;
        let lost_from = |host| match host == lesser {
            true => Link::LostForward,
            false => Link::LostBackward,
        };
        match *self {
            Self::Stall(host) if has(host) => Link::Held,
            Self::Isolate(host) if has(host) => Link::Lost,
            Self::Cut(a, b) if has(a) && has(b) => Link::Lost,
            Self::OneWay(from, to) if has(from) && has(to) => lost_from(from),
            Self::HalfOpen(host) if has(host) => lost_from(host),
            _ => Link::Open,
        }
    }

    /// How long messages of a host take because of it.
    pub fn latency(&self, of: Host) -> Option<Duration> {
        match *self {
            Self::Slow(host, latency) if host == of => Some(latency),
            _ => None,
        }
    }

    /// Whether the host cannot reach discovery.
    pub fn hides_discovery_from(&self, host: Host) -> bool {
        match *self {
            Self::Outage => true,
            Self::Stall(it) | Self::Isolate(it) | Self::HalfOpen(it) => it == host,
            Self::LeaseLost(worker) => Host::Worker(worker) == host,
            _ => false,
        }
    }
}

impl Fault {
    /// Whether it is on at this time.
    pub fn is_on(&self, now: Duration) -> bool {
        self.begins <= now && now < self.ends
    }
}

/// What the faults that are on come to for a link: the worst of them.
pub fn link<'a>(on: impl Iterator<Item = &'a FaultKind>, one: Host, other: Host) -> Link {
    let (lesser, greater) = (one.min(other), one.max(other));
    let worse = |so_far: Link, kind: &FaultKind| match (so_far, kind.link(lesser, greater)) {
        (Link::LostForward, Link::LostBackward) | (Link::LostBackward, Link::LostForward) => {
            Link::Lost
        }
        (one, other) => one.max(other),
    };
    on.fold(Link::Open, worse)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRONTEND: Host = Host::Frontend(0);
    const WORKER: Host = Host::Worker(0);

    #[test]
    fn the_worst_fault_decides_over_a_link() {
        let of = |kinds: &[FaultKind]| link(kinds.iter(), WORKER, FRONTEND);
        assert_eq!(of(&[]), Link::Open);
        assert_eq!(of(&[FaultKind::HalfOpen(FRONTEND)]), Link::LostForward);
        assert_eq!(of(&[FaultKind::HalfOpen(WORKER)]), Link::LostBackward);
        let both = [FaultKind::HalfOpen(FRONTEND), FaultKind::HalfOpen(WORKER)];
        assert_eq!(of(&both), Link::Lost);
        let stalled = [FaultKind::Stall(WORKER), FaultKind::HalfOpen(WORKER)];
        assert_eq!(of(&stalled), Link::Held);
        assert_eq!(of(&[FaultKind::Stall(Host::Worker(1))]), Link::Open);
    }
}
