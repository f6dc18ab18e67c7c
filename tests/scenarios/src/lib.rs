//! What can happen to an IMS registration, written once for the simulator and the laboratory.
//!
//! A scenario drives a [`World`] and looks at what others can see: the UE's own state and the metrics of
//! the daemons. It never looks inside a core.

pub mod attacks;
pub mod nat;
pub mod procedures;
pub mod reg_event;
pub mod registration;
pub mod server;
pub mod servers;

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

/// What kind of phone, or what is wrong with it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phone {
    /// Card and HSS agree.
    Good,
    /// The card has seen later sequence numbers than the HSS gives: a synchronisation failure.
    CardAhead,
    /// The card has another key: it does not believe the network.
    WrongKey,
    /// The card's answer is wrong: the network does not believe it.
    WrongResponse,
    /// It alters Security-Verify, as somebody in the middle would make it.
    AlteredSecurityVerify,
    /// The HSS does not know it.
    Unknown,
    /// It asks for a registration of one second.
    Hasty,
    /// It has [`PRIVATE_ADDRESS`] behind a NAT of its own, which has its bearer; on an IPv6 bearer there is
    /// no NAT.
    BehindNat,
    /// It registers a flow (RFC 5626).
    WithFlow,
    /// [`REQUIRED`] stands in its Contact, and a server that nobody has must hear of who says that.
    NeedsServer,
    /// Its Contact names [`ELSEWHERE`], which leads nowhere.
    ContactElsewhere,
}

/// A feature tag.
pub const REQUIRED: &str = "+g.tessera.required";

/// A host that nobody has (RFC 2606 §2).
pub const ELSEWHERE: &str = "phone.invalid:5090";

/// Of every phone behind a NAT: as in a million homes.
pub const PRIVATE_ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 2);

/// The four functions, and the application server, as scenarios name them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Function {
    Pcscf,
    Icscf,
    /// The first of two.
    Scscf1,
    Scscf2,
    Hss,
    ApplicationServer,
}

impl Function {
    pub const fn name(self) -> &'static str {
        match self {
            Function::Pcscf => "pcscf",
            Function::Icscf => "icscf",
            Function::Scscf1 => "scscf1",
            Function::Scscf2 => "scscf2",
            Function::Hss => "hss",
            Function::ApplicationServer => "as",
        }
    }
}

/// Where a UE stands, as it sees it itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Standing {
    /// Nothing has been asked of it, or it has deregistered.
    Idle,
    /// A procedure is under way.
    Busy,
    Registered,
    /// The last procedure failed: status of the final response (408 for silence), cause as it names it.
    Failed {
        status: u16,
        cause: String,
    },
}

/// A phone's identity and bearer, as somebody sees them who listens on it.
#[derive(Clone, Debug)]
pub struct Line {
    pub impi: String,
    pub public_identity: String,
    pub address: IpAddr,
    /// Address of its P-CSCF.
    pub pcscf: IpAddr,
    /// Client and server port, SPIs of its newest set.
    pub ports: Option<(u16, u16, u32, u32)>,
    /// The last ESP packet that it has sent.
    pub sent: Option<Vec<u8>>,
    /// Packets that have come down to it.
    pub arrived: u64,
}

/// Where scenarios run. Times are the world's own: virtual in the simulator.
pub trait World {
    /// Adds a phone; the HSS knows its subscriber unless it is [`Phone::Unknown`].
    fn add_phone(&mut self, phone: Phone) -> usize;
    /// Another bearer of a phone, for emergency calls: the same card, and `sos` in its Contact.
    fn add_emergency_phone(&mut self, of: usize) -> usize;
    fn register(&mut self, ue: usize);
    /// A re-registration over the existing associations.
    fn reregister(&mut self, ue: usize);
    fn deregister(&mut self, ue: usize);
    fn standing(&mut self, ue: usize) -> Standing;
    /// How many procedures of this UE have ended well.
    fn completed(&mut self, ue: usize) -> u64;
    /// How many documents of its registration's state this UE has got.
    fn notified(&mut self, ue: usize) -> u64;
    /// The public and the temporary GRUU that it has got, if it has.
    fn gruus(&mut self, ue: usize) -> Option<(String, String)>;
    /// Whose card is in it.
    fn private_identity(&mut self, ue: usize) -> String;
    /// The telephone number in its implicit set, which is not the default identity; as tel URI.
    fn telephone(&mut self, ue: usize) -> String;
    /// An operator's command; what it answers is of no interest here.
    fn command(&mut self, of: Function, words: &[&str]);
    /// Sum over all samples of a metric whose labels include `labels`; 0 when there is none.
    fn metric(&mut self, of: Function, name: &str, labels: &[(&str, &str)]) -> f64;
    /// `None` while it has no bearer.
    fn line(&mut self, ue: usize) -> Option<Line>;
    /// Sends an IP packet on its bearer, beside what it sends itself.
    fn inject(&mut self, ue: usize, packet: Vec<u8>);
    /// The battery is taken out: it forgets all but the card, and counts ports and SPIs from the same
    /// numbers as every phone after a boot.
    fn reboot(&mut self, ue: usize);
    /// Its NAT gives it other ports from now on.
    fn rebind(&mut self, ue: usize);
    /// Kills the process without warning.
    fn kill(&mut self, function: Function);
    /// Asks the process to end; what it still owes somebody it does first, and begins nothing new. Whoever does
    /// that kills it in the end, as a supervisor would.
    fn drain(&mut self, function: Function);
    /// Starts it again.
    fn start(&mut self, function: Function);
    /// The process takes everything and answers nothing, until told otherwise.
    fn hang(&mut self, function: Function, hangs: bool);
    /// Lets time pass until the condition holds; an error with `what` when it does not within `limit`.
    fn until(
        &mut self,
        what: &str,
        limit: Duration,
        condition: &mut dyn FnMut(&mut dyn World) -> bool,
    ) -> Result<(), String>;
}

/// One thing that can happen.
pub struct Scenario {
    pub name: &'static str,
    /// What it shows, for the list.
    pub shows: &'static str,
    pub run: fn(&mut dyn World) -> Result<(), String>,
    /// It needs processes that can be killed and hung.
    pub is_fault: bool,
}

/// All scenarios that the build knows.
pub const ALL: &[&[Scenario]] =
    &[registration::ALL, procedures::ALL, servers::ALL, reg_event::ALL, nat::ALL, attacks::ALL];

pub fn all() -> impl Iterator<Item = &'static Scenario> {
    ALL.iter().flat_map(|group| group.iter())
}

/// An error with `what` unless it holds.
pub fn ensure(holds: bool, what: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(what()) }
}
