//! The command line of `cargo xtask`.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
