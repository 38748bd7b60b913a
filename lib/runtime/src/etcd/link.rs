//! One connection to one endpoint, and the calls over it. Each call has a bound in time; a stream
//! of news has none, and whoever reads it sees by other calls whether the server lives.

use super::error::{CallError, Meaning};
use super::grpc::{Answers, Channel};
use super::settings::{Endpoint, EtcdSettings, User};
use super::wire::{
    AuthenticateRequest, AuthenticateResponse, Compare, KeyValue, LeaseGrantRequest, LeaseRequest,
    LeaseResponse, Nothing, PutRequest, RangeRequest, RangeResponse, RequestOp, TxnRequest,
    TxnResponse, WatchCreateRequest, WatchRequest, WatchResponse, compare, request_op,
};
use crate::environment::Connection;
use crate::{Environment, Tasks};
use bytes::Bytes;
use hyper::header::HeaderValue;
use parking_lot::Mutex;
use prost::Message;
use rustls::pki_types::ServerName;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// How long a connection may take, with TLS and the user's password: etcd makes the check of a
/// password slow on purpose, and a tenth of a second is usual.
const DIAL_TIMEOUT: Duration = Duration::from_secs(3);

/// Keys in one page of a listing. Records have at most 64 KiB, so a page has 4 MiB; of values that
/// others left below the prefix it may have 96 MiB.
const PAGE_KEYS: i64 = 64;

/// Makes connections, each to the next endpoint.
#[derive(Debug)]
pub struct Dialer {
    settings: Arc<EtcdSettings>,
    environment: Environment,
    tasks: Tasks,
    next: usize,
}

/// A connection to an endpoint.
pub struct Link {
    channel: Channel,
    endpoint: Endpoint,
    user: Option<User>,
    token: Mutex<Option<HeaderValue>>,
}

// === impl Dialer ===

impl Dialer {
    /// Begins at any of the endpoints, so that processes spread over them.
    pub fn new(settings: Arc<EtcdSettings>, environment: Environment, tasks: Tasks) -> Self {
        let endpoints = settings.endpoints.len() as u64;
        let next = environment.random.next_u64() % endpoints.max(1);
        Self {
            settings,
            environment,
            tasks,
            next: next as usize,
        }
    }

    /// Connects to the next endpoint.
    pub async fn dial(&mut self) -> Result<Link, CallError> {
        let endpoints = &self.settings.endpoints;
        let endpoint = endpoints[self.next % endpoints.len()].clone();
        self.next = (self.next + 1) % endpoints.len();
        let dialled = timeout(DIAL_TIMEOUT, Box::pin(self.connect(&endpoint))).await;
        dialled.unwrap_or(Err(CallError::TimedOut(DIAL_TIMEOUT)))
    }

    async fn connect(&self, endpoint: &Endpoint) -> Result<Link, CallError> {
        let stream = self.environment.network.connect(&endpoint.authority).await;
        let stream = stream.map_err(|error| CallError::broken(&error))?;
        let base = endpoint.to_string();
        let channel = if endpoint.tls {
            let stream = self.encrypted(stream, &endpoint.host).await?;
            Channel::open(stream, base, &self.tasks).await?
        } else {
            Channel::open(stream, base, &self.tasks).await?
        };
        let link = Link {
            channel,
            endpoint: endpoint.clone(),
            user: self.settings.user.clone(),
            token: Mutex::default(),
        };
        link.authenticate().await?;
        Ok(link)
    }

    async fn encrypted(
        &self,
        stream: Box<dyn Connection>,
        host: &str,
    ) -> Result<tokio_rustls::client::TlsStream<Box<dyn Connection>>, CallError> {
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| CallError::Broken(format!("{host} is no name for tls")))?;
        let files = self.settings.tls.clone();
        let config = self.environment.compute(move || files.config()).await;
        let config = config.map_err(|error| CallError::broken(&error))??;
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let stream = connector.connect(name, stream).await;
        stream.map_err(|error| CallError::Broken(error.to_string()))
    }
}

