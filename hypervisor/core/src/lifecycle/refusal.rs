//! What an order cannot do, and what would help.

use core::fmt;

use super::{Order, State};

/// An order that has no meaning in the VM's state. It displays as what follows the VM's name:
/// `VM "web" {refusal}`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// What was ordered.
    pub order: Order,
    /// Where the VM is in its life.
    pub state: State,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match (self.order, self.state) {
            (Order::Start, State::Paused) => "is paused; `resume` lets it run",
            (Order::Start, State::Stopping { .. }) => {
                "is being stopped; `restart` starts it once it has ended"
            }
            (Order::Start | Order::Restart, State::Starting) => "is starting already",
            (Order::Start, _) => "is running already; `restart` begins it anew",
            (Order::Stop { hard: false }, State::Stopping { deadline: Some(_) }) => {
                "is being stopped already; `stop` with `hard` does not wait for it"
            }
            (Order::Stop { .. }, State::Stopping { .. } | State::Starting) => {
                "is being stopped already"
            }
            (Order::Restart, State::Stopping { .. }) => "is being restarted already",
            (Order::Pause, State::Paused) => "is paused already; `resume` lets it run",
            (Order::Pause, State::Stopping { .. }) => "is being stopped; it cannot be paused",
            (Order::Resume, State::Running) => "is running already; nothing is paused",
            (Order::Resume, _) => "is not paused",
            (_, State::BackOff { .. }) => {
                "is not running: it ended again and again and waits to be started; `start` does so at once"
            }
            _ => "is not running; `start` runs it",
        })
    }
}

impl core::error::Error for Refusal {}
