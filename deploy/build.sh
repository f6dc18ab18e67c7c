#!/bin/sh
# The compiling steps of the Dockerfile: build.sh stand-ins|dependencies|programs BINARIES PACKAGES
# Nothing is done where the programs come from elsewhere (BINARIES is not "build").
set -eu
[ "$1" = stand-ins ] || [ "$2" = build ] || { mkdir -p /programs; exit 0; }
export CARGO_TERM_COLOR=never CARGO_INCREMENTAL=0

# Empty crates in place of ours, with every test and benchmark that a manifest names; the lock file decides all versions.
stand_ins() {
    for manifest in */Cargo.toml tests/*/Cargo.toml; do
        crate=${manifest%/Cargo.toml}
        mkdir -p "$crate/src" "$crate/tests" "$crate/benches"
        : >"$crate/src/lib.rs"
        echo 'fn main() {}' >"$crate/src/main.rs"
        awk -F'"' '/^\[/ { folder = $0 == "[[test]]" ? "tests" : $0 == "[[bench]]" ? "benches" : "" }
                   folder && /^name/ { print folder "/" $2 ".rs" }' "$manifest" |
            while read -r target; do echo 'fn main() {}' >"$crate/$target"; done
    done
}

case $1 in
    stand-ins) stand_ins ;;
    dependencies)
        stand_ins
        # shellcheck disable=SC2086 # a list
        cargo build --release --locked $3
        ;;
    programs)
        # Cargo goes by times: what stood in for the sources must be older than they.
        find . -name '*.rs' -not -path './target/*' -exec touch {} +
        # shellcheck disable=SC2086 # a list
        cargo build --release --locked $3
        mkdir -p /programs
        for program in hss scscf icscf pcscf lte ue; do
            strip --strip-debug -o "/programs/$program" "target/release/$program"
        done
        ;;
esac
