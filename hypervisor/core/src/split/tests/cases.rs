//! What a guest can do that is worth its own name.

use super::world::{NX, PRESENT, PROCESSES, RAM, SLOTS, USER, WRITE, World, address, addresses};
use crate::addr::{FRAME_SIZE, FrameCount, Gpa, Gva};
use crate::ept::EptPerms;
use crate::ledger::Entry;
use crate::split::{
    Fetch, HALF_BYTES, KernelHalf, Name, Named, Place, Refusal, Side, Split, SplitError,
};

/// A guest whose processes all have the whole kernel half.
fn world(entries: &mut Vec<Entry>) -> World<'_> {
    let mut world = World::new(entries, 1, 11);
    for process in 0..PROCESSES {
        (0..SLOTS.len()).for_each(|slot| world.guest.share(process, slot));
    }
    world
}

/// Some page of the kernel's in a slot.
fn some_name(world: &World<'_>, slot: u64) -> Name {
    let mut names = addresses().filter_map(|gva| world.name(0, gva));
    let here = |name: &Name| (name.gva.0 >> 39) & 0x1ff == slot;
    names.find(here).expect("the kernel has a page there")
}

/// Nothing is named.
const NOTHING: Named<'static> = Named {
    names: &[],
    tables: &[],
    changes: 0,
};

#[test]
fn a_half_is_in_order_of_its_slots_without_those_that_lead_nowhere() {
    let mut bytes = [0; HALF_BYTES];
    for (slot, entry) in [(0, 0x5027_u64), (3, 0x6026), (255, 0x8000_0000_0000_7067)] {
        bytes[slot * 8..][..8].copy_from_slice(&entry.to_le_bytes());
    }
    let half = KernelHalf::new(bytes);
    let tables: Vec<_> = half.tables().collect();
    assert_eq!(tables, [(0, Gpa(0x5000)), (255, Gpa(0x7000))]);
    assert_eq!(half.table_of(Gva(u64::MAX)), Some(Gpa(0x7000)));
    assert_eq!(half.table_of(address(256, 1, 2, 3)), Some(Gpa(0x5000)));
    assert_eq!(half.table_of(address(259, 0, 0, 0)), None);
    assert_eq!(half.table_of(address(255, 511, 511, 511)), None);
}

#[test]
fn entering_again_with_nothing_new_changes_nothing() {
    let mut entries = Vec::new();
    let mut world = world(&mut entries);
    let names = [some_name(&world, SLOTS[1])];
    assert_eq!(world.admit(0, 0, &names), Ok(true));
    assert_eq!(world.admit(0, 1, &names), Ok(false), "another process");
    assert_eq!(world.admit(0, 0, &[]), Ok(true));
    assert_eq!(world.admit(0, 0, &[]), Ok(false));
    world.end();
}

#[test]
fn what_was_named_is_out_of_reach_once_nobody_names_it() {
    let mut entries = Vec::new();
    let mut world = world(&mut entries);
    let name = some_name(&world, SLOTS[0]);
    world.admit(0, 0, &[name]).unwrap();
    assert!(world.reach(Side::User, 0, name.gva).is_some());
    world.admit(0, 0, &[]).unwrap();
    assert_eq!(world.reach(Side::User, 0, name.gva), None);
    let left = world.used_pages().len();
    assert_eq!(left, 1, "the level-3 table's stand-in stays");
    world.end();
}

#[test]
fn a_table_that_takes_the_place_of_another_has_what_is_named_all_the_same() {
    let mut entries = Vec::new();
    let mut world = world(&mut entries);
    let name = some_name(&world, SLOTS[0]);
    world.admit(0, 0, &[name]).unwrap();
    // Another process has a copy of the table: the same pages, another level-3 table.
    let copy = world.guest.tops[2];
    let original = world.guest.tables[0];
    for index in 0..512 {
        let entry = world.guest.read(original, index);
        world.guest.write(copy, index, entry);
    }
    let entry = world.guest.read(world.guest.tops[1], SLOTS[0]) & 0xfff;
    let top = world.guest.tops[1];
    world.guest.write(top, SLOTS[0], copy << 12 | entry);
    assert_eq!(world.admit(0, 1, &[name]), Ok(true));
    let frame = Some(name.gpa.0 / FRAME_SIZE);
    for process in [0, 1] {
        assert_eq!(world.reach(Side::User, process, name.gva), frame);
        for gva in addresses().filter(|gva| *gva != name.gva) {
            assert_eq!(world.reach(Side::User, process, gva), None, "{gva}");
        }
    }
    world.end();
}

