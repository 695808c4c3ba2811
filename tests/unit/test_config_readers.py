from __future__ import annotations

import base64
import re

import pytest

from k8r_agent.config import readers as r


def blob(kind: str, *fields: bytes) -> str:
    data = b"".join(len(f).to_bytes(4, "big") + f for f in (kind.encode(), *fields))
    return base64.b64encode(data).decode()


ED25519 = f"ssh-ed25519 {blob('ssh-ed25519', bytes(32))} me@desk"


@pytest.mark.parametrize(("reader", "value", "expected"), [
    (r.text, "x", "x"),
    (r.flag, True, True),
    (r.size, "4GiB", 4 << 30),
    (r.size, "512MiB", 512 << 20),
    (r.at_least("256MiB", r.size), "256MiB", 256 << 20),
    (r.duration, "20min", 1200.0), (r.at_least("2min", r.duration), "2min", 120.0),
    (r.at_least("2min", r.duration), "1h", 3600.0),
    (r.count(1, 9), 3, 3),
    (r.choice("worker", "control-plane", aliases={"master": "control-plane"}), "master", "control-plane"),
    (r.list_of(r.ip), ["1.1.1.1", "::1"], ("1.1.1.1", "::1")),
    (r.optional(r.hostname), "", ""),
    (r.hostname, "node-1", "node-1"),
    (r.hostname, "node-1.example.org", "node-1.example.org"),
    (r.user, "ubuntu", "ubuntu"),
    (r.interface, "en*", "en*"),
    (r.address, "192.168.1.20/24", "192.168.1.20/24"),
    (r.address, "192.168.1.20/32", "192.168.1.20/32"),
    (r.address, "fd00::5/64", "fd00::5/64"),
    (r.ip, "10.0.0.1", "10.0.0.1"),
    (r.path, "/etc/ssl/ca.pem", "/etc/ssl/ca.pem"),
    (r.source, "/srv/bundles/2", "/srv/bundles/2"),
    (r.source, "https://images.example.org:8443/k8r/", "https://images.example.org:8443/k8r/"),
    (r.ssh_key, ED25519, ED25519),
    (r.ssh_key, f"  {ED25519}\n", ED25519),
    (r.ssh_key, f"ssh-rsa {blob('ssh-rsa', b'3', bytes(257))}", f"ssh-rsa {blob('ssh-rsa', b'3', bytes(257))}"),
])
def test_good_values(reader: r.Reader, value: object, expected: object) -> None:
    assert reader(value) == expected


@pytest.mark.parametrize(("reader", "value", "says"), [
    (r.text, 5, "string in quotes"),
    (r.flag, "yes", "true or false"),
    (r.flag, 1, "true or false"),
    (r.size, 4, "no unit"),
    (r.size, "4G", "units:"),
    (r.size, "1B", "whole number of MiB"),
    (r.at_least("256MiB", r.size), "255MiB", "too small: at least 256MiB"),
    (r.at_least("256MiB", r.size), 256, "no unit"),
    (r.duration, 90, "no unit"),
    (r.duration, "90", "not a duration"), (r.at_least("2min", r.duration), "119s", "at least 2min"),
    (r.at_least("2min", r.duration), "1min", "too short"), (r.at_least("2min", r.duration), 600, "no unit"),
    (r.count(1, 9), 0, "from 1 to 9"),
    (r.count(1, 9), True, "from 1 to 9"),
    (r.choice("worker", "control-plane"), "slave", "one of worker, control-plane"),
    (r.choice("worker"), 1, "string"),
    (r.list_of(r.ip), "1.1.1.1", "expected a list"),
    (r.list_of(r.ip), ["1.1.1.1", "dns"], "'dns' is not an IP address"),
    (r.hostname, "Node", "lower-case"),
    (r.hostname, "-node", "not '-' at an end"),
    (r.hostname, "a" * 65, "64 in all"),
    (r.hostname, "a..b", "not a host name"),
    (r.user, "Root", "not a user name"),
    (r.interface, "eth0; reboot", "not an interface"),
    (r.address, "192.168.1.20", "prefix length"),
    (r.address, "", "192.168.1.20/24"),
    (r.address, "192.168.1.300/24", "not an address"),
    (r.address, "192.168.1.0/24", "is a network"),
    (r.ip, "example.org", "not an IP address"),
    (r.path, "ca.pem", "absolute"),
    (r.source, "images/2", "neither"),
    (r.source, "ftp://example.org/", "neither"),
    (r.source, "http:///x", "neither"),
    (r.source, "https://me:secret@example.org/", "plain prefix"),
    (r.source, "https://example.org/a?b", "plain prefix"),
    (r.source, "https://example.org:x/", "not a URL"),
    (r.ssh_key, ED25519[:60], "cut off"),
    (r.ssh_key, ED25519.replace("ssh-ed25519", "ssh-rsa"), "another type"),
    (r.ssh_key, "AAAAC3Nz", "not a public SSH key"),
    (r.ssh_key, "-----BEGIN OPENSSH PRIVATE KEY-----", "a private key is not"),
    (r.ssh_key, "ssh-ed25519 !!!!", "cut off"),
])
def test_bad_values_say_what_is_expected(reader: r.Reader, value: object, says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)):
        reader(value)


def test_a_private_key_is_never_repeated() -> None:
    with pytest.raises(ValueError, match="private key") as caught:
        r.ssh_key("-----BEGIN OPENSSH PRIVATE KEY----- b3BlbnNzaC1rZXktdjEA")
    assert "b3Blbn" not in str(caught.value)
