"""Runs inside of the container, once it is up. Each function is one look; what it returns goes to out.json."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path("/k8r-test")


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    return (done.stdout + done.stderr).strip()


def ok(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, check=False, timeout=60).returncode == 0


def wait(condition: Callable[[], bool], seconds: float = 15) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.2)
    return True


def verify() -> str:
    directory = Path("/usr/lib/systemd/system")
    units = [str(path) for kind in ("service", "path", "timer") for path in sorted(directory.glob(f"k8r-*.{kind}"))]
    return run("systemd-analyze", "verify", "--man=no", *units)


def security() -> dict[str, float]:
    found = {}
    for name in ("k8r-runner", "k8r-update-check", "k8r-update-settings", "k8r-update-submit",
                 "k8r-identity-capture", "k8r-join", "k8r-health", "k8r-boot-confirm"):
        last = run("systemd-analyze", "security", "--no-pager", f"{name}.service").splitlines()[-1]
        found[name] = float(last.split("level for")[1].split(":")[1].split()[0])
    return found


def units() -> dict[str, Any]:
    names = ["boot-complete.target", "ssh.service", "k8r-identity.service", "k8r-identity.path", "k8r-runner.path",
             "k8r-boot-deadline.timer", "k8r-update-check.timer", "k8r-health.service", "k8r-runner.service"]
    return {"states": {name: run("systemctl", "is-active", name) for name in names},
            "failed": run("systemctl", "--failed", "--plain", "--no-legend").splitlines(),
            "confirm": run("systemctl", "show", "-P", "ExecMainStatus", "k8r-boot-confirm.service"),
            "log": run("journalctl", "-b", "--no-pager", "-u", "k8r*", "-o", "short-monotonic").splitlines()[-80:]}


def status() -> dict[str, Any]:
    """What somebody who logs in is told."""
    done = subprocess.run(["k8r-agent", "status"], capture_output=True, text=True, check=False, timeout=60)
    return {"exit": done.returncode, "lines": done.stdout.splitlines(), "err": done.stderr}


def sandbox() -> dict[str, Any]:
    """A process under exactly the runner's restrictions."""
    text = Path("/usr/lib/systemd/system/k8r-runner.service").read_text()
    lines = [line for line in text.splitlines() if not line.startswith(("Watchdog", "Restart", "NotifyAccess"))]
    text = "\n".join(lines).replace("Type=notify", "Type=oneshot")
    text = text.replace("ExecStart=/usr/bin/k8r-agent runner", "ExecStart=/usr/bin/python3 /k8r-test/inside.py inner")
    Path("/run/systemd/system/k8r-test-inner.service").write_text(text)
    os.makedirs("/run/k8r/medium", exist_ok=True)
    run("mount", "-t", "tmpfs", "-o", "ro", "tmpfs", "/run/k8r/medium")
    run("systemctl", "daemon-reload")
    run("systemctl", "start", "k8r-test-inner.service")
    seen: dict[str, Any] = json.loads((HERE / "inner.json").read_text())
    seen["outside"] = {"mounted": ok("mountpoint", "-q", "/run/k8r/everybody"),
                       "written": os.path.exists("/run/k8r/everybody/x"),
                       "medium": run("findmnt", "-no", "OPTIONS", "/run/k8r/medium").split(",")[0],
                       "private": ok("mountpoint", "-q", "/run/k8r/private")}
    return seen


def inner() -> dict[str, Any]:
    from k8r_agent.effects.bus import Bus
    from k8r_agent.effects.machine import LocalMachine

    bus, seen = Bus(), dict[str, Any]()
    with bus.inhibit("a test"):
        seen["locked"] = run("systemd-inhibit", "--list", "--no-pager")
    seen["unlocked"] = run("systemd-inhibit", "--list", "--no-pager")
    seen["ssh"] = bus.unit_state("ssh.service")
    seen["health"] = {check.name: check.detail for check in LocalMachine().health()}
    run("systemd-mount", "--collect", "--fsck=no", "-t", "tmpfs", "tmpfs", "/run/k8r/everybody")
    seen["systemd-mount"] = ok("mountpoint", "-q", "/run/k8r/everybody")
    seen["mount write"] = ok("touch", "/run/k8r/everybody/x")
    seen["remount"] = run("mount", "-o", "remount,rw", "/run/k8r/medium")
    seen["medium write"] = ok("touch", "/run/k8r/medium/x")
    os.makedirs("/run/k8r/private", exist_ok=True)
    run("mount", "-t", "tmpfs", "tmpfs", "/run/k8r/private")
    seen["private"] = ok("mountpoint", "-q", "/run/k8r/private")
    guarded = ("/etc", "/usr/bin", "/boot", "/root", "/home", "/sys/kernel", "/proc/sys/kernel")
    seen["writable"] = [path for path in guarded if os.access(path, os.W_OK) and ok("touch", f"{path}/k8r-test")]
    seen["root"] = "rw" if os.statvfs("/").f_flag & os.ST_RDONLY == 0 else "ro"
    seen["capture"] = run("/usr/bin/k8r-agent", "identity", "capture")
    return seen


