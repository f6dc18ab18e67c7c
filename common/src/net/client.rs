//! `--ready`: asks the program that runs with this configuration whether it can do its work, so that
//! a container's health check needs nothing but the program itself.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

/// How long connecting, and each wait for the answer, may take.
const PATIENCE: Duration = Duration::from_secs(6);
/// Octets of an answer that are of interest.
const ANSWER_LIMIT: u64 = 4_096;

/// `/readyz` of what listens at `listen` (`http.listen`).
///
/// # Errors
/// Why it is not ready, in its own words, or that it cannot be asked.
pub fn ready(listen: Option<SocketAddr>) -> Result<(), String> {
    let listen = listen.ok_or("http.listen is not set: there is nobody to ask")?;
    let address = reachable(listen);
    let answer = get(address, "/readyz").map_err(|error| format!("http {address}: {error}"))?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    match head.split_ascii_whitespace().nth(1) {
        Some("200") => Ok(()),
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

fn get(address: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.take(ANSWER_LIMIT).read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
