//! Tables made from what real ones say, and tables that no firmware should have made.

mod corpus;
mod machines;
mod mutations;
mod owner;
mod refused;

use super::*;

/// A table under construction.
struct Builder {
    /// As the field has it: one less than the bits.
    width: u8,
    flags: u8,
    body: Vec<u8>,
}

impl Builder {
    fn new(width: u8, flags: u8) -> Self {
        let body = Vec::new();
        Self { width, flags, body }
    }

    /// Where the next entry will begin.
    fn offset(&self) -> usize {
        FIRST_ENTRY + self.body.len()
    }

    fn raw(mut self, bytes: &[u8]) -> Self {
        self.body.extend(bytes);
        self
    }

    fn entry(self, kind: u16, fields: &[&[u8]], scopes: &[Vec<u8>]) -> Self {
        let content = [fields.concat(), scopes.concat()].concat();
        let length = content.len() as u16 + 4;
        self.raw(&kind.to_le_bytes())
            .raw(&length.to_le_bytes())
            .raw(&content)
    }

    fn drhd(self, flags: u8, size: u8, segment: u16, at: u64, scopes: &[Vec<u8>]) -> Self {
        let segment = segment.to_le_bytes();
        let at = at.to_le_bytes();
        self.entry(0, &[&[flags, size], &segment, &at], scopes)
    }

    fn rmrr(self, base: u64, limit: u64, scopes: &[Vec<u8>]) -> Self {
        let (base, limit) = (base.to_le_bytes(), limit.to_le_bytes());
        self.entry(1, &[&[0; 4], &base, &limit], scopes)
    }

    fn atsr(self, flags: u8, segment: u16, scopes: &[Vec<u8>]) -> Self {
        self.entry(2, &[&[flags, 0], &segment.to_le_bytes()], scopes)
    }

    fn rhsa(self, at: u64, domain: u32) -> Self {
        let (at, domain) = (at.to_le_bytes(), domain.to_le_bytes());
        self.entry(3, &[&[0; 4], &at, &domain], &[])
    }

    fn andd(self, number: u8, name: &[u8]) -> Self {
        self.entry(4, &[&[0, 0, 0, number], name], &[])
    }

    fn satc(self, flags: u8, scopes: &[Vec<u8>]) -> Self {
        self.entry(5, &[&[flags, 0, 0, 0]], scopes)
    }

    fn sidp(self, scopes: &[Vec<u8>]) -> Self {
        self.entry(6, &[&[0; 4]], scopes)
    }

    fn bytes(self) -> Vec<u8> {
        let mut bytes = b"DMAR\0\0\0\0\x01\0TESTERTESTINGS".to_vec();
        bytes.resize(HEADER_LEN, 0);
        bytes.extend([self.width, self.flags]);
        bytes.resize(FIRST_ENTRY, 0);
        bytes.extend(self.body);
        seal(&mut bytes);
        bytes
    }

    fn parse(self) -> Result<Dmar, DmarError> {
        Dmar::parse(&self.bytes())
    }
}

/// Makes length and checksum right.
fn seal(bytes: &mut [u8]) {
    let length = bytes.len() as u32;
    bytes[4..8].copy_from_slice(&length.to_le_bytes());
    bytes[9] = 0;
    bytes[9] = 0u8.wrapping_sub(sum(bytes));
}

fn scope(kind: u8, id: u8, bus: u8, path: &[(u8, u8)]) -> Vec<u8> {
    flagged(0, kind, id, bus, path)
}

fn flagged(flags: u8, kind: u8, id: u8, bus: u8, path: &[(u8, u8)]) -> Vec<u8> {
    let mut bytes = vec![kind, 6 + 2 * path.len() as u8, flags, 0, id, bus];
    path.iter().for_each(|hop| bytes.extend([hop.0, hop.1]));
    bytes
}

fn endpoint(bus: u8, device: u8, function: u8) -> Vec<u8> {
    scope(1, 0, bus, &[(device, function)])
}

fn bridge(bus: u8, device: u8, function: u8) -> Vec<u8> {
    scope(2, 0, bus, &[(device, function)])
}

/// A width, no flags and one unit for everything.
fn small() -> Builder {
    Builder::new(38, 0).drhd(1, 0, 0, 0xfed9_0000, &[])
}

fn id(bus: u8, device: u8, function: u8) -> SourceId {
    SourceId::new(bus, device, function).unwrap()
}

/// A machine without bridges.
fn flat(_: u16, _: SourceId) -> Option<Buses> {
    None
}

fn registers(unit: Option<&Unit>) -> Option<u64> {
    unit.map(|unit| unit.registers.0)
}
