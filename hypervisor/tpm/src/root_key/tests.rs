use super::*;
use crate::difference::Difference;
use crate::error::Fault;
use crate::measurement::{SEALED_PCRS, What};
use crate::testing::Chip;
use crate::{Digest, PcrSet, Tpm, TpmError};
use proptest::prelude::*;
use std::string::{String, ToString};
use std::vec;

const SECRET: [u8; 32] = *b"thirty-two bytes of a root key..";

/// What is measured at a boot, in this order.
fn files() -> Vec<(What, &'static [u8])> {
    let payload = |path: &str| What::Payload(String::from(path));
    vec![
        (What::Image, b"the image"),
        (What::Manifest, b"the manifest"),
        (payload("vmlinuz"), b"a kernel"),
        (payload("disk.img"), b"a disk"),
    ]
}

/// The chip, and what Bulkhead noted, after a boot with these files.
fn boot(files: &[(What, &[u8])]) -> (Chip, Vec<Measurement>) {
    let mut chip = Chip::new(1);
    for pcr in 0..8 {
        chip.extend(pcr, b"firmware");
    }
    let mut measured = Vec::new();
    for (what, bytes) in files {
        chip.extend(what.pcr(), bytes);
        measured.push(Measurement {
            what: what.clone(),
            digest: Digest::of(&[bytes]),
        });
    }
    (chip, measured)
}

fn secret() -> Secret {
    let mut secret = Secret::default();
    secret.copy_from_slice(&SECRET);
    secret
}

/// What a first boot stores.
fn stored() -> Vec<u8> {
    let (mut chip, measured) = boot(&files());
    let stored = make(&mut Tpm::new(&mut chip), &secret(), &measured).unwrap();
    assert_eq!(chip.left_over(), 0);
    stored
}

