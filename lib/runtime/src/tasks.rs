//! The tree of tasks: every task has an owner who awaits or cancels it.
//!
//! A [`Tasks`] is a node. Cancelling a node cancels everything below it, and [`Tasks::stop`]
//! returns only when every task below it has ended. A task that panics is a defect: it is logged
//! with its name and cancels the node's root, because a process with a missing limb must not go
//! on as if it were whole.

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use std::fmt;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// A node in the tree of tasks. Cheap to clone; clones are the same node.
#[derive(Debug, Clone)]
pub struct Tasks {
    /// Trackers from this node up to the root: a task counts in all of them.
    trackers: Vec<TaskTracker>,
    cancel: CancellationToken,
    root: CancellationToken,
    within: Option<Within>,
}

/// What every task of a tree runs within; see [`Tasks::root_within`].
#[derive(Clone)]
struct Within(Arc<dyn Fn(BoxFuture<'static, ()>) -> BoxFuture<'static, ()> + Send + Sync>);

impl fmt::Debug for Within {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Within")
    }
}

impl Tasks {
    /// The root of a process (or of a simulated one).
    pub fn root() -> Self {
        let root = CancellationToken::new();
        Self {
            trackers: vec![TaskTracker::new()],
            cancel: root.clone(),
            root,
            within: None,
        }
    }

    /// The root of a process whose tasks all run within what `wrap` makes of them. A simulator
    /// stops a whole process so, in the middle of whatever it does.
    pub fn root_within(
        wrap: impl Fn(BoxFuture<'static, ()>) -> BoxFuture<'static, ()> + Send + Sync + 'static,
    ) -> Self {
        Self {
            within: Some(Within(Arc::new(wrap))),
            ..Self::root()
        }
    }

    /// A node below this one: it is cancelled with this one, and can be cancelled alone.
    #[must_use]
    pub fn child(&self) -> Self {
        let mut trackers = vec![TaskTracker::new()];
        trackers.extend(self.trackers.iter().cloned());
        Self {
            trackers,
            cancel: self.cancel.child_token(),
            root: self.root.clone(),
            within: self.within.clone(),
        }
    }

    /// The token that says when to stop.
    pub fn cancellation(&self) -> &CancellationToken {
        &self.cancel
    }

    /// Runs a task that watches [`Tasks::cancellation`] by itself and ends in its own time.
    pub fn spawn<F>(&self, name: &'static str, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let tokens: Vec<_> = self.trackers.iter().map(TaskTracker::token).collect();
        let root = self.root.clone();
        let owned = async move {
            let _counted = tokens;
            if AssertUnwindSafe(task).catch_unwind().await.is_err() {
                tracing::error!(task = name, "task panicked, stopping the process");
                root.cancel();
            }
        };
        #[expect(
            clippy::disallowed_methods,
            reason = "this is where tasks get their owner"
        )]
        let handle = match &self.within {
            None => tokio::spawn(owned),
            Some(within) => tokio::spawn((within.0)(Box::pin(owned))),
        };
        drop(handle);
    }

    /// Runs a task that is dropped where it stands when the node is cancelled.
    pub fn spawn_until_cancelled<F>(&self, name: &'static str, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let cancel = self.cancel.clone();
        self.spawn(name, async move {
            cancel.run_until_cancelled(task).await;
        });
    }

    /// Tells every task of this node and below to stop, without waiting.
    pub fn cancel(&self) {
        self.cancel.cancel();
    }

    /// Cancels this node and waits until every task of it and below has ended.
    pub async fn stop(&self) {
        self.cancel.cancel();
        self.wait().await;
    }

    /// Waits until every task of this node and below has ended, without cancelling them.
    pub async fn wait(&self) {
        if let Some(own) = self.trackers.first() {
            own.close();
            own.wait().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    #[tokio::test]
    async fn stop_waits_for_the_whole_subtree() {
        let root = Tasks::root();
        let child = root.child();
        let ended = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&ended);
        let cancel = child.cancellation().clone();
        child.spawn("slow to stop", async move {
            cancel.cancelled().await;
            tokio::task::yield_now().await;
            flag.store(true, Ordering::SeqCst);
        });
        root.stop().await;
        assert!(ended.load(Ordering::SeqCst));
    }

    #[tokio::test]
    async fn cancelling_a_child_leaves_its_siblings_alone() {
        let root = Tasks::root();
        let (one, two) = (root.child(), root.child());
        one.stop().await;
        assert!(one.cancellation().is_cancelled());
        assert!(!two.cancellation().is_cancelled());
        assert!(!root.cancellation().is_cancelled());
    }

    #[tokio::test]
    async fn a_panic_stops_the_process() {
        let root = Tasks::root();
        root.child().spawn("broken", async { panic!("on purpose") });
        root.cancellation().cancelled().await;
        root.wait().await;
    }

    #[tokio::test]
    async fn every_task_of_a_tree_runs_within_what_its_root_says() {
        let begun = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&begun);
        let root = Tasks::root_within(move |task| {
            counter.fetch_add(1, Ordering::SeqCst);
            task
        });
        root.spawn_until_cancelled("one", std::future::pending());
        root.child().child().spawn("two", async {});
        root.stop().await;
        assert_eq!(begun.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn cancelled_tasks_are_dropped_where_they_stand() {
        let root = Tasks::root();
        root.spawn_until_cancelled("forever", std::future::pending());
        root.stop().await;
    }
}
