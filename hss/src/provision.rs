//! Subscribers in and out of the database: the operator's side of the HSS.

use std::fmt::Write;
use std::net::IpAddr;

use common::aka::digest::DigestAlgorithm;
use common::aka::vector::Algorithm;
use common::cx::user_data::InitialFilterCriterion;
use common::random::Random;
use common::secret::Secret;
use zeroize::Zeroizing;

use crate::database::Database;
use crate::keys::{self, Vault};
use crate::profile;
use crate::refusal::Refusal;

/// A private identity with what belongs to it.
#[derive(Clone, Debug)]
pub struct Subscriber {
    pub private_identity: String,
    /// `None`: nobody authenticates as it by AKA (a private service identity, or another scheme).
    pub keys: Option<Algorithm>,
    pub scheme: Scheme,
    pub amf: [u8; 2],
    /// The last one used.
    pub sqn: u64,
    /// In the order of their implicit sets; the first that is not barred is the default one.
    pub public_identities: Vec<PublicIdentity>,
    /// The private identity whose subscription this one joins; it may then register all sets of
    /// that subscription beside its own public identities.
    pub joins: Option<String>,
    pub is_suspended: bool,
    /// `None`: as configured.
    pub visited_networks: Option<Vec<String>>,
    pub mandatory_capabilities: Option<Vec<u32>>,
    pub optional_capabilities: Option<Vec<u32>>,
    pub server_names: Option<Vec<String>>,
    /// Name of a row of charging addresses.
    pub charging: Option<String>,
}

/// How a private identity authenticates (TS 29.228 §6.3.1).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Scheme {
    #[default]
    Aka,
    /// SIP Digest, by a password that is not kept (RFC 7616 §3.4.2).
    Digest(Ha1),
    /// Early IMS security: by the address of its bearer.
    EarlyIms(IpAddr),
}

/// HA1 of one password, for each algorithm (RFC 7616, RFC 8760).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ha1 {
    pub realm: String,
    pub md5: Secret<String>,
    pub sha_256: Secret<String>,
}

impl Ha1 {
    pub fn of(private_identity: &str, realm: &str, password: &[u8]) -> Ha1 {
        Ha1 {
            realm: realm.to_owned(),
            md5: DigestAlgorithm::Md5.ha1(private_identity, realm, password),
            sha_256: DigestAlgorithm::Sha256.ha1(private_identity, realm, password),
        }
    }

    /// As it is sealed.
    fn to_octets(&self) -> Zeroizing<Vec<u8>> {
        let parts = [self.md5.expose(), self.sha_256.expose(), &self.realm];
        Zeroizing::new(parts.map(String::as_str).join("\n").into_bytes())
    }

    pub(crate) fn from_octets(octets: &[u8]) -> Option<Ha1> {
        let mut parts = std::str::from_utf8(octets).ok()?.splitn(3, '\n').map(str::to_owned);
        let (md5, sha_256) = (Secret::new(parts.next()?), Secret::new(parts.next()?));
        Some(Ha1 { realm: parts.next()?, md5, sha_256 })
    }
}

/// Name under which the HA1s of a private identity are sealed: what is sealed as keys does not open
/// as a password.
pub(crate) fn digest_name(private_identity: &str) -> String {
    format!("digest {private_identity}")
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PublicIdentity {
    /// Canonical, or a wildcard.
    pub identity: String,
    /// Identities with the same number are registered together.
    pub set: u32,
    pub is_barred: bool,
    /// IdentityType of User-Data: 0, 1, 2 or 4.
    pub identity_type: u8,
    pub is_active: bool,
    pub display_name: Option<String>,
    pub alias_identity_group_id: Option<String>,
    pub application_server: Option<String>,
    /// Name of a service profile; `None`: `default`.
    pub profile: Option<String>,
}

impl Subscriber {
    /// With keys and public identities, everything else at its default.
    pub fn new(private_identity: &str, keys: Algorithm, public_identities: &[&str]) -> Subscriber {
        Subscriber {
            private_identity: private_identity.to_owned(),
            keys: Some(keys),
            scheme: Scheme::Aka,
            amf: [0, 0],
            sqn: 0,
            public_identities: public_identities.iter().map(|i| PublicIdentity::new(i)).collect(),
            joins: None,
            is_suspended: false,
            visited_networks: None,
            mandatory_capabilities: None,
            optional_capabilities: None,
            server_names: None,
            charging: None,
        }
    }
}

impl PublicIdentity {
    pub fn new(identity: &str) -> PublicIdentity {
        PublicIdentity {
            identity: identity.to_owned(),
            set: 1,
            is_barred: false,
            identity_type: 0,
            is_active: true,
            display_name: None,
            alias_identity_group_id: None,
            application_server: None,
            profile: None,
        }
    }
}

/// A service profile by name.
#[derive(Clone, Debug, Default)]
pub struct Profile {
    pub name: String,
    pub subscribed_media_profile_id: Option<u32>,
    pub initial_filter_criteria: Vec<InitialFilterCriterion>,
    pub shared_ifc_set_ids: Vec<u32>,
}

/// Charging addresses by name, in the order of Charging-Information.
#[derive(Clone, Debug, Default)]
pub struct ChargingAddresses {
    pub name: String,
    pub addresses: [Option<String>; 4],
}

/// What became of a removal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Removal {
    Done,
    Unknown,
    /// An S-CSCF serves it: end the registration first.
    Registered,
}

