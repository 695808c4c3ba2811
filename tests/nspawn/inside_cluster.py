"""Runs inside of the container: the port Cluster under exactly the runner's restrictions, with stand-ins for kubeadm
and the kubelet. What it saw goes to out.json."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any

HERE = Path("/k8r-test")
UNIT = "k8r-test-inner"


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=90)
    return (done.stdout + done.stderr).strip()


def state(unit: str) -> str:
    return run("systemctl", "is-active", unit)


def wait(unit: str, wanted: str, seconds: float = 20) -> bool:
    end = time.monotonic() + seconds
    while state(unit) != wanted and time.monotonic() < end:
        time.sleep(0.2)
    return state(unit) == wanted


def sandboxed(what: str, *, block: bool = True) -> str:
    text = Path("/usr/lib/systemd/system/k8r-runner.service").read_text()
    lines = [line for line in text.splitlines() if not line.startswith(("Watchdog", "Restart", "NotifyAccess"))]
    text = "\n".join(lines).replace("Type=notify", "Type=oneshot")
    start = f"ExecStart=/usr/bin/python3 /k8r-test/inside.py {what}"
    text = text.replace("ExecStart=/usr/bin/k8r-agent runner", start)
    Path(f"/run/systemd/system/{UNIT}.service").write_text(text)
    run("systemctl", "daemon-reload")
    return run("systemctl", "start", *([] if block else ["--no-block"]), f"{UNIT}.service")


def outside() -> dict[str, Any]:
    """The look: first everything in turn, then an agent that is killed while kubeadm runs."""
    seen: dict[str, Any] = {"start": sandboxed("inner")}
    seen.update(json.loads((HERE / "inner.json").read_text()))
    seen["mounted"] = run("findmnt", "-no", "SOURCE", "/var/lib/etcd")
    seen["kubelet after"] = state("kubelet.service")
    seen["condition"] = run("sh", "-c", "rm -f /run/k8r/entering; systemctl restart kubelet; sleep 1; "
                                        "systemctl is-active kubelet; journalctl -u kubelet -o cat | tail -n 8")
    Path("/etc/kubernetes/standin-done").unlink()
    sandboxed("killed", block=False)
    seen["began"] = wait("k8r-kubeadm.service", "active")
    run("systemctl", "kill", "--signal=KILL", f"{UNIT}.service")
    wait(f"{UNIT}.service", "failed")
    seen["goes on"] = state("k8r-kubeadm.service")
    sandboxed("again")
    seen["waited"] = json.loads((HERE / "inner.json").read_text())
    seen["join"] = [run("systemctl", "start", "k8r-join.service"),
                    run("systemctl", "show", "-P", "ExecMainStatus", "k8r-join.service"),
                    run("systemctl", "show", "-P", "ConditionResult", "k8r-join.service")]
    return seen


def inner() -> dict[str, Any]:
    from k8r_agent.effects.commands import commands
    from k8r_agent.effects.kube import NodeCluster
    from k8r_agent.errors import K8rError

    cluster, seen = NodeCluster(commands()), dict[str, Any]()
    seen["tools"] = [cluster.tools().kubeadm, cluster.tools().kubelet, cluster.present()]
    for name in ("etc/kubernetes/kubelet.conf", "var/lib/kubelet/config.yaml", "etc/kubernetes/manifests/etcd.yaml"):
        cluster.place(name, b"x")
    result = cluster.kubeadm(["fail"], config="a secret", timeout=60)
    seen["kubeadm"] = [result.code, result.stdout, result.stderr]
    seen["left"] = sorted(os.listdir("/run/k8r/kubeadm"))
    seen["too long"] = cluster.kubeadm(["slow"], timeout=2).code
    cluster.place("run/k8r/entering", b"")
    cluster.place("var/lib/k8r/cluster/membership.json", b'{"phase": "entering"}')
    start = functools.partial(cluster.start_kubelet, timeout=120.0)
    for what, call in (("before", start), ("etcd", cluster.keep_etcd), ("kubelet", start)):
        try:
            call()
            seen[what] = "well"
        except K8rError as error:
            seen[what] = f"{error}"
    seen["same"] = os.path.samefile("/var/lib/etcd", "/var/lib/k8r/cluster/etcd")
    seen["running"] = cluster.kubelet_running()
    return seen


def killed() -> dict[str, Any]:
    from k8r_agent.effects.commands import commands
    from k8r_agent.effects.kube import NodeCluster

    NodeCluster(commands()).kubeadm(["long"], timeout=60)
    return {"came back": True}


def again() -> dict[str, Any]:
    from k8r_agent.effects.commands import commands
    from k8r_agent.effects.kube import NodeCluster

    NodeCluster(commands()).stop_kubelet()
    return {"done": os.path.exists("/etc/kubernetes/standin-done"), "kubelet": state("kubelet.service")}


def main() -> None:
    what = sys.argv[1] if len(sys.argv) > 1 else "outside"
    try:
        seen = globals()[what]()
    except Exception:
        seen = {"error": traceback.format_exc()}
    name = "out.json" if what == "outside" else "inner.json"
    (HERE / name).write_text(json.dumps(seen, indent=1))


main()
