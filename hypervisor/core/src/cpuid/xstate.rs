//! Extended processor state: what XCR0 a guest may set and how large its save areas are
//! (Intel SDM vol. 1, "Managing State Using the XSAVE Feature Set").

use super::CpuidResult;
use crate::fault::GuestFault;

bitflags::bitflags! {
    /// State components a guest may enable, the allow-list for XCR0.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Xcr0: u64 {
        /// x87: always enabled.
        const X87 = 1 << 0;
        /// XMM registers.
        const SSE = 1 << 1;
        /// Upper halves of the YMM registers.
        const AVX = 1 << 2;
        /// AVX-512 mask registers.
        const OPMASK = 1 << 5;
        /// Upper halves of ZMM0 to ZMM15.
        const ZMM_HI256 = 1 << 6;
        /// ZMM16 to ZMM31.
        const HI16_ZMM = 1 << 7;
        /// The three AVX-512 components, enabled together.
        const AVX512 = Self::OPMASK.bits() | Self::ZMM_HI256.bits() | Self::HI16_ZMM.bits();
    }
}

/// First component that has a CPUID subleaf of its own.
const FIRST_EXTENDED: usize = 2;
/// One past the highest component of [`Xcr0`].
const COMPONENTS: usize = 8;
/// The legacy region and the XSAVE header.
const HEADER_END: u32 = 512 + 64;

#[derive(Clone, Copy, Debug, Default)]
struct Component {
    size: u32,
    /// Offset in the standard form.
    offset: u32,
    /// Whether it starts on 64 bytes in the compacted form.
    aligned: bool,
}

/// The state components shown to a guest.
#[derive(Clone, Debug)]
pub(super) struct XState {
    allowed: Xcr0,
    components: [Component; COMPONENTS],
}

impl XState {
    /// Takes the host's leaf 0xD, less what is not allowed or not consistent.
    pub(super) fn build(host: &mut dyn FnMut(u32, u32) -> CpuidResult) -> Self {
        let offered = host(0xd, 0);
        let mut allowed =
            Xcr0::from_bits_truncate(u64::from(offered.edx) << 32 | u64::from(offered.eax));
        if !allowed.contains(Xcr0::AVX512 | Xcr0::AVX) {
            allowed -= Xcr0::AVX512;
        }
        let mut components = [Component::default(); COMPONENTS];
        for (index, component) in components.iter_mut().enumerate().skip(FIRST_EXTENDED) {
            if allowed.bits() & 1 << index != 0 {
                let CpuidResult { eax, ebx, ecx, .. } = host(0xd, index as u32);
                *component = Component {
                    size: eax,
                    offset: ebx,
                    aligned: ecx & 2 != 0,
                };
            }
        }
        Self {
            allowed,
            components,
        }
    }

    pub(super) const fn allowed(&self) -> Xcr0 {
        self.allowed
    }

    /// Subleaf 0 or an extended component's subleaf; subleaf 1 is the caller's.
    pub(super) fn subleaf(&self, subleaf: u32, xcr0: u64) -> CpuidResult {
        if subleaf == 0 {
            return CpuidResult {
                eax: self.allowed.bits() as u32,
                ebx: self.standard_size(xcr0),
                ecx: self.standard_size(self.allowed.bits()),
                edx: (self.allowed.bits() >> 32) as u32,
            };
        }
        let component = self
            .components
            .get(subleaf as usize)
            .copied()
            .unwrap_or_default();
        CpuidResult {
            eax: component.size,
            ebx: component.offset,
            ecx: u32::from(component.aligned) << 1,
            edx: 0,
        }
    }

    fn enabled(&self, xcr0: u64) -> impl Iterator<Item = Component> {
        let bits = xcr0 & self.allowed.bits();
        self.components
            .into_iter()
            .enumerate()
            .skip(FIRST_EXTENDED)
            .filter(move |(index, _)| bits & 1 << index != 0)
            .map(|(_, component)| component)
    }

    /// Bytes of a standard-form save area for `xcr0`.
    pub(super) fn standard_size(&self, xcr0: u64) -> u32 {
        self.enabled(xcr0)
            .map(|part| part.offset.saturating_add(part.size))
            .fold(HEADER_END, u32::max)
    }

    /// Bytes of a compacted save area for `xcr0`.
    pub(super) fn compacted_size(&self, xcr0: u64) -> u32 {
        self.enabled(xcr0).fold(HEADER_END, |end, part| {
            let start = if part.aligned {
                end.saturating_add(63) & !63
            } else {
                end
            };
            start.saturating_add(part.size)
        })
    }

    /// Checks a value for XSETBV with ECX=0 (Intel SDM vol. 2C, "XSETBV").
    pub(super) fn validate(&self, value: u64) -> Result<Xcr0, GuestFault> {
        let xcr0 = Xcr0::from_bits(value)
            .filter(|xcr0| self.allowed.contains(*xcr0))
            .ok_or(GuestFault::GP0)?;
        let avx512 = xcr0 & Xcr0::AVX512;
        let consistent = xcr0.contains(Xcr0::X87)
            && (!xcr0.contains(Xcr0::AVX) || xcr0.contains(Xcr0::SSE))
            && (avx512.is_empty() || avx512 == Xcr0::AVX512 && xcr0.contains(Xcr0::AVX));
        if consistent {
            Ok(xcr0)
        } else {
            Err(GuestFault::GP0)
        }
    }
}
