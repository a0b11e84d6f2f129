//! Children that do not outlive their parent, however that ends.
#![allow(unsafe_code)] // `pre_exec` is the only way to tie a child's life to its parent's.

use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;

/// Has `signal` sent to the process that `command` starts when the thread that starts it ends before.
pub fn to_parent(command: &mut Command, signal: Signal) -> &mut Command {
    let tie = move || set_pdeathsig(signal).map_err(std::io::Error::from);
    // SAFETY: the closure makes one system call, which is safe between fork and exec.
    unsafe { command.pre_exec(tie) }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn a_child_ends_with_the_thread_that_started_it() {
        let (hand_over, child) = mpsc::channel();
        std::thread::spawn(move || {
            let mut command = Command::new("sleep");
            command.arg("100");
            hand_over
                .send(to_parent(&mut command, Signal::SIGTERM).spawn())
                .unwrap();
        });
        let status = child.recv().unwrap().unwrap().wait().unwrap();
        assert_eq!(status.signal(), Some(Signal::SIGTERM as i32));
    }
}
