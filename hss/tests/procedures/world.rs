//! An HSS's database with a few subscribers, and short words for what an S-CSCF asks.

use common::aka::vector::Algorithm;
use common::cx::sar::ServerAssignmentType;
use common::cx::{Lia, Lir, Maa, Mar, Saa, Sar, Uaa, Uar};
use common::diameter::endpoint;
use common::random::Random;
use common::secret::Secret;
use hss::config::Config;
use hss::database::{Database, Server, State};
use hss::keys::Vault;
use hss::provision::{self, PublicIdentity, Subscriber};
use hss::refusal::Refusal;
use hss::sar::Assigned;
use hss::{lir, mar, sar, uar};
use rusqlite::Connection;

pub const ALICE: &str = "alice@hims.net";
/// Alice's second device.
pub const TABLET: &str = "tablet@hims.net";
pub const BOB: &str = "bob@hims.net";
/// A user whose identities are all barred.
pub const BARRED: &str = "barred@hims.net";
pub const SERVICE: &str = "service@hims.net";

/// Barred, of the set {TEMPORARY, ALICE_SIP, ALICE_TEL}.
pub const TEMPORARY: &str = "sip:temporary@hims.net";
pub const ALICE_SIP: &str = "sip:alice@hims.net";
pub const ALICE_TEL: &str = "tel:+15551234567";
/// A set of its own in Alice's subscription.
pub const WORK: &str = "sip:work@hims.net";
/// Has services for the unregistered.
pub const BOB_SIP: &str = "sip:bob@hims.net";
pub const BARRED_SIP: &str = "sip:barred@hims.net";
/// Services: routed directly, inactive, and a wildcard.
pub const DIRECT: &str = "sip:conference@hims.net";
pub const INACTIVE: &str = "sip:closed@hims.net";
pub const CHAT: &str = "sip:chat-!.*!@hims.net";

pub const DOMAIN: &str = "hims.net";
pub const S1: &str = "sip:scscf1.hims.net:6060";
pub const S2: &str = "sip:scscf2.hims.net:6060";

/// TS 35.207 §4.3: K and OPc of test set 1.
pub const K: &str = "465b5ce8b199b49faa5f0a2ee238a6bc";
pub const OPC: &str = "cd63cb71954a9f4e48a5994e37a02baf";

pub struct World {
    pub config: Config,
    pub database: Database,
    pub vault: Vault,
    pub random: Random,
}

pub fn milenage() -> Algorithm {
    Algorithm::Milenage { k: Secret::new(octets(K)), opc: Secret::new(octets(OPC)) }
}

pub fn octets<const N: usize>(hex: &str) -> [u8; N] {
    hex::decode(hex).unwrap().try_into().unwrap()
}

pub fn config() -> Config {
    let diameter = endpoint::Config {
        identity: "hss.hims.net".to_owned(),
        realm: DOMAIN.to_owned(),
        listen: None,
        peers: Vec::new(),
        allowed_peers: Vec::new(),
        watchdog_milliseconds: 30_000,
        reconnect_milliseconds: 500,
        reconnect_max_milliseconds: 30_000,
        request_timeout_milliseconds: 3_000,
    };
    Config::new(diameter, Secret::new([0x11; 32]))
}

pub fn subscribers() -> Vec<Subscriber> {
    let mut alice = Subscriber::new(ALICE, milenage(), &[TEMPORARY, ALICE_SIP, ALICE_TEL, WORK]);
    alice.public_identities[0].is_barred = true;
    alice.public_identities[3].set = 2;
    alice.mandatory_capabilities = Some(vec![7]);
    let mut tablet = Subscriber::new(TABLET, milenage(), &[]);
    tablet.joins = Some(ALICE.to_owned());
    let mut bob = Subscriber::new(BOB, milenage(), &[BOB_SIP]);
    bob.public_identities[0].profile = Some("voicemail".to_owned());
    let mut barred = Subscriber::new(BARRED, milenage(), &[BARRED_SIP]);
    barred.public_identities[0].is_barred = true;
    let mut service = Subscriber::new(SERVICE, milenage(), &[]);
    service.keys = None;
    service.public_identities = vec![
        PublicIdentity {
            identity_type: 1,
            application_server: Some("sip:as1.hims.net".to_owned()),
            ..PublicIdentity::new(DIRECT)
        },
        PublicIdentity {
            identity_type: 1,
            is_active: false,
            set: 2,
            ..PublicIdentity::new(INACTIVE)
        },
        PublicIdentity {
            identity_type: 2,
            set: 3,
            profile: Some("voicemail".to_owned()),
            ..PublicIdentity::new(CHAT)
        },
    ];
    vec![alice, tablet, bob, barred, service]
}