#[test]
fn beside_what_is_named_the_kernel_meets_no_page_fault_of_its_own() {
    let mut entries = Vec::new();
    let mut world = world(&mut entries);
    let name = some_name(&world, SLOTS[0]);
    world.admit(0, 0, &[name]).unwrap();
    let mut others = 0;
    for low in 0..512 {
        let gva = Gva(name.gva.0 & !0x1f_ffff | low << 12);
        if gva == name.gva {
            continue;
        }
        // A system call's first instruction may be here, or a stack: what the processor does has to exit.
        let (entry, _) = world.leaf(Side::User, 0, gva).unwrap();
        assert_eq!(entry & (PRESENT | WRITE | USER | NX), PRESENT | WRITE);
        assert_eq!(world.reach(Side::User, 0, gva), None);
        others += 1;
    }
    assert_eq!(others, 511);
    world.end();
}

#[test]
fn more_tables_than_are_followed_are_refused() {
    let mut entries = Vec::new();
    let mut world = world(&mut entries);
    let half = |first: u64| {
        let mut bytes = [0; HALF_BYTES];
        for (slot, bytes) in bytes.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            *bytes = (((first + slot as u64) << 12) | 1).to_le_bytes();
        }
        KernelHalf::new(bytes)
    };
    assert_eq!(Split::MOST_TABLES, HALF_BYTES / 8);
    let admitted =
        world.work(|split, views, pages| split.admit(0, &half(1 << 20), &NOTHING, views, pages));
    assert_eq!(admitted, Ok(true));
    let admitted = world
        .work(|split, views, pages| split.admit(0, &half((1 << 20) + 1), &NOTHING, views, pages));
    let table = Gpa(((1 << 20) + 256) << 12);
    assert_eq!(admitted, Err(SplitError::TooManyTables(table)));
    assert_eq!(world.split.place(Side::User, table), Place::Elsewhere);
    world.end();
}

#[test]
fn a_name_outside_the_kernel_half_and_an_unknown_vcpu_are_refused() {
    let mut entries = Vec::new();
    let mut world = world(&mut entries);
    let outside = Name {
        gva: Gva(0x1000),
        gpa: Gpa(0x1000),
        writable: false,
        executable: false,
    };
    assert_eq!(
        world.admit(0, 0, &[outside]),
        Err(SplitError::NotKernels(outside.gva))
    );
    assert_eq!(world.admit(2, 0, &[]), Err(SplitError::NoVcpu));
    assert_eq!(world.split.named().count(), 0);
    world.end();
}

#[test]
fn one_table_is_guarded_at_a_time() {
    let mut entries = Vec::new();
    let mut world = world(&mut entries);
    for process in [0, 1, 1, 0] {
        let table = world.guest.tops[process];
        world.begin(table).unwrap();
        let writable = (0..PROCESSES).filter(|process| {
            let shown = world.shows(Side::Kernel, world.guest.tops[*process]);
            shown.is_some_and(|(_, perms)| perms.contains(EptPerms::WRITE))
        });
        assert!(writable.eq((0..PROCESSES).filter(|other| *other != process)));
        let place = world.split.place(Side::Kernel, Gpa(table * FRAME_SIZE));
        assert_eq!(place, Place::Guarded);
    }
    world.end();
}

#[test]
fn tables_on_the_way_to_what_is_named_are_guarded_as_long_as_somebody_names_it() {
    let mut entries = Vec::new();
    let mut world = World::new(&mut entries, 2, 11);
    let reference = world.guest.tops[0];
    world.begin(reference).unwrap();
    let tables: Vec<_> = (40..44).map(|page| Gpa(page * FRAME_SIZE)).collect();
    let half = world.guest.half(0);
    let is_guarded = |world: &World<'_>, table: Gpa| {
        let (_, perms) = world.shows(Side::Kernel, table.0 / FRAME_SIZE).unwrap();
        let writable = perms.contains(crate::ept::EptPerms::WRITE);
        assert_eq!(
            world.split.place(Side::Kernel, table) == Place::Guarded,
            !writable
        );
        !writable
    };
    let steps: [(u32, &[usize], [bool; 4]); 5] = [
        (0, &[0, 1], [true, true, false, false]),
        (1, &[1, 2], [true, true, true, false]),
        (0, &[3], [false, true, true, true]),
        (1, &[], [false, false, false, true]),
        (0, &[], [false; 4]),
    ];
    for (vcpu, chosen, expected) in steps {
        let chosen: Vec<_> = chosen.iter().map(|index| tables[*index]).collect();
        let named = Named {
            names: &[],
            tables: &chosen,
            changes: 0,
        };
        world
            .work(|split, views, pages| split.admit(vcpu, &half, &named, views, pages))
            .unwrap();
        let found = tables.iter().map(|table| is_guarded(&world, *table));
        assert!(found.eq(expected), "{vcpu}: {chosen:?}");
        assert!(is_guarded(&world, Gpa(reference * FRAME_SIZE)));
    }
    world.end();
}

