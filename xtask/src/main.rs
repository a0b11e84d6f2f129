//! The command line of `cargo xtask`.

use std::process::ExitCode;
use xtask::Workspace;
use xtask::provision::bochs::Bochs;

fn main() -> ExitCode {
    match Bochs::provision(&Workspace::locate()) {
        Ok(b) => {
            println!("{}", b.root().display());
            ExitCode::SUCCESS
        }
        Err(e) => {
            eprintln!("error: {e}");
            ExitCode::from(e.exit_code())
        }
    }
}
