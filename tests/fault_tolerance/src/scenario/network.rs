//! Every process in a network namespace of its own, without a common folder; hosts are cut off and
//! come back. As long as one worker can be reached, no client notices; afterwards everybody knows
//! everybody again.

use super::rolling::await_more;
use super::{Engine, FRONTEND, addresses, await_workers, nobody, repeated, settle, undisturbed};
use crate::config::FaultOptions;
use crate::fleet::{Fleet, Member};
use crate::load::{Progress, Traffic, drive};
use crate::network::{Forbidden, Host, Network};
use crate::report::Report;
use dynamo_testkit::etcd_server::EtcdServer;
use dynamo_testkit::nats_server::NatsServer;
use std::thread::sleep;
use std::time::Duration;

/// How long everybody is cut off from what all need. Below what streams over NATS bear.
const CUT: Duration = Duration::from_secs(6);

/// Longer than a lease: who cannot renew it is taken for gone.
const LONGER_THAN_A_LEASE: Duration = Duration::from_secs(12);

/// How requests travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Plane {
    Tcp,
    Nats,
}

/// Who is where.
struct Town {
    frontend: Host,
    workers: [Host; 2],
    etcd: Host,
    nats: Host,
    /// Goes last.
    _network: Network,
}

pub(super) fn run(options: &FaultOptions, plane: Plane) -> Report {
    let mut report = Report::new(match plane {
        Plane::Tcp => "namespaces cut off, requests over tcp",
        Plane::Nats => "namespaces cut off, requests over nats",
    });
    match Town::build() {
        Ok(town) => inhabit(options, plane, &town, &mut report),
        Err(Forbidden::NotRoot) => report.notes.push(Forbidden::NotRoot.to_string()),
        Err(refused) => report.problem(refused.to_string()),
    }
    report
}

fn inhabit(options: &FaultOptions, plane: Plane, town: &Town, report: &mut Report) {
    let etcd = EtcdServer::start_at(&town.etcd.site(), "http", &[]);
    let nats = NatsServer::start_at(&town.nats.site(), "");
    let planes = |host: &Host| words(plane, host, &etcd, &nats);
    let start = |host: &Host, name: &str| {
        // A folder of its own for each.
        let fleet = Fleet::over(&planes(host));
        let member = fleet.worker_at(name, &Engine::Mock.words(options), host.site());
        (fleet, member)
    };
    let workers = [0, 1].map(|nth| start(&town.workers[nth], &format!("worker-{nth}")));
    let fleet = Fleet::over(&planes(&town.frontend));
    let frontends = [fleet.frontend_at("frontend", FRONTEND, &town.frontend.site())];
    await_workers(&frontends[0], workers.len());
    let questions = repeated(options, Engine::Mock);
    let traffic = Traffic {
        questions: &questions,
        frontends: &addresses(&frontends),
        concurrency: options.concurrency,
        balances: false,
        count: None,
    };
    let undisturbed = undisturbed(traffic);
    let outcomes = drive(traffic, "network", |progress| {
        let go_on = || await_more(progress, options);
        partitions(plane, town, &frontends[0], go_on, progress);
    });
    report.judge(&outcomes, &undisturbed, nobody);
    let cuts = if plane == Plane::Nats { 4 } else { 3 };
    report
        .faults
        .extend([("cut off", cuts), ("cut off one-way", 3)]);
    settle(report, &frontends, workers.len());
    report.moves(&outcomes, &frontends[0].moves());
}

/// Cuts off one after the other.
fn partitions(plane: Plane, town: &Town, frontend: &Member, go_on: impl Fn(), progress: &Progress) {
    let [one, other] = &town.workers;
    let healed = || {
        await_workers(frontend, 2);
        go_on();
    };
    for worker in [one, other] {
        worker.cut();
        go_on();
        worker.heal();
        healed();
    }
    town.etcd.cut();
    sleep(LONGER_THAN_A_LEASE);
    town.etcd.heal();
    healed();
    // One worker cannot renew its lease, though it can be asked.
    one.cannot_reach(&town.etcd);
    sleep(LONGER_THAN_A_LEASE);
    one.can_reach(&town.etcd);
    healed();
    // What one sends to the other is lost, and not the other way round.
    let other_end = match plane {
        Plane::Tcp => &town.frontend,
        Plane::Nats => &town.nats,
    };
    for (from, to) in [(one, other_end), (other_end, one)] {
        from.cannot_reach(to);
        go_on();
        from.can_reach(to);
        healed();
    }
    if plane == Plane::Nats {
        let before = progress.ended();
        town.nats.cut();
        sleep(CUT);
        town.nats.heal();
        assert!(progress.ended() >= before);
        healed();
    }
}

impl Town {
    fn build() -> Result<Self, Forbidden> {
        let mut network = Network::new()?;
        Ok(Self {
            frontend: network.host()?,
            workers: [network.host()?, network.host()?],
            etcd: network.host()?,
            nats: network.host()?,
            _network: network,
        })
    }
}

/// What a process on a host is told.
fn words(plane: Plane, host: &Host, etcd: &EtcdServer, nats: &NatsServer) -> Vec<String> {
    let mut words: Vec<String> = ["--discovery-backend", "etcd", "--etcd-lease-ttl", "5s"]
        .map(str::to_owned)
        .to_vec();
    words.extend(["--etcd-endpoints".to_owned(), etcd.endpoint()]);
    match plane {
        Plane::Tcp => {
            let heard = ["--tcp-host", "0.0.0.0", "--advertise-host", host.address()];
            words.extend(heard.map(str::to_owned));
        }
        Plane::Nats => {
            let (url, nats) = (nats.url(), "nats");
            let over = [
                "--request-plane",
                nats,
                "--event-plane",
                nats,
                "--nats-server",
                &url,
            ];
            words.extend(over.map(str::to_owned));
        }
    }
    words
}
