//! How a process ends: signals, the drain, and the exit codes.
//!
//! The first SIGTERM or SIGINT starts a drain: [`Shutdown::draining`] is cancelled, everybody who
//! takes work stops taking it, and the drain given to [`Shutdown::supervise`] finishes what is in
//! flight within the drain timeout. A second signal ends the process at once.
//!
//! | code | when |
//! |-----:|------|
//! | 0 | the work is done, or all of it was drained after a signal |
//! | 1 | start-up failed, or a defect or lost resource ended the process |
//! | 2 | the command line or the configuration is wrong |
//! | 3 | the drain timeout passed with work in flight, which was cut off |
//! | 130 | a second signal came, and it was SIGINT |
//! | 143 | a second signal came, and it was SIGTERM |
//!
//! What happens when is decided by [`Lifecycle`], which is pure; the rest listens and waits.

use crate::Tasks;
use std::fmt;
use std::future::Future;
use std::io;
use std::time::Duration;
use tokio::signal::unix::{Signal as SignalStream, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Drain timeout unless one is given: Kubernetes kills a pod 30 s after it asked it to end.
pub const DEFAULT_DRAIN_TIMEOUT: Duration = Duration::from_secs(30);

/// How long cancelled tasks get to end after the drain. They only have to let go; one that does
/// not is a defect, and the process ends without it.
pub const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// A request to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// SIGINT: Ctrl-C.
    Interrupt,
    /// SIGTERM: what service managers send.
    Terminate,
}

/// How a process ended; the module's documentation has the table of codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitStatus {
    /// All work is done.
    Success,
    /// Start-up failed, or a defect or lost resource ended the process.
    Failure,
    /// The command line or the configuration is wrong.
    Usage,
    /// Work was cut off at the drain timeout.
    DrainTimedOut,
    /// A second signal ended the process at once.
    Forced(Signal),
}

/// Where a process stands on its way to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lifecycle {
    /// At work.
    Running,
    /// Finishing what is in flight.
    Draining,
    /// Over.
    Ended(ExitStatus),
}

/// What happened to a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LifecycleEvent {
    /// Somebody asked it to end.
    Signal(Signal),
    /// Its work is done.
    WorkDone,
    /// Its work failed, or a task panicked.
    WorkFailed,
    /// Nothing is in flight any more.
    Drained,
    /// The drain timeout passed.
    DrainDeadline,
}

/// Where requests to end come from.
#[derive(Debug)]
pub enum Signals {
    /// The operating system.
    System {
        /// SIGTERM.
        terminate: SignalStream,
        /// SIGINT, unless the program uses Ctrl-C for something else.
        interrupt: Option<SignalStream>,
    },
    /// A channel, in tests and simulations.
    Channel(mpsc::Receiver<Signal>),
}

/// The end of a process: who starts it, and how long it may take.
#[derive(Debug)]
pub struct Shutdown {
    draining: CancellationToken,
    drain_timeout: Duration,
}

// === impl ExitStatus ===

impl ExitStatus {
    /// The process's exit code.
    pub fn code(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::Failure => 1,
            Self::Usage => 2,
            Self::DrainTimedOut => 3,
            Self::Forced(Signal::Interrupt) => 130,
            Self::Forced(Signal::Terminate) => 143,
        }
    }
}

// === impl Lifecycle ===

impl Lifecycle {
    /// Where the process stands after the event.
    #[must_use]
    pub fn after(self, event: LifecycleEvent) -> Self {
        use LifecycleEvent as Event;
        match (self, event) {
            (Self::Ended(status), _) => Self::Ended(status),
            (_, Event::WorkFailed) => Self::Ended(ExitStatus::Failure),
            (Self::Running, Event::Signal(_) | Event::WorkDone) => Self::Draining,
            (Self::Draining, Event::Signal(signal)) => Self::Ended(ExitStatus::Forced(signal)),
            (Self::Draining, Event::Drained) => Self::Ended(ExitStatus::Success),
            (Self::Draining, Event::DrainDeadline) => Self::Ended(ExitStatus::DrainTimedOut),
            // Work that ends while it drains is what a drain is for.
            (Self::Draining, Event::WorkDone) => Self::Draining,
            (Self::Running, Event::Drained | Event::DrainDeadline) => Self::Running,
        }
    }
}

// === impl Signals ===

impl Signals {
    /// Listens to SIGTERM and SIGINT.
    pub fn system() -> io::Result<Self> {
        Ok(Self::System {
            terminate: signal(SignalKind::terminate())?,
            interrupt: Some(signal(SignalKind::interrupt())?),
        })
    }

