//! The runtime's options, each declared here and nowhere else.
//!
//! Defaults are kind to one machine: discovery in a folder, everything on loopback, no status
//! server. Nothing here reads the environment: the binary's loader does, once.

use crate::component::INHIBITED_DURATION;
use crate::discovery::endpoint_id::DEFAULT_NAMESPACE;
use crate::discovery::etcd::{DEFAULT_LEASE_TTL, LEAST_LEASE_TTL};
use crate::request_plane::{MAX_PROTOCOL_VERSION, MIN_PROTOCOL_VERSION};
use crate::shutdown::DEFAULT_DRAIN_TIMEOUT;
use dynamo_config::{Secret, choices, options};
use std::path::PathBuf;
use std::time::Duration;

/// Where etcd listens unless it is told otherwise.
const DEFAULT_ETCD_ENDPOINT: &str = "http://127.0.0.1:2379";

choices! {
    /// Where processes find each other.
    pub enum DiscoveryBackend {
        /// A folder on this machine; needs nothing running.
        File = "file",
        /// An etcd cluster, for processes on several machines.
        Etcd = "etcd",
        /// Within this process alone.
        Mem = "mem",
    }
}

choices! {
    /// How requests travel to workers.
    pub enum RequestPlaneKind {
        /// Direct connections between the processes.
        Tcp = "tcp",
        /// Through a NATS server, see `--nats-server`.
        Nats = "nats",
    }
}

choices! {
    /// How events travel from workers and routers to routers.
    pub enum EventPlaneKind {
        /// From each process to each that follows it, over the request plane; needs no broker.
        Tcp = "tcp",
        /// Through a NATS server, see `--nats-server`.
        Nats = "nats",
        /// From a ZMQ publisher in each process; needs no broker.
        Zmq = "zmq",
    }
}

choices! {
    /// How log lines look.
    pub enum LogFormat {
        /// For people.
        Readable = "readable" | "pretty",
        /// One JSON object per line.
        Jsonl = "jsonl" | "json",
    }
}

