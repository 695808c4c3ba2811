"""Into a cluster: what must hold before anything is touched, the way in, and what is tidied up afterwards."""

from __future__ import annotations

import hashlib
import time
from dataclasses import replace

from k8r_agent.cluster import cni, role
from k8r_agent.cluster.role import Decision
from k8r_agent.config import blank
from k8r_agent.errors import ClusterError, K8rError, NoState, Refused, StepFailed, Unreachable
from k8r_agent.model.cluster import Membership, Phase
from k8r_agent.model.layout import STATE
from k8r_agent.model.slots import Slot
from k8r_agent.ports.cluster import Probe
from k8r_agent.ports.step import World
from k8r_agent.steps import enrolment, entry, kubeadm_input, membership
from k8r_agent.steps.entry import AGAIN
from k8r_agent.steps.wait import Wait
from k8r_agent.store import cluster as store

CONFIGURATION = "k8r.toml"  # on the boot partition
_WAIT = 120.0  # seconds that a control plane gets to answer
_CLOCK_WAIT = 600.0  # seconds that a time server gets, when there is no other way
_CLOCK_OFF = 3600.0  # seconds by which the clock may lag behind what this node has written down


def decision(world: World) -> Decision:
    """Observes only. Raises Refused when the configuration contradicts what the node keeps."""
    found, secret, settings = membership.of(world), entry.information(world), world.settings
    k8s = replace(settings.kubernetes, endpoint=secret.endpoint, join_token=secret.token,
                  ca_cert_hashes=secret.ca_hashes, certificate_key=secret.certificate_key)
    node = replace(settings.node, role=secret.role or settings.node.role)
    return role.decide(role.facts(replace(settings, kubernetes=k8s, node=node),
                                  kept=membership.kept_role(world, found), label=_label(world)))


def asked(world: World) -> str:
    """Changes when somebody changes what the node is told about its cluster. A hash: there are secrets in it."""
    said = repr((world.settings.node.role, world.settings.kubernetes, entry.information(world)))
    return hashlib.sha256(said.encode()).hexdigest()[:16]


def _label(world: World) -> str:
    """Of the state partition; "" when it cannot be read."""
    try:
        partition = world.disks.own().partition(STATE)
        return world.disks.signature(partition).rpartition(" ")[2] if partition else ""
    except K8rError:
        return ""


class CheckEntry:
    """Everything that can be known to be wrong, while nothing has been changed."""

    name = "check-entry"
    summary = "Find out which cluster, in which role, and whether that can work"

    def done(self, world: World) -> bool:
        return bool(world.recall("entry"))

    def apply(self, world: World) -> None:
        world.remember("asked", asked(world))
        _assert_here(world)
        found = decision(world)
        if found.entry == role.STAY:
            raise Refused("the node enters no cluster", why=found.reason, hint=found.hint)
        _assert_clock(world)
        if found.entry == role.INITIALISE:
            self._nobody_else(world)
            _assert_network(world)
        elif found.entry == role.JOIN and not entry.half_joined(world):  # else nobody may answer but this node
            self._somebody(world)
        else:
            _assert_same_cluster(world)
        world.remember("role", f"{found.role} ({found.rule}: {found.reason})")
        world.remember("entry", found.entry)

    def _nobody_else(self, world: World) -> None:
        endpoint = world.settings.kubernetes.endpoint
        found = world.cluster.probe(endpoint) if endpoint else Probe(reachable=False)
        if found.reachable and not found.local:
            raise Refused("no cluster is made", why=found.why or f"a control plane answers at {endpoint} already",
                          hint="two would claim one cluster: to join that one, give a join_token and ca_cert_hashes; "
                               "to make another one, change kubernetes.endpoint")

    def _somebody(self, world: World) -> None:
        """A control plane that is just being made is waited for."""
        secret = entry.information(world)
        waiting = Wait(world, _WAIT)
        while not (found := world.cluster.probe(secret.endpoint)).reachable or found.foreign:
            if waiting.over:
                world.remember(AGAIN, "yes")
                raise Unreachable("the control plane does not answer", why=found.why,
                                  hint="the node tries again every ten minutes; is kubernetes.endpoint right, and is "
                                       "the network up?")
            waiting.pause(f"waiting for the control plane at {secret.endpoint}: {found.why}")
        _assert_ca(found, secret.ca_hashes, secret.endpoint)


