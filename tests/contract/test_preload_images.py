"""preload-images: container images reach containerd whole, whatever interrupts it.

The containerd here is a stand-in, two small programs over a file. It does what containerd 1.6.20 was seen to do: the
CRI adds a name by digest, and what any name or the lease of an import that died still refers to is not unpacked again.
An image's name and blobs are durable at once, its unpacked files only after a sync.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / "etc/libexec/preload-images"
NAMES = ("a.tar k8s/api:1", "a.tar k8s/api:one", "b.tar k8s/etcd:3")
PROGRAM = """#!{python} -IS
import json, os, signal, sys
from pathlib import Path
place = Path(os.environ["STAND_IN"])
state = json.loads((place / "state").read_text())

def cut():
    # What was not synced is lost: unpacked files, and a mark whose directory was not.
    state["unpacked"] = {{name: state["durable"].get(name, False) for name in state["unpacked"]}}
    mark = place / "data/k8r-importing"
    if state["mark"] is None:
        mark.unlink(missing_ok=True)
    else:
        mark.write_text(state["mark"])
    state["cut"], state["cut_in"] = 0, ""
    save()
    os.killpg(0, signal.SIGKILL)

def save():
    (place / "state").write_text(json.dumps(state))

def collect():
    used = set(state["images"].values()) | set(state["leases"].values())
    state["unpacked"] = {{name: well for name, well in state["unpacked"].items() if name in used}}

def effect():
    # The n-th effect of a run is followed by the cut.
    state["effects"] += 1
    save()
    if state["effects"] == state["cut"]:
        cut()

{body}
save()
"""
CTR = """
words = sys.argv[3:]
assert sys.argv[1:3] == ["--namespace", "k8s.io"], sys.argv
images, unpacked, leases = state["images"], state["unpacked"], state["leases"]
if words == ["images", "list", "-q"]:
    print("\\n".join(images))
elif words[:3] == ["images", "list", "-q"]:
    key, _, value = words[3].partition("==")
    print("\\n".join(n for n, d in images.items() if (n if key == "name" else d) == value))
elif words[:2] == ["images", "list"]:
    print("REF TYPE DIGEST SIZE PLATFORMS LABELS")
    for name, digest in images.items():
        if words[2] == "name==" + name:
            print(name, "a/type", digest, "10.6 KiB", "linux/amd64", "io.cri-containerd.image=managed")
elif words[:3] == ["images", "rm", "--sync"]:
    for name in words[3:]:
        images.pop(name)
    collect()
    effect()
elif words == ["leases", "list", "-q"]:
    print("\\n".join(leases))
elif words[:3] == ["leases", "delete", "--sync"]:
    leases.pop(words[3])
    collect()
    effect()
elif words[:2] == ["images", "import"]:
    archive = Path(words[2])
    digest = "sha256:" + archive.read_text()
    state["imported"].append(archive.name)
    leases["import-of-" + archive.name] = digest
    unpacked.setdefault(digest, True)
    effect()
    if archive.name == state["cut_in"]:
        cut()
    for line in (archive.parent / "names").read_text().splitlines():
        if line.split()[0] == archive.name:
            images[line.split()[1]] = digest
            effect()
    images["sha256:config-of-" + archive.name] = digest
    del leases["import-of-" + archive.name]
    effect()
else:
    raise SystemExit(f"this containerd knows no {words}")
"""
SYNC = """
data = str(place / "data")
if sys.argv[1:] == ["-f", data]:
    state["durable"] = dict(state["unpacked"])
elif sys.argv[1:] == [data]:
    state["mark"] = Path(data, "k8r-importing").read_text()
else:
    assert sys.argv[1:] == [data + "/k8r-importing.new"], sys.argv
