//! The VMs' owner, on the boot CPU: starts, ends and starts again, looks at the console, follows the clock.
//!
//! [`Control::step`] does a little and comes back: the boot CPU runs vCPUs too. What a VM does next is decided by its
//! `Lifecycle`; this module carries it out.

use super::Vm;
use super::run::Running;
use super::shared::{Ending, VmBus, Wanted};
use crate::arch::cpu::{self, rdtsc};
use crate::arch::power::PowerOff;
use crate::console::{self, CONSOLE, EVENTS};
use crate::memory::guest::GuestSpace;
use crate::pcpu::call;
use crate::vmx::operation;
use crate::{events, memory, vm};
use alloc::boxed::Box;
use alloc::vec::Vec;
use bulkhead_core::addr::{Frame, FrameCount};
use bulkhead_core::call::Requests;
use bulkhead_core::events::{Counters as CounterEvent, Event, Ticks};
use bulkhead_core::ledger::{FrameRun, SCRUB_FRAMES};
use bulkhead_core::lifecycle::{Action, End, Lifecycle, State};
use bulkhead_core::vcpu::counters::Counters;
use core::time::Duration;

/// The console is looked at so many times a second.
const LOOKS_PER_SECOND: u64 = 500;

/// Everything the boot CPU looks after.
pub struct Control {
    vms: Vec<Controlled>,
    power: PowerOff,
    next_look: u64,
}

struct Controlled {
    vm: Vm,
    life: Lifecycle,
    work: Work,
    /// Its vCPUs are with their CPUs.
    out: bool,
    /// Its memory holds what a run left.
    used: bool,
    /// What ended the run before.
    last: Option<End>,
}

/// What is being done with a VM, a piece at a time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Work {
    None,
    /// Zeroing frames: the index of the run, and the frame in it.
    Clear(usize, Frame),
    Load,
}

impl Control {
    /// Looks after `vms`, none of which runs yet.
    #[must_use]
    pub fn new(vms: Vec<Vm>, power: PowerOff) -> Self {
        let vms = vms
            .into_iter()
            .map(|vm| Controlled {
                life: Lifecycle::new(vm.plan.restart, vm.plan.stop_timeout),
                vm,
                work: Work::None,
                out: false,
                used: false,
                last: None,
            })
            .collect();
        Self {
            vms,
            power,
            next_look: 0,
        }
    }

    /// Starts the VMs that start with the machine.
    pub fn start(&mut self) {
        let now = uptime(rdtsc());
        for vm in self.vms.iter_mut().filter(|vm| vm.vm.plan.autostart) {
            if let Ok(action) = vm.life.order(bulkhead_core::lifecycle::Order::Start, now) {
                vm.apply(action);
            }
        }
    }

    /// Does what is due at host TSC `now`, and says when it wants to be called again.
    pub fn step(&mut self, now: u64) -> u64 {
        if now >= self.next_look {
            let period = u64::from(vm::tsc_khz()) * 1000 / LOOKS_PER_SECOND;
            self.next_look = now.saturating_add(period);
            EVENTS.lock().pump();
            for vm in &self.vms {
                console::exchange(&vm.vm.shared);
            }
            console::pump();
        }
        let mut busy = false;
        for vm in &mut self.vms {
            busy |= vm.step(now);
        }
        if self
            .vms
            .iter()
            .all(|vm| vm.life.state() == State::Stopped && !vm.out)
        {
            self.switch_off();
        }
        if busy { now } else { self.next_look }
    }

    /// Every VM has stopped.
    fn switch_off(&self) -> ! {
        log::info!("every VM has stopped; switching the machine off");
        events::send(&Event::MachineOff {
            reason: &"every VM has stopped",
        });
        CONSOLE.lock().serial.flush();
        EVENTS.lock().flush();
        if let Err(silent) = call::elsewhere(Requests::LEAVE) {
            log::warn!("{silent}");
        }
        operation::turn_off();
        self.power.now();
        cpu::stop()
    }
}

/// The time since the TSC was 0.
fn uptime(now: u64) -> Duration {
    Duration::from_millis(now / u64::from(vm::tsc_khz()))
}

impl Controlled {
    /// A piece of what is to be done; true where more is to be done at once.
    fn step(&mut self, now: u64) -> bool {
        if self.out && self.vm.shared.returned.lock().len() == self.vm.shared.vcpus.len() {
            self.ended(now);
        }
        if self.life.state() == State::Running
            && self.vm.shared.devices.lock().watchdog_expired(now)
        {
            self.vm.shared.end(Ending {
                end: End::Watchdog,
                rip: None,
            });
        }
        let action = self.life.tick(uptime(now));
        self.apply(action);
        self.work()
    }

