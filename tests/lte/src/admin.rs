//! Commands: `lte --config FILE COMMAND` asks the running transport at its `http.listen`, which
//! answers `POST /admin`.

use std::net::SocketAddr;
use std::time::Duration;

use common::net::client;

use crate::script::{Command, Script};
use crate::transport::{Output, Transport};

/// Carries out one command in words: the answer ends with a line, and begins with `error: ` when
/// nothing was done.
pub fn answer(
    transport: &mut Transport,
    now: Duration,
    words: &[String],
    out: &mut Vec<Output>,
) -> String {
    let name = words.first().map_or("", String::as_str);
    let done = match (name, &words[words.len().min(1)..]) {
        ("cells", []) => Ok(transport.describe_cells()),
        ("ue", [imsi]) => transport.describe_ue(imsi),
        ("script", [text]) => Script::parse(text)
            .and_then(|script| transport.start_script(now, script))
            .map(|events| format!("script: {events} events\n")),
        _ => Command::from_words(words)
            .and_then(|command| transport.command(now, &command, out))
            .map(|line| format!("{line}\n")),
    };
    match done {
        Ok(text) => text,
        Err(error) => {
            tracing::warn!(command = name, error, "command refused");
            format!("error: {error}\n")
        }
    }
}

/// Asks the transport that listens there. A script is read here, so that the transport needs no
/// way to the file: `script FILE` sends what is in it.
pub fn ask(at: SocketAddr, mut words: Vec<String>) -> Result<String, String> {
    if words.first().is_some_and(|name| name == "script")
        && let Some(path) = words.get_mut(1)
    {
        *path = std::fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
    }
    let answer = client::command(Some(at), &words)?;
    match answer.strip_prefix("error: ") {
        None => Ok(answer),
        Some(error) => Err(error.trim_end().to_owned()),
    }
}