const KEY_CHECK: &str = "key_check";

/// Refuses a key file that is not the one this database was sealed with; a new database is bound
/// to it.
///
/// # Errors
/// The key does not fit, or the database cannot be read.
pub fn check_key(database: &Database, vault: &Vault, random: &mut Random) -> Result<(), Refusal> {
    if fits_key(database, vault)? {
        return Ok(());
    }
    database.write(
        "INSERT INTO property (name, value) VALUES (?1, ?2)",
        (KEY_CHECK, vault.seal_octets(KEY_CHECK, KEY_CHECK.as_bytes(), random)),
    )
}

/// The same without binding: false for a database that is bound to no key yet.
///
/// # Errors
/// The key does not fit, or the database cannot be read.
pub fn fits_key(database: &Database, vault: &Vault) -> Result<bool, Refusal> {
    let sql = "SELECT value FROM property WHERE name = ?1";
    let Some(sealed) = database.row(sql, [KEY_CHECK], |row| row.get::<_, Vec<u8>>(0))? else {
        return Ok(false);
    };
    vault.open_octets(KEY_CHECK, &sealed).map(|_| true).map_err(|_| {
        Refusal::Fault("the key file is not the one this database was made with".to_owned())
    })
}

/// Brings a subscriber in. Run inside [`Database::procedure`].
///
/// # Errors
/// An identity that is there already, or a name that is not.
pub fn add(
    database: &Database,
    vault: &Vault,
    random: &mut Random,
    subscriber: &Subscriber,
) -> Result<(), Refusal> {
    let subscription = match &subscriber.joins {
        None => insert_subscription(database, subscriber)?,
        Some(other) => {
            let found = database.private_identity(other)?;
            found
                .ok_or_else(|| Refusal::Conflict(format!("joins: {other} is not there")))?
                .subscription
        }
    };
    let impi = &subscriber.private_identity;
    if database.private_identity(impi)?.is_some() {
        return Err(Refusal::Conflict(format!("impi: {impi} is there already")));
    }
    let sealed = subscriber.keys.as_ref().map(|keys| vault.seal(impi, keys, random));
    let (scheme, digest, framed_address) = match &subscriber.scheme {
        Scheme::Aka => ("aka", None, None),
        Scheme::Digest(ha1) => {
            let sealed = vault.seal_octets(&digest_name(impi), &ha1.to_octets(), random);
            ("digest", Some(sealed), None)
        }
        Scheme::EarlyIms(address) => ("early-ims", None, Some(address.to_string())),
    };
    let private = database.insert(
        "INSERT INTO private_identity
            (subscription, identity, algorithm, keys, amf, sqn, scheme, digest, framed_address)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
        (
            subscription,
            impi,
            subscriber.keys.as_ref().map_or("none", keys::algorithm_name),
            sealed,
            u16::from_be_bytes(subscriber.amf),
            subscriber.sqn as i64,
            scheme,
            digest,
            framed_address,
        ),
    )?;
    let mut sets: Vec<(u32, i64)> = Vec::new();
    for (position, public) in subscriber.public_identities.iter().enumerate() {
        let set = match sets.iter().find(|(number, _)| *number == public.set) {
            Some((_, set)) => *set,
            None => {
                let set = database.insert(
                    "INSERT INTO implicit_set (subscription) VALUES (?1)",
                    [subscription],
                )?;
                sets.push((public.set, set));
                set
            }
        };
        insert_public_identity(database, set, position as i64, public)?;
    }
    // Everyone of a subscription may register all of its sets.
    database.write(
        "INSERT OR IGNORE INTO registration (implicit_set, private_identity)
         SELECT i.id, m.id FROM implicit_set i
         JOIN private_identity m ON m.subscription = i.subscription
         WHERE i.subscription = ?1 AND (m.id = ?2 OR i.id >= ?3)",
        (subscription, private, sets.first().map_or(i64::MAX, |(_, set)| *set)),
    )
}

