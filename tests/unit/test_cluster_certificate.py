"""Certificates: what openssl says of them. The hashes are those of `openssl pkey -pubin -outform der | sha256sum`."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k8r_agent.cluster import patience
from k8r_agent.cluster.certificate import ca_hashes, read
from tests.fakes import certificates

CA = "sha256:51c6dcff758cfc30d53ba2766b13707fa0a9c499943b1cb637b35b111f130245"
OTHER = "sha256:397f6d7cea52d80bcfa35d046d5ac0b635ec9de47b607588a94bee45ae526730"


def test_a_credential_says_whose_it_is_and_for_how_long() -> None:
    found, ca = read(b"key before\n" + certificates.EXPIRED), read(certificates.CA)
    assert (found.common_name, found.organization) == ("system:node:node-1", "system:nodes")
    assert (found.not_before, found.not_after) == (1577836800.0, 1609459200.0)
    assert found.issuer == ca.subject and ca.not_after > 4_000_000_000  # GeneralizedTime after 2049


def test_the_hash_is_kubeadms() -> None:
    assert read(certificates.CA).public_key == CA
    assert ca_hashes(certificates.CA + b"\n" + certificates.OTHER_CA) == (CA, OTHER)


@pytest.mark.parametrize("pem", [b"", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----",
                                 certificates.CA.replace(b"MII", b"!!!"), certificates.CA[:200]])
def test_what_is_no_certificate_is_a_value_error(pem: bytes) -> None:
    with pytest.raises(ValueError, match="certificate"):
        read(pem)


@given(st.integers(0, 580), st.binary(min_size=1, max_size=3))
def test_damage_is_a_value_error_at_worst(at: int, what: bytes) -> None:
    try:
        read(certificates.CA[:at] + what + certificates.CA[at + len(what):])
    except ValueError:
        pass


@pytest.mark.parametrize("fsync, hashed, factor", [
    (0.0002, 0.02, 1.0), (0.01, 0.05, 1.0), (0.025, 0.02, 2.5), (3.0, 0.02, patience.SLOWEST), (0.01, 0.15, 3.0),
    (0.04, 0.1, 4.0), (0.0002, 9.0, patience.SLOWEST),
])
def test_limits_grow_with_the_latency_of_the_medium_and_of_the_processor(fsync: float, hashed: float,
                                                                        factor: float) -> None:
    assert patience.factor(fsync, hashed) == pytest.approx(factor)
