//! The tables of the HSS and how an older file becomes a current one (data model: TS 29.228 §6,
//! TS 23.008 §3).
//!
//! State is kept where it belongs, so that it cannot contradict itself: registration and pending
//! authentication per (implicit set, private identity), because the public identities of a set
//! share them; the assigned S-CSCF per subscription. Booleans are 0 or 1, lists are JSON text.

use rusqlite::Connection;

/// `PRAGMA user_version` of a file that this program wrote.
pub const VERSION: i64 = MIGRATIONS.len() as i64;

/// The step at place n makes version n + 1 out of version n.
const MIGRATIONS: [&str; 4] = [VERSION_1, VERSION_2, VERSION_3, VERSION_4];

const VERSION_1: &str = "
-- Facts about the file itself: key_check is a sealed constant that tells whether a key file fits.
CREATE TABLE property (
    name TEXT PRIMARY KEY,
    value BLOB NOT NULL
) STRICT, WITHOUT ROWID;

-- Charging-Information: DiameterURIs.
CREATE TABLE charging (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    primary_event_charging TEXT,
    secondary_event_charging TEXT,
    primary_charging_collection TEXT,
    secondary_charging_collection TEXT
) STRICT;

-- What a ServiceProfile of User-Data holds beside its public identities.
CREATE TABLE service_profile (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    subscribed_media_profile_id INTEGER,
    initial_filter_criteria TEXT NOT NULL DEFAULT '[]',
    shared_ifc_set_ids TEXT NOT NULL DEFAULT '[]',
    has_unregistered_services INTEGER NOT NULL DEFAULT 0
) STRICT;
INSERT INTO service_profile (name) VALUES ('default');

-- An IMS subscription with the S-CSCF assigned to it. previous_* is the S-CSCF that a MAR of
-- another one displaced while it still served the user. NULL lists: as configured.
CREATE TABLE subscription (
    id INTEGER PRIMARY KEY,
    is_suspended INTEGER NOT NULL DEFAULT 0,
    visited_networks TEXT,
    mandatory_capabilities TEXT,
    optional_capabilities TEXT,
    server_names TEXT,
    charging INTEGER REFERENCES charging (id),
    server_name TEXT,
    server_host TEXT,
    server_realm TEXT,
    previous_server_name TEXT,
    previous_server_host TEXT,
    previous_server_realm TEXT,
    is_reassignment_pending INTEGER NOT NULL DEFAULT 0
) STRICT;

