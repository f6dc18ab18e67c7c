#!/usr/bin/env bash
# Makes stand-ins for the public images that the Dockerfile and the compose file name, where no registry can be reached:
# Debian by debootstrap, Rust from the toolchain of this host, Prometheus from Debian's package. They get the public
# names, so that nothing else has to know. Where images can be pulled, this is not needed.
#
#   deploy/base-images.sh [debian] [rust] [prometheus]        default: debian
#
# An image that is there already is left alone. Grafana has no Debian package: without a registry it has to be left out.
set -euo pipefail
cd "$(dirname "$0")"

default_of() { sed -n "s/.*$1[=:]-\?\([a-z0-9./:-]*\).*/\1/p" "$2" | head -n 1; }
DEBIAN_IMAGE=${DEBIAN_IMAGE:-$(default_of DEBIAN_IMAGE Dockerfile)}
RUST_IMAGE=${RUST_IMAGE:-$(default_of RUST_IMAGE Dockerfile)}
PROMETHEUS_IMAGE=${TESSERA_PROMETHEUS_IMAGE:-$(default_of TESSERA_PROMETHEUS_IMAGE docker-compose.yml)}
SUITE=${DEBIAN_IMAGE#*:}
SUITE=${SUITE%-slim}

work=$(mktemp -d "${TMPDIR:-/tmp}/base-images.XXXXXX")
trap 'rm -rf "$work"' EXIT
# Neither needs BuildKit, which Debian does not have.
export DOCKER_BUILDKIT=0

have() { docker image inspect "$1" >/dev/null 2>&1; }
build() { docker build -q --label tessera.stand-in=yes -t "$1" "$work/$2" >/dev/null 2>"$work/log" || { cat "$work/log" >&2; exit 1; }; }

debian() {
    have "$DEBIAN_IMAGE" && return
    debootstrap --variant=minbase --include=ca-certificates "$SUITE" "$work/root" >"$work/log" ||
        { tail -n 20 "$work/log" >&2; exit 1; }
    # As the host trusts, so do builds: between it and the package servers there may be a proxy.
    cp --remove-destination /etc/ssl/certs/ca-certificates.crt "$work/root/etc/ssl/certs/"
    rm -rf "$work"/root/var/cache/apt/archives/*.deb "$work"/root/var/lib/apt/lists/* \
        "$work"/root/usr/share/{doc,man,locale,info}/*
    tar -C "$work/root" -c . | docker import -c 'CMD ["bash"]' -c 'LABEL tessera.stand-in=yes' - "$DEBIAN_IMAGE" >/dev/null
    rm -rf "$work/root"
}

rust() {
    have "$RUST_IMAGE" && return
    debian
    mkdir -p "$work/rust/toolchain"
    local sysroot
    sysroot=$(rustc --print sysroot)
    cp -a "$sysroot/bin" "$sysroot/lib" "$work/rust/toolchain/"
    rm -rf "$work"/rust/toolchain/lib/rustlib/src "$work"/rust/toolchain/share
    cat >"$work/rust/Dockerfile" <<DOCKERFILE
FROM $DEBIAN_IMAGE
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
COPY toolchain/ /usr/local/
ENV CARGO_HOME=/usr/local/cargo
DOCKERFILE
    build "$RUST_IMAGE" rust
}

prometheus() {
    have "$PROMETHEUS_IMAGE" && return
    debian
    mkdir -p "$work/prometheus"
    cat >"$work/prometheus/Dockerfile" <<DOCKERFILE
FROM $DEBIAN_IMAGE
RUN apt-get update && apt-get install -y --no-install-recommends prometheus && rm -rf /var/lib/apt/lists/* \
    && mkdir -p /prometheus && chown 65534:65534 /prometheus
USER 65534:65534
WORKDIR /prometheus
ENTRYPOINT ["/usr/bin/prometheus"]
CMD ["--config.file=/etc/prometheus/prometheus.yml", "--storage.tsdb.path=/prometheus"]
DOCKERFILE
    build "$PROMETHEUS_IMAGE" prometheus
}

for image in "${@:-debian}"; do
    case $image in
        debian | rust | prometheus) "$image" ;;
        *) echo "$image: expected debian, rust or prometheus" >&2 && exit 2 ;;
    esac
done
docker images --filter label=tessera.stand-in=yes --format 'stand-in for {{.Repository}}:{{.Tag}} ({{.Size}})'