// === impl Link ===

impl Link {
    /// Whom it speaks to.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Reads all keys that begin with `prefix`, and the revision at which they were so.
    pub async fn list(
        &self,
        prefix: &[u8],
        limit: Duration,
    ) -> Result<(Vec<KeyValue>, i64), CallError> {
        let range_end = end_of(prefix);
        let mut request = RangeRequest {
            key: Bytes::copy_from_slice(prefix),
            range_end,
            limit: PAGE_KEYS,
            ..RangeRequest::default()
        };
        let mut all = Vec::new();
        loop {
            let page: RangeResponse = self.call("KV/Range", &request, limit).await?;
            if request.revision == 0 {
                request.revision = page.header.map_or(0, |header| header.revision);
            }
            let last = page.kvs.last().map(|last| last.key.clone());
            all.extend(page.kvs);
            match last {
                Some(last) if page.more => {
                    // The least key that is greater.
                    request.key = [&last[..], &[0]].concat().into();
                }
                _ => return Ok((all, request.revision)),
            }
        }
    }

    /// Asks for something small that needs the whole cluster: etcd answers only if it works.
    pub async fn probe(&self, key: &[u8], limit: Duration) -> Result<(), CallError> {
        let request = RangeRequest {
            key: Bytes::copy_from_slice(key),
            count_only: true,
            ..RangeRequest::default()
        };
        let _: RangeResponse = self.call("KV/Range", &request, limit).await?;
        Ok(())
    }

    /// Watches all keys that begin with `prefix`, from a revision on.
    pub async fn watch(
        &self,
        prefix: &[u8],
        from: i64,
        limit: Duration,
    ) -> Result<Watch, CallError> {
        let request = WatchRequest {
            create: Some(WatchCreateRequest {
                key: Bytes::copy_from_slice(prefix),
                range_end: end_of(prefix),
                start_revision: from,
                fragment: true,
            }),
        };
        let token = self.token.lock().clone();
        let path = "/etcdserverpb.Watch/Watch";
        let started = self.channel.stream(path, token.as_ref(), &request);
        let answers = timeout(limit, started).await;
        Ok(Watch {
            answers: answers.unwrap_or(Err(CallError::TimedOut(limit)))?,
        })
    }

    /// Makes a key hold a value under a lease, and changes nothing if it does already: nobody who
    /// watches hears of it then.
    pub async fn ensure(
        &self,
        key: &[u8],
        value: Bytes,
        lease: i64,
        limit: Duration,
    ) -> Result<(), CallError> {
        let key = Bytes::copy_from_slice(key);
        let is = |target, with| Compare {
            target,
            key: key.clone(),
            with: Some(with),
            ..Compare::default()
        };
        let compare = vec![
            is(Compare::VALUE, compare::With::Value(value.clone())),
            is(Compare::LEASE, compare::With::Lease(lease)),
        ];
        let put = PutRequest { key, value, lease };
        let request = TxnRequest {
            compare,
            success: Vec::new(),
            failure: vec![RequestOp {
                request: Some(request_op::Request::Put(put)),
            }],
        };
        let _: TxnResponse = self.call("KV/Txn", &request, limit).await?;
        Ok(())
    }

