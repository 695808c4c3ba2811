"""How a node gets into its cluster: it initialises one, joins one, or comes back into the one it was in.

Whatever is run here may be killed at any instant and is then run again. What makes that safe: the cluster's keys are
on the state partition before etcd's data depends on them; a fresh root is told from a complete one by a stamp that is
written last; and only files that kubeadm writes are ever removed, from the root only.
"""

from __future__ import annotations

import re
from dataclasses import replace

from k8r_agent.cluster import certificate, explain, marks, paths, patience, registries, version
from k8r_agent.cluster.api import Api
from k8r_agent.config.clusterreaders import TOKEN
from k8r_agent.config.settings import KubernetesSettings
from k8r_agent.errors import ClusterError, K8rError, Refused, Unreachable
from k8r_agent.model.cluster import JoinSecret, Membership, Phase
from k8r_agent.ports.cluster import MANIFESTS, As
from k8r_agent.ports.step import World
from k8r_agent.steps import etcd_member, kubeadm_input, membership
from k8r_agent.steps.wait import Wait
from k8r_agent.store import cluster as store

AGAIN = "again"  # fact: nobody has to change anything for the next attempt to succeed
# An earlier attempt's own static pods may still run on these: kubeadm's would be the same ones.
_PORTS = ("Port-6443", "Port-10250", "Port-10257", "Port-10259", "Port-2379", "Port-2380")
_TTL = "1h"  # of a token that the node makes itself
_ENDING = 180.0  # seconds that static pods get to end
_HAS_DATA = "DirAvailable--var-lib-etcd"
# What is in etcd already, where its owner may have changed it since.
_IN_ETCD = ("upload-config", "upload-certs", "mark-control-plane", "bootstrap-token", "addon")


def initialise(world: World, found: Membership) -> None:
    """Make a new cluster; go on making it after an interruption."""
    again = _begin(world, found)
    if membership.restore_authority(world, found):
        found = _with_ca(world, found)
    else:
        found = _make_authority(world, found)
    _kubeadm_init(world, found, again=again)
    membership.enter(world, found)


def come_back(world: World, found: Membership) -> None:
    """Into the cluster that the state partition remembers, on a fresh root. Raises Unreachable when only somebody
    outside can help: then nothing is wrong with this root."""
    if found.control_plane:
        return _return_control_plane(world, found)
    if _came_through(world, found):
        return
    try:
        _begin(world, found)
        membership.restore_worker(world, found)
    except ClusterError as error:
        return _return_by_token(world, found, error)
    _start_kubelet(world)
    membership.enter(world, found)


def join(world: World, found: Membership, secret: JoinSecret) -> None:
    """With a bootstrap token. `found` says as what; an interrupted join that had come through is only completed."""
    found = replace(found, endpoint=secret.endpoint, ca_hash=found.ca_hash or secret.ca_hashes[0])
    if found.control_plane:
        return _join_control_plane(world, found, secret)
    if _came_through(world, found):
        return
    _begin(world, found)
    _run(world, ["join"], kubeadm_input.join(world, found, secret), patience.JOIN, joining=True)
    membership.enter(world, _with_ca(world, found))


def _join_control_plane(world: World, found: Membership, secret: JoinSecret) -> None:
    """What the cluster was made with is asked of the cluster, so that this node can come back by itself."""
    if world.cluster.etcd_kept() and membership.of(world) is None:
        raise Refused("the node does not join", why="the state partition holds the data of an etcd, and nothing says "
                      "of which cluster", hint="k8r-recovery(7)")
    if half_joined(world):
        _go_on_as_member(world, secret)
        _mark(world, found)
    else:
        again = _begin(world, found)
        world.cluster.keep_etcd()
        _run(world, ["join", *_ignored(world, again=again)], kubeadm_input.join(world, found, secret), patience.JOIN,
             joining=True)
    found = replace(_with_ca(world, found), configuration=kubeadm_input.founded_elsewhere(world))
    membership.enter(world, found)


def half_joined(world: World) -> bool:
    """kubeadm was interrupted when this node's etcd was a member already, or just about to become one."""
    found = membership.of(world)
    if found is None or found.phase is not Phase.ENTERING or not found.control_plane or found.founder:
        return False
    try:
        return all(world.cluster.read(path) for path in paths.JOINED) and bool(
            certificate.ca_hashes(world.cluster.read(paths.CA) or b""))
    except ValueError:
        return False


