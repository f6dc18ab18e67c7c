//! What asks the program that runs with this configuration: `--ready`, so that a container's health
//! check needs nothing but the program itself, and the operator's commands.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

/// How long connecting, and each wait for the answer, may take.
const PATIENCE: Duration = Duration::from_secs(6);
/// The same for an answer to a command: the daemon itself waits up to a minute for a peer.
const COMMAND_PATIENCE: Duration = Duration::from_secs(65);

/// `/readyz` of what listens at `listen` (`http.listen`).
///
/// # Errors
/// Why it is not ready, in its own words, or that it cannot be asked.
pub fn ready(listen: Option<SocketAddr>) -> Result<(), String> {
    ask(listen, "GET", "/readyz", "", PATIENCE).map(|_| ())
}

/// The answer to a command of the operator's.
///
/// # Errors
/// There is no such command, or nobody to take it.
pub fn command(listen: Option<SocketAddr>, words: &[String]) -> Result<String, String> {
    let body = serde_json::to_string(words).map_err(|error| error.to_string())?;
    ask(listen, "POST", "/admin", &body, COMMAND_PATIENCE)
}

/// The body of an answer 200; any other is the error.
fn ask(
    listen: Option<SocketAddr>,
    method: &str,
    path: &str,
    body: &str,
    patience: Duration,
) -> Result<String, String> {
    let listen = listen.ok_or("http.listen is not set: there is nobody to ask")?;
    let address = reachable(listen);
    let answer = exchange(address, method, path, body, patience)
        .map_err(|error| format!("http {address}: {error}"))?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    match head.split_ascii_whitespace().nth(1) {
        Some("200") => Ok(body.to_owned()),
        _ if !body.trim().is_empty() => Err(body.trim().to_owned()),
        _ => Err(head.lines().next().unwrap_or("no answer").to_owned()),
    }
}

/// Who listens everywhere is found on the loopback.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

/// HTTP/1.0, so that the answer comes in one piece.
fn exchange(
    address: SocketAddr,
    method: &str,
    path: &str,
    body: &str,
    patience: Duration,
) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let length = body.len();
    write!(
        stream,
        "{method} {path} HTTP/1.0\r\nHost: {address}\r\nConnection: close\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    )?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
