//! What carries ESP: the kernel (XFRM) or this process (raw sockets and a TUN). One decision logic
//! in the core, two data planes (TS 33.203 §7).

mod encapsulation;
mod netlink;
mod routing;
mod silence;
mod state_file;
mod userspace;
mod xfrm;
mod xfrm_message;

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{SystemTime, UNIX_EPOCH};

use self::userspace::Userspace;
use self::xfrm::Xfrm;
use super::http::MoreSamples;
use super::inbox::Inbox;
use super::{PlaneChoice, PlaneConfig};
use crate::ipsec::audit::{Audit, KnownSet};
use crate::ipsec::sa::{SaSet, SetId};
use crate::node::Now;
use crate::stats::Samples;

/// The data plane of this process.
pub(super) enum Plane {
    Xfrm(Xfrm),
    Userspace(Userspace),
}

impl Plane {
    /// Opens the plane that the configuration names; `auto` finds out which one the host can have.
    /// `protected`: the sockets that only ESP may reach. What the plane does by itself goes to the
    /// inbox.
    pub fn open(
        config: &PlaneConfig,
        protected: &[SocketAddr],
        inbox: &Rc<Inbox>,
    ) -> Result<Plane, String> {
        let userspace = || Userspace::open(protected, config.nat, config.state.as_deref());
        let xfrm = || Xfrm::open(protected, config.nat, inbox);
        let plane = match config.choice {
            PlaneChoice::Xfrm => Plane::Xfrm(xfrm().map_err(needs_other)?),
            PlaneChoice::Userspace => Plane::Userspace(userspace()?),
            PlaneChoice::Auto => match xfrm() {
                Ok(xfrm) => {
                    tracing::warn!("ipsec.plane auto: xfrm is taken, because the kernel has ESP");
                    return Ok(Plane::Xfrm(xfrm));
                }
                Err(reason) => {
                    let userspace =
                        userspace().map_err(|error| format!("{error}; nor xfrm: {reason}"))?;
                    tracing::warn!("ipsec.plane auto: userspace is taken, because {reason}");
                    return Ok(Plane::Userspace(userspace));
                }
            },
        };
        tracing::info!(plane = plane.name(), "data plane of IPsec opened");
        Ok(plane)
    }

    /// The interface to which protected sockets are bound.
    pub fn device(&self) -> Option<&str> {
        match self {
            Plane::Xfrm(_) => None,
            Plane::Userspace(userspace) => Some(userspace.device()),
        }
    }

    /// TS 33.203 §7.1: clear text to protected ports is discarded without a word. Once the protected sockets
    /// are open: nobody else's may be there before.
    pub fn shut(&mut self, protected: &[SocketAddr]) -> Result<(), String> {
        match self {
            // Its policies do it.
            Plane::Xfrm(_) => Ok(()),
            Plane::Userspace(userspace) => userspace.shut(protected),
        }
    }

    /// TS 33.203 §7.1: the four associations of a set are in effect when this returns.
    pub fn install(&mut self, set: &SaSet) -> Result<(), String> {
        match self {
            Plane::Xfrm(xfrm) => xfrm.install(set),
            Plane::Userspace(userspace) => userspace.install(set),
        }
    }

    /// A set ends at `until`; the core sees to it. A plane that outlives this process sees to it too.
    pub fn keep(&mut self, set: SetId, until: Now) {
        match self {
            Plane::Xfrm(xfrm) => xfrm.keep(set, until),
            // Its file carries nothing by itself, and the next run is told what to go on with.
            Plane::Userspace(_) => {}
        }
    }

    /// Makes the plane hold the sets that the core knows and nothing else of its own; `done` gets what
    /// it holds, maybe later. What other programs have is left alone.
    pub fn audit(
        &mut self,
        known: Vec<KnownSet>,
        done: impl FnOnce(Result<Audit, String>) + 'static,
    ) {
        match self {
            Plane::Xfrm(xfrm) => xfrm.audit(known, done),
            Plane::Userspace(userspace) => done(Ok(userspace.audit(&known))),
        }
    }

