//! W3C trace context: which trace a request belongs to, and whose child it is.
//!
//! Pure: what arrives is parsed and judged, what leaves is formatted, and random bits are
//! arguments. As <https://www.w3.org/TR/trace-context/> asks, a malformed `traceparent` is as
//! good as none (a new trace starts), a malformed `tracestate` is dropped alone, and a later
//! version is read as far as this one understands it and passed on as version 00.

use dynamo_protocols::engine::RequestContext;
use std::fmt;
use std::num::{NonZeroU64, NonZeroU128};

/// Length of a version 00 `traceparent`.
const TRACEPARENT_LENGTH: usize = 55;

/// List members that a `tracestate` may have; the specification's number.
const TRACESTATE_MEMBERS: usize = 32;

/// Bytes of `tracestate` that are passed on. The specification asks for at least 512; more from
/// a stranger is not worth carrying to every worker.
const TRACESTATE_BYTES: usize = 512;

/// Bytes of the key, or of the value, of a `tracestate` member; the specification's number.
const MEMBER_BYTES: usize = 256;

/// The `sampled` flag.
const SAMPLED: u8 = 0x01;

/// The flag that says that the trace id's lower 56 bits are random.
const RANDOM: u8 = 0x02;

/// Bits of a trace id that are random in every trace that says so.
const RANDOM_ID_BITS: u32 = 56;

/// Random bits for a new trace and its first span.
pub type RandomBits = [u64; 3];

/// What all spans of a request share. Shown as 32 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TraceId(NonZeroU128);

/// One span. Shown as 16 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpanId(NonZeroU64);

/// The share of new traces that are recorded. A trace that others began is recorded when they
/// record it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampler {
    /// Trace ids whose random bits are below this are recorded.
    threshold: u64,
}

/// A caller's `traceparent`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Traceparent {
    /// The trace.
    pub trace_id: TraceId,
    /// The caller's span.
    pub span_id: SpanId,
    flags: u8,
}

/// A span's place in its trace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceContext {
    trace_id: TraceId,
    span_id: SpanId,
    parent_id: Option<SpanId>,
    flags: u8,
    tracestate: String,
}

// === impl TraceId ===

impl TraceId {
    /// The id of these bits; all zeros is not an id and becomes 1.
    pub fn from_bits(bits: u128) -> Self {
        Self(NonZeroU128::new(bits).unwrap_or(NonZeroU128::MIN))
    }

    /// As it is written in binary protocols.
    pub fn to_bytes(self) -> [u8; 16] {
        self.0.get().to_be_bytes()
    }

