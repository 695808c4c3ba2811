"""The story: a control plane initialises, a worker joins, an object is made, both are reinstalled and upgraded.

Power is cut twice, each time in the middle of a reinstall: while the control plane's new system is written, and while
the worker's new system comes back into the cluster.
"""

from __future__ import annotations

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from tests.kube.figures import Figures
from tests.lab.agent import Agent
from tests.lab.members import ADMIN, ENTER, FIRST, flashed
from tests.lab.node import CommandError, Node
from tests.lab.site import Lab

CONTROL_PLANE, WORKER = "cp-1", "worker-1"
CONFIG = "/boot/firmware/k8r.toml"
# Something to drain: one pod of a controller, which any node takes.
WORKLOAD = """\
apiVersion: apps/v1
kind: Deployment
metadata: {name: told}
spec:
  selector: {matchLabels: {app: told}}
  template:
    metadata: {labels: {app: told}}
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{name: pause, image: "k8s.gcr.io/pause:3.2", imagePullPolicy: Never}]
"""
FIRST_BOOT, UPDATE, REINSTALL, READY = 1200.0, 1200.0, 2400.0, 600.0  # seconds; slow is not wrong


@dataclass
class Seen:
    """What the story left to look at. `node` and `cluster`: at which point → what."""

    node: dict[str, dict[str, Any]] = field(default_factory=dict)
    cluster: dict[str, dict[str, Any]] = field(default_factory=dict)
    statuses: dict[str, dict[str, Any]] = field(default_factory=dict)
    events: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    snapshots: list[dict[str, Any]] = field(default_factory=list)
    figures: Figures = field(default_factory=Figures)
    proof: list[dict[str, Any]] = field(default_factory=list)
    k8r_toml: str = ""
    nodes: str = ""


def say(text: str) -> None:
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {text}\n")
    sys.stderr.flush()


def kubectl(node: Node, command: str) -> dict[str, Any]:
    """Asked on a control-plane node, as its administrator."""
    return dict(json.loads(node.ssh(f"{ADMIN} {command} -o json", timeout=180)))


def note_cluster(control_plane: Node) -> dict[str, Any]:
    """What must be the same cluster afterwards."""
    configmap = kubectl(control_plane, "get configmap story")
    system = kubectl(control_plane, "get namespace kube-system")
    listed = json.loads(control_plane.ssh(f"{ADMIN} get --raw /api/v1/configmaps", timeout=180))
    version = json.loads(control_plane.ssh(f"{ADMIN} get --raw /version", timeout=180))
    return {"data": configmap["data"], "uid": configmap["metadata"]["uid"], "cluster": system["metadata"]["uid"],
            "resourceVersion": int(listed["metadata"]["resourceVersion"]), "version": version["gitVersion"],
            "ca": control_plane.ssh("sha256sum < /etc/kubernetes/pki/ca.crt").split()[0]}


def note_node(control_plane: Node, name: str) -> dict[str, Any]:
    found = kubectl(control_plane, f"get node {name}")
    return {"uid": found["metadata"]["uid"], "ready": ready(found), "kubelet": found["status"]["nodeInfo"],
            "cordoned": found["spec"].get("unschedulable", False)}


def ready(node: dict[str, Any]) -> bool:
    return any(c["type"] == "Ready" and c["status"] == "True" for c in node["status"].get("conditions", ()))


def wait_ready(control_plane: Node, name: str) -> float:
    """When it was seen."""
    def seen(node: Node) -> bool:
        found = kubectl(node, f"get node {name}")
        return ready(found) and not found["spec"].get("unschedulable", False)

    control_plane.wait_until(seen, f"{name} Ready and schedulable", timeout=READY, every=5.0)
    return time.monotonic()


