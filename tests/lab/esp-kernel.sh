#!/usr/bin/env bash
# Runs one command under a kernel that has IPsec ESP, for machines whose own kernel has none.
#
#   tests/lab/esp-kernel.sh [--write DIR]... [--seconds N] [--memory MB] -- COMMAND [ARGS...]
#
# The kernel is Debian's user-mode-linux: an ordinary process, ready in about two seconds, without
# KVM and without root. The command runs as root inside, sees this machine's files as they are, and
# writes only to the directories named with --write; whatever else it writes vanishes. Its output
# is passed on and its exit status returned (124: out of time; 125: the kernel did not come up).
# Inside, TESSERA_ESP_KERNEL is set.
#
# Needs apt-get once, to download two packages into ${TESSERA_CACHE:-~/.cache/tessera} (nothing is
# installed), and a C compiler where the processor has AMX. Where the machine's own kernel has ESP,
# just run the command as root instead.
set -euo pipefail

fail() { echo "esp-kernel: $*" >&2; exit 125; }

writable=() seconds=900 memory=1536
while [ $# -gt 0 ]; do
    case $1 in
        --write)   mkdir -p "$2"; writable+=("$(cd "$2" && pwd -P)"); shift 2 ;;
        --seconds) seconds=$2; shift 2 ;;
        --memory)  memory=$2; shift 2 ;;
        --)        shift; break ;;
        -h|--help) sed -n '2,15s/^# \{0,1\}//p' "$0"; exit 0 ;;
        *)         fail "unknown option $1 (see --help)" ;;
    esac
