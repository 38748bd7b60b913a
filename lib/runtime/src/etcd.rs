//! A client of etcd's v3 API: the few calls that discovery needs, with TLS, users and several
//! endpoints.
//!
//! # Why an own client
//!
//! The crate `etcd-client` brings tonic, tower's balancer and a compiler of protocol files that its
//! build script runs: a few dozen crates, for nine kinds of call. etcd's JSON gateway would need no
//! protobuf, and yet: it can be switched off, it does not know callers by their certificates, and
//! its streams wrap errors in ways that differ between versions. gRPC itself is small: HTTP/2, which
//! hyper speaks, five bytes before each message, and a status in the trailers (`grpc`). The
//! messages are a page ([`wire`]), encoded by `prost`, which the tests use already. So this adds no
//! crate to the lock file.
//!
//! # What it does not do
//!
//! It does not decide: errors come back with their [`Meaning`], and whoever calls retries. A
//! [`Link`] speaks to one endpoint and dies with its connection; a [`Dialer`] makes the next one to
//! the next endpoint. Two calls are made again by themselves: whatever was refused for its token
//! alone, after authenticating once more.

mod backoff;
mod error;
mod grpc;
mod link;
mod settings;
mod tls;
pub mod wire;

pub use backoff::Attempts;
pub use error::{CallError, Meaning};
pub use grpc::Answers;
pub use link::{Dialer, Link};
pub use settings::{Endpoint, EtcdSettings, SettingsError, User};
pub use tls::{TlsError, TlsFiles};
