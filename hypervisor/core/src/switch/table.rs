//! Which port of a segment a station was last seen behind.
//!
//! Each port has a quota of entries and the table has room for all quotas together: a port that is full replaces its
//! own oldest entry, and nobody can displace another's. The table is sorted, because a hash would let guests choose
//! addresses that collide.

use alloc::vec::Vec;

use super::mac::Mac;
use super::port::PortId;

/// How many addresses may be learned behind one port.
pub const QUOTA: usize = 32;
/// After so long without a frame an entry no longer counts (IEEE 802.1Q, "Ageing Time" recommends 300 seconds).
const MAX_AGE_SECONDS: u64 = 300;
/// A station that was heard within this time does not move to another port: no port can take over the addresses that
/// live behind another.
const SETTLED_SECONDS: u64 = 1;

/// A learned address.
#[derive(Clone, Copy, Debug)]
struct Entry {
    mac: Mac,
    port: PortId,
    /// The TSC of the last frame from there.
    seen: u64,
}

/// The learned addresses of one segment, sorted by address.
#[derive(Debug)]
pub(super) struct MacTable {
    entries: Vec<Entry>,
    /// The most entries; the vector was made with room for them.
    limit: usize,
    /// Ticks in a second.
    tsc_hz: u64,
}

impl MacTable {
    /// A table for a segment in which `learning_ports` ports may use addresses that are not theirs.
    pub(super) fn new(learning_ports: usize, tsc_hz: u64) -> Self {
        let limit = learning_ports.saturating_mul(QUOTA);
        Self {
            entries: Vec::with_capacity(limit),
            limit,
            tsc_hz,
        }
    }

    /// The port behind which `mac` was seen, unless that is too long ago.
    pub(super) fn find(&self, mac: Mac, now_tsc: u64) -> Option<PortId> {
        let at = self.position(mac).ok()?;
        let entry = self.entries.get(at)?;
        (!self.silent_for(MAX_AGE_SECONDS, entry, now_tsc)).then_some(entry.port)
    }

    /// Notes that `mac` was seen behind `port`. A station that was heard behind another port just now stays there.
    pub(super) fn learn(&mut self, mac: Mac, port: PortId, now_tsc: u64) {
        let new = Entry {
            mac,
            port,
            seen: now_tsc,
        };
        if let Ok(at) = self.position(mac)
            && let Some(&old) = self.entries.get(at)
        {
            if old.port != port && !self.silent_for(SETTLED_SECONDS, &old, now_tsc) {
                return;
            }
            // It counts against the quota of the port it is behind now.
            self.entries.remove(at);
        }
        self.make_room(port);
        if self.entries.len() < self.limit
            && let Err(at) = self.position(mac)
        {
            self.entries.insert(at, new);
        }
    }

    /// Forgets what was seen behind `port`.
    pub(super) fn forget(&mut self, port: PortId) {
        self.entries.retain(|entry| entry.port != port);
    }

    /// Drops the oldest entry of a port whose quota is used up.
    fn make_room(&mut self, port: PortId) {
        let own = self
            .entries
            .iter()
            .enumerate()
            .filter(|(_, entry)| entry.port == port);
        if own.clone().count() < QUOTA {
            return;
        }
        if let Some((oldest, _)) = own.min_by_key(|(_, entry)| entry.seen) {
            self.entries.remove(oldest);
        }
    }

    fn silent_for(&self, seconds: u64, entry: &Entry, now_tsc: u64) -> bool {
        now_tsc.saturating_sub(entry.seen) > self.tsc_hz.saturating_mul(seconds)
    }

    fn position(&self, mac: Mac) -> Result<usize, usize> {
        self.entries.binary_search_by_key(&mac, |entry| entry.mac)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: PortId = PortId(0);
    const B: PortId = PortId(1);

    fn mac(number: u32) -> Mac {
        let [a, b, c, d] = number.to_be_bytes();
        Mac([2, 0, a, b, c, d])
    }

    #[test]
    fn full_port_replaces_its_own_oldest_entry_only() {
        let mut table = MacTable::new(2, 1_000_000);
        table.learn(mac(u32::MAX), B, 0);
        for number in 0..10_000 {
            table.learn(mac(number), A, 1 + u64::from(number));
        }
        assert_eq!(table.find(mac(u32::MAX), 0), Some(B));
        assert_eq!(table.entries.len(), QUOTA + 1);
        for number in 10_000 - QUOTA as u32..10_000 {
            assert_eq!(table.find(mac(number), 10_000), Some(A));
        }
    }

    #[test]
    fn entries_age_and_are_refreshed() {
        let mut table = MacTable::new(1, 10);
        table.learn(mac(1), A, 1000);
        assert_eq!(table.find(mac(1), 4000), Some(A));
        assert_eq!(table.find(mac(1), 4001), None);
        table.learn(mac(1), A, 4500);
        assert_eq!(table.find(mac(1), 7500), Some(A));
    }

    #[test]
    fn station_moves_only_when_it_fell_silent() {
        let mut table = MacTable::new(2, 10);
        table.learn(mac(1), A, 0);
        table.learn(mac(1), B, 10);
        assert_eq!(table.find(mac(1), 10), Some(A));
        table.learn(mac(1), B, 11);
        assert_eq!(table.find(mac(1), 11), Some(B));
    }

    #[test]
    fn port_takes_its_addresses_along() {
        let mut table = MacTable::new(2, 10);
        table.learn(mac(1), A, 0);
        table.learn(mac(2), B, 0);
        table.forget(A);
        assert_eq!(table.find(mac(1), 0), None);
        assert_eq!(table.find(mac(2), 0), Some(B));
    }

    #[test]
    fn table_never_outgrows_its_first_allocation() {
        let mut table = MacTable::new(3, 1);
        let room = table.entries.capacity();
        for number in 0..100_000_u32 {
            let port = PortId((number % 3) as u16);
            table.learn(
                mac(number.wrapping_mul(0x9e37_79b9) >> 24),
                port,
                u64::from(number),
            );
            assert!(table.entries.len() <= 3 * QUOTA);
            for port in 0..3 {
                let own = table.entries.iter().filter(|e| e.port == PortId(port));
                assert!(own.count() <= QUOTA);
            }
        }
        assert_eq!(table.entries.capacity(), room);
    }
}
