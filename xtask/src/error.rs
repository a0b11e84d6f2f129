//! The one error type of the tool: what failed, where, and what a person can do about it.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

/// Everything that can go wrong between the command line and a booted machine.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file operation failed.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// A verb: "read", "create", ...
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A program that this tool calls is not on the machine.
    #[error("`{program}` is not on this machine; {hint}")]
    MissingTool {
        /// The program's name.
        program: String,
        /// How to get it.
        hint: &'static str,
    },
    /// A program ended with a failure.
    #[error("`{command}` failed ({status}){}{output}", if output.is_empty() { "" } else { ":\n" })]
    Tool {
        /// The command line.
        command: String,
        /// How it ended.
        status: ExitStatus,
        /// The last lines it printed.
        output: String,
    },
    /// This machine cannot provide something that is needed.
    #[error("{what}; {hint}")]
    Unavailable {
        /// What is missing.
        what: String,
        /// What to do about it.
        hint: String,
    },
    /// The emulator's 64-bit signed division is wrong and could not be mended.
    #[error(
        "the emulator's 64-bit signed division cannot be trusted: {0}; Linux would die of divide errors on it"
    )]
    Idiv(#[from] crate::provision::idiv::IdivError),
    /// The emulator has a function no more that is known to be wrong.
    #[error("how the emulator brings interrupts to guests cannot be mended: {0}")]
    Interrupts(#[from] crate::provision::function::FunctionError),
    /// The manifest is wrong; the text lists every finding.
    #[error("{0}")]
    Manifest(String),
    /// A file that the manifest names is nowhere to be found.
    #[error("{}: `{key}` names {name}, which is not there; looked for {}", manifest.display(), list(tried))]
    Payload {
        /// The manifest.
        manifest: PathBuf,
        /// The key that names the payload, such as `vm[0].kernel`.
        key: String,
        /// The payload's name in the manifest.
        name: String,
        /// Every path looked at.
        tried: Vec<PathBuf>,
    },
    /// The command line asks for something impossible.
    #[error("{0}")]
    BadCall(String),
    /// A disk image could not be put together.
    #[error("cannot make the disk image: {0}")]
    Image(String),
    /// The emulated machine did not do what was asked of it.
    #[error("{0}")]
    Run(String),
    /// Tests failed; the report was printed already.
    #[error("tests failed")]
    TestsFailed,
    /// Interrupted by Ctrl-C or a termination signal.
    #[error("interrupted")]
    Interrupted,
}

/// Shorthand used throughout the tool.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// The process exit code: 2 for a bad call or manifest, 1 for everything else.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Manifest(_) | Self::Payload { .. } | Self::BadCall(_) => 2,
            _ => 1,
        }
    }
}

/// Attaches the path and the verb to a bare [`io::Error`].
pub trait IoContext<T> {
    /// Says what was being done (`action`, a verb) to which `path`.
    ///
    /// # Errors
    /// Passes the error on as [`Error::Io`].
    fn context(self, action: &'static str, path: &Path) -> Result<T>;
}

impl<T> IoContext<T> for io::Result<T> {
    fn context(self, action: &'static str, path: &Path) -> Result<T> {
        self.map_err(|source| Error::Io {
            action,
            path: path.to_path_buf(),
            source,
        })
    }
}

fn list(paths: &[PathBuf]) -> String {
    paths
        .iter()
        .map(|p| p.display().to_string())
        .collect::<Vec<_>>()
        .join(", ")
}