/// What differs, when what was stored is unsealed after a boot with `files`.
fn refusal(files: &[(What, &[u8])]) -> Vec<Difference> {
    let (mut chip, measured) = boot(files);
    let refused = unseal(&mut Tpm::new(&mut chip), &stored(), &measured);
    assert_eq!(chip.left_over(), 0);
    match refused {
        Err(RootKeyError::Refused { id, differences }) => {
            assert_eq!(id, super::id(&stored()));
            differences
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_same_boot_gets_the_key_back() {
    let (mut chip, measured) = boot(&files());
    let got = unseal(&mut Tpm::new(&mut chip), &stored(), &measured).unwrap();
    assert_eq!(**got, SECRET);
    assert_eq!(chip.left_over(), 0);
}

#[test]
fn each_changed_file_is_named_and_no_other() {
    for changed in 0..files().len() {
        let mut files = files();
        files[changed].1 = b"another";
        let what = files[changed].0.clone();
        assert_eq!(refusal(&files), [Difference::Changed(what)]);
    }
}

#[test]
fn files_that_came_or_went_are_named() {
    let mut fewer = files();
    let gone = fewer.pop().unwrap().0;
    assert_eq!(refusal(&fewer), [Difference::Gone(gone)]);
    let mut more = files();
    let new = What::Payload("new".to_string());
    more.push((new.clone(), b"x"));
    assert_eq!(refusal(&more), [Difference::New(new)]);
}

#[test]
fn files_in_another_order_are_told_by_their_pcr() {
    let mut files = files();
    files.swap(2, 3);
    assert_eq!(refusal(&files), [Difference::Unexplained(13)]);
}

#[test]
fn a_changed_firmware_is_told_by_its_pcr_where_the_policy_has_it() {
    for pcr in 0..8 {
        let (mut chip, measured) = boot(&files());
        chip.extend(pcr, b"an update");
        let got = unseal(&mut Tpm::new(&mut chip), &stored(), &measured);
        match got {
            Err(RootKeyError::Refused { differences, .. }) => {
                assert_eq!(differences, [Difference::Firmware(pcr)]);
                assert!(SEALED_PCRS.has(pcr));
            }
            Ok(_) => assert!(!SEALED_PCRS.has(pcr)),
            Err(other) => panic!("{other}"),
        }
    }
}

#[test]
fn after_the_separator_nobody_unseals() {
    let (mut chip, measured) = boot(&files());
    chip.extend(11, &[0; 4]);
    let got = unseal(&mut Tpm::new(&mut chip), &stored(), &measured);
    assert!(matches!(got, Err(RootKeyError::Refused { .. })), "{got:?}");
}

#[test]
fn another_chip_does_not_unseal() {
    let (mut chip, measured) = boot(&files());
    chip.identity = 2;
    let got = unseal(&mut Tpm::new(&mut chip), &stored(), &measured);
    assert!(matches!(got, Err(RootKeyError::Foreign { .. })), "{got:?}");
    assert_eq!(chip.left_over(), 0);
}

/// Somebody who boots something else on this machine, and knows which values Bulkhead's policy asks for.
#[test]
fn a_key_that_somebody_else_sealed_for_us_is_not_taken() {
    let (mut ours, measured) = boot(&files());
    let wanted = Tpm::new(&mut ours).pcrs(SEALED_PCRS).unwrap();
    let (mut chip, _) = boot(&[(What::Image, b"another program")]);
    let object = {
        use crate::command;
        // By hand: the tool that seals with the policy of values that are not there does not exist here.
        let create = |root| command::create_sealed(root, &SECRET, &wanted.policy(), SEALED_PCRS);
        crate::chip::testing::seal_by(&mut Tpm::new(&mut chip), create).unwrap()
    };
    let forged = |object| {
        SealedKey {
            pcrs: wanted.clone(),
            object,
            measurements: measured.clone(),
            complete: true,
        }
        .encode()
    };
    let got = unseal(&mut Tpm::new(&mut ours), &forged(object.clone()), &measured);
    assert!(matches!(got, Err(RootKeyError::Forged { .. })), "{got:?}");
    // Nor does it help to say something else about how it was made.
    let mut lying = object;
    lying.creation = SealedKey::decode(&stored()).unwrap().object.creation;
    let got = unseal(&mut Tpm::new(&mut ours), &forged(lying), &measured);
    assert!(matches!(got, Err(RootKeyError::Forged { .. })), "{got:?}");
    assert_eq!(ours.left_over(), 0);
}

#[test]
fn what_is_stored_is_unsealed_unless_it_is_given_up() {
    let stored = stored();
    let id = id(&stored);
    assert_eq!(decide(None, None), Step::Make);
    assert_eq!(decide(None, Some(id)), Step::Make);
    assert_eq!(decide(Some(&stored), None), Step::Unseal(&stored));
    assert_eq!(decide(Some(&stored), Some(id ^ 1)), Step::Unseal(&stored));
    assert_eq!(decide(Some(&stored), Some(id)), Step::Make);
}

#[test]
fn a_new_key_that_does_not_come_back_is_not_returned() {
    const UNSEAL: u32 = 0x15e;
    // Another secret, a policy that is not satisfied at once, an object that it does not know again.
    for refused in [None, Some((UNSEAL, 0x99d)), Some((0x157, 0x1df))] {
        let (mut chip, measured) = boot(&files());
        chip.refuse = refused;
        chip.tamper = Some(std::boxed::Box::new(|_, answer| {
            let at = answer.windows(32).position(|bytes| bytes == SECRET);
            // Where the object has it, it is not in the clear with a real one.
            if let Some(at) = at.filter(|_| answer.len() < 64) {
                answer[at] ^= 1;
            }
        }));
        let made = make(&mut Tpm::new(&mut chip), &secret(), &measured);
        assert_eq!(made, Err(RootKeyError::NotGivenBack), "{refused:?}");
        assert_eq!(chip.left_over(), 0);
    }
    let (mut chip, measured) = boot(&files());
    chip.refuse = Some((UNSEAL, 0x902));
    let made = make(&mut Tpm::new(&mut chip), &secret(), &measured);
    assert!(matches!(made, Err(RootKeyError::Tpm(_))), "{made:?}");
}

#[test]
fn errors_say_what_differs_and_what_to_do() {
    let mut files = files();
    files[1].1 = b"another";
    let (mut chip, measured) = boot(&files);
    let error = unseal(&mut Tpm::new(&mut chip), &stored(), &measured).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("Different: manifest (changed)."), "{text}");
    let id = id(&stored());
    assert!(
        text.contains(&std::format!("`reseal = \"{id:08x}\"`")),
        "{text}"
    );
    assert!(
        !text.contains("image") && !text.contains("vmlinuz"),
        "{text}"
    );
}

#[test]
fn a_chip_that_is_busy_is_asked_again_and_not_for_ever() {
    let (mut chip, measured) = boot(&files());
    for busy in [5, 499] {
        chip.busy = busy;
        assert!(unseal(&mut Tpm::new(&mut chip), &stored(), &measured).is_ok());
    }
    chip.busy = u32::MAX;
    let error = unseal(&mut Tpm::new(&mut chip), &stored(), &measured).unwrap_err();
    assert!(error.to_string().contains("stayed busy"), "{error}");
}

#[test]
fn a_chip_without_the_bank_is_told_about() {
    let (mut chip, measured) = boot(&files());
    chip.bank = false;
    let error = make(&mut Tpm::new(&mut chip), &secret(), &measured).unwrap_err();
    assert!(
        error.to_string().contains("SHA-256 PCR bank is off"),
        "{error}"
    );
}

/// A firmware that fills another bank, one that leaves out a PCR, a TPM that answers nothing but ones.
#[test]
fn no_key_is_bound_to_a_pcr_that_nothing_was_measured_into() {
    let (mut chip, measured) = boot(&files());
    for pcr in SEALED_PCRS.iter() {
        let filled = chip.pcrs[usize::from(pcr)];
        for value in [0x00, 0xff] {
            chip.pcrs[usize::from(pcr)] = Digest([value; 32]);
            let untouched = RootKeyError::NotMeasured { pcr };
            let made = make(&mut Tpm::new(&mut chip), &secret(), &measured);
            assert_eq!(made, Err(untouched.clone()));
            // Nor is one given out that was sealed by who did not look.
            let got = unseal(&mut Tpm::new(&mut chip), &stored(), &measured);
            assert_eq!(got, Err(untouched.clone()));
            assert!(untouched.to_string().contains(&std::format!("PCR {pcr} (")));
        }
        chip.pcrs[usize::from(pcr)] = filled;
    }
    assert!(!chip.commands.contains(&0x153), "something was sealed");
    assert!(make(&mut Tpm::new(&mut chip), &secret(), &measured).is_ok());
}

#[test]
fn refusals_leave_nothing_in_the_chip_and_name_the_command() {
    for (code, name) in [
        (0x131, "TPM2_CreatePrimary"),
        (0x157, "TPM2_Load"),
        (0x176, "TPM2_StartAuthSession"),
        (0x17f, "TPM2_PolicyPCR"),
        (0x15e, "TPM2_Unseal"),
        (0x17e, "TPM2_PCR_Read"),
    ] {
        let (mut chip, measured) = boot(&files());
        chip.refuse = Some((code, 0x902));
        let error = unseal(&mut Tpm::new(&mut chip), &stored(), &measured).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains(name) && text.contains("no memory left"),
            "{text}"
        );
        assert_eq!(chip.left_over(), 0, "{name}");
    }
}

#[test]
fn an_owner_with_a_password_is_told_what_to_do() {
    let (mut chip, measured) = boot(&files());
    chip.refuse = Some((0x131, 0x9a2));
    let error = make(&mut Tpm::new(&mut chip), &secret(), &measured).unwrap_err();
    assert!(
        error.to_string().contains("owner has a password"),
        "{error}"
    );
}

/// `printf '%s%s' 'Bulkhead root key fingerprint' 'thirty-two bytes of a root key..' | sha256sum`
#[test]
fn a_fingerprint_is_the_digest_that_the_page_of_events_says() {
    let expected = [0x92, 0x96, 0x16, 0xd7, 0x42, 0xfa, 0x36, 0x26];
    assert_eq!(fingerprint(&secret()), expected);
}

#[test]
fn without_entropy_there_is_no_key() {
    assert!(mix(&Entropy::default()).is_none());
}

#[test]
fn what_gave_random_bytes_is_named() {
    let mut entropy = Entropy::default();
    assert_eq!(entropy.to_string(), "");
    entropy.tpm = Some([1; 32]);
    assert_eq!(entropy.to_string(), "TPM");
    entropy.processor = Some([1; 32]);
    assert_eq!(entropy.to_string(), "processor, TPM");
}

#[test]
fn every_source_matters_and_where_it_comes_from() {
    let keys: Vec<_> = [
        (Some(1), None, None),
        (None, Some(1), None),
        (None, None, Some(1)),
        (Some(1), Some(1), None),
        (Some(1), Some(1), Some(1)),
        (Some(2), Some(1), Some(1)),
        (Some(1), Some(2), Some(1)),
        (Some(1), Some(1), Some(2)),
    ]
    .into_iter()
    .map(|(processor, firmware, tpm)| {
        let filled = |byte: Option<u8>| byte.map(|byte| [byte; 32]);
        let entropy = Entropy {
            processor: filled(processor),
            firmware: filled(firmware),
            tpm: filled(tpm),
        };
        **mix(&entropy).unwrap()
    })
    .collect();
    for (index, key) in keys.iter().enumerate() {
        assert!(!keys[..index].contains(key), "{index}");
    }
}

#[test]
fn random_bytes_come_in_pieces_until_all_are_there() {
    let mut chip = Chip::new(1);
    let mut bytes = [0; 100];
    Tpm::new(&mut chip).random(&mut bytes).unwrap();
    assert_eq!(bytes, [0x5a; 100]);
    assert_eq!(chip.commands.len(), 4);
}

#[test]
fn pcrs_come_eight_at_a_time_until_all_are_there() {
    let (mut chip, _) = boot(&files());
    let all = PcrSet::from_bits(0xff_ffff).unwrap();
    let values = Tpm::new(&mut chip).pcrs(all).unwrap();
    assert_eq!(values.set(), all);
    assert!((0..24).all(|pcr| values.get(pcr) == Some(&chip.pcrs[usize::from(pcr)])));
    assert_eq!(chip.commands.len(), 3);
}

fn tampered(tamper: impl FnMut(usize, &mut Vec<u8>) + 'static) -> Result<Secret, RootKeyError> {
    let (mut chip, measured) = boot(&files());
    chip.tamper = Some(std::boxed::Box::new(tamper));
    unseal(&mut Tpm::new(&mut chip), &stored(), &measured)
}

#[test]
fn an_answer_cut_short_is_an_error_that_says_where() {
    // Up to TPM2_Unseal, not counting what is only flushed.
    for number in 0..6 {
        for length in 0..40 {
            let cut = move |which, answer: &mut Vec<u8>| {
                // The buffer behind it holds zeroes.
                if which == number && answer.len() > length {
                    answer.truncate(length);
                    if let Some(size) = answer.get_mut(2..6) {
                        size.copy_from_slice(&(length as u32).to_be_bytes());
                    }
                }
            };
            match tampered(cut) {
                Ok(key) => assert_eq!(**key, SECRET, "{number} {length}"),
                Err(error) => assert!(!error.to_string().is_empty()),
            }
        }
    }
    let empty = tampered(|_, answer| answer.clear()).unwrap_err();
    let RootKeyError::Tpm(TpmError { fault, .. }) = empty else {
        panic!("{empty:?}")
    };
    assert_eq!(
        fault,
        Fault::Malformed {
            at: 2,
            what: "responseSize"
        }
    );
}

proptest! {
    /// Whatever a chip answers: no panic, no endless loop, and no key of another length.
    #[test]
    fn mutated_answers_are_survived(
        number in 0usize..12, at in 0usize..200, to in any::<u8>(), cut in 0usize..200,
    ) {
        let done = tampered(move |which, answer| {
            if which == number {
                if let Some(byte) = answer.get_mut(at) {
                    *byte = to;
                }
                answer.truncate(answer.len().min(answer.len().saturating_sub(cut % 40)));
            }
        });
        if let Err(error) = done {
            prop_assert!(!error.to_string().is_empty());
        }
    }

    #[test]
    fn random_answers_are_survived(answers in prop::collection::vec(any::<u8>(), 0..300)) {
        let done = tampered(move |which, answer| {
            if which == 0 {
                *answer = answers.clone();
            }
        });
        prop_assert!(done.is_err() || answers_do_not_matter(&done));
    }
}

/// A random answer may happen to be a good one: then the key is the right one.
fn answers_do_not_matter(done: &Result<Secret, RootKeyError>) -> bool {
    done.as_ref().is_ok_and(|key| ***key == SECRET)
}
