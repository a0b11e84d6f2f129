//! The way from one view to the other without an exit: what of a guest it takes, and what of it is changed in which view.
//!
//! Nothing of the guest's memory is written. In `kernel`, copies show in place of a few of its pages: of the level-3 table of the kernel's
//! code, with two entries more, which lead to the gates; and of the code at which user code is returned to, with jumps to them. They are
//! read-only there, and so is the IDT: who writes to one of these pages does so in `base`, for one instruction, and then they are copied anew.

use alloc::vec::Vec;

use super::gates::{Base, Gates, JUMP, Kernel, SEEN, page};
use super::sites::{MOST_SITES, Sites};
use super::{Name, ONE, Pages, Places, Split, SplitError, remap, settle};
use crate::addr::{FRAME_SIZE, Gpa, Gva, SIZE_1G};
use crate::ept::EptPerms;
use crate::ledger::Rights;
use crate::views::Views;

/// The copy of the level-3 table.
const TOP: usize = page::IDT + 1;
/// Copies of the kernel's code.
const TEXT: usize = TOP + 1;
const MOST_TEXTS: usize = 3;
/// Pages of the split's that are for this.
pub(super) const PAGES: usize = TEXT + MOST_TEXTS;

const PRESENT: u64 = 1;
const ACCESSED: u64 = 1 << 5;
/// Entries for the gates: pages of 1 GiB, because the kernel looks through its tables and could not follow one to another.
/// Nothing that can be written can be executed.
const CODE: u64 = PRESENT | ACCESSED | DIRTY | LARGE;
const DATA: u64 = CODE | WRITE | NX;
const WRITE: u64 = 1 << 1;
const DIRTY: u64 = 1 << 6;
const LARGE: u64 = 1 << 7;
const NX: u64 = 1 << 63;

/// A page of the guest's, as it was read.
#[derive(Clone, Copy, Debug)]
pub struct Read<'a> {
    /// Where the kernel has it.
    pub gva: Gva,
    /// Where it is.
    pub gpa: Gpa,
    /// What is in it.
    pub bytes: &'a [u8],
}

/// What a passage is made from.
#[derive(Clone, Copy, Debug)]
pub struct Opening<'a> {
    /// Where SYSCALL enters the kernel.
    pub syscall: Gva,
    /// Where SYSENTER does, if it does.
    pub sysenter: Option<Gva>,
    /// The IDT.
    pub idt: Read<'a>,
    /// The level-3 table of the kernel's code; its address is of no interest.
    pub top: Read<'a>,
    /// The pages of code that follow where SYSCALL enters.
    pub text: &'a [Read<'a>],
}

/// Where a vCPU is to enter the kernel, so that it goes through a gate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Way {
    /// By SYSCALL, where the kernel wanted it to be [`Way::syscall_of`].
    pub syscall: Gva,
    /// Where the gate goes on.
    pub syscall_of: Gva,
    /// By SYSENTER.
    pub sysenter: Option<Gva>,
    /// Where the gate goes on.
    pub sysenter_of: Option<Gva>,
    /// The IDT that `user` is to show.
    pub idt: Gpa,
    /// Where the gates are.
    pub gates: Gva,
    /// [`Gates::irets`].
    pub irets: [(Gva, Gva); MOST_SITES],
}

impl Way {
    /// The kernel's own IRET, where `gva` is that of a gate.
    #[must_use]
    pub fn iret_of(&self, gva: Gva) -> Option<Gva> {
        let mut irets = self.irets.iter();
        irets.find_map(|(gate, own)| (*gate == gva && gva.0 != 0).then_some(*own))
    }

    /// Whether code at `gva` is a gate's.
    #[must_use]
    pub const fn is_gate(&self, gva: Gva) -> bool {
        gva.0.wrapping_sub(self.gates.0) < page::WORDS as u64 * FRAME_SIZE
    }
}

