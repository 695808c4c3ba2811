"""Stories of what goes wrong: power cuts, twin disks, kernel updates."""

from __future__ import annotations

import hashlib
import random
import time
from dataclasses import dataclass, field, replace
from typing import Any

from tests.lab.disks import DiskImage
from tests.lab.node import Drive, Node
from tests.lab.past import (
    BOOT,
    FIRST_BOOT,
    QUICK,
    REINSTALL,
    UPDATE,
    first_boot,
    image_of,
    settled,
    wait_complete,
    waiting,
)
from tests.lab.powercut import Plug
from tests.lab.sectors import TABLE
from tests.lab.site import Lab
from tests.node.dead import OTHER

# The kernel that runs, with an initrd that is another one to a hash and the same to the kernel.
OTHER_INITRD = ("release=$(uname -r) && { cat /boot/initrd.img-$release; head -c 4096 /dev/zero; } >/run/initrd && "
                "k8r-agent slot install-assets working --kernel /boot/vmlinuz-$release --initrd /run/initrd")


@dataclass
class Seen:
    statuses: dict[str, dict[str, Any]] = field(default_factory=dict)
    events: list[dict[str, Any]] = field(default_factory=list)
    digests: dict[str, str] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    half_written: list[bool] = field(default_factory=list)
    partitions: list[list[int]] = field(default_factory=list)


def cuts(lab: Lab, name: str, loader: str) -> Seen:
    """The plug is pulled while the image slot is written, and again while the working slot is. What was not flushed is
    lost as the dice say."""
    seen, node = Seen(), settled(lab, name, loader)
    agent, plug = lab.agent(node), Plug(node, random.Random(name))
    plug.on()
    node.wait_ssh(timeout=BOOT)
    lab.web.site.rate = 8 << 20  # what is right already is not written, so only the download makes it last
    node.ssh(f"k8r-agent update {lab.url(2)} --no-wait")
    agent.wait_step("write-image", task="update", timeout=UPDATE)
    wait_half_written(node)
    plug.cut()
    seen.half_written.append(half_written(node, 2))
    lab.web.site.rate = 0
    plug.on()
    seen.statuses["updated"] = agent.wait_idle("update", timeout=UPDATE)
    size, seen.digests["manifest"] = image_of(lab, 2)
    seen.digests["image"] = node.disk.digest(2, length=size)
    wait_complete(node)
    node.ssh("k8r-agent reinstall --yes --no-wait")
    agent.wait_step("write-working", task="reinstall", timeout=REINSTALL)
    wait_half_written(node)
    plug.cut()
    seen.half_written.append(half_written(node, 3))
    plug.on()
    seen.statuses["reinstalled"] = agent.wait_idle("reinstall", timeout=REINSTALL)
    seen.events = agent.events()
    return seen


def first_boot_cut(lab: Lab, name: str, loader: str) -> Seen:
    """The plug is pulled as soon as something is written where the partition table lies."""
    node = lab.node(name, lab.flash(name, loader=loader))
    seen = Seen(partitions=[sorted(node.disk.partitions())])
    agent, plug = lab.agent(node), Plug(node, random.Random(name))
    plug.on()
    plug.wait_write(0, TABLE, timeout=FIRST_BOOT)
    plug.cut()
    seen.partitions.append(sorted(node.disk.partitions()))
    plug.on()
    seen.statuses["done"] = agent.wait_idle("first-boot", timeout=FIRST_BOOT)
    wait_complete(node)
    node.stop()
    seen.partitions.append(sorted(node.disk.partitions()))
    return seen


def wait_half_written(node: Node) -> None:
    """The slot that does not run lost its first block, which is written last."""
    look = OTHER + "head -c 4096 $other | tr -d '\\0' | wc -c"
    node.wait_until(lambda n: n.ssh(look).strip() == "0", "half written", timeout=BOOT, every=0.5, rest=0.0)


def half_written(node: Node, number: int) -> bool:
    return node.disk.digest(number, length=4096) == hashlib.sha256(bytes(4096)).hexdigest()


