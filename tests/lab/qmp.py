"""QEMU's machine protocol, as much of it as a lab needs."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from typing import Any


class QmpError(RuntimeError):
    pass


class Qmp:
    """One connection, the other end of which QEMU was given. Events that arrive between answers are kept in `events`.
    """

    def __init__(self, connection: socket.socket, *, timeout: float = 30.0) -> None:
        self.events: list[dict[str, Any]] = []
        self._lock, self._socket = threading.Lock(), connection
        self._socket.settimeout(timeout)
        self._file = self._socket.makefile("rwb")
        self._receive()
        self.command("qmp_capabilities")

    def _receive(self) -> dict[str, Any]:
        line = self._file.readline()
        if not line:
            raise QmpError("QEMU is gone")
        message: dict[str, Any] = json.loads(line)
        return message

    def command(self, name: str, **arguments: Any) -> Any:
        with self._lock:
            if self._file.closed:
                raise QmpError("QEMU is gone")
            self._file.write(json.dumps({"execute": name, "arguments": arguments}).encode() + b"\n")
            self._file.flush()
            while True:
                answer = self._receive()
                if "event" in answer:
                    self.events.append(answer)
                elif "error" in answer:
                    raise QmpError(f"{name}: {answer['error']['desc']}")
                else:
                    return answer["return"]

    def why_it_ended(self) -> str:
        """Of a QEMU that is gone: `guest-reset`, `guest-shutdown`, `host-signal`, …; "" when it could not say."""
        with self._lock, contextlib.suppress(QmpError, OSError, ValueError):
            while True:
                self.events.append(self._receive())
        said = [event["data"]["reason"] for event in self.events if event.get("event") == "SHUTDOWN"]
        return str(said[-1]) if said else ""

    def watchdog_fired(self) -> bool:
        """As far as events were received."""
        return any(event.get("event") == "WATCHDOG" for event in self.events)

    def written(self, drive: str) -> int:
        """Bytes the guest has written to a drive since QEMU started."""
        return int(self._stats(drive)["wr_bytes"])

    def operations(self, drive: str) -> int:
        """Writes and flushes since QEMU started."""
        stats = self._stats(drive)
        return int(stats["wr_operations"]) + int(stats["flush_operations"])

    def _stats(self, drive: str) -> dict[str, Any]:
        for device in self.command("query-blockstats"):
            if drive in (device.get("qdev"), device.get("device"), device.get("node-name")) \
                    or str(device.get("qdev", "")).startswith(f"/machine/peripheral/{drive}"):
                return dict(device["stats"])
        raise QmpError(f"no drive {drive}")

    def close(self) -> None:
        with self._lock:
            with contextlib.suppress(OSError):  # a command that a dying QEMU did not take is sent again, in vain
                self._file.close()
            self._socket.close()
