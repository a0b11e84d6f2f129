//! What other CPUs do to a vCPU: a letter-box of atomics, the only part of a vCPU that more than one CPU touches.
//!
//! Edge-triggered interrupts lie in [`PostedInterrupts`], which has the processor's own format, so that a processor that
//! processes posted interrupts takes them without an exit (Intel SDM vol. 3C, "Posted-Interrupt Processing").
//! Everything else waits beside it until the vCPU's CPU takes its [`Mail`]. A sender that [`Mailbox::post`] tells so has to
//! notify that CPU. The order that loses nothing: the sender posts, then looks whether the vCPU runs; its CPU says that it
//! runs, then looks into the letter-box; both with sequentially consistent accesses.
//!
//! What the processor takes does not pass [`LocalApic::raise`](crate::apic::LocalApic::raise): a guest that runs with its APIC disabled by
//! software still gets what others post, and a vector that was level-triggered before still exits at its end. Both
//! concern that guest alone.

use super::{Activity, Cpu, Vcpu};
use crate::apic::Trigger;
use crate::bus::Signal;
use crate::insn::Gprs;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// One bit for each vector.
type Vectors = [u64; 4];

/// A posted-interrupt descriptor.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub struct PostedInterrupts {
    requests: [AtomicU64; 4],
    /// Bit 0: outstanding notification.
    control: AtomicU64,
    reserved: [u64; 3],
}

const _: () = assert!(size_of::<PostedInterrupts>() == 64 && align_of::<PostedInterrupts>() == 64);

const OUTSTANDING: u64 = 1;

const NMI: u32 = 1 << 0;
const INIT: u32 = 1 << 1;
const STARTUP: u32 = 1 << 2;
const LEVELS: u32 = 1 << 3;
const STARTUP_VECTOR_SHIFT: u32 = 8;
const STARTUP_BITS: u32 = STARTUP | 0xff << STARTUP_VECTOR_SHIFT;

/// What waits for one vCPU.
#[derive(Debug, Default)]
pub struct Mailbox {
    posted: PostedInterrupts,
    levels: [AtomicU64; 4],
    flags: AtomicU32,
}

/// What was waiting for a vCPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[must_use]
pub struct Mail {
    edges: Vectors,
    levels: Vectors,
    nmi: bool,
    init: bool,
    startup: Option<u8>,
}

impl Mailbox {
    /// The descriptor whose address the VMCS has.
    #[must_use]
    pub const fn posted(&self) -> &PostedInterrupts {
        &self.posted
    }

    /// Leaves `signal`; true where the vCPU's CPU has to be notified, because nobody did since it looked last.
    #[must_use]
    pub fn post(&self, signal: Signal) -> bool {
        match signal {
            Signal::Interrupt {
                vector,
                trigger: Trigger::Edge,
            } => {
                set(&self.posted.requests, vector);
                self.posted.control.fetch_or(OUTSTANDING, Ordering::SeqCst) & OUTSTANDING == 0
            }
            Signal::Interrupt {
                vector,
                trigger: Trigger::Level,
            } => {
                set(&self.levels, vector);
                self.flag(|flags| flags | LEVELS)
            }
            Signal::Nmi => self.flag(|flags| flags | NMI),
            // What was to start the vCPU before is void.
            Signal::Init => self.flag(|flags| flags & !STARTUP_BITS | INIT),
            Signal::Startup(page) => self.flag(|flags| {
                flags & !STARTUP_BITS | STARTUP | u32::from(page) << STARTUP_VECTOR_SHIFT
            }),
        }
    }

    fn flag(&self, change: impl Fn(u32) -> u32) -> bool {
        let update = self
            .flags
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |old| Some(change(old)));
        let (Ok(old) | Err(old)) = update;
        old == 0
    }

    /// Whether anything waits.
    #[inline]
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        self.posted.control.load(Ordering::SeqCst) & OUTSTANDING != 0 || self.needs_software()
    }

    /// Whether anything waits that a processor that processes posted interrupts does not take by itself.
    #[inline]
    #[must_use]
    pub fn needs_software(&self) -> bool {
        self.flags.load(Ordering::SeqCst) != 0
    }

    /// Empties the letter-box.
    pub fn take(&self) -> Mail {
        let flags = self.flags.swap(0, Ordering::SeqCst);
        let levels = if flags & LEVELS != 0 {
            take(&self.levels)
        } else {
            Vectors::default()
        };
        let outstanding = self
            .posted
            .control
            .fetch_and(!OUTSTANDING, Ordering::SeqCst);
        let edges = if outstanding & OUTSTANDING != 0 {
            take(&self.posted.requests)
        } else {
            Vectors::default()
        };
        Mail {
            edges,
            levels,
            nmi: flags & NMI != 0,
            init: flags & INIT != 0,
            startup: (flags & STARTUP != 0).then_some((flags >> STARTUP_VECTOR_SHIFT) as u8),
        }
    }
}

