"""kubeadm's own unit, etcd's bind mount and the kubelet's condition under a real systemd, in the runner's sandbox.

kubeadm and the kubelet are stand-ins; the real ones are met on virtual nodes. Budget: one minute.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.nspawn.container import Container, golden_tree

INSIDE = Path(__file__).with_name("inside_cluster.py")
KUBEADM = """#!/bin/sh
# A stand-in: says what it was given, takes its time, leaves a mark.
[ "$1" = version ] && { echo v1.31.4; exit 0; }
echo "args: $*"; echo "complaint" >&2
for word; do case "$word" in --config=*) f=${word#--config=}; stat -c %a "$f"; cat "$f" ;; esac; done
for i in 1 2 3 4 5; do sleep 1; echo "still here"; done
touch /etc/kubernetes/standin-done
[ "$1" = fail ] && exit 3
exit 0
"""
KUBELET = """#!/usr/bin/python3
# A stand-in: healthy from the start.
import http.server, sys

if "--version" in sys.argv:
    sys.exit(print("Kubernetes v1.31.4"))


class Healthy(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"ok")


http.server.HTTPServer(("127.0.0.1", 10248), Healthy).serve_forever()
"""
UNIT = "[Unit]\nDescription=kubelet stand-in\n[Service]\nExecStart=/usr/bin/kubelet\nRestart=always\nRestartSec=10\n"


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    base = tmp_path_factory.mktemp("cluster")
    binds = []
    for name, text, at in (("kubeadm", KUBEADM, "/usr/bin/kubeadm"), ("kubelet", KUBELET, "/usr/bin/kubelet"),
                           ("kubelet.service", UNIT, "/etc/systemd/system/kubelet.service")):
        (base / name).write_text(text)
        (base / name).chmod(0o755 if at.startswith("/usr") else 0o644)
        binds.append(f"{base / name}:{at}")
    with golden_tree() as tree:
        node = Container(tree=tree, base=base, inside=INSIDE, binds=tuple(binds), arguments=("k8r.slot=working",))
        found = node.boot("outside", timeout=150)
    assert "error" not in found, found["error"]
    yield found


def test_kubeadm_runs_in_a_unit_of_its_own_and_its_configuration_is_for_root_alone(seen: dict[str, Any]) -> None:
    code, said, complaint = seen["kubeadm"]
    assert code == 3 and complaint == "complaint\n"
    assert said.startswith("args: fail --config=/run/k8r/kubeadm/config.yaml\n600\na secret")
    assert seen["left"] == [], "neither the configuration nor what was said, which has tokens, is left"
    assert seen["too long"] != 0 and seen["tools"] == ["1.31.4", "1.31.4", True]


def test_an_agent_that_dies_does_not_take_kubeadm_with_it_and_the_next_one_waits(seen: dict[str, Any]) -> None:
    assert seen["began"] and seen["goes on"] == "active"
    assert seen["waited"] == {"done": True, "kubelet": "inactive"}


def test_etcds_directory_is_that_of_the_state_partition_for_the_whole_system(seen: dict[str, Any]) -> None:
    assert seen["etcd"] == "well" and seen["same"] and seen["mounted"].endswith("/state/cluster/etcd]")


def test_a_node_that_is_not_in_its_cluster_asks_for_the_runner(seen: dict[str, Any]) -> None:
    assert seen["join"] == ["", "0", "yes"]


def test_the_kubelet_starts_only_when_it_may(seen: dict[str, Any]) -> None:
    assert "a condition of its unit says no" in seen["before"]
    assert seen["kubelet"] == "well" and seen["running"] and seen["kubelet after"] == "active"
    assert seen["condition"].startswith("inactive") and "not come back into its cluster" in seen["condition"]

