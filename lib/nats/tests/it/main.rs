//! The planes over a real `nats-server`, which each test starts, freezes, kills and restarts.
//!
//! Modules are marked as tests so that lints that allow something in tests allow it here.

use std::time::Duration;

/// Nothing in a healthy run takes this long.
#[cfg(test)]
const PATIENCE: Duration = Duration::from_secs(60);

#[cfg(test)]
mod connecting;
#[cfg(test)]
mod event_plane;
#[cfg(test)]
mod proxy;
#[cfg(test)]
mod request_plane;
#[cfg(test)]
mod survival;
