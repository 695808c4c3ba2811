"""The story: a control plane initialises, a worker joins, an object is made, both are reinstalled."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass, field
from typing import Any

from tests.lab.agent import Agent
from tests.lab.node import CommandError, Node
from tests.lab.site import GIB, Lab

DISK_SIZE = 8 * GIB
DISK = {"image_size": '"2304MiB"', "state_size": '"640MiB"'}
NETWORKS = {"cni": '"none"', "pod_cidr": '"10.244.0.0/16"'}  # the image holds a bridge for pods
ADMIN = "kubectl --kubeconfig /etc/kubernetes/admin.conf"
FIRST_BOOT, ENTER, REINSTALL, READY = 1200.0, 1200.0, 2400.0, 600.0  # seconds; a busy machine is slow, not wrong


@dataclass
class Seen:
    """What the story left to look at. `node` and `cluster`: at which point → what."""

    node: dict[str, dict[str, Any]] = field(default_factory=dict)
    cluster: dict[str, dict[str, Any]] = field(default_factory=dict)
    statuses: dict[str, dict[str, Any]] = field(default_factory=dict)
    figures: dict[str, float] = field(default_factory=dict)
    k8r_toml: str = ""
    nodes: str = ""


class Clock:
    def __init__(self, seen: Seen) -> None:
        self._seen, self._started = seen, time.monotonic()

    def lap(self, what: str) -> None:
        now = time.monotonic()
        self._seen.figures[what] = round(now - self._started, 1)
        sys.stderr.write(f"{what}: {now - self._started:.0f} s\n")
        self._started = now


def kubectl(node: Node, command: str) -> dict[str, Any]:
    """Asked on a control-plane node, as its administrator."""
    return dict(json.loads(node.ssh(f"{ADMIN} {command} -o json", timeout=180)))


def note_cluster(control_plane: Node) -> dict[str, Any]:
    """What must be the same cluster afterwards."""
    configmap = kubectl(control_plane, "get configmap story")
    system = kubectl(control_plane, "get namespace kube-system")
    listed = json.loads(control_plane.ssh(f"{ADMIN} get --raw /api/v1/configmaps", timeout=180))
    return {"data": configmap["data"], "uid": configmap["metadata"]["uid"], "cluster": system["metadata"]["uid"],
            "resourceVersion": int(listed["metadata"]["resourceVersion"]),
            "ca": control_plane.ssh("sha256sum < /etc/kubernetes/pki/ca.crt").split()[0]}


def note_node(control_plane: Node, name: str) -> dict[str, Any]:
    found = kubectl(control_plane, f"get node {name}")
    return {"uid": found["metadata"]["uid"], "ready": ready(found), "kubelet": found["status"]["nodeInfo"],
            "cordoned": found["spec"].get("unschedulable", False)}


def ready(node: dict[str, Any]) -> bool:
    return any(c["type"] == "Ready" and c["status"] == "True" for c in node["status"].get("conditions", ()))


def wait_ready(control_plane: Node, name: str) -> None:
    def seen(node: Node) -> bool:
        found = kubectl(node, f"get node {name}")
        return ready(found) and not found["spec"].get("unschedulable", False)

    control_plane.wait_until(seen, f"{name} Ready and schedulable", timeout=READY, every=5.0)


def flashed(lab: Lab, name: str, kubernetes: dict[str, str]) -> Node:
    disk = lab.flash(name, size=DISK_SIZE, more={"node": {"hostname": f'"{name}"'}, "disk": DISK,
                                                 "kubernetes": {**NETWORKS, **kubernetes}})
    return lab.node(name, disk, memory=3072, cpus=2)


def enter(node: Node, agent: Agent) -> None:
    agent.wait_idle("join", timeout=ENTER)


def tell(lab: Lab) -> Seen:
    seen = Seen()
    clock = Clock(seen)
    control_plane = flashed(lab, "cp-1", {"initialise": "true"}).start()
    agent = lab.agent(control_plane)
    agent.wait_idle("first-boot", timeout=FIRST_BOOT)
    clock.lap("control plane: first boot")
    enter(control_plane, agent)
    wait_ready(control_plane, "cp-1")
    clock.lap("control plane: init to Ready")
    control_plane.ssh(f"{ADMIN} create configmap story --from-literal=told=once", timeout=120)
    worker = add_worker(lab, seen, control_plane, clock)
    seen.cluster["before"] = note_cluster(control_plane)
    for name in ("cp-1", "worker-1"):
        seen.node[f"{name} before"] = note_node(control_plane, name)
    reinstall(lab, worker)
    wait_ready(control_plane, "worker-1")
    clock.lap("worker: reinstall to Ready")
    seen.node["worker-1 after"] = note_node(control_plane, "worker-1")
    reinstall(lab, control_plane)
    wait_ready(control_plane, "cp-1")
    clock.lap("control plane: reinstall to Ready")
    seen.node["cp-1 after"] = note_node(control_plane, "cp-1")
    wait_ready(control_plane, "worker-1")
    seen.cluster["after"] = note_cluster(control_plane)
    seen.nodes = control_plane.ssh(f"{ADMIN} get nodes -o wide", timeout=120)
    seen.statuses = {node.name: lab.agent(node).status() for node in (control_plane, worker)}
    return seen


def add_worker(lab: Lab, seen: Seen, control_plane: Node, clock: Clock) -> Node:
    """With what `kubeadm token create` prints, in the k8r.toml of a flashed disk."""
    words = control_plane.ssh("kubeadm token create --ttl 1h --print-join-command", timeout=120).split()
    secret = {"endpoint": f'"{words[2]}"', "join_token": f'"{words[words.index("--token") + 1]}"',
              "ca_cert_hashes": f'["{words[words.index("--discovery-token-ca-cert-hash") + 1]}"]'}
    worker = flashed(lab, "worker-1", secret).start()
    agent = lab.agent(worker)
    agent.wait_idle("first-boot", timeout=FIRST_BOOT)
    clock.lap("worker: first boot")
    enter(worker, agent)
    wait_ready(control_plane, "worker-1")
    clock.lap("worker: join to Ready")
    seen.k8r_toml = worker.ssh("cat /boot/firmware/k8r.toml")
    return worker


def reinstall(lab: Lab, node: Node) -> None:
    """Asked for at the prompt; the node takes itself down and comes back."""
    done = node.try_ssh("k8r-agent reinstall --yes", timeout=REINSTALL)
    if done.code not in (0, 255):  # 255: the node rebooted under the connection
        raise CommandError(f"{node.name}: reinstall: {done.out[-2000:]}{done.err[-2000:]}")
    lab.agent(node).wait_idle("reinstall", timeout=REINSTALL)
