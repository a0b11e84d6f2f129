//! As much of a processor as gates are made for. An instruction that it does not know is a defect of the gate.

use std::collections::BTreeMap;

use crate::addr::Gva;

pub(super) const RAX: usize = 0;
pub(super) const RCX: usize = 1;
pub(super) const RDX: usize = 2;
pub(super) const RSP: usize = 4;
pub(super) const RDI: usize = 7;

/// How a run ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum End {
    /// With a jump out of the code.
    Jump(Gva),
    Sysret,
    /// With an IRET at this address.
    Iret(Gva),
}

/// Registers, memory by words, and what was done.
#[derive(Clone, Debug)]
pub(super) struct Processor {
    pub(super) regs: [u64; 16],
    pub(super) cr3: u64,
    pub(super) memory: BTreeMap<u64, u64>,
    /// The index of the view.
    pub(super) view: u32,
    pub(super) user_gs: bool,
    /// The word at each offset from GS.
    pub(super) gs: BTreeMap<i32, u64>,
    pub(super) verw: Vec<u16>,
    pub(super) executed: u32,
    zero: bool,
}

impl Processor {
    /// In the view `view`, every register with a value of its own.
    pub(super) fn new(view: u32) -> Self {
        let mut regs = [0; 16];
        for (number, value) in regs.iter_mut().enumerate() {
            *value = 0x1111_0000_0000 * (number as u64 + 1) + 0x8000;
        }
        Self {
            regs,
            cr3: 0,
            memory: BTreeMap::new(),
            view,
            user_gs: false,
            gs: BTreeMap::new(),
            verw: Vec::new(),
            executed: 0,
            zero: false,
        }
    }

    pub(super) fn word(&self, at: u64) -> u64 {
        *self
            .memory
            .get(&at)
            .unwrap_or_else(|| panic!("nothing is at {at:#x}"))
    }

    fn push(&mut self, value: u64) {
        self.regs[RSP] -= 8;
        self.memory.insert(self.regs[RSP], value);
    }

    fn pop(&mut self) -> u64 {
        let value = self.word(self.regs[RSP]);
        self.regs[RSP] += 8;
        value
    }