/// A passage.
#[derive(Debug)]
pub(super) struct Passage {
    base: Base,
    gates: Gates,
    /// Or the kernel changed since.
    is_open: bool,
    syscall: Gva,
    sysenter: Option<Gva>,
    irets: [(Gva, Gva); MOST_SITES],
    /// The guest's pages that are not as they are in `base`.
    guarded: Vec<Gpa>,
}

impl Passage {
    /// Pages of the split's that are for it.
    pub(super) fn pages(&self) -> u64 {
        // Of what is guarded, the level-3 table and pages of code have copies, the IDT has one anyway.
        let copies = self.guarded.len().saturating_sub(1);
        (page::IDT + 1 + copies) as u64
    }

    pub(super) fn guards(&self, page: Gpa) -> bool {
        self.guarded.contains(&page)
    }
}

impl Split {
    /// Where the vCPU goes through the passage; `None` while there is none.
    #[must_use]
    pub fn way(&self, vcpu: u32) -> Option<Way> {
        let passage = self.passage.as_ref().filter(|passage| passage.is_open)?;
        Some(Way {
            syscall: passage.base.syscall(vcpu),
            syscall_of: passage.syscall,
            sysenter: passage.gates.sysenter,
            sysenter_of: passage.sysenter,
            idt: self.places.page(page::IDT),
            gates: passage.base.page(0),
            irets: passage.irets,
        })
    }

    /// Whether the passage was made from the page of `gpa`, and is open.
    #[must_use]
    pub fn makes_way(&self, gpa: Gpa) -> bool {
        let page = Gpa(gpa.0 - gpa.page_offset());
        let passage = self.passage.as_ref();
        passage.is_some_and(|passage| passage.guards(page))
    }

    /// Notes that the kernel half at the top-level table `table` was looked at: [`Split::admit`] found nothing to change, or changed it.
    pub fn see<P: Pages>(&mut self, table: Gpa, pages: &mut P) {
        if self.passage.is_some() {
            let index = (table.0 / FRAME_SIZE) % SEEN;
            pages.write(page::SEEN, index as usize, table.0);
        }
    }

    /// No table counts as looked at any more, so that each way to user code is through an exit once.
    pub(super) fn unsee<P: Pages>(&self, pages: &mut P) {
        if self.passage.is_some() {
            pages.copy(page::SEEN, &[0xff; FRAME_SIZE as usize]);
        }
    }

    /// Opens a passage for the guest's kernel, or makes the one there is what it has to be now. False where there is none for this kernel: switches go on to
    /// exit.
    ///
    /// # Errors
    /// The views could not be changed.
    pub fn open<P: Pages>(
        &mut self,
        opening: &Opening<'_>,
        views: &mut Views,
        pages: &mut P,
    ) -> Result<bool, SplitError> {
        let bytes: Vec<u8> = opening
            .text
            .iter()
            .flat_map(|page| page.bytes)
            .copied()
            .collect();
        let sites = Sites::find(&bytes, opening.text.first().map_or(Gva(0), |page| page.gva));
        let kernel = Kernel {
            syscall: opening.syscall,
            sysenter: opening.sysenter,
            idt: opening.idt.bytes,
            sites: &sites,
        };
        let vcpus = self.names.len() as u32 - 1;
        let built = match &self.passage {
            Some(passage) => {
                Gates::build(passage.base, vcpus, &kernel).map(|gates| (passage.base, gates))
            }
            None => {
                bases(opening).find_map(|base| Some((base, Gates::build(base, vcpus, &kernel)?)))
            }
        };
        let own = self.passage.as_ref();
        let fits = |gates: &Gates| own.is_none_or(|own| own.gates.are_same_code(gates));
        let Some((base, gates)) = built.filter(|(_, gates)| fits(gates)) else {
            self.close(&opening.top, views, pages)?;
            return Ok(false);
        };
        let mut stale = Vec::new();
        let shown = self.show(base, &gates, opening, views, pages, &mut stale);
        let done = shown.and_then(|guarded| {
            let names = self.gate_names(base);
            let top_of = |_| Some(opening.top.gpa);
            self.name(vcpus as usize, &top_of, &names, views, pages, &mut stale)?;
            Ok(guarded)
        });
        settle(stale, views, pages);
        self.replicas.flushed();
        let mut irets = [(Gva(0), Gva(0)); MOST_SITES];
        irets
            .iter_mut()
            .zip(&gates.irets)
            .for_each(|(to, from)| *to = *from);
        self.passage = Some(Passage {
            base,
            gates,
            irets,
            is_open: true,
            syscall: opening.syscall,
            sysenter: opening.sysenter,
            guarded: done?,
        });
        Ok(true)
    }

