#!/usr/bin/env python3
"""The laboratory in containers, from images to nothing left: what `.ci/run compose` runs.

    tests/compose/run.py --binaries target/release [--ues N] [--render FOLDER] [--keep]

Builds the images from programs that are built already (without --binaries: from source), brings deploy/docker-compose.yml up,
waits for health and for registered phones, puts load on it, asks Prometheus every query of every dashboard, kills, stops and
starts each container in turn with registrations intact, and brings all down. Needs root, Docker and docker-compose; starts dockerd
where none runs. Where no registry can be reached, deploy/base-images.sh makes the base images, and Grafana is left out.
"""

import argparse
import contextlib
import json
import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import panels  # noqa: E402 # beside this file

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROJECT = "tessera-test"
PORTS = {"pcscf": 9101, "icscf": 9102, "scscf1": 9103, "scscf2": 9103, "hss": 9104, "lte": 9105, "ue4": 9106, "ue6": 9106, "load": 9106}
# Phones refresh after half of it (TS 24.229 §5.1.1.4.1).
EXPIRES_SECONDS = 120
# Names of base images with their defaults, as the Dockerfile and the compose file have them.
IMAGE = re.compile(r"\b(?:TESSERA_)?([A-Z]+)_IMAGE(?:=|:-)([a-z0-9./:-]+)")
passed, failed, skipped = [], [], []


class Broken(Exception):
    """The laboratory is not as it should be, and further steps would only say so again."""


def say(text):
    print(f"[{time.monotonic() - BEGAN:6.1f}] {text}", flush=True)


@contextlib.contextmanager
def step(name):
    """A named part of the test; what goes wrong in it is told, and the others go on."""
    began = time.monotonic()
    try:
        yield
    except (AssertionError, subprocess.CalledProcessError, TimeoutError) as error:
        failed.append(name)
        say(f"FAIL {name}: {error}")
        if isinstance(error, subprocess.CalledProcessError):
            print((error.stdout or "") + (error.stderr or ""), flush=True)
    else:
        passed.append(name)
        say(f"ok   {name} ({time.monotonic() - began:.1f} s)")


def run(*words, check=True, **more):
    return subprocess.run(words, check=check, text=True, capture_output=True, **more).stdout


def docker(*words, **more):
    return run("docker", *words, **more)


def until(what, condition, seconds=60):
    """Waits for a condition; answers what it gave."""
    end = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not within {seconds} s")
        time.sleep(0.2)


