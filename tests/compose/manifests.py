"""Manifests that `kubectl kustomize` made, against the schemas of Kubernetes and against what the daemons can have."""

import sys

import kubernetes_validate
import yaml

VERSION = "1.32"


def settings(manifest):
    """(container, {name: value}) of each container of a workload."""
    pod = manifest["spec"]["template"]["spec"]
    for container in pod.get("initContainers", []) + pod["containers"]:
        yield container, {entry["name"]: entry.get("value", "") for entry in container.get("env", [])}


def check(manifest):
    kubernetes_validate.validate(manifest, VERSION, strict=True)
    if manifest["kind"] not in ("Deployment", "StatefulSet", "DaemonSet"):
        return
    name = manifest["metadata"]["name"]
    for container, environment in settings(manifest):
        security = container["securityContext"]
        capabilities = security["capabilities"]
        assert capabilities["drop"] == ["ALL"], name
        assert capabilities.get("add", []) == (["NET_ADMIN"] if name == "pcscf" else []), name
        assert security["readOnlyRootFilesystem"] and not security["allowPrivilegeEscalation"], name
        assert "privileged" not in security, name
        assert "limits" in container["resources"], name
        prefix = name.upper() + "__"
        for setting in environment:
            assert setting.startswith(prefix) or setting in ("POD_NAME", "POD_IP", "HOST_IP", "DOMAIN"), f"{name}: {setting}"
    main = manifest["spec"]["template"]["spec"]["containers"][0]
    assert main["readinessProbe"]["httpGet"]["path"] == "/readyz" and main["livenessProbe"]["httpGet"]["path"] == "/healthz", name


def scscfs(manifests):
    """Every S-CSCF that there is stands in the list of the I-CSCFs."""
    by_name = {(manifest["kind"], manifest["metadata"]["name"]): manifest for manifest in manifests}
    replicas = by_name["StatefulSet", "scscf"]["spec"]["replicas"]
    (_, environment), = settings(by_name["Deployment", "icscf"])
    listed = environment["ICSCF__SCSCF"].count("sip:scscf-")
    assert listed == replicas, f"{replicas} S-CSCFs, and {listed} in the list of the I-CSCFs"


for path in sys.argv[1:]:
    with open(path) as file:
        found = [manifest for manifest in yaml.safe_load_all(file) if manifest]
    for manifest in found:
        try:
            check(manifest)
        except Exception as error:
            sys.exit(f"{path}: {manifest['kind']} {manifest['metadata']['name']}: {error}")
    scscfs(found)
    print(f"     {path.rsplit('/', 1)[-1]}: {len(found)} manifests")
