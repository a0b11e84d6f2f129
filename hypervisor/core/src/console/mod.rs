//! The hypervisor's console: one terminal shared by every VM and a prompt, and the commands that can be given there.
//!
//! [`Mux`] takes each byte that is typed and each byte that a VM writes, and says where it goes. A line typed at the
//! prompt becomes a [`Request`], which is a [`Command`] and the VM it is about; the same commands travel as bytes by [`wire`], for a management interface. What they
//! are answered with is a [`Reply`]. The shell owns the serial port, carries the commands out and knows the VMs;
//! [`lifecycle`](crate::lifecycle) decides what an order does to one. `docs/console.md` describes all this to its users.
//!
//! | module | what it holds |
//! |---|---|
//! | [`command`], [`error`] | the commands as text, and what can be wrong with a line |
//! | [`request`] | a command with the VM it is about |
//! | [`range`] | which bytes `memory` shows |
//! | [`wire`] | the commands as bytes |
//! | [`reply`] | answers, as text |
//! | [`mux`] | who is typed to and who is shown |
//! | [`trace`] | how many of a VM's exits are logged |
//! | [`history`] | the end of the log |
//! | `words` | the words of a line, read as what a command takes |
//! | `line`, `backlog` | the line being typed; output that waits to be seen |

mod backlog;
pub mod command;
pub mod error;
pub mod history;
mod line;
pub mod mux;
pub mod range;
pub mod reply;
pub mod request;
#[cfg(test)]
mod tests;
pub mod trace;
pub mod wire;
mod words;

pub use command::{Command, Verb};
pub use error::CommandError;
pub use history::History;
pub use mux::{Mux, Routing};
pub use range::MemoryRange;
pub use reply::Reply;
pub use request::Request;
pub use trace::ExitTrace;