def twins(lab: Lab, name: str, loader: str) -> Seen:
    """A stick flashed from the same image sits in a fresh node; later a copy of its disk is plugged into a settled one
    that runs, and an update is asked for."""
    seen = Seen()
    disk, stick = lab.flash(name, loader=loader), lab.flash(f"{name}.stick", loader=loader)
    node = lab.node(name, disk, more=[Drive(image=stick, bus="scsi")])
    seen.digests |= {"disk before": DiskImage(disk).whole_digest(), "stick before": DiskImage(stick).whole_digest()}
    node.start()
    node.wait_ssh(timeout=FIRST_BOOT)
    wait_up(node)
    seen.statuses["fresh"], seen.texts["fresh"] = lab.agent(node).status(), node.ssh("k8r-agent status")
    node.stop()
    seen.digests |= {"disk after": DiskImage(disk).whole_digest(), "stick after": DiskImage(stick).whole_digest()}
    return plugged_in(lab, seen, settled(lab, f"{name}.settled", loader))


def plugged_in(lab: Lab, seen: Seen, node: Node) -> Seen:
    copy = node.disk.copy(node.workdir / "copy.img")
    seen.digests["copy before"] = copy.whole_digest()
    node.start()
    node.wait_ssh(timeout=BOOT)
    wait_complete(node)
    seen.digests["image before"] = node.disk.digest(2)
    node.plug(copy.path)
    node.ssh("udevadm settle --timeout=60")
    seen.statuses["plugged"], seen.texts["plugged"] = lab.agent(node).status(), node.ssh("k8r-agent status")
    seen.texts["update"] = node.ssh(f"k8r-agent update {lab.url(2)} 2>&1", ok=(1,), timeout=UPDATE)
    seen.digests |= {"copy after": copy.whole_digest(), "image after": node.disk.digest(2)}
    return seen


def wait_up(node: Any) -> None:
    node.wait_until(lambda n: n.ssh("systemctl is-system-running", ok=(0, 1)).strip() in ("running", "degraded"),
                    "up", timeout=BOOT)


def stick(lab: Lab, name: str) -> Seen:
    """A settled node and a stick flashed from the image it once came from: same labels, other IDs. Work goes on."""
    seen, node = Seen(), settled(lab, name, "systemd-boot")
    plugged = lab.flash(f"{name}.stick", size=0)
    node.drives.append(Drive(image=plugged, bus="scsi"))
    before = DiskImage(plugged).whole_digest()
    agent = lab.agent(node)
    node.start()
    node.wait_ssh(timeout=BOOT)
    agent.run(f"update {lab.url(2)}", timeout=UPDATE)
    node.ssh("k8r-agent reinstall --yes --no-wait")
    seen.statuses["reinstalled"] = agent.wait_idle("reinstall", timeout=REINSTALL)
    node.stop()
    seen.digests = {"stick before": before, "stick after": DiskImage(plugged).whole_digest()}
    return seen


def kernel_update(lab: Lab, name: str, loader: str) -> Seen:
    """What a distribution's kernel update does: a new initrd through the hooks, a reboot, then a reinstall."""
    seen, node = Seen(), settled(lab, name, loader)
    node.start()
    boot = node.wait_ssh(timeout=BOOT)
    wait_complete(node)
    agent = lab.agent(node)
    # The mark shows on the console that the new initrd really booted.
    node.ssh("mkdir -p /etc/initramfs-tools/scripts/init-premount && cd /etc/initramfs-tools/scripts/init-premount && "
             "printf '#!/bin/sh\\necho k8r-lab-new-initrd >/dev/console\\n' > mark && chmod +x mark")
    seen.texts["hook"] = node.ssh("sed -i s/^COMPRESSLEVEL=.*/COMPRESSLEVEL=1/ /etc/initramfs-tools/conf.d/k8r-image; "
                                  "update-initramfs -u -k $(uname -r) 2>&1", timeout=REINSTALL)
    after = node.serial.mark()
    node.try_ssh("systemctl reboot")
    node.wait_boot(boot, timeout=BOOT)
    seen.texts["console"] = node.serial.text(after)
    seen.statuses["rebooted"] = agent.status()
    wait_complete(node)
    node.ssh("k8r-agent reinstall --yes --no-wait")
    after = node.serial.mark()
    seen.statuses["reinstalled"] = agent.wait_idle("reinstall", timeout=REINSTALL)
    seen.texts["console after"] = node.serial.text(after)
    return seen


def mbr(lab: Lab, name: str) -> dict[str, Any]:
    """First boot of a disk with an MBR."""
    return first_boot(lab, "systemd-boot", "dos")[1]


COPY = 32768 * 4096  # bytes to the only copy of the superblock of a state partition of 256 MiB