fn insert_subscription(database: &Database, subscriber: &Subscriber) -> Result<i64, Refusal> {
    let charging = match &subscriber.charging {
        None => None,
        Some(name) => Some(id_of(database, "charging", name)?),
    };
    database.insert(
        "INSERT INTO subscription (is_suspended, visited_networks, mandatory_capabilities,
            optional_capabilities, server_names, charging)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        (
            subscriber.is_suspended,
            subscriber.visited_networks.as_ref().map(json),
            subscriber.mandatory_capabilities.as_ref().map(json),
            subscriber.optional_capabilities.as_ref().map(json),
            subscriber.server_names.as_ref().map(json),
            charging,
        ),
    )
}

pub(crate) fn insert_public_identity(
    database: &Database,
    set: i64,
    position: i64,
    public: &PublicIdentity,
) -> Result<(), Refusal> {
    let profile =
        id_of(database, "service_profile", public.profile.as_deref().unwrap_or("default"))?;
    let inserted = database.write(
        "INSERT INTO public_identity (implicit_set, position, identity, is_barred, identity_type,
            is_active, display_name, alias_identity_group_id, application_server, service_profile)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
        (
            set,
            position,
            &public.identity,
            public.is_barred,
            public.identity_type,
            public.is_active,
            &public.display_name,
            &public.alias_identity_group_id,
            &public.application_server,
            profile,
        ),
    );
    inserted.map_err(|refusal| match refusal {
        Refusal::Storage(text) if text.contains("UNIQUE") => {
            Refusal::Conflict(format!("impu: {} is there already", public.identity))
        }
        other => other,
    })
}

fn id_of(database: &Database, table: &'static str, name: &str) -> Result<i64, Refusal> {
    let sql = match table {
        "charging" => "SELECT id FROM charging WHERE name = ?1",
        _ => "SELECT id FROM service_profile WHERE name = ?1",
    };
    database
        .row(sql, [name], |row| row.get(0))?
        .ok_or_else(|| Refusal::Conflict(format!("{table}: {name} is not there")))
}

/// Adds a service profile, or replaces the one of that name; false when it was the same already. Sets that
/// have it are to be told. Run inside [`Database::procedure`].
///
/// # Errors
/// The database does not take it.
pub fn put_profile(database: &Database, profile: &Profile) -> Result<bool, Refusal> {
    database.begin()?;
    let criteria = json(&profile.initial_filter_criteria);
    let shared = json(&profile.shared_ifc_set_ids);
    let sql = "SELECT 1 FROM service_profile WHERE name = ?1 AND subscribed_media_profile_id IS ?2
        AND initial_filter_criteria = ?3 AND shared_ifc_set_ids = ?4";
    let same = (&profile.name, profile.subscribed_media_profile_id, &criteria, &shared);
    if database.row(sql, same, |_| Ok(()))?.is_some() {
        return Ok(false);
    }
    database.write(
        "INSERT INTO service_profile (name, subscribed_media_profile_id, initial_filter_criteria,
            shared_ifc_set_ids, has_unregistered_services) VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT (name) DO UPDATE SET
            subscribed_media_profile_id = excluded.subscribed_media_profile_id,
            initial_filter_criteria = excluded.initial_filter_criteria,
            shared_ifc_set_ids = excluded.shared_ifc_set_ids,
            has_unregistered_services = excluded.has_unregistered_services",
        (
            &profile.name,
            profile.subscribed_media_profile_id,
            &criteria,
            &shared,
            profile::has_unregistered_services(&profile.initial_filter_criteria),
        ),
    )?;
    database.write(
        "UPDATE implicit_set SET profile_version = profile_version + 1 WHERE id IN
            (SELECT u.implicit_set FROM public_identity u
             JOIN service_profile p ON p.id = u.service_profile WHERE p.name = ?1)",
        [&profile.name],
    )?;
    Ok(true)
}

