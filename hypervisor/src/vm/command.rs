//! Carrying out what an operator orders at the console, and answering.
//!
//! Most commands are answered at once. `list` and `stats` first have the VMs' CPUs say what they did, and `stats` has the
//! ledger counted, a piece at a time: [`Asked`] remembers the command meanwhile.

use super::control::{AUDIT_FRAMES, Control, Controlled};
use super::report::{self, MachineNumbers, VmNumbers};
use super::{models, network, ticks};
use crate::console::CONSOLE;
use crate::console::Show;
use crate::console::terminal::Answer;
use crate::{events, memory};
use alloc::vec::Vec;
use bulkhead_core::console::reply::{MachineStats, Reply, VmRow, VmStats};
use bulkhead_core::console::{Command, CommandError, Mux, Request};
use bulkhead_core::events::Event;
use bulkhead_core::ledger::Audit;
use bulkhead_core::lifecycle::Order;
use core::fmt::Write;

/// How long CPUs may take to say what their vCPUs did; then what they said before is told.
const PATIENCE_MS: u64 = 100;

/// A command whose answer is being gathered.
pub struct Asked {
    command: Command,
    vm: Option<usize>,
    /// Host TSC at which it is answered with what there is.
    until: u64,
    audit: Audit,
    /// What the audit found, once it is done.
    balanced: Option<bool>,
}

/// `reply` as text.
fn text(reply: &Reply<'_>) -> Answer {
    let mut answer = Answer::default();
    // An answer takes everything.
    let _ = write!(answer, "{reply}");
    answer
}

impl Control {
    /// Carries out what was typed at host TSC `now`.
    pub(super) fn command(&mut self, typed: Result<Request, CommandError>, now: u64) {
        let Request { command, vm } = match typed {
            Ok(request) => request,
            Err(error) => {
                tell(&error);
                return self.terminal.answer(text(&Reply::NoCommand(&error)));
            }
        };
        if let (Some(order), Some(vm)) = (command.order(), vm) {
            return self.order(vm, order, now);
        }
        tell(&"ok");
        match (&command, vm) {
            (Command::Switch { .. }, Some(vm)) => {
                let mut guard = CONSOLE.lock();
                let console = &mut *guard;
                if let Some(mux) = &mut console.mux {
                    mux.switch(vm, &mut Show(&mut console.serial));
                }
            }
            (Command::Trace { on, .. }, Some(vm)) => self.trace(vm, *on),
            (Command::Log { lines }, _) => self.log(*lines),
            (Command::Help { topic }, _) => self.terminal.answer(text(&Reply::Help(*topic))),
            _ => self.ask(command, vm, now),
        }
    }

    fn order(&mut self, vm: usize, order: Order, now: u64) {
        let Some(controlled) = self.vms.get_mut(vm) else {
            unreachable!("a command names VM {vm}, which the console does not know");
        };
        let name = controlled.vm.plan.name.clone();
        let vm = name.as_str();
        let answer = match controlled.order(order, now) {
            Ok(action) => {
                tell(&"ok");
                text(&Reply::Done {
                    vm,
                    order,
                    action,
                    stop_timeout: controlled.vm.plan.stop_timeout,
                })
            }
            Err(refusal) => {
                tell(&refusal);
                text(&Reply::Refused { vm, refusal })
            }
        };
        self.terminal.answer(answer);
    }

    fn trace(&mut self, vm: usize, on: Option<bool>) {
        let Some(Controlled { vm, .. }) = self.vms.get(vm) else {
            return;
        };
        if let Some(on) = on {
            vm.shared.set_trace(on);
        }
        let reply = Reply::Trace {
            vm: vm.plan.name.as_str(),
            on: vm.shared.is_traced(),
        };
        self.terminal.answer(text(&reply));
    }

    fn log(&mut self, wanted: u32) {
        let mut answer = Answer::default();
        {
            let console = CONSOLE.lock();
            let (pieces, lines) = console.last_lines(wanted);
            let _ = write!(answer, "{}", Reply::Log { lines, wanted });
            answer.add_all(&pieces);
        }
        self.terminal.answer(answer);
    }

