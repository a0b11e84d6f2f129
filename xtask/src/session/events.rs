//! The event stream: one JSON object a line on the second serial port, followed as it grows.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;

use serde_json::Value;

/// A line of the stream.
#[derive(Debug, Clone, PartialEq)]
pub struct Event(
    /// The whole object.
    pub Value,
);

impl Event {
    /// What the key `event` says, or nothing.
    #[must_use]
    pub fn name(&self) -> &str {
        self.text("event")
    }

    /// The text under `key`, or nothing.
    #[must_use]
    pub fn text(&self, key: &str) -> &str {
        self.0.get(key).and_then(Value::as_str).unwrap_or_default()
    }

    /// The number under `key`.
    #[must_use]
    pub fn number(&self, key: &str) -> Option<u64> {
        self.0.get(key).and_then(Value::as_u64)
    }
}

/// Reads a growing `events.jsonl`.
#[derive(Debug)]
pub struct EventLog {
    path: PathBuf,
    read: u64,
    partial: Vec<u8>,
    events: Vec<Event>,
    /// Lines that are no JSON objects: a broken writer, or firmware chatting on the port.
    strays: Vec<String>,
}

impl EventLog {
    /// Follows `path`, which may not exist yet.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self {
            path,
            read: 0,
            partial: Vec::new(),
            events: Vec::new(),
            strays: Vec::new(),
        }
    }

    /// Reads what was added and returns all events so far.
    pub fn refresh(&mut self) -> &[Event] {
        // An unreadable file counts as one that is not there yet.
        let mut added = Vec::new();
        if let Ok(mut file) = File::open(&self.path)
            && file.seek(SeekFrom::Start(self.read)).is_ok()
            && let Ok(count) = file.read_to_end(&mut added)
        {
            self.read += count as u64;
            self.take(&added);
        }
        &self.events
    }

    /// Whole lines on the port that were no JSON objects.
    #[must_use]
    pub fn strays(&self) -> &[String] {
        &self.strays
    }

    fn take(&mut self, bytes: &[u8]) {
        self.partial.extend_from_slice(bytes);
        while let Some(end) = self.partial.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.partial.drain(..=end).collect();
            match serde_json::from_slice::<Value>(line.trim_ascii()) {
                Ok(value) if value.is_object() => self.events.push(Event(value)),
                _ if line.trim_ascii().is_empty() => {}
                _ => self
                    .strays
                    .push(String::from_utf8_lossy(line.trim_ascii()).into_owned()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn events_arrive_line_by_line_even_when_cut() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let mut log = EventLog::new(file.path().to_path_buf());
        assert!(log.refresh().is_empty());
        write!(
            file,
            "{{\"event\":\"boot\",\"tsc\":5}}\r\nnoise\n{{\"event\":\"ha"
        )
        .unwrap();
        assert_eq!(log.refresh().len(), 1);
        writeln!(file, "lt\",\"error\":\"no-vmx\"}}").unwrap();
        let events = log.refresh();
        assert_eq!(events.len(), 2);
        assert_eq!(
            (events[0].name(), events[0].number("tsc")),
            ("boot", Some(5))
        );
        assert_eq!(
            (events[1].name(), events[1].text("error")),
            ("halt", "no-vmx")
        );
        assert_eq!(log.strays(), ["noise"]);
    }
}