/// Adds charging addresses, or replaces those of that name; false when they were the same already. Sets of
/// subscriptions that have them are to be told. Run inside [`Database::procedure`].
///
/// # Errors
/// The database does not take them.
pub fn put_charging(database: &Database, charging: &ChargingAddresses) -> Result<bool, Refusal> {
    database.begin()?;
    let [event_1, event_2, collection_1, collection_2] = &charging.addresses;
    let row = (&charging.name, event_1, event_2, collection_1, collection_2);
    let sql = "SELECT 1 FROM charging WHERE name = ?1 AND primary_event_charging IS ?2
        AND secondary_event_charging IS ?3 AND primary_charging_collection IS ?4
        AND secondary_charging_collection IS ?5";
    if database.row(sql, row, |_| Ok(()))?.is_some() {
        return Ok(false);
    }
    database.write(
        "INSERT INTO charging (name, primary_event_charging, secondary_event_charging,
            primary_charging_collection, secondary_charging_collection)
         VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT (name) DO UPDATE SET
            primary_event_charging = excluded.primary_event_charging,
            secondary_event_charging = excluded.secondary_event_charging,
            primary_charging_collection = excluded.primary_charging_collection,
            secondary_charging_collection = excluded.secondary_charging_collection",
        row,
    )?;
    database.write(
        "UPDATE implicit_set SET charging_version = charging_version + 1 WHERE subscription IN
            (SELECT s.id FROM subscription s JOIN charging c ON c.id = s.charging
             WHERE c.name = ?1)",
        [&charging.name],
    )?;
    Ok(true)
}

/// Gives a subscription other charging addresses, by one of its private identities; `None`: those of the
/// configuration. False when it had them already. Run inside [`Database::procedure`].
///
/// # Errors
/// No such private identity, or no addresses of that name.
pub fn set_charging(
    database: &Database,
    private_identity: &str,
    name: Option<&str>,
) -> Result<bool, Refusal> {
    database.begin()?;
    let private =
        database.private_identity(private_identity)?.ok_or(Refusal::UnknownPrivateIdentity)?;
    let charging = name.map(|name| id_of(database, "charging", name)).transpose()?;
    if database.subscription(private.subscription)?.charging == charging {
        return Ok(false);
    }
    database.write(
        "UPDATE subscription SET charging = ?2 WHERE id = ?1",
        (private.subscription, charging),
    )?;
    database.write(
        "UPDATE implicit_set SET charging_version = charging_version + 1 WHERE subscription = ?1",
        [private.subscription],
    )?;
    Ok(true)
}

/// Sets that an S-CSCF serves and that changed since it was told; and the first private identities of some.
///
/// # Errors
/// The database cannot be read.
pub fn not_told(database: &Database, named: usize) -> Result<(usize, Vec<String>), Refusal> {
    let sets = database.sets_with_news(usize::from(u16::MAX))?;
    let mut names = Vec::new();
    for (set, _) in sets.iter().take(named) {
        names.extend(database.push_candidates(*set)?.into_iter().next().map(|pair| pair.user_name));
    }
    names.dedup();
    Ok((sets.len(), names))
}

/// Takes a private identity out; with the last one of a subscription everything of it. Run inside
/// [`Database::procedure`].
///
/// # Errors
/// The database does not take it.
pub fn remove(
    database: &Database,
    private_identity: &str,
    is_forced: bool,
) -> Result<Removal, Refusal> {
    database.begin()?;
    let Some(private) = database.private_identity(private_identity)? else {
        return Ok(Removal::Unknown);
    };
    if !is_forced && !database.served_pairs(private.id)?.is_empty() {
        return Ok(Removal::Registered);
    }
    database.write("DELETE FROM private_identity WHERE id = ?1", [private.id])?;
    database.write(
        "DELETE FROM subscription WHERE id = ?1
            AND NOT EXISTS (SELECT 1 FROM private_identity WHERE subscription = ?1)",
        [private.subscription],
    )?;
    // With the registrations of this one the S-CSCF may have lost its last user.
    database.release_server_if_unused(private.subscription)?;
    Ok(Removal::Done)
}

/// One line for each private identity: identity, algorithm, SQN, state, S-CSCF, public identities.
///
/// # Errors
/// The database cannot be read.
pub fn list(database: &Database) -> Result<Vec<Listed>, Refusal> {
    database.rows(
        "SELECT m.identity, m.algorithm, m.amf, m.sqn, s.server_name,
            (SELECT group_concat(identity, ' ') FROM (
                SELECT iif(u.is_barred, '!', '') || u.identity AS identity
                FROM registration r JOIN public_identity u ON u.implicit_set = r.implicit_set
                WHERE r.private_identity = m.id ORDER BY u.implicit_set, u.position)),
            EXISTS (SELECT 1 FROM registration r
                WHERE r.private_identity = m.id AND r.is_registered)
         FROM private_identity m JOIN subscription s ON s.id = m.subscription
         ORDER BY m.identity",
        [],
        |row| {
            Ok(Listed {
                private_identity: row.get(0)?,
                algorithm: row.get(1)?,
                amf: row.get(2)?,
                sqn: row.get(3)?,
                server_name: row.get(4)?,
                public_identities: row.get::<_, Option<String>>(5)?.unwrap_or_default(),
                is_registered: row.get(6)?,
            })
        },
    )
}