    /// Has everything gathered that the answer to `list` or `stats` needs.
    fn ask(&mut self, command: Command, vm: Option<usize>, now: u64) {
        for controlled in self.vms.iter().filter(|controlled| controlled.is_out()) {
            controlled.vm.shared.ask_counters();
        }
        let counts = matches!(command, Command::Stats { vm: None });
        self.asked = Some(Asked {
            command,
            vm,
            until: now.saturating_add(ticks(PATIENCE_MS)),
            audit: Audit::default(),
            balanced: (!counts).then_some(true),
        });
    }

    /// Goes on with a command whose answer is being gathered; true where there is more to do at once.
    pub(super) fn gather(&mut self, now: u64) -> bool {
        let Some(asked) = &mut self.asked else {
            return false;
        };
        if asked.balanced.is_none() {
            asked.balanced = asked.audit.step(&memory::lock().ledger, AUDIT_FRAMES);
        }
        let Some(balanced) = asked.balanced else {
            return true;
        };
        let mut out = self.vms.iter().filter(|controlled| controlled.is_out());
        if now < asked.until && !out.all(|controlled| controlled.vm.shared.has_said()) {
            return false;
        }
        let Some(Asked { command, vm, .. }) = self.asked.take() else {
            return false;
        };
        let answer = match (&command, vm.and_then(|vm| self.vms.get(vm))) {
            (Command::List, _) => self.list(now),
            (_, Some(controlled)) => controlled.stats(now),
            (_, None) => self.stats(balanced),
        };
        drop(command);
        self.terminal.answer(answer);
        true
    }

    fn list(&mut self, now: u64) -> Answer {
        let front = CONSOLE.lock().mux.as_ref().map(Mux::front);
        let passed_ticks = now.saturating_sub(self.listed);
        self.listed = now;
        let rows: Vec<_> = self
            .vms
            .iter_mut()
            .enumerate()
            .map(|(index, controlled)| controlled.row(front == Some(index), passed_ticks))
            .collect();
        text(&Reply::List(&rows))
    }

    fn stats(&self, balanced: bool) -> Answer {
        let numbers = MachineNumbers::gather(balanced);
        numbers.send();
        for controlled in &self.vms {
            VmNumbers::gather(&controlled.vm).send();
        }
        text(&Reply::Machine(MachineStats {
            machine: numbers.counters(),
            cpus: &numbers.cpus,
        }))
    }
}

impl Controlled {
    fn row(&mut self, front: bool, passed_ticks: u64) -> VmRow<'_> {
        let used = report::used_ticks(&self.vm);
        // It may have started anew, and its counters with it.
        let used_ticks = used.checked_sub(self.listed).unwrap_or(used);
        self.listed = used;
        VmRow {
            name: self.vm.plan.name.as_str(),
            front,
            state: self.life.state(),
            vcpus: self.vm.plan.vcpus,
            memory: self.vm.plan.memory,
            used_ticks,
            passed_ticks,
            restarts: self.life.restarts(),
        }
    }

    fn stats(&self, now: u64) -> Answer {
        let numbers = VmNumbers::gather(&self.vm);
        numbers.send();
        let reports = network::reports(self.vm.shared);
        let nics: Vec<_> = reports.iter().map(|nic| nic.event(&self.vm)).collect();
        text(&Reply::Vm(VmStats {
            state: self.life.state(),
            uptime: self.ran(now),
            restarts: self.life.restarts(),
            counters: numbers.counters(),
            nics: &nics,
            disks: &models::disk_counters(&self.vm),
        }))
    }
}

/// Tells the event stream what came of the command that was typed last.
fn tell(outcome: &dyn core::fmt::Display) {
    let line = {
        let console = CONSOLE.lock();
        console
            .mux
            .as_ref()
            .map(|mux| alloc::string::String::from(mux.line()))
    };
    events::send(&Event::Command {
        line: &line.unwrap_or_default(),
        outcome,
    });
}