effect()
"""


class Node:
    def __init__(self, path: Path) -> None:
        self.path = path
        for name in ("bin", "data", "images"):
            (path / name).mkdir()
        for name, body in (("ctr", CTR), ("sync", SYNC)):
            (path / "bin" / name).write_text(PROGRAM.format(python=sys.executable, body=body))
            (path / "bin" / name).chmod(0o755)
        for line in NAMES:
            (path / "images" / line.split()[0]).write_text(f"digest-of-{line.split()[0]}")
        (path / "images/names").write_text("".join(f"{line}\n" for line in NAMES))
        self._save(images={}, unpacked={}, durable={}, leases={}, mark=None, imported=[])

    def _save(self, **values: Any) -> None:
        (self.path / "state").write_text(json.dumps(values))

    @property
    def state(self) -> dict[str, Any]:
        return dict(json.loads((self.path / "state").read_text()))

    def change(self, **values: Any) -> None:
        self._save(**{**self.state, **values})

    def run(self, *, cut: int = 0, cut_in: str = "") -> int:
        """The exit code; `cut`: the effect after which the power fails, `cut_in`: the file in whose import it does. A
        boot later nothing remembers it."""
        self.change(cut=cut, cut_in=cut_in, effects=0, imported=[])
        done = subprocess.run(["sh", str(SCRIPT), str(self.path / "images")], start_new_session=True, timeout=60,
                              capture_output=True, text=True, check=False,
                              env={"PATH": f"{self.path / 'bin'}:{os.environ['PATH']}", "STAND_IN": str(self.path),
                                   "K8R_CONTAINERD": str(self.path / "data")})
        return done.returncode

    def assert_whole(self) -> None:
        found = self.state
        for line in NAMES:
            file, name = line.split()
            assert found["images"].get(name) == f"sha256:digest-of-{file}", name
            assert found["unpacked"][f"sha256:digest-of-{file}"], f"{name} is empty"
            assert found["durable"][f"sha256:digest-of-{file}"], f"{name} may be lost"
        assert not found["leases"] and not self.marked

    @property
    def marked(self) -> bool:
        return (self.path / "data/k8r-importing").exists()


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def test_images_are_imported_once(node: Node) -> None:
    assert node.run() == 0
    node.assert_whole()
    assert node.run() == 0 and node.state["effects"] == 0
    node.assert_whole()


def test_after_a_power_cut_anywhere_no_name_stands_for_empty_programs(tmp_path: Path) -> None:
    for point in range(1, 50):
        path = tmp_path / str(point)
        path.mkdir()
        node = Node(path)
        if node.run(cut=point) == 0:
            break
        if point % 3 == 0:
            node.run(cut=3)
        assert node.run() == 0, f"cut after {point}"
        node.assert_whole()
    assert point > 9, "there are more effects than that"


def test_what_is_whole_is_not_imported_again(node: Node) -> None:
    """A medium so slow that a boot's deadline comes in the middle of the second file."""
    assert node.run(cut_in="b.tar") != 0 and node.state["imported"] == ["a.tar", "b.tar"]
    assert node.run() == 0 and node.state["imported"] == ["b.tar"]
    node.assert_whole()


def test_images_of_another_directory_that_a_power_cut_spoilt_go_too(node: Node) -> None:
    """An upgrade imports from the image slot; the next boot from its own."""
    node.run(cut=7)
    assert node.marked and node.state["images"]
    node.path.joinpath("images/names").write_text("")
    assert node.run() == 0 and not node.marked
    assert node.state["images"] == {} and node.state["unpacked"] == {}


def test_one_that_cannot_be_imported_does_not_keep_the_others_away(node: Node) -> None:
    data = (node.path / "images/a.tar").read_text()
    (node.path / "images/a.tar").unlink()
    assert node.run() == 1 and "k8s/etcd:3" in node.state["images"]
    (node.path / "images/a.tar").write_text(data)
    assert node.run() == 0
    node.assert_whole()


def test_a_containerd_that_does_not_answer_is_no_empty_one(node: Node) -> None:
    node.run(cut=5)
    assert node.marked
    (node.path / "bin/ctr").write_text("#!/bin/sh\nexit 1\n")
    assert node.run() == 1 and node.marked
