//! The runtime through its public interface, with real files, sockets and processes.
//!
//! Modules are marked as tests so that lints that allow something in tests allow it here.

#[cfg(test)]
mod artefact;
#[cfg(test)]
mod component_processes;
#[cfg(test)]
mod discovery;
#[cfg(test)]
mod discovery_etcd;
#[cfg(test)]
mod discovery_processes;
#[cfg(test)]
mod event_plane;
#[cfg(test)]
mod request_plane;
#[cfg(test)]
mod request_plane_bad_input;
#[cfg(test)]
mod request_plane_edges;
#[cfg(test)]
mod request_plane_network;
#[cfg(test)]
mod request_plane_peer;
#[cfg(test)]
mod request_plane_recorded;
#[cfg(test)]
mod shutdown_signals;
#[cfg(test)]
mod status;
#[cfg(test)]
mod telemetry;
#[cfg(test)]
mod tls;