    /// Listens to SIGTERM alone, for programs in which Ctrl-C has another meaning.
    pub fn terminate_only() -> io::Result<Self> {
        Ok(Self::System {
            terminate: signal(SignalKind::terminate())?,
            interrupt: None,
        })
    }

    /// The next request to end. Where none can come any more it waits for ever.
    pub async fn next(&mut self) -> Signal {
        match self {
            Self::System {
                terminate,
                interrupt,
            } => {
                let interrupted = async {
                    match interrupt {
                        Some(interrupt) => interrupt.recv().await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    biased;
                    _ = terminate.recv() => Signal::Terminate,
                    _ = interrupted => Signal::Interrupt,
                }
            }
            Self::Channel(receiver) => match receiver.recv().await {
                Some(signal) => signal,
                None => std::future::pending().await,
            },
        }
    }
}

// === impl Shutdown ===

impl Shutdown {
    /// The end of a process, whose drain may take as long as `drain_timeout`.
    pub fn new(drain_timeout: Duration) -> Self {
        Self {
            draining: CancellationToken::new(),
            drain_timeout,
        }
    }

    /// Cancelled when the drain starts: whoever takes work stops taking it.
    pub fn draining(&self) -> &CancellationToken {
        &self.draining
    }

    /// Sees the process through to its end, and stops its tasks.
    ///
    /// `work` is what the process is for; it goes on while the process drains. `drain` is awaited
    /// once the drain has started, and resolves when nothing is in flight any more.
    pub async fn supervise<E: fmt::Display>(
        &self,
        mut signals: Signals,
        tasks: &Tasks,
        work: impl Future<Output = Result<(), E>>,
        drain: impl Future<Output = ()>,
    ) -> ExitStatus {
        tokio::pin!(work, drain);
        let mut lifecycle = Lifecycle::Running;
        let mut deadline = Instant::now();
        let mut working = true;
        loop {
            let draining = lifecycle == Lifecycle::Draining;
            let event = tokio::select! {
                biased;
                signal = signals.next() => {
                    tracing::info!(?signal, ?lifecycle, "asked to end");
                    LifecycleEvent::Signal(signal)
                }
                () = tasks.cancellation().cancelled() => LifecycleEvent::WorkFailed,
                () = &mut drain, if draining => LifecycleEvent::Drained,
                result = &mut work, if working => {
                    working = false;
                    work_event(result)
                }
                () = tokio::time::sleep_until(deadline), if draining => {
                    LifecycleEvent::DrainDeadline
                }
            };
            lifecycle = lifecycle.after(event);
            match lifecycle {
                Lifecycle::Running => {}
                Lifecycle::Draining if draining => {}
                Lifecycle::Draining => {
                    deadline = Instant::now() + self.drain_timeout;
                    self.draining.cancel();
                }
                Lifecycle::Ended(status) => return self.end(status, tasks).await,
            }
        }
    }

