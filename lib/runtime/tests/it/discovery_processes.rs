//! The `file` backend across real processes: what the kernel does when one is killed.

use dynamo_runtime::discovery::file::{FileDiscovery, FileTimings};
use dynamo_runtime::discovery::{Discovery, EndpointId, InstanceRecord, ProcessRecord, View};
use dynamo_runtime::{Environment, Tasks};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Nothing in a healthy run takes this long.
const PATIENCE: Duration = Duration::from_secs(30);

fn open(folder: &Path) -> FileDiscovery {
    let tasks = Tasks::root();
    FileDiscovery::open(
        folder,
        Environment::system(),
        &tasks,
        FileTimings::default(),
    )
    .unwrap()
}

/// Runs `child_announces_until_killed` in a process of its own.
fn spawn_child(folder: &Path) -> Child {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "discovery_processes::child_announces_until_killed",
        ])
        .args(["--ignored", "--nocapture", "--test-threads=1"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    // Its stdin stays open: the child ends when this test does, however it ends.
    let stdin = child.stdin.as_mut().unwrap();
    writeln!(stdin, "{}", folder.display()).unwrap();
    stdin.flush().unwrap();
    child
}

#[tokio::test]
#[ignore = "the other half of killed_processes_vanish, which runs it in a process of its own"]
async fn child_announces_until_killed() {
    let mut lines = BufReader::new(std::io::stdin()).lines();
    let Some(Ok(folder)) = lines.next() else {
        return;
    };
    let discovery = open(Path::new(&folder));
    let record = ProcessRecord {
        instances: vec![InstanceRecord {
            endpoint: EndpointId::new("ns", "comp", "ep").unwrap(),
            address: "tcp://127.0.0.1:1".to_owned(),
            metadata: [("pid".to_owned(), std::process::id().into())].into(),
        }],
        ..ProcessRecord::default()
    };
    discovery.announce(record).await.unwrap();
    // Ends with the parent, which holds the other end.
    assert!(lines.next().is_none());
}

async fn follow_until_pids(folder: &Path, children: &mut [Child], expected: &[u32]) {
    let discovery = open(folder);
    let mut watch = discovery.watch();
    let mut view = View::default();
    let endpoint = EndpointId::new("ns", "comp", "ep").unwrap();
    loop {
        let event = tokio::time::timeout(PATIENCE, watch.next()).await;
        view.apply(event.expect("the change is seen in time").unwrap());
        let mut pids: Vec<u64> = view
            .instances(&endpoint)
            .map(|(_, instance)| instance.metadata["pid"].as_u64().unwrap())
            .collect();
        pids.sort_unstable();
        if pids
            .iter()
            .copied()
            .eq(expected.iter().map(|pid| u64::from(*pid)))
        {
            return;
        }
        for child in children.iter_mut() {
            assert!(
                child.try_wait().unwrap().is_none(),
                "a child ended by itself"
            );
        }
    }
}

#[tokio::test]
async fn killed_processes_vanish() {
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path().join("discovery");
    let mut children = [spawn_child(&folder), spawn_child(&folder)];
    let mut pids: Vec<u32> = children.iter().map(Child::id).collect();
    pids.sort_unstable();
    follow_until_pids(&folder, &mut children, &pids).await;

    let [mut victim, survivor] = children;
    victim.kill().unwrap();
    victim.wait().unwrap();
    let left = [survivor.id()];
    follow_until_pids(&folder, &mut [survivor], &left).await;
}
