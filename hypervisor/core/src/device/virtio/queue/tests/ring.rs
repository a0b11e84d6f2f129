//! Indices, notifications and interrupts, rule by rule, and how a queue is set up.

use super::*;

#[test]
fn queue_goes_round_its_ring_many_times() {
    let (mut machine, mut ring, mut queue) = plain();
    for n in 0..70_000_u32 {
        queue.grant();
        let (head, _) = ring.send(&mut machine, &[&n.to_le_bytes()], &[]);
        let chain = queue.pop(&mut machine).unwrap().unwrap();
        let mut bytes = [0; 4];
        chain.read(&mut machine, 0, &mut bytes).unwrap();
        assert_eq!(u32::from_le_bytes(bytes), n);
        queue.complete(&mut machine, head, 0).unwrap();
        assert_eq!(ring.used(&machine), Some((head, 0)));
    }
}

#[test]
fn available_index_may_be_a_queue_ahead_and_no_further() {
    let (mut machine, ring, mut queue) = plain();
    ring.describe(&mut machine, 0, (0x8000, 1, 0, 0));
    machine.put_u16(ring.driver + 2, 16);
    for _ in 0..16 {
        assert!(queue.pop(&mut machine).unwrap().is_some());
    }
    machine.put_u16(ring.driver + 2, 33);
    assert_eq!(
        queue.pop(&mut machine).unwrap_err(),
        QueueError::AvailableIndex {
            available: 33,
            taken: 16
        }
    );
}

#[test]
fn broken_queue_stops_until_it_is_reset() {
    let (mut machine, mut ring, mut queue) = plain();
    ring.offer(&mut machine, 99);
    assert!(queue.pop(&mut machine).is_err());
    ring.send(&mut machine, &[b"fine"], &[]);
    machine.accesses = Some(Vec::new());
    assert!(queue.pop(&mut machine).unwrap().is_none());
    assert_eq!(queue.complete(&mut machine, 0, 0), Ok(()));
    assert_eq!(queue.should_interrupt(&mut machine), Ok(false));
    assert_eq!(machine.accesses, Some(vec![]));
    queue.reset();
    assert!(!queue.is_enabled());
    assert_eq!(queue.size(), MAX_SIZE);
}

#[test]
fn layout_is_checked_when_the_queue_is_enabled() {
    let enable = |descriptors, driver, device| {
        let mut queue = Queue::new(256);
        queue.set_addresses(Gpa(descriptors), Gpa(driver), Gpa(device));
        queue.enable(Features::VERSION_1)
    };
    assert_eq!(enable(0x1000, 0x2000, 0x3000), Ok(()));
    assert_eq!(
        enable(0x1008, 0x2000, 0x3000),
        Err(QueueError::Layout(Gpa(0x1008)))
    );
    assert_eq!(
        enable(0x1000, 0x2001, 0x3000),
        Err(QueueError::Layout(Gpa(0x2001)))
    );
    assert_eq!(
        enable(0x1000, 0x2000, 0x3002),
        Err(QueueError::Layout(Gpa(0x3002)))
    );
    for top in [0xffff_ffff_ffff_fff0, (u64::MAX - 0xfff) & !15] {
        assert_eq!(
            enable(top, 0x2000, 0x3000),
            Err(QueueError::Layout(Gpa(top)))
        );
    }
}

#[test]
fn set_up_is_fixed_once_enabled_and_sizes_are_powers_of_two() {
    let mut queue = Queue::new(64);
    for wrong in [0, 3, 65, 128, 0x8000, u16::MAX] {
        queue.set_size(wrong);
        assert_eq!(queue.size(), 64);
    }
    queue.set_size(8);
    queue.set_addresses(Gpa(0x1000), Gpa(0x2000), Gpa(0x3000));
    queue.enable(Features::VERSION_1).unwrap();
    queue.set_size(16);
    queue.set_addresses(Gpa(0), Gpa(0), Gpa(0));
    assert_eq!((queue.size(), queue.driver()), (8, Gpa(0x2000)));
}

#[test]
fn pass_ends_though_the_driver_goes_on() {
    let (mut machine, ring, mut queue) = plain();
    ring.describe(&mut machine, 0, (0x8000, 1, 0, 0));
    let mut taken = 0_u16;
    loop {
        machine.put_u16(ring.driver + 2, taken.wrapping_add(1));
        match queue.pop(&mut machine).unwrap() {
            Some(_) => taken += 1,
            None => break,
        }
    }
    assert_eq!(taken, 64);
    assert!(queue.has_more());
    queue.grant();
    assert!(!queue.has_more());
    assert!(queue.pop(&mut machine).unwrap().is_some());
    assert!(queue.pop(&mut machine).unwrap().is_none());
    assert!(!queue.has_more());
}

