//! Platform configuration registers: sets of them, their values, and the policy under which such values are asked for.

use crate::command::code;
use crate::wire::{MOST_BYTES, Writer};
use crate::{DIGEST_BYTES, Digest};

/// PCRs that a PC's TPM has at least ("TCG PC Client Platform TPM Profile", "PCR Attributes").
pub const PCRS: u8 = 24;
/// `TPM_ALG_SHA256`.
pub(crate) const SHA256: u16 = 0x000b;
/// Bytes of a selection's bit map.
pub(crate) const SELECT_BYTES: u8 = PCRS / 8;

/// PCRs of the SHA-256 bank, bit by bit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PcrSet(u32);

/// What PCRs of the SHA-256 bank hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PcrValues {
    set: PcrSet,
    values: [Digest; PCRS as usize],
}

impl PcrSet {
    /// Those that a PC's TPM has.
    const ALL: u32 = (1 << PCRS) - 1;

    /// The PCRs with these numbers, as far as a PC's TPM has them.
    #[must_use]
    pub const fn of(pcrs: &[u8]) -> Self {
        let mut set = 0;
        let mut rest = pcrs;
        while let [pcr, others @ ..] = rest {
            if *pcr < PCRS {
                set |= 1 << *pcr;
            }
            rest = others;
        }
        Self(set)
    }

    /// The set with this bit map; nothing where it has PCRs that there are not.
    #[must_use]
    pub const fn from_bits(bits: u32) -> Option<Self> {
        if bits & !Self::ALL == 0 {
            Some(Self(bits))
        } else {
            None
        }
    }

    /// The bit map.
    #[must_use]
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// Whether `pcr` is among them.
    #[must_use]
    pub const fn has(self, pcr: u8) -> bool {
        pcr < PCRS && self.0 >> pcr & 1 == 1
    }

    /// Those that are not in `other`.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Their numbers, ascending.
    pub fn iter(self) -> impl Iterator<Item = u8> {
        (0..PCRS).filter(move |pcr| self.has(*pcr))
    }

    /// A `TPML_PCR_SELECTION` of these PCRs of the SHA-256 bank.
    pub(crate) fn write(self, to: &mut Writer) {
        to.u32(1).u16(SHA256).u8(SELECT_BYTES);
        let [low, middle, high, _] = self.0.to_le_bytes();
        to.put(&[low, middle, high]);
    }
}

impl PcrValues {
    /// The PCRs whose values these are.
    #[must_use]
    pub const fn set(&self) -> PcrSet {
        self.set
    }

    /// The value of `pcr`, if it is among them.
    #[must_use]
    pub fn get(&self, pcr: u8) -> Option<&Digest> {
        let value = self.values.get(usize::from(pcr));
        value.filter(|_| self.set.has(pcr))
    }

    /// Sets the value of `pcr`. A PCR that there is not has none.
    pub fn put(&mut self, pcr: u8, value: Digest) {
        if let Some(place) = self.values.get_mut(usize::from(pcr)) {
            *place = value;
            self.set.0 |= 1 << pcr;
        }
    }

    /// What `TPM2_PCR_Extend` by `digest` makes of `pcr`, which has been zero where it has no value yet.
    pub fn extend(&mut self, pcr: u8, digest: &[u8]) {
        let old = self.get(pcr).copied().unwrap_or_default();
        self.put(pcr, Digest::of(&[&old.0, digest]));
    }

    /// Numbers and values, ascending.
    pub fn iter(&self) -> impl Iterator<Item = (u8, &Digest)> {
        self.set
            .iter()
            .filter_map(|pcr| Some((pcr, self.get(pcr)?)))
    }

    /// The policy that is satisfied by a session which `TPM2_PolicyPCR` found these values in ("TPM2_PolicyPCR", in part 3).
    #[must_use]
    pub fn policy(&self) -> Digest {
        let mut selection = Writer::new();
        self.set.write(&mut selection);
        Digest::of(&[
            &[0; DIGEST_BYTES],
            &code::POLICY_PCR.0.to_be_bytes(),
            selection.bytes(),
            &self.composite().0,
        ])
    }

    /// How a `TPMS_CREATION_DATA` begins that was made while the PCRs had these values.
    pub(crate) fn write_creation(&self, to: &mut Writer) {
        self.set.write(to);
        to.sized(&self.composite().0);
    }

    /// The digest of all values, ascending.
    fn composite(&self) -> Digest {
        const { assert!(PCRS as usize * DIGEST_BYTES <= MOST_BYTES) };
        let mut values = Writer::new();
        for (_, value) in self.iter() {
            values.put(&value.0);
        }
        Digest::of(&[values.bytes()])
    }
}
