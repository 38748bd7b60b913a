//! The messages of etcd's v3 API that are used here, as its published protocol files number them.
//!
//! Written by hand because they are few and never change: fields that are not read are left out,
//! and protobuf skips what it does not know. `prost` encodes and decodes; there is no compiler of
//! protocol files in the build.

use prost::{Message, Oneof};

/// In the head of each answer.
#[derive(Clone, PartialEq, Message)]
pub struct ResponseHeader {
    /// The store's revision when the request was carried out.
    #[prost(int64, tag = "3")]
    pub revision: i64,
}

/// A key and what it holds.
#[derive(Clone, PartialEq, Message)]
pub struct KeyValue {
    /// The key.
    #[prost(bytes = "bytes", tag = "1")]
    pub key: bytes::Bytes,
    /// What it holds.
    #[prost(bytes = "bytes", tag = "5")]
    pub value: bytes::Bytes,
}

/// Reads keys.
#[derive(Clone, PartialEq, Message)]
pub struct RangeRequest {
    /// The first key.
    #[prost(bytes = "bytes", tag = "1")]
    pub key: bytes::Bytes,
    /// The key after the last; empty for `key` alone.
    #[prost(bytes = "bytes", tag = "2")]
    pub range_end: bytes::Bytes,
    /// Most keys in the answer; 0 for all.
    #[prost(int64, tag = "3")]
    pub limit: i64,
    /// The revision to read at; 0 for the newest.
    #[prost(int64, tag = "4")]
    pub revision: i64,
    /// Only count them.
    #[prost(bool, tag = "9")]
    pub count_only: bool,
}

/// Keys that were read.
#[derive(Clone, PartialEq, Message)]
pub struct RangeResponse {
    /// The head.
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
    /// The keys, in order.
    #[prost(message, repeated, tag = "2")]
    pub kvs: Vec<KeyValue>,
    /// Whether there are more than the limit.
    #[prost(bool, tag = "3")]
    pub more: bool,
}

/// Writes a key.
#[derive(Clone, PartialEq, Message)]
pub struct PutRequest {
    /// The key.
    #[prost(bytes = "bytes", tag = "1")]
    pub key: bytes::Bytes,
    /// What it is to hold.
    #[prost(bytes = "bytes", tag = "2")]
    pub value: bytes::Bytes,
    /// The lease that it goes with.
    #[prost(int64, tag = "3")]
    pub lease: i64,
}

/// One operation of a transaction; only writes are used.
#[derive(Clone, PartialEq, Message)]
pub struct RequestOp {
    /// The operation.
    #[prost(oneof = "request_op::Request", tags = "2")]
    pub request: Option<request_op::Request>,
}

/// What a [`RequestOp`] can be.
pub mod request_op {
    use super::Oneof;

    /// The operation.
    #[derive(Clone, PartialEq, Oneof)]
    pub enum Request {
        /// A write.
        #[prost(message, tag = "2")]
        Put(super::PutRequest),
    }
}

/// What a key has to be for a transaction to take its first way: equal to this.
#[derive(Clone, PartialEq, Message)]
pub struct Compare {
    /// How they are compared; 0 is equality.
    #[prost(int32, tag = "1")]
    pub result: i32,
    /// What of the key is compared: [`Compare::VALUE`] or [`Compare::LEASE`].
    #[prost(int32, tag = "2")]
    pub target: i32,
    /// The key.
    #[prost(bytes = "bytes", tag = "3")]
    pub key: bytes::Bytes,
    /// What it is compared with.
    #[prost(oneof = "compare::With", tags = "7, 8")]
    pub with: Option<compare::With>,
}

impl Compare {
    /// The value is compared.
    pub const VALUE: i32 = 3;
    /// The lease is compared.
    pub const LEASE: i32 = 4;
}

/// What a [`Compare`] compares with.
pub mod compare {
    use super::Oneof;

    /// What the key is compared with.
    #[derive(Clone, PartialEq, Oneof)]
    pub enum With {
        /// A value.
        #[prost(bytes = "bytes", tag = "7")]
        Value(bytes::Bytes),
        /// A lease.
        #[prost(int64, tag = "8")]
        Lease(i64),
    }
}

