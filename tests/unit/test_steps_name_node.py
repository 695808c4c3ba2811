"""A node gets its name once, before its first cluster."""

from __future__ import annotations

from dataclasses import replace

import pytest

from k8r_agent.config.settings import KubernetesSettings, NodeSettings
from k8r_agent.errors import StepFailed
from k8r_agent.model.cluster import WORKER, Membership, Phase
from k8r_agent.ports.step import World
from k8r_agent.steps.name_node import NameNode
from k8r_agent.store import cluster as store
from tests.fakes.cluster import FakeCluster
from tests.fakes.identity import FakeIdentity
from tests.fakes.machine import FakeMachine
from tests.fakes.slotbench import Node


def node(name: str, *, ip: str = "192.0.2.11") -> tuple[World, FakeCluster, FakeIdentity]:
    bench, cluster = Node(), FakeCluster(name=name)
    cluster.ip = ip
    identity = FakeIdentity(files=bench.files)

    def renamed(to: str) -> None:
        cluster.host, identity.has["hostname"] = to, to.encode()

    assert isinstance(bench.world.machine, FakeMachine)
    bench.world.machine.on_rename = renamed
    bench.world.cluster, bench.world.identity = cluster, identity
    return bench.world, cluster, identity


@pytest.mark.parametrize("before", ["node-0123abcd", "localhost", "debian"])
def test_a_node_without_a_name_of_its_own_is_named_after_its_address(before: str) -> None:
    world, cluster, identity = node(before)
    assert not NameNode().done(world)
    NameNode().apply(world)
    assert NameNode().done(world) and cluster.name() == "192-0-2-11"
    assert world.files.read("identity/hostname") == b"192-0-2-11" and identity.captured()
    NameNode().apply(world)
    assert NameNode().done(world), "as after a kill"


@pytest.mark.parametrize("before", ["rack1-07", "192-0-2-99"])
def test_a_name_is_kept(before: str) -> None:
    assert NameNode().done(node(before)[0])


def test_the_setting_and_the_address_that_is_set_go_first() -> None:
    world, cluster, _ = node("debian")
    world.settings = replace(world.settings, kubernetes=KubernetesSettings(node_ip="10.9.8.7"))
    NameNode().apply(world)
    assert cluster.name() == "10-9-8-7"
    world.settings = replace(world.settings, node=NodeSettings(hostname="cp1"))
    assert not NameNode().done(world)
    NameNode().apply(world)
    assert cluster.name() == "cp1"


def test_once_in_a_cluster_the_name_stays() -> None:
    world, _, _ = node("debian")
    store.remember(world.files, Membership(phase=Phase.ENTERING, role=WORKER, node_name="debian"))
    assert NameNode().done(world)


def test_without_an_address_there_is_nothing_to_do_yet() -> None:
    assert NameNode().done(node("debian", ip="")[0])


def test_a_system_that_keeps_its_name_is_an_error() -> None:
    world, _, _ = node("debian")
    assert isinstance(world.machine, FakeMachine)
    world.machine.on_rename = lambda name: None
    with pytest.raises(StepFailed, match="could not be named 192-0-2-11"):
        NameNode().apply(world)
