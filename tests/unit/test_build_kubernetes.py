"""Kubernetes in an image: what is asked for, what the tree gets, what travels with it."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from k8r_agent.build import base, inputs, kubernetes, preload
from k8r_agent.build.kubernetes import Packages, configure, options
from k8r_agent.build.options import BundleOptions, GoldenOptions, KubernetesOptions
from k8r_agent.cluster import cni
from k8r_agent.config.settings import KubernetesSettings
from k8r_agent.errors import BuildError, CommandFailed, UsageError
from k8r_agent.ports.commands import Result

KEY = "-----BEGIN PGP PUBLIC KEY BLOCK-----\nVersion: 1\n\nabc\n-----END PGP PUBLIC KEY BLOCK-----\n"
ASKED = ("registry.example/kube-apiserver:v1.31.4", "registry.example/pause:3.10")


class Programs:
    """dpkg-deb for files that hold their own fields; kubeadm in a tree, and apt-config, with fixed answers."""

    def __init__(self, asked: Sequence[str] = ASKED) -> None:
        self.asked = asked

    def run(self, argv: Sequence[str], *, ok: Sequence[int] = (0,), timeout: float = 60.0, stdin: bytes = b"",
            log: Path | None = None, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> Result:
        if "kubeadm" in argv:
            return Result(0, "".join(f"{name}\n" for name in self.asked), "")
        if argv[:2] == ["dpkg-deb", "--field"]:
            text = Path(argv[2]).read_text()
            if not text.startswith("Package:"):
                raise CommandFailed("dpkg-deb failed", why="not a Debian format archive")
            return Result(0, text, "")
        assert argv[0] == "apt-config", argv
        return Result(0, "", "")


@pytest.fixture
def debs(tmp_path: Path) -> Path:
    place = tmp_path / "debs"
    place.mkdir()
    for name in kubernetes.TOOLS:
        for version in ("1.31.4-1.1", "1.31.4-1.10", "1.31.40-1.1", "1.30.9-1.1"):
            (place / f"{name}_{version}_amd64.deb").write_text(f"Package: {name}\nVersion: {version}\n")
    return place


def wanted(packages: str, **changes: object) -> KubernetesOptions:
    return KubernetesOptions(**{"version": "1.31.4", "packages": packages, **changes})  # type: ignore[arg-type]


def test_no_version_no_kubernetes() -> None:
    assert options(version="", packages="", key=None, preload=None) is None


@pytest.mark.parametrize(("version", "packages", "key", "preload", "says"), [
    ("", "x", None, None, "--kubernetes-packages without --kubernetes"),
    ("", "", Path("k"), None, "--kubernetes-key without --kubernetes"),
    ("", "", None, Path("d"), "--preload without --kubernetes"),
    ("1.31", "x", None, None, "1.31 is not a version"),
    ("v1.31.4", "x", None, None, "v1.31.4 is not a version"),
    ("1.31.4", "", None, None, "without --kubernetes-packages"),
    ("1.31.4", "https://m.invalid/deb/", None, None, "without --kubernetes-key"),
    ("1.31.4", "/no/such", None, None, "neither a URL nor a directory"),
])
def test_what_does_not_go_together_is_refused(version: str, packages: str, key: Path | None, preload: Path | None,
                                              says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        options(version=version, packages=packages, key=key, preload=preload)
    assert caught.value.hint or caught.value.why or version


def test_a_directory_gives_exactly_that_version_in_its_newest_revision(debs: Path, tmp_path: Path) -> None:
    packages = Packages(wanted(str(debs)), tmp_path / "cache", Programs())
    assert {"kubeadm=1.31.4-1.10", "kubelet=1.31.4-1.10", "kubectl=1.31.4-1.10", "containerd"} <= set(packages.names())
    assert "Trusted: yes" in packages.source() and not (tmp_path / "cache").exists(), "nothing is written yet"


def test_a_directory_without_that_version_says_which_it_has(debs: Path, tmp_path: Path) -> None:
    (debs / "kubelet_1.31.4-1.1_amd64.deb").unlink()
    (debs / "kubelet_1.31.4-1.10_amd64.deb").unlink()
    with pytest.raises(UsageError, match=r"no kubelet 1\.31\.4 in") as caught:
        Packages(wanted(str(debs)), tmp_path, Programs()).names()
    assert "1.31.40-1.1" in caught.value.why


def test_a_directory_of_something_else(debs: Path, tmp_path: Path) -> None:
    (debs / "a.deb").write_text("<html>")
    with pytest.raises(UsageError, match=r"a\.deb is not a Debian package"):
        Packages(wanted(str(debs)), tmp_path, Programs())
    with pytest.raises(UsageError, match=r"no \.deb packages"):
        Packages(wanted(str(tmp_path)), tmp_path, Programs())


def test_a_repository_is_trusted_for_its_key(tmp_path: Path) -> None:
    key = tmp_path / "Release.key"
    key.write_text(KEY)
    packages = Packages(wanted("https://m.invalid/deb/", key=key), tmp_path, Programs())
    assert packages.source() == ("Types: deb\nURIs: https://m.invalid/deb/\nSuites: /\nSigned-By:\n"
                                 " -----BEGIN PGP PUBLIC KEY BLOCK-----\n Version: 1\n .\n abc\n"
                                 " -----END PGP PUBLIC KEY BLOCK-----\n")
    assert "kubeadm=1.31.4-*" in packages.names()
    key.write_bytes(b"\x99\x01\r")
    with pytest.raises(UsageError, match="no OpenPGP key in ASCII armour"):
        packages.source()


def test_the_base_system_is_another_one_for_other_packages(debs: Path, tmp_path: Path) -> None:
    def key(version: str = "1.31.4") -> str:
        golden = GoldenOptions(release=1, version="1", mirror="http://m.invalid/")
        packages = Packages(wanted(str(debs), version=version), tmp_path / "cache", Programs())
        return base.plan_base(golden, Programs(), packages).key()

    first = key()
    assert key() == first != key("1.30.9")
    (debs / "kubernetes-cni_1_amd64.deb").write_text("Package: kubernetes-cni\nVersion: 1\n")
    assert key() != first


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    (root / "var/lib/dpkg").mkdir(parents=True)
    (root / "var/lib/dpkg/status").write_text("".join(
        f"Package: {name}\nStatus: install ok installed\nVersion: 1.31.4-1.1\nDescription: x\n\n"
        for name in kubernetes.TOOLS))
    return root


def test_the_runtime_asks_for_the_pause_image_that_kubeadm_names(root: Path) -> None:
    assert configure(root, wanted("d"), commands=Programs()) == ASKED
    config = (root / "etc/containerd/config.toml").read_text()
    assert 'sandbox_image = "registry.example/pause:3.10"' in config and "SystemdCgroup = true" in config
    links = root / "etc/systemd/system"
    assert (links / "multi-user.target.wants/kubelet.service").is_symlink()
    assert (links / "swap.target").readlink() == Path("/dev/null")
    assert "br_netfilter" in (root / "usr/lib/modules-load.d/k8r-kubernetes.conf").read_text()


def test_another_version_in_the_tree_than_promised_is_an_error(root: Path) -> None:
    with pytest.raises(BuildError, match=r"holds kubeadm 1\.31\.4-1\.1, not 1\.31\.3"):
        configure(root, wanted("d", version="1.31.3"), commands=Programs())
    with pytest.raises(BuildError, match="names no pause image"):
        configure(root, wanted("d"), commands=Programs(asked=()))


def archive(path: Path, files: Mapping[str, object]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            data = json.dumps(content).encode()
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def test_names_of_preloaded_images_are_read_from_both_layouts(tmp_path: Path, root: Path) -> None:
    archive(tmp_path / "a.tar", {"manifest.json": [{"RepoTags": ["r/a:1", "r/a:2"]}, {"RepoTags": ["r/b:1"]}]})
    archive(tmp_path / "b.tar", {"index.json": {"manifests": [
        {"annotations": {"io.containerd.image.name": "r/c:1", "org.opencontainers.image.ref.name": "1"}}]}})
    found = preload.read(tmp_path)
    assert found == {"a.tar": ("r/a:1", "r/a:2", "r/b:1"), "b.tar": ("r/c:1",)}
    preload.put_into(root, tmp_path, found)
    place = root / "usr/share/k8r/images"
    assert (place / "names").read_text() == "a.tar r/a:1\na.tar r/a:2\na.tar r/b:1\nb.tar r/c:1\n"
    assert (place / "b.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()
    assert kubernetes.missing(("r/c:1", "r/d:1"), ("r/c:1",)) == ("r/d:1",)


@pytest.mark.parametrize("files", [{}, {"manifest.json": [{"RepoTags": None}]}, {"manifest.json": "x"},
                                   {"index.json": {"manifests": []}}, {"manifest.json": [{"RepoTags": ["a b"]}]}])
def test_an_archive_without_names_is_refused(tmp_path: Path, files: Mapping[str, object]) -> None:
    with pytest.raises(UsageError, match=r"x\.tar"):
        preload.names_in(archive(tmp_path / "x.tar", files))


def test_what_is_no_archive_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"holds no \.tar"):
        preload.read(tmp_path)
    (tmp_path / "x.tar").write_bytes(b"<html>")
    with pytest.raises(UsageError, match="no archive of container images"):
        preload.read(tmp_path)
    (tmp_path / "x.tar").rename(tmp_path / "x y.tar")
    with pytest.raises(UsageError, match="blank"):
        preload.read(tmp_path)


def test_manifests_of_pod_networks_go_where_a_node_looks(root: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "calico-3.25.1.yaml"
    manifest.write_text("kind: Namespace\n")
    asked = options(version="1.31.4", packages=str(tmp_path), key=None, preload=None, cni=(manifest,))
    assert asked is not None
    configure(root, asked, commands=Programs())
    found = cni.manifest(KubernetesSettings(cni_version="3.25.1"))
    assert found is not None and (root / found.source.lstrip("/")).read_text() == "kind: Namespace\n"
    golden = GoldenOptions(release=1, version="1", kubernetes=asked)
    packing = BundleOptions(release=1, version="1", created=1)
    first = inputs.key(golden, packing, size=0, base="b", signing_key="")
    manifest.write_text("kind: Pod\n")
    assert inputs.key(golden, packing, size=0, base="b", signing_key="") != first


def test_a_manifest_that_no_node_would_look_for_is_refused(tmp_path: Path) -> None:
    for name in ("kube-flannel.yml", "cilium.yaml", "calico-v3.yaml"):
        with pytest.raises(UsageError, match="would not look for"):
            options(version="1.31.4", packages=str(tmp_path), key=None, preload=None, cni=(tmp_path / name,))
    with pytest.raises(UsageError, match="--cni without --kubernetes"):
        options(version="", packages="", key=None, preload=None, cni=(tmp_path / "calico.yaml",))


def test_other_preloaded_images_make_another_image(tmp_path: Path) -> None:
    def key() -> str:
        golden = GoldenOptions(release=1, version="1", kubernetes=wanted("d", preload=tmp_path))
        return inputs.key(golden, BundleOptions(release=1, version="1", created=1), size=0, base="b", signing_key="")

    (tmp_path / "x.tar").write_bytes(b"1")
    first = key()
    (tmp_path / "x.tar").write_bytes(b"2")
    assert key() != first
