"""Into a cluster and back: what is refused before anything is touched, and what a node does about what went wrong."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from k8r_agent import runner
from k8r_agent.cluster import paths
from k8r_agent.cluster.certificate import ca_hashes
from k8r_agent.config.settings import KubernetesSettings, NodeSettings
from k8r_agent.engine import Outcome
from k8r_agent.errors import Unreachable
from k8r_agent.model.cluster import JoinSecret, Membership, Phase
from k8r_agent.model.slots import Slot
from k8r_agent.model.txn import Transaction
from k8r_agent.ports.cluster import MANIFESTS, PKI, As, Probe
from k8r_agent.steps import duties, entry, membership
from k8r_agent.store import cluster as store
from tests.crash.clusters import FOUNDER, JOINER, TOKEN, founder, inside, joiner, updated
from tests.crash.scenarios import asked, last
from tests.fakes import certificates
from tests.fakes.cluster import MADE, FakeCluster, Outside
from tests.fakes.loaders import PlainLoader
from tests.fakes.world import FakeNode


def node(said: KubernetesSettings, *, outside: Outside | None = None, role: str = "auto",
         version: str = "1.31.4") -> FakeNode:
    """Runs from its confirmed working slot; what it was told of its cluster comes only then."""
    found = FakeNode(PlainLoader, cluster=FakeCluster(outside=outside, version=version))
    run(found)
    found.settings = replace(found.settings, kubernetes=said, node=NodeSettings(role=role))
    return found


def run(found: FakeNode) -> FakeNode:
    if found.running is None:
        found.power_on()
    while found.session() is Outcome.REBOOTING:
        found.shut_down()
        found.power_on()
    return found


def tried(found: FakeNode) -> Transaction:
    run(found)
    assert last(found).task == "join", last(found)
    return last(found)


def reinstalled(found: FakeNode) -> Transaction:
    """Forced: what the proof before it would refuse is just what these tests are about."""
    run(asked(found, "reinstall", force="yes"))
    assert last(found).task == "reinstall" or found.cluster.present()
    return last(found)


def untouched(found: FakeNode) -> bool:
    return (found.cluster.made == [] and membership.of(found.world()) is None
            and not [name for name in found.cluster.root.live if name.startswith("etc/kubernetes")])


# what is refused


@pytest.mark.parametrize("said, outside, wanted", [
    (replace(JOINER, ca_cert_hashes=ca_hashes(certificates.OTHER_CA)), Outside(), "is another cluster's"),
    (replace(FOUNDER, endpoint="192.0.2.10:6443"), Outside(), "answers at 192.0.2.10:6443 already"),
], ids=["CA mismatch", "two control planes"])
def test_a_wrong_cluster_is_refused_and_nothing_changed(said: KubernetesSettings, outside: Outside,
                                                        wanted: str) -> None:
    found = node(said, outside=outside)
    txn = tried(found)
    assert wanted in txn.note and txn.facts["hint"] and untouched(found)
    before = last(found).id
    assert run(found) and last(found).id == before, "it is not tried again before something changes"
    assert duties.decide(found.world(), last(found)).why


@pytest.mark.parametrize("said", [FOUNDER, JOINER], ids=["initialise", "join"])
@pytest.mark.parametrize("path", [As.NODE.value, f"{PKI}/ca.key"])
def test_a_cluster_that_somebody_made_by_hand_is_left_alone(said: KubernetesSettings, path: str) -> None:
    """Its keys are nowhere else: whoever cleaned the root for kubeadm would destroy that cluster."""
    found = node(KubernetesSettings(), outside=Outside() if said is JOINER else None)
    run(found)
    found.cluster.root.write(path, b"by hand")
    found.settings = replace(found.settings, kubernetes=said)
    assert duties.decide(found.world(), last(found)) == duties.Duty()
    runner.submit(found.world(), "join", {}, requested_by="operator")
    txn = tried(found)
    assert "somebody else brought" in txn.note and "--force" in txn.facts["hint"]
    assert found.cluster.made == [] and found.cluster.read(path) == b"by hand"


def test_no_cluster_is_made_for_which_the_image_holds_no_pod_network() -> None:
    found = node(replace(FOUNDER, cni="calico"))
    txn = tried(found)
    assert "no /usr/share/k8r/cni/calico.yaml" in txn.note and "--cni" in txn.facts["hint"] and untouched(found)


def test_a_control_plane_that_does_not_answer_is_asked_again_later() -> None:
    outside = Outside()
    outside.answers = False
    found = node(JOINER, outside=outside)
    txn = tried(found)
    assert "does not answer" in txn.note and untouched(found)
    assert found.loader.decided() is Slot.WORKING, "the working slot stays confirmed"
    outside.answers = True
    assert tried(found).id == txn.id, "not at once"
    found.machine.sleep(duties.REST)
    assert tried(found).state.value == "done" and found.cluster.kubelet


def test_what_is_no_api_server_is_not_joined_and_takes_no_cluster_s_place(monkeypatch: pytest.MonkeyPatch) -> None:
    said = Probe(reachable=True, foreign=True, why="what answers at 192.0.2.10:6443 does not speak like an API server")
    for told in (JOINER, replace(FOUNDER, endpoint="192.0.2.10:6443")):
        found = node(told, outside=Outside())
        monkeypatch.setattr(found.cluster, "probe", lambda endpoint: said)
        txn = tried(found)
        assert "does not speak like an API server" in txn.note and untouched(found)
        assert "kubernetes.endpoint" in f"{txn.note}; {txn.facts['hint']}"


def test_an_expired_token_leaves_the_root_as_it_was() -> None:
    found = node(JOINER, outside=Outside(tokens=()))
    txn = tried(found)
    assert "token" in txn.note and TOKEN not in txn.note
    assert found.cluster.read(As.NODE.value) is None and not found.cluster.kubelet


def test_a_node_of_the_same_name_that_is_ready_elsewhere() -> None:
    outside = Outside()
    found = node(JOINER, outside=outside)
    outside.register("node-1", version="1.31.4")
    uid = outside.data["nodes"]["node-1"]["uid"]
    assert "node-1" in tried(found).note and found.cluster.read(As.NODE.value) is None
    assert outside.data["nodes"]["node-1"]["uid"] == uid


def test_without_a_state_partition_nothing_is_entered() -> None:
    found = node(JOINER, outside=Outside())
    found.files.on_partition = False
    assert duties.decide(found.world(), last(found)).action is duties.Action.NONE


def test_a_node_that_was_told_nothing_stays_up_and_says_what_to_add() -> None:
    found = node(KubernetesSettings(), outside=Outside())
    run(found)
    duty = duties.decide(found.world(), last(found))
    assert last(found).task == "first-boot" and duty.action is duties.Action.NONE
    assert "no cluster" in duty.why and "initialise" in duty.hint


def test_a_root_without_kubernetes_owes_nobody_anything() -> None:
    found = node(JOINER, outside=Outside(), version="")
    run(found)
    assert last(found).task == "first-boot" and duties.decide(found.world(), last(found)) == duties.Duty()


def test_a_state_partition_of_another_cluster() -> None:
    found = run(joiner(PlainLoader))
    found.settings = replace(found.settings, kubernetes=replace(
        JOINER, ca_cert_hashes=ca_hashes(certificates.OTHER_CA)))
    found.cluster.remove(paths.STAMP)  # as on a fresh root
    txn = tried(found)
    assert "from another cluster" in txn.note and found.cluster.made == ["join"]


# coming back


def test_a_worker_comes_back_without_token_and_without_kubeadm() -> None:
    found = updated(joiner(PlainLoader))
    assert isinstance(found.cluster.outside, Outside)
    found.cluster.outside.tokens.clear()
    assert reinstalled(found).state.value == "done"
    assert found.cluster.made == ["join"] and found.cluster.kubelet


def test_a_worker_comes_back_without_flags_that_its_kubelet_lost() -> None:
    found = updated(joiner(PlainLoader))
    found.power_on()
    found.cluster.root.live[paths.FLAGS] = b'KUBELET_KUBEADM_ARGS="--pod-infra-container-image=p:3.2 --node-ip=::1"\n'
    found.cluster.version = "1.35.0"
    assert reinstalled(found).state.value == "done"
    assert found.cluster.read(paths.FLAGS) == b'KUBELET_KUBEADM_ARGS=" --node-ip=::1"\n'


@pytest.mark.parametrize(("latency", "state"), [(0.004, "failed"), (0.050, "done")])
def test_a_kubelet_gets_more_time_on_a_slow_medium(latency: float, state: str) -> None:
    """Two minutes on a good one."""
    found = updated(joiner(PlainLoader))
    found.cluster.kubelet_slow, found.cluster.latency = 500.0, latency
    assert reinstalled(found).state.value == state


def test_a_worker_whose_control_plane_is_down_is_not_condemned() -> None:
    found = updated(joiner(PlainLoader))
    assert isinstance(found.cluster.outside, Outside)
    found.cluster.outside.answers = False
    assert reinstalled(found).state.value == "done"
    assert found.loader.decided() is Slot.WORKING and found.cluster.kubelet


@pytest.mark.parametrize("tokens, entered", [((TOKEN,), True), ((), False), ((f"{TOKEN[:7]}{16 * 'f'}",), False)])
def test_an_expired_credential_falls_back_to_a_token(tokens: tuple[str, ...], entered: bool) -> None:
    found = updated(joiner(PlainLoader))
    outside = found.cluster.outside
    assert isinstance(outside, Outside)
    outside.tokens = set(tokens)
    store.keep(found.files, paths.CLIENT, certificates.EXPIRED)
    found.power_on()
    found.cluster.root.live[paths.CLIENT] = certificates.EXPIRED
    txn = reinstalled(found)
    assert found.loader.decided() is Slot.WORKING, txn.note
    assert membership.complete(found.world(), membership.of(found.world())) is entered
    if not entered:
        assert last(found).task == "join" and "token" in last(found).note, last(found).note


def without_credential(kubeconfig: bytes) -> FakeNode:
    """On a fresh root, with a kept credential that has expired, no token, and a kubeconfig in /etc/k8r."""
    found = run(joiner(PlainLoader))
    outside = found.cluster.outside
    assert isinstance(outside, Outside)
    data = outside.data
    data["nodes"][found.cluster.host]["ready"] = False
    outside.change(data)
    outside.tokens = set()
    store.keep(found.files, paths.CLIENT, certificates.EXPIRED)
    membership.clean(found.world())
    found.cluster.root.live[paths.TOKENS] = kubeconfig
    return found


def test_a_worker_whose_credential_expired_makes_itself_a_token() -> None:
    found = without_credential(b"may make tokens")
    kept = membership.of(found.world())
    assert kept is not None
    entry.come_back(found.world(), kept)
    assert membership.complete(found.world(), membership.of(found.world()))
    made = [line for line in found.cluster.made if "token create" in line]
    assert made == [f"token create --ttl=1h --kubeconfig=/{paths.TOKENS}"]
    assert not any(MADE in line for line in found.cluster.made), "a token on a command line"


def test_a_kubeconfig_that_makes_no_token_is_told_with_what_was_lost() -> None:
    found = without_credential(b"may do nothing")
    found.settings = replace(found.settings, kubernetes=replace(found.settings.kubernetes, join_token=""))
    kept = membership.of(found.world())
    assert kept is not None
    with pytest.raises(Unreachable, match="expired") as error:
        entry.come_back(found.world(), kept)
    said = f"{error.value}"
    assert "secrets is forbidden" in said and paths.TOKENS in said and "--token-file" in error.value.hint


def test_a_control_plane_comes_back_as_itself_and_changes_nothing_in_etcd() -> None:
    found = updated(founder(PlainLoader))
    run_on = found.cluster.data
    assert reinstalled(found).state.value == "done"
    assert found.cluster.data == run_on and "--skip-phases" in found.cluster.made[-1]
    assert found.cluster.read(f"{MANIFESTS}/etcd.yaml")


def test_the_control_plane_of_a_failed_attempt_ends_before_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """kubeadm would take what is left of it for its own, until the kubelet ends it in the middle."""
    found = node(FOUNDER)
    tried(found)
    looks, running = iter([True, True, False]), list[bool]()
    monkeypatch.setattr(found.cluster, "etcd_running", lambda: next(looks))
    monkeypatch.setattr(found.cluster, "stop_kubelet", lambda: running.append(next(looks, False)))
    known = membership.of(found.world())
    assert known is not None
    entry._begin(found.world(), known)
    assert running == [False], "the kubelet, which ends static pods, was stopped before they had ended"


@pytest.mark.parametrize("said", [
    '[kubelet-check] Get "http://localhost:10248/healthz": dial tcp [::1]:10248: connect: connection refused.',
    'Get "https://192.0.2.11:6443/healthz?timeout=10s": dial tcp 192.0.2.11:6443: connect: connection refused',
    "execution phase preflight\n\t[ERROR ImagePull]: failed to pull image registry.k8s.io/pause:3.10: i/o timeout",
], ids=["kubelet", "API server", "registry"])
def test_no_system_is_confirmed_without_its_control_plane(said: str) -> None:
    """What does not answer is this node's own: nobody outside is to blame."""
    found = updated(founder(PlainLoader))
    data, found.cluster.broken = found.cluster.data, said
    txn = reinstalled(found)
    assert txn.task == "reinstall" and txn.state.value == "failed" and txn.facts["failed-step"] == "rejoin"
    assert found.running is Slot.IMAGE and found.cluster.data == data