    /// Takes a lease of this id; gives back for how long.
    pub async fn grant(
        &self,
        id: i64,
        ttl: Duration,
        limit: Duration,
    ) -> Result<Duration, CallError> {
        let seconds = ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0);
        let request = LeaseGrantRequest {
            ttl: i64::try_from(seconds).unwrap_or(i64::MAX),
            id,
        };
        let granted: LeaseResponse = self.call("Lease/LeaseGrant", &request, limit).await?;
        Ok(seconds_of(granted.ttl))
    }

    /// Renews a lease; gives back for how long, or `None` if there is no such lease.
    pub async fn renew(&self, id: i64, limit: Duration) -> Result<Option<Duration>, CallError> {
        // A stream in etcd's API; one question and its answer are one, too.
        let request = LeaseRequest { id };
        let renewed: LeaseResponse = self.call("Lease/LeaseKeepAlive", &request, limit).await?;
        Ok((renewed.ttl > 0).then(|| seconds_of(renewed.ttl)))
    }

    /// Ends a lease, and with it its keys.
    pub async fn revoke(&self, id: i64, limit: Duration) -> Result<(), CallError> {
        let request = LeaseRequest { id };
        let _: Nothing = self.call("Lease/LeaseRevoke", &request, limit).await?;
        Ok(())
    }

    async fn call<T: Message + Default>(
        &self,
        method: &str,
        message: &impl Message,
        limit: Duration,
    ) -> Result<T, CallError> {
        let path = format!("/etcdserverpb.{method}");
        let call = async {
            let token = self.token.lock().clone();
            let answer = self.channel.call(&path, token.as_ref(), message).await;
            match answer {
                Err(error) if error.meaning() == Meaning::TokenInvalid && self.user.is_some() => {
                    self.authenticate().await?;
                    let token = self.token.lock().clone();
                    self.channel.call(&path, token.as_ref(), message).await
                }
                answer => answer,
            }
        };
        let answered = timeout(limit, call).await;
        answered.unwrap_or(Err(CallError::TimedOut(limit)))
    }

    async fn authenticate(&self) -> Result<(), CallError> {
        let Some(user) = &self.user else {
            return Ok(());
        };
        let request = AuthenticateRequest {
            name: user.name.clone(),
            password: user.password.expose().to_owned(),
        };
        let path = "/etcdserverpb.Auth/Authenticate";
        let answer: Result<AuthenticateResponse, _> = self.channel.call(path, None, &request).await;
        let token = match answer {
            Ok(answer) => answer.token,
            // A password too much does no harm.
            Err(error) if error.meaning() == Meaning::NoUserNeeded => return Ok(()),
            Err(error) => return Err(error),
        };
        let mut token = HeaderValue::try_from(token)
            .map_err(|_| CallError::Foreign("a token has characters that no token has"))?;
        token.set_sensitive(true);
        *self.token.lock() = Some(token);
        Ok(())
    }
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link")
            .field("endpoint", &self.endpoint)
            .finish_non_exhaustive()
    }
}

/// News of a range of keys.
#[derive(Debug)]
pub struct Watch {
    answers: Answers<WatchResponse>,
}

// === impl Watch ===

impl Watch {
    /// The next changes. A cancelled call loses nothing.
    pub async fn next(&mut self) -> Result<Vec<super::wire::Event>, CallError> {
        let Some(news) = self.answers.next().await? else {
            return Err(CallError::Broken("etcd ended the watch".to_owned()));
        };
        if news.compact_revision > 0 {
            return Err(CallError::Status {
                code: OUT_OF_RANGE,
                message: "etcdserver: mvcc: required revision has been compacted".to_owned(),
            });
        }
        if news.canceled {
            return Err(CallError::Status {
                code: UNAVAILABLE,
                message: news.cancel_reason,
            });
        }
        Ok(news.events)
    }
}

/// Codes of gRPC for a watch that etcd ends in its own words.
const OUT_OF_RANGE: u32 = 11;
const UNAVAILABLE: u32 = 14;

fn seconds_of(ttl: i64) -> Duration {
    Duration::from_secs(ttl.max(0).unsigned_abs())
}

/// The key after the last one that begins with `prefix`.
fn end_of(prefix: &[u8]) -> Bytes {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end.into();
        }
    }
    // There is no such key: up to the last of all.
    Bytes::from_static(&[0])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_ends_after_its_prefix() {
        assert_eq!(&end_of(b"/a/")[..], b"/a0");
        assert_eq!(&end_of(&[7, 255])[..], &[8]);
        assert_eq!(&end_of(&[255])[..], &[0]);
    }
}
