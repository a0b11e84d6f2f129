//! The decoder by hand-picked encodings and against an independent decoder.

use iced_x86::{Code, Decoder, DecoderOptions, Mnemonic, OpKind, Register as IcedRegister};
use proptest::prelude::*;

use super::*;

const RCX: Register = Register::Low(GprIndex::RCX);

fn decode64(bytes: &[u8]) -> MmioInsn {
    decode(bytes, CpuMode::Bits64).unwrap()
}

#[test]
fn plain_stores_and_loads_decode() {
    // mov [rdi], ecx; mov ecx, [rdi+0x10]; mov [rax*4+disp32], r9
    assert_eq!(
        decode64(&[0x89, 0x0f]),
        MmioInsn {
            length: 2,
            width: Width::Dword,
            operation: Operation::Store {
                from: Source::Register(RCX)
            }
        }
    );
    let load = decode64(&[0x8b, 0x4f, 0x10, 0xcc]);
    assert_eq!(
        (load.length, load.operation),
        (3, plain_load(RCX, Width::Dword))
    );
    let wide = decode64(&[0x4c, 0x89, 0x0c, 0x85, 0, 0, 0, 0]);
    assert_eq!((wide.length, wide.width), (8, Width::Qword));
    assert_eq!(
        wide.operation,
        Operation::Store {
            from: Source::Register(Register::Low(GprIndex::new(9)))
        }
    );
}

#[test]
fn high_byte_registers_exist_only_without_rex() {
    let high = Operation::Store {
        from: Source::Register(Register::High(GprIndex::RAX)),
    };
    assert_eq!(decode64(&[0x88, 0x27]).operation, high);
    let low = Operation::Store {
        from: Source::Register(Register::Low(GprIndex::RSP)),
    };
    assert_eq!(decode64(&[0x40, 0x88, 0x27]).operation, low);
}

#[test]
fn immediates_sign_extend() {
    let insn = decode64(&[0x48, 0xc7, 0x07, 0xfe, 0xff, 0xff, 0xff]);
    assert_eq!(
        insn.operation,
        Operation::Store {
            from: Source::Immediate(u64::MAX - 1)
        }
    );
    assert_eq!(Gprs::default().store_value(&insn), Some(u64::MAX - 1));
    let word = decode64(&[0x66, 0xc7, 0x07, 0x34, 0x12]);
    assert_eq!(
        (word.length, Gprs::default().store_value(&word)),
        (5, Some(0x1234))
    );
}

#[test]
fn loads_merge_as_the_cpu_does() {
    let mut gprs = Gprs([0x1122_3344_5566_7788; 16]);
    for (bytes, device, expected) in [
        (&[0x8b, 0x0f][..], 0xffff_ffff_dead_beef, 0xdead_beef),
        (&[0x66, 0x8b, 0x0f], 0xbeef, 0x1122_3344_5566_beef),
        (&[0x8a, 0x0f], 0x99, 0x1122_3344_5566_7799),
        (&[0x8a, 0x2f], 0x99, 0x1122_3344_5566_9988),
        (&[0x0f, 0xb6, 0x0f], 0x80, 0x80),
        (&[0x0f, 0xbe, 0x0f], 0x80, 0xffff_ff80),
        (&[0x48, 0x0f, 0xbf, 0x0f], 0x8000, 0xffff_ffff_ffff_8000),
        (&[0x66, 0x0f, 0xbe, 0x0f], 0x80, 0x1122_3344_5566_ff80),
        (&[0x48, 0x63, 0x0f], 0x8000_0000, 0xffff_ffff_8000_0000),
        (&[0x63, 0x0f], 0x8000_0000, 0x8000_0000),
    ] {
        let mut after = gprs;
        after.complete_load(&decode64(bytes), device);
        assert_eq!(after.get(GprIndex::RCX), expected, "{bytes:x?}");
        after.set(GprIndex::RCX, gprs.get(GprIndex::RCX));
        assert_eq!(after, gprs);
    }
    gprs.complete_load(&decode64(&[0x89, 0x0f]), 0);
    assert_eq!(gprs, Gprs([0x1122_3344_5566_7788; 16]));
}

#[test]
fn accumulator_forms_use_the_address_size() {
    assert_eq!(decode64(&[0xa1, 0, 0, 0, 0, 0, 0, 0, 0]).length, 9);
    assert_eq!(decode64(&[0x67, 0xa3, 0, 0, 0, 0]).length, 6);
    assert_eq!(decode(&[0xa0, 0, 0], CpuMode::Bits16).unwrap().length, 3);
}

#[test]
fn refusals_are_named() {
    let refused = |bytes: &[u8]| decode(bytes, CpuMode::Bits64).unwrap_err();
    assert_eq!(refused(&[]), Unsupported::Truncated);
    assert_eq!(refused(&[0x8b, 0x87, 0, 0]), Unsupported::Truncated);
    assert_eq!(refused(&[0x66; 20]), Unsupported::Truncated);
    assert_eq!(refused(&[0xf0, 0x89, 0x07]), Unsupported::Prefix(0xf0));
    assert_eq!(refused(&[0xf3, 0xa4]), Unsupported::Prefix(0xf3));
    assert_eq!(refused(&[0x01, 0x07]), Unsupported::Opcode(0x01));
    assert_eq!(refused(&[0x0f, 0x11, 0x07]), Unsupported::Opcode(0x0f11));
    assert_eq!(
        refused(&[0xc7, 0x0f, 0, 0, 0, 0]),
        Unsupported::Opcode(0xc7)
    );
    assert_eq!(refused(&[0x89, 0xc1]), Unsupported::NoMemoryOperand);
    assert!(Unsupported::Opcode(1).to_string().contains("0x1"));
}

