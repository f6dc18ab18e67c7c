//! The HSS's look-ups and changes, as the procedures name them (data model: TS 29.228 §6).
//!
//! One turn of the event loop is one transaction: it begins at the first write and ends in
//! [`Database::commit`], before any answer of the turn is released. Inside it each procedure after
//! the first has a savepoint, so that one that fails half-way leaves nothing behind and spoils no
//! other.

use std::cell::Cell;

use common::sip::uri::Uri;
use rusqlite::{Connection, OptionalExtension, Params, Row};

pub use crate::records::*;
use crate::refusal::Refusal;
use crate::{schema, wildcard};

pub struct Database {
    connection: Connection,
    turn: Cell<Turn>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// Nothing was written in this turn.
    Clean,
    /// The first procedure that writes is at it: it needs no savepoint, the transaction is its own.
    First,
    /// A transaction is open, and no procedure is at it.
    Written,
    /// A later procedure is at it: its savepoint is open.
    Later,
    /// Another program is writing. One wait for it in a turn is enough.
    Blocked,
}

const PUBLIC_IDENTITY: &str = "
    SELECT u.identity, u.implicit_set, i.subscription, u.is_barred, u.identity_type, u.is_active,
        u.application_server, i.is_unregistered,
        EXISTS (SELECT 1 FROM registration r WHERE r.implicit_set = i.id AND r.is_registered),
        p.has_unregistered_services
    FROM public_identity u
    JOIN implicit_set i ON i.id = u.implicit_set
    JOIN service_profile p ON p.id = u.service_profile
    WHERE u.identity = ?1";

impl Database {
    /// Takes a connection and brings its tables up to date.
    ///
    /// # Errors
    /// A sentence for the operator.
    pub fn new(connection: Connection) -> Result<Database, String> {
        let text = |error: rusqlite::Error| format!("cannot open the database: {error}");
        connection.set_prepared_statement_cache_capacity(64);
        connection.pragma_update(None, "foreign_keys", true).map_err(text)?;
        schema::migrate(&connection)?;
        Ok(Database { connection, turn: Cell::new(Turn::Clean) })
    }

    /// Runs one procedure. What it wrote stays unless it ends in a fault.
    pub fn procedure<T>(&self, work: impl FnOnce() -> Result<T, Refusal>) -> Result<T, Refusal> {
        let result = work();
        let is_fault = result.as_ref().is_err_and(Refusal::is_fault);
        match (self.turn.get(), is_fault) {
            (Turn::First, true) => {
                self.turn.set(Turn::Clean);
                self.run("ROLLBACK", [])?;
            }
            (Turn::First, false) => self.turn.set(Turn::Written),
            (Turn::Later, _) => {
                self.turn.set(Turn::Written);
                if is_fault {
                    self.run("ROLLBACK TO procedure", [])?;
                }
                self.run("RELEASE procedure", [])?;
            }
            (Turn::Clean | Turn::Written | Turn::Blocked, _) => {}
        }
        result
    }

    /// Ends the turn: what was written is on disk when this returns.
    ///
    /// # Errors
    /// The database did not take it; nothing of the turn is stored.
    pub fn commit(&self) -> Result<(), Refusal> {
        match self.turn.replace(Turn::Clean) {
            Turn::Clean | Turn::Blocked => Ok(()),
            Turn::First | Turn::Written | Turn::Later => self.run("COMMIT", []),
        }
    }

    /// Begins to write, before what is to be changed is read: nobody else writes until the turn
    /// ends.
    ///
    /// # Errors
    /// [`Refusal::Busy`]: another program holds the database for too long.
    pub fn begin(&self) -> Result<(), Refusal> {
        match self.turn.get() {
            Turn::First | Turn::Later => Ok(()),
            Turn::Blocked => Err(Refusal::Busy),
            Turn::Clean => {
                let begun = self.run("BEGIN IMMEDIATE", []);
                let is_blocked = begun == Err(Refusal::Busy);
                self.turn.set(match &begun {
                    Ok(()) => Turn::First,
                    Err(_) if is_blocked => Turn::Blocked,
                    Err(_) => Turn::Clean,
                });
                begun
            }
            Turn::Written => {
                self.run("SAVEPOINT procedure", [])?;
                self.turn.set(Turn::Later);
                Ok(())
            }
        }
    }

