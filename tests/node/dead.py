"""Systems that are dead in one way or another, and what a node makes of them without hands.

A reinstall goes wrong through a hook that breaks what is about to be booted, after everything was verified; a slot
that dies later is broken from outside while the node is off.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.lab.agent import Agent
from tests.lab.disks import DiskImage
from tests.lab.node import Node
from tests.lab.past import BOOT, QUICK, REINSTALL, UPDATE, settled, wait_complete, waiting
from tests.lab.site import Lab

DEAD = 1200.0  # seconds until a node has tried everything

# Shell, for hooks that run as root in the runner's sandbox.
HOOK = "#!/bin/sh -eu\n"
# Confirming the boot, which writes to the boot partition too, may go on beside a hook: hence the agent's lock.
ARGUMENTS = HOOK + """\
exec 9>>/run/k8r/bootfiles.lock
flock 9
mount -o remount,rw /boot/firmware
cd /boot/firmware
for file in loader/entries/k8r-{slot}*.conf {slot}/*/grub.env; do
    [ ! -f "$file" ] || sed -i -e 's|^options .*|& {more}|' -e 's|^cmdline=.*|& {more}|' "$file"
done
cd /
mount -o remount,ro /boot/firmware
"""
# The other slot's partition: the one that the node does not run from.
OTHER = HOOK + """\
other="/dev/$(sed -n 's,^rootpart=,,p' /run/k8r/boot | sed -e 's/2$/x/' -e 's/3$/2/' -e 's/x$/3/')"
"""
INSIDE = OTHER + """\
mkdir -p /run/sabotage
mount -t ext4 "$other" /run/sabotage
cd /run/sabotage
{command}
cd /
umount /run/sabotage
"""
NO_SUPERBLOCK = OTHER + """\
dd if=/dev/zero bs=4096 count=2 conv=fsync of="$other"
"""
NO_AGENT = "printf 'syntax error' >usr/bin/k8r-agent"


@dataclass
class Seen:
    """`boots`: kernels started since the sabotage."""

    status: dict[str, Any] = field(default_factory=dict)
    text: str = ""
    console: str = ""
    boots: int = 0
    events: list[dict[str, Any]] = field(default_factory=list)
    later: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Sabotage:
    """A hook before `step`. `tries`: how often the step is tried, where waiting for three would show nothing new."""

    step: str
    script: str
    tries: int = 3
    deadline: str = "10min"


def arguments(slot: str, more: str) -> str:
    return ARGUMENTS.format(slot=slot, more=more)


def inside(command: str) -> str:
    return INSIDE.format(command=command)


# A hang is ended by the watchdog, a broken agent by the deadline.
PANIC = arguments("image", "rdinit=/no-such-program root=/dev/none")
REINSTALLS = {
    "image-panics": Sabotage("boot-image", PANIC, tries=1),
    "image-panics-each-time": Sabotage("boot-image", PANIC),
    "image-hangs": Sabotage("boot-image", arguments("image", "init=/usr/bin/cat"), tries=1),
    "image-root-does-not-mount": Sabotage("boot-image", NO_SUPERBLOCK, tries=1),
    "image-agent-crashes": Sabotage("boot-image", inside(NO_AGENT), tries=1),
    "image-unhealthy": Sabotage("boot-image", arguments("image", "systemd.mask=ssh.service"), tries=1,
                                deadline="4min"),
    "working-has-no-init": Sabotage("boot-working", inside("rm -f usr/lib/systemd/systemd")),
    "working-hangs": Sabotage("boot-working", arguments("working", "init=/usr/bin/cat"), tries=1),
    "working-agent-crashes": Sabotage("boot-working", inside(NO_AGENT), tries=1),
    "working-unhealthy": Sabotage("boot-working", inside("ln -sf /dev/null etc/systemd/system/ssh.service"), tries=1,
                                  deadline="4min"),
}


def reinstall(lab: Lab, name: str, case: str, loader: str) -> Seen:
    """Release 2 was verified and is taken into use; then something breaks."""
    sabotage = REINSTALLS[case]
    node = waiting(lab, name, loader, more={"boot": {**QUICK["boot"], "deadline": f'"{sabotage.deadline}"'}})
    agent, slot = lab.agent(node), "working" if sabotage.step == "boot-image" else "image"
    node.start()
    node.wait_ssh(timeout=BOOT)
    wait_complete(node)
    plant(node, sabotage)
    mark = node.serial.mark()
    node.ssh("k8r-agent reinstall --yes --no-wait")
    seen = Seen(status=agent.wait_idle("reinstall", state="failed", current=slot, timeout=DEAD))
    return told(seen, node, mark)


def plant(node: Node, sabotage: Sabotage) -> None:
    hook = f"/etc/k8r/hooks/reinstall/before-{sabotage.step}/50-sabotage"
    node.ssh(f"mkdir -p $(dirname {hook}) && cat >{hook} && chmod 755 {hook}", stdin=sabotage.script.encode())
    if sabotage.tries != 3:
        task = node.ssh("cat /usr/lib/k8r/tasks/reinstall.toml")
        head, found, rest = task.partition(f"[step.{sabotage.step}]")
        assert found and "max_tries = 3" in rest
        text = head + found + rest.replace("max_tries = 3", f"max_tries = {sabotage.tries}", 1)
        node.ssh("mkdir -p /etc/k8r/tasks && cat >/etc/k8r/tasks/reinstall.toml", stdin=text.encode())


def told(seen: Seen, node: Node, mark: int) -> Seen:
    seen.text, seen.console = node.ssh("k8r-agent status"), node.serial.text(mark)
    seen.boots, seen.events = seen.console.count("Linux version"), Agent(node).events()
    return seen


# A confirmed working slot that dies


def no_init(disk: DiskImage) -> None:
    disk.ext_remove(3, "/usr/lib/systemd/systemd")


def no_superblock(disk: DiskImage) -> None:
    """Its copies are still there, but `e2fsck -p` does not reach for them, and a mount does not either."""
    span = disk.partitions()[3]
    disk.write(span.start, bytes(8192))


def truncated_kernel(disk: DiskImage) -> None:
    for letter in ("a", "b"):
        if "vmlinuz" in disk.fat_names(f"working/{letter}"):
            name = f"working/{letter}/vmlinuz"
            disk.fat_write(name, disk.fat_read(name)[:1_000_000])


def missing_kernel(disk: DiskImage) -> None:
    for letter in ("a", "b"):
        disk.fat_remove(f"working/{letter}/vmlinuz")


DEATHS: dict[str, Callable[[DiskImage], None]] = {
    "no-init": no_init, "no-superblock": no_superblock, "truncated-kernel": truncated_kernel,
    "missing-kernel": missing_kernel,
}


def death(lab: Lab, name: str, case: str, loader: str) -> Seen:
    """A slot that worked for weeks is broken. The image slot explains, and a reinstall mends it."""
    node = settled(lab, name, loader, more=QUICK)
    DEATHS[case](node.disk)
    agent, seen = lab.agent(node), Seen()

    def given_up(_: Node) -> bool:
        seen.status = agent.status()
        # Armed: the one more chance was counted, and the node is on its way there.
        return seen.status["current"] == "image" and "reinstall" in seen.status["advice"] \
            and "one more chance" not in seen.status["advice"] and not seen.status["boot"]["armed"]

    node.start()
    node.wait_until(given_up, "the node has given up the working slot", timeout=DEAD, every=5.0)
    told(seen, node, 0)
    node.ssh("k8r-agent reinstall --yes --no-wait")
    seen.later = agent.wait_idle("reinstall", timeout=REINSTALL)
    return seen


def stopped(lab: Lab, name: str, loader: str) -> Seen:
    """The kernel of a system that works stops for good: `panic=10` is switched off, and its clock stands still."""
    node, seen = settled(lab, name, loader), Seen()
    node.start()
    boot = node.wait_ssh(timeout=BOOT)
    wait_complete(node)
    mark = node.serial.mark()
    node.try_ssh("echo 0 >/proc/sys/kernel/panic; echo c >/proc/sysrq-trigger", timeout=30)
    node.wait_boot(boot, timeout=2 * BOOT)
    seen.status = lab.agent(node).status()
    return told(seen, node, mark)


# What is refused before anything is booted


def rot(lab: Lab, name: str, loader: str) -> dict[str, Any]:
    """Three things rot one after the other in the waiting release; each time a reinstall is asked for."""
    node, found = waiting(lab, name, loader, more=QUICK), {}
    agent = lab.agent(node)
    good = {letter: node.disk.fat_read(f"image/{letter}/vmlinuz") for letter in ("a", "b")
            if "vmlinuz" in node.disk.fat_names(f"image/{letter}")}
    for what in ("kernel is truncated", "kernel is missing", "image has a wrong byte"):
        for letter, kernel in good.items():
            node.disk.fat_write(f"image/{letter}/vmlinuz", kernel[:1_000_000] if "truncated" in what else kernel)
            if "missing" in what:
                node.disk.fat_remove(f"image/{letter}/vmlinuz")
        if "byte" in what:
            node.disk.flip(node.disk.ext_block(2, "/usr/lib/systemd/systemd"))
        node.start()
        node.wait_ssh(timeout=BOOT)
        wait_complete(node)
        mark = node.serial.mark()
        said = node.ssh("k8r-agent reinstall --yes 2>&1", ok=(1,), timeout=UPDATE)
        found[what] = told(Seen(status=agent.status()), node, mark)
        found[what].text = said + found[what].text
        if "byte" not in what:
            node.stop()
    agent.run(f"update {lab.url(2)}", timeout=UPDATE)
    found["mended"] = Seen(status=agent.status())
    return found


def armed(lab: Lab, name: str, loader: str) -> dict[str, dict[str, Any]]:
    """A try-boot is armed and comes to nothing: forgotten by the next run, by an update, and by a cancel in the image
    slot itself."""
    node, found = waiting(lab, name, loader, more=QUICK), {}
    agent = lab.agent(node)
    node.start()
    boot = node.wait_ssh(timeout=BOOT)
    wait_complete(node)
    arm(node)
    found["armed"] = agent.status()
    agent.run(f"update --force {lab.url(2)}", timeout=UPDATE)
    found["after an update"] = agent.status()
    arm(node)
    node.ssh("systemctl start --wait k8r-runner.service")
    found["after a run"] = {**agent.status(), "events": agent.events()}
    node.try_ssh("systemctl reboot")
    boot = node.wait_boot(boot, timeout=BOOT)
    found["after a reboot"] = agent.status()
    wait_complete(node)
    plant(node, Sabotage("self-check", HOOK + "sleep 60\n"))
    node.ssh("k8r-agent reinstall --yes --no-wait")
    boot = node.wait_boot(boot, timeout=BOOT)
    found["in the image slot"] = agent.status()
    node.ssh("k8r-agent task cancel")
    node.wait_boot(boot, timeout=BOOT)
    found["after a cancel"] = agent.status()
    return found


def arm(node: Node) -> None:
    """As a reinstall does it, but nobody reboots."""
    node.ssh("/usr/bin/python3 - <<'END'\n"
             "from k8r_agent.cli.node import Node\n"
             "from k8r_agent.model.slots import Slot\n"
             "Node().world.boot.try_once(Slot.IMAGE)\n"
             "END")



# Power that comes and goes, and what is no system at all


def lost_boots(lab: Lab, name: str, loader: str) -> Seen:
    """The waiting release was never booted here, and panics. Three boots of the working slot are cut; it is sound."""
    node = waiting(lab, name, loader)
    agent, seen = lab.agent(node), Seen()
    node.start()
    node.wait_ssh(timeout=BOOT)
    wait_complete(node)
    node.ssh("sh -eu", stdin=PANIC.encode())
    node.stop()
    for _ in range(3):
        node.start()
        node.serial.wait("Linux version", timeout=BOOT)
        node.cut()
    node.start()

    def well(_: Node) -> bool:
        seen.status = agent.status()
        return bool(seen.status["boot"]["tries_left"] == 3)

    node.wait_until(well, "the working slot has its tries again", timeout=DEAD, every=5.0)
    return told(seen, node, 0)


def emergency(lab: Lab, name: str, loader: str) -> Seen:
    """The image slot is half written, and a disk that /etc/fstab names is gone: emergency mode, boot after boot."""
    node, seen = settled(lab, name, loader), Seen()
    node.start()
    node.wait_ssh(timeout=BOOT)
    wait_complete(node)
    node.ssh("/usr/bin/python3 - <<'END'\n"
             "from k8r_agent.cli.node import Node\n"
             "Node().world.boot.offer_image(False)\n"
             "END")
    node.ssh("echo 'LABEL=gone /mnt ext4 defaults,x-systemd.device-timeout=5s 0 2' >>/etc/fstab && sync")
    node.stop()
    node.start()
    node.wait_ssh(timeout=DEAD)
    seen.status = lab.agent(node).status()
    return told(seen, node, 0)