/// The same answer from `iced-x86`, or `None` where the bytes are not one of our forms.
fn reference(bytes: &[u8], mode: CpuMode) -> Option<MmioInsn> {
    let bits = match mode {
        CpuMode::Bits16 => 16,
        CpuMode::Bits32 => 32,
        CpuMode::Bits64 => 64,
    };
    let insn = Decoder::new(bits, &bytes[..bytes.len().min(15)], DecoderOptions::NONE).decode();
    if insn.is_invalid()
        || insn.has_rep_prefix()
        || insn.has_repne_prefix()
        || insn.has_lock_prefix()
    {
        return None;
    }
    if !matches!(
        insn.mnemonic(),
        Mnemonic::Mov | Mnemonic::Movzx | Mnemonic::Movsx | Mnemonic::Movsxd
    ) {
        return None;
    }
    let width = |size| match size {
        1 => Width::Byte,
        2 => Width::Word,
        4 => Width::Dword,
        _ => Width::Qword,
    };
    let register = |register: IcedRegister| match register {
        IcedRegister::AH => Register::High(GprIndex::RAX),
        IcedRegister::CH => Register::High(GprIndex::RCX),
        IcedRegister::DH => Register::High(GprIndex::RDX),
        IcedRegister::BH => Register::High(GprIndex::RBX),
        other => Register::Low(GprIndex::new(other.full_register().number() as u8)),
    };
    let length = insn.len() as u8;
    let memory = width(insn.memory_size().size());
    if insn.op0_kind() == OpKind::Memory {
        let from = match insn.op1_kind() {
            OpKind::Register if insn.op1_register().is_gpr() => {
                Source::Register(register(insn.op1_register()))
            }
            OpKind::Register => return None,
            _ => Source::Immediate(match memory {
                Width::Byte => insn.immediate8() as i8 as u64,
                Width::Word => insn.immediate16() as i16 as u64,
                Width::Dword => insn.immediate32() as i32 as u64,
                Width::Qword => insn.immediate(1),
            }),
        };
        return Some(MmioInsn {
            length,
            width: memory,
            operation: Operation::Store { from },
        });
    }
    if insn.op1_kind() == OpKind::Memory && insn.op0_register().is_gpr() {
        let extend = match insn.code() {
            Code::Movsxd_r16_rm16 | Code::Movsxd_r32_rm32 => Extend::None,
            _ => match insn.mnemonic() {
                Mnemonic::Movzx => Extend::Zero,
                Mnemonic::Movsx | Mnemonic::Movsxd => Extend::Sign,
                _ => Extend::None,
            },
        };
        let to_width = width(insn.op0_register().size());
        let to = register(insn.op0_register());
        return Some(MmioInsn {
            length,
            width: memory,
            operation: Operation::Load {
                to,
                to_width,
                extend,
            },
        });
    }
    None
}

fn modes() -> impl Strategy<Value = CpuMode> {
    prop_oneof![
        Just(CpuMode::Bits16),
        Just(CpuMode::Bits32),
        Just(CpuMode::Bits64)
    ]
}

/// Bytes that often are what the decoder knows, so that the comparison is not vacuous.
fn likely() -> impl Strategy<Value = Vec<u8>> {
    let prefix = prop_oneof![
        Just(0x66),
        Just(0x67),
        Just(0x2e),
        Just(0x64),
        0x40_u8..0x50,
        Just(0xf3)
    ];
    let opcode = prop_oneof![
        (0x88_u8..0x8c).prop_map(|byte| vec![byte]),
        (0xa0_u8..0xa4).prop_map(|byte| vec![byte]),
        (0xc6_u8..0xc8).prop_map(|byte| vec![byte]),
        prop_oneof![Just(0xb6), Just(0xb7), Just(0xbe), Just(0xbf)]
            .prop_map(|byte| vec![0x0f, byte]),
        Just(vec![0x63]),
    ];
    (
        proptest::collection::vec(prefix, 0..3),
        opcode,
        proptest::collection::vec(any::<u8>(), 0..16),
    )
        .prop_map(|(prefixes, opcode, rest)| [prefixes, opcode, rest].concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500_000))]

    #[test]
    fn likely_bytes_decode_as_the_reference_does(bytes in likely(), mode in modes()) {
        prop_assert_eq!(decode(&bytes, mode).ok(), reference(&bytes, mode), "{:x?} {:?}", bytes, mode);
    }

    #[test]
    fn arbitrary_bytes_decode_as_the_reference_does(bytes in proptest::collection::vec(any::<u8>(), 0..20), mode in modes()) {
        prop_assert_eq!(decode(&bytes, mode).ok(), reference(&bytes, mode), "{:x?} {:?}", bytes, mode);
    }
}