    /// Gives the connection back without what was not committed, as a crash would.
    pub fn into_connection(self) -> Connection {
        if !self.connection.is_autocommit() {
            // A rollback that fails leaves the same state: closing rolls back.
            let _ = self.connection.execute_batch("ROLLBACK");
        }
        self.connection
    }

    pub fn private_identity(&self, identity: &str) -> Result<Option<PrivateIdentity>, Refusal> {
        self.row(
            "SELECT id, subscription FROM private_identity WHERE identity = ?1",
            [identity],
            |row| Ok(PrivateIdentity { id: row.get(0)?, subscription: row.get(1)? }),
        )
    }

    /// The identity itself, else its canonical form, else the wildcard it falls under
    /// (TS 29.228 §6.1.4: distinct first).
    pub fn public_identity(&self, identity: &str) -> Result<Option<PublicIdentity>, Refusal> {
        if let Some(found) = self.row(PUBLIC_IDENTITY, [identity], public_identity)? {
            return Ok(Some(found));
        }
        // Peers of other makes send URIs with ports, parameters or upper case.
        let canonical = Uri::parse(identity).map(|uri| uri.public_identity());
        let canonical = canonical.as_ref().map_or(identity, |canonical| canonical.as_str());
        if canonical != identity
            && let Some(found) = self.row(PUBLIC_IDENTITY, [canonical], public_identity)?
        {
            return Ok(Some(found));
        }
        let wildcards = self.rows(
            "SELECT identity FROM public_identity WHERE identity_type IN (2, 4) ORDER BY identity",
            [],
            |row| row.get::<_, String>(0),
        )?;
        match wildcards.into_iter().find(|pattern| wildcard::matches(pattern, canonical)) {
            Some(pattern) => self.row(PUBLIC_IDENTITY, [pattern], public_identity),
            None => Ok(None),
        }
    }

    pub fn is_associated(&self, implicit_set: i64, private_identity: i64) -> Result<bool, Refusal> {
        let sql = "SELECT 1 FROM registration WHERE implicit_set = ?1 AND private_identity = ?2";
        Ok(self.row(sql, [implicit_set, private_identity], |_| Ok(()))?.is_some())
    }

    /// Some identity of the set may be used.
    pub fn has_unbarred_identity(&self, implicit_set: i64) -> Result<bool, Refusal> {
        let sql = "SELECT 1 FROM public_identity WHERE implicit_set = ?1 AND NOT is_barred LIMIT 1";
        Ok(self.row(sql, [implicit_set], |_| Ok(()))?.is_some())
    }

    /// The first identity of a set that is neither barred nor a wildcard (TS 23.228 §4.3.3.4): as
    /// S-CSCFs see it.
    pub fn default_identity(&self, implicit_set: i64) -> Result<Option<String>, Refusal> {
        self.row(
            "SELECT identity FROM public_identity
             WHERE implicit_set = ?1 AND NOT is_barred AND identity_type NOT IN (2, 4)
             ORDER BY position LIMIT 1",
            [implicit_set],
            |row| row.get(0),
        )
    }

    pub fn set_barred(&self, identity: &str, is_barred: bool) -> Result<(), Refusal> {
        self.write(
            "UPDATE public_identity SET is_barred = ?2 WHERE identity = ?1",
            (identity, is_barred),
        )
    }

    pub fn subscription(&self, id: i64) -> Result<Subscription, Refusal> {
        self.row(
            "SELECT is_suspended, is_reassignment_pending, server_name, server_host, server_realm,
                previous_server_name, previous_server_host, previous_server_realm,
                visited_networks, mandatory_capabilities, optional_capabilities, server_names,
                charging
             FROM subscription WHERE id = ?1",
            [id],
            |row| {
                Ok(Subscription {
                    id,
                    is_suspended: row.get(0)?,
                    is_reassignment_pending: row.get(1)?,
                    server: server(row, 2)?,
                    previous: server(row, 5)?,
                    visited_networks: row.get(8)?,
                    mandatory_capabilities: row.get(9)?,
                    optional_capabilities: row.get(10)?,
                    server_names: row.get(11)?,
                    charging: row.get(12)?,
                })
            },
        )?
        .ok_or_else(|| Refusal::Fault(format!("subscription {id} has no row")))
    }

