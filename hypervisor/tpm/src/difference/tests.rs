use super::*;
use crate::Digest;
use crate::chip::SealedObject;
use crate::pcr::PcrValues;
use std::string::ToString;
use std::vec;

fn values(image: u8, payloads: u8, firmware: u8) -> PcrValues {
    let mut values = PcrValues::default();
    for (pcr, value) in [(4, firmware), (11, image), (13, payloads)] {
        values.put(pcr, Digest([value; 32]));
    }
    values
}

fn measured(image: u8, payload: u8) -> Vec<Measurement> {
    vec![
        Measurement {
            what: What::Image,
            digest: Digest([image; 32]),
        },
        Measurement {
            what: What::Payload("disk.img".to_string()),
            digest: Digest([payload; 32]),
        },
    ]
}

fn sealed(complete: bool) -> SealedKey {
    SealedKey {
        pcrs: values(1, 1, 1),
        object: SealedObject {
            public: Vec::new(),
            private: Vec::new(),
            creation: Vec::new(),
            ticket: Vec::new(),
        },
        measurements: measured(1, 1),
        complete,
    }
}

#[test]
fn nothing_differs_from_itself() {
    assert!(differences(&sealed(true), &measured(1, 1), &values(1, 1, 1)).is_empty());
}

#[test]
fn another_image_is_named_beside_what_the_firmware_started() {
    let found = differences(&sealed(true), &measured(2, 1), &values(2, 1, 2));
    assert_eq!(
        found,
        [Difference::Changed(What::Image), Difference::Firmware(4)]
    );
    assert_eq!(
        List(&found).to_string(),
        "image (changed); PCR 4: what the firmware started"
    );
}

#[test]
fn several_differences_are_all_named() {
    let found = differences(&sealed(true), &measured(2, 2)[..1], &values(2, 2, 1));
    let payload = What::Payload("disk.img".to_string());
    assert_eq!(
        found,
        [Difference::Changed(What::Image), Difference::Gone(payload)]
    );
}

#[test]
fn a_list_cut_short_does_not_make_the_rest_new() {
    let mut more = measured(1, 1);
    more.push(Measurement {
        what: What::Payload("new".to_string()),
        digest: Digest([9; 32]),
    });
    let found = differences(&sealed(true), &more, &values(1, 2, 1));
    assert_eq!(found, [Difference::New(What::Payload("new".to_string()))]);
    let found = differences(&sealed(false), &more, &values(1, 2, 1));
    assert_eq!(found, [Difference::Unnoted(13)]);
    assert!(List(&found).to_string().contains("no room to note"));
    // Image and manifest are noted in any case.
    let found = differences(&sealed(false), &measured(1, 1), &values(2, 1, 1));
    assert_eq!(found, [Difference::Unexplained(11)]);
}

#[test]
fn a_pcr_that_cannot_be_read_differs() {
    let mut found = differences(&sealed(true), &measured(1, 1), &PcrValues::default());
    found.sort_by_key(|difference| matches!(difference, Difference::Firmware(_)));
    let own = [Difference::Unexplained(11), Difference::Unexplained(13)];
    assert_eq!(found[..2], own);
    assert_eq!(found[2], Difference::Firmware(4));
}
