use crate::addr::Gpa;
use crate::vtd::SourceId;
use crate::vtd::capability::DomainId;
use crate::vtd::invalidate::*;
use crate::vtd::queue::{Descriptor, SLOTS};
use crate::vtd::unit::UnitError;

use super::fake::{CAPABILITY, EXTENDED, Event, FakeUnit, STATUS};

const DOMAIN: DomainId = DomainId::for_test(0x1234);

fn ticket(requests: &[Request]) -> Ticket<u8> {
    let unit = UnitId::new(0).unwrap();
    Ticket::new(7, Batch::of(requests), UnitSet::EMPTY.with(unit))
}

#[test]
fn descriptors_match_the_manual() {
    let block = PageBlock::covering(0x12345, 1, 18).unwrap();
    let cases = [
        (Request::AllContexts, [0x11, 0]),
        (
            Request::Context(DOMAIN, SourceId(0xabcd)),
            [0xabcd_1234_0031, 0],
        ),
        (Request::AllTranslations, [0xd2, 0]),
        (Request::Domain(DOMAIN), [0x1234_00e2, 0]),
        (Request::Pages(DOMAIN, block), [0x1234_00f2, 0x1234_5000]),
        (Request::AllInterrupts, [4, 0]),
        (
            Request::Interrupts {
                index: 0x80,
                order: 3,
            },
            [0x80_1800_0014, 0],
        ),
    ];
    for (request, words) in cases {
        assert_eq!(Descriptor::of(request).0, words, "{request:?}");
    }
    assert_eq!(Descriptor::wait(STATUS, 9).0, [0x9_0000_0025, 0x7008]);
    assert_eq!(Descriptor::fence(STATUS, 9).0, [0x9_0000_0065, 0x7008]);
}

#[test]
fn a_block_covers_its_pages_and_is_no_larger_than_needed() {
    for first in 0..70u64 {
        for count in 1..70u64 {
            let block = PageBlock::covering(first, count, 18).unwrap();
            let start = block.start().0 >> 12;
            let end = start + (1 << block.order());
            assert!(start <= first && first + count <= end);
            assert_eq!(start % (1 << block.order()), 0);
            if block.order() > 0 {
                let half = start + (1 << (block.order() - 1));
                assert!(first < half && first + count > half, "half would do");
            }
        }
    }
    assert_eq!(PageBlock::covering(0, 1 << 19, 18), None);
    assert_eq!(PageBlock::covering(u64::MAX, 2, 18), None);
    let whole = PageBlock::covering(512, 512, 9).unwrap();
    assert_eq!((whole.start(), whole.order()), (Gpa(0x20_0000), 9));
}

#[test]
fn a_ticket_opens_only_when_every_unit_has_worked_it_off() {
    let (a, b) = (
        FakeUnit::new(CAPABILITY, EXTENDED),
        FakeUnit::new(CAPABILITY, EXTENDED),
    );
    let (mut first, mut second) = (a.up(0), b.up(1));
    let units = UnitSet::EMPTY.with(first.id()).with(second.id());
    let ticket = Ticket::new('x', Batch::of(&[Request::Domain(DOMAIN)]), units);
    let mut ticket = ticket.redeem().unwrap_err();
    first.work_off(&mut ticket).unwrap();
    let mut ticket = ticket.redeem().unwrap_err();
    assert!(ticket.waiting().iter().eq([second.id()]));
    first.work_off(&mut ticket).unwrap();
    assert_eq!(
        first.counts().submissions,
        2,
        "the second time it had nothing to do"
    );
    second.work_off(&mut ticket).unwrap();
    assert_eq!(ticket.redeem().unwrap(), 'x');
}

#[test]
fn contexts_are_forgotten_before_translations() {
    let machine = FakeUnit::new(CAPABILITY, EXTENDED);
    let mut unit = machine.up(0);
    let mut ticket = ticket(&[Request::AllContexts, Request::Domain(DOMAIN)]);
    unit.work_off(&mut ticket).unwrap();
    let queued: Vec<_> = machine
        .take_log()
        .into_iter()
        .filter_map(|event| match event {
            Event::Descriptor(descriptor) => Some(descriptor),
            _ => None,
        })
        .collect();
    assert_eq!(queued.len(), 4);
    let [fence, wait] = [queued[1].0[0], queued[3].0[0]];
    assert_eq!(fence & 0xff, 0x65);
    assert_eq!((wait >> 32) - (fence >> 32), 1, "a fence completes nothing");
}

