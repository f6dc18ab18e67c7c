#!/usr/bin/env bash
# What can be said of deploy/ without starting anything: dashboards, alerts, compose file, units, manifests.
set -euo pipefail
cd "$(dirname "$0")/../.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
count=0
ok() { echo "ok   $*"; count=$((count + 1)); }

for script in deploy/*.sh tests/compose/*.sh; do
    case $(head -n 1 "$script") in *bash) bash -n "$script" ;; *) sh -n "$script" ;; esac
done
ok "scripts can be read"

deploy/grafana/dashboards.py --check
ok "dashboards are what dashboards.py writes"

promtool check config deploy/prometheus/prometheus.yml >"$work/out" || { cat "$work/out"; exit 1; }
promtool test rules deploy/prometheus/alerts.test.yml >"$work/out" || { cat "$work/out"; exit 1; }
ok "Prometheus takes its configuration, and each alert fires when it should"
sed -n 's/^ *- alert: //p' deploy/prometheus/alerts.yml | while read -r alert; do
    grep -q "^## $alert\$" docs/runbooks.md || { echo "docs/runbooks.md has no page for $alert"; exit 1; }
    grep -q "$alert" deploy/prometheus/alerts.test.yml || { echo "alerts.test.yml does not show $alert"; exit 1; }
done
ok "every alert has its page and its test"

for compose in "docker-compose" "docker compose"; do
    if $compose version >/dev/null 2>&1; then
        $compose -f deploy/docker-compose.yml config -q
        $compose -f deploy/docker-compose.yml -f tests/compose/no-grafana.yml config -q
        ok "$compose takes the file"
    fi
done
if grep -nE '^ *privileged:' deploy/docker-compose.yml deploy/kubernetes -r; then exit 1; fi

# What the Dockerfile compiles dependencies with: the manifests alone, and stand-ins for the crates.
mkdir "$work/stand-ins"
sed -n 's/^COPY \(.*\) [^ ]*$/\1/p' deploy/Dockerfile | sed '/build.sh/q' | xargs cp --parents -t "$work/stand-ins"
(cd "$work/stand-ins" && deploy/build.sh stand-ins && cargo metadata --locked --no-deps --format-version 1 >/dev/null)
ok "crates can be stood in for"

# Units: programs in place of those that are not installed here. Exposure: 10 is everything, 0 nothing.
mkdir "$work/units"
for unit in deploy/systemd/*.service; do
    sed 's,/usr/bin/\(hss\|scscf\|icscf\|pcscf\) ,/bin/true ,' "$unit" >"$work/units/${unit##*/}"
done
systemd-analyze verify --man=no "$work"/units/*.service 2>"$work/out" || { cat "$work/out"; exit 1; }
if grep -q tessera "$work/out"; then cat "$work/out"; exit 1; fi
for unit in "$work"/units/*.service; do
    limit=20
    case $unit in *pcscf*) limit=25 ;; esac # NET_ADMIN and NET_RAW count
    systemd-analyze security --offline=yes --threshold=$limit "$unit" >"$work/out" || { tail -n 60 "$work/out"; exit 1; }
    ok "$(tail -n 1 "$work/out" | sed 's/^[^O]*//')"
done

if command -v kubectl >/dev/null; then
    for folder in deploy/kubernetes/base deploy/kubernetes/overlays/*/; do
        kubectl kustomize "$folder" >"$work/$(basename "$folder").yaml"
    done
    python=$work/python
    python3 -m pip install -q --disable-pip-version-check --root-user-action=ignore --target "$python" kubernetes-validate==1.32.0
    PYTHONPATH=$python python3 tests/compose/manifests.py "$work"/*.yaml
    ok "manifests fit the schemas"
else
    echo "SKIP manifests: kubectl is not here"
fi
echo "$count passed, 0 failed"
