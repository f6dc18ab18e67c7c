#!/bin/sh
# prebuilt.sh DIRECTORY [IMAGE]: an image of programs that are built already, for `--build-arg BINARIES=IMAGE`
# (default tessera/binaries). They must have been built against a C library no newer than that of the Debian release
# that the Dockerfile names.
set -eu
directory=$1
image=${2:-tessera/binaries}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/programs"
for program in hss scscf icscf pcscf lte ue; do
    strip --strip-debug -o "$work/programs/$program" "$directory/$program"
done
# One time for all files, so that the same programs give the same layer.
tar -C "$work" --mtime=@0 --sort=name --owner=0 --group=0 --numeric-owner -c programs | docker import - "$image" >/dev/null
echo "$image: $(cd "$work/programs" && echo *)"
