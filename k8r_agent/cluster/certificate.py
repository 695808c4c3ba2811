"""X.509 certificates, as far as a node must know its own: how long they are good for, who signed, whose they are.

A walk over DER (X.690) down to the few fields of RFC 5280 §4.1 that are needed; nothing is verified here.
"""

from __future__ import annotations

import base64
import binascii
import calendar
import hashlib
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass

_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----(.*?)-----END CERTIFICATE-----", re.DOTALL)
_VERSION, _UTC_TIME = 0xA0, 0x17
_CN, _O = bytes.fromhex("550403"), bytes.fromhex("55040a")


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """Times in seconds since the epoch. `public_key` is `sha256:` and the hash of the SubjectPublicKeyInfo in
    hexadecimal, which is kubeadm's `caCertHashes`. `issuer` and `subject` are DER."""

    not_before: float
    not_after: float
    public_key: str
    issuer: bytes
    subject: bytes
    common_name: str
    organization: str


def read(pem: bytes) -> Certificate:
    """The first certificate of a PEM file (a key before or after it does no harm). Raises ValueError."""
    found = _PEM.search(pem)
    if found is None:
        raise ValueError("there is no certificate in it")
    try:
        der = base64.b64decode(b"".join(found[1].split()), validate=True)
        (_, whole, _), = _values(der)
        (_, tbs, _), *_ = _values(whole)
        fields = [field for field in _values(tbs) if field[0] != _VERSION]
        _, _, issuer, validity, subject, key = fields[:6]
        start, end = _values(validity[1])
        names = dict(_names(subject[1]))
        return Certificate(
            not_before=_time(start), not_after=_time(end), public_key=f"sha256:{hashlib.sha256(key[2]).hexdigest()}",
            issuer=issuer[2], subject=subject[2], common_name=names.get(_CN, ""), organization=names.get(_O, ""))
    except (ValueError, IndexError, binascii.Error) as error:
        raise ValueError(f"the certificate in it cannot be read ({error})") from None


def ca_hashes(pem: bytes) -> tuple[str, ...]:
    """Of each certificate of a bundle. Raises ValueError."""
    blocks = [b"-----BEGIN CERTIFICATE-----" + inner + b"-----END CERTIFICATE-----" for inner in _PEM.findall(pem)]
    return tuple(read(block).public_key for block in blocks)


def _values(data: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """Tag, content and the whole encoding of each value. Raises ValueError, IndexError."""
    at = 0
    while at < len(data):
        tag, length, start = data[at], data[at + 1], at + 2
        if length & 0x80:
            number = length & 0x7F
            length, start = int.from_bytes(data[start:start + number], "big"), start + number
        end = start + length
        if end > len(data):
            raise ValueError("it is cut off")
        yield tag, data[start:end], data[at:end]
        at = end


def _time(value: tuple[int, bytes, bytes]) -> float:
    """UTCTime has two digits of the year: 50 to 99 are the last century's (RFC 5280 §4.1.2.5.1)."""
    tag, raw, _ = value
    text = raw.decode("ascii")
    if tag == _UTC_TIME:
        text = ("19" if text >= "50" else "20") + text
    return float(calendar.timegm(time.strptime(text, "%Y%m%d%H%M%SZ")))


def _names(subject: bytes) -> Iterator[tuple[bytes, str]]:
    for _, attributes, _ in _values(subject):
        for _, pair, _ in _values(attributes):
            (_, kind, _), (_, text, _) = _values(pair)
            yield kind, text.decode("utf-8", "replace")
