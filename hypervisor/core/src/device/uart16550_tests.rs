//! The UART as drivers use it.

use proptest::prelude::*;

use super::*;

const DATA: u16 = 0;
const IER: u16 = 1;
const IIR: u16 = 2;
const FCR: u16 = 2;
const LCR: u16 = 3;
const MCR: u16 = 4;
const LSR: u16 = 5;
const MSR: u16 = 6;

fn output(uart: &mut Uart16550) -> Vec<u8> {
    let mut bytes = vec![0; 4096];
    let count = uart.take_output(&mut bytes);
    bytes.truncate(count);
    bytes
}

#[test]
fn autoconfiguration_finds_a_16550a() {
    let mut uart = Uart16550::new();
    uart.write(IER, 0);
    assert_eq!(uart.read(IER), 0);
    uart.write(IER, 0x0f);
    assert_eq!(uart.read(IER) & 0x0f, 0x0f);
    uart.write(IER, 0);
    // Loopback with RTS and OUT2 must show CTS and DCD.
    uart.write(MCR, 0x1a);
    assert_eq!(uart.read(MSR) & 0xf0, 0x90);
    uart.write(MCR, 0);
    uart.write(FCR, 1);
    assert_eq!(uart.read(IIR) >> 6, 3);
    // Not a 16750: the 64-byte FIFO bit does not stick.
    uart.write(LCR, 0x80);
    uart.write(FCR, 0x21);
    assert_eq!(uart.read(IIR) & 0x20, 0);
    uart.write(LCR, 0);
    // Not an XScale: the unit-enable bit of IER does not stick.
    uart.write(IER, 0x40);
    assert_eq!(uart.read(IER), 0);
    uart.write(7, 0xa5);
    assert_eq!(uart.read(7), 0xa5);
}

#[test]
fn startup_test_sees_the_transmitter_interrupt_each_time_it_is_enabled() {
    let mut uart = Uart16550::new();
    for _ in 0..2 {
        uart.write(IER, 2);
        assert_eq!(uart.read(IIR) & 0xf, 2);
        assert_eq!(uart.read(IIR) & 0xf, 1);
        uart.write(IER, 0);
    }
}

#[test]
fn transmitter_interrupt_follows_each_burst() {
    let mut uart = Uart16550::new();
    uart.write(MCR, 0x08);
    uart.write(IER, 2);
    assert!(uart.irq_level());
    assert_eq!(uart.read(IIR) & 0xf, 2);
    assert!(!uart.irq_level());
    for byte in b"hello" {
        uart.write(DATA, *byte);
    }
    assert!(uart.irq_level());
    assert_eq!(output(&mut uart), b"hello");
}

#[test]
fn full_output_holds_the_transmitter_until_the_sink_drains_it() {
    let mut uart = Uart16550::new();
    uart.write(MCR, 0x08);
    uart.write(IER, 2);
    let mut sent = 0;
    while uart.read(LSR) & 0x20 != 0 {
        uart.write(DATA, b'x');
        sent += 1;
    }
    assert_eq!(sent, OUTPUT - FIFO + 1);
    assert!(!uart.irq_level());
    assert_eq!(output(&mut uart).len(), sent);
    assert_ne!(uart.read(LSR) & 0x60, 0);
    assert!(uart.irq_level());
}

#[test]
fn received_bytes_interrupt_at_the_trigger_level_or_by_time_out() {
    let mut uart = Uart16550::new();
    uart.write(FCR, 0xc1);
    uart.write(MCR, 0x08);
    uart.write(IER, 1);
    assert_eq!(uart.push_input(b"abc"), 3);
    assert!(uart.irq_level());
    assert_eq!(uart.read(IIR), 0xcc);
    assert_eq!(uart.push_input(&[b'z'; 20]), 13);
    assert_eq!(uart.read(IIR), 0xc4);
    assert_eq!(uart.read(LSR) & 1, 1);
    let read: Vec<_> = (0..16).map(|_| uart.read(DATA)).collect();
    assert_eq!(&read[..4], b"abcz");
    assert_eq!(uart.read(LSR) & 1, 0);
    assert!(!uart.irq_level());
}