#[test]
fn pass_ends_after_many_bytes() {
    let (mut machine, mut ring, mut queue) = plain();
    ring.describe(&mut machine, 0, (0, MAX_CHAIN_BYTES, 0, 0));
    ring.offer(&mut machine, 0);
    ring.offer(&mut machine, 0);
    assert!(queue.pop(&mut machine).unwrap().is_some());
    assert!(queue.pop(&mut machine).unwrap().is_none());
    assert!(queue.has_more());
}

#[test]
fn interrupt_follows_completion_unless_the_driver_wants_none() {
    let (mut machine, ring, mut queue) = plain();
    assert_eq!(queue.should_interrupt(&mut machine), Ok(false));
    queue.complete(&mut machine, 0, 0).unwrap();
    assert_eq!(queue.should_interrupt(&mut machine), Ok(true));
    assert_eq!(queue.should_interrupt(&mut machine), Ok(false));
    machine.put_u16(ring.driver, NO_INTERRUPT);
    queue.complete(&mut machine, 0, 0).unwrap();
    assert_eq!(queue.should_interrupt(&mut machine), Ok(false));
}

#[test]
fn event_index_asks_for_the_interrupt_that_crosses_it() {
    let (mut machine, ring, mut queue) = with(Features::VERSION_1 | Features::EVENT_INDEX);
    let (driver_event, _) = ring.events();
    machine.put_u16(driver_event, 2);
    // The flag means nothing once event indices are negotiated.
    machine.put_u16(ring.driver, NO_INTERRUPT);
    let told: Vec<bool> = (0..5)
        .map(|_| {
            queue.complete(&mut machine, 0, 0).unwrap();
            queue.should_interrupt(&mut machine).unwrap()
        })
        .collect();
    assert_eq!(told, [false, false, true, false, false]);
    machine.put_u16(driver_event, 6);
    for _ in 0..3 {
        queue.complete(&mut machine, 0, 0).unwrap();
    }
    assert_eq!(queue.should_interrupt(&mut machine), Ok(true));
}

#[test]
fn empty_queue_asks_for_the_notification_of_the_next_chain() {
    let (mut machine, mut ring, mut queue) = with(Features::VERSION_1 | Features::EVENT_INDEX);
    let (_, device_event) = ring.events();
    for n in 1..4 {
        ring.send(&mut machine, &[b"x"], &[]);
        assert!(queue.pop(&mut machine).unwrap().is_some());
        assert!(queue.pop(&mut machine).unwrap().is_none());
        assert_eq!(machine.u16(device_event), n);
    }
}

#[test]
fn chain_added_while_the_queue_asks_is_not_missed() {
    let (mut machine, mut ring, mut queue) = with(Features::VERSION_1 | Features::EVENT_INDEX);
    ring.describe(&mut machine, 0, (0x8000, 1, 0, 0));
    ring.offer(&mut machine, 0);
    assert!(queue.pop(&mut machine).unwrap().is_some());
    // Another vCPU adds a chain right after the device saw none.
    let index = (ring.driver + 2) as usize;
    machine.meddle = Some(Box::new(move |ram| ram[index] = 2));
    assert!(queue.pop(&mut machine).unwrap().is_some());
}

#[test]
fn suppressed_notifications_are_the_drivers_to_see() {
    let (mut machine, ring, mut queue) = plain();
    queue.suppress_notifications(&mut machine).unwrap();
    assert_eq!(machine.u16(ring.device), NO_NOTIFY);

    let (mut machine, ring, mut queue) = with(Features::VERSION_1 | Features::EVENT_INDEX);
    machine.put_u16(ring.events().1, 0x7777);
    assert!(queue.pop(&mut machine).unwrap().is_none());
    assert_eq!(machine.u16(ring.events().1), 0);
    machine.put_u16(ring.events().1, 0x7777);
    queue.suppress_notifications(&mut machine).unwrap();
    assert!(queue.pop(&mut machine).unwrap().is_none());
    assert_eq!(
        (machine.u16(ring.device), machine.u16(ring.events().1)),
        (0, 0x7777)
    );
}

#[test]
fn completing_what_is_no_descriptor_is_refused() {
    let (mut machine, _, mut queue) = plain();
    assert_eq!(
        queue.complete(&mut machine, 16, 0),
        Err(QueueError::Descriptor(16))
    );
}

#[test]
fn errors_say_what_helps() {
    let message = QueueError::Descriptor(99).to_string();
    assert_eq!(
        message,
        "a virtqueue has no descriptor 99; the device works again after its driver resets it"
    );
}
