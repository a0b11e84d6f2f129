//! One VM's life: stopped, starting, running, paused, stopping, or waiting to be started after it ended too often.
//!
//! [`Lifecycle`] is told what happened (an operator's [`Order`], the [`End`] of the guest, the time) and answers with
//! the one [`Action`] that the shell has to carry out. It knows no VM but its own and does nothing itself; moments are
//! counted from when the hypervisor began. What an order cannot do in a state is a [`Refusal`], in the module `refusal`;
//! how long a VM that ends again and again stays down is in `backoff`.
//!
//! ```text
//!            start                started                 pause
//!  Stopped ---------> Starting ------------> Running <-----------> Paused
//!     ^  ^               ^  ^                 |  |      resume       |
//!     |  | failed        |  | time            |  | stop, restart     |
//!     |  +---------------+  +---- BackOff <---+  v                   |
//!     |                  |         again      Stopping <-------------+
//!     +------------------+--------------------- ended
//! ```

mod backoff;
mod refusal;
#[cfg(test)]
mod tests;

use core::fmt;
use core::time::Duration;

pub use refusal::Refusal;

use crate::fault::StopReason;
use crate::manifest::RestartPolicy;
use backoff::Row;

/// What an operator can have done to a VM.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Order {
    /// Load and run it.
    Start,
    /// Ask it to power itself off, and stop it when it does not; or stop it at once.
    Stop {
        /// Whether it is not asked.
        hard: bool,
    },
    /// Let none of its vCPUs run.
    Pause,
    /// Let them run again.
    Resume,
    /// Stop it in order, and start it again whatever its policy says.
    Restart,
}

/// Why a VM's vCPUs run no more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// The guest ended itself, or did what stops it.
    Guest(StopReason),
    /// The watchdog that the guest armed ran out.
    Watchdog,
    /// The [`Action::HardStop`] was carried out.
    Operator,
    /// The machine's hardware lost some of the VM's state. Starting it again by itself could meet the same fault.
    Hardware,
}

impl End {
    /// Its name in events: one word that does not change between releases.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Guest(reason) => reason.name(),
            Self::Watchdog => "watchdog",
            Self::Operator => "operator",
            Self::Hardware => "hardware",
        }
    }

    /// Whether the guest failed: it neither wanted to end nor was it told to.
    #[must_use]
    pub const fn is_crash(self) -> bool {
        !matches!(
            self,
            Self::Guest(StopReason::PowerOff | StopReason::Reset) | Self::Operator | Self::Hardware
        )
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Guest(reason) => reason.fmt(f),
            Self::Watchdog => f.write_str("its watchdog ran out: the guest hangs"),
            Self::Operator => f.write_str("stopped by the operator"),
            Self::Hardware => {
                f.write_str("a machine check hit it; it is not started again by itself")
            }
        }
    }
}

/// What the shell has to do next. Until it has, and said so, it is asked nothing else but [`Action::HardStop`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Action {
    /// Nothing.
    Nothing,
    /// Give the VM empty memory, load the guest and run it; then call [`Lifecycle::started`] or [`Lifecycle::failed`].
    LoadAndRun,
    /// Let no vCPU run.
    Park,
    /// Let the vCPUs run again.
    Unpark,
    /// Press the VM's power button.
    PressPowerButton {
        /// Let the parked vCPUs run, so that the guest notices.
        unpark: bool,
    },
    /// Stop all vCPUs, parked or not; then call [`Lifecycle::ended`].
    HardStop,
}

/// Where a VM is in its life.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// It does not run, and will not by itself.
    Stopped,
    /// It is being loaded.
    Starting,
    /// It runs.
    Running,
    /// It would run, but is kept from it.
    Paused,
    /// It runs, and was told to end.
    Stopping {
        /// When it is stopped if it has not ended by then; `None` once that was done.
        deadline: Option<Duration>,
    },
    /// It ended soon after its start, again and again, and starts again at this moment.
    BackOff {
        /// When.
        until: Duration,
    },
}