@pytest.mark.parametrize("mended", [True, False])
def test_a_control_plane_makes_no_certificates_by_a_clock_that_is_behind(mended: bool) -> None:
    """They would have ended before the time server comes, and the node with them."""
    found = updated(founder(PlainLoader))
    made, found.cluster.time = list(found.cluster.made), 0.0
    if mended:
        found.machine.on_sleep = lambda: setattr(
            found.cluster, "time", None if found.machine.uptime > 60 else 0.0)
    txn = reinstalled(found)
    assert txn.state.value == ("done" if mended else "failed"), txn.note
    assert mended or ("the clock is wrong" in txn.note and found.cluster.made == made)


@pytest.mark.parametrize("what", ["host", "ip"])
def test_a_control_plane_under_another_name_or_address_is_refused(what: str) -> None:
    found = updated(founder(PlainLoader))
    setattr(found.cluster, what, "192.0.2.99")
    data = found.cluster.data
    txn = reinstalled(found)
    assert txn.state.value == "failed" and "192.0.2.99" in txn.note and "back" in txn.facts["hint"]
    assert found.cluster.data == data and found.running is Slot.IMAGE


@pytest.mark.parametrize(("what", "state"), [("host", "failed"), ("ip", "done")])
def test_a_worker_may_change_its_address_and_not_its_name(what: str, state: str) -> None:
    """The kubelet would call itself something that its credential is not for, and never be Ready."""
    found = updated(joiner(PlainLoader))
    setattr(found.cluster, what, "192-0-2-99")
    txn = reinstalled(found)
    assert txn.state.value == state, txn.note
    if state == "failed":
        assert "was node-1 and is 192-0-2-99 now" in txn.note and "back" in txn.facts["hint"]


