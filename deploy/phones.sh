#!/bin/sh
# phones [--ready]: registers phones over the LTE transport and keeps them registered; with --ready, whether all are.
#
# TESSERA_UES       how many; default 10
# TESSERA_FIRST     number of the first subscriber of the file; default 1
# TESSERA_IP        4 or 6
# TESSERA_EXPIRES   seconds that are asked for; default 3600
#
# Any other first word is a command of `ue`: phones load --rate 20 --mix register=1,reregister=1 ... with the same phones.
set -eu
file=${TESSERA_SUBSCRIBER_FILE:-/run/subscribers/subscribers.toml}
socket=${TESSERA_RADIO:-/run/tessera/radio.sock}
first=${TESSERA_FIRST:-1}
count=${TESSERA_UES:-10}

if [ "${1:-}" = --ready ]; then
    wget -q -O - http://127.0.0.1:9106/metrics |
        awk '$1 == "tessera_load_registered" { registered = $2 } $1 == "tessera_load_population" { there = $2 }
             END { print registered + 0, "of", there + 0, "registered"; exit !(there > 0 && registered == there) }'
    exit
fi
# Blocks of the file are apart by an empty line.
awk -v RS= -v ORS='\n\n' -v first="$first" -v count="$count" 'NR >= first && NR < first + count' "$file" >/tmp/phones.toml
if [ $# -eq 0 ]; then
    set -- run --rate 100
fi
command=$1
shift
exec ue "$command" --radio "$socket" --population /tmp/phones.toml --ip "${TESSERA_IP:-4}" \
    --expires "${TESSERA_EXPIRES:-3600}" --listen 0.0.0.0:9106 --quiet "$@"
