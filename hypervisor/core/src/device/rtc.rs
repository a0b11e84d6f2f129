//! The real-time clock: an MC146818 that gives wall time and keeps bytes, and never interrupts
//! (MC146818 data sheet, "Time, Calendar, and Alarm Locations" and "Registers").
//!
//! The time is computed from a TSC whenever it is read, so the clock costs nothing in between. A guest that sets it
//! moves its own VM's clock only.

mod calendar;
#[cfg(test)]
mod tests;

pub use self::calendar::DateTime;
use self::calendar::weekday;
use crate::platform::{RTC_CENTURY_REGISTER, RTC_DATA_PORT, RTC_INDEX_PORT};

/// Registers there are: 7 bits choose one, the eighth is a PC's NMI gate.
const REGISTERS: usize = 128;
const INDEX_MASK: u8 = 0x7f;

const STATUS_A: u8 = 0x0a;
const STATUS_B: u8 = 0x0b;
const STATUS_C: u8 = 0x0c;
const STATUS_D: u8 = 0x0d;

/// Status A after reset: the divider runs from 32,768 Hz.
const DIVIDER_RUNS: u8 = 0x26;
/// Status A: an update is about to move the time.
const UPDATE_IN_PROGRESS: u8 = 1 << 7;
/// An update is announced 1/4096 s ahead, the data sheet's 244 microseconds.
const UPDATE_NOTICE_SHIFT: u32 = 12;
/// Status D: time and bytes are valid, the battery is good.
const VALID: u8 = 1 << 7;
/// Hours in 12-hour mode: past noon.
const PM: u8 = 1 << 7;

bitflags::bitflags! {
    /// Status B. Its other bits are kept and enable interrupts that this clock never raises.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    struct StatusB: u8 {
        /// The time stands still while the guest sets it.
        const SET = 1 << 7;
        /// Values are binary; clear means BCD.
        const BINARY = 1 << 2;
        /// Hours run from 0 to 23; clear means 1 to 12 and [`PM`].
        const HOURS_24 = 1 << 1;
        const _ = !0;
    }
}

/// A register that shows time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum TimeRegister {
    Second,
    Minute,
    Hour,
    Weekday,
    Day,
    Month,
    Year,
    Century,
}

impl TimeRegister {
    const fn at(index: u8) -> Option<Self> {
        match index {
            0 => Some(Self::Second),
            2 => Some(Self::Minute),
            4 => Some(Self::Hour),
            6 => Some(Self::Weekday),
            7 => Some(Self::Day),
            8 => Some(Self::Month),
            9 => Some(Self::Year),
            RTC_CENTURY_REGISTER => Some(Self::Century),
            _ => None,
        }
    }
}

/// The time registers' bytes, as the guest reads or wrote them.
#[derive(Clone, Copy, Debug)]
struct TimeBytes {
    second: u8,
    minute: u8,
    hour: u8,
    weekday: u8,
    day: u8,
    month: u8,
    year: u8,
    century: u8,
}

impl TimeBytes {
    const fn byte(&mut self, register: TimeRegister) -> &mut u8 {
        match register {
            TimeRegister::Second => &mut self.second,
            TimeRegister::Minute => &mut self.minute,
            TimeRegister::Hour => &mut self.hour,
            TimeRegister::Weekday => &mut self.weekday,
            TimeRegister::Day => &mut self.day,
            TimeRegister::Month => &mut self.month,
            TimeRegister::Year => &mut self.year,
            TimeRegister::Century => &mut self.century,
        }
    }

    /// How `seconds` since 1970 read in `mode`.
    fn encode(seconds: i64, mode: StatusB) -> Self {
        let time = DateTime::from_unix(seconds);
        Self {
            second: encode(time.second, mode),
            minute: encode(time.minute, mode),
            hour: encode_hour(time.hour, mode),
            weekday: weekday(seconds),
            day: encode(time.day, mode),
            month: encode(time.month, mode),
            year: encode((time.year % 100) as u8, mode),
            century: encode((time.year / 100) as u8, mode),
        }
    }

    /// The seconds since 1970 that the bytes mean in `mode`; none where there is no such time. The day of the week
    /// follows from the date.
    fn decode(&self, mode: StatusB) -> Option<i64> {
        let century = u16::from(decode(self.century, mode)?);
        let year = u16::from(decode(self.year, mode)?);
        let time = DateTime {
            year: century * 100 + year,
            month: decode(self.month, mode)?,
            day: decode(self.day, mode)?,
            hour: decode_hour(self.hour, mode)?,
            minute: decode(self.minute, mode)?,
            second: decode(self.second, mode)?,
        };
        time.to_unix()
    }
}

/// A value below 100 as a register shows it.
const fn encode(value: u8, mode: StatusB) -> u8 {
    if mode.contains(StatusB::BINARY) {
        value
    } else {
        ((value / 10) << 4) | (value % 10)
    }
}

/// What a register's byte means, if below 100.
const fn decode(byte: u8, mode: StatusB) -> Option<u8> {
    let (tens, ones) = (byte >> 4, byte & 0xf);
    if mode.contains(StatusB::BINARY) {
        if byte < 100 { Some(byte) } else { None }
    } else if tens < 10 && ones < 10 {
        Some(tens * 10 + ones)
    } else {
        None
    }
}

