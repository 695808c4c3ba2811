"""systemd, logind and hostnamed over D-Bus: pydbus as a client only, and Gio itself where a descriptor comes back.

pydbus drops descriptors: an inhibitor taken through it is closed before the call returns and holds nothing. It is
never used to publish objects (deprecated since GLib 2.84). Remote errors all arrive as GLib.Error and are mapped once.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from typing import Any

from k8r_agent.errors import BusError

SYSTEM_BUS = "unix:path=/run/dbus/system_bus_socket"
_LOGIN, _LOGIN_PATH = "org.freedesktop.login1", "/org/freedesktop/login1"
_HOSTNAME = "org.freedesktop.hostname1"
_LOGIN_IFACE = "org.freedesktop.login1.Manager"
_POLL = 0.1  # seconds between looks at a job


@contextlib.contextmanager
def _mapped(what: str) -> Iterator[None]:
    from gi.repository import GLib

    try:
        yield
    except GLib.Error as error:
        text = error.message.removeprefix("GDBus.Error:")
        hint = "is D-Bus running? `systemctl status dbus`" if "No such file" in text else ""
        raise BusError(what, why=text, hint=hint) from error
    except (AttributeError, KeyError) as error:  # pydbus: the interface is not there
        raise BusError(what, why=f"the service does not offer {error}") from error


class Bus:
    """A private connection: losing the shared one would end the whole process (exit-on-close)."""

    def __init__(self, address: str = "") -> None:
        self._address = address or os.environ.get("DBUS_SYSTEM_BUS_ADDRESS", SYSTEM_BUS)
        self._bus: Any = None

    def _get(self, name: str, path: str | None = None) -> Any:
        import pydbus

        if self._bus is None:
            self._bus = pydbus.connect(self._address)
        return self._bus.get(name, path, timeout=10)

    def close(self) -> None:
        if self._bus is not None:
            self._bus.con.close_sync(None)
            self._bus = None

    def _systemd(self) -> Any:
        return self._get(".systemd1")

    def start_unit(self, unit: str, *, mode: str = "replace", timeout: float = 90.0) -> None:
        """Start it and wait for its job. Raises BusError when the unit ends up failed or takes too long (seconds)."""
        with _mapped(f"{unit} could not be started"):
            self._systemd()["org.freedesktop.systemd1.Manager"].StartUnit(unit, mode)
            deadline = time.monotonic() + timeout
            while (state := self.unit_state(unit)) in ("activating", "reloading", "deactivating"):
                if time.monotonic() > deadline:
                    raise BusError(f"{unit} did not start within {timeout:g} s", why=f"it is still {state}")
                time.sleep(_POLL)
        if state == "failed":
            raise BusError(f"{unit} failed", hint=f"journalctl -u {unit}")

    def stop_unit(self, unit: str) -> None:
        """Ask for it; returns while it stops."""
        with _mapped(f"{unit} could not be stopped"):
            self._systemd()["org.freedesktop.systemd1.Manager"].StopUnit(unit, "replace")

    def unit_state(self, unit: str) -> str:
        """systemd's ActiveState: active, inactive, failed, activating…"""
        with _mapped(f"the state of {unit} cannot be read"):
            path = self._systemd()["org.freedesktop.systemd1.Manager"].LoadUnit(unit)
            return str(self._get(".systemd1", path)["org.freedesktop.systemd1.Unit"].ActiveState)

    def failed_units(self) -> tuple[str, ...]:
        """Names of all units that are failed now."""
        with _mapped("failed units cannot be listed"):
            units = self._systemd()["org.freedesktop.systemd1.Manager"].ListUnits()
        return tuple(sorted(unit[0] for unit in units if unit[3] == "failed"))

    def reboot(self) -> None:
        """Through logind, so that shutdown locks of others are told. Returns while the system goes down."""
        with _mapped("logind did not reboot the node"):
            self._get(_LOGIN)[_LOGIN_IFACE].Reboot(False)

    def set_hostname(self, name: str) -> None:
        """Of the running system and in /etc/hostname: systemd-hostnamed may write there, the agent's sandbox may
        not."""
        with _mapped(f"the node could not be named {name}"):
            self._get(_HOSTNAME)[_HOSTNAME].SetStaticHostname(name, False)

    @contextlib.contextmanager
    def inhibit(self, why: str, *, what: str = "shutdown:sleep", mode: str = "block") -> Iterator[None]:
        """Hold a lock that logind really sees: it lives as long as the descriptor, so a dead agent holds none."""
        fd = self._inhibit(why, what, mode)
        try:
            yield
        finally:
            os.close(fd)

    def _inhibit(self, why: str, what: str, mode: str) -> int:
        from gi.repository import Gio, GLib

        with _mapped("a shutdown lock could not be taken"):
            self._get(_LOGIN)  # connects
            reply, fds = self._bus.con.call_with_unix_fd_list_sync(
                _LOGIN, _LOGIN_PATH, _LOGIN_IFACE, "Inhibit", GLib.Variant("(ssss)", (what, "k8r-agent", why, mode)),
                GLib.VariantType("(h)"), Gio.DBusCallFlags.NONE, 10_000, None, None)
            return int(fds.get(reply.unpack()[0]))
