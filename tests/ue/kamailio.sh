#!/usr/bin/env bash
# Load on a P-CSCF of Kamailio's IMS modules, without IPsec, in front of Tessera's I-CSCF, S-CSCF and HSS, all on
# loopback. Installs Debian's packages when they are missing (needs root for that alone).
#
#   tests/ue/kamailio.sh [options of `ue load`]      such as --rate 50 --seconds 30 --html report.html
#
# TARGET names the folder of built programs (default: target/release, built if need be), UES the number of UEs (1000).
set -euo pipefail
cd "$(dirname "$0")/../.."
target=${TARGET:-target/release}
ues=${UES:-1000}
domain=ims.mnc001.mcc001.3gppnetwork.org
[ $# -gt 0 ] || set -- --rate 20 --seconds 20

if ! command -v kamailio >/dev/null && [ ! -x /usr/sbin/kamailio ]; then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends kamailio kamailio-ims-modules
fi
kamailio=$(PATH=$PATH:/usr/sbin command -v kamailio)
modules=$(dirname "$(find /usr/lib /usr/lib64 -name ims_registrar_pcscf.so 2>/dev/null | head -n 1)")
[ -x "$target/ue" ] && [ -x "$target/hss" ] || cargo build --release -p ue -p hss -p icscf -p scscf

folder=$(mktemp -d)
pids=()
finish() {
    for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
    wait 2>/dev/null || true
    rm -rf "$folder"
}
trap finish EXIT

cat > "$folder/hss.toml" <<END
database = "$folder/hss.sqlite"
key_file = "$folder/key"
[diameter]
identity = "hss.$domain"
realm = "$domain"
listen = "127.0.0.1:39868"
[http]
listen = "127.0.0.1:39004"
END
cat > "$folder/scscf.toml" <<END
home_domain = "$domain"
state = "$folder/scscf.sqlite"
[sip]
name = "scscf.$domain"
[sip.listen]
udp = ["127.0.0.1:39063"]
tcp = ["127.0.0.1:39063"]
[registration]
protection = "optional"
[diameter]
identity = "scscf.$domain"
realm = "$domain"
peers = [{ host = "127.0.0.1", port = 39868 }]
[http]
listen = "127.0.0.1:39003"
END
cat > "$folder/icscf.toml" <<END
home_domain = "$domain"
[sip]
name = "icscf.$domain"
[sip.listen]
udp = ["127.0.0.1:39062"]
tcp = ["127.0.0.1:39062"]
[[scscf]]
name = "sip:scscf.$domain"
address = "127.0.0.1:39063"
[diameter]
identity = "icscf.$domain"
realm = "$domain"
peers = [{ host = "127.0.0.1", port = 39868 }]
[http]
listen = "127.0.0.1:39002"
END
# The registrar module wants the module for IPsec beside it; nothing here uses that.
cat > "$folder/pcscf.cfg" <<END
#!KAMAILIO
children=4
log_stderror=yes
debug=1
fork=yes
auto_aliases=no
disable_tcp=yes
listen=udp:127.0.0.1:39060
mpath="$modules/"
loadmodule "tm.so"
loadmodule "sl.so"
loadmodule "pv.so"
loadmodule "maxfwd.so"
loadmodule "textops.so"
loadmodule "siputils.so"
loadmodule "ims_usrloc_pcscf.so"
loadmodule "ims_ipsec_pcscf.so"
loadmodule "ims_registrar_pcscf.so"
modparam("tm", "fr_timer", 30000)
modparam("ims_usrloc_pcscf", "db_mode", 0)
modparam("ims_ipsec_pcscf", "ipsec_listen_addr", "127.0.0.1")
modparam("ims_ipsec_pcscf", "ipsec_client_port", 39071)
modparam("ims_ipsec_pcscf", "ipsec_server_port", 39072)
modparam("ims_ipsec_pcscf", "ipsec_max_connections", 1)
modparam("ims_registrar_pcscf", "subscribe_to_reginfo", 0)
modparam("ims_registrar_pcscf", "publish_reginfo", 0)
modparam("ims_registrar_pcscf", "pcscf_uri", "sip:127.0.0.1:39060")

request_route {
    if (!mf_process_maxfwd_header("70")) {
        sl_send_reply("483", "Too Many Hops");
        exit;
    }
    if (!is_method("REGISTER")) {
        sl_send_reply("405", "Method Not Allowed");
        exit;
    }
    # TS 24.229 section 5.2.2.1, without a security agreement.
    append_hf("Path: <sip:127.0.0.1:39060;lr>\r\n");
    append_hf("Require: path\r\n");
    append_hf("P-Visited-Network-ID: $domain\r\n");
    append_hf("P-Charging-Vector: icid-value=\"\$ci-\$cs\"\r\n");
    \$du = "sip:127.0.0.1:39062";
    t_on_reply("REGISTER");
    if (!t_relay()) {
        sl_reply_error();
    }
    exit;
}

onreply_route[REGISTER] {
    if (\$rs == 200) {
        pcscf_save("location");
    }
}
END

"$target/ue" population --ues "$ues" --output "$folder/population.csv"
"$target/hss" key create "$folder/key"
"$target/hss" --config "$folder/hss.toml" subscriber import "$folder/population.csv"
ready() { # NAME PORT
    for _ in $(seq 200); do
        if (exec 3<>"/dev/tcp/127.0.0.1/$2") 2>/dev/null; then return; fi
        sleep 0.1
    done
    echo "$1 does not get ready:" >&2
    cat "$folder/$1.log" >&2
    exit 2
}
for each in hss:39004 scscf:39003 icscf:39002; do
    name=${each%:*}
    RUST_LOG=warn "$target/$name" --config "$folder/$name.toml" > "$folder/$name.log" 2>&1 &
    pids+=($!)
    ready "$name" "${each#*:}"
done
"$kamailio" -DD -f "$folder/pcscf.cfg" -P "$folder/pcscf.pid" -m 512 -M 8 > "$folder/pcscf.log" 2>&1 &
pids+=($!)
for _ in $(seq 200); do
    grep -qi ":9894 " /proc/net/udp && break # 39060
    sleep 0.1
done

status=0
"$target/ue" load --population "$folder/population.csv" --pcscf 127.0.0.1:39060 \
    --metrics hss=http://127.0.0.1:39004 --metrics scscf=http://127.0.0.1:39003 --metrics icscf=http://127.0.0.1:39002 \
    "$@" || status=$?
grep -v -e INFO -e DEBUG -e clean_ -e ipsec_cleanall "$folder/pcscf.log" | grep -e ERROR -e WARNING -e CRITICAL | tail -n 5 || true
exit "$status"