def _assert_here(world: World) -> None:
    state = world.boot.state()
    if not world.cluster.present():
        raise Refused("the node enters no cluster", why="its image holds no Kubernetes",
                      hint="build one with `k8r-image build --kubernetes VERSION`")
    if not world.files.persistent():
        raise NoState("the node enters no cluster", why="there is no state partition to keep its credentials on",
                      hint="`k8r-agent status` says why")
    if state.current is not Slot.WORKING or state.primary is not Slot.WORKING:
        raise Refused("the node enters no cluster", why="it does not run from a confirmed working slot",
                      hint="`k8r-agent status` says what to do")
    if enrolment.by_hand(world):
        raise Refused("the node enters no cluster", why="somebody else brought this system into one already "
                      "(/etc/kubernetes), and the agent touches nothing of that",
                      hint="`k8r-agent reinstall --force` gives it up for a fresh system, which may enter a cluster; "
                           "remove the Node from its old cluster first")


def _assert_network(world: World) -> None:
    """A cluster without a pod network has no Ready node: better no cluster than that."""
    chosen = cni.manifest(world.settings.kubernetes)
    if chosen is not None and not chosen.remote and world.cluster.read(chosen.source.lstrip("/")) is None:
        raise cni.missing(chosen)


def _assert_clock(world: World) -> None:
    """kubeadm would call every certificate not yet valid, and what it makes would have ended before it is used."""
    if _clock_wrong(world):
        world.remember(AGAIN, "yes")
        raise ClusterError(
            "the clock is wrong", why=time.strftime("it says %Y-%m-%d, but this node has written down a later time",
                                                    time.gmtime(world.cluster.clock())),
            hint="wait for the time server, or set it with `timedatectl set-time`; the node tries again by itself")


def _clock_wrong(world: World) -> bool:
    return world.machine.now() - world.cluster.clock() > _CLOCK_OFF


def _assert_ca(found: Probe, wanted: tuple[str, ...], endpoint: str) -> None:
    """A control plane that does not publish its CA is judged by kubeadm itself."""
    from k8r_agent.cluster import certificate

    try:
        hashes = certificate.ca_hashes(found.ca)
    except ValueError:
        return
    if hashes and not set(hashes) & set(wanted):
        raise Refused(f"{endpoint} is another cluster's", why=f"its CA is {hashes[0]}, this node was told "
                      f"{' or '.join(wanted)}",
                      hint="`kubeadm token create --print-join-command` on the right control plane prints "
                           "all three: endpoint, token and hash")


def _assert_same_cluster(world: World) -> None:
    """Back into the cluster that the state partition remembers, and into no other."""
    found, said = membership.of(world), world.settings.kubernetes
    assert found is not None
    if found.ca_hash and said.ca_cert_hashes and found.ca_hash not in said.ca_cert_hashes:
        raise Refused("the state partition is from another cluster", why=f"it keeps a membership of {found.endpoint} "
                      f"({found.ca_hash}), but kubernetes.ca_cert_hashes names another",
                      hint="remove ca_cert_hashes to return there; to give the node to the other cluster, flash it "
                           "anew with an empty state partition")
    membership.assert_same_place(world, found)
    if found.endpoint and not (probe := world.cluster.probe(found.endpoint)).local and probe.reachable:
        _assert_ca(probe, (found.ca_hash,), found.endpoint)


