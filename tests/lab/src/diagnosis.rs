//! What an operator is told of packets that the data plane drops: in the P-CSCF's log, by subscriber
//! where it can be known.

use std::time::Duration;

use scenarios::{Function, Phone, Standing, World};

use crate::check::LabWorld;

const PATIENCE: Duration = Duration::from_secs(30);

/// Two packets on the bearer of a registered phone: one with an SPI that nobody has, and one of its own
/// again. The next look at the data plane tells of both, of the second with the subscriber's name.
pub fn drops_are_told(world: &mut LabWorld) -> Result<(), String> {
    if world.metric(Function::Pcscf, "tessera_ipsec_plane", &[]) == 0.0 {
        // `--ipsec off`: nothing carries ESP.
        return Ok(());
    }
    let ue = world.add_phone(Phone::Good);
    world.register(ue);
    world.until("the registration", PATIENCE, &mut |world| {
        world.standing(ue) == Standing::Registered
    })?;
    let line = world.line(ue).ok_or("the phone has no bearer")?;
    let replayed = line.sent.ok_or("the phone has sent no ESP")?;
    let header = if line.address.is_ipv4() { 20 } else { 40 };
    let mut foreign = replayed.clone();
    // Every SPI that the P-CSCF gives is above 255, those of this lab far above (RFC 4303 §2.1).
    foreign[header..header + 4].copy_from_slice(&256u32.to_be_bytes());

    let log = world.ask(|laboratory| Some(laboratory.processes.get("pcscf")?.log().to_owned()));
    let log = log.ok_or("the P-CSCF has no log")?;
    let read = || std::fs::read_to_string(&log).unwrap_or_default();
    let before = read().len();
    world.inject(ue, foreign);
    world.inject(ue, replayed);
    let name = format!("identity={}", line.impi);
    world.until("both drops are in the log", PATIENCE, &mut |world| {
        world.command(Function::Pcscf, &["sa", "list"]);
        let text = read();
        let news = text.get(before..).unwrap_or_default();
        let has =
            |words: &[&str]| news.lines().any(|line| words.iter().all(|word| line.contains(word)));
        has(&["belong to no subscriber's association"])
            && has(&["packets of this subscriber were dropped", &name, "replayed=1"])
    })
}
