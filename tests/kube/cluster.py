"""The story: a control plane initialises, a worker joins, objects are made, both are reinstalled and upgraded.

Power is cut twice, each time in the middle of a reinstall: while the control plane's new system is written, and while
the worker's new system comes back into the cluster.

What happens to the nodes must come to its end, or the story breaks off. What is only looked at on the way is left out
when it cannot be seen, and the tests that want it fail.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from tests.kube.figures import Figures
from tests.lab.agent import Agent
from tests.lab.members import ADMIN, ENTER, FIRST, FIRST_BOOT, REINSTALL, UPDATE, flashed
from tests.lab.node import CommandError, Done, Node
from tests.lab.site import Lab

CONTROL_PLANE, WORKER = "cp-1", "worker-1"
CONFIG = "/boot/firmware/k8r.toml"
# Something to keep, and something to drain: one pod of a controller that rather runs on the worker, but anywhere else
# when that takes none.
OBJECTS = f"""\
apiVersion: v1
kind: ConfigMap
metadata: {{name: story}}
data: {{told: once}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: told}}
spec:
  selector: {{matchLabels: {{app: told}}}}
  template:
    metadata: {{labels: {{app: told}}}}
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{{name: pause, image: "k8s.gcr.io/pause:3.2", imagePullPolicy: Never}}]
      affinity:
        nodeAffinity:
          preferredDuringSchedulingIgnoredDuringExecution:
          - weight: 100
            preference:
              matchExpressions: [{{key: kubernetes.io/hostname, operator: In, values: [{WORKER}]}}]
"""
READY, ASK = 1200.0, 300.0  # seconds until a Node says that it is Ready; for one command, kubectl's too
# The step whose beginning is waited for without haste, before the one that is to be met in its middle.
BEFORE = {"write-working": "drain", "rejoin": "write-working"}
Answer = TypeVar("Answer")


@dataclass
class Seen:
    """What the story left to look at. `cluster`, `node`, `pod`: at which point → what. Else by node."""

    cluster: dict[str, dict[str, Any]] = field(default_factory=dict)
    node: dict[str, dict[str, Any]] = field(default_factory=dict)
    pod: dict[str, str] = field(default_factory=dict)  # on which node it is
    statuses: dict[str, dict[str, Any]] = field(default_factory=dict)
    proof: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    snapshots: list[dict[str, Any]] = field(default_factory=list)
    figures: Figures = field(default_factory=Figures)
    refused: Done | None = None  # the worker's update before its control plane's
    k8r_toml: str = ""
    nodes: str = ""
    broke_off: str = ""  # why, when the story did not come to its end


def say(text: str) -> None:
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {text}\n")
    sys.stderr.flush()


def again(ask: Callable[[], Answer], tries: int = 4) -> Answer:
    """What may be asked more than once: a busy node or its API server may be late."""
    try:
        return ask()
    except (CommandError, LookupError, ValueError) as error:
        if tries == 1:
            raise
        say(f"  once more, after: {str(error).strip()[-300:]}")
        time.sleep(15)
    return again(ask, tries - 1)


@contextmanager
def looking(what: str) -> Iterator[None]:
    """The story goes on without what cannot be seen."""
    try:
        yield
    except Exception as error:
        say(f"NOT SEEN: {what}: {type(error).__name__}: {error}")


def kubectl(node: Node, command: str) -> dict[str, Any]:
    """Asked on a control-plane node, as its administrator."""
    return dict(json.loads(node.ssh(f"{ADMIN} {command}", timeout=ASK)))


def note_cluster(control_plane: Node) -> dict[str, Any]:
    """What must be the same cluster afterwards."""
    configmap = kubectl(control_plane, "get configmap story -o json")
    system = kubectl(control_plane, "get namespace kube-system -o json")
    listed = kubectl(control_plane, "get --raw /api/v1/configmaps")
    return {"data": configmap["data"], "uid": configmap["metadata"]["uid"], "cluster": system["metadata"]["uid"],
            "resourceVersion": int(listed["metadata"]["resourceVersion"]),
            "version": kubectl(control_plane, "get --raw /version")["gitVersion"],
            "ca": control_plane.ssh("sha256sum < /etc/kubernetes/pki/ca.crt").split()[0]}


def note_node(control_plane: Node, name: str) -> dict[str, Any]:
    found = kubectl(control_plane, f"get node {name} -o json")
    return {"uid": found["metadata"]["uid"], "ready": ready(found), "kubelet": found["status"]["nodeInfo"],
            "cordoned": found["spec"].get("unschedulable", False)}


def ready(node: dict[str, Any]) -> bool:
    return any(c["type"] == "Ready" and c["status"] == "True" for c in node["status"].get("conditions", ()))


def wait_ready(control_plane: Node, node: Node) -> None:
    """Until the kubelet of the node's present boot says so, and pods are taken."""
    boot = node.wait_ssh()

    def seen(_: Node) -> bool:
        found = kubectl(control_plane, f"get node {node.name} -o json")
        return (ready(found) and found["status"]["nodeInfo"]["bootID"] == boot
                and not found["spec"].get("unschedulable", False))

    control_plane.wait_until(seen, f"{node.name} Ready and schedulable", timeout=READY, every=5.0)


