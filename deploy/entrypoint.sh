#!/bin/sh
# entrypoint NAME [ARGUMENT...]: sets routes, checks configuration and host, becomes the daemon.
#
# TESSERA_CONFIG   its configuration; default /etc/tessera/NAME.toml
# TESSERA_ROUTES   routes to set first, as `ip route` has them, separated by semicolons; needs NET_ADMIN
# TESSERA_UMASK    file mode mask
#
# Any other first word (`sh`, `hss subscriber list`) is run as it is.
set -eu
case ${1:-} in
    hss | scscf | icscf | pcscf | lte) [ $# -eq 1 ] || exec "$@" ;;
    *) exec "$@" ;;
esac
name=$1
config=${TESSERA_CONFIG:-/etc/tessera/$name.toml}
[ -z "${TESSERA_UMASK:-}" ] || umask "$TESSERA_UMASK"

set_routes() {
    while [ -n "$1" ]; do
        route=${1%%;*}
        case $1 in *';'*) set -- "${1#*;}" ;; *) set -- "" ;; esac
        case $route in *:*) family=-6 ;; *) family=-4 ;; esac
        # shellcheck disable=SC2086 # words of a command
        if ! error=$(ip $family route replace $route 2>&1); then
            echo "$name: route \"$route\" cannot be set: $error; give the container NET_ADMIN (cap_add: [NET_ADMIN])," \
                "or unset TESSERA_ROUTES and let the host route" >&2
            exit 1
        fi
    done
}
set_routes "${TESSERA_ROUTES:-}"

# Each missing thing has its line; nothing is started that would end at once.
"$name" --config "$config" --check || exit 1
exec "$name" --config "$config"
