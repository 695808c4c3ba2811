"""What makes this root a member of the cluster, kept on the state partition and put back into a fresh one.

The root that runs is the truth as long as it carries the stamp of its membership; a root without one is a fresh copy
of the image, or one in which kubeadm was interrupted, and what is kept counts.
"""

from __future__ import annotations

from dataclasses import replace

from k8r_agent.cluster import certificate, kubeletflags, paths, versions
from k8r_agent.errors import ClusterError, Refused, StepFailed
from k8r_agent.model.cluster import Membership, Phase
from k8r_agent.model.slots import Slot
from k8r_agent.ports.step import World
from k8r_agent.store import cluster as store

ENTERING = "run/k8r/entering"  # since this boot: the kubelet may start although the membership is not complete


def of(world: World) -> Membership | None:
    return store.membership(world.files)


def kept_role(world: World, found: Membership | None) -> str:
    """In which role this node was in a cluster before, by what is kept; "" when it never got in. A founder whose etcd
    has data is its control plane even if the last of kubeadm's phases was not seen to end."""
    if found is None:
        return ""
    if found.phase is Phase.MEMBER or (found.founder and world.cluster.etcd_kept()):
        return found.role
    return ""


def complete(world: World, found: Membership | None) -> bool:
    """This root is a member, and everything that was to be done for it has been."""
    return (found is not None and found.phase is Phase.MEMBER
            and world.cluster.read(paths.STAMP) == _stamp(found))


def line(world: World) -> str:
    """For `status`: role, rule and where the node stands."""
    found = of(world)
    if found is None:
        return "none"
    where = f"{found.role} of {found.endpoint} as {found.node_name} ({found.rule}: {found.reason})"
    if found.phase is not Phase.MEMBER:
        return f"on the way in: {where}"
    if not complete(world, found):
        return f"not back yet: {where}"
    return where if world.cluster.kubelet_running() else f"{where}; the kubelet does not run, or is not well"


def enter(world: World, found: Membership) -> None:
    """kubeadm has succeeded, or the kept credential is back: from now on this root is the truth."""
    if found.phase is not Phase.MEMBER:
        found = replace(found, phase=Phase.MEMBER, since=world.machine.now())
    keep(world, found)
    store.remember(world.files, found)
    world.cluster.sync()
    world.cluster.place(paths.STAMP, _stamp(found), mode=0o644)


def _stamp(found: Membership) -> bytes:
    return f"{found.role} {found.node_name} {found.ca_hash}\n".encode()


def assert_same_place(world: World, found: Membership) -> None:
    """A kubelet's credential is good for one name; etcd's member and a control plane's certificates go by name and
    address. kubeadm has no way to change them."""
    ip = world.settings.kubernetes.node_ip or world.cluster.address()
    for what, was, now in (("host name", found.node_name, world.cluster.name()), ("address", found.node_ip, ip)):
        if was and was != now and (found.control_plane or what == "host name"):
            raise Refused(f"the {'control plane' if found.control_plane else 'kubelet'} does not start",
                          why=f"its {what} was {was} and is {now or 'none'} now",
                          hint=f"give the node its {what} back ({_setting(what)}); in its cluster it cannot change it")


def _setting(what: str) -> str:
    return "node.hostname" if what == "host name" else "network.address or kubernetes.node_ip"


# keeping


def keep(world: World, found: Membership) -> None:
    """Raises StepFailed when the root lacks what it must have."""
    for path in paths.kept(found.role):
        data = world.cluster.read(path)
        if not data or not _sound(path, data, found):
            raise StepFailed(f"/{path} cannot be kept", why="it is missing or damaged")
        store.keep(world.files, path, data)


def follow(world: World) -> bool:
    """The kubelet rotates its credential: what is kept follows. False when there is nothing to follow. Only in a
    working slot that is a member: any other root knows less than the copy."""
    if not _is_original(world):
        return False
    found = of(world)
    assert found is not None
    for path in paths.kept(found.role):
        data = world.cluster.read(path)
        if data and _sound(path, data, found):
            store.keep(world.files, path, data)
    return True


