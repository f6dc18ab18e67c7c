//! Commands: `lte --config FILE COMMAND` asks the running transport at its `http.listen`, which
//! answers `POST /admin`.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::script::{Command, Script};
use crate::transport::{Output, Transport};

const PATIENCE: Duration = Duration::from_secs(60);

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
    let body = serde_json::to_string(&words).map_err(|error| error.to_string())?;
    let text = post(at, &body).map_err(|error| format!("http://{at}/admin: {error}"))?;
    let (head, answer) = text.split_once("\r\n\r\n").ok_or("the answer is not HTTP")?;
    let is_good = head.starts_with("HTTP/1.1 200");
    match answer.strip_prefix("error: ") {
        None if is_good => Ok(answer.to_owned()),
        error => Err(error.unwrap_or(answer).trim_end().to_owned()),
    }
}

fn post(at: SocketAddr, body: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&at, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(
        stream,
        "POST /admin HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}