def _go_on_as_member(world: World, secret: JoinSecret) -> None:
    """Of two members none has a majority alone: the cluster has no API server until this one runs again, and whoever
    cleaned the root for another attempt would find nobody to join. Only where the others go on without it does an etcd
    that does not get well give way. Raises Unreachable, or ClusterError when there is another attempt to make."""
    world.cluster.place(membership.ENTERING, b"")
    world.cluster.wait_for_kubeadm()
    world.cluster.keep_etcd()
    try:
        if not world.cluster.kubelet_running():
            _start_kubelet(world)
    except K8rError:  # a power cut emptied what kubeadm wrote for it, maybe
        return _give_way(world, secret)
    waiting = Wait(world, patience.JOIN * patience.of(world.cluster))
    while etcd_member.health(world).code or not Api(world.cluster, As.ADMIN).get("/readyz").ok:
        if waiting.over:
            return _give_way(world, secret)
        waiting.pause("waiting for this node's etcd, which is a member already")


def _mark(world: World, found: Membership) -> None:
    kubeadm = version.parse(world.cluster.tools().kubeadm)
    for args in marks.commands(found.node_name, kubeadm, world.settings.kubernetes.taints):
        said = world.cluster.kubectl(args, who=As.ADMIN)
        if said.code:
            raise ClusterError("the Node is not marked as a control plane", why=said.stderr.strip()[-300:])


def _give_way(world: World, secret: JoinSecret) -> None:
    """Always raises. Unless somebody else's etcd has a majority, what runs here is left as it is. Without one an API
    server answers too, but knows no object."""
    if not world.cluster.probe(secret.endpoint).ca:
        raise Unreachable("the cluster has no majority without this node's etcd, which does not get well",
                          why=f"{secret.endpoint} does not say whose cluster it is",
                          hint="journalctl -u kubelet; k8r-recovery(7)")
    _end_pods(world)
    world.cluster.stop_kubelet()
    membership.clean(world)
    raise ClusterError("this node's etcd does not get well", why="the others go on without it: it is made anew")


def _came_through(world: World, found: Membership) -> bool:
    """An attempt that was interrupted had got the node in: what is left is to keep what it brought."""
    if not membership.answers_as_itself(world, found):
        return False
    if not world.cluster.kubelet_running():
        _start_kubelet(world)
    membership.enter(world, _with_ca(world, found))
    return True


def _return_control_plane(world: World, found: Membership) -> None:
    """A real init over the kept state: leaf certificates, kubeconfigs and static pods are made anew; keys and etcd's
    data are the old ones. A member of several comes back in the same way, as itself."""
    if not world.cluster.etcd_kept():
        raise Refused("the control plane does not start", why="etcd's data is not on the state partition",
                      hint="an etcd that starts empty would be another cluster; restore a snapshot: k8r-recovery(7)")
    _begin(world, found)
    if not membership.restore_authority(world, found):
        raise Refused("the control plane does not start", why="the cluster's keys are not all kept",
                      hint="k8r-recovery(7)")
    found = replace(found, kubernetes=_version(world, found))
    _kubeadm_init(world, found, again=True, skip=_IN_ETCD)
    membership.enter(world, found)


def _return_by_token(world: World, found: Membership, lost: ClusterError) -> None:
    """The second rung: a token that the node makes itself; the third: one that an operator gave, or that the
    configuration holds."""
    secret, why = information(world), str(lost)
    try:
        secret = _new_token(world, found) or secret
    except ClusterError as error:
        why = f"{lost}; and {error}"
    if not secret.token:
        raise Unreachable("the node cannot come back by itself", why=why,
                          hint="`kubeadm token create --print-join-command` on a control-plane node, then "
                               "`k8r-agent join --token-file FILE` here") from lost
    if not world.cluster.probe(secret.endpoint).reachable:
        raise Unreachable("the control plane does not answer", why=f"{secret.endpoint}; and {why}") from lost
    join(world, found, secret)


def _new_token(world: World, found: Membership) -> JoinSecret | None:
    """Made by the control plane, for whoever has put a kubeconfig there that may do this. None when nobody has."""
    if world.cluster.read(paths.TOKENS) is None:
        return None
    args = ["token", "create", f"--ttl={_TTL}", f"--kubeconfig=/{paths.TOKENS}"]
    result = world.cluster.kubeadm(args, timeout=patience.API * patience.of(world.cluster))
    token = result.stdout.strip()
    if result.code or not re.fullmatch(TOKEN, token):
        raise explain.explain(f"kubeadm token create with /{paths.TOKENS}", result.stderr)
    return JoinSecret(endpoint=found.endpoint, token=token, ca_hashes=(found.ca_hash,), role=found.role)


def information(world: World) -> JoinSecret:
    """What an operator handed over, else what the configuration says."""
    return completed(store.join_secret(world.files) or JoinSecret(), world.settings.kubernetes)


