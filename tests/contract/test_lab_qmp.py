"""The lab's connection to QEMU, where QEMU dies in the middle of a word."""

from __future__ import annotations

import socket
import threading

import pytest

from tests.lab.qmp import Qmp, QmpError


@pytest.fixture
def dying() -> tuple[Qmp, socket.socket]:
    ours, theirs = socket.socketpair()

    def greet() -> None:
        theirs.sendall(b'{"QMP": {}}\n')
        theirs.recv(1000)
        theirs.sendall(b'{"return": {}}\n')

    thread = threading.Thread(target=greet)
    thread.start()
    qmp = Qmp(ours)
    thread.join()
    return qmp, theirs


def test_a_reset_is_known_and_the_connection_closed_when_a_command_met_the_end(
        dying: tuple[Qmp, socket.socket]) -> None:
    qmp, qemu = dying
    qemu.sendall(b'{"event": "SHUTDOWN", "data": {"guest": true, "reason": "guest-reset"}}\n')
    qemu.close()
    with pytest.raises((QmpError, OSError)):
        qmp.command("query-blockstats")
    assert qmp.why_it_ended() == "guest-reset"
    qmp.close()
    with pytest.raises(QmpError):
        qmp.command("query-blockstats")
