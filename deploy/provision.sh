#!/bin/sh
# provision: what a new laboratory needs, once: the HSS's key, and subscribers with keys of their own.
#
# TESSERA_SUBSCRIBERS      how many; default 1000. IMSIs 001010000000001 and on.
# TESSERA_SUBSCRIBER_FILE  where the phones read them; default /run/subscribers/subscribers.toml
#
# Nothing is done where that file exists. Both keys and subscribers differ from one laboratory to the next.
set -eu
config=${TESSERA_CONFIG:-/etc/tessera/hss.toml}
file=${TESSERA_SUBSCRIBER_FILE:-/run/subscribers/subscribers.toml}
count=${TESSERA_SUBSCRIBERS:-1000}
key=${HSS__KEY_FILE:-$(sed -n 's/^key_file *= *"\([^"]*\)".*/\1/p' "$config")}

[ -e "$key" ] || hss key create "$key"
if [ -e "$file" ]; then
    echo "provision: $file is there already"
    exit 0
fi
umask 077
od -An -v -tx1 -N $((count * 32)) /dev/urandom | tr -d ' \n' | fold -w 64 | awk '{
    printf "[[subscriber]]\nimsi = \"00101%010d\"\nmnc_digits = \"2\"\nmsisdn = \"1555%07d\"\n", NR, NR
    printf "k = \"%s\"\nopc = \"%s\"\n\n", substr($0, 1, 32), substr($0, 33)
}' >"$file.toml"
hss --config "$config" subscriber import "$file.toml"
mv "$file.toml" "$file"