    /// Leaves every switch to exits again: the kernel is no longer what the gates were made for. They stay where they are, for vCPUs in them, and so does the
    /// copy of the table that leads there, which is as `top` now.
    fn close<P: Pages>(
        &mut self,
        top: &Read<'_>,
        views: &mut Views,
        pages: &mut P,
    ) -> Result<(), SplitError> {
        let Some(passage) = &mut self.passage else {
            return Ok(());
        };
        passage.is_open = false;
        let idt = self.places.page(page::IDT);
        let (shown, guarded) = (self.kernel, core::mem::take(&mut passage.guarded));
        for names in &mut self.names {
            for gone in names.iter().filter(|name| name.gpa == idt) {
                for write in self.replicas.forget(gone.gva) {
                    pages.write(write.page, write.index, write.entry);
                }
            }
            names.retain(|name| name.gpa != idt);
        }
        // The first is the table that leads to the gates.
        let mut stale = Vec::new();
        let (shown_top, others) = guarded.split_first().ok_or(SplitError::NoPage)?;
        passage.guarded.push(*shown_top);
        if *shown_top == top.gpa {
            pages.copy(TOP, &top_table(self.places, passage.base, top.bytes));
        }
        for gpa in others {
            // What is guarded for another reason, too, stays so.
            let guarded = self.guards(*gpa);
            stale.push(pages.books(|_, tables| match guarded {
                true => views.limit(tables, shown, *gpa, ONE, self.guard),
                false => views.reset(tables, shown, *gpa, ONE),
            })?);
        }
        settle(stale, views, pages);
        Ok(())
    }

