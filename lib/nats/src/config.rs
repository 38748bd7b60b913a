//! The options of NATS, each declared here and nowhere else.

use dynamo_config::{Secret, options};
use std::path::PathBuf;

options! {
    /// Where the NATS server is, for the `nats` request and event planes, and who this process is
    /// there.
    pub struct NatsOptions("nats") {
        /// Servers to connect to, `nats://HOST:PORT` or `tls://HOST:PORT`, with commas between.
        /// Used if a plane is `nats`.
        nats_server: String = "nats://127.0.0.1:4222".to_owned(), env = "NATS_SERVER";
        /// User to log in as.
        nats_auth_username: Option<String> = None, env = "NATS_AUTH_USERNAME";
        /// Password of the user.
        nats_auth_password: Option<Secret> = None, env = "NATS_AUTH_PASSWORD", secret;
        /// Token to log in with.
        nats_auth_token: Option<Secret> = None, env = "NATS_AUTH_TOKEN", secret;
        /// Seed of the nkey to log in with.
        nats_auth_nkey: Option<Secret> = None, env = "NATS_AUTH_NKEY", secret;
        /// Credentials file (a user's JWT and nkey seed) to log in with.
        nats_auth_credentials_file: Option<PathBuf> = None, env = "NATS_AUTH_CREDENTIALS_FILE";
        /// Certificates to trust for a `tls://` server, beside the system's.
        nats_tls_ca: Option<PathBuf> = None, env = "NATS_TLS_CA_CERT_PATH";
        /// Keep events in a JetStream stream as well: who missed more than a publisher remembers
        /// gets them from there instead of a snapshot.
        nats_jetstream: bool = false, env = "DYN_NATS_JETSTREAM";
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dynamo_config::{Schema, Sources};

    #[test]
    fn the_declarations_are_consistent() {
        let schema = Schema::new().with::<NatsOptions>();
        assert_eq!(schema.check(), [""; 0]);
    }

    #[test]
    fn secrets_are_read_and_never_shown() {
        let schema = Schema::new().with::<NatsOptions>();
        let environment = [("NATS_AUTH_TOKEN", "s3cr3t"), ("NATS_SERVER", "nats://n:1")];
        let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let resolved = schema.resolve(&Sources::new().env(environment)).unwrap();
        let options: &NatsOptions = resolved.get();
        assert_eq!(options.nats_server, "nats://n:1");
        assert!(options.nats_auth_token.is_some());
        assert!(!format!("{options:?}").contains("s3cr3t"));
    }
}