#[test]
fn the_ring_goes_round_without_losing_a_descriptor() {
    let machine = FakeUnit::new(CAPABILITY, EXTENDED);
    let mut unit = machine.up(0);
    for round in 0..3 * SLOTS as u16 {
        let index = round;
        let mut ticket = ticket(&vec![
            Request::Interrupts { index, order: 0 };
            1 + round as usize % BATCH
        ]);
        unit.work_off(&mut ticket).unwrap();
        let seen = machine.take_descriptors();
        assert_eq!(
            seen,
            vec![[u64::from(index) << 32 | 0x14, 0]; 1 + round as usize % BATCH]
        );
        ticket.redeem().unwrap();
    }
}

#[test]
fn each_queue_error_is_named_and_ends_the_queue() {
    let cases = [
        (1 << 4, InvalidationError::Queue),
        (1 << 5, InvalidationError::DeviceCompletion),
        (1 << 6, InvalidationError::DeviceTimeout),
    ];
    for (bits, expected) in cases {
        let machine = FakeUnit::new(CAPABILITY, EXTENDED);
        let mut unit = machine.up(0);
        machine.0.borrow_mut().queue_error = bits;
        let mut ticket = ticket(&[Request::Domain(DOMAIN)]);
        let unit_id = unit.id();
        let failed = |error| {
            Err(UnitError::Invalidation {
                unit: unit_id,
                error,
            })
        };
        assert_eq!(unit.work_off(&mut ticket), failed(expected));
        machine.0.borrow_mut().queue_error = 0;
        assert_eq!(unit.work_off(&mut ticket), failed(InvalidationError::Dead));
        assert!(ticket.redeem().is_err());
    }
}

#[test]
fn a_silent_queue_times_out() {
    let machine = FakeUnit::new(CAPABILITY, EXTENDED);
    let mut unit = machine.up(0);
    // An error bit that no one reports: the queue just stops.
    machine.0.borrow_mut().queue_error = 1 << 16;
    let mut ticket = ticket(&[Request::Domain(DOMAIN)]);
    let error = unit.work_off(&mut ticket).unwrap_err();
    assert!(error.to_string().contains("not completed after"), "{error}");
    assert!(ticket.redeem().is_err());
}

#[test]
fn units_without_a_queue_are_invalidated_by_registers() {
    let machine = FakeUnit::new(CAPABILITY, EXTENDED & !2);
    let mut unit = machine.up(0);
    let block = PageBlock::covering(0x40, 4, 18).unwrap();
    let requests = [
        Request::Context(DOMAIN, SourceId(0x18)),
        Request::Domain(DOMAIN),
        Request::Pages(DOMAIN, block),
    ];
    let mut ticket = ticket(&requests);
    unit.work_off(&mut ticket).unwrap();
    let expected = [
        Event::Write(0x28, 0xe000_0000_0018_1234),
        Event::Write(0xf8, 0xa003_1234_0000_0000),
        Event::Write(0xf0, 0x4_0002),
        Event::Write(0xf8, 0xb003_1234_0000_0000),
    ];
    assert_eq!(machine.take_log(), expected);
    assert_eq!(ticket.redeem().unwrap(), 7);
}

#[test]
fn a_register_invalidation_that_was_ignored_is_an_error() {
    let machine = FakeUnit::new(CAPABILITY, EXTENDED & !2);
    let mut unit = machine.up(0);
    let attempt = |unit: &mut crate::vtd::unit::Unit<_, _, _>, request, actual| {
        machine.0.borrow_mut().actual = actual;
        unit.work_off(&mut ticket(&[request]))
            .map_err(|error| error.to_string())
    };
    let domain = Request::Domain(DOMAIN);
    assert!(
        attempt(&mut unit, domain, Some(1)).is_ok(),
        "more than asked for is fine"
    );
    assert!(
        attempt(&mut unit, domain, Some(0))
            .unwrap_err()
            .contains("did not do")
    );
    assert!(
        attempt(&mut unit, domain, Some(3))
            .unwrap_err()
            .contains("did not do")
    );
    let interrupts = attempt(&mut unit, Request::AllInterrupts, None);
    assert!(interrupts.unwrap_err().contains("takes the queue"));
    machine.0.borrow_mut().stuck = 1;
    assert!(
        attempt(&mut unit, domain, None)
            .unwrap_err()
            .contains("not completed")
    );
}

#[test]
fn a_batch_of_too_many_requests_forgets_everything() {
    let batch = Batch::of(&[Request::Domain(DOMAIN); BATCH + 1]);
    let all = [
        Request::AllContexts,
        Request::AllTranslations,
        Request::AllInterrupts,
    ];
    assert!(batch.iter().eq(all));
}