    /// Shows everything; the guest's pages that are guarded now.
    fn show<P: Pages>(
        &mut self,
        base: Base,
        gates: &Gates,
        opening: &Opening<'_>,
        views: &mut Views,
        pages: &mut P,
        stale: &mut Vec<super::Withdrawn>,
    ) -> Result<Vec<Gpa>, SplitError> {
        let (kernel, user) = (self.kernel, self.user);
        let code = EptPerms::READ | EptPerms::EXECUTE;
        let data = EptPerms::READ | EptPerms::WRITE;
        let is_new = self.passage.is_none();
        pages.copy(page::IDT, &gates.idt);
        if is_new {
            pages.copy(page::WAYS, &gates.ways);
            pages.copy(page::SYSCALL, &gates.syscall);
            let (first, second) = gates
                .stubs
                .split_at_checked(FRAME_SIZE as usize)
                .unwrap_or((&gates.stubs, &[]));
            pages.copy(page::STUBS, first);
            pages.copy(page::STUBS + 1, second);
            pages.copy(page::WORDS, &[]);
            pages.copy(page::SEEN, &[0xff; FRAME_SIZE as usize]);
            for (number, perms) in [
                (page::WAYS, code),
                (page::SYSCALL, code),
                (page::STUBS, code),
                (page::STUBS + 1, code),
                (page::WORDS, data),
                (page::SEEN, EptPerms::READ),
                (page::IDT, EptPerms::READ),
            ] {
                let in_user = number != page::SEEN && number <= page::IDT;
                let in_kernel = number != page::IDT;
                for view in [in_kernel.then_some(kernel), in_user.then_some(user)] {
                    let Some(view) = view else { continue };
                    let right = pages
                        .right(number, perms.rights())
                        .ok_or(SplitError::NoPage)?;
                    stale.push(remap(
                        views,
                        pages,
                        view,
                        self.places.page(number),
                        right,
                        perms,
                    )?);
                }
            }
        }
        let mut guarded = Vec::with_capacity(2 + MOST_TEXTS);
        pages.copy(TOP, &top_table(self.places, base, opening.top.bytes));
        let right = pages.right(TOP, Rights::READ).ok_or(SplitError::NoPage)?;
        stale.push(remap(
            views,
            pages,
            kernel,
            opening.top.gpa,
            right,
            EptPerms::READ,
        )?);
        guarded.push(opening.top.gpa);
        // The IDT, which `kernel` shows as it is.
        stale
            .push(pages.books(|_, tables| {
                views.limit(tables, kernel, opening.idt.gpa, ONE, self.guard)
            })?);
        guarded.push(opening.idt.gpa);
        // The code, with the jumps to the gates in it.
        let mut number = TEXT;
        for text in opening.text {
            let mut patched = text.bytes.to_vec();
            let mut is_patched = false;
            for (at, jump) in &gates.patches {
                let offset = at.0.wrapping_sub(text.gva.0) as usize;
                let place = patched.get_mut(offset..offset.saturating_add(JUMP));
                if let Some(place) = place {
                    place.copy_from_slice(jump);
                    is_patched = true;
                }
            }
            if is_patched && number < PAGES {
                pages.copy(number, &patched);
                let right = pages
                    .right(number, code.rights())
                    .ok_or(SplitError::NoPage)?;
                stale.push(remap(views, pages, kernel, text.gpa, right, code)?);
                guarded.push(text.gpa);
                number += 1;
            }
        }
        Ok(guarded)
    }

    /// Where `user` has the gates' pages.
    fn gate_names(&self, base: Base) -> Vec<Name> {
        let name = |number| {
            let writable = number == page::WORDS;
            Name {
                gva: if writable {
                    base.writable_page(number)
                } else {
                    base.page(number)
                },
                gpa: self.places.page(number),
                writable,
                executable: !writable,
            }
        };
        (0..page::SEEN).map(name).collect()
    }
}

/// The kernel's level-3 table, with the way to the gates in it.
fn top_table(places: Places, base: Base, bytes: &[u8]) -> Vec<u8> {
    let mut table = Vec::with_capacity(FRAME_SIZE as usize);
    let (entries, _) = bytes.as_chunks::<8>();
    for (slot, entry) in entries.iter().enumerate() {
        let entry = match u64::from_le_bytes(*entry) {
            _ if slot == slot_of(base.page(0)) => places.page(0).0 | CODE,
            _ if slot == slot_of(base.writable_page(0)) => places.page(0).0 | DATA,
            entry if entry & PRESENT != 0 => entry | ACCESSED,
            entry => entry,
        };
        table.extend_from_slice(&entry.to_le_bytes());
    }
    table
}

/// Where gates could be: below the kernel's code, where its level-3 table has nothing for two GiB.
fn bases<'a>(opening: &Opening<'a>) -> impl Iterator<Item = Base> + 'a {
    let code = opening.syscall.0 & !(SIZE_1G - 1);
    let entries = opening.top.bytes.as_chunks::<8>().0;
    let is_free = move |gva: Gva| {
        // The same table leads there.
        let near = gva.0 >> 39 == code >> 39;
        near && entries.get(slot_of(gva)) == Some(&[0; 8])
    };
    (1..=2)
        .map(move |below| Base(Gva(code.wrapping_sub(below * SIZE_1G))))
        .filter(move |base| is_free(base.page(0)) && is_free(base.writable_page(0)))
}

const fn slot_of(gva: Gva) -> usize {
    (gva.0 >> 30 & 0x1ff) as usize
}
