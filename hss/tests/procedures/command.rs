//! The program `hss` as an operator uses it.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use crate::world::{K, OPC};

/// A folder with a configuration, a key and a database; gone with the test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("tessera-hss-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir(&path).unwrap();
        let folder = Folder(path);
        let configuration = format!(
            "database = \"{}\"\nkey_file = \"{}\"\n[diameter]\nidentity = \"hss.hims.net\"\n\
             realm = \"hims.net\"\nlisten = \"127.0.0.1:0\"\n",
            folder.file("hss.db"),
            folder.file("hss.key")
        );
        std::fs::write(folder.file("hss.toml"), configuration).unwrap();
        folder
    }

    fn file(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }

    /// What the command printed, and what it complained about when it failed.
    fn run(&self, words: &[&str]) -> Result<String, String> {
        let output = Command::new(env!("CARGO_BIN_EXE_hss"))
            .args(words)
            .args(["--config", &self.file("hss.toml")])
            .output()
            .unwrap();
        let text = |octets| String::from_utf8(octets).unwrap();
        let printed = text(output.stdout);
        if output.status.success() { Ok(printed) } else { Err(printed + &text(output.stderr)) }
    }

    fn with_key(name: &str) -> Folder {
        let folder = Folder::new(name);
        folder.run(&["key", "create", &folder.file("hss.key")]).unwrap();
        folder
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn makes_a_key_once_and_for_its_owner_only() {
    let folder = Folder::with_key("key");
    let key = folder.file("hss.key");
    let mode = std::fs::metadata(&key).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
    assert!(folder.run(&["key", "create", &key]).is_err(), "a key is never written over");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o640)).unwrap();
    let told = folder.run(&["subscriber", "list"]).unwrap_err();
    assert!(told.contains("640") && told.contains("chmod 600"), "{told}");
    std::fs::remove_file(&key).unwrap();
    let told = folder.run(&["subscriber", "list"]).unwrap_err();
    assert!(told.contains("hss key create"), "{told}");
}

#[test]
fn adds_shows_lists_exports_and_removes() {
    let folder = Folder::with_key("add");
    let add = ["subscriber", "add", "--imsi", "001010123456789", "--k", K, "--opc", OPC];
    folder.run(&[&add[..], &["--msisdn", "15551234567", "--sqn", "0x20"]].concat()).unwrap();
    let impi = "001010123456789@ims.mnc001.mcc001.3gppnetwork.org";
    let shown = folder.run(&["subscriber", "show", impi]).unwrap();
    assert!(shown.contains("milenage") && shown.contains("000000000020"), "{shown}");
    let listed = folder.run(&["subscriber", "list"]).unwrap();
    assert!(listed.starts_with(impi) && listed.contains("tel:+15551234567"), "{listed}");
    let exported = folder.run(&["subscriber", "export"]).unwrap();
    assert!(exported.contains(&format!("{impi},milenage,0000,32,!sip:{impi} sip:+1555")));
    for text in [shown, listed, exported] {
        assert!(!text.contains(K) && !text.contains(OPC));
    }
    assert!(folder.run(&add).unwrap_err().contains("is there already"));
    folder.run(&["subscriber", "remove", impi]).unwrap();
    assert!(folder.run(&["subscriber", "remove", impi]).unwrap_err().contains("is not there"));
    assert_eq!(folder.run(&["subscriber", "list"]), Ok(String::new()));
}

/// All or none, with the line that is wrong.
#[test]
fn imports_all_or_none() {
    let folder = Folder::with_key("import");
    let row = |user: &str| format!("{user}@hims.net,sip:{user}@hims.net,{K},{OPC}\n");
    let file = folder.file("users.csv");
    let header = "impi,impu,k,opc\n".to_owned();
    std::fs::write(&file, header.clone() + &row("a") + &row("b") + &row("a")).unwrap();
    let told = folder.run(&["subscriber", "import", &file]).unwrap_err();
    assert!(told.contains("users.csv: line 4: impi: a@hims.net is there already"), "{told}");
    assert_eq!(folder.run(&["subscriber", "list"]), Ok(String::new()));
    std::fs::write(&file, header + &row("a") + &row("b")).unwrap();
    assert_eq!(folder.run(&["subscriber", "import", &file]).unwrap(), "2 subscribers added\n");
    assert_eq!(folder.run(&["subscriber", "list"]).unwrap().lines().count(), 2);
}

#[test]
fn checks_its_configuration() {
    let folder = Folder::new("check");
    let told = folder.run(&["--check"]).unwrap_err();
    assert!(told.contains("hss key create"), "{told}");
    folder.run(&["key", "create", &folder.file("hss.key")]).unwrap();
    folder.run(&["--check"]).unwrap();
    assert!(!std::path::Path::new(&folder.file("hss.db")).exists(), "a check changes nothing");
}
