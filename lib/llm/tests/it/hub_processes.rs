//! Several processes with one cache: two at once, one that is killed in the middle, one that may
//! not write as much as it has to.
//!
//! The other process is this very program, running [`child_fetches`] only.

use crate::hub_server::{Fault, Place, fetch};
use dynamo_llm::hub::{Hub, HubOptions, Wanted};
use dynamo_runtime::Tasks;
use std::fs;
use std::path::Path;
use std::process::Stdio;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

/// What the child says begins so; the rest is the test harness's.
const SAID: &str = "hub child: ";

/// Large enough that progress is reported, and a limit of 4,096 blocks is below it.
const BYTES: usize = 6 << 20;

/// A process that fetches the model.
struct Other {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Other {
    /// Through a shell that runs `before`.
    async fn start(place: &Place, before: &str) -> Self {
        let mut child = Command::new("sh")
            .args(["-c", &format!("{before} exec \"$@\""), "sh"])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "hub_processes::child_fetches"])
            .args(["--ignored", "--nocapture", "--test-threads=1"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let told = format!("{}\n{}\n", place.endpoint, place.home.path().display());
        stdin.write_all(told.as_bytes()).await.unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    /// What it says next.
    async fn says(&mut self) -> String {
        loop {
            let line = self.lines.next_line().await.unwrap().unwrap();
            // The harness's own words may stand before it on the line.
            if let Some((_, said)) = line.split_once(SAID) {
                return said.to_owned();
            }
        }
    }

    /// The bytes that it says are there.
    async fn progress(&mut self) -> u64 {
        let said = self.says().await;
        said.strip_prefix("progress ").unwrap().parse().unwrap()
    }

    /// What it says at its end.
    async fn ends(&mut self) -> String {
        loop {
            let said = self.says().await;
            if !said.starts_with("progress") {
                return said;
            }
        }
    }
}

/// Whether this process has the file open.
fn has_open(path: &Path) -> bool {
    let open = fs::read_dir("/proc/self/fd").unwrap();
    let mut files = open.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    files.any(|file| file == path)
}

#[tokio::test]
#[ignore = "the other half of this file's tests, which run it in processes of their own"]
async fn child_fetches() {
    let mut told = BufReader::new(tokio::io::stdin()).lines();
    let (Ok(Some(endpoint)), Ok(Some(home))) = (told.next_line().await, told.next_line().await)
    else {
        return;
    };
    let options = HubOptions {
        hf_endpoint: endpoint,
        ..HubOptions::default()
    };
    let tasks = Tasks::root();
    let hub = Hub::new(&options, Some(Path::new(&home)), &tasks).unwrap();
    let report = |progress: dynamo_llm::hub::FileProgress<'_>| {
        println!("{SAID}progress {}", progress.done);
    };
    let fetched = hub.resolve("org/name", Wanted::Everything, &report).await;
    match fetched {
        Ok(model) => println!("{SAID}done {}", model.path.display()),
        Err(error) => println!("{SAID}{error}"),
    }
    tasks.stop().await;
}

#[tokio::test]
async fn a_process_killed_in_the_middle_is_followed_by_one_that_waited_for_it() {
    let place = Place::new().await;
    place.put_weights(BYTES);
    place.faults(&[Fault::Stall]);
    let mut other = Other::start(&place, "").await;
    // Some bytes are in the file, and it waits for more.
    while other.progress().await < 1 << 20 {}
    let (hub, lock) = (place.hub(|_| {}), place.lock());
    let (model, ()) = tokio::join!(fetch(&hub), async {
        // Between opening the lock and finding it taken nobody else has this thread.
        while !has_open(&lock) {
            tokio::task::yield_now().await;
        }
        other.child.kill().await.unwrap();
    });
    place.assert_whole(&model.unwrap());
    let [first, second] = &place.parts()[..] else {
        panic!("{:?}", place.parts());
    };
    assert_eq!(first, "all");
    assert!(
        second.starts_with("bytes=") && second != "bytes=0-",
        "{second}"
    );
    place.tasks.stop().await;
}

#[tokio::test]
async fn two_processes_that_fetch_the_same_model_at_once_fetch_it_once() {
    let place = Place::new().await;
    place.put_weights(BYTES);
    place.faults(&[Fault::Gate]);
    let mut one = Other::start(&place, "").await;
    let mut two = Other::start(&place, "").await;
    // One is in the middle of it when the other comes to it.
    place.until_seen("HEAD hub model.safetensors", 2).await;
    place.open_gate();
    let (one, two) = (one.ends().await, two.ends().await);
    assert!(one.starts_with("done "), "{one}");
    assert_eq!(one, two);
    assert_eq!(place.parts(), ["all"]);
    place.assert_whole(&fetch(&place.hub(|_| {})).await.unwrap());
    place.tasks.stop().await;
}

#[tokio::test]
async fn a_file_that_may_not_become_larger_is_gone_on_with_where_it_may() {
    let place = Place::new().await;
    place.put_weights(BYTES);
    // 4,096 blocks of 512 or 1,024 bytes, as the shell has it. The signal that ends a process
    // which writes beyond is ignored, as servers do: what is left is the error.
    let mut other = Other::start(&place, "trap '' XFSZ; ulimit -f 4096;").await;
    let said = other.ends().await;
    assert!(
        said.contains("ulimit -f") && said.contains("HF_HOME"),
        "{said}"
    );
    let (blob, partial) = place.blob();
    let left = fs::metadata(&partial).unwrap().len();
    assert!(left > 0 && left < BYTES as u64);
    assert!(
        said.contains(&format!(" {} bytes", BYTES as u64 - left)),
        "{said}"
    );
    assert!(!blob.exists());

    place.assert_whole(&fetch(&place.hub(|_| {})).await.unwrap());
    assert_eq!(place.parts(), ["all".to_owned(), format!("bytes={left}-")]);
    place.tasks.stop().await;
}
