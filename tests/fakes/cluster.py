"""The port Cluster in memory: a root with files, a kubelet, a kubeadm that does what the real one was seen to do.

`root` are the files of the running root: what place() writes is durable, what kubeadm and the kubelet write is not
before the next orderly shutdown, as on ext4. `files` is the state partition; etcd's member is the file
`cluster/etcd/member` there. `outside` is the API server of somebody else's control plane.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

from k8r_agent.cluster import paths
from k8r_agent.cluster.certificate import ca_hashes
from k8r_agent.cluster.paths import STATIC_PODS
from k8r_agent.errors import BusError, FetchError, NoState, Protected
from k8r_agent.ports.cluster import ETC, ETCD, KUBELET, MANIFESTS, PKI, As, Probe, Tools
from k8r_agent.ports.commands import Result
from tests.fakes import certificates, etcd, kubeapi
from tests.fakes.kubeapi import FakeApi
from tests.fakes.statefiles import FakeStateFiles, nowhere

MEMBER = "cluster/etcd/member"
CERTIFICATE = f"{KUBELET}/pki/kubelet-client-current.pem"
_ALLOWED = (ETC, KUBELET)


class FakeCluster:
    """`version` "": a root without Kubernetes. `name` is the node's. A cluster that is made here gets certificates.CA;
    a second one, whose CA was not kept, gets OTHER_CA."""

    def __init__(self, *, version: str = "1.31.4", name: str = "node-1", root: FakeStateFiles | None = None,
                 files: FakeStateFiles | None = None, outside: FakeApi | None = None,
                 point: Callable[[str], None] = nowhere) -> None:
        self.version, self.host, self.point = version, name, point
        self.time: float | None = None  # what the clock says, where it is not what the machine says
        self.now: Callable[[], float] = lambda: 1_800_000_000.0
        self.root, self.files = root or FakeStateFiles(), files or FakeStateFiles()
        self.outside, self.ip, self.latency = outside, "192.0.2.11", 0.004
        self.kubelet, self.etcd_bound, self.image_slot, self.broken = False, False, False, ""
        self.kubelet_slow = 0.0  # seconds until a started one is healthy
        self.api_slow, self.api_from = 0.0, 0.0  # seconds from a boot until its API server answers, and when it does
        self.images = False  # the container runtime has those of the golden image
        self.made: list[str] = []  # what kubeadm was run for
        self.made_cas = 0
        self.web: dict[str, bytes] = {}
        self.data = ""  # of etcd, when it was last looked at

    # the port: files

    def present(self) -> bool:
        return bool(self.version)

    def tools(self) -> Tools:
        return Tools(kubeadm=self.version, kubelet=self.version)

    def read(self, path: str) -> bytes | None:
        return self.root.read(path)

    def names(self, directory: str) -> tuple[str, ...]:
        return self.root.names(directory)

    def place(self, path: str, data: bytes, *, mode: int = 0o600) -> None:
        self.root.write(path, data)

    def link(self, path: str, target: str) -> None:
        self.root.write(path, self.root.read(target) or b"")

    def remove(self, path: str) -> None:
        if not path.startswith(_ALLOWED):
            raise Protected(f"/{path} is not removed")
        for name in [n for n in self.root.live if n == path or n.startswith(path + "/")]:
            self.root.remove(name)

    def sync(self) -> None:
        self.point("cluster:sync")
        self.root.power_cut(1.0)

    # the port: programs

    def kubeadm(self, args: Sequence[str], *, config: str = "", timeout: float, program: str = "kubeadm") -> Result:
        assert not self.image_slot, "kubeadm was run in the image slot"
        assert "reset" not in args, "kubeadm reset must never be run"
        self.made.append(" ".join(args))
        self.point(f"kubeadm:{args[0]}:before")
        if self.broken:
            return Result(1, "", f"error: {self.broken}")
        if args[:3] == ["init", "phase", "certs"]:
            self._certificates()
            return Result(0, "", "")
        return {"init": self._init, "join": self._join, "token": self._token}[args[0]](args, config)

    def kubectl(self, args: Sequence[str], *, who: As = As.NODE, stdin: bytes = b"", timeout: float = 60.0) -> Result:
        if self.read(who.value) is None:
            return Result(1, "", f"error: stat /{who.value}: no such file or directory")
        api = self.api()
        if api is None:
            return Result(1, "", "The connection to the server was refused - did you specify the right host or port?")
        return api.kubectl(args, stdin)

    def etcdctl(self, args: Sequence[str], *, timeout: float = 60.0) -> Result:
        if not self.etcd_running() or self._load() is None:
            return Result(1, "", "Error: context deadline exceeded")
        return etcd.etcdctl(args, {self.host: (self.ip, True)})

    # the port: kubelet and etcd

    def preload_images(self) -> None:
        assert not self.image_slot, "containers in the image slot"
        self.images = True

    def start_kubelet(self, *, timeout: float = float("inf")) -> None:
        assert not self.image_slot, "the kubelet was started in the image slot"
        if self.read(f"{KUBELET}/config.yaml") is None or self.read(As.NODE.value) is None:
            raise BusError("kubelet.service failed", hint="journalctl -u kubelet")
        if timeout < self.kubelet_slow:
            raise BusError(f"the kubelet was not healthy within {timeout:.0f} s", hint="journalctl -u kubelet")
        self.kubelet = True
        self._run_pods()
        self._register()

    def wait_for_kubeadm(self) -> None:
        """Here it ends with the agent."""

    def stop_kubelet(self) -> None:
        self.kubelet = False

    def kubelet_running(self) -> bool:
        return self.kubelet

    def etcd_running(self) -> bool:
        return self.kubelet and self.read(f"{MANIFESTS}/etcd.yaml") is not None

    def keep_etcd(self) -> None:
        if not self.files.persistent():
            raise NoState(f"/{ETCD} is not bound", why="there is no state partition")
        self.etcd_bound = True

    def etcd_kept(self) -> bool:
        return self.files.read(MEMBER) is not None

    def probe(self, endpoint: str) -> Probe:
        api = self.api() or self._another()
        if api is None:
            return Probe(reachable=False, why=f"{endpoint}: connection refused")
        return Probe(reachable=True, ca=api.ca, local=api is not self.outside)

    def clock(self) -> float:
        return self.now() if self.time is None else self.time

    def name(self) -> str:
        return self.host

    def fetch(self, url: str, limit: int) -> bytes:
        if url not in self.web:
            raise FetchError(f"{url} is not there", why="404")
        return self.web[url][:limit]

    def address(self) -> str:
        return self.ip

    def fsync_seconds(self) -> float:
        return self.latency

    def hash_seconds(self) -> float:
        return 0.02

    # what happens to it

    def attach(self, files: FakeStateFiles, point: Callable[[str], None]) -> None:
        """To a node in memory: its state partition, and its way to die."""
        self.files, self.point = files, point

    def pending(self) -> bool:
        """Whether a power cut would lose something now."""
        return self.root.live != self.root.medium

    def key(self, *, live: bool) -> object:
        """Hashable: what a power cut leaves, and with `live` what is running."""
        durable = frozenset(self.root.medium.items()) if not self.image_slot else None
        outside = self.outside.data["nodes"].get(self.host) if isinstance(self.outside, Outside) else None
        now = (frozenset(self.root.live.items()), self.kubelet, self.etcd_bound) if live or self.pending() else None
        return durable, json.dumps(outside), now

    def violated(self) -> str:
        """A cluster's data that was durable once is there for ever, and stays that cluster's."""
        data = self.files.medium.get(MEMBER) if self.files.persistent() else self.data.encode()
        if data is None:
            return "etcd's data is gone" if self.data else ""
        if self.data and json.loads(data)["cluster"] != json.loads(self.data)["cluster"]:
            return "etcd holds another cluster"
        self.data = data.decode()
        return ""

    def power_cut(self, keep: float) -> None:
        self.root.power_cut(keep)
        self.kubelet = self.etcd_bound = False

    def boot(self, *, root: FakeStateFiles, image_slot: bool) -> None:
        """Another root runs; systemd starts the kubelet as the unit's conditions allow."""
        self.root, self.image_slot, self.kubelet, self.etcd_bound = root, image_slot, False, False
        self.api_from = self.now() + self.api_slow
        self.images = self.read(paths.STAMP) is not None  # k8r-preload-images.service
        if self.present() and not image_slot and self._may_start():
            self.kubelet = True
            self._run_pods()
            self._register()
        else:
            self._gone()

    def _may_start(self) -> bool:
        """etc/libexec/kubelet-condition, and the unit's own conditions."""
        if self.read(f"{KUBELET}/config.yaml") is None or self.read(As.NODE.value) is None:
            return False
        known = self.files.read("cluster/membership.json") or b""
        if known and self.read(paths.STAMP) is None:
            return False
        self.etcd_bound = self.files.persistent()
        if not self._control_plane():
            return True
        return self.etcd_bound and (self.etcd_kept() or b'"phase": "member"' not in known)

    def _gone(self) -> None:
        """A boot later the control plane has noticed that this node's kubelet says nothing any more."""
        if (api := self._another()) is not None and (here := api.data["nodes"].get(self.host)):
            api.register(self.host, version=here["version"], ready=False)

    def api(self, *, late: bool = False) -> FakeApi | None:
        """Whoever answers this node: its own control plane, or the one outside. `late`: for one who waits for it."""
        if self._control_plane():
            own = FakeApi(self._load, self._save, ca=self.root.read(f"{PKI}/ca.crt") or b"")
            return own if own.up and (late or self.now() >= self.api_from) else None
        return self._another()

    def _another(self) -> FakeApi | None:
        return self.outside if self.outside is not None and self.outside.up else None

    def _control_plane(self) -> bool:
        return all(self.root.read(f"{MANIFESTS}/{pod}.yaml") for pod in STATIC_PODS)

    def _load(self) -> str | None:
        data = self.files.read(MEMBER)
        return data.decode() if data is not None and self.kubelet and self.etcd_bound else None

    def _save(self, text: str) -> None:
        self.files.write(MEMBER, text.encode())

    def _run_pods(self) -> None:
        """An etcd that finds no member makes a new, empty one."""
        if not self._control_plane():
            return
        assert self.etcd_bound, "etcd was started beside the state partition"
        data = self.files.read(MEMBER)
        if data is None:
            self._save(json.dumps(kubeapi.fresh(self._cluster_id()), sort_keys=True))
        else:
            found = json.loads(data)["cluster"]
            assert found == self._cluster_id(), f"an API server of {self._cluster_id()} over the data of {found}"

    def _register(self) -> None:
        api = self.api(late=True)
        if api is not None and self.read(CERTIFICATE) not in (None, b""):
            api.register(self.host, version=self.version)

    def _cluster_id(self) -> str:
        return ca_hashes(self.root.read(f"{PKI}/ca.crt") or b"")[0]

    # kubeadm

    def _write(self, path: str, data: bytes) -> None:
        """As kubeadm writes: visible, and durable some time later, bit by bit."""
        self.point(f"kubeadm:{path}")
        self.root.live[path] = data
        self.root.growing.add(path)

    def _certificates(self) -> None:
        for name in ("ca", "front-proxy-ca", "etcd/ca"):
            if self.read(f"{PKI}/{name}.crt") is None:
                made = (certificates.CA, certificates.OTHER_CA)[self.made_cas > 2]
                self.made_cas += 1
                self._write(f"{PKI}/{name}.key", b"key of " + made)
                self._write(f"{PKI}/{name}.crt", made)
        for name in ("sa.key", "sa.pub", "apiserver.crt", "apiserver.key"):
            if self.read(f"{PKI}/{name}") is None:
                self._write(f"{PKI}/{name}", name.encode())

    def _init(self, args: Sequence[str], config: str) -> Result:
        wrong = [] if self.images else [("ImagePull", "failed to pull image kube-apiserver: no such host")]
        if self.etcd_kept():
            wrong.append(("DirAvailable--var-lib-etcd", "/var/lib/etcd is not empty"))
        if self.kubelet:
            wrong.append(("Port-10250", "Port 10250 is in use"))
        wrong += [(f"FileAvailable--etc-kubernetes-manifests-{pod}.yaml", "already exists") for pod in STATIC_PODS
                  if self.read(f"{MANIFESTS}/{pod}.yaml") is not None]
        if (bad := _preflight(args, wrong)) is not None:
            return bad
        assert config, "kubeadm init without a configuration"
        self._certificates()
        for name in ("admin", "kubelet", "controller-manager", "scheduler"):
            self._write(f"{ETC}/{name}.conf", f"{name} of {self._cluster_id()}".encode())
        self._configured()
        for pod in STATIC_PODS:
            self._write(f"{MANIFESTS}/{pod}.yaml", etcd.static_pod(pod, self.version, name=self.host, address=self.ip))
        self.start_kubelet()
        self.point("kubeadm:init:after")
        return Result(0, "Your Kubernetes control-plane has initialized successfully!", "")

    def _join(self, args: Sequence[str], config: str) -> Result:
        there = ("kubelet.conf", "bootstrap-kubelet.conf", "pki/ca.crt")
        wrong = [(f"FileAvailable--etc-kubernetes-{name.replace('/', '-')}", f"/{ETC}/{name} already exists")
                 for name in there if self.read(f"{ETC}/{name}") is not None]
        if (bad := _preflight(args, wrong)) is not None:
            return bad
        api = self._another()
        if api is None:
            return Result(1, "", "error execution phase preflight: couldn't validate the identity of the API Server: "
                                 "dial tcp: connect: connection refused")
        if not any(token in config for token in api.tokens):
            half = any(token.partition(".")[0] in config for token in api.tokens)
            return Result(1, "", "error execution phase preflight: " + (
                "failed to verify JWS signature of received cluster info object, can't trust this API Server" if half
                else 'could not find a JWS signature in the cluster-info ConfigMap for token ID "abcdef"'))
        node = api.data["nodes"].get(self.host)
        if node and node["ready"]:
            return Result(1, "", f'error execution phase kubelet-start: a Node with name "{self.host}" and status '
                                 '"Ready" already exists in the cluster')
        control_plane = '"controlPlane"' in config
        if control_plane:
            self._prepare_control_plane()
        self._write(f"{PKI}/ca.crt", api.ca)
        self._configured()
        self._write(f"{ETC}/kubelet.conf", b"kubelet of " + ca_hashes(api.ca)[0].encode())
        self.start_kubelet()
        if control_plane:
            self._join_etcd()
        self.point("kubeadm:join:after")
        return Result(0, "This node has joined the cluster", "")

    def _token(self, args: Sequence[str], config: str) -> Result:
        """`kubeadm token create`, with a kubeconfig that the API server takes."""
        kubeconfig = args[-1].removeprefix("--kubeconfig=/")
        assert args[:2] == ["token", "create"] and self.read(kubeconfig) is not None, args
        api = self._another()
        if api is None:
            return Result(1, "", "timed out waiting for the condition")
        if self.read(kubeconfig) != b"may make tokens":
            return Result(1, "", 'failed to create or update bootstrap token: unable to create Secret: secrets is '
                                 'forbidden: User "nobody" cannot create resource "secrets"')
        api.tokens = {*api.tokens, MADE}
        return Result(0, f"{MADE}\n", "")

    def _prepare_control_plane(self) -> None:
        """The authority comes from the cluster."""
        self._certificates()
        self._write(f"{ETC}/admin.conf", b"admin")
        for pod in STATIC_PODS[1:]:
            self._write(f"{MANIFESTS}/{pod}.yaml", f"{pod}:v{self.version}".encode())

    def _join_etcd(self) -> None:
        """Its data comes from the other member, which has no majority without this one from now on."""
        assert isinstance(self.outside, Outside)
        self._save(json.dumps(self.outside.data, sort_keys=True))
        self._write(f"{MANIFESTS}/etcd.yaml", f"etcd:v{self.version}".encode())
        self.outside.other = self
        self._run_pods()
        self._register()

    def _configured(self) -> None:
        self._write(f"{KUBELET}/config.yaml", b"kind: KubeletConfiguration\n")
        self._write(f"{KUBELET}/kubeadm-flags.env", b"KUBELET_KUBEADM_ARGS=\n")
        self._write(CERTIFICATE, certificates.NODE)


