//! What the routines promise about registers, seen from outside: assembly fills all vector registers, calls, and looks.

use super::*;
use crate::cpu::Path;
use crate::testing::implementations;
use core::arch::asm;
use std::is_x86_feature_detected;
use std::mem::ManuallyDrop;

const REGISTERS: usize = 16;

/// Every vector register's bits: 64 bytes each where the processor has AVX-512, else 32, and 32 that stay as they are.
#[derive(Clone, PartialEq, Eq, Debug)]
#[repr(C, align(64))]
struct Registers([[u8; 64]; REGISTERS]);

/// Arguments of any routine, in the convention's order.
type Arguments = [usize; 6];

/// Loads `registers`, calls `routine`, stores the registers there again.
fn call_with(registers: &mut Registers, routine: usize, arguments: Arguments) {
    let [rdi, rsi, rdx, rcx, r8, r9] = arguments;
    let registers = registers.0.as_mut_ptr();
    if is_x86_feature_detected!("avx512f") {
        // SAFETY: the tests below pass a routine of this module and what it asks for; all that the convention lets it change is
        // declared, and R12 and R13 it keeps.
        unsafe {
            asm!(
                ".irp i, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15",
                "vmovdqa64 zmm\\i, zmmword ptr [r12 + 64*\\i]",
                ".endr",
                "call r13",
                ".irp i, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15",
                "vmovdqa64 zmmword ptr [r12 + 64*\\i], zmm\\i",
                ".endr",
                "vzeroupper",
                in("r12") registers, in("r13") routine,
                in("rdi") rdi, in("rsi") rsi, in("rdx") rdx, in("rcx") rcx, in("r8") r8, in("r9") r9,
                clobber_abi("sysv64"),
            );
        }
    } else if is_x86_feature_detected!("avx") {
        // SAFETY: as above.
        unsafe {
            asm!(
                ".irp i, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15",
                "vmovdqa ymm\\i, ymmword ptr [r12 + 64*\\i]",
                ".endr",
                "call r13",
                ".irp i, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15",
                "vmovdqa ymmword ptr [r12 + 64*\\i], ymm\\i",
                ".endr",
                "vzeroupper",
                in("r12") registers, in("r13") routine,
                in("rdi") rdi, in("rsi") rsi, in("rdx") rdx, in("rcx") rcx, in("r8") r8, in("r9") r9,
                clobber_abi("sysv64"),
            );
        }
    } else {
        eprintln!("skipped: this processor has no AVX");
    }
}

/// Calls `routine` with every register full of something else, and checks that all end as they were.
fn check_registers(routine: usize, arguments: impl FnOnce(*mut SaveArea) -> Arguments) {
    let mut area = SaveArea::new();
    let before = Registers(core::array::from_fn(|register| {
        core::array::from_fn(|byte| (register * 67 + byte * 5 + 1) as u8)
    }));
    let mut after = before.clone();
    call_with(&mut after, routine, arguments(&mut area));
    assert_eq!(after, before);
    assert!(area.is_empty());
}

/// Whether the host can run the routines of this form.
fn available(form: Form) -> bool {
    let path = match form {
        Form::AesNi => Path::AesNi,
        Form::Vaes => Path::Vaes,
    };
    implementations().iter().any(|one| one.path() == path)
}

#[test]
fn key_schedules_leave_every_vector_register_alone() {
    if !available(Form::AesNi) {
        return eprintln!("skipped: this processor has no AES-NI");
    }
    let key = [0x42_u8; 32];
    let mut encrypt = RoundKeys::ZERO;
    let to = &raw mut encrypt;
    check_registers(
        bulkhead_crypto_aes256_expand as *const () as usize,
        |area| [key.as_ptr() as usize, to as usize, area as usize, 0, 0, 0],
    );
    assert_eq!(encrypt.0[0], [0x42; 32]);
    let mut decrypt = RoundKeys::ZERO;
    let to = &raw mut decrypt;
    check_registers(
        bulkhead_crypto_aes256_invert as *const () as usize,
        |area| {
            [
                &raw const encrypt as usize,
                to as usize,
                area as usize,
                0,
                0,
                0,
            ]
        },
    );
    assert_eq!(decrypt.0[14], [0x42; 32]);
}

#[test]
fn xts_leaves_every_vector_register_alone() {
    for form in [Form::AesNi, Form::Vaes] {
        if !available(form) {
            eprintln!("skipped: this processor has no {form:?}");
            continue;
        }
        for direction in [Direction::Encrypt, Direction::Decrypt] {
            // Without the loop, with it alone, and with blocks left after it.
            for count in [0, 3, 16, 256, 37] {
                let schedule = XtsSchedule::ZERO;
                let mut blocks = vec![[0_u8; 16]; count];
                let data = blocks.as_mut_ptr() as usize;
                let tweak = [1_u8; 16];
                check_registers(xts_routine(form, direction) as *const () as usize, |area| {
                    let schedule = &raw const schedule as usize;
                    [
                        schedule,
                        tweak.as_ptr() as usize,
                        data,
                        data,
                        count,
                        area as usize,
                    ]
                });
                assert!(blocks.iter().all(|block| *block != [0; 16]));
            }
        }
    }
}

#[test]
fn the_tag_leaves_every_vector_register_alone() {
    let routines = [
        (Form::AesNi, bulkhead_crypto_tag_clmul as *const () as usize),
        (
            Form::Vaes,
            bulkhead_crypto_tag_vpclmul as *const () as usize,
        ),
    ];
    for (form, routine) in routines {
        if !available(form) {
            eprintln!("skipped: this processor has no {form:?}");
            continue;
        }
        let schedule = TagSchedule::ZERO;
        let groups = [[[1_u8; 16]; TAG_GROUP]; 3];
        let last = [[2_u8; 16]; 2];
        let mut tag = [0_u8; 16];
        let to = &raw mut tag;
        check_registers(routine, |area| {
            let schedule = &raw const schedule as usize;
            let (groups, last) = (groups.as_ptr() as usize, last.as_ptr() as usize);
            [schedule, groups, 3, last, to as usize, area as usize]
        });
        assert_ne!(tag, [0; 16]);
    }
}

#[test]
fn a_dropped_schedule_is_all_zeroes() {
    if !available(Form::AesNi) {
        return eprintln!("skipped: this processor has no AES-NI");
    }
    let mut schedule = ManuallyDrop::new(XtsSchedule::ZERO);
    schedule.fill(&[1; 32], &[2; 32], &mut SaveArea::new());
    let parts = |schedule: &XtsSchedule| {
        let XtsSchedule {
            encrypt,
            decrypt,
            tweak,
        } = schedule;
        [encrypt.0, decrypt.0, tweak.0].concat().concat()
    };
    assert!(parts(&schedule).iter().filter(|byte| **byte != 0).count() > 1000);
    // SAFETY: it is dropped once, and looked at afterwards as the plain bytes that its parts are made of.
    unsafe { ManuallyDrop::drop(&mut schedule) };
    assert!(parts(&schedule).iter().all(|byte| *byte == 0));
}
