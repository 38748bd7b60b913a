//! The planes over a real `nats-server`, which each test starts, freezes, kills and restarts.
//!
//! Modules are marked as tests so that lints that allow something in tests allow it here.

#[cfg(test)]
mod connecting;
#[cfg(test)]
mod event_plane;
#[cfg(test)]
mod proxy;
#[cfg(test)]
mod request_plane;
#[cfg(test)]
mod server;
#[cfg(test)]
mod survival;