const fn encode_hour(hour: u8, mode: StatusB) -> u8 {
    if mode.contains(StatusB::HOURS_24) {
        return encode(hour, mode);
    }
    let shown = encode((hour + 11) % 12 + 1, mode);
    if hour < 12 { shown } else { shown | PM }
}

fn decode_hour(byte: u8, mode: StatusB) -> Option<u8> {
    if mode.contains(StatusB::HOURS_24) {
        return decode(byte, mode);
    }
    let hour = decode(byte & !PM, mode).filter(|hour| (1..=12).contains(hour))? % 12;
    Some(if byte & PM == 0 { hour } else { hour + 12 })
}

/// The clock of one VM.
#[derive(Clone, Debug)]
pub struct Rtc {
    tsc_hz: u64,
    /// Seconds since 1970 at `since`.
    base: i64,
    /// The TSC at which the clock showed `base`.
    since: u64,
    index: u8,
    /// Status A as the guest wrote it; the clock runs in any case.
    divider: u8,
    mode: StatusB,
    /// The time while the guest holds it still to set it.
    held: Option<Held>,
    bytes: [u8; REGISTERS],
}

#[derive(Clone, Copy, Debug)]
struct Held {
    time: TimeBytes,
    changed: bool,
}

impl Rtc {
    /// A clock that shows `unix_seconds` at TSC `now`. The TSC is whichever the caller always passes.
    #[must_use]
    pub fn new(unix_seconds: u64, now: u64, tsc_khz: u32) -> Self {
        Self {
            tsc_hz: u64::from(tsc_khz.max(1)) * 1000,
            base: i64::try_from(unix_seconds).unwrap_or(i64::MAX),
            since: now,
            index: 0,
            divider: DIVIDER_RUNS,
            mode: StatusB::HOURS_24,
            held: None,
            bytes: [0; REGISTERS],
        }
    }

    /// Whether `port` is one of the clock's.
    #[inline]
    #[must_use]
    pub const fn owns(port: u16) -> bool {
        matches!(port, RTC_INDEX_PORT | RTC_DATA_PORT)
    }

    /// Reads a port at TSC `now`. The index is write-only, as on a PC.
    #[must_use]
    pub fn read(&self, port: u16, now: u64) -> u8 {
        if port != RTC_DATA_PORT {
            return 0xff;
        }
        if let Some(register) = TimeRegister::at(self.index) {
            return *self.shown(now).byte(register);
        }
        match self.index {
            STATUS_A if self.update_is_near(now) => self.divider | UPDATE_IN_PROGRESS,
            STATUS_A => self.divider,
            STATUS_B => self.mode.bits(),
            // No interrupt was ever raised.
            STATUS_C => 0,
            STATUS_D => VALID,
            index => self.bytes.get(usize::from(index)).copied().unwrap_or(0),
        }
    }

    /// Writes a port at TSC `now`.
    pub fn write(&mut self, port: u16, value: u8, now: u64) {
        match port {
            RTC_INDEX_PORT => self.index = value & INDEX_MASK,
            RTC_DATA_PORT => self.write_register(value, now),
            _ => {}
        }
    }

    fn write_register(&mut self, value: u8, now: u64) {
        if let Some(register) = TimeRegister::at(self.index) {
            return self.write_time(register, value, now);
        }
        match self.index {
            STATUS_A => self.divider = value & !UPDATE_IN_PROGRESS,
            STATUS_B => self.write_mode(StatusB::from_bits_retain(value), now),
            // Both are read-only.
            STATUS_C | STATUS_D => {}
            index => {
                if let Some(byte) = self.bytes.get_mut(usize::from(index)) {
                    *byte = value;
                }
            }
        }
    }

    /// Sets a part of the time: at once, or when the guest lets the clock go on. A time that does not exist leaves the
    /// clock as it is.
    fn write_time(&mut self, register: TimeRegister, value: u8, now: u64) {
        if let Some(held) = &mut self.held {
            *held.time.byte(register) = value;
            held.changed = true;
        } else {
            let mut time = self.shown(now);
            *time.byte(register) = value;
            self.set(time, now);
        }
    }

    fn write_mode(&mut self, mode: StatusB, now: u64) {
        self.mode = mode;
        if mode.contains(StatusB::SET) {
            if self.held.is_none() {
                self.held = Some(Held {
                    time: self.shown(now),
                    changed: false,
                });
            }
        } else if let Some(held) = self.held.take()
            && held.changed
        {
            self.set(held.time, now);
        }
    }

    fn set(&mut self, time: TimeBytes, now: u64) {
        // The time that it is already keeps its fraction of a second.
        if let Some(seconds) = time.decode(self.mode)
            && seconds != self.seconds(now)
        {
            self.base = seconds;
            self.since = now;
        }
    }

    /// The time registers at TSC `now`.
    fn shown(&self, now: u64) -> TimeBytes {
        match self.held {
            Some(held) => held.time,
            None => TimeBytes::encode(self.seconds(now), self.mode),
        }
    }

    fn seconds(&self, now: u64) -> i64 {
        let elapsed = now.saturating_sub(self.since) / self.tsc_hz;
        self.base.saturating_add_unsigned(elapsed)
    }

    fn update_is_near(&self, now: u64) -> bool {
        let into_second = now.saturating_sub(self.since) % self.tsc_hz;
        self.held.is_none() && into_second >= self.tsc_hz - (self.tsc_hz >> UPDATE_NOTICE_SHIFT)
    }
}