fn set(vectors: &[AtomicU64; 4], vector: u8) {
    if let Some(word) = vectors.get(usize::from(vector >> 6)) {
        word.fetch_or(1 << (vector & 63), Ordering::SeqCst);
    }
}

fn take(vectors: &[AtomicU64; 4]) -> Vectors {
    let mut taken = Vectors::default();
    for (word, source) in taken.iter_mut().zip(vectors) {
        *word = source.swap(0, Ordering::SeqCst);
    }
    taken
}

/// The vectors whose bits are set, lowest first.
fn each(vectors: Vectors) -> impl Iterator<Item = u8> {
    vectors
        .into_iter()
        .zip(0_u8..)
        .flat_map(|(mut word, index)| {
            core::iter::from_fn(move || {
                let bit = word.trailing_zeros() as u8;
                (word != 0).then(|| {
                    word &= word - 1;
                    index << 6 | bit
                })
            })
        })
}

impl Vcpu {
    /// Lets what waited take effect. The vCPU's VMCS is the current one.
    pub fn receive<C: Cpu>(&mut self, cpu: &mut C, gprs: &mut Gprs, mail: Mail) {
        if mail.init {
            self.init(cpu, gprs);
        }
        if let Some(page) = mail.startup {
            self.start_up(cpu, page);
        }
        if self.activity == Activity::WaitForSipi {
            return;
        }
        if mail.edges != Vectors::default() || mail.levels != Vectors::default() {
            // The processor may have worked on the register page since.
            self.apic.resync();
        }
        if mail.edges != Vectors::default() {
            for vector in each(mail.edges) {
                self.apic.raise(vector, Trigger::Edge);
            }
        }
        if mail.levels != Vectors::default() {
            for vector in each(mail.levels) {
                self.apic.raise(vector, Trigger::Level);
            }
        }
        self.nmi_pending |= mail.nmi;
        self.attention = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn edge(vector: u8) -> Signal {
        Signal::Interrupt {
            vector,
            trigger: Trigger::Edge,
        }
    }

    const fn level(vector: u8) -> Signal {
        Signal::Interrupt {
            vector,
            trigger: Trigger::Level,
        }
    }

    #[test]
    fn every_vector_arrives_once_as_it_was_signalled() {
        let mailbox = Mailbox::default();
        for vector in 0..=u8::MAX {
            let signal = if vector % 3 == 0 { level } else { edge };
            let _ = mailbox.post(signal(vector));
        }
        assert!(mailbox.is_waiting() && mailbox.needs_software());
        let mail = mailbox.take();
        let arrived = |wanted| (0..=u8::MAX).filter(move |vector| (vector % 3 == 0) == wanted);
        assert!(each(mail.levels).eq(arrived(true)));
        assert!(each(mail.edges).eq(arrived(false)));
        assert!(!mailbox.is_waiting());
        assert_eq!(mailbox.take(), Mail::default());
    }

    #[test]
    fn only_the_first_of_several_letters_asks_for_a_notification() {
        let mailbox = Mailbox::default();
        assert!(mailbox.post(edge(40)));
        assert!(!mailbox.post(edge(41)));
        assert!(mailbox.post(Signal::Nmi));
        assert!(!mailbox.post(Signal::Init));
        let _ = mailbox.take();
        assert!(mailbox.post(edge(40)));
    }

    #[test]
    fn a_start_up_after_init_stays_and_one_before_it_is_void() {
        let mailbox = Mailbox::default();
        let _ = mailbox.post(Signal::Init);
        let _ = mailbox.post(Signal::Startup(0x9a));
        let mail = mailbox.take();
        assert!(mail.init);
        assert_eq!(mail.startup, Some(0x9a));
        let _ = mailbox.post(Signal::Startup(0x9a));
        let _ = mailbox.post(Signal::Init);
        let mail = mailbox.take();
        assert!(mail.init);
        assert_eq!(mail.startup, None);
    }

    #[test]
    fn the_descriptor_has_the_processors_format() {
        let mailbox = Mailbox::default();
        let _ = mailbox.post(edge(0x93));
        let posted = mailbox.posted();
        assert_eq!(posted.requests[2].load(Ordering::Relaxed), 1 << 0x13);
        assert_eq!(posted.control.load(Ordering::Relaxed) & 1, 1);
        assert_eq!(core::mem::offset_of!(PostedInterrupts, control), 32);
    }
}
