"""Who may go and who may not. Texts as etcdctl 3.4 printed them."""

from __future__ import annotations

import json

import pytest

from k8r_agent.model import etcd
from k8r_agent.model.etcd import Member, mine, quorum

ONE = ('{"header":{"cluster_id":324952591200643719,"member_id":3319814642761637952,"raft_term":2},"members":['
       '{"ID":1132581829356118680,"peerURLs":["https://192.0.2.12:2380"]},'
       '{"ID":3319814642761637952,"name":"cp-1","peerURLs":["https://192.0.2.11:2380"],'
       '"clientURLs":["https://192.0.2.11:2379"]}]}')


def of(*names: str, learner: str = "none") -> list[Member]:
    return [Member(id=str(number), name=name, peer_urls=(f"https://192.0.2.{number}:2380",), learner=name == learner,
                   client_urls=(f"https://192.0.2.{number}:2379",)) for number, name in enumerate(names, 1)]


def test_members_are_read() -> None:
    unstarted, first = etcd.members(ONE)
    assert first == Member(id="2e1259d415f2a040", name="cp-1", peer_urls=("https://192.0.2.11:2380",),
                           client_urls=("https://192.0.2.11:2379",))
    assert not unstarted.started and "never started" in str(unstarted)


@pytest.mark.parametrize("text", ["", "null", '{"members":[{}]}', '{"members":[{"ID":"x"}]}', "[1]"])
def test_what_is_no_list_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        etcd.members(text)
    with pytest.raises(ValueError):
        etcd.unhealthy(text or "1")


def test_health_is_read() -> None:
    text = json.dumps([{"endpoint": "https://a:2379", "health": True, "took": "9ms"},
                       {"endpoint": "https://b:2379", "health": False, "error": "context deadline exceeded"}])
    assert etcd.unhealthy(text) == {"https://b:2379": "context deadline exceeded"}


def test_the_only_member_keeps_its_data() -> None:
    found = of("cp-1")
    assert quorum(found, {}, found[0]).single and quorum(found, {}, found[0]).ok


@pytest.mark.parametrize(("found", "ill", "words"), [
    (of("cp-1", "cp-2", "cp-3"), {}, ""),
    (of("cp-1", "cp-2", "cp-3", "cp-4", "cp-5"), {}, ""),
    (of("cp-1", "cp-2"), {}, "2 voting members"),
    (of("cp-1", "cp-2", "cp-3", learner="cp-3"), {}, "2 voting members"),
    (of("cp-1", "cp-2", "cp-3", "cp-4", learner="cp-4"), {}, "just being added: cp-4"),
    (of("cp-1", "cp-2", "cp-3"), {"https://192.0.2.2:2379": "no answer"}, "cp-2: no answer"),
    (of("cp-1", "cp-2", ""), {}, "never started"),
])
def test_one_of_several_may_go_only_while_all_others_are_well(found: list[Member], ill: dict[str, str],
                                                             words: str) -> None:
    verdict = quorum(found, ill, found[0])
    assert not verdict.single and verdict.ok == (not words) and words in verdict.why


def test_a_node_that_is_no_member_says_so() -> None:
    assert "no member" in quorum(of("cp-1"), {}, None).why


def test_a_member_is_this_node_by_peer_url_and_name() -> None:
    found = of("cp-1", "cp-2", "")
    assert mine(found, name="cp-1", address="192.0.2.1") == found[0]
    assert mine(found, name="cp-1", address="192.0.2.9") is None
    assert mine(found, name="cp-9", address="192.0.2.1") is None
    assert mine(found, name="cp-9", address="192.0.2.3") == found[2], "added, and never started"


def test_hosts_of_urls() -> None:
    for url, expected in (("https://[fd00::1]:2380", "fd00::1"), ("https://cp:2380/", "cp"), ("cp", "cp")):
        assert etcd.host(url) == expected


def test_a_status_of_nothing_is_none() -> None:
    assert etcd.status('{"hash":2741790903,"revision":2,"totalKey":5,"totalSize":20480}').revision == 2
    for text in ('{"hash":1,"revision":1,"totalKey":0,"totalSize":1}', "{}", ""):
        with pytest.raises(ValueError):
            etcd.status(text)
