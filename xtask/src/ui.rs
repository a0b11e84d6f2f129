//! Progress: a spinner per long step on a terminal, plain lines otherwise; always on standard error.

use std::io::{IsTerminal, stderr};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// One long step that is under way. Dropping it without [`Step::done`] reports that it did not finish.
#[derive(Debug)]
pub struct Step {
    what: String,
    started: Instant,
    spinner: Option<ProgressBar>,
    finished: bool,
}

impl Step {
    /// Announces `what`, a phrase such as "Downloading Bochs".
    #[must_use]
    pub fn start(what: impl Into<String>) -> Self {
        let what = what.into();
        let spinner = stderr().is_terminal().then(|| {
            let bar = ProgressBar::new_spinner();
            if let Ok(style) = ProgressStyle::with_template("{spinner:.cyan} {msg} {elapsed:.dim}")
            {
                bar.set_style(style);
            }
            bar.set_message(what.clone());
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        if spinner.is_none() {
            eprintln!("==> {what}");
        }
        Self {
            what,
            started: Instant::now(),
            spinner,
            finished: false,
        }
    }

    /// Changes the detail shown after the phrase; silent without a terminal.
    pub fn detail(&self, detail: &str) {
        if let Some(bar) = &self.spinner {
            bar.set_message(format!("{}: {detail}", self.what));
        }
    }

    /// Ends the step; `result` says in a few words what came out of it.
    pub fn done(mut self, result: &str) {
        self.finished = true;
        let seconds = self.started.elapsed().as_secs_f32();
        let line = format!("{}: {result} ({seconds:.1} s)", self.what);
        match self.spinner.take() {
            Some(bar) => {
                bar.finish_and_clear();
                eprintln!("\u{2713} {line}");
            }
            None => eprintln!("    {line}"),
        }
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        if let Some(bar) = self.spinner.take() {
            bar.finish_and_clear();
        }
        if !self.finished {
            eprintln!("    {}: not finished", self.what);
        }
    }
}

/// Prints one line about what is being done.
pub fn note(line: &str) {
    eprintln!("    {line}");
}
