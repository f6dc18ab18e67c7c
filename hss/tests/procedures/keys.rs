//! What is on disk: no keys in clear, nothing of a turn before its end.

use std::path::PathBuf;

use hss::database::Database;
use rusqlite::Connection;

use crate::world::*;

/// How long one turn waits for another program.
const WAIT: std::time::Duration = std::time::Duration::from_millis(100);

/// A database file that goes away with the test.
struct File(PathBuf);

impl File {
    fn new(name: &str) -> File {
        let name = format!("tessera-hss-{}-{name}.db", std::process::id());
        let file = File(std::env::temp_dir().join(name));
        file.remove();
        file
    }

    fn open(&self) -> Connection {
        let connection = Connection::open(&self.0).unwrap();
        connection.pragma_update(None, "journal_mode", "WAL").unwrap();
        connection.busy_timeout(WAIT).unwrap();
        connection
    }

    fn octets(&self) -> Vec<u8> {
        let wal = format!("{}-wal", self.0.display());
        let mut octets = std::fs::read(&self.0).unwrap();
        octets.extend(std::fs::read(wal).unwrap_or_default());
        octets
    }

    fn remove(&self) {
        for tail in ["", "-wal", "-shm"] {
            let _ = std::fs::remove_file(format!("{}{tail}", self.0.display()));
        }
    }
}

impl Drop for File {
    fn drop(&mut self) {
        self.remove();
    }
}

#[test]
fn keys_are_not_on_disk_in_clear() {
    let file = File::new("keys");
    let world = World::on(file.open());
    let octets = file.octets();
    let holds = |wanted: &[u8]| octets.windows(wanted.len()).any(|part| part == wanted);
    assert!(holds(ALICE.as_bytes()), "the subscriber is there");
    for key in [K, OPC] {
        assert!(!holds(&hex::decode(key).unwrap()[..6]));
        assert!(!holds(key.as_bytes()) && !holds(key.to_uppercase().as_bytes()));
    }
    let shown = hss::provision::describe(&world.database, ALICE).unwrap()
        + &format!("{:?}", hss::provision::list(&world.database).unwrap())
        + &format!("{:?}", subscribers())
        + &format!("{:?}", world.config);
    assert!(!shown.contains(K) && !shown.contains(OPC) && !shown.contains(&"11".repeat(16)));
}

/// TS 33.102 Annex C: the number is stored before the vector leaves. A crash before the end of the
/// turn takes the vector along; after it the number is used.
#[test]
fn a_crash_before_commit_leaves_no_trace() {
    let file = File::new("crash");
    drop(World::on(file.open()));

    let mut world = open(&file);
    world.mar(S1).unwrap();
    assert_ne!(world.sqn(ALICE), 0);
    // No `commit`: the answer was not released either.
    drop(world);
    let mut world = open(&file);
    assert_eq!((world.sqn(ALICE), world.server_name(ALICE)), (0, None));

    world.mar(S1).unwrap();
    world.database.commit().unwrap();
    let sqn = world.sqn(ALICE);
    drop(world);
    let world = open(&file);
    assert_eq!(world.sqn(ALICE), sqn);
    assert_eq!(world.server_name(ALICE).as_deref(), Some(S1));
}

fn open(file: &File) -> World {
    let config = config();
    World {
        vault: hss::keys::Vault::new(config.key.as_ref().unwrap()),
        database: Database::new(file.open()).unwrap(),
        random: common::random::Random::from_seed([6; 32]),
        config,
    }
}

/// A procedure that faults half-way leaves the rest of the turn alone.
#[test]
fn a_fault_takes_back_its_own_writes_only() {
    let mut world = World::new();
    world.mar(S1).unwrap();
    let sqn = world.sqn(ALICE);
    let result: Result<(), _> = world.database.procedure(|| {
        world.database.write("UPDATE private_identity SET sqn = 0", [])?;
        Err(hss::refusal::Refusal::Fault("half-way".into()))
    });
    assert!(result.is_err());
    assert_eq!(world.sqn(ALICE), sqn);
    world.database.commit().unwrap();
    assert_eq!(world.sqn(ALICE), sqn);
}

/// HSSs that start at the same time on a new file, or on one of an older program.
#[test]
fn several_programs_make_one_database() {
    let file = File::new("made");
    drop(file.open());
    std::thread::scope(|scope| {
        let starting = [(); 4].map(|()| scope.spawn(|| Database::new(file.open()).map(drop)));
        for started in starting {
            assert_eq!(started.join().unwrap(), Ok(()));
        }
    });
}

/// TS 33.102 Annex C: however many HSSs share the database, no sequence number is given twice, and
/// none is lower than one before it.
#[test]
fn two_hsss_never_give_one_number_twice() {
    let file = File::new("two");
    drop(World::on(file.open()));
    let given = std::sync::Mutex::new(Vec::new());
    let ask = || {
        let mut world = open(&file);
        let mut served = 0;
        while served < 50 {
            if world.mar(S1).is_ok() {
                // Nobody else writes before the turn ends.
                given.lock().unwrap().push(world.sqn(ALICE));
                served += 1;
            }
            world.database.commit().unwrap();
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(ask);
        scope.spawn(ask);
    });
    let given = given.into_inner().unwrap();
    assert_eq!(given.len(), 100);
    assert!(given.is_sorted_by(|before, after| before < after), "{given:?}");
}

/// Another program that writes for long costs one wait in a turn, not one for each request; reading
/// goes on, and the next turn tries again.
#[test]
fn a_database_in_use_is_waited_for_once() {
    let file = File::new("busy");
    drop(World::on(file.open()));
    let mut world = open(&file);
    let other = file.open();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let begun = std::time::Instant::now();
    for _ in 0..20 {
        assert_eq!(world.mar(S1).unwrap_err().outcome(), common::cx::Outcome::Base(3004));
    }
    assert!(begun.elapsed() < 10 * WAIT, "{:?}", begun.elapsed());
    assert!(world.uar(|_| ()).is_ok());
    world.database.commit().unwrap();
    other.execute_batch("ROLLBACK").unwrap();
    world.mar(S1).unwrap();
    world.database.commit().unwrap();
    assert_ne!(world.sqn(ALICE), 0);
}

/// A damaged key is a fault of ours, not a crash and not a vector.
#[test]
fn damaged_keys_are_a_fault() {
    let mut world = World::new();
    world.database.write("UPDATE private_identity SET keys = x'0102'", []).unwrap();
    let refusal = world.mar(S1).unwrap_err();
    assert_eq!(refusal.outcome(), common::cx::Outcome::UNABLE_TO_COMPLY);
}

/// A file of a newer program is not touched.
#[test]
fn refuses_a_newer_schema() {
    let connection = Connection::open_in_memory().unwrap();
    connection.pragma_update(None, "user_version", 99).unwrap();
    assert!(Database::new(connection).unwrap_err().contains("99"));
}
