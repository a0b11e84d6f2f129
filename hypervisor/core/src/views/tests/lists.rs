//! EPTP lists.

use crate::addr::Frame;
use crate::table::PageSize;
use crate::views::{ListId, Slot, ViewError};

use super::*;

fn slot(index: u32) -> Slot {
    Slot::new(index).unwrap()
}

#[test]
fn a_list_says_which_view_is_where_and_is_zero_elsewhere() {
    let mut entries = Vec::new();
    let mut machine = Machine::new(&mut entries, 512, PageSize::Size2M, caps());
    let view = machine.add(R);
    let list = machine.views.add_list(&mut machine.memory).unwrap();
    let shown = [(slot(0), ViewId::BASE), (slot(511), view)];
    for (slot, view) in shown {
        machine
            .views
            .show(&mut machine.memory, list, slot, view)
            .unwrap();
    }
    let page = Frame::containing(machine.views.list_address(list).unwrap());
    for (index, entry) in machine.memory.tables[&page.0].iter().enumerate() {
        let slot = slot(index as u32);
        let view = shown
            .iter()
            .find(|(at, _)| *at == slot)
            .map(|(_, view)| *view);
        assert_eq!(machine.views.listed(&machine.memory, list, slot), view);
        let eptp = view.and_then(|view| machine.views.eptp(view));
        assert_eq!(*entry, eptp.map_or(0, |eptp| eptp.raw()));
    }
    machine.check_tables(&[view], 1);
    assert_eq!(Slot::new(512), None);
    let gone = machine
        .views
        .destroy(&mut machine.memory, &mut FakeTlb::default());
    assert!(gone.is_ok() && machine.memory.tables.is_empty());
}

#[test]
fn a_view_stays_as_long_as_any_list_has_it() {
    let mut entries = Vec::new();
    let mut machine = Machine::new(&mut entries, 512, PageSize::Size2M, caps());
    let view = machine.add(R);
    let lists = [0, 1].map(|_| machine.views.add_list(&mut machine.memory).unwrap());
    for list in lists {
        machine
            .views
            .show(&mut machine.memory, list, slot(7), view)
            .unwrap();
    }
    for list in lists {
        let refused = machine.views.remove(&mut machine.memory, view);
        assert_eq!(refused.unwrap_err(), ViewError::Listed(list, slot(7)));
        let eptp = machine.views.eptp(view);
        let mut hide = || {
            machine
                .views
                .hide(&mut machine.memory, list, slot(7))
                .unwrap()
        };
        assert_eq!([hide(), hide()], [eptp, None]);
    }
    machine.remove(view);
    // The root is used again, by a view that no list has.
    let next = machine.add(R);
    assert_eq!(
        machine.views.listed(&machine.memory, lists[0], slot(7)),
        None
    );
    machine.check_tables(&[next], 2);
    machine.end(&[next]);
}

#[test]
fn what_a_list_cannot_show_is_refused() {
    let mut entries = Vec::new();
    let mut machine = Machine::new(&mut entries, 512, PageSize::Size2M, caps());
    let view = machine.add(R);
    let list = machine.views.add_list(&mut machine.memory).unwrap();
    machine
        .views
        .show(&mut machine.memory, list, slot(1), view)
        .unwrap();
    let mut show = |list, at, view| {
        machine
            .views
            .show(&mut machine.memory, list, slot(at), view)
    };
    assert_eq!(show(list, 1, view), Err(ViewError::SlotTaken(slot(1))));
    let unknown = ViewId(77);
    assert_eq!(show(list, 2, unknown), Err(ViewError::NoView(unknown)));
    let none = ListId(1);
    assert_eq!(show(none, 2, view), Err(ViewError::NoList(none)));
    assert_eq!(machine.views.list_address(none), None);
    let hidden = machine.views.hide(&mut machine.memory, none, slot(1));
    assert_eq!(hidden, Err(ViewError::NoList(none)));
    assert!(
        machine
            .views
            .hide(&mut machine.memory, list, slot(1))
            .unwrap()
            .is_some()
    );
    machine.end(&[view]);
}