class Lab:
    def __init__(self, arguments):
        self.arguments = arguments
        self.dockerd = None
        self.files = [ROOT / "deploy/docker-compose.yml"]
        self.environment = dict(os.environ, DOCKER_BUILDKIT="0", COMPOSE_DOCKER_CLI_BUILD="0", TESSERA_UES=str(arguments.ues),
                                TESSERA_PROMETHEUS_PORT=str(free_port()), TESSERA_PLANE=arguments.ipsec, TESSERA_EXPIRES=str(EXPIRES_SECONDS))
        self.compose_command = ["docker-compose"] if shutil.which("docker-compose") else ["docker", "compose"]
        self.has_registry = True
        self.known = {}

    def start_docker(self):
        if subprocess.run(["docker", "info"], capture_output=True).returncode == 0:
            return
        log = open("/tmp/dockerd.log", "w")  # noqa: SIM115 # dockerd's for as long as it runs
        self.dockerd = subprocess.Popen(["dockerd"], stdout=log, stderr=log, start_new_session=True)
        until("dockerd", lambda: subprocess.run(["docker", "info"], capture_output=True).returncode == 0)

    def compose(self, *words, check=True):
        files = [word for file in self.files for word in ("-f", str(file))]
        return run(*self.compose_command, "-p", PROJECT, *files, *words, check=check, env=self.environment)

    def have(self, image):
        """Whether an image is there, or can be pulled."""
        if subprocess.run(["docker", "image", "inspect", image], capture_output=True).returncode == 0:
            return True
        if self.has_registry:
            pulled = subprocess.run(["timeout", "120", "docker", "pull", "-q", image], capture_output=True)
            self.has_registry = pulled.returncode == 0
        return self.has_registry

    def images(self):
        """The base images by their public names, pulled or made; then ours."""
        wanted = {name: image for file in ("Dockerfile", "docker-compose.yml")
                  for name, image in IMAGE.findall((ROOT / "deploy" / file).read_text())}
        stand_ins = [name.lower() for name in ("DEBIAN", "PROMETHEUS", "RUST") if not (name == "RUST" and self.arguments.binaries)
                     and not self.have(wanted[name])]
        if stand_ins:
            say(run(str(ROOT / "deploy/base-images.sh"), *stand_ins).strip())
        if self.arguments.no_grafana or not self.have(wanted["GRAFANA"]):
            self.files.append(ROOT / "tests/compose/no-grafana.yml")
            skipped.append("grafana")
            say("SKIP grafana: no image of it can be had here; its panels are drawn from the same queries")
        if self.arguments.binaries:
            run(str(ROOT / "deploy/prebuilt.sh"), self.arguments.binaries)
            self.environment.update(TESSERA_BINARIES="tessera/binaries", TESSERA_RUST_IMAGE=wanted["DEBIAN"])
        self.compose("build")

    def containers(self, is_fresh=True):
        """By service: the container's name and what Docker knows of it."""
        if not is_fresh and self.known:
            return self.known
        found = docker("ps", "-aq", "--filter", f"label=com.docker.compose.project={PROJECT}").split()
        if not found:
            return {}
        known = json.loads(docker("inspect", *found))
        self.known = {one["Config"]["Labels"]["com.docker.compose.service"]: one for one in known}
        return self.known

    def health(self):
        return {service: one["State"].get("Health", {}).get("Status", one["State"]["Status"]) for service, one in self.containers().items()}

    def wait_for_health(self, services=None, seconds=90):
        def is_healthy():
            health = self.health()
            return all(health.get(service) in ("healthy", "running") for service in services or health if service != "provision")
        try:
            until("health", is_healthy, seconds)
        except TimeoutError:
            raise TimeoutError(f"not healthy within {seconds} s: {self.health()}") from None

    def address(self, service):
        # The P-CSCF lives in the network of another container.
        # What was looked up last will do: addresses change when a container is started again, and that looks them up.
        networks = self.containers(is_fresh=False)["gm" if service == "pcscf" else service]["NetworkSettings"]["Networks"]
        return networks[f"{PROJECT}_monitoring"]["IPAddress"]

    def samples(self, service):
        """{series as written: value} of a container's /metrics; empty while nobody answers."""
        try:
            url = f"http://{self.address(service)}:{PORTS[service]}/metrics"
            with urllib.request.urlopen(url, timeout=5) as answer:
                lines = answer.read().decode().splitlines()
        except (OSError, KeyError):
            return {}
        pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        return {name: float(value) for name, value in pairs}

    def metric(self, service, name, *labels):
        """The sum of a metric's series that have all these labels, written as `name="value"`."""
        return sum(value for series, value in self.samples(service).items()
                   if series.split("{")[0] == name and all(label in series for label in labels))

    def registered(self):
        """Registrations as P-CSCF and S-CSCFs count them."""
        at_pcscf = self.metric("pcscf", "tessera_pcscf_registrations")
        at_scscf = sum(self.metric(service, "tessera_scscf_registrations") for service in ("scscf1", "scscf2"))
        return at_pcscf, at_scscf

    def log(self, service, lines=15):
        name = self.containers()[service]["Name"].strip("/")
        shown = subprocess.run(["docker", "logs", "--tail", str(lines), name], capture_output=True, text=True)
        return shown.stdout + shown.stderr

    def start_again(self, service, how):
        """`kill` is a crash; `stop` is SIGTERM, and the daemon drains."""
        name = self.containers()[service]["Name"].strip("/")
        if how == "kill":
            docker("kill", "-s", "KILL", name)
        else:
            docker("stop", "-t", "15", name)
            code = self.containers()[service]["State"]["ExitCode"]
            assert code == 0, f"{service} ended with {code} after SIGTERM:\n{self.log(service)}"
        docker("start", name)
        self.wait_for_health([service])
        self.containers()

    def down(self):
        self.compose("down", "-v", "--remove-orphans", check=False)

    def left(self):
        """What of the project is still there."""
        label = f"label=com.docker.compose.project={PROJECT}"
        things = [f"container {name}" for name in docker("ps", "-aq", "--filter", label).split()]
        things += [f"network {name}" for name in docker("network", "ls", "-q", "--filter", label).split()]
        things += [f"volume {name}" for name in docker("volume", "ls", "-q", "--filter", label).split()]
        things += [f"process {line}" for line in run("ps", "-eo", "pid,args").splitlines()
                   if any(f"/usr/bin/{name} --config" in line or f" {name} --config /etc/tessera" in line
                          for name in ("hss", "scscf", "icscf", "pcscf", "lte"))]
        return things


def free_port():
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


