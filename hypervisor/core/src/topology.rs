//! Which threads share a core, from a CPU's x2APIC id and what its CPUID says about ids
//! (Intel SDM vol. 3A, "Hierarchical Mapping of Shared Resources").
//!
//! [`IdLayout`] says which bits of an id number the thread, the core and the package; [`Location`] is an id taken apart.
//! Whatever CPUID answers, taking apart is total; an answer that makes no sense makes cores larger, never smaller, so
//! that an error costs CPUs and not isolation.

use crate::cpuid::CpuidResult;

const MAX_LEAF: u32 = 0;
const FEATURES: u32 = 1;
const CACHES: u32 = 4;
/// "Extended Topology Enumeration", and its successor with more levels.
const TOPOLOGY: u32 = 0xb;
const TOPOLOGY_V2: u32 = 0x1f;

/// Levels looked at; the manual defines six kinds.
const MAX_LEVELS: u32 = 8;

/// Which bits of an x2APIC id mean what.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IdLayout {
    /// Bits below this one number the threads of a core.
    core_shift: u32,
    /// Bits from this one on number the package; at least `core_shift`.
    package_shift: u32,
}

/// Where a CPU is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Location {
    /// The package's number.
    pub package: u32,
    /// The core's number in the package.
    pub core: u32,
    /// The thread's number in the core.
    pub thread: u32,
}

impl Location {
    /// Whether both are threads of one core.
    #[must_use]
    pub const fn same_core(self, other: Self) -> bool {
        self.package == other.package && self.core == other.core
    }
}

impl IdLayout {
    /// Reads the layout through the CPUID of the CPU it is executed on.
    pub fn read(host: &mut dyn FnMut(u32, u32) -> CpuidResult) -> Self {
        let max = host(MAX_LEAF, 0).eax;
        [TOPOLOGY_V2, TOPOLOGY]
            .into_iter()
            .filter(|leaf| *leaf <= max)
            .find_map(|leaf| Self::from_levels(leaf, host))
            .unwrap_or_else(|| Self::from_counts(max, host))
    }

    /// The layout that separates no more than either: for machines whose CPUs answer differently.
    #[must_use]
    pub fn coarser(self, other: Self) -> Self {
        Self {
            core_shift: self.core_shift.max(other.core_shift),
            package_shift: self.package_shift.max(other.package_shift),
        }
    }

    /// Takes an id apart.
    #[must_use]
    pub fn locate(self, x2apic_id: u32) -> Location {
        // Shifts of up to 32 bits are wanted, which 64 bits have room for.
        let id = x2apic_id as u64;
        let below = |bits: u32| (1_u64 << (bits & 0x3f)) - 1;
        Location {
            package: (id >> (self.package_shift & 0x3f)) as u32,
            core: ((id & below(self.package_shift)) >> (self.core_shift & 0x3f)) as u32,
            thread: (id & below(self.core_shift)) as u32,
        }
    }

    /// By the levels of leaf 0x1f or 0xb; `None` where the leaf says nothing.
    fn from_levels(leaf: u32, host: &mut dyn FnMut(u32, u32) -> CpuidResult) -> Option<Self> {
        const SMT: u32 = 1;
        let mut layout = None;
        for level in 0..MAX_LEVELS {
            let answer = host(leaf, level);
            let (shift, kind) = (answer.eax & 0x1f, answer.ecx >> 8 & 0xff);
            if kind == 0 || answer.ebx & 0xffff == 0 {
                break;
            }
            let so_far = layout.unwrap_or(Self::new(0, 0));
            let core_shift = if kind == SMT {
                // Where a core has one thread, no two ids share a core, however many bits are left out for threads.
                if answer.ebx & 0xffff > 1 { shift } else { 0 }
            } else {
                so_far.core_shift
            };
            layout = Some(Self::new(core_shift, shift.max(so_far.package_shift)));
        }
        layout
    }

    /// By how many ids a package and how many a core has, as CPUs without topology leaves tell.
    fn from_counts(max: u32, host: &mut dyn FnMut(u32, u32) -> CpuidResult) -> Self {
        const HTT: u32 = 1 << 28;
        let features = host(FEATURES, 0);
        if features.edx & HTT == 0 {
            return Self::new(0, 0);
        }
        let logical = bits_for(features.ebx >> 16 & 0xff);
        let cores = if max >= CACHES {
            (host(CACHES, 0).eax >> 26) + 1
        } else {
            1
        };
        Self::new(logical.saturating_sub(bits_for(cores)), logical)
    }

