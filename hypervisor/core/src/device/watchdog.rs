//! A watchdog that the guest arms: once started, it ends the VM unless the guest starts the countdown afresh in time.
//!
//! The registers are made for the instructions of a watchdog action table, by which `guest-loader` describes them to
//! the guest ("Hardware Watchdog Timers Design Specification", "Watchdog Action Table"). Time is whichever TSC
//! the caller always passes; nothing here runs by itself.

use crate::platform::{
    WATCHDOG_BASE, WATCHDOG_CONTROL_PORT, WATCHDOG_COUNTDOWN_PORT, WATCHDOG_FIRED, WATCHDOG_MAX_MS,
    WATCHDOG_MIN_MS, WATCHDOG_PORTS, WATCHDOG_RELOAD_PORT, WATCHDOG_REMAINING_PORT, WATCHDOG_RUN,
    WATCHDOG_STATUS_PORT,
};

/// What a countdown starts from unless the guest says otherwise.
const DEFAULT_MS: u32 = 60_000;

/// The watchdog of one VM.
#[derive(Clone, Debug)]
pub struct Watchdog {
    tsc_khz: u32,
    countdown_ms: u32,
    /// The TSC at which a running watchdog expires.
    deadline: Option<u64>,
    fired: bool,
    /// The milliseconds left when their lowest byte was last read.
    remaining: [u8; 4],
}

impl Watchdog {
    /// The watchdog after reset, stopped. `fired` says that the VM's last life was ended by its watchdog.
    #[must_use]
    pub fn new(tsc_khz: u32, fired: bool) -> Self {
        Self {
            tsc_khz: tsc_khz.max(1),
            countdown_ms: DEFAULT_MS,
            deadline: None,
            fired,
            remaining: [0; 4],
        }
    }

    /// Whether `port` is one of the watchdog's.
    #[inline]
    #[must_use]
    pub const fn owns(port: u16) -> bool {
        port.wrapping_sub(WATCHDOG_BASE) < WATCHDOG_PORTS
    }

    /// Reads a port at TSC `now`; one without a register reads as zero.
    #[must_use]
    pub fn read(&mut self, port: u16, now: u64) -> u8 {
        match port {
            WATCHDOG_CONTROL_PORT if self.deadline.is_some() => WATCHDOG_RUN,
            WATCHDOG_STATUS_PORT if self.fired => WATCHDOG_FIRED,
            WATCHDOG_REMAINING_PORT => {
                self.remaining = self.remaining_ms(now).to_le_bytes();
                self.remaining[0]
            }
            _ => {
                let byte_of = |bytes: [u8; 4], first: u16| {
                    bytes.get(usize::from(port.wrapping_sub(first))).copied()
                };
                byte_of(self.countdown_ms.to_le_bytes(), WATCHDOG_COUNTDOWN_PORT)
                    .or_else(|| byte_of(self.remaining, WATCHDOG_REMAINING_PORT))
                    .unwrap_or(0)
            }
        }
    }

    /// Writes a port at TSC `now`; one without a writable register ignores it.
    pub fn write(&mut self, port: u16, value: u8, now: u64) {
        match port {
            WATCHDOG_CONTROL_PORT if value & WATCHDOG_RUN != 0 => self.start(now),
            WATCHDOG_CONTROL_PORT => self.deadline = None,
            WATCHDOG_STATUS_PORT if value & WATCHDOG_FIRED != 0 => self.fired = false,
            WATCHDOG_RELOAD_PORT if self.deadline.is_some() => self.start(now),
            _ => {
                // A byte at a time: a new value counts from the next start of the countdown on, when it is whole.
                let mut bytes = self.countdown_ms.to_le_bytes();
                if let Some(byte) =
                    bytes.get_mut(usize::from(port.wrapping_sub(WATCHDOG_COUNTDOWN_PORT)))
                {
                    *byte = value;
                    self.countdown_ms = u32::from_le_bytes(bytes);
                }
            }
        }
    }

    /// Whether the guest let the countdown end: its VM is to be stopped as crashed.
    #[inline]
    #[must_use]
    pub fn expired(&self, now: u64) -> bool {
        self.deadline.is_some_and(|deadline| now >= deadline)
    }

    /// The TSC at which the watchdog expires if the guest stays silent; none while it is stopped.
    #[inline]
    #[must_use]
    pub const fn next_deadline(&self) -> Option<u64> {
        self.deadline
    }

    /// The milliseconds that a countdown starts from.
    #[must_use]
    pub const fn countdown_ms(&self) -> u32 {
        self.countdown_ms
    }

    /// Gives a running countdown `ticks` more, for as long as the VM was paused.
    pub fn postpone(&mut self, ticks: u64) {
        self.deadline = self.deadline.map(|deadline| deadline.saturating_add(ticks));
    }

    fn start(&mut self, now: u64) {
        let ms = self.countdown_ms.clamp(WATCHDOG_MIN_MS, WATCHDOG_MAX_MS);
        let ticks = u64::from(ms) * u64::from(self.tsc_khz);
        self.deadline = Some(now.saturating_add(ticks));
    }