def test_a_control_plane_whose_etcd_is_gone_does_not_start_an_empty_one() -> None:
    found = updated(founder(PlainLoader))
    for files in (found.files, *(f for f in (found.state.mounts.staged,) if f)):
        files.live.pop("cluster/etcd/member", None)
    for content in found.state.mounts.contents.values():
        content.pop("cluster/etcd/member", None)
    found.cluster.data = ""
    txn = reinstalled(found)
    assert "etcd's data is not on the state partition" in txn.note
    assert found.files.read("cluster/etcd/member") is None


def test_a_new_certificate_of_the_kubelet_is_followed_a_damaged_one_is_not() -> None:
    found = inside(joiner(PlainLoader))
    found.power_on()
    for data, kept in ((b"", certificates.NODE), (certificates.EXPIRED, certificates.EXPIRED)):
        found.cluster.root.live[paths.CLIENT] = data
        assert membership.follow(found.world()) and membership.followed(found.world())
        assert store.kept(found.files, paths.CLIENT) == kept


def test_a_second_control_plane_joins_and_comes_back_as_the_member_that_it_was() -> None:
    key = "0" * 64
    found = node(replace(JOINER, certificate_key=key), outside=Outside(), role="control-plane")
    assert tried(found).state.value == "done"
    known = membership.of(found.world())
    assert known is not None and known.control_plane and not known.founder
    assert '"pod_cidr": "10.244.0.0/16"' in known.configuration
    before = json.loads(found.files.read("cluster/etcd/member") or b"")
    found.shut_down()
    asked(found, "update", source="release-2").session()
    found.shut_down()
    assert reinstalled(found).state.value == "done"
    after = json.loads(found.files.read("cluster/etcd/member") or b"")
    assert found.cluster.made[-1].startswith("init ") and after["version"] > before["version"]  # it was drained
    assert [after[key] for key in ("cluster", "objects")] == [before[key] for key in ("cluster", "objects")]


# the secret


def test_a_used_join_secret_is_forgotten() -> None:
    found = node(KubernetesSettings(), outside=Outside())
    store.keep_join_secret(found.files, JoinSecret(endpoint="192.0.2.10:6443", token=TOKEN,
                                                   ca_hashes=ca_hashes(certificates.CA)))
    runner.submit(found.world(), "join", {}, requested_by="operator")
    assert tried(found).state.value == "done"
    assert store.join_secret(found.files) is None
    assert not [name for name, data in found.files.live.items() if TOKEN.encode() in data]


def test_what_a_newer_release_wrote_into_the_membership_stays() -> None:
    found = node(KubernetesSettings())
    store.remember(found.files, Membership(phase=Phase.ENTERING, role="worker"))
    raw = found.files.live[store.MEMBERSHIP]
    found.files.write(store.MEMBERSHIP, raw.replace(b"{", b'{"later": 1,', 1))
    store.remember(found.files, Membership(phase=Phase.MEMBER, role="worker"))
    assert b'"later": 1' in found.files.live[store.MEMBERSHIP]
    known = membership.of(found.world())
    assert known is not None and known.phase is Phase.MEMBER