    fn new(core_shift: u32, package_shift: u32) -> Self {
        Self {
            core_shift,
            package_shift: package_shift.max(core_shift),
        }
    }
}

/// How many bits number `count` things.
fn bits_for(count: u32) -> u32 {
    count.max(1).next_power_of_two().trailing_zeros()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn answer(eax: u32, ebx: u32, ecx: u32, edx: u32) -> CpuidResult {
        CpuidResult { eax, ebx, ecx, edx }
    }

    /// A machine with `leaf` for topology: two threads a core, 16 ids a package.
    fn with_leaf(leaf: u32) -> IdLayout {
        IdLayout::read(&mut |l, sub| match (l, sub) {
            (0, _) => answer(leaf, 0, 0, 0),
            (l, 0) if l == leaf => answer(1, 2, 1 << 8, 0),
            (l, 1) if l == leaf => answer(4, 8, 2 << 8 | 1, 0),
            _ => CpuidResult::default(),
        })
    }

    #[test]
    fn topology_leaves_take_an_id_apart() {
        for leaf in [0xb, 0x1f] {
            let layout = with_leaf(leaf);
            let at = |package, core, thread| Location {
                package,
                core,
                thread,
            };
            assert_eq!(layout.locate(0), at(0, 0, 0));
            assert_eq!(layout.locate(5), at(0, 2, 1));
            assert_eq!(layout.locate(0x1f), at(1, 7, 1));
            assert_eq!(layout.locate(u32::MAX), at(0xfff_ffff, 7, 1));
        }
    }

    #[test]
    fn a_core_with_one_thread_shares_its_id_with_nobody() {
        let layout = IdLayout::read(&mut |leaf, sub| match (leaf, sub) {
            (0, _) => answer(0xb, 0, 0, 0),
            (0xb, 0) => answer(1, 1, 1 << 8, 0),
            _ => CpuidResult::default(),
        });
        assert!(!layout.locate(0).same_core(layout.locate(1)));
    }

    #[test]
    fn a_die_between_core_and_package_belongs_to_the_core_number() {
        let layout = IdLayout::read(&mut |leaf, sub| match (leaf, sub) {
            (0, _) => answer(0x1f, 0, 0, 0),
            (0x1f, 0) => answer(1, 2, 1 << 8, 0),
            (0x1f, 1) => answer(4, 8, 2 << 8, 0),
            (0x1f, 2) => answer(5, 16, 5 << 8, 0),
            _ => CpuidResult::default(),
        });
        assert!(!layout.locate(0).same_core(layout.locate(16)));
        assert_eq!(layout.locate(0x11).package, 0);
        assert_eq!(layout.locate(0x20).package, 1);
    }

    #[test]
    fn without_topology_leaves_counts_decide() {
        let layout = IdLayout::read(&mut |leaf, _| match leaf {
            0 => answer(4, 0, 0, 0),
            1 => answer(0, 8 << 16, 0, 1 << 28),
            4 => answer(3 << 26, 0, 0, 0),
            _ => CpuidResult::default(),
        });
        assert!(layout.locate(2).same_core(layout.locate(3)));
        assert!(!layout.locate(1).same_core(layout.locate(2)));
        assert_eq!(layout.locate(8).package, 1);
    }

    #[test]
    fn a_cpu_that_says_nothing_has_one_thread_a_core() {
        let layout = IdLayout::read(&mut |_, _| CpuidResult::default());
        assert!(!layout.locate(0).same_core(layout.locate(1)));
    }

    #[test]
    fn cpus_that_disagree_are_taken_for_siblings_where_one_of_them_says_so() {
        let single = IdLayout::new(0, 4);
        let layout = single.coarser(with_leaf(0xb));
        assert!(layout.locate(2).same_core(layout.locate(3)));
    }

    proptest! {
        #[test]
        fn any_answer_gives_a_layout_that_loses_no_bit(words in prop::collection::vec(any::<u32>(), 4..64), id: u32) {
            let mut at = 0;
            let mut next = || {
                at += 1;
                words[at % words.len()]
            };
            let layout = IdLayout::read(&mut |_, _| answer(next(), next(), next(), next()));
            let place = layout.locate(id);
            let IdLayout { core_shift, package_shift } = layout;
            let back = u64::from(place.package) << package_shift
                | u64::from(place.core) << core_shift
                | u64::from(place.thread);
            prop_assert_eq!(back, u64::from(id));
        }
    }
}