    /// A private identity with what its vectors are made of.
    pub fn credentials(&self, identity: &str) -> Result<Option<Credentials>, Refusal> {
        self.row(
            "SELECT id, subscription, keys, amf, sqn, scheme, digest, framed_address
             FROM private_identity WHERE identity = ?1",
            [identity],
            |row| {
                Ok(Credentials {
                    private_identity: PrivateIdentity {
                        id: row.get(0)?,
                        subscription: row.get(1)?,
                    },
                    scheme: row.get(5)?,
                    sealed_digest: row.get(6)?,
                    framed_address: row.get(7)?,
                    sealed_keys: row.get(2)?,
                    amf: row.get::<_, u16>(3)?.to_be_bytes(),
                    sqn: row.get::<_, i64>(4)? as u64,
                })
            },
        )
    }

    /// Stores the sequence number of the last vector made, and its RAND for the operator.
    pub fn advance_sqn(
        &self,
        private_identity: i64,
        sqn: u64,
        rand: &[u8; 16],
    ) -> Result<(), Refusal> {
        self.write(
            "UPDATE private_identity SET sqn = ?2, last_rand = ?3 WHERE id = ?1",
            (private_identity, sqn as i64, &rand[..]),
        )
    }

    /// The address that the packet core gave to a UE; false when the user does not authenticate by it.
    pub fn set_framed_address(&self, identity: &str, address: &str) -> Result<bool, Refusal> {
        let sql = "SELECT 1 FROM private_identity WHERE identity = ?1 AND scheme = 'early-ims'";
        if self.row(sql, [identity], |_| Ok(()))?.is_none() {
            return Ok(false);
        }
        self.write(
            "UPDATE private_identity SET framed_address = ?2 WHERE identity = ?1",
            (identity, address),
        )?;
        Ok(true)
    }

    /// What a card's AUTS said; `None`: its MAC-S was wrong.
    pub fn note_resynchronisation(
        &self,
        private_identity: i64,
        sqn_ms: Option<u64>,
    ) -> Result<(), Refusal> {
        self.write(
            "UPDATE private_identity SET resync_sqn_ms = coalesce(?2, resync_sqn_ms),
                resync_failures = CASE WHEN ?2 IS NULL THEN resync_failures + 1 ELSE 0 END
             WHERE id = ?1",
            (private_identity, sqn_ms.map(|sqn| sqn as i64)),
        )
    }

    pub fn set_reassignment_pending(&self, subscription: i64) -> Result<(), Refusal> {
        self.write(
            "UPDATE subscription SET is_reassignment_pending = 1 WHERE id = ?1",
            [subscription],
        )
    }

    /// Assigns `server`; `previous` is what it displaced and what still has to be told.
    pub fn assign_server(
        &self,
        subscription: i64,
        server: &Server,
        previous: Option<&Server>,
    ) -> Result<(), Refusal> {
        self.write(
            "UPDATE subscription SET server_name = ?2, server_host = ?3, server_realm = ?4,
                previous_server_name = ?5, previous_server_host = ?6, previous_server_realm = ?7,
                is_reassignment_pending = 0
             WHERE id = ?1",
            (
                subscription,
                &server.name,
                &server.host,
                &server.realm,
                previous.map(|previous| &previous.name),
                previous.map(|previous| &previous.host),
                previous.map(|previous| &previous.realm),
            ),
        )
    }

