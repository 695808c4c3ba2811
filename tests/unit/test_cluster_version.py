from __future__ import annotations

import itertools

import pytest

from k8r_agent.cluster.version import parse
from k8r_agent.errors import ClusterError


def test_versions_are_ordered_as_they_are_released() -> None:
    texts = ["1.9.9", "v1.20.2", "1.20.10", "1.21.0-alpha.3", "1.21.0-beta.0", "1.21.0-rc.2", "1.21.0-rc.10", "1.21.0",
             "1.37.0", "2.0.0"]
    versions = [parse(text) for text in texts]
    assert sorted(versions) == versions
    assert all(a < b and b > a and a != b for a, b in itertools.combinations(versions, 2))


@pytest.mark.parametrize(("text", "shown", "tag"), [
    ("v1.31.4", "1.31.4", "v1.31.4"), ("1.20.2-00", "1.20.2", "v1.20.2"), ("1.33.1-1.1", "1.33.1", "v1.33.1"),
    ("v1.33.0-rc.1", "1.33.0-rc.1", "v1.33.0-rc.1"), ("v1.28.3+k3s1", "1.28.3", "v1.28.3"),
    (" 1.2.3\n", "1.2.3", "v1.2.3"),
])
def test_as_it_is_written(text: str, shown: str, tag: str) -> None:
    assert (str(parse(text)), parse(text).tag) == (shown, tag)


@pytest.mark.parametrize("text", ["", "1.31", "latest", "v1.31.x", "1.31.4; rm -rf /", "-1.2.3"])
def test_what_is_no_version(text: str) -> None:
    with pytest.raises(ClusterError, match="not a version"):
        parse(text)