def completed(given: JoinSecret, said: KubernetesSettings) -> JoinSecret:
    return JoinSecret(
        endpoint=given.endpoint or said.endpoint, token=given.token or said.join_token,
        ca_hashes=given.ca_hashes or said.ca_cert_hashes, role=given.role,
        certificate_key=given.certificate_key or said.certificate_key)


# the parts


def _begin(world: World, found: Membership) -> bool:
    """A root on which nothing of Kubernetes runs or is half written. True when this is not the first attempt."""
    again = membership.of(world) is not None
    world.cluster.place(membership.ENTERING, b"")
    world.cluster.remove(paths.STAMP)
    world.cluster.wait_for_kubeadm()
    _end_pods(world)
    world.cluster.stop_kubelet()
    membership.clean(world)
    world.report.status("container images that came with the golden image")
    world.cluster.preload_images()
    for path, text in registries.files(world.settings.kubernetes.insecure_registries).items():
        world.cluster.place(path.lstrip("/"), text.encode(), mode=0o644)
    store.remember(world.files, found)
    return again


def _start_kubelet(world: World) -> None:
    world.cluster.start_kubelet(timeout=patience.KUBELET * patience.of(world.cluster))


def _end_pods(world: World) -> None:
    """The control plane of an attempt that failed ends before the next one begins: kubeadm would take it for its own,
    and the kubelet would end it under kubeadm's hands. One that does not end is left to kubeadm's own checks."""
    for pod in paths.STATIC_PODS:
        world.cluster.remove(f"{MANIFESTS}/{pod}.yaml")
    waiting = Wait(world, _ENDING)
    while world.cluster.etcd_running() and not waiting.over:
        waiting.pause("the control plane of an earlier attempt ends")


def _make_authority(world: World, found: Membership) -> Membership:
    """The cluster's keys, on the state partition before anything is signed with them that lasts."""
    if world.cluster.etcd_kept():
        raise Refused("no cluster is made", why="the state partition holds the data of an etcd, but not the keys that "
                      "go with it", hint="k8r-recovery(7)")
    _run(world, ["init", "phase", "certs", "all"], kubeadm_input.initialise(world, found), patience.CERTS)
    found = _with_ca(world, found)
    membership.keep(world, found)
    store.remember(world.files, found)
    return found


def _kubeadm_init(world: World, found: Membership, *, again: bool, skip: tuple[str, ...] = ()) -> None:
    world.cluster.keep_etcd()
    args = ["init", "--skip-token-print", "--skip-certificate-key-print", *_ignored(world, again=again)]
    args += [f"--skip-phases={','.join(skip)}"] if skip else []
    _run(world, args, kubeadm_input.initialise(world, found), patience.INIT)


def _ignored(world: World, *, again: bool) -> list[str]:
    names = [*([_HAS_DATA] if world.cluster.etcd_kept() else []), *(_PORTS if again else ())]
    return [f"--ignore-preflight-errors={','.join(names)}"] if names else []


def _run(world: World, args: list[str], config: str, limit: float, *, joining: bool = False) -> None:
    """`limit` in seconds, on a good medium and processor. Raises ClusterError with kubeadm's complaint put into words.
    `joining`: the root is left as it was, and Unreachable says that only another node can help. What makes a control
    plane, or brings one back, has no such excuse: what does not answer is its own."""
    world.report.status(f"kubeadm {' '.join(word for word in args if not word.startswith('-'))}")
    result = world.cluster.kubeadm(args, config=config, timeout=limit * patience.of(world.cluster))
    if result.code == 0:
        return
    said = f"{result.stdout}\n{result.stderr}"
    error, outside = explain.explain(f"kubeadm {args[0]}", said), explain.only_outside(said)
    if outside:
        world.remember(AGAIN, "yes")
    if joining:
        world.cluster.stop_kubelet()
        membership.clean(world)
        if outside:
            raise Unreachable(error.what, why=error.why, hint=error.hint)
    raise error


def _with_ca(world: World, found: Membership) -> Membership:
    """With the hash of the CA that is on the root now, which kubeadm has seen to be the right one."""
    try:
        return replace(found, ca_hash=certificate.read(world.cluster.read(paths.CA) or b"").public_key)
    except ValueError as error:
        raise ClusterError(f"/{paths.CA} cannot be used", why=str(error)) from None


def _version(world: World, found: Membership) -> str:
    """That of the image within the same minor version; a larger step is an upgrade, which goes another way."""
    image = world.cluster.tools().kubeadm
    same = image.split(".")[:2] == found.kubernetes.split(".")[:2]
    return image if same and image else found.kubernetes