    async fn end(&self, status: ExitStatus, tasks: &Tasks) -> ExitStatus {
        self.draining.cancel();
        if status == ExitStatus::DrainTimedOut {
            tracing::warn!(timeout = ?self.drain_timeout, "drain timed out, cutting off what is in flight");
        }
        if matches!(status, ExitStatus::Forced(_)) {
            tasks.cancel();
            return status;
        }
        if tokio::time::timeout(STOP_TIMEOUT, tasks.stop())
            .await
            .is_err()
        {
            tracing::warn!(timeout = ?STOP_TIMEOUT, "tasks did not stop, ending without them");
        }
        status
    }
}

fn work_event<E: fmt::Display>(result: Result<(), E>) -> LifecycleEvent {
    match result {
        Ok(()) => LifecycleEvent::WorkDone,
        Err(error) => {
            tracing::error!(%error, "the process failed");
            LifecycleEvent::WorkFailed
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::convert::Infallible;
    use std::future::pending;

    const TIMEOUT: Duration = Duration::from_secs(30);

    fn channel() -> (mpsc::Sender<Signal>, Signals) {
        let (sender, receiver) = mpsc::channel(4);
        (sender, Signals::Channel(receiver))
    }

    #[tokio::test]
    async fn a_signal_drains_and_then_stops_the_tasks() {
        let (signal, signals) = channel();
        let (shutdown, tasks) = (Shutdown::new(TIMEOUT), Tasks::root());
        tasks.spawn_until_cancelled("background", pending());
        let draining = shutdown.draining().clone();
        let drain = async { assert!(draining.is_cancelled()) };
        signal.send(Signal::Terminate).await.unwrap();
        let status = shutdown
            .supervise::<Infallible>(signals, &tasks, pending(), drain)
            .await;
        assert_eq!(status, ExitStatus::Success);
        assert!(tasks.cancellation().is_cancelled());
    }

    #[tokio::test]
    async fn the_work_goes_on_while_it_drains() {
        let (signal, signals) = channel();
        let (shutdown, tasks) = (Shutdown::new(TIMEOUT), Tasks::root());
        let in_flight = CancellationToken::new();
        let draining = shutdown.draining().clone();
        let work = async {
            draining.cancelled().await;
            in_flight.cancel();
            pending::<Result<(), Infallible>>().await
        };
        signal.send(Signal::Terminate).await.unwrap();
        let drain = in_flight.cancelled();
        let status = shutdown.supervise(signals, &tasks, work, drain).await;
        assert_eq!(status, ExitStatus::Success);
    }

    #[tokio::test]
    async fn a_second_signal_ends_the_process_at_once() {
        let (signal, signals) = channel();
        let (shutdown, tasks) = (Shutdown::new(TIMEOUT), Tasks::root());
        // A task that never stops does not hold up a forced end.
        tasks.spawn("stubborn", pending());
        signal.send(Signal::Terminate).await.unwrap();
        signal.send(Signal::Interrupt).await.unwrap();
        let status = shutdown
            .supervise::<Infallible>(signals, &tasks, pending(), pending())
            .await;
        assert_eq!(status, ExitStatus::Forced(Signal::Interrupt));
    }

    #[tokio::test]
    async fn a_drain_is_cut_off_at_its_timeout() {
        let (signal, signals) = channel();
        let (shutdown, tasks) = (Shutdown::new(Duration::ZERO), Tasks::root());
        signal.send(Signal::Terminate).await.unwrap();
        let status = shutdown
            .supervise::<Infallible>(signals, &tasks, pending(), pending())
            .await;
        assert_eq!(status, ExitStatus::DrainTimedOut);
    }

    #[tokio::test]
    async fn work_that_ends_drains_what_is_left() {
        let (_signal, signals) = channel();
        let (shutdown, tasks) = (Shutdown::new(TIMEOUT), Tasks::root());
        let work = async { Ok::<(), Infallible>(()) };
        let status = shutdown.supervise(signals, &tasks, work, async {}).await;
        assert_eq!(status, ExitStatus::Success);
    }

    #[tokio::test]
    async fn failed_work_and_panicked_tasks_fail_the_process() {
        let (_signal, signals) = channel();
        let (shutdown, tasks) = (Shutdown::new(TIMEOUT), Tasks::root());
        let work = async { Err("port in use") };
        let status = shutdown.supervise(signals, &tasks, work, pending()).await;
        assert_eq!(status, ExitStatus::Failure);

        let (_signal, signals) = channel();
        let (shutdown, tasks) = (Shutdown::new(TIMEOUT), Tasks::root());
        tasks.spawn("broken", async { panic!("on purpose") });
        let status = shutdown
            .supervise::<Infallible>(signals, &tasks, pending(), pending())
            .await;
        assert_eq!(status, ExitStatus::Failure);
    }

    fn any_event() -> impl Strategy<Value = LifecycleEvent> {
        prop_oneof![
            Just(LifecycleEvent::Signal(Signal::Interrupt)),
            Just(LifecycleEvent::Signal(Signal::Terminate)),
            Just(LifecycleEvent::WorkDone),
            Just(LifecycleEvent::WorkFailed),
            Just(LifecycleEvent::Drained),
            Just(LifecycleEvent::DrainDeadline),
        ]
    }

    proptest! {
        #[test]
        fn a_process_ends_once_and_at_the_latest_with_the_second_signal(
            events in proptest::collection::vec(any_event(), 0..12),
        ) {
            let mut lifecycle = Lifecycle::Running;
            let mut signals = 0;
            for event in events {
                let before = lifecycle;
                lifecycle = lifecycle.after(event);
                signals += u32::from(matches!(event, LifecycleEvent::Signal(_)));
                if matches!(before, Lifecycle::Ended(_)) {
                    prop_assert_eq!(lifecycle, before);
                }
                if signals >= 2 {
                    prop_assert!(matches!(lifecycle, Lifecycle::Ended(_)));
                }
                if lifecycle == Lifecycle::Ended(ExitStatus::Success) && before != lifecycle {
                    prop_assert_eq!(event, LifecycleEvent::Drained);
                }
            }
        }
    }
}