options! {
    /// What a process needs to take its place among the others.
    pub struct RuntimeOptions("runtime") {
        /// Namespace of this process's components: one deployment among others. A frontend that is
        /// given one serves the models of that namespace alone.
        namespace: String = DEFAULT_NAMESPACE.to_owned(), env = "DYN_NAMESPACE";
        /// Where processes find each other.
        discovery_backend: DiscoveryBackend = DiscoveryBackend::File,
            env = "DYN_DISCOVERY_BACKEND", deprecated = "--store-kv";
        /// Folder of the `file` discovery backend, this user's own and closed to others. If not
        /// given: `dynamo` in `$XDG_RUNTIME_DIR`, or `dynamo-UID` in the folder for temporary files.
        file_kv: Option<PathBuf> = None, env = "DYN_FILE_KV";
        /// Members of the etcd cluster that the `etcd` discovery backend asks: `http://host:port`, or
        /// `https://` for TLS. One that does not answer is followed by the next.
        etcd_endpoints: Vec<String> = vec![DEFAULT_ETCD_ENDPOINT.to_owned()], env = "ETCD_ENDPOINTS";
        /// How long etcd takes a process for alive that has fallen silent.
        etcd_lease_ttl: Duration = DEFAULT_LEASE_TTL, env = "ETCD_LEASE_TTL", min = LEAST_LEASE_TTL;
        /// User of etcd, if it asks for one.
        etcd_username: Option<String> = None, env = "ETCD_AUTH_USERNAME";
        /// Password of that user. Better given by the environment, as other users of the machine see
        /// command lines.
        etcd_password: Option<Secret> = None, env = "ETCD_AUTH_PASSWORD", secret;
        /// PEM file with the authorities that etcd's certificates are trusted by. If not given: those
        /// that the system trusts.
        etcd_ca: Option<PathBuf> = None, env = "ETCD_AUTH_CA";
        /// PEM file with this process's certificate, if etcd asks for one.
        etcd_client_cert: Option<PathBuf> = None, env = "ETCD_AUTH_CLIENT_CERT";
        /// PEM file with the key of that certificate.
        etcd_client_key: Option<PathBuf> = None, env = "ETCD_AUTH_CLIENT_KEY";
        /// How requests travel to workers.
        request_plane: RequestPlaneKind = RequestPlaneKind::Tcp, env = "DYN_REQUEST_PLANE";
        /// How events travel. What the events' own way does not bring is read over the request
        /// plane, so that processes with different ones follow each other all the same.
        event_plane: EventPlaneKind = EventPlaneKind::Tcp, env = "DYN_EVENT_PLANE";
        /// Address the request plane listens on. Other machines reach only what does not listen on
        /// loopback.
        tcp_host: String = "127.0.0.1".to_owned(), env = "DYN_TCP_RPC_HOST";
        /// Newest version of the request plane's protocol to speak: for a deployment that is updated
        /// process by process, and goes back if need be.
        request_plane_version: u16 = MAX_PROTOCOL_VERSION, env = "DYN_REQUEST_PLANE_VERSION",
            range = MIN_PROTOCOL_VERSION..=MAX_PROTOCOL_VERSION;
        /// Port the request plane listens on; 0 takes a free one.
        tcp_port: u16 = 0, env = "DYN_TCP_RPC_PORT";
        /// Host that others reach this process by, on every plane that listens. If not given: the
        /// address it listens on.
        advertise_host: Option<String> = None, env = "DYN_ADVERTISE_HOST",
            env = "DYN_TCP_ADVERTISE_HOST", deprecated = "--tcp-advertise-host";
        /// How long work in flight may take to end after SIGTERM; then it is cut off.
        drain_timeout: Duration = DEFAULT_DRAIN_TIMEOUT, env = "DYN_DRAIN_TIMEOUT";
        /// How long an instance that could not be reached is left out, unless it is the only one.
        inhibited_duration: Duration = INHIBITED_DURATION, env = "DYN_INHIBITED_DURATION";
        /// Address the system status server listens on.
        system_host: String = "127.0.0.1".to_owned(), env = "DYN_SYSTEM_HOST";
        /// Port of the system status server: -1 for none, 0 for a free one.
        system_port: i32 = -1, env = "DYN_SYSTEM_PORT", range = -1..=65_535;
        /// What to log: a level, or levels by module as in `info,dynamo_runtime=debug`.
        log_level: String = "info".to_owned(), env = "DYN_LOG";
        /// How log lines look.
        log_format: LogFormat = LogFormat::Readable, env = "DYN_LOGGING_CONSOLE_FORMAT";
        /// Export traces with OTLP.
        otel_export: bool = false, env = "OTEL_EXPORT_ENABLED";
        /// Where traces are exported to, with OTLP over HTTP.
        otel_endpoint: String = "http://127.0.0.1:4318".to_owned(),
            env = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", env = "OTEL_EXPORTER_OTLP_ENDPOINT";
        /// Share of the traces that begin here to export, from 0 to 1.
        otel_sample_ratio: f64 = 1.0, env = "OTEL_TRACES_SAMPLE_RATIO", range = 0.0..=1.0;
        /// Name of the service that exported traces are of.
        otel_service_name: String = "dynamo".to_owned(), env = "OTEL_SERVICE_NAME";
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dynamo_config::{Schema, Sources};

    #[test]
    fn the_declarations_are_consistent() {
        let schema = Schema::new().with::<RuntimeOptions>();
        assert_eq!(schema.check(), [""; 0]);
    }

    #[test]
    fn the_names_that_users_know_are_read() {
        let schema = Schema::new().with::<RuntimeOptions>();
        let environment = [
            ("DYN_DISCOVERY_BACKEND", "mem"),
            ("DYN_FILE_KV", "/run/discovery"),
            ("DYN_SYSTEM_PORT", "0"),
            ("DYN_LOGGING_CONSOLE_FORMAT", "jsonl"),
        ];
        let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let resolved = schema.resolve(&Sources::new().env(environment)).unwrap();
        let options: &RuntimeOptions = resolved.get();
        assert_eq!(options.discovery_backend, DiscoveryBackend::Mem);
        assert_eq!(options.file_kv, Some(PathBuf::from("/run/discovery")));
        assert_eq!(options.system_port, 0);
        assert_eq!(options.log_format, LogFormat::Jsonl);
    }
}
