//! Gives memory that is free inside this process back to the system.
//!
//! glibc keeps what a program frees for what it asks for next, and gives back only what lies at
//! the end of a heap. Loading a tokenizer frees most of what it takes, in pieces between those
//! that stay: tens of megabytes that no request will ever need again (`docs/benchmarks.md` has
//! them beside other allocators'). So glibc is told, whenever models have come or gone, and at no
//! other time: on the way of a request memory is better kept.
//!
//! Other C libraries keep less; nothing is done there.

use dynamo_llm::registry::ModelRegistry;
use dynamo_runtime::Environment;
use std::time::Duration;
use tokio::time::sleep;

/// How long after a change of models: what is gone is freed by then, and models that came
/// together are dealt with together.
const SETTLE: Duration = Duration::from_millis(250);

/// Gives memory back after each change of the models, for as long as it is polled.
pub(crate) async fn give_back_after_changes(models: ModelRegistry, environment: Environment) {
    let mut changes = models.changes();
    // The registry holds the sender, and this task the registry.
    while changes.changed().await.is_ok() {
        sleep(SETTLE).await;
        changes.mark_unchanged();
        // A pool that is full refuses. What it works on needs memory anyway.
        environment.compute(give_back).await.ok();
    }
}

/// Gives back whole pages that are free. Takes milliseconds, in which other threads may wait for
/// memory.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[expect(
    unsafe_code,
    reason = "glibc offers this through a C function and nothing wraps it"
)]
pub(crate) fn give_back() {
    // SAFETY: malloc_trim(3) may be called at any time and from any thread; it takes each heap's
    // lock by itself. It reads and writes only what the allocator owns: memory that was handed out
    // stays where it is and keeps its contents. The number is how many bytes to leave free at a
    // heap's end; every value is valid. The result says whether anything was given back.
    let _: libc::c_int = unsafe { libc::malloc_trim(0) };
}

/// Nothing to do here.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub(crate) fn give_back() {}
