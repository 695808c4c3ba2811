"""Debian's source package `kubernetes`, compiled as its upstream would, with Debian's Go."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from tests.lab.kubernetes.fetch import Mirror, unpack

GO = "1.19"
COMMIT = "faecb196815e248d3ecfb03c680a4507229c2a56"  # of v1.20.2, as the source says itself
DATE = "2021-01-13T13:20:00Z"
PROGRAMS = ("kubeadm", "kubectl", "kube-scheduler", "kube-proxy", "kube-controller-manager", "kubelet",
            "kube-apiserver")
HOST = ("etcd-server", "etcd-client", "containernetworking-plugins")
# Without the clouds and Docker: half of what there is to compile, and no node of ours has either.
TAGS = "providerless,dockerless"
# The API server samples these figures of its own for each millisecond that went by, which is a third of its work on an
# emulated processor. Here once a second.
_METRICS = "staging/src/k8s.io/apiserver/pkg/util/flowcontrol/metrics/metrics.go"
_SAMPLED = ("PairGenerator(clock.RealClock{}, time.Millisecond,", "PairGenerator(clock.RealClock{}, time.Second,")
_REFLECT2 = "github.com/modern-go/reflect2"
_NOT_DESCRIBED = ("code-generator", "sample-apiserver", "_examples")
_VERSIONED = ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")


def say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


class Tree:
    """The upstream tree in GOPATH mode, with its vendored modules. Nothing of it is kept."""

    def __init__(self, work: Path, mirror: Mirror) -> None:
        self.work, root = work, work / "root"
        debs = mirror.packages((f"golang-{GO}-go", f"golang-{GO}-src", "golang-github-modern-go-reflect2-dev"),
                               work / "debs")
        for deb in debs:
            unpack(deb, root)
        self._go = root / f"usr/lib/go-{GO}"
        self.tree = work / "gopath/src/k8s.io/kubernetes"
        self.tree.mkdir(parents=True)
        archive = mirror.source("kubernetes", work / "source")
        subprocess.run(["tar", "--extract", f"--file={archive}", f"--directory={self.tree}", "--strip-components=1"],
                       check=True)
        metrics = self.tree / _METRICS
        source = metrics.read_text()
        assert _SAMPLED[0] in source, metrics
        metrics.write_text(source.replace(*_SAMPLED))
        # The vendored copy of this module knows no Go newer than 1.17 and crashes at start.
        vendored = self.tree / "vendor" / _REFLECT2
        shutil.rmtree(vendored)
        shutil.copytree(root / "usr/share/gocode/src" / _REFLECT2, vendored, ignore=shutil.ignore_patterns("go.mod"))

    def _env(self) -> dict[str, str]:
        """GOGC: a compiler runs for seconds and ends, so that its garbage may lie."""
        return {"PATH": f"{self._go}/bin:{os.environ['PATH']}", "HOME": str(self.work), "GOROOT": str(self._go),
                "GOPATH": str(self.work / "gopath"), "GOCACHE": str(self.work.with_name("gocache")),
                "GO111MODULE": "off", "CGO_ENABLED": "0", "TMPDIR": str(self.work), "GOGC": "400"}

    def _run(self, argv: list[str], log: Path, env: dict[str, str]) -> None:
        with log.open("ab") as out:
            done = subprocess.run(argv, cwd=self.tree, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=env)
        if done.returncode:
            raise RuntimeError(f"{' '.join(argv[:2])} failed ({log})\n{log.read_text(errors='replace')[-2000:]}")

    def generate(self, log: Path) -> None:
        """The API server's OpenAPI description is not in the source: a program makes it (`make gen_openapi` would look
        at all of the tree first)."""
        marked = subprocess.run(["grep", "-rl", "--include=*.go", "+k8s:openapi-gen=", "pkg", "staging/src"],
                                cwd=self.tree, check=True, capture_output=True, text=True).stdout.split()
        packages = sorted({os.path.dirname(name).replace("staging/src", "vendor") for name in marked
                           if not any(part in name for part in _NOT_DESCRIBED)})
        generator = self.work / "openapi-gen"
        self._compile("k8s.io/kubernetes/vendor/k8s.io/kube-openapi/cmd/openapi-gen", "", generator, log)
        self._run([str(generator), "-i", ",".join(f"k8s.io/kubernetes/{name}" for name in packages),
                   "-p", "k8s.io/kubernetes/pkg/generated/openapi", "-O", "zz_generated.openapi",
                   "-h", "vendor/k8s.io/code-generator/hack/boilerplate.go.txt",
                   "-r", str(self.work / "violations")], log, self._env())

    def pause(self, out: Path) -> None:
        """The program that holds a pod's namespaces; upstream's own, 40 lines of C."""
        subprocess.run(["cc", "-static", "-Os", "-s", "-DVERSION=3.2", "-o", str(out),
                        str(self.tree / "build/pause/linux/pause.c")], check=True)

    def program(self, name: str, version: str, out: Path, log: Path) -> None:
        """Compiled once; for another version only linked anew."""
        self._compile(f"k8s.io/kubernetes/cmd/{name}", link_flags(version), out, log)

    def _compile(self, package: str, flags: str, out: Path, log: Path) -> None:
        self._run(["go", "build", "-trimpath", "-tags", TAGS, "-ldflags", f"-s -w {flags}", "-o", str(out), package],
                  log, self._env())


def link_flags(version: str) -> str:
    major, minor, _ = version.split(".", 2)
    values = {"gitVersion": f"v{version}", "gitMajor": major, "gitMinor": minor, "gitCommit": COMMIT,
              "gitTreeState": "clean", "buildDate": DATE}
    return " ".join(f"-X {prefix}{package}.{key}={value}" for prefix in ("", "k8s.io/kubernetes/vendor/")
                    for package in _VERSIONED for key, value in values.items())


def build(into: Path, versions: tuple[str, ...], work: Path) -> None:
    """`into`/VERSION/PROGRAM, `into`/pause and `into`/host, the tree of HOST; appears whole or not at all.

    Go's cache beside `work` stays until all is made, so that a build that was broken off goes on where it was.
    """
    shutil.rmtree(work, ignore_errors=True)
    made, log = work / "made", work / "build.log"
    made.mkdir(parents=True)
    mirror = Mirror(work / "apt")
    for deb in mirror.packages(HOST, work / "debs"):
        unpack(deb, made / "host")
    say("kubernetes: unpacking the source")
    tree = Tree(work, mirror)
    tree.pause(made / "pause")
    tree.generate(log)
    for name in PROGRAMS:
        for version in versions:
            started = time.monotonic()
            tree.program(name, version, made / version / name, log)
            say(f"kubernetes: {name} {version}: {time.monotonic() - started:.0f} s")
    into.parent.mkdir(parents=True, exist_ok=True)
    made.rename(into)
    for path in (work, work.with_name("gocache")):
        shutil.rmtree(path)
