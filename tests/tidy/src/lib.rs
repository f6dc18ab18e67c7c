//! Reads the tree as text: which clause stands where, which seed row is tested by what, and whether
//! the layers keep to themselves. `cargo tidy` runs the checks and prints the index.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Rows of the mission's table, S-01 to this.
pub const SEED_ROWS: u32 = 137;

/// One Rust file of the project.
#[derive(Debug)]
pub struct Source {
    /// Relative to the root of the repository.
    pub path: PathBuf,
    pub text: String,
}

impl Source {
    /// Lines that belong to tests: the whole file under a `tests` folder of a product crate, in the
    /// simulator, scenarios and lab; else what follows the first `#[cfg(test)]`.
    pub fn test_text(&self) -> &str {
        let path = self.path.to_string_lossy();
        let tells = ["/tests/", "tests/sim/", "tests/scenarios/", "tests/lab/"];
        if tells.iter().any(|part| path.contains(part)) || path.ends_with("/tests.rs") {
            return &self.text;
        }
        self.text.find("#[cfg(test)]").map_or("", |start| &self.text[start..])
    }

    pub fn product_text(&self) -> &str {
        if self.test_text().len() == self.text.len() {
            return "";
        }
        self.text.find("#[cfg(test)]").map_or(&self.text, |start| &self.text[..start])
    }
}

/// A test and the rows that it says it proves.
#[derive(PartialEq, Eq, Debug)]
pub struct Proof {
    pub name: String,
    pub rows: BTreeSet<u32>,
    /// Rows of its longest `S-12..S-15`.
    pub longest_range: u32,
}

/// The tests of a file that cite rows in the comment right above them: a `#[test]`, or what stands as `run` in a table
/// of scenarios or checks.
pub fn proofs(text: &str) -> Vec<Proof> {
    let mut proofs = Vec::new();
    let (mut comment, mut is_test) = (String::new(), false);
    for line in text.lines().map(str::trim) {
        if let Some(words) = line.strip_prefix("///") {
            comment.push_str(words);
            comment.push('\n');
        } else if line.starts_with("#[") {
            is_test |= line == "#[test]";
        } else {
            let name = line.split_once("fn ").and_then(|(_, rest)| rest.split(['(', '<']).next());
            if let Some(name) = name {
                let is_run = ["run: ", "::"].iter().any(|before| {
                    [",", "\n"].iter().any(|end| text.contains(&format!("{before}{name}{end}")))
                });
                let (rows, longest_range) = seed_rows(&comment);
                if !rows.is_empty() && (is_test || (is_run && text.contains("run: "))) {
                    proofs.push(Proof { name: name.to_owned(), rows, longest_range });
                }
            }
            comment.clear();
            is_test = false;
        }
    }
    proofs
}

pub fn root() -> PathBuf {
    let mut root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    root.pop();
    root.pop();
    root
}

/// All `.rs` files, sorted by path.
pub fn sources() -> Vec<Source> {
    let root = root();
    let mut found = Vec::new();
    for folder in ["common", "pcscf", "icscf", "scscf", "hss", "tests"] {
        walk(&root, &root.join(folder), &mut found);
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

fn walk(root: &Path, folder: &Path, found: &mut Vec<Source>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            if path.file_name().is_some_and(|name| name != "target" && name != "tidy") {
                walk(root, &path, found);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs")
            && let Ok(text) = fs::read_to_string(&path)
        {
            let path = path.strip_prefix(root).unwrap_or(&path).to_path_buf();
            found.push(Source { path, text });
        }
    }
}

/// The numbers of `S-12`, `S-12, S-13` and of ranges `S-12..S-15` in a text, and how many rows the longest range has.
pub fn seed_rows(text: &str) -> (BTreeSet<u32>, u32) {
    let mut rows = BTreeSet::new();
    let mut longest = 0;
    let mut rest = text;
    let mut before: Option<u32> = None;
    while let Some(at) = rest.find("S-") {
        let is_range = before.is_some() && matches!(rest[..at].trim(), ".." | "..=" | "to");
        let word_before = rest[..at].chars().next_back();
        let digits: String = rest[at + 2..].chars().take_while(char::is_ascii_digit).collect();
        rest = &rest[at + 2 + digits.len()..];
        let is_word = word_before.is_some_and(|c| c.is_alphanumeric() || c == '-');
        let number = digits.parse().ok().filter(|_| !is_word && digits.len() >= 2);
        if let Some(row) = number {
            let first = if is_range { before.unwrap_or(row) } else { row };
            longest = longest.max((row + 1).saturating_sub(first));
            rows.extend(first..=row);
        }
        before = number;
    }
    (rows, longest)
}

/// Clauses cited in a text, such as `TS 24.229 §5.2.2.1` and `RFC 3261 §17.2`.
pub fn clauses(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (at, _) in text.match_indices('§') {
        let clause: String = text[at + '§'.len_utf8()..]
            .chars()
            .take_while(|c| c.is_ascii_alphanumeric() || *c == '.')
            .collect();
        let line_start = text[..at].rfind('\n').map_or(0, |newline| newline + 1);
        let line = &text[line_start..at];
        let document = ["TS ", "RFC ", "TR "]
            .iter()
            .filter_map(|series| line.rfind(series).map(|start| (start, *series)))
            .max();
        if let Some((start, series)) = document {
            let number: String = line[start + series.len()..]
                .chars()
                .take_while(|c| c.is_ascii_digit() || *c == '.')
                .collect();
            found.insert(format!("{series}{number} §{}", clause.trim_end_matches('.')));
        }
    }
    found
}

/// What `tests/tidy/later.tsv` says: row, and the capability that will bring it.
pub fn rows_for_later() -> BTreeMap<u32, String> {
    let text = fs::read_to_string(root().join("tests/tidy/later.tsv")).unwrap_or_default();
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_once('\t'))
        .filter_map(|(row, why)| Some((row.strip_prefix("S-")?.parse().ok()?, why.to_owned())))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_counts_at_a_test() {
        let text = "//! S-01\n/// S-02: a table\npub const ALL: &[Scenario] = &[Scenario { run: c, }];\n\
                    /// S-03\nfn a() {}\n/// S-04\n#[test]\nfn b() {}\n/// S-05,\n/// S-06\nfn c(x: u8) {}\n\
                    // S-07\n#[test]\nfn d() {}\n/// S-08\n\n#[test]\nfn e() {}\n";
        let found = proofs(text);
        let found: Vec<_> = found.iter().map(|one| (one.name.as_str(), one.rows.len())).collect();
        assert_eq!(found, [("b", 1), ("c", 2)]);
    }

    #[test]
    fn reads_rows_and_clauses() {
        let (rows, longest) =
            seed_rows("/// S-14, S-20..S-22; and S-137. UES-55 is none, S-1 neither");
        assert_eq!(longest, 3);
        assert_eq!(rows.into_iter().collect::<Vec<_>>(), [14, 20, 21, 22, 137]);
        let found = clauses("TS 24.229 §5.2.2.1, §5.2.2.2; RFC 3261 §17.2.");
        let expected = ["RFC 3261 §17.2", "TS 24.229 §5.2.2.1", "TS 24.229 §5.2.2.2"];
        assert_eq!(found.into_iter().collect::<Vec<_>>(), expected);
    }
}