impl State {
    /// One word for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stopped => "stopped",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopping { .. } => "stopping",
            Self::BackOff { .. } => "back-off",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What follows a stop that was ordered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Then {
    Rest,
    Start,
}

/// The state machine of one VM.
#[derive(Clone, Debug)]
pub struct Lifecycle {
    policy: RestartPolicy,
    stop_timeout: Duration,
    state: State,
    /// What follows [`State::Stopping`]; in [`State::Starting`], `Rest` is a stop that came before the VM ran, and in
    /// [`State::Stopped`] it says that an operator wants it so.
    then: Then,
    last_end: Option<End>,
    crashes: Row,
    reboots: Row,
    /// When it last began to run.
    began: Duration,
    runs: u32,
}

impl Lifecycle {
    /// A stopped VM that never ran.
    #[must_use]
    pub const fn new(policy: RestartPolicy, stop_timeout: Duration) -> Self {
        Self {
            policy,
            stop_timeout,
            state: State::Stopped,
            then: Then::Rest,
            last_end: None,
            crashes: Row::CRASHES,
            reboots: Row::REBOOTS,
            began: Duration::ZERO,
            runs: 0,
        }
    }

    /// Where the VM is in its life.
    #[must_use]
    pub const fn state(&self) -> State {
        self.state
    }

    /// How often it was started after the first time.
    #[must_use]
    pub const fn restarts(&self) -> u32 {
        self.runs.saturating_sub(1)
    }

    /// Why it last ended, if it ever did.
    #[must_use]
    pub const fn last_end(&self) -> Option<End> {
        self.last_end
    }

    /// Whether it is stopped because nobody started it yet or an operator stopped it, so that one may want to start it. A
    /// machine whose VMs are all stopped otherwise has nothing left to do.
    #[must_use]
    pub const fn awaits_operator(&self) -> bool {
        matches!((self.state, self.then), (State::Stopped, Then::Rest))
    }

    /// How many times in a row it ended soon after its start in the way it last did: by crashing, or by itself.
    #[must_use]
    pub const fn ends_in_a_row(&self) -> u32 {
        match self.last_end {
            Some(end) if end.is_crash() => self.crashes.len(),
            _ => self.reboots.len(),
        }
    }

    /// When [`Lifecycle::tick`] next has something to do, if ever.
    #[must_use]
    pub const fn wake_at(&self) -> Option<Duration> {
        match self.state {
            State::Stopping { deadline } => deadline,
            State::BackOff { until } => Some(until),
            _ => None,
        }
    }

    /// An operator's order.
    ///
    /// # Errors
    /// The VM is in a state in which the order has no meaning; nothing changed.
    pub fn order(&mut self, order: Order, now: Duration) -> Result<Action, Refusal> {
        match order {
            Order::Start => self.order_start(),
            Order::Stop { hard } => self.order_stop(hard, now),
            Order::Pause => self.order_pause(),
            Order::Resume => self.order_resume(),
            Order::Restart => self.order_restart(now),
        }
        .ok_or(Refusal {
            order,
            state: self.state,
        })
    }

    /// The vCPUs run: [`Action::LoadAndRun`] was carried out.
    pub fn started(&mut self, now: Duration) -> Action {
        if self.state != State::Starting {
            return Action::Nothing;
        }
        self.began = now;
        self.runs = self.runs.saturating_add(1);
        if self.then == Then::Rest {
            self.state = State::Stopping { deadline: None };
            return Action::HardStop;
        }
        self.state = State::Running;
        Action::Nothing
    }

    /// [`Action::LoadAndRun`] could not be carried out; trying again would fail again.
    pub fn failed(&mut self) {
        if self.state == State::Starting {
            self.state = State::Stopped;
        }
    }

    /// No vCPU of the VM runs any more.
    pub fn ended(&mut self, end: End, now: Duration) -> Action {
        if matches!(
            self.state,
            State::Running | State::Paused | State::Stopping { .. }
        ) {
            self.last_end = Some(end);
        }
        match self.state {
            State::Running | State::Paused => self.ended_by_itself(end, now),
            State::Stopping { .. } if self.then == Then::Start && end != End::Hardware => {
                self.start_afresh()
            }
            State::Stopping { .. } => {
                self.state = State::Stopped;
                Action::Nothing
            }
            State::Stopped | State::Starting | State::BackOff { .. } => Action::Nothing,
        }
    }