    /// Reads exactly 32 lowercase hexadecimal digits that are not all zero.
    pub fn parse(text: &str) -> Option<Self> {
        let digits = lowercase_hex(text, 32)?;
        NonZeroU128::new(u128::from_str_radix(digits, 16).ok()?).map(Self)
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

// === impl SpanId ===

impl SpanId {
    /// The id of these bits; all zeros is not an id and becomes 1.
    pub fn from_bits(bits: u64) -> Self {
        Self(NonZeroU64::new(bits).unwrap_or(NonZeroU64::MIN))
    }

    /// As it is written in binary protocols.
    pub fn to_bytes(self) -> [u8; 8] {
        self.0.get().to_be_bytes()
    }

    /// Reads exactly 16 lowercase hexadecimal digits that are not all zero.
    pub fn parse(text: &str) -> Option<Self> {
        let digits = lowercase_hex(text, 16)?;
        NonZeroU64::new(u64::from_str_radix(digits, 16).ok()?).map(Self)
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

// === impl Sampler ===

impl Sampler {
    /// Records no trace that begins here.
    pub const NEVER: Self = Self { threshold: 0 };

    /// Records this share of the traces that begin here; what is outside 0 to 1 is brought
    /// inside, and what is not a number is 0.
    pub fn ratio(ratio: f64) -> Self {
        let all = (1_u64 << RANDOM_ID_BITS) as f64;
        // Saturating by the language's own rules: NaN and negative numbers give 0.
        let threshold = (ratio * all) as u64;
        Self {
            threshold: threshold.min(1 << RANDOM_ID_BITS),
        }
    }

    /// Decided by the id alone, so that every process that decides comes to the same result.
    fn samples(self, trace_id: TraceId) -> bool {
        let random = trace_id.0.get() & ((1 << RANDOM_ID_BITS) - 1);
        random < u128::from(self.threshold)
    }
}

// === impl Traceparent ===

impl Traceparent {
    /// Reads the value of the header; nothing if it is malformed.
    pub fn parse(text: &str) -> Option<Self> {
        let version = lowercase_hex(text.get(..2)?, 2)?;
        let right_length = match version {
            "ff" => false,
            "00" => text.len() == TRACEPARENT_LENGTH,
            _ => {
                text.len() == TRACEPARENT_LENGTH
                    || text.as_bytes().get(TRACEPARENT_LENGTH) == Some(&b'-')
            }
        };
        if !right_length {
            return None;
        }
        let mut parts = text.get(3..TRACEPARENT_LENGTH)?.split('-');
        let (trace_id, span_id, flags) = (parts.next()?, parts.next()?, parts.next()?);
        if text.as_bytes().get(2) != Some(&b'-') || parts.next().is_some() {
            return None;
        }
        let flags = u8::from_str_radix(lowercase_hex(flags, 2)?, 16).ok()?;
        // Of a later version only `sampled` is known to mean the same.
        let known = if version == "00" {
            SAMPLED | RANDOM
        } else {
            SAMPLED
        };
        Some(Self {
            trace_id: TraceId::parse(trace_id)?,
            span_id: SpanId::parse(span_id)?,
            flags: flags & known,
        })
    }
}

impl Traceparent {
    /// Whether the trace is recorded.
    pub fn sampled(&self) -> bool {
        self.flags & SAMPLED != 0
    }
}

// === impl TraceContext ===

impl TraceContext {
    /// The first span of a new trace.
    pub fn root(bits: RandomBits, sampler: Sampler) -> Self {
        let [high, low, span] = bits;
        let trace_id = TraceId::from_bits(u128::from(high) << 64 | u128::from(low));
        let sampled = if sampler.samples(trace_id) {
            SAMPLED
        } else {
            0
        };
        Self {
            trace_id,
            span_id: SpanId::from_bits(span),
            parent_id: None,
            flags: RANDOM | sampled,
            tracestate: String::new(),
        }
    }

    /// A span for a request that came from outside, with every value of its `traceparent` and
    /// `tracestate` headers in order: a child of the caller's span, or the first of a new trace
    /// where the caller sent none, more than one or a malformed one.
    pub fn incoming(
        traceparent: &[&str],
        tracestate: &[&str],
        bits: RandomBits,
        sampler: Sampler,
    ) -> Self {
        let [only] = traceparent else {
            return Self::root(bits, sampler);
        };
        let Some(parent) = Traceparent::parse(only) else {
            return Self::root(bits, sampler);
        };
        Self {
            trace_id: parent.trace_id,
            span_id: SpanId::from_bits(bits[2]),
            parent_id: Some(parent.span_id),
            flags: parent.flags,
            tracestate: accepted_tracestate(tracestate),
        }
    }

    /// A span for a request that another process of this system sent.
    pub fn received(request: &RequestContext, bits: RandomBits, sampler: Sampler) -> Self {
        let traceparent = request.traceparent.as_deref();
        let tracestate = request.tracestate.as_deref();
        Self::incoming(traceparent.as_slice(), tracestate.as_slice(), bits, sampler)
    }

    /// Makes whoever receives the request a child of this span.
    pub fn stamp(&self, request: &mut RequestContext) {
        request.traceparent = Some(self.traceparent().into());
        request.tracestate = self.tracestate().map(Into::into);
    }

    /// A child of this span.
    #[must_use]
    pub fn child(&self, bits: u64) -> Self {
        Self {
            span_id: SpanId::from_bits(bits),
            parent_id: Some(self.span_id),
            ..self.clone()
        }
    }

    /// The trace.
    pub fn trace_id(&self) -> TraceId {
        self.trace_id
    }

    /// This span.
    pub fn span_id(&self) -> SpanId {
        self.span_id
    }

    /// The span that this one is a child of.
    pub fn parent_id(&self) -> Option<SpanId> {
        self.parent_id
    }

    /// Whether the trace is recorded.
    pub fn sampled(&self) -> bool {
        self.flags & SAMPLED != 0
    }

    /// The header that makes what is called a child of this span.
    pub fn traceparent(&self) -> String {
        format!("00-{}-{}-{:02x}", self.trace_id, self.span_id, self.flags)
    }

    /// The header that goes with [`Self::traceparent`], if there is anything in it.
    pub fn tracestate(&self) -> Option<&str> {
        (!self.tracestate.is_empty()).then_some(self.tracestate.as_str())
    }
}

/// The text itself if it is exactly so many lowercase hexadecimal digits.
fn lowercase_hex(text: &str, digits: usize) -> Option<&str> {
    let valid = text.len() == digits
        && text
            .bytes()
            .all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
    valid.then_some(text)
}

/// The list to pass on: all of it, the first members that fit, or nothing if it is malformed.
fn accepted_tracestate(values: &[&str]) -> String {
    let members: Vec<&str> = values
        .iter()
        .flat_map(|value| value.split(','))
        .map(|member| member.trim_matches([' ', '\t']))
        .filter(|member| !member.is_empty())
        // One more than allowed is enough to see that there are too many.
        .take(TRACESTATE_MEMBERS + 1)
        .collect();
    if members.len() > TRACESTATE_MEMBERS {
        return String::new();
    }
    let mut keys: Vec<&str> = Vec::with_capacity(members.len());
    for member in &members {
        match member.split_once('=') {
            Some((key, value)) if is_key(key) && is_value(value) && !keys.contains(&key) => {
                keys.push(key);
            }
            _ => return String::new(),
        }
    }
    let mut list = String::new();
    for member in members {
        if list.len() + usize::from(!list.is_empty()) + member.len() > TRACESTATE_BYTES {
            break;
        }
        if !list.is_empty() {
            list.push(',');
        }
        list.push_str(member);
    }
    list
}

fn is_key(key: &str) -> bool {
    let first = key
        .bytes()
        .next()
        .is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    let rest = key
        .bytes()
        .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-*/@".contains(&byte));
    first && rest && key.len() <= MEMBER_BYTES
}

fn is_value(value: &str) -> bool {
    let printable = value
        .bytes()
        .all(|byte| (b' '..=b'~').contains(&byte) && byte != b',' && byte != b'=');
    printable && !value.is_empty() && !value.ends_with(' ') && value.len() <= MEMBER_BYTES
}

#[cfg(test)]
mod tests;