def lost_state(lab: Lab, name: str, loader: str) -> Seen:
    """The state partition carries no file system any more, and nothing to mend it from: the node is left alone for
    longer than its grace time, then asked for work."""
    seen, node = Seen(), settled(lab, name, loader, more=QUICK)
    state = node.disk.partitions()[4]
    for at in (0, COPY):
        node.disk.write(state.start + at, bytes(8192))
    seen.digests["before"] = node.disk.digest(4)
    node.start()
    boot = node.wait_ssh(timeout=BOOT)
    wait_up(node)
    time.sleep(60)
    seen.statuses["lost"], seen.texts["status"] = lab.agent(node).status(), node.ssh("k8r-agent status")
    seen.texts["update"] = node.ssh(f"k8r-agent update {lab.url(2)} 2>&1", ok=(1,), timeout=UPDATE)
    seen.texts["reinstall"] = node.ssh("k8r-agent reinstall --yes 2>&1", ok=(1,), timeout=UPDATE)
    seen.texts["reboots"] = "none" if node.wait_ssh() == boot else "some"
    node.stop()
    seen.digests["after"] = node.disk.digest(4)
    return seen


# The rest of a piece that did not fit is filled with blocks.
FILL = ("cat /dev/zero >/var/lib/k8r/ballast; sync -f /var/lib/k8r; "
        "dd if=/dev/zero bs=4096 oflag=append conv=notrunc of=/var/lib/k8r/ballast; sync -f /var/lib/k8r; "
        "df --output=avail /var/lib/k8r")


def full_state(lab: Lab, name: str, loader: str) -> Seen:
    """Somebody fills the state partition up, the node boots, and an update is asked for; then there is room again."""
    seen, node = Seen(), settled(lab, name, loader)
    agent = lab.agent(node)
    node.start()
    boot = node.wait_ssh(timeout=BOOT)
    wait_complete(node)
    seen.texts["room"] = node.ssh(FILL, timeout=UPDATE)
    node.try_ssh("systemctl reboot")
    node.wait_boot(boot, timeout=BOOT)
    wait_complete(node)
    seen.statuses["full"], seen.texts["status"] = agent.status(), node.ssh("k8r-agent status")
    seen.texts["update"] = node.ssh(f"k8r-agent update {lab.url(2)} 2>&1", ok=(1,), timeout=UPDATE)
    node.ssh("rm /var/lib/k8r/ballast")
    agent.run(f"update {lab.url(2)}", timeout=UPDATE)
    seen.statuses["updated"] = agent.status()
    return seen


def bad_sector(lab: Lab, name: str, loader: str) -> Seen:
    """One sector of the waiting release cannot be read any more. Later the medium is replaced (the sector can be), and
    the update is asked for again."""
    seen, node = Seen(), waiting(lab, name, loader, more=QUICK)
    node.drives[0] = replace(node.drives[0], bad=node.disk.ext_block(2, "/usr/lib/systemd/systemd"))
    agent = lab.agent(node)
    node.start()
    node.wait_ssh(timeout=BOOT)
    wait_complete(node)
    seen.texts["reinstall"] = node.ssh("k8r-agent reinstall --yes 2>&1", ok=(1,), timeout=UPDATE)
    seen.statuses["refused"], seen.texts["status"] = agent.status(), node.ssh("k8r-agent status")
    node.stop()
    node.drives[0] = replace(node.drives[0], bad=None)
    node.start()
    node.wait_ssh(timeout=BOOT)
    agent.run(f"update {lab.url(2)}", timeout=UPDATE)
    seen.statuses["updated"] = agent.status()
    return seen


def torn_fat(lab: Lab, name: str, loader: str) -> Seen:
    """The directories that the next update and the next kernel go to were torn by a power cut: one lost its clusters,
    in the other lies a file that lost its own."""
    seen, node = Seen(), settled(lab, name, loader)
    disk = node.disk
    for directory in ("working/b", "image/b"):
        disk.fat_make(directory)
    disk.fat_write("image/b/vmlinuz", random.Random(name).randbytes(1 << 20))
    disk.fat_lose("image/b/vmlinuz")
    disk.fat_lose("working/b")
    node.start()
    node.wait_ssh(timeout=BOOT)
    wait_complete(node)
    seen.texts["kernel"] = node.ssh(OTHER_INITRD + " 2>&1", ok=(0, 1))
    lab.agent(node).run(f"update {lab.url(2)}", timeout=UPDATE)
    seen.statuses["updated"] = lab.agent(node).status()
    node.stop()
    seen.texts["fsck"] = disk.fat_complaints(node.workdir / "boot.img")
    node.start()
    node.wait_ssh(timeout=BOOT)
    wait_complete(node)
    seen.statuses["booted"] = lab.agent(node).status()
    return seen
