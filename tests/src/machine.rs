//! A running machine as a scenario sees it: a [`Session`] whose waits end with the scenario's time, and whose failures
//! come with the console's last lines and, after a panic, the backtrace in names.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use regex::Regex;
use xtask::error::IoContext;
use xtask::session::events::Event;
use xtask::session::{End, Keys, Session};
use xtask::symbolize::Backtrace;

use crate::context::Context;
use crate::outcome::{Failure, Outcome, ensure_in_order};
use crate::physical::Frozen;

/// How long to wait before looking again.
const TICK: Duration = Duration::from_millis(50);

/// A running machine; nothing of it is left when this is dropped.
#[derive(Debug)]
pub struct Machine<'a> {
    session: Session,
    context: &'a Context<'a>,
    /// The hypervisor's prompt is open at the console.
    at_prompt: bool,
}

impl<'a> Machine<'a> {
    /// Watches `session` on behalf of the scenario in `context`.
    pub fn new(session: Session, context: &'a Context<'a>) -> Self {
        Self {
            session,
            context,
            at_prompt: false,
        }
    }

    /// Waits until the console's text after the last match matches `pattern`; returns what was matched.
    pub fn expect(&mut self, pattern: &str) -> Outcome<String> {
        let wanted = Regex::new(pattern).map_err(|error| Failure::Unmet(error.to_string()))?;
        let limit = self.context.left();
        match self.session.expect(&wanted, limit) {
            Ok(found) => Ok(found),
            Err(xtask::Error::Run(what)) => Err(Failure::Unmet(what + &self.backtrace())),
            Err(error) => Err(error.into()),
        }
    }

    /// Types `line` at the next shell prompt.
    pub fn send(&mut self, line: &str) -> Outcome {
        let limit = self.context.left();
        Ok(self.session.send_line(line, limit)?)
    }

    /// Types `line` at once, whatever the console shows.
    pub fn type_line(&mut self, line: &str) -> Outcome {
        Ok(self.session.type_keys(&Keys::line(line))?)
    }

    /// Gives the hypervisor the command `line` at its prompt, which stays open, and waits until it was carried out; returns
    /// the event that says how.
    pub fn command(&mut self, line: &str) -> Outcome<Event> {
        let before = self.count("command", |_| true);
        let keys = if self.at_prompt {
            Keys::line(line)
        } else {
            Keys::parse(&format!("\\x1d{line}")).map_err(Failure::Unmet)?
        };
        self.session.type_keys(&keys)?;
        self.at_prompt = true;
        self.event("command", before)
    }

    /// The same; the command has to succeed.
    pub fn obey(&mut self, line: &str) -> Outcome {
        let done = self.command(line)?;
        let outcome = done.text("outcome").to_owned();
        self.ensure(done.text("line") == line && outcome == "ok", || {
            format!("the command `{line}` was answered `{}`", done.0)
        })
    }

    /// Brings the console of `vm` to the front.
    pub fn switch(&mut self, vm: &str) -> Outcome {
        self.obey(&format!("switch {vm}"))?;
        self.at_prompt = false;
        self.expect(&format!("console of VM \"{vm}\""))?;
        Ok(())
    }

    /// What `vm` did up to now: a new `counters` event.
    pub fn counters(&mut self, vm: &str) -> Outcome<Event> {
        let of_vm = |event: &Event| event.text("vm") == vm;
        let before = self.count("counters", of_vm);
        self.obey(&format!("stats {vm}"))?;
        self.event_where("counters", before, of_vm)
    }

    /// The machine's books as they are now: a new `machine` event.
    pub fn books(&mut self) -> Outcome<Event> {
        let before = self.count("machine", |_| true);
        self.obey("stats")?;
        self.event("machine", before)
    }

    /// How many events called `name` that are `wanted` there were.
    pub fn count(&mut self, name: &str, wanted: impl Fn(&Event) -> bool) -> usize {
        let events = self.session.events();
        events
            .iter()
            .filter(|event| event.name() == name && wanted(event))
            .count()
    }

    /// Waits for the next event called `name` after the first `skip` of that name; a panic ends the wait.
    pub fn event(&mut self, name: &str, skip: usize) -> Outcome<Event> {
        self.event_where(name, skip, |_| true)
    }

    /// The same for events about `vm`.
    pub fn event_of(&mut self, vm: &str, name: &str, skip: usize) -> Outcome<Event> {
        self.event_where(name, skip, |event| event.text("vm") == vm)
    }

    fn event_where(
        &mut self,
        name: &str,
        skip: usize,
        wanted: impl Fn(&Event) -> bool,
    ) -> Outcome<Event> {
        let limit = self.context.left();
        let deadline = Instant::now() + limit;
        loop {
            let events = self.session.events();
            let mut matching = events
                .iter()
                .filter(|event| event.name() == name && wanted(event));
            if let Some(found) = matching.nth(skip) {
                return Ok(found.clone());
            }
            let panic = events.iter().find(|event| event.name() == "panic");
            if let Some(panic) = panic {
                let message = panic.text("message").to_owned();
                self.session.drain();
                return Err(self.failure(&format!("Bulkhead panicked: {message}")));
            }
            let ended = match self.session.end()? {
                None => None,
                Some(End::Gone(_)) => Some("the emulator ended"),
                // Nothing comes after these two.
                Some(_)
                    if matches!(events.last().map(Event::name), Some("machine-off" | "halt")) =>
                {
                    Some("the event stream ended")
                }
                Some(_) => None,
            };
            if let Some(why) = ended
                && self.session.events().len() == events.len()
            {
                return Err(self.failure(&format!("{why} without the event `{name}`")));
            }
            if Instant::now() >= deadline {
                let seconds = limit.as_secs();
                return Err(self.failure(&format!("no event `{name}` within {seconds} s")));
            }
            self.session.check_interrupted()?;
            thread::sleep(TICK);
        }
    }