/// A row of [`list`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Listed {
    pub private_identity: String,
    pub algorithm: String,
    pub amf: u16,
    pub sqn: i64,
    pub server_name: Option<String>,
    /// Separated by spaces, in the order of their sets, a barred one behind `!`.
    pub public_identities: String,
    pub is_registered: bool,
}

/// What is stored of a user, for the operator: never keys, but all that tells a wrong SIM from a
/// lost sequence number.
///
/// # Errors
/// Nobody of that name, or the database cannot be read.
pub fn describe(database: &Database, private_identity: &str) -> Result<String, Refusal> {
    let private =
        database.private_identity(private_identity)?.ok_or(Refusal::UnknownPrivateIdentity)?;
    let subscription = database.subscription(private.subscription)?;
    let mut text = format!("private identity   {private_identity}\n");
    let authentication = database.row(
        "SELECT algorithm, amf, sqn, last_rand, resync_sqn_ms, resync_failures, scheme,
            framed_address
         FROM private_identity WHERE id = ?1",
        [private.id],
        |row| {
            let sqn: i64 = row.get(2)?;
            let scheme: String = row.get(6)?;
            if scheme != "aka" {
                let address = row.get::<_, Option<String>>(7)?.unwrap_or_default();
                return Ok(
                    format!("scheme             {scheme} {address}").trim_end().to_owned() + "\n"
                );
            }
            let mut text = format!(
                "algorithm          {}\nAMF                {:04x}\n\
                 SQN                {sqn:012x} (SEQ {}, IND {})\n",
                row.get::<_, String>(0)?,
                row.get::<_, u16>(1)?,
                sqn >> 5,
                sqn & 31,
            );
            if let Some(rand) = row.get::<_, Option<Vec<u8>>>(3)? {
                text += &format!("last RAND          {}\n", hex::encode(rand));
            }
            if let Some(sqn_ms) = row.get::<_, Option<i64>>(4)? {
                text += &format!("SQN_MS of AUTS     {sqn_ms:012x} (MAC-S right)\n");
            }
            let failures: i64 = row.get(5)?;
            if failures > 0 {
                text += &format!(
                    "AUTS refused       {failures} times: MAC-S wrong, so K, OP/OPc or the \
                     algorithm are not those of the card\n"
                );
            }
            Ok(text)
        },
    )?;
    text += &authentication.unwrap_or_default();
    let assigned = match &subscription.server {
        Some(server) => format!("{} (Diameter {})", server.name, server.host),
        None => "none".to_owned(),
    };
    let _ = writeln!(text, "S-CSCF             {assigned}");
    if subscription.is_suspended {
        text += "suspended          yes\n";
    }
    for line in describe_identities(database, private.id)? {
        text += &line;
    }
    Ok(text)
}

fn describe_identities(database: &Database, private: i64) -> Result<Vec<String>, Refusal> {
    database.rows(
        "SELECT u.identity, u.implicit_set, u.is_barred, r.is_registered,
            r.is_authentication_pending, i.is_unregistered, p.name,
            r.profile_given <> i.profile_version OR r.charging_given <> i.charging_version,
            r.is_profile_refused
         FROM registration r
         JOIN implicit_set i ON i.id = r.implicit_set
         JOIN public_identity u ON u.implicit_set = i.id
         JOIN service_profile p ON p.id = u.service_profile
         WHERE r.private_identity = ?1 ORDER BY u.implicit_set, u.position",
        [private],
        |row| {
            let state = match (row.get(3)?, row.get(5)?) {
                (true, _) => "registered",
                (false, true) => "unregistered service",
                (false, false) => "not registered",
            };
            let is_served = row.get(3)? || row.get(5)?;
            let told = match (is_served, row.get(7)?, row.get(8)?) {
                (true, true, _) => ", S-CSCF not told of a change",
                (true, false, true) => ", S-CSCF cannot use the profile",
                _ => "",
            };
            Ok(format!(
                "public identity    {} (set {}, {state}{}{}, profile {}{told})\n",
                row.get::<_, String>(0)?,
                row.get::<_, i64>(1)?,
                if row.get(2)? { ", barred" } else { "" },
                if row.get(4)? { ", authentication pending" } else { "" },
                row.get::<_, String>(6)?,
            ))
        },
    )
}

fn json<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("lists of numbers, texts and criteria are JSON")
}
