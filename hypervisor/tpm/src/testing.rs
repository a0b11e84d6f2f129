//! A TPM for tests: it reads the commands by itself, keeps PCRs, objects and sessions, and answers as part 3 says, as far as the
//! commands used here go. What an object holds is not encrypted, only bound to the chip.

use crate::{Digest, Transport};
use std::boxed::Box;
use std::collections::BTreeMap;
use std::vec;
use std::vec::Vec;

/// Changes the answer to the command of this number, counted from 0.
pub type Tamper = Box<dyn FnMut(usize, &mut Vec<u8>)>;

/// What a handle stands for.
enum Held {
    Primary,
    Sealed { public: Vec<u8>, secret: Vec<u8> },
    Session { policy: Digest },
}

pub struct Chip {
    /// Which chip it is.
    pub identity: u8,
    pub pcrs: [Digest; 24],
    /// How often it is still busy.
    pub busy: u32,
    /// Whether it has the SHA-256 bank.
    pub bank: bool,
    pub tamper: Option<Tamper>,
    /// Codes of the commands so far.
    pub commands: Vec<u32>,
    /// What it answers a command by this code with, instead of doing it.
    pub refuse: Option<(u32, u32)>,
    held: BTreeMap<u32, Held>,
}

impl Chip {
    pub fn new(identity: u8) -> Self {
        Self {
            identity,
            pcrs: [Digest::default(); 24],
            busy: 0,
            bank: true,
            tamper: None,
            commands: Vec::new(),
            refuse: None,
            held: BTreeMap::new(),
        }
    }

    pub fn extend(&mut self, pcr: u8, what: &[u8]) {
        let old = self.pcrs[usize::from(pcr)];
        self.pcrs[usize::from(pcr)] = Digest::of(&[&old.0, &Digest::of(&[what]).0]);
    }

    /// Objects and sessions that were not flushed.
    pub fn left_over(&self) -> usize {
        self.held.len()
    }

    fn hold(&mut self, what: Held) -> u32 {
        let handle = 0x8000_0000 + self.commands.len() as u32;
        self.held.insert(handle, what);
        handle
    }

    /// `TPM_RC_VALUE` for a handle that is not the root's.
    fn primary(&self, handle: u32) -> Result<(), u32> {
        match self.held.get(&handle) {
            Some(Held::Primary) => Ok(()),
            _ => Err(0x184),
        }
    }

    /// The composite of the PCRs that `selection` (a `TPML_PCR_SELECTION`) names.
    fn composite(&self, selection: &[u8]) -> Digest {
        let bits = u32::from_le_bytes([selection[7], selection[8], selection[9], 0]);
        let values: Vec<u8> = (0..24)
            .filter(|pcr| bits >> pcr & 1 == 1)
            .flat_map(|pcr| self.pcrs[pcr].0)
            .collect();
        Digest::of(&[&values])
    }

    fn integrity(&self, public: &[u8], secret: &[u8]) -> Digest {
        Digest::of(&[&[self.identity], public, secret])
    }

    fn ticket(&self, public: &[u8], creation_hash: &[u8]) -> Vec<u8> {
        let proof = Digest::of(&[b"proof", &[self.identity], public, creation_hash]);
        [&[0x80, 0x21, 0x40, 0, 0, 1, 0, 32][..], &proof.0].concat()
    }

