//! The runtime through its public interface, with real files, sockets and processes.
//!
//! Modules are marked as tests so that lints that allow something in tests allow it here.

#[cfg(test)]
mod component_processes;
#[cfg(test)]
mod discovery;
#[cfg(test)]
mod discovery_processes;
#[cfg(test)]
mod shutdown_signals;
#[cfg(test)]
mod status;
#[cfg(test)]
mod telemetry;
