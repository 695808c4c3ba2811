"""join: into a cluster, with what an operator gives or with what the configuration says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from k8r_agent.cli.console import Console
from k8r_agent.cli.parser import add_run_options
from k8r_agent.cli.submit import refuse_when_busy, submit
from k8r_agent.errors import ConfigError, UsageError
from k8r_agent.model.cluster import CONTROL_PLANE, JoinSecret

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from k8r_agent.cli.node import Node

_PRINT = "`kubeadm token create --print-join-command` on a control-plane node prints endpoint, token and hash"
_MAX = 64 << 10  # bytes


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--endpoint", metavar="HOST:PORT", default="", help="where the control plane answers")
    parser.add_argument("--token-file", metavar="FILE", default="",
                        help="file with a token, or with a whole `kubeadm join` command; - is standard input")
    parser.add_argument("--ca-cert-hash", metavar="sha256:HASH", action="append", default=[],
                        help="hash of the cluster's CA; may be repeated")
    parser.add_argument("--control-plane", action="store_true", help="join as a control-plane node")
    add_run_options(parser)


def run(args: Namespace, console: Console, node: Node) -> int:
    """The secret goes to the state partition and not into the request, which is kept as long as the journal."""
    node.require_root("join")
    given = _given(args, console)
    if given != JoinSecret() and not args.dry_run:
        from k8r_agent.store import cluster as store

        node.settings()
        refuse_when_busy(node)
        store.keep_join_secret(node.files, _whole(given, node))
    return submit("join", {}, args, console, node)


def _given(args: Namespace, console: Console) -> JoinSecret:
    found = _read(args.token_file, console) if args.token_file else JoinSecret()
    try:
        from k8r_agent.config import clusterreaders as read

        if args.endpoint:
            found = replace(found, endpoint=read.endpoint(args.endpoint))
        if args.ca_cert_hash:
            found = replace(found, ca_hashes=tuple(read.ca_hash(value) for value in args.ca_cert_hash))
    except ValueError as error:
        raise UsageError(str(error), hint=_PRINT) from None
    return replace(found, role=CONTROL_PLANE) if args.control_plane else found


def _whole(given: JoinSecret, node: Node) -> JoinSecret:
    """Completed by the configuration. Raises UsageError when something is still missing."""
    from k8r_agent.steps.entry import completed

    whole = completed(given, node.settings().kubernetes)
    for what, value in (("endpoint (--endpoint)", whole.endpoint), ("token (--token-file)", whole.token),
                        ("hash of the cluster's CA (--ca-cert-hash)", whole.ca_hashes)):
        if not value:
            raise UsageError(f"the {what} is missing", hint=_PRINT)
    return whole


def _read(name: str, console: Console) -> JoinSecret:
    """A token, or the line that kubeadm prints. What is wrong with it is told without showing it."""
    import sys

    try:
        data = sys.stdin.buffer.read(_MAX) if name == "-" else Path(name).read_bytes()[:_MAX]
    except OSError as error:
        raise UsageError(f"{name} cannot be read", why=error.strerror or str(error)) from None
    text = data.decode("utf-8", "replace").strip()
    return _command(text, name) if " " in text else JoinSecret(token=_token(text, name))


def _token(text: str, where: str) -> str:
    from k8r_agent.config import clusterreaders as read

    try:
        return read.token(text)
    except ValueError as error:
        raise UsageError(f"{where} holds no bootstrap token", why=str(error), hint=_PRINT) from None


def _command(text: str, where: str) -> JoinSecret:
    from k8r_agent.config import clusterreaders as read
    from k8r_agent.config.fragments import Entry
    from k8r_agent.config.legacycluster import join_command

    said: dict[str, object] = {}
    for found in join_command(Entry(section="", key="", value=text, where=where)):
        if isinstance(found, ConfigError):
            raise UsageError(f"{where} holds neither a token nor a `kubeadm join` command", hint=_PRINT)
        if isinstance(found, Entry):
            said[found.key] = found.value
    try:
        hashes = said.get("ca_cert_hashes")
        return JoinSecret(
            endpoint=read.endpoint(said.get("endpoint", "")), token=_token(str(said.get("join_token", "")), where),
            ca_hashes=tuple(read.ca_hash(value) for value in hashes) if isinstance(hashes, list) else (),
            certificate_key=str(said.get("certificate_key", "")),
            role=CONTROL_PLANE if said.get("role") == CONTROL_PLANE else "")
    except ValueError as error:
        raise UsageError(f"{where} is not a usable `kubeadm join` command", why=str(error), hint=_PRINT) from None
