"""effects/bus.py against a private dbus-daemon with mocked systemd and logind: nothing here touches the real bus."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from k8r_agent.effects.bus import Bus
from k8r_agent.errors import BusError

pytest.importorskip("dbus")

CONFIG = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>system</type><listen>unix:path={path}</listen><auth>EXTERNAL</auth>
<policy context="default"><allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/>
</policy></busconfig>
"""
# A logind whose Inhibit hands out one end of a FIFO, as the real one does: the lock is the open descriptor.
LOGIND = """
import dbus, dbus.service, dbus.mainloop.glib, os, sys
from gi.repository import GLib
dbus.mainloop.glib.DBusGMainLoop(set_as_default=True)
directory = sys.argv[1]
class Login(dbus.service.Object):
    @dbus.service.method("org.freedesktop.login1.Manager", in_signature="ssss", out_signature="h")
    def Inhibit(self, what, who, why, mode):
        path = f"{directory}/{what.replace(':', '-')}.ref"
        os.mkfifo(path)
        reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        writer = os.open(path, os.O_WRONLY)
        GLib.io_add_watch(reader, GLib.IO_HUP, lambda *_: os.unlink(path) or False)
        open(f"{directory}/log", "a").write(f"{what}|{who}|{why}|{mode}\\n")
        reply = dbus.types.UnixFd(writer)
        os.close(writer)
        return reply
    @dbus.service.method("org.freedesktop.login1.Manager", in_signature="b")
    def Reboot(self, interactive):
        open(f"{directory}/log", "a").write("reboot\\n")
name = dbus.service.BusName("org.freedesktop.login1", dbus.SystemBus())
login = Login(dbus.SystemBus(), "/org/freedesktop/login1")
print("ready", flush=True)
GLib.MainLoop().run()
"""
# systemd's Manager with one unit that takes a moment, one that fails and one that hangs.
SYSTEMD = """
import dbus, dbus.service, dbus.mainloop.glib
from gi.repository import GLib
dbus.mainloop.glib.DBusGMainLoop(set_as_default=True)
BASE = "/org/freedesktop/systemd1"
ENDS = {"good.service": "active", "bad.service": "failed", "slow.service": "activating"}
class Unit(dbus.service.Object):
    state = "inactive"
    @dbus.service.method("org.freedesktop.DBus.Properties", in_signature="ss", out_signature="v")
    def Get(self, interface, name):
        return self.state
    @dbus.service.method("org.freedesktop.DBus.Introspectable", out_signature="s")
    def Introspect(self):
        return '<node><interface name="org.freedesktop.systemd1.Unit"><property name="ActiveState" type="s" ' \\
               'access="read"/></interface><interface name="org.freedesktop.DBus.Properties"><method name="Get">' \\
               '<arg type="s" direction="in"/><arg type="s" direction="in"/><arg type="v" direction="out"/>' \\
               '</method></interface></node>'
class Manager(dbus.service.Object):
    units = {}
    @dbus.service.method("org.freedesktop.systemd1.Manager", in_signature="s", out_signature="o")
    def LoadUnit(self, name):
        path = BASE + "/unit/" + name.replace(".", "_2e")
        if name not in self.units:
            self.units[name] = Unit(dbus.SystemBus(), path)
        return path
    @dbus.service.method("org.freedesktop.systemd1.Manager", in_signature="ss", out_signature="o")
    def StartUnit(self, name, mode):
        if name not in ENDS:
            raise dbus.DBusException("Unit not found.", name="org.freedesktop.systemd1.NoSuchUnit")
        self.LoadUnit(name)
        self.units[name].state = "activating"
        GLib.timeout_add(300, lambda: setattr(self.units[name], "state", ENDS[name]))
        return BASE + "/job/1"
    @dbus.service.method("org.freedesktop.systemd1.Manager", in_signature="ss", out_signature="o")
    def StopUnit(self, name, mode):
        if name not in ENDS:
            raise dbus.DBusException("Unit not found.", name="org.freedesktop.systemd1.NoSuchUnit")
        self.LoadUnit(name)
        self.units[name].state = "inactive"
        return BASE + "/job/2"
    @dbus.service.method("org.freedesktop.systemd1.Manager", out_signature="a(ssssssouso)")
    def ListUnits(self):
        row = lambda name, state: (name, "", "loaded", state, "", "", BASE + "/unit/x", 0, "", "/")
        return [row("z.service", "failed"), row("ok.service", "active"), row("a.service", "failed")]
name = dbus.service.BusName("org.freedesktop.systemd1", dbus.SystemBus())
manager = Manager(dbus.SystemBus(), BASE)
print("ready", flush=True)
GLib.MainLoop().run()
"""

