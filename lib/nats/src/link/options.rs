//! What the user gave, in the client's terms.

use super::{LinkState, NatsError};
use crate::config::NatsOptions;
use async_nats::{ConnectOptions, ServerAddr};
use std::sync::Arc;
use std::time::Duration;

/// Messages that wait for this process to take them in: a busy moment's. What is lost beyond them
/// is noticed and sent again.
const SUBSCRIPTION_CAPACITY: usize = 16 * 1024;

/// Messages that wait to be written to the server.
const CLIENT_CAPACITY: usize = 1024;

/// How long one attempt to connect may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// How often the client asks a silent server for a sign of life. The link's own messages notice
/// sooner.
const PING_INTERVAL: Duration = Duration::from_secs(10);

/// Pause between attempts to connect: streams go on once the server is back, so it is short.
const RECONNECT_PAUSE: Duration = Duration::from_millis(100);

/// Pause after many attempts.
const LONG_RECONNECT_PAUSE: Duration = Duration::from_secs(1);

/// Attempts before the pause gets long: for as long as streams wait for the server.
const SHORT_PAUSES: usize = 300;

/// The servers of a list, as the client takes them.
pub(super) fn addresses(options: &NatsOptions) -> Result<Vec<ServerAddr>, NatsError> {
    let wrong = |reason: &str| NatsError::Address {
        servers: shown(&options.nats_server),
        reason: reason.to_owned(),
    };
    let servers = options.nats_server.split(',').map(str::trim);
    let servers: Result<Vec<ServerAddr>, NatsError> = servers
        .filter(|server| !server.is_empty())
        .map(|server| {
            let address: ServerAddr = server.parse().map_err(|_| wrong("not a URL"))?;
            match address.scheme() {
                "nats" | "tls" => Ok(address),
                _ => Err(wrong("only nats:// and tls:// are spoken")),
            }
        })
        .collect();
    let servers = servers?;
    if servers.is_empty() {
        return Err(wrong("there is none"));
    }
    Ok(servers)
}

/// The servers of a list without users and passwords.
pub(super) fn shown(servers: &str) -> String {
    let one = |server: &str| {
        let (scheme, rest) = server.trim().split_once("://").unwrap_or(("nats", server));
        let host = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
        format!("{scheme}://{host}")
    };
    servers.split(',').map(one).collect::<Vec<_>>().join(",")
}

/// Everything the client is told, ready to connect once.
pub(super) async fn connect_options(
    options: &NatsOptions,
    state: Arc<LinkState>,
) -> Result<ConnectOptions, NatsError> {
    let mut connect = ConnectOptions::new()
        .name("dynamo")
        .max_reconnects(None)
        .connection_timeout(CONNECT_TIMEOUT)
        .ping_interval(PING_INTERVAL)
        .subscription_capacity(SUBSCRIPTION_CAPACITY)
        .client_capacity(CLIENT_CAPACITY)
        // All subjects are made here.
        .skip_subject_validation(true)
        .reconnect_delay_callback(|attempts| match attempts {
            0 | 1 => Duration::ZERO,
            2..SHORT_PAUSES => RECONNECT_PAUSE,
            _ => LONG_RECONNECT_PAUSE,
        })
        .event_callback(move |event| {
            state.take_event(&event);
            std::future::ready(())
        });
    match (&options.nats_auth_username, &options.nats_auth_password) {
        (Some(user), Some(password)) => {
            connect = connect.user_and_password(user.clone(), password.expose().to_owned());
        }
        (None, None) => {}
        (Some(_), None) => {
            return Err(NatsError::Options(
                "--nats-auth-username is given without a password; set NATS_AUTH_PASSWORD",
            ));
        }
        (None, Some(_)) => {
            return Err(NatsError::Options(
                "--nats-auth-password is given without a user; give --nats-auth-username",
            ));
        }
    }
    if let Some(token) = &options.nats_auth_token {
        connect = connect.token(token.expose().to_owned());
    }
    if let Some(seed) = &options.nats_auth_nkey {
        connect = connect.nkey(seed.expose().to_owned());
    }
    if let Some(path) = &options.nats_auth_credentials_file {
        let read = connect.credentials_file(path).await;
        connect = read.map_err(|error| NatsError::Credentials {
            path: path.clone(),
            reason: error.to_string(),
        })?;
    }
    if let Some(path) = &options.nats_tls_ca {
        connect = connect.add_root_certificates(path.clone());
    }
    Ok(connect)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(servers: &str) -> NatsOptions {
        NatsOptions {
            nats_server: servers.to_owned(),
            ..NatsOptions::default()
        }
    }

    #[test]
    fn a_list_of_servers_is_read() {
        let list = options("nats://a:4222, tls://b:1,");
        assert_eq!(addresses(&list).unwrap().len(), 2);
        let named = addresses(&options("nats-0.nats:4222")).unwrap();
        assert_eq!(named[0].host(), "nats-0.nats");
    }

    #[test]
    fn what_is_no_server_is_refused_with_the_option() {
        for text in ["", " , ", "http://a:1"] {
            let error = addresses(&options(text)).unwrap_err().to_string();
            assert!(error.contains("--nats-server"), "{text}: {error}");
        }
    }

    #[test]
    fn passwords_are_not_shown() {
        let said = shown("nats://me:s3cr3t@a:1,t0k3n@b:2");
        assert_eq!(said, "nats://a:1,nats://b:2");
        let error = addresses(&options("http://me:s3cr3t@a:1")).unwrap_err();
        assert!(!error.to_string().contains("s3cr3t"));
    }
}