def identity() -> dict[str, Any]:
    return {"hostname": os.uname().nodename, "machine-id": Path("/etc/machine-id").read_text().strip(),
            "keys": {path.name: path.read_text() for path in sorted(Path("/etc/ssh").glob("ssh_host_*_key.pub"))},
            "fingerprint": run("sh", "-c", "ssh-keyscan -t ed25519 127.0.0.1 2>/dev/null | cut -d' ' -f2-"),
            "people": [line for line in Path("/etc/passwd").read_text().splitlines() if ":/home/" in line],
            "shadow": Path("/etc/shadow").read_text(), "toml keys": run("cat", "/run/k8r/authorized_keys/root"),
            "applied before ssh": _started("k8r-identity.service") < _started("ssh.service"),
            "sshd": run("sshd", "-T").count("/run/k8r/authorized_keys/%u"),
            "network": run("sh", "-c", "cat /run/systemd/network/*k8r.network"),
            "mode": oct(Path("/var/lib/k8r/identity/users.json").stat().st_mode & 0o777)
            if Path("/var/lib/k8r/identity/users.json").exists() else ""}


def _started(unit: str) -> int:
    return int(run("systemctl", "show", "-P", "ActiveEnterTimestampMonotonic", unit) or 0)


def people() -> dict[str, Any]:
    """Somebody is added while the node works: the copy follows by itself."""
    wait(lambda: run("systemctl", "is-active", "k8r-identity-capture.service") == "inactive")
    made = run("useradd", "-m", "-G", "sudo", "-s", "/bin/bash", "carol")
    run("usermod", "-p", "$y$secret", "carol")
    os.makedirs("/root/.ssh", mode=0o700, exist_ok=True)
    Path("/root/.ssh/authorized_keys").write_text("ssh-ed25519 AAAA late\n")
    copy, keys = (Path("/var/lib/k8r/identity") / name for name in ("users.json", "authorized_keys/root"))
    began = time.monotonic()
    kept = wait(lambda: "$y$secret" in copy.read_text() and keys.exists() and "late" in keys.read_text())
    return {"made": made, "kept": kept, "seconds": time.monotonic() - began,
            "log": run("journalctl", "-b", "--no-pager", "-u", "k8r-identity*").splitlines()[-30:]}


SECRET = "5ecre7word"
PLACES_OF_SECRETS = ("/etc/k8r/agent.toml", "/etc/k8r/conf.d/50-join.toml",
                     "/run/k8r/conf.d/50-join.toml", "/run/k8r/kubeadm/stdout", "/var/lib/k8r/cluster/join.json")


def hide_secrets() -> list[str]:
    """A join token wherever one can be beside k8r.toml, and a poller that looks for it; where root finds it."""
    for path in map(Path, PLACES_OF_SECRETS):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            file.write(f'# join_token = "abcdef.{SECRET}000000"\n')
    look = f"grep -rls {SECRET} /boot/firmware /etc /run/k8r /run/k8r-check /var/lib/k8r /usr/lib/k8r"
    drop_in = Path("/run/systemd/system/k8r-update-check.service.d/look.conf")
    drop_in.parent.mkdir(parents=True)
    drop_in.write_text(f"[Service]\nExecStartPre=-/bin/sh -c '{look} > /run/k8r-check/seen'\n")
    run("systemctl", "daemon-reload")
    return sorted(run(*look.split()).split())