    /// The local and remote ends that a set protects: their connections must end before it goes
    /// (ipsec.md K-11).
    pub fn connections(&self, set: SetId) -> Vec<(SocketAddr, SocketAddr)> {
        let associations = match self {
            Plane::Xfrm(xfrm) => xfrm.associations(set),
            Plane::Userspace(userspace) => userspace.associations(set),
        };
        let inbound = associations.into_iter().flatten().filter(|one| one.is_inbound);
        inbound.map(|association| (association.destination, association.source)).collect()
    }

    /// Removes all of a set; a set that is not there is none to remove.
    pub fn remove(&mut self, set: SetId) {
        match self {
            Plane::Xfrm(xfrm) => xfrm.remove(set),
            Plane::Userspace(userspace) => userspace.remove(set),
        }
    }

    pub fn samples(&self, samples: &mut Samples) {
        samples.gauge(
            "tessera_ipsec_plane",
            "Which data plane carries ESP.",
            &[("plane", self.name())],
            1.0,
        );
        let sets = match self {
            Plane::Xfrm(xfrm) => {
                xfrm.samples(samples);
                xfrm.len()
            }
            Plane::Userspace(userspace) => {
                userspace.samples(samples);
                userspace.len()
            }
        };
        samples.gauge(
            "tessera_ipsec_sets",
            "Sets of four security associations installed.",
            &[],
            sets as f64,
        );
    }

    /// Numbers that are read beside the loop.
    pub fn more_samples(&self) -> Option<MoreSamples> {
        match self {
            Plane::Xfrm(xfrm) => Some(Box::new(xfrm.counters())),
            Plane::Userspace(_) => None,
        }
    }

    /// The sets stay where they outlive the process: the next run goes on with them.
    pub fn close(&mut self) {
        if let Plane::Xfrm(xfrm) = self {
            xfrm.close();
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Plane::Xfrm(_) => "xfrm",
            Plane::Userspace(_) => "userspace",
        }
    }
}

/// Which plane would be taken; an error says what each lacks. Changes nothing.
pub(super) fn check(config: &PlaneConfig, protected: &[SocketAddr]) -> Result<String, String> {
    if config.nat {
        encapsulation::check(protected)?;
    }
    let xfrm = || xfrm::probe(protected);
    let userspace = || {
        userspace::probe(protected)?;
        config.state.as_deref().map_or(Ok(()), state_file::check)
    };
    match config.choice {
        PlaneChoice::Xfrm => xfrm().map(|()| "ipsec.plane: xfrm".to_owned()).map_err(needs_other),
        PlaneChoice::Userspace => userspace()
            .map(|()| "ipsec.plane: userspace".to_owned())
            .map_err(|error| format!("ipsec.plane userspace: {error}")),
        PlaneChoice::Auto => match xfrm() {
            Ok(()) => Ok("ipsec.plane: xfrm, because the kernel has ESP".to_owned()),
            Err(reason) => userspace()
                .map(|()| format!("ipsec.plane: userspace, because {reason}"))
                .map_err(|error| format!("ipsec.plane: {error}; nor xfrm: {reason}")),
        },
    }
}

fn needs_other(error: String) -> String {
    format!("ipsec.plane xfrm: {error}; or set ipsec.plane = \"userspace\"")
}

/// TS 33.203 Annex M: the NAT has given the UE of a set another port.
fn tell_rebound(set: SetId, nat: SocketAddr) {
    tracing::info!(set = set.0, %nat, "the UE is reached at another port of its NAT");
}

/// Both planes count alike.
fn show_rebound(samples: &mut Samples, count: u64) {
    let help = "Times that the NAT in front of a UE was heard from another port.";
    samples.counter("tessera_ipsec_nat_rebound_total", help, &[], count);
}

fn epoch_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Both planes count alike; index 0 is inbound, 1 outbound.
fn show_traffic(samples: &mut Samples, packets: [u64; 2], bytes: [u64; 2], drops: &[(&str, u64)]) {
    for (place, direction) in ["in", "out"].into_iter().enumerate() {
        let labels = [("direction", direction)];
        let help = "Packets carried inside ESP.";
        samples.counter("tessera_ipsec_packets_total", help, &labels, packets[place]);
        let help = "Octets carried inside ESP.";
        samples.counter("tessera_ipsec_bytes_total", help, &labels, bytes[place]);
    }
    for (reason, count) in drops {
        let help = "Packets of protected ports that were dropped.";
        samples.counter("tessera_ipsec_drops_total", help, &[("reason", reason)], *count);
    }
}