def where(control_plane: Node) -> str:
    """The node that the Deployment's pod is bound to. Raises LookupError while there is no such pod, or more than
    one."""
    pods = kubectl(control_plane, "get pods -l app=told -o json")["items"]
    found = [pod["spec"].get("nodeName") for pod in pods if "deletionTimestamp" not in pod["metadata"]]
    if len(found) != 1 or not found[0]:
        raise LookupError(f"pods of the Deployment are on {found}")
    return str(found[0])


class Story:
    def __init__(self, lab: Lab) -> None:
        self.lab, self.seen = lab, Seen()
        self.worker, self.control_plane = flashed(lab, WORKER, {}), flashed(lab, CONTROL_PLANE, FIRST)
        self.agents = {node.name: Agent(node, tell=say) for node in (self.worker, self.control_plane)}

    def tell(self) -> None:
        self._initialise()
        self._join()
        self._make_objects()
        self._note("before")
        self._reinstall(self.worker, "reinstall")
        self._reinstall(self.control_plane, "reinstall")
        self._note("reinstalled")
        self._refused()
        for node, step in ((self.control_plane, "write-working"), (self.worker, "rejoin")):
            self._update(node)
            self._reinstall(node, "upgrade", cut=step)
        self._note("upgraded")
        self._look_around()

    # what happens

    def _initialise(self) -> None:
        """The control plane goes on with kubeadm as soon as it can, so its first boot is not seen to be over. One node
        after the other: two emulated ones on two processors keep each other from both."""
        say(f"{CONTROL_PLANE} is switched on")
        started = time.monotonic()
        self.control_plane.start()
        self.agents[CONTROL_PLANE].wait_idle("join", timeout=FIRST_BOOT + ENTER)
        say(f"{CONTROL_PLANE}: kubeadm init is done")
        self._wait_ready(self.control_plane, "power on → Ready", started)
        say(f"{WORKER} is switched on")
        self.worker.start()
        self.agents[WORKER].wait_idle("first-boot", timeout=FIRST_BOOT)
        say(f"{WORKER}: first boot is done")

    def _join(self) -> None:
        """With what `kubeadm token create` prints, written into k8r.toml on the boot partition."""
        node, command = self.worker, "kubeadm token create --ttl 2h --print-join-command"
        words = again(lambda: self.control_plane.ssh(command, timeout=ASK)).split()
        told = (f'[kubernetes]\\nendpoint = "{words[2]}"\\njoin_token = "{words[words.index("--token") + 1]}"\\n'
                f'ca_cert_hashes = ["{words[words.index("--discovery-token-ca-cert-hash") + 1]}"]\\n')
        say(f"{WORKER}: told to join {words[2]}")
        node.ssh(f"mount -o remount,rw /boot/firmware && sed -i 's/^.kubernetes.$/{told}/' {CONFIG} && sync && "
                 "mount -o remount,ro /boot/firmware", timeout=ASK)
        started = time.monotonic()
        node.ssh("k8r-agent join --no-wait", ok=(0, 75), timeout=ASK)  # 75: the node's timer was faster
        self.agents[WORKER].wait_idle("join", timeout=ENTER)
        self._wait_ready(node, "join → Ready", started)

    def _make_objects(self) -> None:
        node = self.control_plane
        with looking("k8r.toml"):
            self.seen.k8r_toml = again(lambda: self.worker.ssh(f"cat {CONFIG}"))
        with looking("objects"):
            again(lambda: node.ssh(f"{ADMIN} apply --validate=false -f -", stdin=OBJECTS.encode(), timeout=ASK))
            node.ssh(f"{ADMIN} rollout status deployment/told --timeout=600s", timeout=660)

    def _update(self, node: Node) -> None:
        say(f"{node.name}: update to release 2")
        agent, started = self.agents[node.name], time.monotonic()
        agent.wait_end(agent.submit(f"update --yes {self.lab.url(2)}"), timeout=UPDATE)
        self._took(node, "update", started)

    def _reinstall(self, node: Node, what: str, *, cut: str = "") -> None:
        """The node takes itself down and comes back."""
        agent = self.agents[node.name]
        if node.name not in self.seen.proof:
            with looking(f"{node.name}: proof"):
                told = again(lambda: agent.json("k8r-agent reinstall --dry-run --json", timeout=ASK))
                self.seen.proof[node.name] = told["proof"]
        say(f"{node.name}: {what}")
        started = time.monotonic()
        txn = agent.submit("reinstall --yes")
        if cut:
            cut_in(node, agent, txn, cut)
        self.seen.figures.steps[f"{node.name}: {what}"] = agent.wait_end(txn, timeout=REINSTALL)
        if cut:
            self.seen.figures.bare[node.name] = login_after(node)
        self._wait_ready(node, f"{what} → Ready{', power cut' if cut else ''}", started)
        with looking("the pod"):
            self.seen.pod[f"{node.name}: {what}"] = again(lambda: where(self.control_plane), tries=12)

    # what is looked at

    def _refused(self) -> None:
        """A kubelet is never newer than its API server, so this ends before a byte is written."""
        say(f"{WORKER}: update to release 2, too early")
        self.seen.refused = self.worker.try_ssh(f"k8r-agent update --yes {self.lab.url(2)}", timeout=ASK)

    def _note(self, point: str) -> None:
        say(f"looking: {point}")
        with looking(f"the cluster {point}"):
            self.seen.cluster[point] = again(lambda: note_cluster(self.control_plane))
            self.seen.pod[point] = again(lambda: where(self.control_plane))
        for name in self.agents:
            with looking(f"{name} {point}"):
                self.seen.node[f"{name} {point}"] = again(partial(note_node, self.control_plane, name))

    def _look_around(self) -> None:
        with looking("snapshots"):
            kept = again(lambda: self.control_plane.ssh("cat /var/lib/k8r/cluster/snapshots/*.json"))
            self.seen.snapshots = documents(kept)
        with looking("nodes"):
            self.seen.nodes = again(lambda: self.control_plane.ssh(f"{ADMIN} get nodes -o wide", timeout=ASK))
        for name, agent in self.agents.items():
            with looking(name):
                self.seen.statuses[name] = again(agent.status)

    def _wait_ready(self, node: Node, what: str, started: float) -> None:
        with looking(f"{node.name}: {what}"):
            wait_ready(self.control_plane, node)
            self._took(node, what, started)

    def _took(self, node: Node, what: str, started: float) -> None:
        self.seen.figures.took[f"{node.name}: {what}"] = seconds = time.monotonic() - started
        say(f"{node.name}: {what}: {seconds:.0f} s")


def cut_in(node: Node, agent: Agent, txn: str, step: str) -> None:
    """Soon after that step of the transaction was begun: to see it took seconds already."""
    agent.wait_begun(BEFORE[step], txn, timeout=REINSTALL, every=5.0, rest=2.0)
    agent.wait_begun(step, txn, timeout=REINSTALL, every=1.0, rest=0.5)
    time.sleep(1)
    node.cut()
    say(f"{node.name}: power cut in {step}")
    node.start()


def login_after(node: Node) -> float:
    """Seconds from power on until somebody could log in; 0 when the console did not show it."""
    return next((when for when, name in node.serial.milestones if name == "ssh"), 0.0)


def documents(text: str) -> list[dict[str, Any]]:
    """Of JSON files that follow each other."""
    found, decoder, at = [], json.JSONDecoder(), 0
    while text[at:].strip():
        at += len(text[at:]) - len(text[at:].lstrip())
        one, at = decoder.raw_decode(text, at)
        found.append(one)
    return found
