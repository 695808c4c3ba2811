"""SSH signatures of manifests: the key an operator already has, hardware keys included, and no clock needed.

Only the manifest is signed; everything else of a bundle hangs off its hashes.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from k8r_agent.errors import CommandFailed, SignatureError
from k8r_agent.ports.commands import Commands

NAMESPACE = "k8r-bundle"
ALLOWED_SIGNERS = (Path("/etc/k8r/allowed_signers"), Path("/usr/lib/k8r/allowed_signers"))
MAX_SIGNATURE = 64 << 10  # bytes
_MAX_SIGNERS = 1 << 20
_BEGIN, _END = "-----BEGIN SSH SIGNATURE-----", "-----END SSH SIGNATURE-----"


def verify(commands: Commands, data: bytes, signature: bytes, *,
           signers: Sequence[Path] = ALLOWED_SIGNERS) -> str:
    """Principal of the key that signed `data`. Raises SignatureError.

    `signers` are files in the format ALLOWED SIGNERS of ssh-keygen(1); those that do not exist count as empty.
    """
    fingerprint = _fingerprint(signature)
    allowed = _allowed(signers)
    where = " and ".join(map(str, signers))
    if not any(line.strip() and not line.lstrip().startswith(b"#") for line in allowed.splitlines()):
        raise SignatureError("no key is allowed to sign bundles", why=f"{where}: empty or missing",
                             hint="put a line of allowed_signers there: name, key type, key")
    directory = tempfile.mkdtemp(prefix="k8r-")  # 0700
    try:
        keys, sig = _private(directory, "signers", allowed), _private(directory, "sig", signature)
        principals = _principals(commands, keys, sig)
        if not principals:
            raise SignatureError(f"signed by a key that is not allowed: {fingerprint}",
                                 why=f"it is not in {where}",
                                 hint=f"if you trust it, add it to {signers[0]}")
        why = ""
        for principal in principals:
            result = commands.run(["ssh-keygen", "-Y", "verify", "-f", keys, "-I", principal, "-n", NAMESPACE,
                                   "-s", sig], ok=range(256), stdin=data)
            if result.code == 0:
                return principal
            why = (result.stderr or result.stdout).strip().replace("\r", "")[-300:]
        raise SignatureError("the signature does not fit the manifest", why=why,
                             hint="the manifest was changed after it was signed, or was signed for another purpose")
    except CommandFailed as error:
        raise SignatureError("the signature cannot be checked", why=str(error), hint=error.hint) from error
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _principals(commands: Commands, keys: str, sig: str) -> list[str]:
    """Names in the lines of allowed_signers that carry the key. A line may hold patterns: each matches itself."""
    result = commands.run(["ssh-keygen", "-Y", "find-principals", "-s", sig, "-f", keys], ok=range(256))
    names = [name for line in result.stdout.splitlines() for name in line.strip().split(",")]
    return [name for name in names if name and not name.startswith(("!", "-"))] if result.code == 0 else []


def _allowed(signers: Sequence[Path]) -> bytes:
    found = []
    for path in signers:
        try:
            with path.open("rb") as file:
                data = file.read(_MAX_SIGNERS + 1)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise SignatureError(f"{path} cannot be read", why=error.strerror or str(error)) from error
        if len(data) > _MAX_SIGNERS:
            raise SignatureError(f"{path} is too large")
        found.append(data)
    return b"\n".join(found) + b"\n"  # the first file may lack its last line end


def _private(directory: str, name: str, data: bytes) -> str:
    path = os.path.join(directory, name)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)
    return path


def _fingerprint(signature: bytes) -> str:
    """`ssh-ed25519 SHA256:…` of the key inside a signature (PROTOCOL.sshsig). Raises SignatureError."""
    if len(signature) > MAX_SIGNATURE:
        raise SignatureError("the signature is too large", why=f"{len(signature)} bytes")
    try:
        text = signature.decode("ascii").strip()
        if not (text.startswith(_BEGIN) and text.endswith(_END)):
            raise ValueError(f"it does not begin with {_BEGIN}")
        blob = base64.b64decode("".join(text[len(_BEGIN):-len(_END)].split()), validate=True)
        if blob[:6] != b"SSHSIG":
            raise ValueError("not an SSHSIG blob")
        key = _string(blob, 10)
        kind = _string(key, 0).decode("ascii")
    except (ValueError, binascii.Error) as error:
        page = signature.lstrip()[:1] == b"<"
        raise SignatureError("this is not an SSH signature", why=str(error),
                             hint="it looks like a web page: is the address right?" if page else "") from None
    digest = base64.b64encode(hashlib.sha256(key).digest()).decode().rstrip("=")
    return f"{kind} SHA256:{digest}"


def _string(blob: bytes, at: int) -> bytes:
    length = int.from_bytes(blob[at:at + 4], "big")
    if at + 4 + length > len(blob):
        raise ValueError("it is cut off")
    return blob[at + 4:at + 4 + length]