    fn apply(&mut self, action: Action) {
        let shared = &self.vm.shared;
        match action {
            Action::Nothing => {}
            Action::LoadAndRun => {
                self.work = match self.vm.frames.first() {
                    Some(run) if self.used => Work::Clear(0, run.first),
                    _ => Work::Load,
                };
            }
            Action::Park => shared.want(Wanted::Parked),
            Action::Unpark => shared.want(Wanted::Run),
            Action::PressPowerButton { unpark } => {
                shared.devices.lock().press_power_button(&mut VmBus(shared));
                if unpark {
                    shared.want(Wanted::Run);
                }
            }
            Action::HardStop => shared.end(Ending {
                end: End::Operator,
                rip: None,
            }),
        }
    }

    /// The next piece of work; true where there is more.
    fn work(&mut self) -> bool {
        match self.work {
            Work::None => return false,
            Work::Clear(index, from) => self.clear(index, from),
            Work::Load => {
                self.work = Work::None;
                self.load();
            }
        }
        self.work != Work::None
    }

    fn clear(&mut self, index: usize, from: Frame) {
        let Some(run) = self.vm.frames.get(index) else {
            self.work = Work::Load;
            return;
        };
        let count = FrameCount((run.end().0 - from.0).min(SCRUB_FRAMES));
        let piece = FrameRun::new(from, count);
        if let Err(error) = GuestSpace::clear(self.vm.shared.id, piece) {
            panic!("VM \"{}\" cannot be cleared: {error}", self.vm.plan.name);
        }
        self.work = if piece.end() < run.end() {
            Work::Clear(index, piece.end())
        } else {
            match self.vm.frames.get(index + 1) {
                Some(next) => Work::Clear(index + 1, next.first),
                None => Work::Load,
            }
        };
    }

    fn load(&mut self) {
        let name = self.vm.plan.name.as_str();
        if let Some(end) = self.last {
            let count = self.life.restarts() + 1;
            log::info!("VM \"{name}\" starts again (restart {count})");
            events::send(&Event::VmRestart {
                vm: name,
                reason: &end,
                count,
            });
        } else {
            log::info!("starting VM \"{name}\"");
        }
        events::send(&Event::VmStart { vm: name });
        self.used = true;
        match self.vm.start(self.last == Some(End::Watchdog)) {
            Ok(()) => {
                self.out = true;
                let action = self.life.started(uptime(rdtsc()));
                self.apply(action);
            }
            Err(error) => {
                log::error!("VM \"{name}\" cannot be started: {error}");
                events::send(&Event::VmStop {
                    vm: name,
                    reason: &error,
                });
                self.life.failed();
            }
        }
    }

    /// All vCPUs came back.
    fn ended(&mut self, now: u64) {
        self.out = false;
        let vcpus = core::mem::take(&mut *self.vm.shared.returned.lock());
        let ending = self.vm.shared.ending.lock().take();
        let ending = ending.unwrap_or(Ending {
            end: End::Operator,
            rip: None,
        });
        console::drain(&self.vm.shared);
        self.vm.disconnect();
        self.report(&vcpus, ending);
        drop(vcpus);
        self.last = Some(ending.end);
        let action = self.life.ended(ending.end, uptime(now));
        if let State::BackOff { until } = self.life.state() {
            let delay = until.saturating_sub(uptime(now));
            log::warn!(
                "VM \"{}\" starts again in {} s: it crashed {} times in a row",
                self.vm.plan.name,
                delay.as_secs(),
                self.life.crashes_in_a_row()
            );
            events::send(&Event::VmBackOff {
                vm: self.vm.plan.name.as_str(),
                reason: &ending.end,
                crashes: self.life.crashes_in_a_row(),
                delay,
            });
        }
        self.apply(action);
    }

    fn report(&self, vcpus: &[Box<Running>], ending: Ending) {
        let vm = self.vm.plan.name.as_str();
        let Ending { end, rip } = ending;
        CONSOLE.lock().fresh_line();
        match rip {
            Some(rip) if end.is_crash() => {
                log::warn!("VM \"{vm}\" is stopped at {rip}: {end}");
                events::send(&Event::GuestFault {
                    vm,
                    what: end.name(),
                    rip: rip.0,
                    detail: &end,
                });
            }
            _ => log::info!("VM \"{vm}\": {end}"),
        }
        self.vm.report_devices();
        let mut sum = Counters::default();
        for running in vcpus {
            sum.merge(&running.vcpu.counters);
        }
        let exits: Vec<_> = sum.exits().collect();
        let frames = memory::lock().frames_by_state(self.vm.shared.id, &self.vm.frames);
        events::send(&Event::VmStop { vm, reason: &end });
        events::send(&Event::Counters(CounterEvent {
            vm,
            exits: &exits,
            frames: &frames,
            view_switches: 0,
            faults: sum.faults,
            ticks: Ticks {
                guest: sum.guest_ticks(),
                root: sum.root_ticks(),
                idle: sum.idle_ticks(),
                steal: sum.steal_ticks(),
            },
            switches: sum.runs,
        }));
    }
}
