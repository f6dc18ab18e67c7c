#!/bin/sh
# The compiling steps of the Dockerfile: build.sh dependencies|programs BINARIES PACKAGES
# Nothing is done where the programs come from elsewhere (BINARIES is not "build").
set -eu
[ "$2" = build ] || { mkdir -p /programs; exit 0; }
export CARGO_TERM_COLOR=never CARGO_INCREMENTAL=0
case $1 in
    dependencies)
        # Empty crates in place of ours; the lock file decides all versions.
        for manifest in */Cargo.toml tests/*/Cargo.toml; do
            crate=${manifest%/Cargo.toml}
            mkdir -p "$crate/src" "$crate/benches"
            : >"$crate/src/lib.rs"
            echo 'fn main() {}' >"$crate/src/main.rs"
            echo 'fn main() {}' >"$crate/benches/tessera.rs"
        done
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