def tell_all(lab):
    for service, state in lab.health().items():
        print(f"-- {service}: {state}\n{lab.log(service)}", flush=True)


def up(lab):
    total = 2 * lab.arguments.ues
    began = time.monotonic()
    with step("up"):
        lab.compose("up", "-d")
        lab.wait_for_health()
    if failed:
        tell_all(lab)
        raise Broken("not up")
    with step("registered"):
        first = until("the first registered UE", lambda: lab.registered()[0] >= 1 and time.monotonic() - began)
        say(f"time from `up` to the first registered UE: {first:.1f} s")
        until(f"{total} UEs registered", lambda: lab.registered() == (total, total), 90)
        say(f"time from `up` to {total} registered UEs: {time.monotonic() - began:.1f} s")
    if failed:
        tell_all(lab)
        raise Broken("not up")


def over_ipsec(lab):
    """It is ESP, through all three nodes of the transport, and none of it on the P-CSCF's own plane is a guess."""
    total = 2 * lab.arguments.ues
    with step("over IPsec and LTE"):
        plane = [series for series, value in lab.samples("pcscf").items() if series.startswith("tessera_ipsec_plane{") and value]
        say(f"data plane: {plane[0]}")
        assert lab.metric("pcscf", "tessera_ipsec_sets") == total
        for direction in ("in", "out"):
            packets = lab.metric("pcscf", "tessera_ipsec_packets_total", f'direction="{direction}"')
            assert packets >= total, f"{packets} ESP packets {direction} for {total} UEs"
        for service in ("scscf1", "scscf2"):
            assert lab.metric(service, "tessera_scscf_registrations") > 0, f"{service} serves nobody"
        for node in ("enb1", "sgw1", "pgw1"):
            packets = lab.metric("lte", "tessera_lte_gtpu_packets_total", f'node="{node}"', 'direction="in"')
            assert packets >= 2 * total, f"{packets} G-PDUs came to {node}"
        assert lab.metric("lte", "tessera_lte_ues") == total


def privileges(lab):
    """As decided: nothing is privileged, and only the two that must have a capability."""
    with step("privileges"):
        allowed = {"pcscf": {"NET_ADMIN", "NET_RAW"}, "lte": {"NET_ADMIN"}}
        for service, one in lab.containers().items():
            host = one["HostConfig"]
            assert not host["Privileged"], service
            if service in ("prometheus", "grafana"):
                continue
            assert host["CapDrop"] == ["ALL"], service
            assert {name.removeprefix("CAP_") for name in host["CapAdd"] or []} == allowed.get(service, set()), service
            if service not in ("pcscf", "lte"):
                assert one["Config"]["User"] not in ("", "0", "0:0", "root"), f"{service} runs as {one['Config']['User']}"
        # Without its capability the P-CSCF starts nothing, and says what to give it.
        bare = subprocess.run(["docker", "run", "--rm", "--network", "none", "--cap-drop", "ALL", "--entrypoint", "pcscf", "tessera/pcscf",
                               "--config", "/etc/tessera/pcscf.toml", "--check"], capture_output=True, text=True)
        assert bare.returncode == 1 and "CAP_NET_ADMIN" in bare.stdout, bare.stdout + bare.stderr


def dashboards(lab):
    prometheus = panels.Prometheus(f"http://127.0.0.1:{lab.environment['TESSERA_PROMETHEUS_PORT']}")
    jobs = set()
    with step("every target is scraped"):
        def scraped():
            jobs.update(target["labels"]["job"] for target in prometheus.ask("/api/v1/targets")["activeTargets"] if target["health"] == "up")
            return {"pcscf", "icscf", "scscf", "hss", "lte", "ue"} <= jobs
        until("targets", scraped, 60)
    start_load(lab)
    with step("every panel has data"):
        shown, empty = panels.evaluate(prometheus, jobs)
        if lab.arguments.render:
            panels.render(shown, pathlib.Path(lab.arguments.render))
            say(f"panels drawn in {lab.arguments.render}")
        say(f"{sum(len(found) for found in shown.values())} panels of {len(shown)} dashboards asked")
        assert not empty, "\n    ".join(["", *empty])
    with step("every metric has its place"):
        wrong = panels.undocumented(prometheus)
        assert not wrong, "\n    ".join(["", *wrong])
    end_load(lab)
    with step("alert rules are evaluated"):
        rules = [rule for group in prometheus.ask("/api/v1/rules")["groups"] for rule in group["rules"]]
        assert rules and all(rule["health"] == "ok" for rule in rules), rules


