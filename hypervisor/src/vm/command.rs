//! Carrying out what an operator orders at the console, and answering.
//!
//! Most commands are answered at once. `list` and `stats` first have the VMs' CPUs say what they did, and `stats` has the
//! ledger counted, a piece at a time: [`Asked`] remembers the command meanwhile.

use super::control::{AUDIT_FRAMES, Control, Controlled};
use super::inspect::Inspected;
use super::report::{self, MachineNumbers, VmNumbers};
use super::{models, network, ticks};
use crate::console::CONSOLE;
use crate::console::Show;
use crate::console::terminal::Answer;
use crate::{events, memory};
use alloc::string::String;
use alloc::vec::Vec;
use bulkhead_core::console::reply::{MachineStats, MemoryDump, Reply, Unreadable, VmRow, VmStats};
use bulkhead_core::console::{Command, CommandError, MemoryRange, Mux, Request};
use bulkhead_core::events::Event;
use bulkhead_core::ledger::Audit;
use bulkhead_core::lifecycle::Order;
use core::fmt::Write;

/// How long CPUs may take to say what their vCPUs did; then what they said before is told.
const PATIENCE_MS: u64 = 100;

/// A command whose answer is being gathered.
pub struct Asked {
    /// As it was typed.
    line: String,
    question: Question,
    /// Host TSC at which it is answered with what there is.
    until: u64,
    audit: Audit,
    /// What the audit found, once it is done.
    balanced: Option<bool>,
}

/// What is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Question {
    /// `list`.
    List,
    /// `stats`.
    Machine,
    /// `stats` of a VM.
    Vm(usize),
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
        let line = typed_line();
        let Request { command, vm } = match typed {
            Ok(request) => request,
            Err(error) => {
                tell(&line, &error);
                return self.terminal.answer(text(&Reply::NoCommand(&error)));
            }
        };
        if let (Some(order), Some(vm)) = (command.order(), vm) {
            return self.order(&line, vm, order, now);
        }
        let answer = match (command, vm) {
            (Command::List, _) => return self.ask(line, Question::List, now),
            (Command::Stats { .. }, None) => return self.ask(line, Question::Machine, now),
            (Command::Stats { .. }, Some(vm)) => return self.ask(line, Question::Vm(vm), now),
            (Command::Switch { .. }, Some(vm)) => {
                switch(vm);
                None
            }
            (Command::Trace { on, .. }, Some(vm)) => Some(self.trace(vm, on)),
            (Command::Log { lines }, _) => Some(log(lines)),
            (Command::Help { topic }, _) => Some(text(&Reply::Help(topic))),
            (Command::Memory { range, .. }, Some(vm)) => Some(self.memory(vm, range)),
            (command, _) => {
                unreachable!("`{}` names no VM", command.verb())
            }
        };
        tell(&line, &"ok");
        if let Some(answer) = answer {
            self.terminal.answer(answer);
        }
    }

    fn order(&mut self, line: &str, vm: usize, order: Order, now: u64) {
        let controlled = self.named(vm);
        let outcome = controlled.order(order, now);
        let vm = controlled.vm.plan.name.as_str();
        let answer = match outcome {
            Ok(action) => {
                tell(line, &"ok");
                text(&Reply::Done {
                    vm,
                    order,
                    action,
                    stop_timeout: controlled.vm.plan.stop_timeout,
                })
            }
            Err(refusal) => {
                tell(line, &refusal);
                text(&Reply::Refused { vm, refusal })
            }
        };
        self.terminal.answer(answer);
    }

    fn trace(&mut self, vm: usize, on: Option<bool>) -> Answer {
        let Controlled { vm, .. } = self.named(vm);
        if let Some(on) = on {
            vm.shared.set_trace(on);
        }
        text(&Reply::Trace {
            vm: vm.plan.name.as_str(),
            on: vm.shared.is_traced(),
        })
    }

    fn memory(&mut self, vm: usize, range: MemoryRange) -> Answer {
        let controlled = self.named(vm);
        let vm = &controlled.vm;
        let name = vm.plan.name.as_str();
        let inspected = match controlled.is_lost() {
            true => Err(Unreadable::Lost),
            false => vm.shared.memory.lock().inspect(range),
        };
        text(&match &inspected {
            Ok(Inspected { hpa, state, bytes }) => Reply::Memory(MemoryDump {
                vm: name,
                gpa: range.gpa(),
                hpa: *hpa,
                state: *state,
                bytes: bytes.get(..range.bytes() as usize).unwrap_or_default(),
            }),
            Err(why) => Reply::Unreadable {
                vm: name,
                why: *why,
            },
        })
    }

    /// The VM that the console calls `vm`.
    fn named(&mut self, vm: usize) -> &mut Controlled {
        match self.vms.get_mut(vm) {
            Some(controlled) => controlled,
            None => unreachable!("a command names VM {vm}, which the console does not know"),
        }
    }

    /// Has everything gathered that the answer to `list` or `stats` needs.
    fn ask(&mut self, line: String, question: Question, now: u64) {
        for controlled in self.vms.iter().filter(|controlled| controlled.is_out()) {
            controlled.vm.shared.ask_counters();
        }
        self.asked = Some(Asked {
            line,
            question,
            until: now.saturating_add(ticks(PATIENCE_MS)),
            audit: Audit::default(),
            balanced: (question != Question::Machine).then_some(true),
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
        let Some(Asked { line, question, .. }) = self.asked.take() else {
            return false;
        };
        let answer = match question {
            Question::List => self.list(now),
            Question::Machine => self.stats(balanced),
            Question::Vm(vm) => self.named(vm).stats(now),
        };
        tell(&line, &"ok");
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

/// Brings a VM's console to the front.
fn switch(vm: usize) {
    let mut guard = CONSOLE.lock();
    let console = &mut *guard;
    if let Some(mux) = &mut console.mux {
        mux.switch(vm, &mut Show(&mut console.serial));
    }
}

fn log(wanted: u32) -> Answer {
    let mut answer = Answer::default();
    let console = CONSOLE.lock();
    let (pieces, lines) = console.last_lines(wanted);
    // An answer takes everything.
    let _ = write!(answer, "{}", Reply::Log { lines, wanted });
    answer.add_all(&pieces);
    answer
}

/// The command that is being carried out, as it was typed.
fn typed_line() -> String {
    let console = CONSOLE.lock();
    console
        .mux
        .as_ref()
        .map(|mux| String::from(mux.line()))
        .unwrap_or_default()
}

/// Tells the event stream what came of the command `line`.
fn tell(line: &str, outcome: &dyn core::fmt::Display) {
    events::send(&Event::Command {
        line: &line,
        outcome,
    });
}