    /// Lets the machine run for `time`; fails when it ends or panics meanwhile.
    pub fn watch(&mut self, time: Duration) -> Outcome {
        let deadline = Instant::now() + time.min(self.context.left());
        while Instant::now() < deadline {
            self.session.check_interrupted()?;
            if let Some(end) = self.session.end()? {
                self.session.drain();
                return Err(self.failure(&format!("it did not go on: {end}")));
            }
            thread::sleep(TICK);
        }
        Ok(())
    }

    /// Waits until Bulkhead has switched the machine off by itself; returns its reason.
    pub fn off(&mut self) -> Outcome<String> {
        let reason = self.event("machine-off", 0)?.text("reason").to_owned();
        let limit = self.context.left();
        if self.session.expect_gone(limit)? {
            Ok(reason)
        } else {
            Err(self.failure("the emulator failed when the machine was switched off"))
        }
    }

    /// Waits until Bulkhead refuses to start anything, and checks that nothing was; returns the event's error.
    pub fn refused(&mut self) -> Outcome<String> {
        let error = self.event("halt", 0)?.text("error").to_owned();
        self.expect("nothing was started")?;
        self.session.drain();
        let events = self.session.events();
        match events.iter().find(|event| event.name() == "vm-start") {
            Some(started) => Err(self.failure(&format!("it refused, and started {}", started.0))),
            None => Ok(error),
        }
    }

    /// Checks that the names of all events, one after the other, contain `names` in this order and no panic.
    pub fn ensure_events(&mut self, names: &[&str]) -> Outcome {
        let events = self.session.events();
        let stream: Vec<_> = events.iter().map(Event::name).collect();
        if stream.contains(&"panic") {
            return Err(self.failure("Bulkhead panicked"));
        }
        let gap = events
            .iter()
            .enumerate()
            .find(|(index, event)| event.number("n") != Some(*index as u64));
        if let Some((index, event)) = gap {
            return Err(self.failure(&format!(
                "event {index} is numbered {:?}",
                event.number("n")
            )));
        }
        ensure_in_order("events", &stream.join(" "), names)
            .map_err(|failure| self.failure(&failure.to_string()))
    }

    /// What the machine is made of, and where its files are.
    pub fn blueprint(&self) -> &xtask::platform::Machine {
        self.session.machine()
    }

    /// The machine standing still, with its memory open to be read and written from outside; it goes on when that is dropped.
    pub fn freeze(&self) -> Outcome<Frozen> {
        let bytes = self.blueprint().memory_mib << 20;
        Ok(Frozen::new(self.session.process_id(), bytes)?)
    }

    /// What QEMU noted of transfers that its IOMMU refused: nothing, when it refused none.
    pub fn refusals(&self) -> Outcome<String> {
        let path = self.blueprint().refusals();
        if !path.exists() {
            return Ok(String::new());
        }
        Ok(fs::read_to_string(&path).context("read", &path)?)
    }

    /// Every event so far.
    pub fn events(&mut self) -> Vec<Event> {
        self.session.events()
    }

    /// Everything the console said, without terminal control.
    pub fn console(&self) -> String {
        self.session.console_text()
    }

    /// Fails with `otherwise`, the console's last lines and the backtrace, unless `holds`.
    pub fn ensure(&self, holds: bool, otherwise: impl FnOnce() -> String) -> Outcome {
        if holds {
            Ok(())
        } else {
            Err(self.failure(&otherwise()))
        }
    }

    /// Fails unless each of `fragments` is on the console after the one before it.
    pub fn ensure_console(&self, fragments: &[&str]) -> Outcome {
        ensure_in_order("console", &self.console(), fragments)
            .map_err(|failure| self.failure(&failure.to_string()))
    }

    /// The failure `what` with the console's last lines and, where there is one, the backtrace in names.
    pub fn failure(&self, what: &str) -> Failure {
        Failure::Unmet(format!(
            "{}{}",
            self.session.failure(what),
            self.backtrace()
        ))
    }

    /// The functions behind the backtrace on the console, innermost first.
    pub fn named_backtrace(&self) -> Outcome<Vec<String>> {
        let backtrace = Backtrace::find(&self.console())
            .ok_or_else(|| Failure::Unmet("the console shows no backtrace".to_owned()))?;
        let pdb = self.context.lab.efi.with_extension("pdb");
        backtrace
            .resolve(&pdb)
            .map_err(|error| Failure::Unmet(format!("the backtrace has no names: {error}")))
    }

    fn backtrace(&self) -> String {
        match self.named_backtrace() {
            Ok(lines) => format!("\nBulkhead's backtrace:\n{}", lines.join("\n")),
            Err(_) => String::new(),
        }
    }
}
