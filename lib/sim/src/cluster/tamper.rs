//! Frames that do not arrive as they were written, which TCP does not do, and a broker may.
//!
//! As a fault: a worker's frame is lost, or comes twice. The stream contract notices by the
//! positions, and no client does.
//!
//! Broken on purpose: the same with the positions put right, so that the contract cannot notice;
//! and frontends' cancellations that do not arrive.

use super::Broken;
use super::fault::Host;
use super::world::{Orders, World};
use crate::environment::Tamper;
use bytes::BytesMut;
use dynamo_runtime::request_plane::frame::{Frame, MAX_FRAME_BYTES, decode, put_item};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// Of a stream with broken positions, the frame that something happens to.
const BENT_FRAME: u64 = 4;

/// What happens to a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FrameFault {
    /// It is not sent.
    Lost,
    /// It is sent again at once.
    Doubled,
}

/// What is to happen to a process's next frames that have positions.
#[derive(Debug, Default)]
pub(super) struct FrameFaults(Mutex<Vec<FrameFault>>);

/// What a process writes goes through here.
pub(super) struct Tampering {
    host: Host,
    world: Arc<World>,
    faults: Arc<FrameFaults>,
    /// Items of each stream so far, by connection and stream.
    items: Mutex<BTreeMap<(u64, u32), u64>>,
}

impl FrameFaults {
    /// It happens to the next one.
    pub(super) fn add(&self, fault: FrameFault) {
        self.0.lock().push(fault);
    }
}

impl Tampering {
    pub(super) fn new(host: Host, orders: &Orders, world: &Arc<World>) -> Arc<Self> {
        Arc::new(Self {
            host,
            world: Arc::clone(world),
            faults: Arc::clone(&orders.frames),
            items: Mutex::default(),
        })
    }

    fn is_wanted(&self) -> bool {
        let is_broken = match self.host {
            Host::Worker(_) => {
                matches!(self.world.broken, Broken::LoseFrame | Broken::DoubleFrame)
            }
            Host::Frontend(_) => self.world.broken == Broken::LoseCancel,
        };
        is_broken || !self.faults.0.lock().is_empty()
    }

    /// Writes the frame, or what comes in its place.
    fn put(&self, connection: u64, frame: &Frame<'_>, bytes: &[u8], out: &mut BytesMut) {
        let Frame::Item {
            stream,
            position,
            positions,
            payload,
        } = *frame
        else {
            let is_cancel = matches!(frame, Frame::Cancel { .. });
            if !(is_cancel && self.world.broken == Broken::LoseCancel) {
                out.extend_from_slice(bytes);
            }
            return;
        };
        match self.world.broken {
            Broken::LoseFrame | Broken::DoubleFrame if positions == 1 => {
                let mut items = self.items.lock();
                let number = items.entry((connection, stream)).or_default();
                *number += 1;
                let is_lost = self.world.broken == Broken::LoseFrame;
                let mut put = |position| put_item(out, stream, position, positions, payload);
                match (*number > BENT_FRAME, *number == BENT_FRAME, is_lost) {
                    (_, true, true) => {}
                    (true, _, true) => put(position.saturating_sub(1)),
                    (_, true, false) => {
                        put(position);
                        put(position + 1);
                    }
                    (true, _, false) => put(position + 1),
                    _ => put(position),
                }
                return;
            }
            _ => {}
        }
        // Without a position it says nothing that would be missed.
        let fault = (positions > 0)
            .then(|| self.faults.0.lock().pop())
            .flatten();
        match fault {
            None => out.extend_from_slice(bytes),
            Some(FrameFault::Lost) => self.world.count("frames lost", 1),
            Some(FrameFault::Doubled) => {
                self.world.count("frames doubled", 1);
                out.extend_from_slice(bytes);
                out.extend_from_slice(bytes);
            }
        }
    }
}

impl Tamper for Tampering {
    fn rewrite(&self, connection: u64, bytes: &[u8]) -> Option<Vec<u8>> {
        if !self.is_wanted() {
            return None;
        }
        let (mut out, mut rest) = (BytesMut::with_capacity(bytes.len()), bytes);
        // Connections write whole frames at once.
        while let Ok(Some((frame, length))) = decode(rest, MAX_FRAME_BYTES) {
            let (own, later) = rest.split_at(length);
            self.put(connection, &frame, own, &mut out);
            rest = later;
        }
        out.extend_from_slice(rest);
        Some(out.to_vec())
    }
}

impl fmt::Debug for Tampering {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Tampering").field(&self.host).finish()
    }
}