/// Does one thing or another, by what is there.
#[derive(Clone, PartialEq, Message)]
pub struct TxnRequest {
    /// What all has to be so.
    #[prost(message, repeated, tag = "1")]
    pub compare: Vec<Compare>,
    /// Done if it is.
    #[prost(message, repeated, tag = "2")]
    pub success: Vec<RequestOp>,
    /// Done if it is not.
    #[prost(message, repeated, tag = "3")]
    pub failure: Vec<RequestOp>,
}

/// The end of a transaction.
#[derive(Clone, PartialEq, Message)]
pub struct TxnResponse {
    /// Whether it was so.
    #[prost(bool, tag = "2")]
    pub succeeded: bool,
}

/// Asks for a lease.
#[derive(Clone, PartialEq, Message)]
pub struct LeaseGrantRequest {
    /// For how many seconds.
    #[prost(int64, tag = "1")]
    pub ttl: i64,
    /// Its id.
    #[prost(int64, tag = "2")]
    pub id: i64,
}

/// A lease, or its renewal.
#[derive(Clone, PartialEq, Message)]
pub struct LeaseResponse {
    /// Its id.
    #[prost(int64, tag = "2")]
    pub id: i64,
    /// For how many seconds; 0 in a renewal: there is no such lease.
    #[prost(int64, tag = "3")]
    pub ttl: i64,
}

/// Names a lease, to renew it or to end it.
#[derive(Clone, PartialEq, Message)]
pub struct LeaseRequest {
    /// Its id.
    #[prost(int64, tag = "1")]
    pub id: i64,
}

/// An answer of which nothing is read.
#[derive(Clone, PartialEq, Message)]
pub struct Nothing {}

/// A message to a watch; only its beginning is used.
#[derive(Clone, PartialEq, Message)]
pub struct WatchRequest {
    /// What to watch.
    #[prost(message, optional, tag = "1")]
    pub create: Option<WatchCreateRequest>,
}

/// What to watch.
#[derive(Clone, PartialEq, Message)]
pub struct WatchCreateRequest {
    /// The first key.
    #[prost(bytes = "bytes", tag = "1")]
    pub key: bytes::Bytes,
    /// The key after the last.
    #[prost(bytes = "bytes", tag = "2")]
    pub range_end: bytes::Bytes,
    /// The first revision of interest.
    #[prost(int64, tag = "3")]
    pub start_revision: i64,
    /// Events of one revision may come in several messages, so that none is too large.
    #[prost(bool, tag = "8")]
    pub fragment: bool,
}

/// News of a watch.
#[derive(Clone, PartialEq, Message)]
pub struct WatchResponse {
    /// The watch exists from here on.
    #[prost(bool, tag = "3")]
    pub created: bool,
    /// The watch is over.
    #[prost(bool, tag = "4")]
    pub canceled: bool,
    /// If not 0: what was asked for is compacted away up to here.
    #[prost(int64, tag = "5")]
    pub compact_revision: i64,
    /// Why it is over.
    #[prost(string, tag = "6")]
    pub cancel_reason: String,
    /// What happened.
    #[prost(message, repeated, tag = "11")]
    pub events: Vec<Event>,
}

/// A change of a key.
#[derive(Clone, PartialEq, Message)]
pub struct Event {
    /// 0 for a write, [`Event::DELETE`] for the end of the key.
    #[prost(int32, tag = "1")]
    pub kind: i32,
    /// The key, and what it holds after a write.
    #[prost(message, optional, tag = "2")]
    pub kv: Option<KeyValue>,
}

impl Event {
    /// The key was deleted, or its lease is over.
    pub const DELETE: i32 = 1;
}

/// Who wants to come in.
#[derive(Clone, PartialEq, Message)]
pub struct AuthenticateRequest {
    /// The user.
    #[prost(string, tag = "1")]
    pub name: String,
    /// The password.
    #[prost(string, tag = "2")]
    pub password: String,
}

/// What to show from then on.
#[derive(Clone, PartialEq, Message)]
pub struct AuthenticateResponse {
    /// The token.
    #[prost(string, tag = "2")]
    pub token: String,
}