    /// Time has gone by.
    pub fn tick(&mut self, now: Duration) -> Action {
        match self.state {
            State::BackOff { until } if now >= until => self.start(),
            State::Stopping {
                deadline: Some(deadline),
            } if now >= deadline => self.stop_hard(),
            _ => Action::Nothing,
        }
    }

    fn order_start(&mut self) -> Option<Action> {
        match self.state {
            State::Stopped | State::BackOff { .. } => Some(self.start_afresh()),
            // A stop that came before the VM ran is taken back.
            State::Starting if self.then == Then::Rest => {
                self.then = Then::Start;
                Some(Action::Nothing)
            }
            _ => None,
        }
    }

    fn order_stop(&mut self, hard: bool, now: Duration) -> Option<Action> {
        let action = match self.state {
            State::Stopped => return None,
            State::BackOff { .. } => {
                self.state = State::Stopped;
                Action::Nothing
            }
            State::Starting if self.then == Then::Start => Action::Nothing,
            State::Starting => return None,
            State::Running | State::Paused if hard => self.stop_hard(),
            State::Running | State::Paused => self.press(now),
            State::Stopping { deadline: Some(_) } if hard => self.stop_hard(),
            State::Stopping { .. } if self.then == Then::Start => Action::Nothing,
            State::Stopping { .. } => return None,
        };
        self.then = Then::Rest;
        Some(action)
    }

    fn order_pause(&mut self) -> Option<Action> {
        if self.state != State::Running {
            return None;
        }
        self.state = State::Paused;
        Some(Action::Park)
    }

    fn order_resume(&mut self) -> Option<Action> {
        if self.state != State::Paused {
            return None;
        }
        self.state = State::Running;
        Some(Action::Unpark)
    }

    fn order_restart(&mut self, now: Duration) -> Option<Action> {
        match self.state {
            State::Running | State::Paused => {
                self.then = Then::Start;
                Some(self.press(now))
            }
            State::Stopping { .. } if self.then == Then::Rest => {
                self.then = Then::Start;
                Some(Action::Nothing)
            }
            State::Stopping { .. } => None,
            State::Stopped | State::Starting | State::BackOff { .. } => self.order_start(),
        }
    }

    /// What the policy makes of an end that nobody ordered.
    fn ended_by_itself(&mut self, end: End, now: Duration) -> Action {
        let again = match self.policy {
            RestartPolicy::Never => false,
            RestartPolicy::Always => true,
            RestartPolicy::OnCrash => !matches!(end, End::Guest(StopReason::PowerOff)),
        };
        if !again || matches!(end, End::Operator | End::Hardware) {
            self.state = State::Stopped;
            return Action::Nothing;
        }
        let row = if end.is_crash() {
            &mut self.crashes
        } else {
            &mut self.reboots
        };
        let delay = row.another(now.saturating_sub(self.began));
        if delay == Duration::ZERO {
            return self.start();
        }
        self.state = State::BackOff {
            until: now.saturating_add(delay),
        };
        Action::Nothing
    }

    fn press(&mut self, now: Duration) -> Action {
        let unpark = self.state == State::Paused;
        self.state = State::Stopping {
            deadline: Some(now.saturating_add(self.stop_timeout)),
        };
        Action::PressPowerButton { unpark }
    }

    fn stop_hard(&mut self) -> Action {
        self.state = State::Stopping { deadline: None };
        Action::HardStop
    }

    /// A start that an operator wants: how often it ended before is forgiven.
    fn start_afresh(&mut self) -> Action {
        self.crashes = Row::CRASHES;
        self.reboots = Row::REBOOTS;
        self.start()
    }

    fn start(&mut self) -> Action {
        self.then = Then::Start;
        self.state = State::Starting;
        Action::LoadAndRun
    }
}
