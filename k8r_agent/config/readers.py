"""Typed readers of single values: TOML in, what the settings hold out. Each raises ValueError with a sentence.

Libraries are imported where they are used: most configurations need none of them, and `status` is to be quick.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import cast

from k8r_agent.model.units import parse_duration, parse_size

Reader = Callable[[object], object]

_HOST_LABEL = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
_INTERFACE = r"[A-Za-z0-9_.*?\[\]-]{1,15}"
_USER = r"[a-z_][a-z0-9_-]{0,31}"
_KEY_TYPES = (
    "ssh-ed25519", "ssh-rsa", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521",
    "sk-ssh-ed25519@openssh.com", "sk-ecdsa-sha2-nistp256@openssh.com",
)


def text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"expected a string in quotes, got {value!r}")
    return value


def flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"expected true or false (without quotes), got {value!r}")
    return value


def size(value: object) -> int:
    """Bytes. A bare number is refused: nobody remembers whether it meant bytes or mebibytes."""
    if not isinstance(value, str):
        raise ValueError(f'{value!r} has no unit; write for example "512MiB" or "4GiB", in quotes')
    number = parse_size(value)
    if number % (1 << 20):
        raise ValueError(f"{value!r} is not a whole number of MiB")
    return number


def duration(value: object) -> float:
    """Seconds."""
    if not isinstance(value, str):
        raise ValueError(f'{value!r} has no unit; write for example "90s", "20min" or "1h", in quotes')
    return parse_duration(value)


def at_least(least: str, reader: Callable[[object], float]) -> Reader:
    """Of sizes and durations."""
    short = "too short" if reader is duration else "too small"

    def read(value: object) -> float:
        found = reader(value)
        if found < reader(least):
            raise ValueError(f"{value!r} is {short}: at least {least}")
        return found
    return read


def count(low: int, high: int) -> Reader:
    def read(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ValueError(f"expected a whole number from {low} to {high}, got {value!r}")
        return value
    return read


def choice(*names: str, aliases: dict[str, str] | None = None) -> Reader:
    def read(value: object) -> str:
        word = (aliases or {}).get(text(value), text(value))
        if word not in names:
            raise ValueError(f"expected one of {', '.join(names)}, got {value!r}")
        return word
    return read


def list_of(reader: Reader) -> Reader:
    def read(value: object) -> tuple[object, ...]:
        if not isinstance(value, list):
            raise ValueError(f"expected a list, for example [\"a\", \"b\"], got {value!r}")
        return tuple(reader(item) for item in cast("list[object]", value))
    return read


def optional(reader: Reader) -> Reader:
    """The empty string means "not set"."""
    return lambda value: "" if value == "" else reader(value)


def hostname(value: object) -> str:
    """RFC 1123, lower case, as Kubernetes node names have to be; at most 64 bytes (Linux)."""
    name = text(value)
    if len(name) > 64 or not all(re.fullmatch(_HOST_LABEL, part) for part in name.split(".")):
        raise ValueError(f"{name!r} is not a host name: lower-case letters, digits and '-', not '-' at an end, "
                         "parts of at most 63 separated by '.', 64 in all")
    return name


def user(value: object) -> str:
    name = text(value)
    if not re.fullmatch(_USER, name):
        raise ValueError(f"{name!r} is not a user name: lower-case letters, digits, '_' and '-', at most 32")
    return name


def interface(value: object) -> str:
    """A name or a shell pattern as networkd's Name= takes it."""
    name = text(value)
    if not re.fullmatch(_INTERFACE, name):
        raise ValueError(f"{name!r} is not an interface name or pattern, such as eth0 or e*")
    return name


def address(value: object) -> str:
    """An address with its prefix length, IPv4 or IPv6."""
    import ipaddress

    word = text(value)
    if "/" not in word:
        raise ValueError(f"{word!r} lacks the prefix length; write for example {word or '192.168.1.20'}/24")
    try:
        found = ipaddress.ip_interface(word)
    except ValueError as error:
        raise ValueError(f"{word!r} is not an address: {error}") from None
    if found.network.num_addresses > 2 and found.ip == found.network.network_address and found.version == 4:
        raise ValueError(f"{word!r} is a network, not the address of a node in it")
    return str(found)


def ip(value: object) -> str:
    import ipaddress

    word = text(value)
    try:
        return str(ipaddress.ip_address(word))
    except ValueError:
        raise ValueError(f"{word!r} is not an IP address") from None


def path(value: object) -> str:
    name = text(value)
    if not name.startswith("/") or "\0" in name:
        raise ValueError(f"{name!r} is not an absolute path")
    return name


def source(value: object) -> str:
    """Where bundles are: an absolute directory or an http(s) prefix, without credentials, query or fragment."""
    word = text(value)
    if word.startswith("/"):
        return path(word)
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(word)
        _ = parts.port  # raises ValueError on a bad one
    except ValueError as error:
        raise ValueError(f"{word!r} is not a URL: {error}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{word!r} is neither an absolute directory nor an http:// or https:// prefix")
    if parts.username or parts.password or parts.query or parts.fragment or any(c.isspace() for c in word):
        raise ValueError(f"{word!r} must be a plain prefix: no user, password, '?', '#' or spaces")
    return word


def ssh_key(value: object) -> str:
    """One line of authorized_keys without options. A truncated paste is caught: the blob must be complete."""
    import base64
    import binascii

    line = " ".join(text(value).split())
    words = line.split(" ", 2)
    if len(words) < 2 or words[0] not in _KEY_TYPES:
        kind = "a private key" if "PRIVATE KEY" in line else repr(line[:40])
        raise ValueError(f"{kind} is not a public SSH key; expected the line of an id_….pub file: "
                         "ssh-ed25519 AAAA… comment")
    try:
        blob = base64.b64decode(words[1], validate=True)
    except (binascii.Error, ValueError):
        blob = b""
    if not _blob_complete(blob, words[0]):
        raise ValueError(f"the {words[0]} key {words[1][:16]}… is incomplete or of another type "
                         "(cut off while copying?)")
    return line


def _blob_complete(blob: bytes, kind: str) -> bool:
    """RFC 4253 §6.6: length-prefixed strings, the first is the type, and they fill the blob exactly."""
    fields: list[bytes] = []
    at = 0
    while at + 4 <= len(blob):
        length = int.from_bytes(blob[at:at + 4], "big")
        fields.append(blob[at + 4:at + 4 + length])
        at += 4 + length
    return at == len(blob) and len(fields) >= 2 and fields[0] == kind.encode()