#[test]
fn without_fifos_one_byte_is_held() {
    let mut uart = Uart16550::new();
    assert_eq!(uart.push_input(b"ab"), 1);
    uart.write(IER, 1);
    assert_eq!(uart.read(IIR), 0x04);
    assert_eq!(uart.read(DATA), b'a');
    assert_eq!(uart.push_input(b"b"), 1);
}

#[test]
fn interrupt_needs_out2() {
    let mut uart = Uart16550::new();
    uart.write(IER, 3);
    assert!(!uart.irq_level());
    uart.write(MCR, 0x0b);
    assert!(uart.irq_level());
    uart.write(MCR, 0x1b);
    assert!(!uart.irq_level());
}

#[test]
fn loopback_returns_what_is_sent_and_overruns() {
    let mut uart = Uart16550::new();
    uart.write(MCR, 0x10);
    uart.write(DATA, 0x55);
    assert_eq!(uart.push_input(b"x"), 0);
    assert_eq!(uart.read(LSR) & 3, 1);
    uart.write(DATA, 0x66);
    uart.write(IER, 4);
    assert_eq!(uart.read(IIR), 0x06);
    assert_eq!(uart.read(LSR) & 3, 3);
    assert_eq!(uart.read(LSR) & 3, 1);
    assert_eq!(uart.read(IIR), 0x01);
    assert_eq!(uart.read(DATA), 0x55);
    assert!(output(&mut uart).is_empty());
}

#[test]
fn modem_changes_interrupt_until_read() {
    let mut uart = Uart16550::new();
    uart.write(IER, 8);
    assert_eq!(uart.read(MSR), 0xb0);
    uart.write(MCR, 0x10);
    assert_eq!(uart.read(IIR), 0x00);
    assert_eq!(uart.read(MSR), 0x0b);
    assert_eq!(uart.read(IIR), 0x01);
    uart.write(MCR, 0x14);
    uart.write(MCR, 0x10);
    assert_eq!(uart.read(MSR), 0x04);
}

#[test]
fn divisor_latch_shadows_data_and_interrupt_enable() {
    let mut uart = Uart16550::new();
    uart.write(LCR, 0x83);
    uart.write(DATA, 1);
    uart.write(IER, 2);
    assert_eq!((uart.read(0), uart.read(1)), (1, 2));
    uart.write(LCR, 0x03);
    assert_eq!(uart.read(IER), 0);
    assert_eq!(uart.output_len(), 0);
    assert_eq!(uart.read(LCR), 3);
}

#[test]
fn clearing_the_receiver_drops_input() {
    let mut uart = Uart16550::new();
    uart.write(FCR, 1);
    assert_eq!(uart.push_input(b"abc"), 3);
    uart.write(FCR, 3);
    assert_eq!(uart.read(LSR) & 1, 0);
}

#[test]
fn a_million_random_accesses_never_panic() {
    let mut seed = 0x0123_4567_89ab_cdef_u64;
    let mut uart = Uart16550::new();
    let mut bytes = [0; 64];
    for _ in 0..1_000_000 {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        let (offset, value) = ((seed >> 8) as u16, (seed >> 40) as u8);
        match seed & 7 {
            0 => {
                let _ = uart.push_input(&seed.to_le_bytes());
            }
            1 => {
                let wanted = value as usize & 63;
                assert!(uart.take_output(&mut bytes[..wanted]) <= wanted);
            }
            2..=4 => uart.write(offset, value),
            _ => {
                let _ = uart.read(offset);
            }
        }
        let _ = uart.irq_level();
        assert!(uart.output_len() <= OUTPUT);
    }
}

proptest! {
    #[test]
    fn output_arrives_complete_and_in_order(text in proptest::collection::vec(any::<u8>(), 0..3000)) {
        let mut uart = Uart16550::new();
        let mut seen = Vec::new();
        for byte in &text {
            while uart.read(LSR) & 0x20 == 0 {
                seen.extend(output(&mut uart));
            }
            uart.write(DATA, *byte);
        }
        seen.extend(output(&mut uart));
        prop_assert_eq!(seen, text);
    }
}