    /// Runs `code`, which lies at `base`, from `start` on.
    pub(super) fn run(&mut self, code: &[u8], base: Gva, start: Gva) -> End {
        let mut at = (start.0 - base.0) as usize;
        loop {
            assert!(self.executed < 100, "a gate does not end");
            self.executed += 1;
            let rest = &code[at..];
            let byte = |index: usize| rest[index];
            let imm = |index: usize| u32::from_le_bytes(*rest[index..].first_chunk().unwrap());
            let address = |end: usize| {
                let near = i64::from(imm(end - 4) as i32);
                (base.0 + (at + end) as u64).wrapping_add_signed(near)
            };
            let slot =
                |index: usize| self.regs[RSP].wrapping_add_signed(i64::from(imm(index) as i32));
            let length = match rest {
                [0x50..=0x57, ..] => {
                    self.push(self.regs[usize::from(byte(0) - 0x50)]);
                    1
                }
                [0x5c, ..] => {
                    self.regs[RSP] = self.pop();
                    1
                }
                [0x58..=0x5f, ..] => {
                    let register = usize::from(byte(0) - 0x58);
                    self.regs[register] = self.pop();
                    1
                }
                [0xb8, ..] => {
                    self.regs[RAX] = imm(1).into();
                    5
                }
                [0xb9, ..] => {
                    self.regs[RCX] = imm(1).into();
                    5
                }
                [0x0f, 0x01, 0xd4, ..] => {
                    assert_eq!(self.regs[RAX] as u32, 0, "the VM function");
                    self.view = self.regs[RCX] as u32;
                    3
                }
                [0x0f, 0x01, 0xf8, ..] => {
                    self.user_gs = !self.user_gs;
                    3
                }
                [0x0f, 0x00, 0x2d, ..] => {
                    let operand = (address(7) - base.0) as usize;
                    let selector = u16::from_le_bytes(*code[operand..].first_chunk().unwrap());
                    self.verw.push(selector);
                    self.zero = true;
                    7
                }
                [0x0f, 0x20, 0xd8, ..] => {
                    self.regs[RAX] = self.cr3;
                    3
                }
                [0x48, 0x89, 0x05, ..] => {
                    self.memory.insert(address(7), self.regs[RAX]);
                    7
                }
                [0x48, 0x89, 0x0d, ..] => {
                    self.memory.insert(address(7), self.regs[RCX]);
                    7
                }
                [0x48, 0x8b, 0x05, ..] => {
                    self.regs[RAX] = self.word(address(7));
                    7
                }
                [0x48, 0x8b, 0x0d, ..] => {
                    self.regs[RCX] = self.word(address(7));
                    7
                }
                [0x48, 0x89, 0x84, 0x24, ..] => {
                    self.memory.insert(slot(4), self.regs[RAX]);
                    8
                }
                [0x48, 0x89, 0x8c, 0x24, ..] => {
                    self.memory.insert(slot(4), self.regs[RCX]);
                    8
                }
                [0x48, 0x8b, 0x84, 0x24, ..] => {
                    self.regs[RAX] = self.word(slot(4));
                    8
                }
                [0x48, 0x8b, 0x8c, 0x24, ..] => {
                    self.regs[RCX] = self.word(slot(4));
                    8
                }
                [0x48, 0x89, 0xe0, ..] => {
                    self.regs[RAX] = self.regs[RSP];
                    3
                }
                [0x65, 0x48, 0x8b, 0x24, 0x25, ..] => {
                    assert!(!self.user_gs, "GS is user code's");
                    self.regs[RSP] = self.gs[&(imm(5) as i32)];
                    9
                }
                [0xff, 0x70, ..] => {
                    self.push(self.word(self.regs[RAX] + u64::from(byte(2))));
                    3
                }
                [0x48, 0x25, ..] => {
                    self.regs[RAX] &= i64::from(imm(2) as i32) as u64;
                    self.zero = self.regs[RAX] == 0;
                    6
                }
                [0x89, 0xc1, ..] => {
                    self.regs[RCX] = self.regs[RAX] & 0xffff_ffff;
                    2
                }
                [0xc1, 0xe9, ..] => {
                    self.regs[RCX] = (self.regs[RCX] & 0xffff_ffff) >> byte(2);
                    3
                }
                [0x81, 0xe1, ..] => {
                    self.regs[RCX] &= u64::from(imm(2));
                    6
                }
                [0x48, 0x8d, 0x15, ..] => {
                    self.regs[RDX] = address(7);
                    7
                }
                [0x48, 0x39, 0x04, 0xca, ..] => {
                    let seen = self.word(self.regs[RDX] + 8 * self.regs[RCX]);
                    self.zero = seen == self.regs[RAX];
                    4
                }
                [0xf6, 0x44, 0x24, 0x20, bits, ..] => {
                    self.zero = self.word(self.regs[RSP] + 0x20) & u64::from(*bits) == 0;
                    5
                }
                [0x74, ..] => 2 + usize::from(if self.zero { byte(1) } else { 0 }),
                [0x75, ..] => 2 + usize::from(if self.zero { 0 } else { byte(1) }),
                [0xeb, ..] => 2 + usize::from(byte(1)),
                [0xe9, ..] => {
                    let to = address(5);
                    match (to.wrapping_sub(base.0) as usize) < code.len() {
                        true => {
                            at = (to - base.0) as usize;
                            continue;
                        }
                        false => return End::Jump(Gva(to)),
                    }
                }
                [0x48, 0x0f, 0x07, ..] => return End::Sysret,
                [0x48, 0xcf, ..] => return End::Iret(Gva(base.0 + at as u64)),
                other => panic!("no gate has {:02x?}", &other[..other.len().min(8)]),
            };
            at += length;
        }
    }
}