    /// Some identity of the subscription is registered or unregistered.
    pub fn is_served(&self, subscription: i64) -> Result<bool, Refusal> {
        let sql = "SELECT 1 FROM implicit_set i WHERE i.subscription = ?1 AND (i.is_unregistered
            OR EXISTS (SELECT 1 FROM registration r WHERE r.implicit_set = i.id AND r.is_registered))";
        Ok(self.row(sql, [subscription], |_| Ok(()))?.is_some())
    }

    /// Forgets the S-CSCF when no identity of the subscription is registered, unregistered or
    /// being authenticated (TS 29.228 §6.1.2.1).
    pub fn release_server_if_unused(&self, subscription: i64) -> Result<(), Refusal> {
        self.write(
            "UPDATE subscription SET server_name = NULL, server_host = NULL, server_realm = NULL,
                previous_server_name = NULL, previous_server_host = NULL,
                previous_server_realm = NULL, is_reassignment_pending = 0
             WHERE id = ?1 AND NOT EXISTS (
                SELECT 1 FROM implicit_set i WHERE i.subscription = ?1 AND (i.is_unregistered
                OR EXISTS (SELECT 1 FROM registration r WHERE r.implicit_set = i.id
                    AND (r.is_registered OR r.is_authentication_pending))))",
            [subscription],
        )
    }

    pub fn set_authentication_pending(
        &self,
        implicit_set: i64,
        private_identity: i64,
        is_pending: bool,
    ) -> Result<(), Refusal> {
        self.write(
            "UPDATE registration SET is_authentication_pending = ?3
             WHERE implicit_set = ?1 AND private_identity = ?2 AND is_authentication_pending <> ?3",
            (implicit_set, private_identity, is_pending),
        )
    }

    /// The set is REGISTERED by this private identity, whose authentication is over.
    pub fn register(&self, implicit_set: i64, private_identity: i64) -> Result<(), Refusal> {
        self.write(
            "UPDATE registration SET is_registered = 1, is_authentication_pending = 0
             WHERE implicit_set = ?1 AND private_identity = ?2",
            [implicit_set, private_identity],
        )?;
        self.set_unregistered(implicit_set, false)
    }

    pub fn set_unregistered(
        &self,
        implicit_set: i64,
        is_unregistered: bool,
    ) -> Result<(), Refusal> {
        self.write(
            "UPDATE implicit_set SET is_unregistered = ?2
             WHERE id = ?1 AND is_unregistered <> ?2",
            (implicit_set, is_unregistered),
        )
    }

    /// Ends the registration of a set by one private identity, or by all of them; true when the
    /// set is still registered by another.
    pub fn deregister(
        &self,
        implicit_set: i64,
        private_identity: Option<i64>,
    ) -> Result<bool, Refusal> {
        self.write(
            "UPDATE registration SET is_registered = 0
             WHERE implicit_set = ?1 AND private_identity = coalesce(?2, private_identity)",
            (implicit_set, private_identity),
        )?;
        self.write(
            "DELETE FROM restoration
             WHERE implicit_set = ?1 AND private_identity = coalesce(?2, private_identity)",
            (implicit_set, private_identity),
        )?;
        let sql = "SELECT 1 FROM registration WHERE implicit_set = ?1 AND is_registered";
        Ok(self.row(sql, [implicit_set], |_| Ok(()))?.is_some())
    }

    /// What the S-CSCF leaves of a registration, in the place of what it left before.
    pub fn store_restoration(
        &self,
        implicit_set: i64,
        private_identity: i64,
        restoration: &Restoration,
    ) -> Result<(), Refusal> {
        self.write(
            "INSERT OR REPLACE INTO restoration
                (implicit_set, private_identity, contacts, registration_time_out, scheme)
             VALUES (?1, ?2, ?3, ?4, ?5)",
            (
                implicit_set,
                private_identity,
                &restoration.contacts,
                restoration.registration_time_out.map(|seconds| seconds as i64),
                &restoration.scheme,
            ),
        )
    }

    /// What was left of all registrations of a set.
    pub fn restorations_of(&self, implicit_set: i64) -> Result<Vec<Restoration>, Refusal> {
        self.rows(
            "SELECT m.identity, s.registration_time_out, s.scheme, s.contacts
             FROM restoration s JOIN private_identity m ON m.id = s.private_identity
             WHERE s.implicit_set = ?1 ORDER BY m.id",
            [implicit_set],
            |row| {
                Ok(Restoration {
                    user_name: row.get(0)?,
                    registration_time_out: row.get::<_, Option<i64>>(1)?.map(|at| at as u64),
                    scheme: row.get(2)?,
                    contacts: row.get(3)?,
                })
            },
        )
    }

    /// Whether something was left of that registration.
    pub fn has_restoration(
        &self,
        implicit_set: i64,
        private_identity: i64,
    ) -> Result<bool, Refusal> {
        let sql = "SELECT 1 FROM restoration WHERE implicit_set = ?1 AND private_identity = ?2";
        Ok(self.row(sql, [implicit_set, private_identity], |_| Ok(()))?.is_some())
    }

    /// Somebody is registered with the set.
    pub fn is_registered(&self, implicit_set: i64) -> Result<bool, Refusal> {
        let sql = "SELECT 1 FROM registration WHERE implicit_set = ?1 AND is_registered LIMIT 1";
        Ok(self.row(sql, [implicit_set], |_| Ok(()))?.is_some())
    }

    pub fn is_registered_by(&self, pair: &Pair) -> Result<bool, Refusal> {
        let sql = "SELECT 1 FROM registration
             WHERE implicit_set = ?1 AND private_identity = ?2 AND is_registered";
        let ids = [pair.implicit_set, pair.private_identity];
        Ok(self.row(sql, ids, |_| Ok(()))?.is_some())
    }

    /// The sets that a private identity may register, in the order of provisioning, and whether
    /// there are services for them while nobody is registered.
    pub fn sets_with_services(&self, private_identity: i64) -> Result<Vec<(i64, bool)>, Refusal> {
        self.rows(
            "SELECT r.implicit_set, EXISTS (
                SELECT 1 FROM public_identity u JOIN service_profile p ON p.id = u.service_profile
                WHERE u.implicit_set = r.implicit_set AND p.has_unregistered_services)
             FROM registration r WHERE r.private_identity = ?1 ORDER BY r.implicit_set",
            [private_identity],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
    }

    /// Who of a subscription is registered with which set.
    pub fn registered_pairs(&self, subscription: i64) -> Result<Vec<Pair>, Refusal> {
        self.rows(
            "SELECT r.implicit_set, m.id, m.identity
             FROM private_identity m JOIN registration r ON r.private_identity = m.id
             WHERE m.subscription = ?1 AND r.is_registered ORDER BY m.id, r.implicit_set",
            [subscription],
            pair,
        )
    }

    /// What an S-CSCF holds of a private identity: the sets it registered, and those served
    /// unregistered.
    pub fn served_pairs(&self, private_identity: i64) -> Result<Vec<Pair>, Refusal> {
        self.rows(
            "SELECT r.implicit_set, m.id, m.identity
             FROM registration r
             JOIN private_identity m ON m.id = r.private_identity
             JOIN implicit_set i ON i.id = r.implicit_set
             WHERE r.private_identity = ?1 AND (r.is_registered OR i.is_unregistered)
             ORDER BY r.implicit_set",
            [private_identity],
            pair,
        )
    }

    /// The same of all private identities of a subscription, one after another.
    pub fn served_pairs_of_subscription(&self, subscription: i64) -> Result<Vec<Pair>, Refusal> {
        self.rows(
            "SELECT r.implicit_set, m.id, m.identity
             FROM registration r
             JOIN private_identity m ON m.id = r.private_identity
             JOIN implicit_set i ON i.id = r.implicit_set
             WHERE m.subscription = ?1 AND (r.is_registered OR i.is_unregistered)
             ORDER BY m.id, r.implicit_set",
            [subscription],
            pair,
        )
    }

    /// The profile of a set is not what it was; who has it knows only what it was.
    pub fn profile_changed(&self, implicit_set: i64) -> Result<(), Refusal> {
        self.write(
            "UPDATE implicit_set SET profile_version = profile_version + 1 WHERE id = ?1",
            [implicit_set],
        )
    }

    /// The same of the charging addresses.
    pub fn charging_changed(&self, implicit_set: i64) -> Result<(), Refusal> {
        self.write(
            "UPDATE implicit_set SET charging_version = charging_version + 1 WHERE id = ?1",
            [implicit_set],
        )
    }

    /// What the S-CSCF lacks of a set for one private identity; `None`: for any that may register it.
    pub fn news_for(
        &self,
        implicit_set: i64,
        private_identity: Option<i64>,
    ) -> Result<News, Refusal> {
        let sql = "SELECT i.profile_version, i.charging_version,
                max(r.profile_given <> i.profile_version),
                max(r.charging_given <> i.charging_version)
             FROM implicit_set i JOIN registration r ON r.implicit_set = i.id
             WHERE i.id = ?1 AND r.private_identity = coalesce(?2, r.private_identity)
             GROUP BY i.id";
        let found = self.row(sql, (implicit_set, private_identity), news)?;
        Ok(found.unwrap_or_default())
    }

    /// What the S-CSCF lacks of a set that it serves, for those who registered it, else for anyone of it;
    /// with the profile also when it refused it last time.
    pub fn news(&self, implicit_set: i64) -> Result<News, Refusal> {
        let sql = "SELECT i.profile_version, i.charging_version,
                max(r.profile_given <> i.profile_version OR r.is_profile_refused),
                max(r.charging_given <> i.charging_version)
             FROM implicit_set i JOIN registration r ON r.implicit_set = i.id
             WHERE i.id = ?1 AND (r.is_registered OR NOT EXISTS (
                SELECT 1 FROM registration o WHERE o.implicit_set = i.id AND o.is_registered))
             GROUP BY i.id";
        Ok(self.row(sql, [implicit_set], news)?.unwrap_or_default())
    }

    /// Sets that an S-CSCF serves and that changed since it was told, oldest first, with their
    /// subscriptions: at most `limit`.
    pub fn sets_with_news(&self, limit: usize) -> Result<Vec<(i64, i64)>, Refusal> {
        self.rows(
            "SELECT DISTINCT i.id, i.subscription
             FROM registration r JOIN implicit_set i ON i.id = r.implicit_set
             WHERE (r.profile_given <> i.profile_version
                    OR r.charging_given <> i.charging_version)
                AND (r.is_registered OR (i.is_unregistered AND NOT EXISTS (
                    SELECT 1 FROM registration o WHERE o.implicit_set = i.id AND o.is_registered)))
             ORDER BY i.id LIMIT ?1",
            [limit as i64],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
    }

    /// The S-CSCF has what it was sent of a set, for one private identity, or for all.
    pub fn news_given(
        &self,
        implicit_set: i64,
        private_identity: Option<i64>,
        sent: News,
    ) -> Result<(), Refusal> {
        self.write(
            "UPDATE registration SET profile_given = coalesce(?3, profile_given),
                charging_given = coalesce(?4, charging_given),
                is_profile_refused = CASE WHEN ?3 IS NULL THEN is_profile_refused ELSE 0 END
             WHERE implicit_set = ?1 AND private_identity = coalesce(?2, private_identity)",
            (implicit_set, private_identity, sent.profile, sent.charging),
        )
    }

    /// The S-CSCF was sent a profile that it cannot use.
    pub fn profile_refused(&self, implicit_set: i64) -> Result<(), Refusal> {
        self.write(
            "UPDATE registration SET is_profile_refused = 1 WHERE implicit_set = ?1",
            [implicit_set],
        )
    }

    /// Who may be named in a PPR for a set: who registered it, else anyone of it.
    pub fn push_candidates(&self, implicit_set: i64) -> Result<Vec<Pair>, Refusal> {
        self.rows(
            "SELECT r.implicit_set, m.id, m.identity
             FROM registration r
             JOIN private_identity m ON m.id = r.private_identity
             JOIN implicit_set i ON i.id = r.implicit_set
             WHERE r.implicit_set = ?1 AND (r.is_registered OR i.is_unregistered)
             ORDER BY r.is_registered DESC, m.id",
            [implicit_set],
            pair,
        )
    }

    /// Private identities of a subscription, in the order of provisioning.
    pub fn private_identities_of(&self, subscription: i64) -> Result<Vec<String>, Refusal> {
        self.rows(
            "SELECT identity FROM private_identity WHERE subscription = ?1 ORDER BY id",
            [subscription],
            |row| row.get(0),
        )
    }

    /// Public identities of a set in its order.
    pub fn public_identities_of(&self, implicit_set: i64) -> Result<Vec<String>, Refusal> {
        self.rows(
            "SELECT identity FROM public_identity WHERE implicit_set = ?1 ORDER BY position",
            [implicit_set],
            |row| row.get(0),
        )
    }

    /// Every pair of private and public identity with its state, sorted.
    pub fn assignments(&self) -> Result<Vec<Assignment>, Refusal> {
        self.rows(
            "SELECT m.identity, u.identity, r.is_registered, r.is_authentication_pending,
                i.is_unregistered, s.server_name
             FROM registration r
             JOIN private_identity m ON m.id = r.private_identity
             JOIN implicit_set i ON i.id = r.implicit_set
             JOIN subscription s ON s.id = i.subscription
             JOIN public_identity u ON u.implicit_set = i.id
             ORDER BY m.identity, u.implicit_set, u.position",
            [],
            |row| {
                Ok(Assignment {
                    private_identity: row.get(0)?,
                    public_identity: row.get(1)?,
                    is_registered: row.get(2)?,
                    is_authentication_pending: row.get(3)?,
                    is_unregistered: row.get(4)?,
                    server_name: row.get(5)?,
                })
            },
        )
    }

    /// One row or none.
    pub fn row<T>(
        &self,
        sql: &str,
        params: impl Params,
        map: impl FnOnce(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Option<T>, Refusal> {
        Ok(self.connection.prepare_cached(sql)?.query_row(params, map).optional()?)
    }

    pub fn rows<T>(
        &self,
        sql: &str,
        params: impl Params,
        map: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>, Refusal> {
        let mut statement = self.connection.prepare_cached(sql)?;
        let rows = statement.query_map(params, map)?.collect::<rusqlite::Result<Vec<T>>>()?;
        Ok(rows)
    }

    pub fn write(&self, sql: &str, params: impl Params) -> Result<(), Refusal> {
        self.begin()?;
        self.run(sql, params)
    }

    /// Inserts a row and tells its id.
    pub fn insert(&self, sql: &str, params: impl Params) -> Result<i64, Refusal> {
        self.write(sql, params)?;
        Ok(self.connection.last_insert_rowid())
    }

    fn run(&self, sql: &str, params: impl Params) -> Result<(), Refusal> {
        self.connection.prepare_cached(sql)?.execute(params)?;
        Ok(())
    }
}

impl std::fmt::Debug for Database {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Database")
    }
}

fn pair(row: &Row<'_>) -> rusqlite::Result<Pair> {
    Ok(Pair { implicit_set: row.get(0)?, private_identity: row.get(1)?, user_name: row.get(2)? })
}

fn news(row: &Row<'_>) -> rusqlite::Result<News> {
    let due = |is_due: bool, version| is_due.then_some(version);
    Ok(News { profile: due(row.get(2)?, row.get(0)?), charging: due(row.get(3)?, row.get(1)?) })
}

fn public_identity(row: &Row<'_>) -> rusqlite::Result<PublicIdentity> {
    let is_unregistered: bool = row.get(7)?;
    let is_registered: bool = row.get(8)?;
    Ok(PublicIdentity {
        identity: row.get(0)?,
        implicit_set: row.get(1)?,
        subscription: row.get(2)?,
        is_barred: row.get(3)?,
        identity_type: match row.get::<_, u8>(4)? {
            1 => IdentityType::Service,
            2 => IdentityType::WildcardedService,
            4 => IdentityType::WildcardedPublicIdentity,
            _ => IdentityType::PublicIdentity,
        },
        is_active: row.get(5)?,
        application_server: row.get(6)?,
        state: match (is_registered, is_unregistered) {
            (true, _) => State::Registered,
            (false, true) => State::Unregistered,
            (false, false) => State::NotRegistered,
        },
        has_unregistered_services: row.get(9)?,
    })
}

/// Name, host and realm from three columns; `None` when there is no name.
fn server(row: &Row<'_>, first: usize) -> rusqlite::Result<Option<Server>> {
    let Some(name) = row.get::<_, Option<String>>(first)? else { return Ok(None) };
    let host = row.get::<_, Option<String>>(first + 1)?.unwrap_or_default();
    let realm = row.get::<_, Option<String>>(first + 2)?.unwrap_or_default();
    Ok(Some(Server { name, host, realm }))
}
