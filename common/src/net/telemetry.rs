//! Logs as text or JSON on standard error, written by a thread of their own so that a reader who
//! stalls does not stall the daemon.

use std::io::Write;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use super::{LogConfig, LogFormat};

/// Lines that may wait for the writer; further ones are dropped and counted.
const WAITING_LINES: usize = 8_192;

static LOST_LINES: AtomicU64 = AtomicU64::new(0);
static WRITER: OnceLock<SyncSender<Message>> = OnceLock::new();

enum Message {
    Line(Vec<u8>),
    /// Tells when all before it is written.
    Flush(SyncSender<()>),
}

/// Starts logging for the whole process. A second call changes nothing, so that several daemons may
/// live in one process under test.
pub(super) fn start(config: &LogConfig) -> Result<(), String> {
    let filter = match std::env::var("RUST_LOG") {
        Ok(text) if !text.is_empty() => text,
        _ => config.filter.clone().unwrap_or_else(|| "info".to_owned()),
    };
    let filter = EnvFilter::try_new(&filter)
        .map_err(|error| format!("log.filter: {filter:?} is not a filter: {error}"))?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(false)
        .with_writer(Lines { sender: writer() });
    let started = match config.format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    // The only error is that a subscriber is in place already.
    drop(started);
    Ok(())
}

/// Waits until what was logged so far is written, but not long.
pub(super) fn flush() {
    let Some(sender) = WRITER.get() else { return };
    let (done, wait) = sync_channel(1);
    if sender.try_send(Message::Flush(done)).is_ok() {
        // Not written in time means that nobody reads.
        let _ = wait.recv_timeout(Duration::from_secs(1));
    }
}

/// How many lines were dropped because standard error did not take them.
pub(super) fn lost_lines() -> u64 {
    LOST_LINES.load(Ordering::Relaxed)
}

fn writer() -> SyncSender<Message> {
    WRITER
        .get_or_init(|| {
            let (sender, receiver) = sync_channel(WAITING_LINES);
            let started = std::thread::Builder::new().name("log".into()).spawn(|| write(receiver));
            if let Err(error) = started {
                let _ = writeln!(std::io::stderr(), "no thread for the log: {error}");
            }
            sender
        })
        .clone()
}

fn write(receiver: Receiver<Message>) {
    let mut stderr = std::io::stderr();
    for message in receiver {
        match message {
            // Standard error that is closed takes the log with it; the daemon goes on.
            Message::Line(line) => drop(stderr.write_all(&line)),
            Message::Flush(done) => drop(done.try_send(())),
        }
    }
}

struct Lines {
    sender: SyncSender<Message>,
}

/// One formatted event.
struct Line {
    sender: SyncSender<Message>,
    text: Vec<u8>,
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        Line { sender: self.sender.clone(), text: Vec::new() }
    }
}

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.text.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if self.text.is_empty() {
            return;
        }
        let line = Message::Line(std::mem::take(&mut self.text));
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) =
            self.sender.try_send(line)
        {
            LOST_LINES.fetch_add(1, Ordering::Relaxed);
        }
    }
}