#[test]
fn a_page_that_is_no_memory_is_neither_private_nor_code() {
    for tells in [true, false] {
        let mut entries = Vec::new();
        let mut world = World::on(tells, &mut entries, 1, 11);
        let reference = world.guest.tops[0];
        world.begin(reference).unwrap();
        // A device's registers, as a page of another kind.
        let (device, data) = (RAM + 8, EptPerms::READ | EptPerms::WRITE);
        let frame = RAM + Split::pages(1).0 - 1;
        world.machine.map(device, frame, 1, data);
        let gpa = Gpa(device * FRAME_SIZE);
        let concealed = world.work(|split, views, pages| split.conceal(gpa, views, pages));
        assert_eq!(concealed, Err(Refusal::NotOrdinary));
        let found = world.work(|split, views, pages| split.find_code(gpa, views, pages));
        assert_eq!(found, Ok(Fetch::Elsewhere));
        world.machine.unmap(device, 1);
        world.end();
    }
}

#[test]
fn a_private_page_that_became_a_table_is_guarded_once_it_is_given_up() {
    let mut entries = Vec::new();
    let mut world = World::new(&mut entries, 1, 11);
    let reference = world.guest.tops[0];
    world.begin(reference).unwrap();
    let table = Gpa(40 * FRAME_SIZE);
    let conceal = world.work(|split, views, pages| split.conceal(table, views, pages));
    assert_eq!(conceal, Ok(()));
    let half = world.guest.half(0);
    let named = Named {
        names: &[],
        tables: &[table],
        changes: 0,
    };
    world
        .work(|split, views, pages| split.admit(0, &half, &named, views, pages))
        .unwrap();
    assert_eq!(world.shows(Side::Kernel, 40), None);
    let given = world.work(|split, views, pages| split.give_up(table, views, pages));
    assert_eq!(given, Ok(true));
    assert_eq!(world.wiped, [40]);
    let (_, perms) = world.shows(Side::Kernel, 40).unwrap();
    assert!(!perms.contains(EptPerms::WRITE));
    assert_eq!(world.split.place(Side::Kernel, table), Place::Guarded);
    world.end();
}

#[test]
fn with_more_code_than_is_kept_all_is_found_anew() {
    let mut entries = Vec::new();
    let mut world = World::on(false, &mut entries, 1, 11);
    let reference = world.guest.tops[0];
    world.begin(reference).unwrap();
    let find = |world: &mut World<'_>, page: u64| {
        let gpa = Gpa(page * FRAME_SIZE);
        world.work(|split, views, pages| split.find_code(gpa, views, pages))
    };
    let code: Vec<_> = (40..60).filter(|page| *page != reference).collect();
    for page in &code {
        assert_eq!(find(&mut world, *page), Ok(Fetch::Allowed));
    }
    let first = world
        .split
        .first_code(Gpa(45 * FRAME_SIZE + 8), FrameCount(3));
    assert_eq!(first, Some(Gpa(45 * FRAME_SIZE)));
    assert_eq!(
        world.split.first_code(Gpa(60 * FRAME_SIZE), FrameCount(9)),
        None
    );
    let is_code = |world: &World<'_>, page: u64| {
        let (_, perms) = world.shows(Side::Kernel, page).unwrap();
        perms.contains(EptPerms::EXECUTE)
    };
    assert!(code.iter().all(|page| is_code(&world, *page)));
    world.split.code.as_mut().unwrap().fill();
    assert_eq!(find(&mut world, 61), Ok(Fetch::Allowed));
    assert!(is_code(&world, 61));
    assert!(!code.iter().any(|page| is_code(&world, *page)));
    world.end();
}

#[test]
fn nobody_is_let_in_by_what_was_read_before_it_was_guarded() {
    let mut entries = Vec::new();
    let mut world = World::new(&mut entries, 2, 11);
    let top = Gpa(world.guest.tops[0] * FRAME_SIZE);
    world.begin(world.guest.tops[0]).unwrap();
    let half = world.guest.half(0);
    let mut let_in = |vcpu, tables: &[Gpa], changes| {
        let named = Named {
            names: &[],
            tables,
            changes,
        };
        let work =
            world.work(|split, views, pages| split.let_in(vcpu, top, &half, &named, views, pages));
        (work.unwrap(), world.split.changes())
    };
    let [one, other] = [40, 41].map(|page| Gpa(page * FRAME_SIZE));
    assert_eq!(let_in(0, &[one], 0), (false, 1), "it was read unguarded");
    assert_eq!(let_in(0, &[one], 0), (false, 1), "it was not read again");
    assert_eq!(let_in(0, &[one], 1), (true, 1));
    assert_eq!(let_in(1, &[one], 1), (true, 1), "it is guarded already");
    assert_eq!(let_in(1, &[one, other], 1), (false, 2));
    assert_eq!(let_in(1, &[one, other], 2), (true, 2));
    assert_eq!(
        let_in(0, &[one], 1),
        (false, 2),
        "another vCPU's may matter"
    );
    world
        .work(|split, views, pages| split.cover(&half, views, pages))
        .unwrap();
    world.end();
}
