"""What `k8r-image` writes for apt, understood by the real apt: a directory of packages, a signed repository."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from k8r_agent.build.kubernetes import TOOLS, Packages
from k8r_agent.build.options import KubernetesOptions
from k8r_agent.effects.commands import commands

VERSIONS = ("1.31.4-1.1", "1.31.40-1.1", "1.32.0-1.1")


def deb(place: Path, name: str, version: str, depends: str = "") -> None:
    tree = place / "tree"
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "DEBIAN/control").write_text(
        f"Package: {name}\nVersion: {version}\nArchitecture: all\nMaintainer: n <n@example.org>\n"
        f"{f'Depends: {depends}' + chr(10) if depends else ''}Description: nothing\n")
    subprocess.run(["dpkg-deb", "--build", str(tree), str(place / f"{name}_{version}_all.deb")], check=True,
                   stdout=subprocess.DEVNULL)
    shutil.rmtree(tree)


@pytest.fixture(scope="module")
def debs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("debs")
    for version in VERSIONS:
        for name in TOOLS:
            deb(place, name, version, depends="kubernetes-cni (>= 1.1)" if name == "kubelet" else "")
    deb(place, "kubernetes-cni", "1.4.0-1.1")
    return place


class Apt:
    """The host's apt with lists and a status of its own, and no sources but the one given."""

    def __init__(self, top: Path, source: str) -> None:
        for name in ("lists/partial", "parts", "archives/partial"):
            (top / name).mkdir(parents=True)
        (top / "status").touch()
        (top / "parts/kubernetes.sources").write_text(source)
        (top / "apt.conf").write_text(
            f'Dir::Etc::SourceList "/dev/null"; Dir::Etc::SourceParts "{top}/parts"; Dir::Cache "{top}";'
            f'Dir::State::Lists "{top}/lists"; Dir::State::Status "{top}/status";'
            f'Dir::Cache::Archives "{top}/archives"; APT::Sandbox::User "";')
        self._env = {**os.environ, "APT_CONFIG": str(top / "apt.conf"), "LC_ALL": "C"}
        self.archives = top / "archives"

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["apt-get", *arguments], env=self._env, capture_output=True, text=True)

    def would_install(self, *names: str) -> list[str]:
        done = self.run("-s", "-y", "install", *names)
        assert done.returncode == 0, done.stdout + done.stderr
        return sorted(" ".join(line.split()[1:3]) for line in done.stdout.splitlines() if line.startswith("Inst "))


def wanted(packages: Path, version: str = "1.31.4") -> KubernetesOptions:
    return KubernetesOptions(version=version, packages=str(packages))


EXACTLY = ["kubeadm (1.31.4-1.1", "kubectl (1.31.4-1.1", "kubelet (1.31.4-1.1", "kubernetes-cni (1.4.0-1.1"]


def ours(packages: Packages) -> list[str]:
    return [name for name in packages.names() if name.partition("=")[0] in TOOLS]


def test_a_directory_of_packages(debs: Path, tmp_path: Path) -> None:
    packages = Packages(wanted(debs), tmp_path / "cache", commands())
    assert packages.directory is not None
    packages.directory.make()
    packages.directory.make()  # a second build finds it
    apt = Apt(tmp_path / "apt", packages.source())
    assert apt.run("update", "--error-on=any").returncode == 0
    assert apt.would_install(*ours(packages)) == EXACTLY
    fetched = apt.run("-y", "--download-only", "install", *ours(packages))
    assert fetched.returncode == 0 and len(list(apt.archives.glob("*.deb"))) == 4, fetched.stderr


def test_a_damaged_package_is_noticed(debs: Path, tmp_path: Path) -> None:
    packages = Packages(wanted(debs), tmp_path / "cache", commands())
    assert packages.directory is not None
    packages.directory.make()
    damaged = packages.directory.place / "kubeadm_1.31.4-1.1_all.deb"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
    apt = Apt(tmp_path / "apt", packages.source())
    apt.run("update")
    assert apt.run("-y", "--download-only", "install", *ours(packages)).returncode != 0


@pytest.fixture(scope="module")
def signed(debs: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A flat repository with a signed Release file, and its key."""
    top = tmp_path_factory.mktemp("signed")
    repository, home = top / "repository", top / "gnupg"
    shutil.copytree(debs, repository)
    home.mkdir(mode=0o700)
    gpg = ["gpg", "--homedir", str(home), "--batch", "--quiet", "--pinentry-mode", "loopback", "--passphrase", ""]
    packages = subprocess.run(["dpkg-scanpackages", "--multiversion", "."], cwd=repository, check=True,
                              capture_output=True).stdout
    (repository / "Packages").write_bytes(packages)
    digest = subprocess.run(["sha256sum", "Packages"], cwd=repository, check=True, capture_output=True, text=True)
    (repository / "Release").write_text("Origin: test\nDate: Thu, 01 Jan 2026 00:00:00 UTC\nSHA256:\n"
                                        f" {digest.stdout.split()[0]} {len(packages)} Packages\n")
    try:
        subprocess.run([*gpg, "--quick-generate-key", "test <t@example.org>", "rsa2048", "sign", "never"], check=True)
        subprocess.run([*gpg, "--clearsign", "--output", str(repository / "InRelease"), str(repository / "Release")],
                       check=True)
        key = top / "Release.key"
        key.write_bytes(subprocess.run([*gpg, "--armor", "--export"], check=True, capture_output=True).stdout)
    finally:
        subprocess.run(["gpgconf", "--homedir", str(home), "--kill", "all"], check=False)
    return repository, key


def test_a_signed_repository(signed: tuple[Path, Path], tmp_path: Path) -> None:
    repository, key = signed
    options = KubernetesOptions(version="1.31.4", packages=f"file://{repository}/", key=key)
    packages = Packages(options, tmp_path, commands())
    apt = Apt(tmp_path / "apt", packages.source())
    done = apt.run("update", "--error-on=any")
    assert done.returncode == 0, done.stderr
    assert apt.would_install(*ours(packages)) == EXACTLY


def test_a_repository_signed_by_another_key(signed: tuple[Path, Path], tmp_path: Path) -> None:
    repository, _ = signed
    other = tmp_path / "other.key"
    subprocess.run(["gpg", "--no-default-keyring", "--homedir", str(tmp_path), "--keyring",
                    "/usr/share/keyrings/debian-archive-keyring.gpg", "--armor", "--export", "--output", str(other)],
                   check=True, capture_output=True)
    options = KubernetesOptions(version="1.31.4", packages=f"file://{repository}/", key=other)
    apt = Apt(tmp_path / "apt", Packages(options, tmp_path, commands()).source())
    assert apt.run("update", "--error-on=any").returncode != 0