# systemd's hostnamed, which refuses what is no name.
HOSTNAMED = """
import dbus, dbus.service, dbus.mainloop.glib, sys
from gi.repository import GLib
dbus.mainloop.glib.DBusGMainLoop(set_as_default=True)
class Hostname(dbus.service.Object):
    @dbus.service.method("org.freedesktop.hostname1", in_signature="sb")
    def SetStaticHostname(self, name, interactive):
        if "/" in name:
            raise dbus.DBusException(f"Invalid static hostname '{name}'", name="org.freedesktop.DBus.Error.Bad")
        open(sys.argv[1], "w").write(f"{name}\\n")
name = dbus.service.BusName("org.freedesktop.hostname1", dbus.SystemBus())
hostname = Hostname(dbus.SystemBus(), "/org/freedesktop/hostname1")
print("ready", flush=True)
GLib.MainLoop().run()
"""


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    base = tmp_path_factory.mktemp("bus")
    (base / "bus.conf").write_text(CONFIG.format(path=base / "socket"))
    daemon = subprocess.Popen(["/usr/bin/dbus-daemon", "--nofork", f"--config-file={base / 'bus.conf'}"])
    for _ in range(100):
        if (base / "socket").exists():
            break
        time.sleep(0.05)
    yield f"unix:path={base / 'socket'}"
    daemon.terminate()
    daemon.wait()


def _service(address: str, code: str, *arguments: str) -> subprocess.Popen[bytes]:
    service = subprocess.Popen([sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE,
                               env={**os.environ, "DBUS_SYSTEM_BUS_ADDRESS": address})
    assert service.stdout is not None and service.stdout.readline() == b"ready\n"
    return service


@pytest.fixture
def logind(address: str, tmp_path: Path) -> Iterator[Path]:
    service = _service(address, LOGIND, str(tmp_path))
    yield tmp_path
    service.terminate()
    service.wait()


@pytest.fixture(scope="module")
def systemd(address: str) -> Iterator[None]:
    service = _service(address, SYSTEMD)
    yield
    service.terminate()
    service.wait()


@pytest.fixture
def bus(address: str) -> Iterator[Bus]:
    bus = Bus(address)
    yield bus
    bus.close()


def _gone(path: Path) -> bool:
    for _ in range(50):
        if not path.exists():
            return True
        time.sleep(0.05)
    return False


def test_the_lock_holds_exactly_as_long_as_it_is_meant_to(bus: Bus, logind: Path) -> None:
    lock = logind / "shutdown-sleep.ref"
    with bus.inhibit("writing the image slot"):
        time.sleep(0.5)  # a descriptor that pydbus dropped would have been noticed by now
        assert lock.exists()
    assert _gone(lock)
    assert (logind / "log").read_text() == "shutdown:sleep|k8r-agent|writing the image slot|block\n"


def test_the_lock_is_dropped_when_the_work_fails(bus: Bus, logind: Path) -> None:
    with pytest.raises(ZeroDivisionError), bus.inhibit("x"):
        raise ZeroDivisionError
    assert _gone(logind / "shutdown-sleep.ref")


def test_reboot_goes_through_logind(bus: Bus, logind: Path) -> None:
    bus.reboot()
    assert (logind / "log").read_text() == "reboot\n"


def test_the_node_is_named_through_hostnamed(bus: Bus, address: str, tmp_path: Path) -> None:
    service = _service(address, HOSTNAMED, str(tmp_path / "hostname"))
    try:
        bus.set_hostname("192-0-2-11")
        assert (tmp_path / "hostname").read_text() == "192-0-2-11\n"
        with pytest.raises(BusError, match=r"could not be named a/b: .*Invalid static hostname"):
            bus.set_hostname("a/b")
    finally:
        service.terminate()
        service.wait()


def test_start_waits_for_the_unit(bus: Bus, systemd: None) -> None:
    bus.start_unit("good.service")
    assert bus.unit_state("good.service") == "active"


def test_a_unit_is_stopped(bus: Bus, systemd: None) -> None:
    bus.start_unit("good.service")
    bus.stop_unit("good.service")
    assert bus.unit_state("good.service") == "inactive"
    with pytest.raises(BusError, match="could not be stopped"):
        bus.stop_unit("nothing.service")


def test_a_unit_that_fails_is_an_error_with_a_hint(bus: Bus, systemd: None) -> None:
    with pytest.raises(BusError, match=r"bad\.service failed") as caught:
        bus.start_unit("bad.service")
    assert caught.value.hint == "journalctl -u bad.service"


def test_a_unit_that_hangs_is_not_waited_for_for_ever(bus: Bus, systemd: None) -> None:
    with pytest.raises(BusError, match="did not start within"):
        bus.start_unit("slow.service", timeout=0.6)


def test_a_remote_error_is_explained(bus: Bus, systemd: None) -> None:
    with pytest.raises(BusError, match="NoSuchUnit"):
        bus.start_unit("nothing.service")


def test_failed_units_are_named(bus: Bus, systemd: None) -> None:
    assert bus.failed_units() == ("a.service", "z.service")


def test_without_a_bus_the_error_says_so(tmp_path: Path) -> None:
    with pytest.raises(BusError) as caught:
        Bus(f"unix:path={tmp_path}/nothing").reboot()
    assert "D-Bus" in caught.value.hint
