//! What a core keeps over a restart: one SQLite table of rows in JSON, written one transaction a
//! turn, readable with the sqlite3 shell.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, params};

use crate::node::{Record, StoredRecord};

/// Version of the layout of the file, in `PRAGMA user_version`.
const LAYOUT_VERSION: i64 = 1;
/// Beyond this size of the write-ahead log the turn itself empties it.
const WAL_LIMIT_BYTES: u64 = 64 * 1024 * 1024;
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(1);

/// The open store of one daemon.
#[derive(Debug)]
pub(super) struct Store {
    connection: Connection,
    wal: PathBuf,
    writes_since_look: u32,
    /// Moves the write-ahead log into the file beside the loop, so that no turn waits for it.
    checkpointer: Option<(Sender<()>, JoinHandle<()>)>,
}

impl Store {
    /// Opens or creates the file.
    pub fn open(path: &Path) -> Result<Store, String> {
        let named = |error: rusqlite::Error| format!("store {}: {error}", path.display());
        let connection = Connection::open(path).map_err(named)?;
        prepare(&connection).map_err(named)?;
        let version: i64 =
            connection.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(named)?;
        match version {
            0 => connection.pragma_update(None, "user_version", LAYOUT_VERSION).map_err(named)?,
            LAYOUT_VERSION => {}
            other => {
                let path = path.display();
                return Err(format!("store {path}: layout {other} is of a newer version"));
            }
        }
        connection
            .execute_batch(
                "CREATE TABLE IF NOT EXISTS state (kind TEXT NOT NULL, key TEXT NOT NULL, \
                 value TEXT NOT NULL, PRIMARY KEY (kind, key)) WITHOUT ROWID",
            )
            .map_err(named)?;
        let checkpointer = start_checkpointer(path)?;
        let mut wal = path.as_os_str().to_owned();
        wal.push("-wal");
        Ok(Store {
            connection,
            wal: wal.into(),
            writes_since_look: 0,
            checkpointer: Some(checkpointer),
        })
    }

    /// All rows in the order of kind and key.
    pub fn read(&self) -> Result<Vec<StoredRecord>, String> {
        let read = || -> rusqlite::Result<Vec<StoredRecord>> {
            let mut statement =
                self.connection.prepare("SELECT kind, key, value FROM state ORDER BY kind, key")?;
            let rows = statement.query_map([], |row| {
                Ok(StoredRecord { kind: row.get(0)?, key: row.get(1)?, value: row.get(2)? })
            })?;
            rows.collect()
        };
        read().map_err(|error| format!("store cannot be read: {error}"))
    }

    /// Writes the rows of one turn in their order, all or none.
    pub fn write<'a>(&mut self, records: impl Iterator<Item = &'a Record>) -> Result<(), String> {
        let write = || -> rusqlite::Result<()> {
            let transaction = self.connection.transaction()?;
            for record in records {
                match &record.value {
                    Some(value) => transaction
                        .prepare_cached(
                            "INSERT INTO state (kind, key, value) VALUES (?1, ?2, ?3) \
                             ON CONFLICT (kind, key) DO UPDATE SET value = excluded.value",
                        )?
                        .execute(params![record.kind, record.key, value])?,
                    None => transaction
                        .prepare_cached("DELETE FROM state WHERE kind = ?1 AND key = ?2")?
                        .execute(params![record.kind, record.key])?,
                };
            }
            transaction.commit()
        };
        write().map_err(|error| format!("store cannot be written: {error}"))?;
        self.bound_wal()
    }

    fn bound_wal(&mut self) -> Result<(), String> {
        self.writes_since_look += 1;
        if self.writes_since_look < 256 {
            return Ok(());
        }
        self.writes_since_look = 0;
        let bytes = std::fs::metadata(&self.wal).map_or(0, |metadata| metadata.len());
        if bytes > WAL_LIMIT_BYTES {
            checkpoint(&self.connection, "TRUNCATE")
                .map_err(|error| format!("store cannot be written: {error}"))?;
        }
        Ok(())
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        if let Some((stop, thread)) = self.checkpointer.take() {
            drop(stop);
            // A panic of that thread has been reported by it.
            let _ = thread.join();
        }
    }
}

/// Whether the store could be opened and written; changes nothing.
pub(super) fn check(path: &Path) -> Result<(), String> {
    let shown = path.display();
    if path.exists() {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE;
        return Connection::open_with_flags(path, flags)
            .and_then(|connection| connection.execute_batch("BEGIN IMMEDIATE; ROLLBACK"))
            .map_err(|error| {
                format!("store {shown}: cannot be written: {error}; change its owner or its path")
            });
    }
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    if !folder.is_dir() {
        return Err(format!("store {shown}: make the directory {}", folder.display()));
    }
    nix::unistd::access(folder, nix::unistd::AccessFlags::W_OK).map_err(|error| {
        format!("store {shown}: {} cannot be written: {error}; change its owner", folder.display())
    })
}

fn prepare(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(Duration::from_secs(5))?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    connection.pragma_update(None, "wal_autocheckpoint", 0)?;
    Ok(())
}

fn checkpoint(connection: &Connection, mode: &str) -> rusqlite::Result<()> {
    connection.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |_| Ok(()))
}

fn start_checkpointer(path: &Path) -> Result<(Sender<()>, JoinHandle<()>), String> {
    let named = |error: &dyn std::fmt::Display| format!("store {}: {error}", path.display());
    let connection = Connection::open(path).map_err(|error| named(&error))?;
    prepare(&connection).map_err(|error| named(&error))?;
    let (stop, stopped) = channel();
    let run = move || {
        while stopped.recv_timeout(CHECKPOINT_INTERVAL) == Err(RecvTimeoutError::Timeout) {
            // Busy only means: later. A disk that fails shows in the next write of the loop.
            if let Err(error) = checkpoint(&connection, "PASSIVE") {
                tracing::debug!(%error, "checkpoint of the store put off");
            }
        }
    };
    let thread = std::thread::Builder::new()
        .name("checkpoint".into())
        .spawn(run)
        .map_err(|error| named(&error))?;
    Ok((stop, thread))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(key: &str, value: Option<&str>) -> Record {
        Record { kind: "set", key: key.to_owned(), value: value.map(str::to_owned) }
    }

    #[test]
    fn keeps_rows_over_a_restart() {
        let folder = std::env::temp_dir().join(format!("tessera-store-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("state.db");
        assert_eq!(check(&path), Ok(()));
        assert!(!path.exists());
        {
            let mut store = Store::open(&path).unwrap();
            assert_eq!(store.read().unwrap(), []);
            let rows = [record("b", Some("1")), record("a", Some("2")), record("b", Some("3"))];
            store.write(rows.iter()).unwrap();
            store.write([record("a", None)].iter()).unwrap();
        }
        assert_eq!(check(&path), Ok(()));
        let store = Store::open(&path).unwrap();
        let rows = store.read().unwrap();
        let expected =
            StoredRecord { kind: "set".to_owned(), key: "b".to_owned(), value: "3".to_owned() };
        assert_eq!(rows, [expected]);
        drop(store);
        Connection::open(&path).unwrap().pragma_update(None, "user_version", 2).unwrap();
        assert!(Store::open(&path).unwrap_err().contains("newer version"));
        std::fs::remove_dir_all(&folder).unwrap();
        assert!(check(&path).unwrap_err().contains("make the directory"));
    }
}