class Story:
    def __init__(self, lab: Lab) -> None:
        self.lab, self.seen = lab, Seen()

    def tell(self) -> Seen:
        self.worker = flashed(self.lab, WORKER, {}).start()
        self.control_plane = flashed(self.lab, CONTROL_PLANE, FIRST)
        with ThreadPoolExecutor(1) as beside:
            unclustered = beside.submit(self._first_boot, self.worker)
            self._initialise()
            unclustered.result()
        self._join()
        self._note("before")
        self._reinstall(self.worker, "reinstall")
        self._reinstall(self.control_plane, "reinstall")
        self._note("reinstalled")
        with ThreadPoolExecutor(1) as beside:
            other = beside.submit(self._update, self.worker)
            self._update(self.control_plane)
            other.result()
        self._reinstall(self.control_plane, "upgrade", cut="write-working")
        self._reinstall(self.worker, "upgrade", cut="rejoin")
        self._note("upgraded")
        self._look()
        return self.seen

    # parts

    def _first_boot(self, node: Node) -> None:
        self.lab.agent(node).wait_idle("first-boot", timeout=FIRST_BOOT)
        say(f"{node.name}: first boot done")

    def _initialise(self) -> None:
        node = self.control_plane
        started = time.monotonic()
        node.start()
        self._first_boot(node)
        self.lab.agent(node).wait_idle("join", timeout=ENTER)
        self._took(node, "power on → Ready", started, wait_ready(node, CONTROL_PLANE))
        node.ssh(f"{ADMIN} create configmap story --from-literal=told=once", timeout=120)
        self.seen.figures.bare[CONTROL_PLANE] = login_after(node)

    def _join(self) -> None:
        """With what `kubeadm token create` prints, written into k8r.toml on the boot partition."""
        node = self.worker
        self.seen.figures.bare[WORKER] = login_after(node)
        words = self.control_plane.ssh("kubeadm token create --ttl 1h --print-join-command", timeout=120).split()
        told = (f'[kubernetes]\\nendpoint = "{words[2]}"\\njoin_token = "{words[words.index("--token") + 1]}"\\n'
                f'ca_cert_hashes = ["{words[words.index("--discovery-token-ca-cert-hash") + 1]}"]\\n')
        node.ssh(f"mount -o remount,rw /boot/firmware && sed -i 's/^.kubernetes.$/{told}/' {CONFIG} && sync && "
                 "mount -o remount,ro /boot/firmware")
        started = time.monotonic()
        node.ssh("k8r-agent join --no-wait")
        self.lab.agent(node).wait_idle("join", timeout=ENTER)
        self._took(node, "join → Ready", started, wait_ready(self.control_plane, WORKER))
        self.seen.k8r_toml = node.ssh(f"cat {CONFIG}")
        self.control_plane.ssh(f"{ADMIN} apply -f -", stdin=WORKLOAD.encode(), timeout=120)
        self.control_plane.ssh(f"{ADMIN} rollout status deployment/told --timeout=300s", timeout=360)

    def _update(self, node: Node) -> None:
        node.ssh(f"k8r-agent update --yes {self.lab.url(2)}", timeout=UPDATE)

    def _reinstall(self, node: Node, what: str, *, cut: str = "") -> None:
        """Asked for at the prompt; the node takes itself down and comes back."""
        agent, started = self.lab.agent(node), time.monotonic()
        if not self.seen.proof:
            self.seen.proof = agent.json("k8r-agent reinstall --dry-run --json")["proof"]
        done = node.try_ssh("k8r-agent reinstall --yes", timeout=REINSTALL)
        if done.code not in (0, 255):  # 255: the node rebooted under the connection
            raise CommandError(f"{node.name}: reinstall: {done.out[-2000:]}{done.err[-2000:]}")
        if cut:
            cut_in(node, agent, cut)
        agent.wait_idle("reinstall", timeout=REINSTALL)
        end = wait_ready(self.control_plane, node.name)
        self._took(node, f"{what} → Ready{', power cut' if cut else ''}", started, end)
        self.seen.figures.steps[f"{node.name}: {what}"] = steps_of(agent)

    def _took(self, node: Node, what: str, started: float, ended: float) -> None:
        self.seen.figures.took[f"{node.name}: {what}"] = ended - started
        say(f"{node.name}: {what}: {ended - started:.0f} s")

    # looking

    def _note(self, point: str) -> None:
        self.seen.cluster[point] = note_cluster(self.control_plane)
        for name in (CONTROL_PLANE, WORKER):
            wait_ready(self.control_plane, name)
            self.seen.node[f"{name} {point}"] = note_node(self.control_plane, name)

    def _look(self) -> None:
        kept = self.control_plane.ssh("cat /var/lib/k8r/cluster/snapshots/*.json")
        self.seen.snapshots = list(documents(kept))
        self.seen.nodes = self.control_plane.ssh(f"{ADMIN} get nodes -o wide", timeout=120)
        for node in (self.control_plane, self.worker):
            agent = self.lab.agent(node)
            self.seen.statuses[node.name], self.seen.events[node.name] = agent.status(), agent.events()


def documents(text: str) -> list[dict[str, Any]]:
    """Of JSON files that follow each other."""
    found, decoder, at = [], json.JSONDecoder(), 0
    while text[at:].strip():
        at += len(text[at:]) - len(text[at:].lstrip())
        one, at = decoder.raw_decode(text, at)
        found.append(one)
    return found


def cut_in(node: Node, agent: Agent, step: str) -> None:
    """A few seconds after that step of the reinstall was begun."""
    agent.wait_step(step, task="reinstall", timeout=REINSTALL)
    time.sleep(5)
    node.cut()
    say(f"{node.name}: power cut in {step}")
    node.start()


def login_after(node: Node) -> float:
    """Seconds from power on until somebody could log in, when the node did nothing else."""
    return next(when for when, name in node.serial.milestones if name == "ssh")


def steps_of(agent: Agent) -> list[dict[str, Any]]:
    """Events of the last transaction."""
    events = agent.events()
    return [event for event in events if event["txn"] == events[-1]["txn"]]


def tell(lab: Lab) -> Seen:
    return Story(lab).tell()