def _preflight(args: Sequence[str], wrong: Sequence[tuple[str, str]]) -> Result | None:
    ignored = {name for word in args for name in word.partition("--ignore-preflight-errors=")[2].split(",")}
    bad = [f"\t[ERROR {name}]: {what}" for name, what in wrong if name not in ignored]
    if not bad:
        return None
    return Result(1, "", "\n".join(["error execution phase preflight: [preflight] Some fatal errors occurred:", *bad]))


MADE = "madehe.re0123456789abcd"  # the token that `kubeadm token create` makes


class Outside(FakeApi):
    """Somebody else's control plane, with etcd and all. `answers` False: it cannot be reached. `other`: the node whose
    etcd is the second member of its own; `alone`: it goes on without that, as one of three would."""

    def __init__(self, *, tokens: Sequence[str] = ("abcdef.0123456789abcdef",), ca: bytes = certificates.CA) -> None:
        self.other: FakeCluster | None = None
        self.alone = False
        self.text, self.answers = json.dumps(kubeapi.fresh(ca_hashes(ca)[0])), True
        super().__init__(self._read, self._write, ca=ca, tokens=tokens)

    def _read(self) -> str | None:
        majority = self.alone or self.other is None or self.other.etcd_running()
        return self.text if self.answers and majority else None

    def _write(self, text: str) -> None:
        self.text = text