    fn remaining_ms(&self, now: u64) -> u32 {
        let ticks = self
            .deadline
            .map_or(0, |deadline| deadline.saturating_sub(now));
        u32::try_from(ticks.div_ceil(u64::from(self.tsc_khz))).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KHZ: u32 = 2_400_000;
    const MS: u64 = KHZ as u64;

    fn write_wide(watchdog: &mut Watchdog, port: u16, value: u32, now: u64) {
        for (byte, port) in value.to_le_bytes().into_iter().zip(port..) {
            watchdog.write(port, byte, now);
        }
    }

    fn read_wide(watchdog: &mut Watchdog, port: u16, now: u64) -> u32 {
        u32::from_le_bytes([0, 1, 2, 3].map(|index| watchdog.read(port + index, now)))
    }

    fn armed(ms: u32, now: u64) -> Watchdog {
        let mut watchdog = Watchdog::new(KHZ, false);
        write_wide(&mut watchdog, WATCHDOG_COUNTDOWN_PORT, ms, now);
        watchdog.write(WATCHDOG_CONTROL_PORT, WATCHDOG_RUN, now);
        watchdog
    }

    #[test]
    fn it_expires_when_the_countdown_ends_and_not_before() {
        let watchdog = armed(5_000, 70);
        let end = 70 + 5_000 * MS;
        assert_eq!(watchdog.next_deadline(), Some(end));
        assert!(!watchdog.expired(end - 1));
        assert!(watchdog.expired(end));
    }

    #[test]
    fn a_reload_starts_the_countdown_afresh_with_the_new_value() {
        let mut watchdog = armed(5_000, 0);
        write_wide(&mut watchdog, WATCHDOG_COUNTDOWN_PORT, 1_000, 4_000 * MS);
        assert_eq!(watchdog.next_deadline(), Some(5_000 * MS));
        watchdog.write(WATCHDOG_RELOAD_PORT, 0, 4_000 * MS);
        assert_eq!(watchdog.next_deadline(), Some(5_000 * MS));
        watchdog.write(WATCHDOG_RELOAD_PORT, 0xff, 4_500 * MS);
        assert_eq!(watchdog.next_deadline(), Some(5_500 * MS));
    }

    #[test]
    fn a_stopped_one_never_expires_and_a_reload_does_not_start_it() {
        let mut watchdog = armed(5_000, 0);
        assert_eq!(watchdog.read(WATCHDOG_CONTROL_PORT, 0), WATCHDOG_RUN);
        watchdog.write(WATCHDOG_CONTROL_PORT, 0, 0);
        watchdog.write(WATCHDOG_RELOAD_PORT, 1, 0);
        assert_eq!(watchdog.read(WATCHDOG_CONTROL_PORT, 0), 0);
        assert!(!watchdog.expired(u64::MAX) && watchdog.next_deadline().is_none());
    }

    #[test]
    fn time_left_is_read_whole_across_its_bytes() {
        let mut watchdog = armed(0x0100, 0);
        assert_eq!(
            read_wide(&mut watchdog, WATCHDOG_REMAINING_PORT, MS / 2),
            0x100
        );
        assert_eq!(watchdog.read(WATCHDOG_REMAINING_PORT, 0), 0);
        // One millisecond later the low byte would be 0xff: the high byte is still of the same reading.
        assert_eq!(watchdog.read(WATCHDOG_REMAINING_PORT + 1, MS), 1);
        assert_eq!(read_wide(&mut watchdog, WATCHDOG_REMAINING_PORT, MS), 0xff);
        watchdog.write(WATCHDOG_CONTROL_PORT, 0, MS);
        assert_eq!(read_wide(&mut watchdog, WATCHDOG_REMAINING_PORT, MS), 0);
    }

    #[test]
    fn countdowns_out_of_bounds_count_as_the_bound() {
        for (asked, given) in [
            (0, WATCHDOG_MIN_MS),
            (u32::MAX, WATCHDOG_MAX_MS),
            (WATCHDOG_MAX_MS, WATCHDOG_MAX_MS),
        ] {
            let mut watchdog = armed(asked, 1);
            assert_eq!(watchdog.next_deadline(), Some(1 + u64::from(given) * MS));
            assert_eq!(read_wide(&mut watchdog, WATCHDOG_COUNTDOWN_PORT, 1), asked);
        }
    }

    #[test]
    fn status_tells_of_the_last_life_until_acknowledged() {
        let mut watchdog = Watchdog::new(KHZ, true);
        watchdog.write(WATCHDOG_STATUS_PORT, 0, 0);
        assert_eq!(watchdog.read(WATCHDOG_STATUS_PORT, 0), WATCHDOG_FIRED);
        watchdog.write(WATCHDOG_STATUS_PORT, WATCHDOG_FIRED, 0);
        assert_eq!(watchdog.read(WATCHDOG_STATUS_PORT, 0), 0);
        assert_eq!(Watchdog::new(KHZ, false).read(WATCHDOG_STATUS_PORT, 0), 0);
    }

    #[test]
    fn a_pause_postpones_only_what_runs() {
        let mut watchdog = armed(1_000, 0);
        watchdog.postpone(10_000 * MS);
        assert!(!watchdog.expired(11_000 * MS - 1));
        assert!(watchdog.expired(11_000 * MS));
        watchdog.write(WATCHDOG_CONTROL_PORT, 0, 0);
        watchdog.postpone(1);
        assert_eq!(watchdog.next_deadline(), None);
    }

    #[test]
    fn a_million_random_accesses_never_panic() {
        let mut seed = 0x0123_4567_89ab_cdef_u64;
        let mut watchdog = Watchdog::new(u32::MAX, false);
        for _ in 0..1_000_000 {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            let port = WATCHDOG_BASE
                .wrapping_add((seed >> 8) as u16 % 20)
                .wrapping_sub(2);
            if seed & 1 == 0 {
                watchdog.write(port, (seed >> 40) as u8, seed);
            } else {
                let _ = watchdog.read(port, seed);
            }
            assert_eq!(
                watchdog.expired(u64::MAX),
                watchdog.next_deadline().is_some()
            );
        }
    }
}
