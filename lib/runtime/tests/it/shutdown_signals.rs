//! Real signals to a real process.

use dynamo_runtime::Tasks;
use dynamo_runtime::shutdown::{Shutdown, Signals};
use rustix::process::{Pid, Signal, kill_process};
use std::convert::Infallible;
use std::future::pending;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

const READY: &str = "child is ready";
const DRAINING: &str = "child is draining";

/// Long enough that only a signal or the drain itself ends the child.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(600);

struct Process {
    child: Child,
    stdout: BufReader<ChildStdout>,
}

impl Process {
    /// Runs `child_ends_by_its_signals` in a process of its own.
    fn spawn() -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "shutdown_signals::child_ends_by_its_signals"])
            .args(["--ignored", "--nocapture", "--test-threads=1"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let mut process = Self { child, stdout };
        process.wait_for(READY);
        process
    }

    fn wait_for(&mut self, text: &str) {
        let mut line = String::new();
        while !line.contains(text) {
            line.clear();
            assert_ne!(
                self.stdout.read_line(&mut line).unwrap(),
                0,
                "the child ended"
            );
        }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    fn exit_code(mut self) -> Option<i32> {
        // Waiting would close the child's stdin, which is what its drain waits for.
        let _stdin = self.child.stdin.take();
        self.child.wait().unwrap().code()
    }
}

#[expect(clippy::exit, reason = "the exit code is what the parent looks at")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the child of the tests below, which run it in a process of its own"]
async fn child_ends_by_its_signals() {
    let tasks = Tasks::root();
    let shutdown = Shutdown::new(DRAIN_TIMEOUT);
    let signals = Signals::system().unwrap();
    println!("{READY}");
    // Drained when the parent says so: one line on stdin.
    let drain = async {
        println!("{DRAINING}");
        let line = tokio::io::AsyncBufReadExt::lines(tokio::io::BufReader::new(tokio::io::stdin()))
            .next_line()
            .await;
        drop(line);
    };
    let status = shutdown
        .supervise::<Infallible>(signals, &tasks, pending(), drain)
        .await;
    std::process::exit(i32::from(status.code()));
}

#[test]
fn a_drained_process_exits_with_0() {
    let mut process = Process::spawn();
    process.signal(Signal::TERM);
    process.wait_for(DRAINING);
    let stdin = process.child.stdin.as_mut().unwrap();
    writeln!(stdin, "drained").unwrap();
    assert_eq!(process.exit_code(), Some(0));
}

#[test]
fn a_second_signal_ends_the_process_at_once() {
    for (second, code) in [(Signal::TERM, 143), (Signal::INT, 130)] {
        let mut process = Process::spawn();
        process.signal(Signal::INT);
        process.wait_for(DRAINING);
        process.signal(second);
        assert_eq!(process.exit_code(), Some(code));
    }
}