-- keys: sealed under the key file, bound to the identity. resync_*: what the last AUTS said.
CREATE TABLE private_identity (
    id INTEGER PRIMARY KEY,
    subscription INTEGER NOT NULL REFERENCES subscription (id) ON DELETE CASCADE,
    identity TEXT NOT NULL UNIQUE,
    algorithm TEXT NOT NULL CHECK (algorithm IN ('milenage', 'tuak', 'test', 'none')),
    keys BLOB,
    amf INTEGER NOT NULL DEFAULT 0,
    sqn INTEGER NOT NULL DEFAULT 0,
    last_rand BLOB,
    resync_sqn_ms INTEGER,
    resync_failures INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX private_identity_subscription ON private_identity (subscription);

CREATE TABLE implicit_set (
    id INTEGER PRIMARY KEY,
    subscription INTEGER NOT NULL REFERENCES subscription (id) ON DELETE CASCADE,
    is_unregistered INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX implicit_set_subscription ON implicit_set (subscription);

-- identity_type: 0 distinct public user identity, 1 distinct PSI, 2 wildcarded PSI, 4 wildcarded
-- public user identity. application_server: where a PSI is routed directly.
CREATE TABLE public_identity (
    id INTEGER PRIMARY KEY,
    implicit_set INTEGER NOT NULL REFERENCES implicit_set (id) ON DELETE CASCADE,
    position INTEGER NOT NULL,
    identity TEXT NOT NULL UNIQUE,
    is_barred INTEGER NOT NULL DEFAULT 0,
    identity_type INTEGER NOT NULL DEFAULT 0 CHECK (identity_type IN (0, 1, 2, 4)),
    is_active INTEGER NOT NULL DEFAULT 1,
    display_name TEXT,
    alias_identity_group_id TEXT,
    application_server TEXT,
    service_profile INTEGER NOT NULL REFERENCES service_profile (id)
) STRICT;
CREATE INDEX public_identity_set ON public_identity (implicit_set, position);
CREATE INDEX public_identity_wildcard ON public_identity (identity) WHERE identity_type IN (2, 4);
CREATE INDEX public_identity_profile ON public_identity (service_profile);

-- One row: this private identity may register this set.
CREATE TABLE registration (
    implicit_set INTEGER NOT NULL REFERENCES implicit_set (id) ON DELETE CASCADE,
    private_identity INTEGER NOT NULL REFERENCES private_identity (id) ON DELETE CASCADE,
    is_registered INTEGER NOT NULL DEFAULT 0,
    is_authentication_pending INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (implicit_set, private_identity)
) STRICT, WITHOUT ROWID;
CREATE INDEX registration_private_identity ON registration (private_identity);
";

const VERSION_2: &str = "
-- What the S-CSCF left for another one that takes over (TS 23.380), for each registration: contacts
-- are JSON text, registration_time_out is in seconds since the Unix epoch.
CREATE TABLE restoration (
    implicit_set INTEGER NOT NULL,
    private_identity INTEGER NOT NULL,
    contacts TEXT NOT NULL,
    registration_time_out INTEGER,
    scheme TEXT,
    PRIMARY KEY (implicit_set, private_identity),
    FOREIGN KEY (implicit_set, private_identity)
        REFERENCES registration (implicit_set, private_identity) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;

-- How a private identity authenticates when it is not by AKA: digest holds sealed HA1s, and
-- framed_address is what the packet core gave to the UE (early IMS security).
ALTER TABLE private_identity ADD COLUMN scheme TEXT NOT NULL DEFAULT 'aka'
    CHECK (scheme IN ('aka', 'digest', 'early-ims'));
ALTER TABLE private_identity ADD COLUMN digest BLOB;
ALTER TABLE private_identity ADD COLUMN framed_address TEXT;
";

const VERSION_3: &str = "
-- RTRs that an S-CSCF was not there to hear of, which is told when it shows itself: also of users who are
-- removed by then, so nothing is referred to. The lists are JSON text, reason is Reason-Code.
CREATE TABLE undelivered_termination (
    id INTEGER PRIMARY KEY,
    host TEXT NOT NULL,
    user_name TEXT NOT NULL,
    private_identity INTEGER NOT NULL,
    subscription INTEGER NOT NULL,
    implicit_sets TEXT NOT NULL,
    public_identities TEXT NOT NULL,
    reason INTEGER NOT NULL
) STRICT;
CREATE INDEX undelivered_termination_host ON undelivered_termination (host);
CREATE INDEX undelivered_termination_user_name ON undelivered_termination (user_name);

-- A changed profile of the set has not reached the S-CSCF for this registration.
ALTER TABLE registration ADD COLUMN is_profile_due INTEGER NOT NULL DEFAULT 0;
";

const VERSION_4: &str = "
-- How often the profile of a set, and its charging addresses, have changed; and which of these the S-CSCF
-- has for a registration. A set with a difference is to be told. is_profile_refused: it has been, and the
-- S-CSCF cannot use it.
ALTER TABLE implicit_set ADD COLUMN profile_version INTEGER NOT NULL DEFAULT 0;
ALTER TABLE implicit_set ADD COLUMN charging_version INTEGER NOT NULL DEFAULT 0;
ALTER TABLE registration ADD COLUMN profile_given INTEGER NOT NULL DEFAULT 0;
ALTER TABLE registration ADD COLUMN charging_given INTEGER NOT NULL DEFAULT 0;
ALTER TABLE registration ADD COLUMN is_profile_refused INTEGER NOT NULL DEFAULT 0;
UPDATE implicit_set SET profile_version = 1, charging_version = 1 WHERE id IN
    (SELECT implicit_set FROM registration WHERE is_profile_due);
UPDATE registration SET profile_given = 1, charging_given = 1 WHERE NOT is_profile_due AND implicit_set IN
    (SELECT implicit_set FROM registration WHERE is_profile_due);
ALTER TABLE registration DROP COLUMN is_profile_due;
";

/// Brings the tables up to [`VERSION`]. Refuses a file that a newer program wrote.
///
/// # Errors
/// A sentence for the operator.
pub fn migrate(connection: &Connection) -> Result<(), String> {
    let found = version(connection)?;
    if found > VERSION {
        return Err(format!(
            "the database has schema version {found}, this program knows {VERSION}: \
             use a newer program"
        ));
    }
    if found == VERSION {
        return Ok(());
    }
    let wrong = |error| format!("cannot bring the database to version {VERSION}: {error}");
    connection.execute_batch("BEGIN IMMEDIATE").map_err(wrong)?;
    // Another HSS on the same file may have been at it until now.
    let steps = version(connection).and_then(|found| {
        let steps = MIGRATIONS.iter().skip(usize::try_from(found).unwrap_or(0));
        let script: String = steps.copied().collect();
        let script = format!("{script} PRAGMA user_version = {VERSION}; COMMIT;");
        connection.execute_batch(&script).map_err(wrong)
    });
    if steps.is_err() && !connection.is_autocommit() {
        // The first error is what matters.
        let _ = connection.execute_batch("ROLLBACK");
    }
    steps
}

/// `PRAGMA user_version`: 0 for an empty file.
///
/// # Errors
/// A sentence for the operator: not a database, or not readable.
pub fn version(connection: &Connection) -> Result<i64, String> {
    connection
        .query_row("PRAGMA user_version", [], |row| row.get(0))
        .map_err(|error| format!("cannot read the database: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What was due before the versions were counted is due afterwards, for the same registrations.
    #[test]
    fn what_was_due_stays_due() {
        let connection = Connection::open_in_memory().unwrap();
        let script = [VERSION_1, VERSION_2, VERSION_3].concat();
        connection.execute_batch(&format!("{script} PRAGMA user_version = 3;")).unwrap();
        connection
            .execute_batch(
                "INSERT INTO subscription (id) VALUES (1);
                 INSERT INTO implicit_set (id, subscription) VALUES (1, 1), (2, 1);
                 INSERT INTO private_identity (id, subscription, identity, algorithm)
                     VALUES (1, 1, 'a', 'none'), (2, 1, 'b', 'none');
                 INSERT INTO registration (implicit_set, private_identity, is_profile_due)
                     VALUES (1, 1, 1), (1, 2, 0), (2, 1, 0);",
            )
            .unwrap();
        migrate(&connection).unwrap();
        let sql = "SELECT r.implicit_set, r.private_identity
            FROM registration r JOIN implicit_set i ON i.id = r.implicit_set
            WHERE r.profile_given <> i.profile_version AND r.charging_given <> i.charging_version";
        let mut statement = connection.prepare(sql).unwrap();
        let due = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
        let due: Vec<(i64, i64)> = due.map(Result::unwrap).collect();
        assert_eq!(due, [(1, 1)]);
        assert_eq!(version(&connection), Ok(VERSION));
    }
}
