#!/usr/bin/env bash
# Reads the captures of `cargo lab check --capture DIR` with tshark: what somebody else sees on the wire.
#
#   tests/lab/read-captures.sh DIR
#
# Fails when a packet is malformed or draws an expert error, when a protocol of the registration is
# missing on its link, or when anything of a protected REGISTER is readable on the way to the P-CSCF.
set -euo pipefail

directory=${1:?a directory of captures}
command -v tshark >/dev/null || { echo "tshark is missing: apt-get install tshark" >&2; exit 1; }
export HOME=$(mktemp -d)
trap 'rm -rf "$HOME"' EXIT
passed=0 failed=0

ok()  { passed=$((passed + 1)); }
bad() { failed=$((failed + 1)); echo "$*"; }

# read LINK FILTER: the packets of a link that match.
read_link() { tshark -n -r "$directory/$1.pcapng" -Y "$2" 2>"$HOME/errors" || { cat "$HOME/errors" >&2; exit 1; }; }
count() { read_link "$1" "$2" | wc -l; }
present() { if [ "$(count "$1" "$2")" -gt 0 ]; then ok; else bad "$1: nothing matches $2 ($3)"; fi; }
absent()  { if [ "$(count "$1" "$2")" -eq 0 ]; then ok; else bad "$1: $2 ($3)"; read_link "$1" "$2" | head -5; fi; }

neither_quoted_nor_again='!icmp && !icmpv6 && !tcp.analysis.out_of_order && !tcp.analysis.retransmission'
for link in radio s1u s5u sgi core; do
    [ -s "$directory/$link.pcapng" ] || { bad "$link: no capture"; continue; }
    # The kernel's ICMP quotes the beginning of what it refuses, here of datagrams to a killed process. And what TCP
    # cuts anew for a narrower path overlaps what was lost on it.
    absent $link "_ws.malformed && $neither_quoted_nor_again" 'malformed'
    absent $link "_ws.expert.severity == error && $neither_quoted_nor_again" 'expert error'
done
# The LTE path: the same packets at each hop, GTP-U between the nodes, ESP inside.
for link in s1u s5u; do
    present $link 'gtp.message == 0xff' 'G-PDU'
    present $link 'gtp && esp' 'ESP inside GTP-U'
done
for link in radio s1u s5u sgi; do
    present $link 'sip.Method == "REGISTER"' 'the first REGISTER, in clear'
    present $link 'sip.Status-Code == 401' 'its challenge, in clear'
    present $link 'esp' 'ESP'
    absent $link 'sip contains "Security-Verify:"' 'the protected REGISTER in clear'
    absent $link 'sip.Status-Code == 200 && sip.CSeq.method == "REGISTER"' 'its answer in clear'
    absent $link 'sip contains ",ck=" || sip contains ",ik="' 'keys'
done
# Inside the core: DNS, SIP, Cx.
present core 'dns.qry.type == 35' 'NAPTR'
present core 'dns.qry.type == 33' 'SRV'
present core 'sip.Method == "REGISTER" && sip contains "integrity-protected=\"yes\""' 'the second REGISTER'
for command in 257 300 301 303; do
    present core "diameter.cmd.code == $command && diameter.flags.request == 1" "Diameter request $command"
    present core "diameter.cmd.code == $command && diameter.flags.request == 0" "Diameter answer $command"
done
present core 'diameter.applicationId == 16777216' '3GPP Cx'
echo "$passed passed, $failed failed"
[ $failed -eq 0 ]
