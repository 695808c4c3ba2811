"""Keys and signatures in the SSH format: an operator's own key, also one on a hardware token, signs manifests."""

from __future__ import annotations

import re
from pathlib import Path

from k8r_agent.effects.commands import FullCommands
from k8r_agent.errors import CommandFailed, UsageError
from k8r_agent.image.signature import NAMESPACE

_PRINCIPAL = re.compile(r"[A-Za-z0-9._@+-]+")


def signer_line(principal: str, public_key: str) -> str:
    """A line of an allowed_signers file, good for bundles and for nothing else. Raises UsageError."""
    if not _PRINCIPAL.fullmatch(principal):
        raise UsageError(f"{principal!r} is no name for a signer", hint="letters, digits and . _ @ + - only")
    fields = public_key.split()
    if len(fields) < 2 or not re.match(r"(sk-)?(ssh|ecdsa)-", fields[0]):
        raise UsageError("not an SSH public key", why=public_key.strip()[:60])
    return f'{principal} namespaces="{NAMESPACE}" {fields[0]} {fields[1]}\n'


def public_key(key: Path, commands: FullCommands) -> str:
    """From KEY.pub, or derived from the private key. Raises UsageError."""
    beside = key.with_name(f"{key.name}.pub")
    if beside.is_file():
        return beside.read_text().strip()
    if not key.is_file():
        raise UsageError(f"{key} does not exist", hint="make one: k8r-image keygen")
    try:
        return commands.run(["ssh-keygen", "-y", "-P", "", "-f", str(key)]).stdout.strip()
    except CommandFailed as error:
        raise UsageError(f"{key} is no SSH key that can be used without a passphrase", why=error.why,
                         hint=f"put the public key beside it as {beside.name}") from None


def keygen(key: Path, *, principal: str, commands: FullCommands) -> Path:
    """A new key pair KEY, KEY.pub and KEY.allowed_signers; never over an old one. Returns the last."""
    for path in (key, key.with_name(f"{key.name}.pub")):
        if path.exists():
            raise UsageError(f"{path} exists", why="a signing key is never overwritten")
    signer_line(principal, "ssh-ed25519 x")  # before anything is made
    key.parent.mkdir(parents=True, exist_ok=True)
    commands.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", principal, "-f", str(key)])
    signers = key.with_name(f"{key.name}.allowed_signers")
    signers.write_text(signer_line(principal, public_key(key, commands)))
    return signers


def principal_of(public: str) -> str:
    """The key's comment when it can name a signer, else `k8r-release`."""
    comment = public.split(maxsplit=2)[2:]
    return comment[0] if comment and _PRINCIPAL.fullmatch(comment[0]) else "k8r-release"


def sign(manifest: Path, key: Path, commands: FullCommands) -> Path:
    """Writes manifest.toml.sig beside the manifest. ed25519 signatures are the same each time.

    Raises UsageError for a missing key, CommandFailed when ssh-keygen cannot use it.
    """
    if not key.is_file():
        raise UsageError(f"{key} does not exist", hint="make one: k8r-image keygen")
    signature = manifest.with_name(f"{manifest.name}.sig")
    signature.unlink(missing_ok=True)  # ssh-keygen asks before it overwrites, and nobody would answer
    commands.run(["ssh-keygen", "-q", "-Y", "sign", "-f", str(key), "-n", NAMESPACE, str(manifest)], timeout=120)
    return signature

