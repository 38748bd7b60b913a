//! What is on its way between hosts, to see that messages of different connections overtake each
//! other. Those of one connection do not: it is TCP's.

use parking_lot::Mutex;
use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};

/// The messages of a run.
#[derive(Debug, Default)]
pub struct Traffic(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    written: u64,
    /// Messages of a connection's direction that are not read yet: their number and length.
    on_the_way: BTreeMap<(SocketAddr, SocketAddr), VecDeque<(u64, usize)>>,
    /// The last message that was read of those from one host to another.
    newest: BTreeMap<(IpAddr, IpAddr), u64>,
    overtaken: u64,
}

impl Traffic {
    /// So many bytes were written from one socket to the other, at once.
    pub(crate) fn wrote(&self, from: SocketAddr, to: SocketAddr, length: usize) {
        let state = &mut *self.0.lock();
        state.written += 1;
        let way = state.on_the_way.entry((from, to)).or_default();
        way.push_back((state.written, length));
    }

    /// So many bytes were read of those from one socket to the other.
    pub(crate) fn read(&self, from: SocketAddr, to: SocketAddr, mut length: usize) {
        let state = &mut *self.0.lock();
        let Some(way) = state.on_the_way.get_mut(&(from, to)) else {
            return;
        };
        let newest = state.newest.entry((from.ip(), to.ip())).or_default();
        while length > 0
            && let Some((number, left)) = way.front_mut()
        {
            if *number < *newest {
                state.overtaken += 1;
            }
            *newest = (*newest).max(*number);
            let taken = length.min(*left);
            *left -= taken;
            length -= taken;
            if *left == 0 {
                way.pop_front();
            }
        }
    }

    /// A connection ended.
    pub(crate) fn closed(&self, one: SocketAddr, other: SocketAddr) {
        self.0.lock().on_the_way.remove(&(one, other));
    }

    /// How many messages were written, and how many were read after a later one of another
    /// connection between the same hosts.
    pub fn counts(&self) -> (u64, u64) {
        let state = self.0.lock();
        (state.written, state.overtaken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_overtaken_by_one_of_another_connection() {
        let at = |host, port| SocketAddr::from(([10, 0, 0, host], port));
        let (one, other, peer) = (at(1, 1), at(1, 2), at(2, 7));
        let traffic = Traffic::default();
        traffic.wrote(one, peer, 5);
        traffic.wrote(other, peer, 5);
        traffic.read(other, peer, 5);
        assert_eq!(traffic.counts(), (2, 0));
        traffic.read(one, peer, 5);
        assert_eq!(traffic.counts(), (2, 1));
        traffic.closed(one, peer);
        traffic.read(one, peer, 5);
        assert_eq!(traffic.counts(), (2, 1));
    }
}
