//! `ft status` and `ft events`.

use super::client::{Answer, AskError, ask, ask_line, find_socket};
use super::{Event, Request};
use clap::{Args, ValueEnum};
use serde_json::{Map, Value, json};
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const WATCH_EVERY: Duration = Duration::from_secs(1);
/// To the terminal's first line, and nothing below it.
const HOME: &str = "\x1b[H\x1b[J";

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Json,
}

#[derive(Args)]
struct Asked {
    /// The control socket, as configured. Otherwise the only one in /run/ft.
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// `json`: lines as the engine says them.
    #[arg(short, long, default_value = "text")]
    output: Format,
}

#[derive(Args)]
pub struct StatusArgs {
    #[command(flatten)]
    asked: Asked,
    /// Once a second, until interrupted; also while no engine answers.
    #[arg(long)]
    watch: bool,
}

#[derive(Args)]
pub struct EventsArgs {
    #[command(flatten)]
    asked: Asked,
    /// Go on as they come, until the engine ends.
    #[arg(long)]
    follow: bool,
}

impl StatusArgs {
    pub fn run(self) -> Result<(), AskError> {
        let path = find_socket(self.asked.socket)?;
        let mut out = io::stdout();
        if self.watch {
            let in_place = out.is_terminal();
            watch(&path, self.asked.output, &mut out, in_place);
            return Ok(());
        }
        let line = ask_line(&path, Request::Status)?;
        let text = match self.asked.output {
            Format::Json => line + "\n",
            Format::Text => table(&fields(&line)),
        };
        // A reader that went away is no fault of ours.
        let _ = out.write_all(text.as_bytes());
        Ok(())
    }
}

impl EventsArgs {
    pub fn run(self) -> Result<(), AskError> {
        let path = find_socket(self.asked.socket)?;
        let answer = ask(&path, Request::Events { after: 0, follow: self.follow })?;
        if print_events(answer, self.asked.output, &mut io::stdout())? && self.follow {
            eprintln!("ft: the engine of {} has ended", path.display());
        }
        Ok(())
    }
}

/// False: nobody reads it any more.
fn print_events(answer: Answer, format: Format, out: &mut impl Write) -> Result<bool, AskError> {
    let mut last = 0;
    for line in answer {
        let line = line?;
        let event = serde_json::from_str::<Event>(&line).ok();
        if let Some(e) = &event {
            let dropped = e.seq.saturating_sub(last + 1);
            if dropped > 0 {
                eprintln!("ft: {dropped} older events are not kept any more");
            }
            last = e.seq;
        }
        let text = match (format, event) {
            (Format::Text, Some(e)) => event_text(&e),
            _ => line,
        };
        if writeln!(out, "{text}").and_then(|()| out.flush()).is_err() {
            return Ok(false);
        }
    }
    Ok(true)
}

fn event_text(e: &Event) -> String {
    let step = e.milestone.map(|m| format!("[{m}] ")).unwrap_or_default();
    format!("{}  {step}{}", utc(Duration::from_micros(e.at_us)), e.event)
}

fn utc(since_1970: Duration) -> String {
    humantime::format_rfc3339_micros(UNIX_EPOCH + since_1970).to_string()
}

/// Until nobody reads it any more.
fn watch(path: &Path, format: Format, out: &mut impl Write, in_place: bool) {
    loop {
        let answer = ask_line(path, Request::Status);
        let text = match (format, &answer) {
            (Format::Json, Ok(line)) => format!("{line}\n"),
            (Format::Json, Err(e)) => format!("{}\n", json!({ "error": e.to_string() })),
            (Format::Text, Ok(line)) if in_place => format!("{}{}\n", table(&fields(line)), now()),
            (Format::Text, Ok(line)) => format!("{}  {}\n", now(), brief(&fields(line))),
            (Format::Text, Err(e)) if in_place => format!("{e}\n{}\n", now()),
            (Format::Text, Err(e)) => format!("{}  {e}\n", now()),
        };
        let home = if in_place && format == Format::Text { HOME } else { "" };
        if write!(out, "{home}{text}").and_then(|()| out.flush()).is_err() {
            return;
        }
        std::thread::sleep(WATCH_EVERY);
    }
}

fn now() -> String {
    humantime::format_rfc3339_seconds(SystemTime::now()).to_string()
}

pub fn fields(line: &str) -> Map<String, Value> {
    serde_json::from_str(line).unwrap_or_default()
}

fn plain(v: &Value) -> String {
    match v {
        Value::String(s) => s.clone(),
        Value::Null => "-".into(),
        v => v.to_string(),
    }
}

/// A line per field.
fn table(fields: &Map<String, Value>) -> String {
    fields.iter().map(|(name, v)| format!("{:<18}{}\n", name.replace('_', " "), plain(v))).collect()
}

/// All in one line.
fn brief(fields: &Map<String, Value>) -> String {
    let words: Vec<String> = fields
        .iter()
        .map(|(name, v)| match plain(v) {
            v if v.contains(' ') => format!("{name}=\"{v}\""),
            v => format!("{name}={v}"),
        })
        .collect();
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pair::status::Milestone;

    #[test]
    fn texts_are_for_people() {
        let f = fields(r#"{"role":"mute","state":"mute: no backup","guest_pid":null,"lag_entries":3}"#);
        assert_eq!(brief(&f), "role=mute state=\"mute: no backup\" guest_pid=- lag_entries=3");
        assert_eq!(
            table(&f),
            "role              mute\nstate             mute: no backup\nguest pid         -\nlag entries       3\n"
        );
        let e = Event { seq: 1, at_ms: 0, at_us: 1_500, milestone: Some(Milestone::Live), event: "term 2".into() };
        assert_eq!(event_text(&e), "1970-01-01T00:00:00.001500Z  [live] term 2");
    }
}
