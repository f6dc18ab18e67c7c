#!/usr/bin/env bash
# Opens the ESP of `cargo lab check matrix --capture DIR --capture-keys`, be it inside UDP, with tshark and its own cryptography.
#
#   tests/lab/open-esp.sh DIR
#
# Fails unless in each set of associations whose keys DIR/esp_sa has (AES-GMAC, which tshark does not know,
# is not among them) a REGISTER of the phone and its 200 are found, every ICV is right, and without the
# keys nothing of it is readable.
set -euo pipefail

directory=${1:?a directory of captures}
command -v tshark >/dev/null || { echo "tshark is missing: apt-get install tshark" >&2; exit 1; }
export HOME=$(mktemp -d)
trap 'rm -rf "$HOME"' EXIT
unset XDG_CONFIG_HOME
passed=0 failed=0

# spis FILTER: how many associations have a packet that matches.
spis() {
    tshark -n -o esp.enable_encryption_decode:TRUE -o esp.enable_authentication_check:TRUE \
        -r "$directory/sgi.pcapng" -Y "esp && $1" -T fields -e esp.spi 2>"$HOME/errors" |
        sort -u | wc -l
}
# expect NUMBER FILTER WHAT
expect() {
    local found
    found=$(spis "$2")
    if [ "$found" -eq "$1" ]; then passed=$((passed + 1)); return; fi
    failed=$((failed + 1))
    echo "$3: $found of $1 ($2)"
    cat "$HOME/errors"
}
register='sip.Method == "REGISTER" && sip contains "Security-Verify:"'
answer='sip.Status-Code == 200 && sip.CSeq.method == "REGISTER"'

expect 0 "$register" 'without keys: a REGISTER'
mkdir -p "$HOME/.config/wireshark"
cp "$directory/esp_sa" "$HOME/.config/wireshark/"
sets=$(($(wc -l <"$directory/esp_sa") / 4))
[ "$sets" -gt 0 ] || { echo "$directory/esp_sa has no keys"; exit 1; }
expect "$sets" "$register" 'REGISTERs'
expect "$sets" "$answer" 'answers'
expect 0 'esp.icv_bad == 1' 'wrong ICVs'
# One association of each set carries what goes up, one what comes down; a subscription behind the
# registration may add to it.
good=$(spis 'esp.icv_good == 1')
if [ "$good" -ge $((2 * sets)) ]; then passed=$((passed + 1)); else
    echo "right ICVs: $good, fewer than $((2 * sets))"
    failed=$((failed + 1))
fi
echo "$sets sets opened"
echo "$passed passed, $failed failed"
[ $failed -eq 0 ]
