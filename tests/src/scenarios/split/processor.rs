//! The split on processors that have less for it: the same holds there, at the price of exits.

use super::guest::{DEBIAN_6_1, Guest};
use super::mistakes::{self, Split};
use super::stress::{self, Length};
use crate::context::{Context, Setup};
use crate::lab::SPLIT;
use crate::manifest::Manifest;
use crate::outcome::{Outcome, ensure};
use crate::scenario::{Ground, Scenario};

const LIMIT: u64 = 180;
const LINUX_LIMIT: u64 = 900;

/// What a processor has that the split uses; Bulkhead does without the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Processor {
    /// It tells user code from the kernel's: mode-based execute control.
    pub mbec: bool,
    /// Guests switch views by themselves.
    pub vmfunc: bool,
}

impl Processor {
    /// Everything.
    pub const ALL: Self = Self {
        mbec: true,
        vmfunc: true,
    };
    const NONE: Self = Self {
        mbec: false,
        vmfunc: false,
    };

    /// Lines of `[hypervisor]` for it.
    pub const fn hypervisor(self) -> &'static str {
        match (self.mbec, self.vmfunc) {
            (true, true) => "",
            (true, false) => "vmfunc = \"off\"",
            (false, true) => "mbec = \"off\"",
            (false, false) => "mbec = \"off\"\nvmfunc = \"off\"",
        }
    }

    /// Lines of a VM with the split on it.
    pub fn vm(self) -> String {
        match self {
            Self::NONE => "split = true\nsplit_unaided = true".to_owned(),
            _ => "split = true".to_owned(),
        }
    }
}

const LESSER: [(&str, Processor); 3] = [
    (
        "no-vmfunc",
        Processor {
            vmfunc: false,
            ..Processor::ALL
        },
    ),
    (
        "no-mbec",
        Processor {
            mbec: false,
            ..Processor::ALL
        },
    ),
    ("neither", Processor::NONE),
];

pub fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario::new(
            "split_without_vmfunc_user_code_reaches_nothing_either",
            Ground::Vmx,
            LIMIT,
            |context| cases(context, LESSER[0].1),
        ),
        Scenario::new(
            "split_without_mbec_user_code_reaches_nothing_either",
            Ground::Vmx,
            LIMIT,
            |context| cases(context, LESSER[1].1),
        ),
        Scenario::new(
            "split_with_neither_user_code_reaches_nothing_either",
            Ground::Vmx,
            LIMIT,
            |context| cases(context, LESSER[2].1),
        ),
        Scenario::new(
            "split_with_neither_is_refused_unless_asked_for",
            Ground::Vmx,
            LIMIT,
            refused,
        ),
        Scenario::new(
            "split_linux_works_without_mbec",
            Ground::Bochs,
            LINUX_LIMIT,
            |context| linux(context, &LESSER[1..2]),
        )
        .with_payloads(&[DEBIAN_6_1.image, DEBIAN_6_1.initrd]),
        Scenario::new(
            "split_linux_works_on_each_lesser_processor",
            Ground::Bochs,
            LINUX_LIMIT,
            |context| linux(context, &LESSER),
        )
        .with_payloads(&[DEBIAN_6_1.image, DEBIAN_6_1.initrd])
        .only_when_long(),
    ]
}

fn cases(context: &Context<'_>, processor: Processor) -> Outcome {
    let counts = mistakes::all_cases(context, Split::On(processor))?;
    let finds = counts["code"].as_u64() > Some(0);
    ensure(finds != processor.mbec, || {
        format!("the kernel's code is found: {counts}")
    })
}

/// The VM is not started, and the error says what to do about it.
fn refused(context: &Context<'_>) -> Outcome {
    let mut manifest = Manifest::of(SPLIT).with("split = true");
    manifest.hypervisor = Processor::NONE.hypervisor();
    let mut machine = context.start(context.boot_guest(&manifest)?, Setup::default())?;
    let error = machine.event("halt", 0)?.text("error").to_owned();
    for words in [
        "`split` wants a processor with",
        "write `split_unaided = true`",
    ] {
        ensure(error.contains(words), || error.clone())?;
    }
    machine.expect("no VM runs\n")?;
    let started = machine.count("vm-start", |_| true);
    ensure(started == 0, || format!("{started} VMs were started"))?;
    machine.ensure_events(&["boot", "halt"])
}

/// A round of the stress is as it is without the split.
fn linux(context: &Context<'_>, processors: &[(&'static str, Processor)]) -> Outcome {
    let without = stress::run(
        context,
        Guest {
            part: "without",
            ..Guest::of(DEBIAN_6_1)
        },
        Length::Rounds(1),
    )?;
    for (part, processor) in processors {
        let guest = Guest {
            part,
            split: true,
            processor: *processor,
            ..Guest::of(DEBIAN_6_1)
        };
        let with = stress::run(context, guest, Length::Rounds(1))?;
        let differences = without.differences(&with);
        ensure(differences.is_empty(), || differences.join("\n"))?;
    }
    Ok(())
}