class EnterCluster:
    name = "enter-cluster"
    summary = "Enter the cluster with kubeadm"

    def done(self, world: World) -> bool:
        return membership.complete(world, membership.of(world))

    def apply(self, world: World) -> None:
        """Decided anew each time: what an interrupted attempt has left is kept by now."""
        found, chosen = membership.of(world), decision(world)
        if chosen.entry != role.INITIALISE:  # there only what kubeadm says is a reason to hope
            world.remember(AGAIN, "yes")  # what another node refuses today it may grant tomorrow
        if chosen.entry == role.JOIN:
            entry.join(world, newcomer(world, chosen), entry.information(world))
        elif chosen.entry == role.INITIALISE:
            entry.initialise(world, newcomer(world, chosen))
        elif found is not None and found.phase is Phase.ENTERING:
            entry.initialise(world, found)
        elif found is not None:
            entry.come_back(world, found)
        else:
            raise Refused("the node enters no cluster", why=chosen.reason, hint=chosen.hint)


def newcomer(world: World, chosen: Decision) -> Membership:
    said, cluster = world.settings.kubernetes, world.cluster
    ip = said.node_ip or cluster.address()
    if not ip:
        raise ClusterError("the node enters no cluster", why="which of its addresses to use is not known",
                           hint="is the network up? A node without a default route and with several addresses needs "
                                "kubernetes.node_ip")
    founder = chosen.entry == role.INITIALISE
    return Membership(
        phase=Phase.ENTERING, role=chosen.role, rule=chosen.rule, reason=chosen.reason, node_name=cluster.name(),
        node_ip=ip, endpoint=said.endpoint or kubeadm_input.own_endpoint(ip), founder=founder,
        kubernetes=cluster.tools().kubeadm, configuration=kubeadm_input.founding(world, ip) if founder else "")


class Rejoin:
    """After the working slot was rewritten. What only somebody outside can mend does not condemn the new system: the
    node is confirmed, stays outside for now, and tries again by itself."""

    name = "rejoin"
    summary = "Bring the node back into its cluster"

    def done(self, world: World) -> bool:
        if not world.cluster.present():
            return True  # no Kubernetes on this node
        found = membership.of(world)
        return (found is None or found.phase is not Phase.MEMBER or membership.complete(world, found)
                or world.recall(self.name) != "")

    def apply(self, world: World) -> None:
        found = membership.of(world)
        assert found is not None
        if found.control_plane:
            self._wait_for_clock(world)
        try:
            membership.assert_same_place(world, found)
            entry.come_back(world, found)
        except Unreachable as error:
            world.report.status(f"the node stays outside of its cluster for now: {error}")
            world.remember(self.name, f"{error}"[:500])

    def _wait_for_clock(self, world: World) -> None:
        """A control plane's certificates begin with its CA and end a year from now, whatever the clock calls now."""
        waiting = Wait(world, _CLOCK_WAIT)
        while _clock_wrong(world) and not waiting.over:
            waiting.pause("waiting for the clock: it is behind what this node has written down")
        _assert_clock(world)


class BlankSecret:
    """A token that was used must not lie around, least of all on a partition that any card reader can read."""

    name = "blank-secret"
    summary = "Forget the join token"

    def done(self, world: World) -> bool:
        return store.join_secret(world.files) is None and not blank.secrets(_configuration(world))

    def apply(self, world: World) -> None:
        store.drop_join_secret(world.files)
        before = _configuration(world)
        after = blank.blanked(before)
        if after != before and world.boot_files is not None:
            with world.boot_files.writable():
                world.boot_files.put(CONFIGURATION, after)
        if names := blank.secrets(after):
            raise StepFailed(f"{names[0]} is still in {CONFIGURATION} on the boot partition",
                             why="it is written in a way that is not understood", hint="remove it there by hand")


def _configuration(world: World) -> bytes:
    return world.boot_files.read(CONFIGURATION) or b"" if world.boot_files is not None else b""