done
[ $# -gt 0 ] || fail "no command (see --help)"
[ "$(uname -m)" = x86_64 ] || fail "user-mode-linux is there for x86_64 only"

cache=${TESSERA_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/tessera}
mkdir -p "$cache"

# download PACKAGE: unpacks a Debian package below the cache, once.
download() {
    [ ! -e "$cache/$1/.complete" ] || return 0
    command -v apt-get >/dev/null || fail "apt-get is missing, so $1 cannot be downloaded"
    echo "esp-kernel: downloading $1" >&2
    local new
    new=$(mktemp -d "$cache/new.XXXXXX")
    (cd "$new" && apt-get -o APT::Sandbox::User=root download "$1" >download.log 2>&1) ||
        { cat "$new/download.log" >&2; fail "no $1 (run apt-get update?)"; }
    dpkg-deb -x "$new"/*.deb "$new/files"
    touch "$new/files/.complete"
    rm -rf "${cache:?}/$1"
    mv "$new/files" "$cache/$1"
    rm -rf "$new"
}
download user-mode-linux
download busybox-static
linux=$cache/user-mode-linux/usr/bin/linux.uml
busybox=$cache/busybox-static/bin/busybox
for modules in "$cache"/user-mode-linux/usr/lib/uml/modules/*; do :; done

# See wide-registers.c: without it, this kernel does not start any process on such a processor.
preload=''
if grep -qw amx_tile /proc/cpuinfo; then
    preload=$cache/wide-registers.so
    source=$(dirname "$0")/wide-registers.c
    [ "$preload" -nt "$source" ] || cc -shared -fPIC -O1 -o "$preload" "$source" -ldl ||
        fail "a C compiler (cc) is needed on a processor with AMX"
fi

run=$(mktemp -d /tmp/esp-kernel.XXXXXX)
guest='' readers=()
finish() {
    [ -z "$guest" ] || kill -KILL -- "-$guest" 2>/dev/null || true
    [ ${#readers[@]} -eq 0 ] || kill "${readers[@]}" 2>/dev/null || true
    wait 2>/dev/null || true
    rm -rf "$run"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

mkdir "$run/layer" "$run/uml"
: >"$run/out"; : >"$run/err"
# What the guest runs in the end: the caller's environment, directory and command.
{
    export TESSERA_ESP_KERNEL=1
    export -p
    printf 'cd -- %q || exit 125\nexec' "$PWD"
    printf ' %q' "$@"
    echo
} >"$run/command"

# First half, from the host's files: an overlay in memory over them, and the new root.
cat >"$run/init" <<INIT
#!$busybox sh
PATH=/usr/sbin:/usr/bin:/sbin:/bin
stop() { echo "esp-kernel: \$*"; $busybox poweroff -f; }
$busybox mount -t proc proc /proc
$busybox insmod $modules/kernel/fs/overlayfs/overlay.ko
mount -t tmpfs -o mode=755 layer $run/layer || stop "no tmpfs"
mkdir $run/layer/up $run/layer/work $run/layer/root
R=$run/layer/root
mount -t overlay -o lowerdir=/,upperdir=$run/layer/up,workdir=$run/layer/work root \$R || stop "no overlay"
mkdir -p \$R/proc \$R/sys \$R/dev \$R/run \$R/tmp
mount -t proc proc \$R/proc
mount -t sysfs sysfs \$R/sys
mount -t devtmpfs dev \$R/dev
mkdir -p \$R/dev/pts \$R/dev/shm
mount -t devpts -o mode=620,ptmxmode=666 devpts \$R/dev/pts
mount -t tmpfs -o mode=1777 shm \$R/dev/shm
mount -t tmpfs -o mode=755 run \$R/run
mkdir -p \$R/run/lock \$R/run/old \$R/lib/modules
ln -sf /proc/self/fd \$R/dev/fd
ln -sf /proc/self/fd/0 \$R/dev/stdin
ln -sf /proc/self/fd/1 \$R/dev/stdout
ln -sf /proc/self/fd/2 \$R/dev/stderr
[ -e \$R/lib/modules/${modules##*/} ] || ln -s $modules \$R/lib/modules/${modules##*/}
for directory in $run ${writable[*]-}; do
    mkdir -p "\$R\$directory"
    mount -t hostfs -o "\$directory" none "\$R\$directory" || stop "cannot mount \$directory"
done
cd \$R && $busybox pivot_root . run/old || stop "no new root"
exec $busybox sh $run/second
INIT
# Second half, on the new root: what the tests need of a machine, then the command.
cat >"$run/second" <<SECOND
cd /
umount -l /run/old 2>/dev/null
mkdir /run/bin
ln -s $busybox /run/bin/modprobe
echo /run/bin/modprobe >/proc/sys/kernel/modprobe
/run/bin/modprobe -a ipv6 af_packet xfrm_user esp4 esp6 authenc hmac md5 sha1_generic sha256_generic cbc ecb \
    ctr gcm ghash-generic seqiv echainiv aes_generic crypto_null des_generic tun veth dummy >/dev/null 2>&1
chmod 666 /dev/null /dev/zero /dev/full /dev/random /dev/urandom /dev/tty /dev/ptmx /dev/net/tun
hostname esp-kernel
ip link set lo up
touch $run/up
/bin/bash $run/command </dev/null >>$run/out 2>>$run/err
echo \$? >$run/status
sync
$busybox poweroff -f
SECOND
chmod 755 "$run/init"

memory_at=/tmp
[ ! -w /dev/shm ] || [ "$(df -Pm /dev/shm | awk 'NR == 2 { print $4 }')" -le "$memory" ] || memory_at=/dev/shm
LD_PRELOAD=$preload TMPDIR=$memory_at setsid "$linux" mem="${memory}M" root=/dev/root rootfstype=hostfs rootflags=/ ro \
    init="$run/init" con=null con0=null,fd:1 ssl=null uml_dir="$run/uml/" umid=guest quiet panic=-1 \
    </dev/null >"$run/console" 2>&1 &
guest=$!
tail -n +1 -s 0.05 -f --pid="$guest" "$run/out" & readers+=($!)
tail -n +1 -s 0.05 -f --pid="$guest" "$run/err" >&2 & readers+=($!)
deadline=$((SECONDS + seconds))
while kill -0 "$guest" 2>/dev/null; do
    [ $SECONDS -lt $deadline ] || { echo "esp-kernel: out of time after $seconds s" >&2; exit 124; }
    [ -e "$run/up" ] || [ $SECONDS -lt $((deadline - seconds + 60)) ] || break
    sleep 0.1
done
wait "${readers[@]}" 2>/dev/null || true
readers=()
if [ -s "$run/status" ]; then exit "$(cat "$run/status")"; fi
sed '/Kernel panic/q' "$run/console" | tail -n 15 >&2
fail "the kernel ended without a result"