def check() -> dict[str, Any]:
    """The unprivileged poller."""
    secrets = hide_secrets()
    run("systemctl", "mask", "--runtime", "systemd-networkd-wait-online.service")  # there is no link to wait for
    before = run("systemctl", "start", "k8r-update-check.service")
    wait(lambda: run("systemctl", "is-active", "k8r-update-submit.service") not in ("active", "activating"), 20)
    return {"start": before, "newer": os.path.exists("/run/k8r-check/newer"),
            "secrets": {"all": sorted(("/boot/firmware/k8r.toml", *PLACES_OF_SECRETS)), "root": secrets,
                        "poller": run("cat", "/run/k8r-check/seen").split()},
            "result": run("systemctl", "show", "-P", "Result", "k8r-update-check.service"),
            "submit": run("systemctl", "show", "-P", "ExecMainStatus", "k8r-update-submit.service"),
            "queue": sorted(os.listdir("/var/lib/k8r/queue")) if os.path.isdir("/var/lib/k8r/queue") else [],
            "log": run("journalctl", "-b", "--no-pager", "-u", "k8r-update*").splitlines()[-30:]}


STRANGER = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
# Not /boot/firmware: a FAT gets its modes (0700) from the mount, and here it is a plain directory.
PLACES = ("/var/lib/k8r", "/run/k8r", "/etc/k8r", "/usr/lib/k8r", "/var/cache/k8r")


def stranger() -> dict[str, Any]:
    """Somebody with an account and nothing else. What is public says so: the file's mode, not its place."""
    verbs = ("update /srv/bundle", "reinstall --yes", "rollback --yes", "confirm --force", "reboot --yes",
             "first-boot", "task cancel", "task retry", "runner", "identity capture", "slot verify", "boot confirm")
    codes = {verb: subprocess.run([*STRANGER, "k8r-agent", *verb.split()], capture_output=True, check=False,
                                  stdin=subprocess.DEVNULL, timeout=60).returncode for verb in verbs}
    os.makedirs("/var/lib/k8r/queue", mode=0o700, exist_ok=True)
    before = sorted(os.listdir("/var/lib/k8r/queue"))
    forged = "/var/lib/k8r/queue/20990101T000000.000000Z-ffff.json"
    writes = {what: ok(*STRANGER, *command) for what, command in {
        "a request": ("touch", forged), "a link": ("ln", "-s", "/etc/shadow", forged),
        "the cancel": ("touch", "/var/lib/k8r/cancel"), "a setting": ("touch", "/etc/k8r/conf.d/x.toml"),
        "a hook": ("mkdir", "-p", "/etc/k8r/hooks/update/before-disarm"),
        "progress": ("touch", "/run/k8r/progress.json"),
        "the poller's word": ("touch", "/run/k8r-check/newer"), "the lock": ("sh", "-c", "exec 9<>/run/k8r/lock"),
        "the runner": ("systemctl", "--no-ask-password", "start", "k8r-runner.service")}.items()}
    places = [place for place in PLACES if os.path.isdir(place)]
    found = run(*STRANGER, "find", *places, "-type", "f", "-readable").splitlines()
    return {"codes": codes, "writes": writes, "queue": sorted(set(os.listdir("/var/lib/k8r/queue")) - set(before)),
            "writable": [line for line in run(*STRANGER, "find", *places, "-writable").splitlines()
                         if "Permission denied" not in line and not os.path.islink(line)],
            "readable": [line for line in found if "Permission denied" not in line]}


def package() -> dict[str, Any]:
    """The maintainer scripts, with and without a running transaction."""
    journal = Path("/var/lib/k8r/transaction.json")
    script = "/var/lib/dpkg/info/k8r-agent.prerm"
    before = journal.read_bytes() if journal.exists() else None
    journal.write_text('{"state": "running"}')
    busy = {verb: ok(script, verb) for verb in ("remove", "upgrade", "failed-upgrade", "deconfigure")}
    forced = subprocess.run([script, "upgrade"], env={**os.environ, "K8R_FORCE": "1"}, check=False).returncode == 0
    journal.write_text('{"state": "done"}')
    idle = ok(script, "upgrade")
    journal.write_bytes(before) if before is not None else journal.unlink()
    return {"busy": busy, "idle": idle, "forced": forced,
            "enabled": {name: run("systemctl", "is-enabled", name) for name in
                        ("k8r-runner.service", "k8r-runner.path", "k8r-identity.service", "k8r-health.service")}}


def main() -> None:
    name = "inner.json" if "inner" in sys.argv else "out.json"
    looks = ["inner"] if "inner" in sys.argv else (HERE / "looks").read_text().split()
    seen: dict[str, Any] = {}
    for look in looks:
        try:
            seen[look] = globals()[look]()
        except Exception:
            seen[look] = {"error": traceback.format_exc()}
    temporary = HERE / (name + ".tmp")
    temporary.write_text(json.dumps(seen["inner"] if name == "inner.json" else seen, indent=1))
    temporary.replace(HERE / name)


main()
