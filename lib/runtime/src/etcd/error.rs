//! What can go wrong in a call, and what it means for what to do next.

use std::time::Duration;

/// Why a call brought nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// The server answered with an error.
    #[error("{message} (grpc code {code})")]
    Status {
        /// The code, as gRPC numbers them.
        code: u32,
        /// What the server said.
        message: String,
    },
    /// No connection, or it broke.
    #[error("{0}")]
    Broken(String),
    /// No answer came in time.
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    /// Whoever answered is no etcd.
    #[error("the answer is not one of etcd: {0}")]
    Foreign(&'static str),
    /// A certificate or key cannot be used.
    #[error(transparent)]
    Tls(#[from] super::TlsError),
}

/// What an error means for the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meaning {
    /// Etcd is out of reach or cannot do it now: try again, elsewhere.
    Unavailable,
    /// Etcd will not do it until somebody changes something: who asks, or what is asked.
    Refused,
    /// There is no such lease, or no more.
    LeaseMissing,
    /// There is a lease of that id already.
    LeaseTaken,
    /// The revision that was asked for is compacted away.
    Compacted,
    /// The token is not valid, or no more: authenticate again.
    TokenInvalid,
    /// No user is needed here.
    NoUserNeeded,
}

const TLS_HINT: &str = "check --etcd-ca, --etcd-client-cert and --etcd-client-key \
    (ETCD_AUTH_CA, ETCD_AUTH_CLIENT_CERT, ETCD_AUTH_CLIENT_KEY)";

/// Codes of gRPC that decide by themselves.
const PERMISSION_DENIED: u32 = 7;

/// What etcd's errors begin with that stand for something. Codes alone do not: one code stands for
/// several of them. The texts are part of etcd's public interface, which its own clients compare too.
const MEANINGS: [(&str, Meaning); 11] = [
    (
        "etcdserver: requested lease not found",
        Meaning::LeaseMissing,
    ),
    ("etcdserver: lease already exists", Meaning::LeaseTaken),
    (
        "etcdserver: mvcc: required revision has been compacted",
        Meaning::Compacted,
    ),
    // The store was made anew and has not come so far.
    (
        "etcdserver: mvcc: required revision is a future revision",
        Meaning::Compacted,
    ),
    ("etcdserver: invalid auth token", Meaning::TokenInvalid),
    (
        "etcdserver: revision of auth store is old",
        Meaning::TokenInvalid,
    ),
    (
        "etcdserver: authentication is not enabled",
        Meaning::NoUserNeeded,
    ),
    ("etcdserver: authentication failed", Meaning::Refused),
    ("etcdserver: user name is empty", Meaning::Refused),
    ("etcdserver: request is too large", Meaning::Refused),
    ("grpc: received message larger than max", Meaning::Refused),
];

// === impl CallError ===

impl CallError {
    /// An error of the connection, with what is at the bottom of it: what is above says only that
    /// there is one.
    pub(super) fn broken(error: &(dyn std::error::Error + 'static)) -> Self {
        let mut deepest = error;
        while let Some(source) = deepest.source() {
            deepest = source;
        }
        Self::Broken(deepest.to_string())
    }

    /// What it means.
    pub fn meaning(&self) -> Meaning {
        let Self::Status { code, message } = self else {
            return Meaning::Unavailable;
        };
        let known = MEANINGS.iter().find(|(text, _)| message.starts_with(text));
        match known {
            Some((_, meaning)) => *meaning,
            None if *code == PERMISSION_DENIED => Meaning::Refused,
            None => Meaning::Unavailable,
        }
    }

    /// What may mend it, for people; `is_tls`: there are endpoints that speak TLS.
    pub(super) fn hint(&self, is_tls: bool) -> &'static str {
        match self {
            Self::Tls(_) => TLS_HINT,
            Self::Status { message, .. }
                if message.contains("larger") || message.contains("large") =>
            {
                "raise etcd's --max-request-bytes, or announce less"
            }
            _ if self.meaning() == Meaning::Refused => {
                "check --etcd-username and --etcd-password (ETCD_AUTH_USERNAME, ETCD_AUTH_PASSWORD), \
                 and that the user may read and write keys below /dynamo/v1/"
            }
            Self::Broken(text) if text.contains("certificate") => TLS_HINT,
            // A server that misses a certificate says so, and closes before it is heard.
            Self::Broken(text) if is_tls && !text.contains("refused") => TLS_HINT,
            _ => "check --etcd-endpoints (ETCD_ENDPOINTS), and that etcd runs there",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(code: u32, message: &str) -> CallError {
        CallError::Status {
            code,
            message: message.to_owned(),
        }
    }

    #[test]
    fn errors_mean_what_etcd_says() {
        let cases = [
            (
                5,
                "etcdserver: requested lease not found",
                Meaning::LeaseMissing,
            ),
            (9, "etcdserver: lease already exists", Meaning::LeaseTaken),
            (16, "etcdserver: invalid auth token", Meaning::TokenInvalid),
            (7, "etcdserver: permission denied", Meaning::Refused),
            (14, "etcdserver: no leader", Meaning::Unavailable),
            (
                8,
                "etcdserver: mvcc: database space exceeded",
                Meaning::Unavailable,
            ),
        ];
        for (code, text, meaning) in cases {
            assert_eq!(status(code, text).meaning(), meaning, "{text}");
        }
        let broken = CallError::Broken("connection refused".to_owned());
        assert_eq!(broken.meaning(), Meaning::Unavailable);
    }

    #[test]
    fn hints_name_what_to_change() {
        let wrong = status(
            3,
            "etcdserver: authentication failed, invalid user ID or password",
        );
        assert!(wrong.hint(false).contains("--etcd-password"));
        assert!(
            status(3, "etcdserver: request is too large")
                .hint(false)
                .contains("--max-request-bytes")
        );
        let gone = CallError::TimedOut(Duration::from_secs(1));
        assert!(gone.hint(false).contains("--etcd-endpoints"));
        let closed = CallError::Broken("broken pipe".to_owned());
        assert!(closed.hint(false).contains("--etcd-endpoints"));
        assert!(closed.hint(true).contains("--etcd-client-cert"));
    }
}
