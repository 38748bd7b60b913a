//! etcd and nats-server are killed, away for long, and frozen, under load.

use super::rolling::await_more;
use super::{Engine, addresses, fleet_over, nobody, repeated, settle, undisturbed};
use crate::config::FaultOptions;
use crate::fleet::Member;
use crate::load::{Traffic, drive};
use crate::report::Report;
use dynamo_testkit::etcd_server::EtcdServer;
use dynamo_testkit::http::ask;
use dynamo_testkit::nats_server::NatsServer;
use dynamo_testkit::process::until_within;
use std::thread::sleep;
use std::time::Duration;

/// How long a server stands still, or is away in a restart that takes its time. Below the half
/// minute that streams over NATS bear.
const PAUSE: Duration = Duration::from_secs(8);

/// What processes are told about where both are.
pub(super) fn planes(etcd: &EtcdServer, nats: &NatsServer) -> Vec<String> {
    let words = [
        "--discovery-backend",
        "etcd",
        "--etcd-endpoints",
        &etcd.endpoint(),
        "--etcd-lease-ttl",
        "5s",
        "--request-plane",
        "nats",
        "--event-plane",
        "nats",
        "--nats-server",
        &nats.url(),
    ];
    words.map(str::to_owned).to_vec()
}

pub(super) fn run(options: &FaultOptions) -> Report {
    let mut report = Report::new("etcd and nats-server killed, away and frozen");
    let (mut etcd, mut nats) = (EtcdServer::start(), NatsServer::start());
    let planes = planes(&etcd, &nats);
    let (fleet, mut workers, frontends) = fleet_over(options, Engine::Mock, 2, &planes);
    let questions = repeated(options, Engine::Mock);
    let addresses = addresses(&frontends);
    let traffic = Traffic {
        questions: &questions,
        frontends: &addresses,
        concurrency: options.concurrency,
        balances: false,
        count: None,
    };
    let undisturbed = undisturbed(traffic);
    let outcomes = drive(traffic, "planes", |progress| {
        etcd.kill();
        // A worker dies while nobody can say so.
        workers[0].kill();
        sleep(options.outage);
        etcd.restart();
        workers[0].start(&fleet);
        await_fresh(&frontends);
        await_more(progress, options);
        for _ in 0..3 {
            nats.restart();
            await_more(progress, options);
        }
        nats.kill();
        sleep(PAUSE);
        nats.restart();
        await_more(progress, options);
        etcd.freeze();
        sleep(PAUSE);
        etcd.thaw();
        nats.freeze();
        sleep(PAUSE);
        nats.thaw();
        await_more(progress, options);
        etcd.kill();
        nats.kill();
        sleep(PAUSE);
        etcd.forget();
        etcd.restart();
        nats.restart();
        await_fresh(&frontends);
        await_more(progress, options);
    });
    report.judge(&outcomes, &undisturbed, nobody);
    report.faults.extend([
        ("etcd killed", 2),
        ("etcd frozen", 1),
        ("nats-server killed", 5),
        ("nats-server frozen", 1),
        ("worker killed", 1),
    ]);
    settle(&mut report, &frontends, workers.len());
    for frontend in &frontends {
        report.moves(&outcomes, &frontend.moves());
    }
    report
}

/// How long that may take: an etcd that was away reads its files again, a frontend asks it after a pause
/// that has grown, and waits for as long as the living may take to come back.
const ETCD_PATIENCE: Duration = Duration::from_secs(120);

/// Waits until all frontends know from etcd who is there.
fn await_fresh(frontends: &[Member]) {
    for frontend in frontends {
        until_within(ETCD_PATIENCE, "the view is fresh", || {
            let metrics = ask(&frontend.address, ("GET", "/metrics"), &[], "")
                .unwrap()
                .text();
            metrics
                .lines()
                .any(|line| line == "dynamo_discovery_stale 0")
        });
    }
}
