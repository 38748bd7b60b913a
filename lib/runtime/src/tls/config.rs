//! The options of TLS: which files, for what. What they come to is made here, with errors that name
//! the options; who listens and dials with it does not know where it came from.

use super::{ClientTls, NamedFile, ServerTls, TlsError, TlsNetwork};
use crate::environment::Network;
use dynamo_config::options;
use std::path::PathBuf;
use std::sync::Arc;

options! {
    /// TLS of the HTTP interface. Files that change are read again, without a restart.
    pub struct HttpTlsOptions("http-tls") {
        /// PEM file with the certificate to show to clients, its issuers after it.
        tls_cert_path: Option<PathBuf> = None, env = "DYN_TLS_CERT_PATH";
        /// PEM file with the key of that certificate.
        tls_key_path: Option<PathBuf> = None, env = "DYN_TLS_KEY_PATH";
        /// PEM file with the authorities that clients' certificates must be signed by. If not given:
        /// clients need none.
        tls_client_ca_cert_path: Option<PathBuf> = None, env = "DYN_TLS_CLIENT_CA_CERT_PATH";
    }
}

options! {
    /// TLS of the `tcp` request plane, on which every process both listens and dials: all of a
    /// deployment have it or none. Files that change are read again, without a restart.
    pub struct TcpTlsOptions("tcp-tls") {
        /// PEM file with the certificate to show to those who dial this process, its issuers after it.
        tcp_tls_cert_path: Option<PathBuf> = None, env = "DYN_TCP_TLS_CERT_PATH";
        /// PEM file with the key of that certificate.
        tcp_tls_key_path: Option<PathBuf> = None, env = "DYN_TCP_TLS_KEY_PATH";
        /// PEM file with the authorities that the certificates of dialled processes must be signed by.
        tcp_tls_ca_cert_path: Option<PathBuf> = None, env = "DYN_TCP_TLS_CA_CERT_PATH";
        /// PEM file with the authorities that the certificates of those who dial must be signed by. If
        /// not given: they need none.
        tcp_tls_client_ca_cert_path: Option<PathBuf> = None, env = "DYN_TCP_TLS_CLIENT_CA_CERT_PATH";
        /// PEM file with the certificate to show when dialling, if it is another one.
        tcp_tls_client_cert_path: Option<PathBuf> = None, env = "DYN_TCP_TLS_CLIENT_CERT_PATH";
        /// PEM file with the key of that certificate.
        tcp_tls_client_key_path: Option<PathBuf> = None, env = "DYN_TCP_TLS_CLIENT_KEY_PATH";
        /// Name that the certificates of dialled processes are for. If not given: the host that each
        /// advertises.
        tcp_tls_server_name: Option<String> = None, env = "DYN_TCP_TLS_SERVER_NAME";
    }
}

impl HttpTlsOptions {
    /// Whether TLS is asked for.
    pub fn is_on(&self) -> bool {
        self.tls_cert_path.is_some()
    }

    /// What to listen with; nothing if TLS is not asked for. `protocols` are those that clients may
    /// speak, the preferred first. Reads the files: blocks.
    pub fn server(&self, protocols: &[&str]) -> Result<Option<ServerTls>, TlsError> {
        let certificate = named("--tls-cert-path", self.tls_cert_path.as_ref());
        let key = named("--tls-key-path", self.tls_key_path.as_ref());
        let clients = named(
            "--tls-client-ca-cert-path",
            self.tls_client_ca_cert_path.as_ref(),
        );
        let Some((certificate, key)) = pair(certificate, key, "--tls-cert-path", "--tls-key-path")?
        else {
            return match clients {
                Some(_) => Err(TlsError::Missing {
                    given: "--tls-client-ca-cert-path",
                    missing: "--tls-cert-path and --tls-key-path",
                }),
                None => Ok(None),
            };
        };
        ServerTls::new(certificate, key, clients, protocols).map(Some)
    }
}