def followed(world: World) -> bool:
    """What is kept is what the root has."""
    if not _is_original(world):
        return True
    found = of(world)
    assert found is not None
    now = {path: world.cluster.read(path) for path in paths.kept(found.role)}
    return all(store.kept(world.files, path) == data for path, data in now.items()
               if data and _sound(path, data, found))


def _is_original(world: World) -> bool:
    return (world.cluster.present() and world.files.persistent()
            and world.disks.facts().slot is Slot.WORKING and complete(world, of(world)))


def _sound(path: str, data: bytes, found: Membership) -> bool:
    """A file that a power cut emptied, or the CA of another cluster, must not replace the good copy."""
    try:
        if path == paths.CA:
            return found.ca_hash in ("", *certificate.ca_hashes(data))
        if path.endswith((".crt", ".pem")):
            certificate.read(data)
    except ValueError:
        return False
    return True


# putting back


def clean(world: World) -> None:
    """Nothing of an earlier attempt is left on this root; the state partition is not touched."""
    for path in paths.WRITTEN:
        if world.cluster.read(path) is not None or world.cluster.names(path):
            world.cluster.remove(path)


def restore_authority(world: World, found: Membership) -> bool:
    """False when the cluster's keys are not all kept. Raises ClusterError when they are not this cluster's."""
    kept = {path: store.kept(world.files, path) for path in paths.AUTHORITY}
    if not all(kept.values()):
        return False
    _assert_same(kept[paths.CA] or b"", found)
    for path, data in kept.items():
        world.cluster.place(path, data or b"", mode=0o600 if path.endswith(".key") else 0o644)
    return True


def restore_worker(world: World, found: Membership) -> None:
    """Raises ClusterError when the credential is not kept, or not good any more: then only a token helps."""
    kept = {path: store.kept(world.files, path) for path in paths.WORKER}
    for path, data in kept.items():
        if data is None:
            raise ClusterError("the kubelet's credential is not kept", why=f"/{path} is missing")
    _assert_same(kept[paths.CA] or b"", found)
    assert_valid(world, kept[paths.CLIENT] or b"")
    cluster = world.cluster
    kept[paths.FLAGS] = kubeletflags.for_kubelet(kept[paths.FLAGS] or b"", versions.one(cluster.tools().kubelet))
    for path, data in kept.items():
        if path != paths.CLIENT:
            cluster.place(path, data or b"", mode=0o644 if path == paths.CA else 0o600)
            continue
        cluster.place(paths.CLIENT_KEPT, data or b"")
        cluster.link(paths.CLIENT, paths.CLIENT_KEPT)


def assert_valid(world: World, pem: bytes) -> None:
    """Raises ClusterError with how long ago it ended."""
    try:
        found = certificate.read(pem)
    except ValueError as error:
        raise ClusterError("the kubelet's credential cannot be used", why=str(error)) from None
    days = (world.machine.now() - found.not_after) / 86400
    if days > 0:
        raise ClusterError("the kubelet's credential has expired", why=f"{days:.0f} days ago: it is renewed only "
                           "while the kubelet runs")


def _assert_same(ca: bytes, found: Membership) -> None:
    try:
        hashes = certificate.ca_hashes(ca)
    except ValueError as error:
        raise ClusterError("the kept CA certificate is damaged", why=str(error), hint="k8r-recovery(7)") from None
    if found.ca_hash and found.ca_hash not in hashes:
        raise ClusterError("the kept CA certificate is not that of the node's cluster",
                           why=f"{', '.join(hashes)} is kept, the node was in the cluster of {found.ca_hash}",
                           hint="k8r-recovery(7)")


def answers_as_itself(world: World, found: Membership) -> bool:
    """The root holds a credential with which the API server knows this node: an interrupted join had come through."""
    read = world.cluster.read
    if not all(read(path) for path in paths.WORKER):
        return False
    try:
        _assert_same(read(paths.CA) or b"", found)
    except ClusterError:
        return False
    return world.cluster.kubectl(["get", "node", found.node_name, "-o", "name",
                                  "--request-timeout=20s"]).code == 0