def start_load(lab):
    """Phones that come, refresh, go and fall over, for longer than the minute of the panels' rates."""
    lab.environment.update(TESSERA_LOAD_SECONDS=str(lab.arguments.load_seconds + 30), TESSERA_LOAD_RATE=str(lab.arguments.load_rate))
    lab.compose("--profile", "load", "up", "-d", "load")
    lab.containers()
    until("load", lambda: lab.metric("load", "tessera_load_offered_total") > 0)
    time.sleep(lab.arguments.load_seconds)


def end_load(lab):
    with step("load"):
        def ended():
            state = lab.containers()["load"]["State"]
            return state["Status"] == "exited" and state
        succeeded = lab.metric("load", "tessera_load_attempts_total", 'outcome="success"')
        assert succeeded > lab.arguments.load_rate, f"{succeeded} attempts succeeded"
        until("the end of the load", ended, 200)
        print(lab.log("load", 40), flush=True)
        total = 2 * lab.arguments.ues
        until(f"{total} UEs registered after the load", lambda: lab.registered() == (total, total), 60)


def phones(lab, name, *labels):
    return sum(lab.metric(service, name, *labels) for service in ("ue4", "ue6"))


def restarts(lab):
    """Each container in turn is killed, and those that drain are stopped as well; nobody notices but who was asking just then."""
    total = 2 * lab.arguments.ues
    for how, services in (("kill", ["dns", "hss", "scscf1", "scscf2", "icscf", "prometheus", "pcscf"]),
                          ("stop", ["scscf1", "scscf2", "icscf", "hss", "pcscf"]),
                          ("kill", ["ue4", "lte"])):
        for service in services:
            with step(f"{how} {service}: registrations intact"):
                lab.start_again(service, how)
                if service in ("ue4", "lte"):
                    # Phones begin anew, with other addresses; what they had before ends by its time.
                    until("phones registered again", lambda: phones(lab, "tessera_load_registered") == total
                          and lab.registered()[0] >= total and lab.registered()[1] == total, 120)
                else:
                    until(f"{total} registrations", lambda: lab.registered() == (total, total), 15)
                    assert phones(lab, "tessera_load_registered") == total
    with step("every phone refreshes after all that"):
        refreshed = ("tessera_load_attempts_total", 'operation="refresh"', 'outcome="success"')
        before = phones(lab, *refreshed)
        until(f"{total} refreshes", lambda: phones(lab, *refreshed) - before >= total, 2 * EXPIRES_SECONDS)
        failures = phones(lab, "tessera_load_attempts_total", 'outcome="failure"')
        say(f"{phones(lab, *refreshed):.0f} refreshes succeeded, {failures:.0f} attempts failed")
        assert lab.registered()[1] == total, lab.registered()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--binaries", help="folder with programs that are built already; without it images build from source")
    parser.add_argument("--ues", type=int, default=10, help="phones of each IP version")
    parser.add_argument("--ipsec", default="auto", choices=["auto", "xfrm", "userspace"])
    parser.add_argument("--load-seconds", type=int, default=70)
    parser.add_argument("--load-rate", type=int, default=20, help="attempts a second")
    parser.add_argument("--render", help="folder for the panels as SVG")
    parser.add_argument("--no-grafana", action="store_true")
    parser.add_argument("--no-restarts", action="store_true")
    parser.add_argument("--keep", action="store_true", help="leave it running")
    arguments = parser.parse_args()
    lab = Lab(arguments)
    lab.start_docker()
    try:
        with step("images"):
            lab.images()
        if not failed:
            for line in docker("images", "--format", "{{.Repository}} {{.Size}}").splitlines():
                if line.startswith("tessera/"):
                    say(f"     {line}")
            lab.down()
            up(lab)
            privileges(lab)
            over_ipsec(lab)
            dashboards(lab)
            if not arguments.no_restarts:
                restarts(lab)
    except Broken as error:
        say(f"{error}: the rest is not tried")
    except (AssertionError, TimeoutError, subprocess.CalledProcessError) as error:
        failed.append("the run")
        say(f"FAIL {error}")
    finally:
        if not arguments.keep:
            with step("nothing is left"):
                lab.down()
                left = lab.left()
                assert not left, left
            if lab.dockerd:
                lab.dockerd.terminate()
                lab.dockerd.wait(30)
    print(f"{len(passed)} passed, {len(failed)} failed, {len(skipped)} skipped" if skipped else f"{len(passed)} passed, {len(failed)} failed")
    return 1 if failed else 0


BEGAN = time.monotonic()
if __name__ == "__main__":
    sys.exit(main())