impl TcpTlsOptions {
    /// `plain` with TLS on its connections; nothing if TLS is not asked for. Reads the files: blocks.
    pub fn network(&self, plain: Arc<dyn Network>) -> Result<Option<TlsNetwork>, TlsError> {
        const CERT: &str = "--tcp-tls-cert-path";
        const KEY: &str = "--tcp-tls-key-path";
        const CA: &str = "--tcp-tls-ca-cert-path";
        const CLIENT_CA: &str = "--tcp-tls-client-ca-cert-path";
        const CLIENT_CERT: &str = "--tcp-tls-client-cert-path";
        const CLIENT_KEY: &str = "--tcp-tls-client-key-path";
        let own = pair(
            named(CERT, self.tcp_tls_cert_path.as_ref()),
            named(KEY, self.tcp_tls_key_path.as_ref()),
            CERT,
            KEY,
        )?;
        let authorities = named(CA, self.tcp_tls_ca_cert_path.as_ref());
        let clients = named(CLIENT_CA, self.tcp_tls_client_ca_cert_path.as_ref());
        let shown = pair(
            named(CLIENT_CERT, self.tcp_tls_client_cert_path.as_ref()),
            named(CLIENT_KEY, self.tcp_tls_client_key_path.as_ref()),
            CLIENT_CERT,
            CLIENT_KEY,
        )?;
        let name = self.tcp_tls_server_name.as_deref();
        let (own, authorities) = match (own, authorities) {
            (Some(own), Some(authorities)) => (own, authorities),
            (Some(_), None) => {
                return Err(TlsError::Missing {
                    given: CERT,
                    missing: CA,
                });
            }
            (None, authorities) => {
                let given = [
                    authorities.map(|_| CA),
                    clients.map(|_| CLIENT_CA),
                    shown.map(|_| CLIENT_CERT),
                    name.map(|_| super::network::SERVER_NAME),
                ];
                return match given.into_iter().flatten().next() {
                    Some(given) => Err(TlsError::Missing {
                        given,
                        missing: "--tcp-tls-cert-path, --tcp-tls-key-path and --tcp-tls-ca-cert-path",
                    }),
                    None => Ok(None),
                };
            }
        };
        let shown = shown.unwrap_or_else(|| own.clone());
        let (certificate, key) = own;
        let server = ServerTls::new(certificate, key, clients, &[])?;
        let client = ClientTls::new(authorities, Some(shown), name)?;
        Ok(Some(TlsNetwork::new(
            plain,
            Arc::new(server),
            Arc::new(client),
        )))
    }
}

fn named(option: &'static str, path: Option<&PathBuf>) -> Option<NamedFile> {
    path.map(|path| NamedFile::new(option, path))
}

/// A certificate and its key: both or neither.
fn pair(
    certificate: Option<NamedFile>,
    key: Option<NamedFile>,
    certificate_option: &'static str,
    key_option: &'static str,
) -> Result<Option<(NamedFile, NamedFile)>, TlsError> {
    match (certificate, key) {
        (Some(certificate), Some(key)) => Ok(Some((certificate, key))),
        (None, None) => Ok(None),
        (Some(_), None) => Err(TlsError::Missing {
            given: certificate_option,
            missing: key_option,
        }),
        (None, Some(_)) => Err(TlsError::Missing {
            given: key_option,
            missing: certificate_option,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Environment;
    use dynamo_config::Schema;

    #[test]
    fn the_declarations_are_sound() {
        let schema = Schema::new()
            .with::<HttpTlsOptions>()
            .with::<TcpTlsOptions>();
        assert_eq!(schema.check(), [""; 0]);
    }

    #[test]
    fn half_of_what_tls_needs_is_an_error_that_names_the_other_half() {
        let some = || Some(PathBuf::from("file"));
        let tcp = |options: TcpTlsOptions| {
            let network = Environment::system().network;
            options.network(network).unwrap_err().to_string()
        };
        let http = |options: HttpTlsOptions| options.server(&[]).unwrap_err().to_string();
        let cases = [
            http(HttpTlsOptions {
                tls_cert_path: some(),
                ..HttpTlsOptions::default()
            }),
            http(HttpTlsOptions {
                tls_client_ca_cert_path: some(),
                ..HttpTlsOptions::default()
            }),
            tcp(TcpTlsOptions {
                tcp_tls_key_path: some(),
                ..TcpTlsOptions::default()
            }),
            tcp(TcpTlsOptions {
                tcp_tls_cert_path: some(),
                tcp_tls_key_path: some(),
                ..TcpTlsOptions::default()
            }),
            tcp(TcpTlsOptions {
                tcp_tls_server_name: Some("worker".to_owned()),
                ..TcpTlsOptions::default()
            }),
        ];
        let expected = [
            "--tls-cert-path needs --tls-key-path as well",
            "--tls-client-ca-cert-path needs --tls-cert-path and --tls-key-path as well",
            "--tcp-tls-key-path needs --tcp-tls-cert-path as well",
            "--tcp-tls-cert-path needs --tcp-tls-ca-cert-path as well",
            "--tcp-tls-server-name needs --tcp-tls-cert-path, --tcp-tls-key-path and \
             --tcp-tls-ca-cert-path as well",
        ];
        assert_eq!(cases, expected);
    }

    #[test]
    fn without_options_there_is_no_tls() {
        assert!(HttpTlsOptions::default().server(&[]).unwrap().is_none());
        let network = Environment::system().network;
        assert!(TcpTlsOptions::default().network(network).unwrap().is_none());
    }
}