impl World {
    pub fn new() -> World {
        World::on(Connection::open_in_memory().unwrap())
    }

    pub fn on(connection: Connection) -> World {
        let config = config();
        let vault = Vault::new(config.key.as_ref().unwrap());
        let database = Database::new(connection).unwrap();
        let mut random = Random::from_seed([5; 32]);
        let voicemail = provision::Profile {
            name: "voicemail".to_owned(),
            initial_filter_criteria: vec![common::cx::user_data::InitialFilterCriterion {
                server_name: "sip:voicemail.hims.net".to_owned(),
                ..Default::default()
            }],
            ..Default::default()
        };
        provision::put_profile(&database, &voicemail).unwrap();
        for subscriber in subscribers() {
            provision::add(&database, &vault, &mut random, &subscriber).unwrap();
        }
        database.commit().unwrap();
        World { config, database, vault, random }
    }

    pub fn uar(&mut self, change: impl FnOnce(&mut Uar)) -> Result<Uaa, Refusal> {
        let mut request = Uar {
            user_name: ALICE.to_owned(),
            public_identity: ALICE_SIP.to_owned(),
            visited_network_identifier: DOMAIN.to_owned(),
            ..Uar::default()
        };
        change(&mut request);
        uar::authorize(&self.database, &self.config, &request)
    }

    pub fn mar_of(
        &mut self,
        server: &Server,
        change: impl FnOnce(&mut Mar),
    ) -> Result<Maa, Refusal> {
        let mut request = Mar {
            user_name: ALICE.to_owned(),
            public_identity: ALICE_SIP.to_owned(),
            server_name: server.name.clone(),
            sip_number_auth_items: 1,
            scheme: "Digest-AKAv1-MD5".to_owned(),
            sip_authorization: None,
        };
        change(&mut request);
        let database = &self.database;
        database.procedure(|| {
            let (config, vault, random) = (&self.config, &self.vault, &mut self.random);
            mar::authenticate(database, config, vault, random, &request, server)
        })
    }

    pub fn mar(&mut self, server_name: &str) -> Result<Maa, Refusal> {
        self.mar_of(&server(server_name), |_| ())
    }

    pub fn assign(
        &mut self,
        kind: ServerAssignmentType,
        server_name: &str,
        change: impl FnOnce(&mut Sar),
    ) -> Result<Assigned, Refusal> {
        let mut request = Sar {
            user_name: Some(ALICE.to_owned()),
            public_identities: vec![ALICE_SIP.to_owned()],
            server_name: server_name.to_owned(),
            server_assignment_type: kind,
            ..Sar::default()
        };
        change(&mut request);
        let database = &self.database;
        database.procedure(|| sar::assign(database, &self.config, &request, &server(server_name)))
    }

    pub fn sar(&mut self, kind: ServerAssignmentType, server_name: &str) -> Result<Saa, Refusal> {
        self.assign(kind, server_name, |_| ()).map(|assigned| assigned.answer)
    }

    /// Alice's first set, registered through S1 by MAR and SAR.
    pub fn registered() -> World {
        let mut world = World::new();
        world.mar(S1).unwrap();
        world.sar(ServerAssignmentType::Registration, S1).unwrap();
        world
    }

    pub fn lir(&mut self, identity: &str, change: impl FnOnce(&mut Lir)) -> Result<Lia, Refusal> {
        let mut request = Lir { public_identity: identity.to_owned(), ..Lir::default() };
        change(&mut request);
        lir::locate(&self.database, &self.config, &request)
    }

    pub fn state(&self, identity: &str) -> State {
        self.database.public_identity(identity).unwrap().unwrap().state
    }

    pub fn server_name(&self, private_identity: &str) -> Option<String> {
        let private = self.database.private_identity(private_identity).unwrap().unwrap();
        let subscription = self.database.subscription(private.subscription).unwrap();
        subscription.server.map(|server| server.name)
    }

    pub fn sqn(&self, private_identity: &str) -> u64 {
        self.database.credentials(private_identity).unwrap().unwrap().sqn
    }

    pub fn is_pending(&self, private_identity: &str, public_identity: &str) -> bool {
        let all = self.database.assignments().unwrap();
        let found = all.into_iter().find(|assignment| {
            assignment.private_identity == private_identity
                && assignment.public_identity == public_identity
        });
        found.unwrap().is_authentication_pending
    }
}

pub fn server(name: &str) -> Server {
    let host = name.trim_start_matches("sip:").split(':').next().unwrap().to_owned();
    Server { name: name.to_owned(), host, realm: DOMAIN.to_owned() }
}
