//! Gates that come, and go when the kernel is no longer what they were made for.

use super::gates::{SYSCALL, SYSRET_AT, TEXT, idt, text};
use super::world::World;
use crate::addr::{FRAME_SIZE, Gpa, Gva};
use crate::split::{Opening, Read, Side};

/// Where the guest has its code, its IDT, and the level-3 table of both.
const CODE: u64 = 50;
const IDT: u64 = 53;
const TOP: u64 = 54;
/// Slots of that table: one of the kernel's code, and one that is free.
const OWN: usize = 510;
const FREE: usize = 400;

struct Kernel {
    text: Vec<u8>,
    idt: Vec<u8>,
    top: Vec<u8>,
}

impl Kernel {
    fn new() -> Self {
        let mut kernel = Self {
            text: text(0),
            idt: idt(),
            top: vec![0; FRAME_SIZE as usize],
        };
        kernel.map(OWN, 0x63);
        kernel
    }

    fn map(&mut self, slot: usize, entry: u64) {
        self.top[8 * slot..8 * slot + 8].copy_from_slice(&entry.to_le_bytes());
    }

    /// Whether there is a way without exits for it.
    fn open(&self, world: &mut World<'_>) -> bool {
        let page = |gva, number: u64| (gva, Gpa(number * FRAME_SIZE));
        let read = |(gva, gpa), bytes| Read { gva, gpa, bytes };
        let pages = self.text.chunks(FRAME_SIZE as usize);
        let code: Vec<_> = (0..)
            .zip(pages)
            .map(|(n, bytes)| read(page(Gva(TEXT.0 + n * FRAME_SIZE), CODE + n), bytes))
            .collect();
        let opening = Opening {
            syscall: SYSCALL,
            sysenter: None,
            idt: read(page(Gva(0), IDT), &self.idt),
            top: read(page(Gva(0), TOP), &self.top),
            text: &code,
        };
        world
            .work(|split, views, pages| split.open(&opening, views, pages))
            .unwrap()
    }
}

#[test]
fn a_kernel_that_no_gates_fit_any_more_sees_what_it_wrote() {
    let mut one_way_less = Kernel::new();
    one_way_less.text[SYSRET_AT] = 0xcc;
    let mut no_way = Kernel::new();
    no_way.text.fill(0xcc);
    for mut changed in [one_way_less, no_way] {
        let mut entries = Vec::new();
        let mut world = World::new(&mut entries, 2, 5);
        assert!(Kernel::new().open(&mut world));
        let shown = |world: &World<'_>, page| world.shows(Side::Kernel, page).unwrap().0;
        assert!([CODE, TOP].iter().all(|page| shown(&world, *page) != *page));
        let top = Gpa(TOP * FRAME_SIZE);
        assert!(world.split.makes_way(top));

        assert!(!changed.open(&mut world));
        assert_eq!(shown(&world, CODE), CODE);
        assert!(world.split.way(0).is_none());

        // The table still leads to the gates, and to whatever else the kernel has there.
        assert!(world.split.makes_way(top));
        changed.map(FREE, 0x7063);
        assert!(!changed.open(&mut world));
        let table = world.contents(Side::Kernel, TOP).unwrap();
        assert_eq!((table[OWN], table[FREE]), (0x63, 0x7063));
        world.end();
    }
}
