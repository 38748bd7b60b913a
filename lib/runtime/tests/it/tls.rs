//! TLS on real sockets: who is let in, who is trusted, and certificates that change under way.

use dynamo_runtime::Environment;
use dynamo_runtime::environment::{Connection, Listener, Network};
use dynamo_runtime::tls::{ClientTls, NamedFile, ServerTls, TlsError, TlsNetwork};
use dynamo_testkit::certificates::Certificates;
use std::fs;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

/// A handshake takes milliseconds; what takes this long hangs.
const PATIENCE: Duration = Duration::from_secs(20);

fn file(certificates: &Certificates, name: &str) -> NamedFile {
    NamedFile::new("--test", certificates.path(name))
}

fn server(certificates: &Certificates, client_authorities: Option<&str>) -> Arc<ServerTls> {
    let of = |name: &str| file(certificates, name);
    let authorities = client_authorities.map(of);
    Arc::new(ServerTls::new(of("server.pem"), of("server.key"), authorities, &[]).unwrap())
}

fn network(
    certificates: &Certificates,
    server: &Arc<ServerTls>,
    authority: &str,
    identity: Option<&str>,
) -> TlsNetwork {
    let of = |name: String| file(certificates, &name);
    let identity = identity.map(|it| (of(format!("{it}.pem")), of(format!("{it}.key"))));
    let client = ClientTls::new(of(authority.to_owned()), identity, None).unwrap();
    let inner = Environment::system().network;
    TlsNetwork::new(inner, Arc::clone(server), Arc::new(client))
}

/// Says something over a connection, and gives back what the other side heard of it.
async fn exchange(listening: &TlsNetwork, dialling: &TlsNetwork) -> io::Result<Vec<u8>> {
    let listener: Box<dyn Listener> = listening.bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?.to_string();
    let accepted = async {
        let (mut connection, _) = listener.accept().await?;
        let mut heard = [0; 5];
        connection.read_exact(&mut heard).await?;
        Ok::<_, io::Error>(heard.to_vec())
    };
    let dialled = async {
        let mut connection: Box<dyn Connection> = dialling.connect(&address).await?;
        connection.write_all(b"hello").await?;
        connection.flush().await?;
        // A refused certificate is told after the client's own handshake.
        let mut end = [0; 1];
        connection.read(&mut end).await.map(drop)
    };
    let (heard, said) = timeout(PATIENCE, async { tokio::join!(accepted, dialled) }).await?;
    let heard = heard?;
    drop(said);
    Ok(heard)
}

#[tokio::test]
async fn what_is_said_arrives() {
    let certificates = Certificates::make();
    let network = network(&certificates, &server(&certificates, None), "ca.pem", None);
    assert_eq!(exchange(&network, &network).await.unwrap(), b"hello");
}

#[tokio::test]
async fn strangers_are_not_let_in_and_not_trusted() {
    let certificates = Certificates::make();
    certificates.authority("other");
    let strict = server(&certificates, Some("ca.pem"));
    let known = network(&certificates, &strict, "ca.pem", Some("client"));
    assert_eq!(exchange(&known, &known).await.unwrap(), b"hello");
    let nameless = network(&certificates, &strict, "ca.pem", None);
    exchange(&known, &nameless).await.unwrap_err();
    let forged = network(&certificates, &strict, "ca.pem", Some("other"));
    exchange(&known, &forged).await.unwrap_err();
    let suspicious = network(&certificates, &strict, "other.pem", Some("client"));
    exchange(&known, &suspicious).await.unwrap_err();
}

#[tokio::test]
async fn certificates_that_change_are_used_without_a_restart() {
    let certificates = Certificates::make();
    let tls = server(&certificates, None);
    let network = network(&certificates, &tls, "ca.pem", None);
    assert_eq!(exchange(&network, &network).await.unwrap(), b"hello");
    // Signed by another authority: who trusts the first one does not trust it any more.
    certificates.authority("other");
    fs::copy(
        certificates.path("other.key"),
        certificates.path("server.key"),
    )
    .unwrap();
    fs::copy(
        certificates.path("other.pem"),
        certificates.path("server.pem"),
    )
    .unwrap();
    timeout(PATIENCE, async {
        while exchange(&network, &network).await.is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
}

#[test]
fn files_that_cannot_be_used_are_named_with_their_option() {
    let certificates = Certificates::make();
    let of = |name: &str| file(&certificates, name);
    let missing = ServerTls::new(of("nothing.pem"), of("server.key"), None, &[]).unwrap_err();
    assert!(missing.to_string().contains("nothing.pem"), "{missing}");
    let mixed = ServerTls::new(of("server.pem"), of("client.key"), None, &[]).unwrap_err();
    assert!(matches!(mixed, TlsError::Identity { .. }), "{mixed}");
    let key = ServerTls::new(of("server.key"), of("server.key"), None, &[]).unwrap_err();
    assert!(key.to_string().contains("no certificate"), "{key}");
}