    /// Handle and parameters of the answer, or a response code.
    fn execute(&mut self, code: u32, command: &[u8]) -> Result<(Option<u32>, Vec<u8>), u32> {
        let mut input = Input(&command[10..]);
        match code {
            0x17b => {
                let count = input.u16();
                Ok((None, sized(&vec![0x5a; count.min(32).into()])))
            }
            0x17e => {
                let selection = input.take(10);
                let bits = u32::from_le_bytes([selection[7], selection[8], selection[9], 0]);
                let mut some: Vec<usize> = (0..24).filter(|pcr| bits >> pcr & 1 == 1).collect();
                some.truncate(if self.bank { 8 } else { 0 });
                let got = some.iter().fold(0u32, |bits, pcr| bits | 1 << pcr);
                let mut out = vec![0, 0, 0, 9];
                out.extend(&selection[..7]);
                out.extend(&got.to_le_bytes()[..3]);
                out.extend((some.len() as u32).to_be_bytes());
                for pcr in some {
                    out.extend(sized(&self.pcrs[pcr].0));
                }
                Ok((None, out))
            }
            0x131 => {
                assert_eq!(input.u32(), 0x4000_0001);
                input.password();
                let handle = self.hold(Held::Primary);
                Ok((Some(handle), sized(b"the root's public area")))
            }
            0x153 => {
                self.primary(input.u32())?;
                input.password();
                let mut sensitive = Input(input.sized());
                assert_eq!(sensitive.sized(), b"", "no password");
                let secret = sensitive.sized();
                let public = input.sized();
                assert_eq!(input.sized(), b"");
                let selection = input.take(10);
                let private = [secret, &self.integrity(public, secret).0].concat();
                let mut creation = selection.to_vec();
                creation.extend(sized(&self.composite(selection).0));
                creation.extend(b"locality and parent");
                let hash = Digest::of(&[&creation]);
                let mut out = sized(&private);
                for part in [public, &creation[..], &hash.0] {
                    out.extend(sized(part));
                }
                out.extend(self.ticket(public, &hash.0));
                Ok((None, out))
            }
            0x157 => {
                self.primary(input.u32())?;
                input.password();
                let (private, public) = (input.sized(), input.sized());
                let (secret, integrity) = private.split_at_checked(32).ok_or(0x1d5_u32)?;
                if integrity != self.integrity(public, secret).0 {
                    return Err(0x1df);
                }
                let handle = self.hold(Held::Sealed {
                    public: public.to_vec(),
                    secret: secret.to_vec(),
                });
                Ok((Some(handle), sized(b"name")))
            }
            0x176 => {
                assert_eq!((input.u32(), input.u32()), (0x4000_0007, 0x4000_0007));
                assert!(input.sized().len() >= 16 && input.sized().is_empty());
                assert_eq!(input.take(5), [1, 0, 0x10, 0, 0x0b], "a policy session");
                let policy = Digest::default();
                let handle = self.hold(Held::Session { policy });
                Ok((Some(handle), sized(&[7; 16])))
            }
            0x17f => {
                let session = input.u32();
                assert_eq!(input.sized(), b"");
                let selection = input.take(10);
                let composite = self.composite(selection);
                let Some(Held::Session { policy }) = self.held.get_mut(&session) else {
                    return Err(0x184);
                };
                *policy = Digest::of(&[&policy.0, &code.to_be_bytes(), selection, &composite.0]);
                Ok((None, Vec::new()))
            }
            0x15e => {
                let object = input.u32();
                assert_eq!(input.u32(), 9);
                let session = input.u32();
                let Some(Held::Session { policy }) = self.held.remove(&session) else {
                    return Err(0x184);
                };
                let Some(Held::Sealed { public, secret }) = self.held.get(&object) else {
                    return Err(0x184);
                };
                // After type, name algorithm and attributes.
                if public[8..10] != [0, 32] || public[10..42] != policy.0 {
                    self.held.insert(session, Held::Session { policy });
                    return Err(0x99d);
                }
                Ok((None, sized(secret)))
            }
            0x14a => {
                assert_eq!(input.u32(), 0x4000_0007);
                let object = input.u32();
                input.password();
                assert_eq!(input.sized(), b"");
                let hash = input.sized();
                assert_eq!(input.u16(), 0x10);
                let Some(Held::Sealed { public, .. }) = self.held.get(&object) else {
                    return Err(0x184);
                };
                if input.0 != self.ticket(public, hash) {
                    return Err(0x3a0);
                }
                Ok((None, sized(b"attest")))
            }
            0x165 => {
                let handle = input.u32();
                self.held
                    .remove(&handle)
                    .map_or(Err(0x1c4), |_| Ok((None, Vec::new())))
            }
            other => panic!("a command that is not used: {other:#x}"),
        }
    }
}

impl Transport for Chip {
    fn submit(&mut self, command: &[u8], answer: &mut [u8]) -> Result<(), usize> {
        let word = |at: usize| u32::from_be_bytes(command[at..at + 4].try_into().unwrap());
        assert_eq!(word(2) as usize, command.len(), "the command's size");
        // What EDK II compares with what this TPM gives at most.
        assert!(answer.len() < 1024, "more room than may be offered");
        let (sessions, code) = (command[1] == 2, word(6));
        let number = self.commands.len();
        self.commands.push(code);
        let done = if self.busy > 0 {
            self.busy -= 1;
            Err(0x922)
        } else if let Some((_, with)) = self.refuse.filter(|(refused, _)| *refused == code) {
            Err(with)
        } else {
            self.execute(code, command)
        };
        let (code, tag, mut body) = match done {
            Err(code) => (code, 0x8001u16, Vec::new()),
            Ok((handle, parameters)) => {
                let mut body: Vec<u8> = handle.map_or(Vec::new(), |h| h.to_be_bytes().to_vec());
                if sessions {
                    body.extend((parameters.len() as u32).to_be_bytes());
                }
                body.extend(parameters);
                if sessions {
                    body.extend([0, 0, 1, 0, 0]);
                }
                (0, if sessions { 0x8002 } else { 0x8001 }, body)
            }
        };
        let mut whole = tag.to_be_bytes().to_vec();
        whole.extend((10 + body.len() as u32).to_be_bytes());
        whole.extend(code.to_be_bytes());
        whole.append(&mut body);
        if let Some(tamper) = &mut self.tamper {
            tamper(number, &mut whole);
        }
        let length = whole.len().min(answer.len());
        answer[..length].copy_from_slice(&whole[..length]);
        Ok(())
    }

    fn pause(&mut self) {}
}

fn sized(bytes: &[u8]) -> Vec<u8> {
    let mut all = (bytes.len() as u16).to_be_bytes().to_vec();
    all.extend(bytes);
    all
}

/// A command, read from the front; one that is too short is a mistake of the code under test.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count);
        self.0 = rest;
        taken
    }

    fn u16(&mut self) -> u16 {
        u16::from_be_bytes(self.take(2).try_into().unwrap())
    }

    fn u32(&mut self) -> u32 {
        u32::from_be_bytes(self.take(4).try_into().unwrap())
    }

    fn sized(&mut self) -> &'a [u8] {
        let count = self.u16();
        self.take(count.into())
    }

    /// An authorisation area with an empty password.
    fn password(&mut self) {
        assert_eq!(self.take(13), [0, 0, 0, 9, 0x40, 0, 0, 9, 0, 0, 0, 0, 0]);
    }
}
