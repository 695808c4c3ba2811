"""What a golden image's tree holds besides packages, and what it must not hold. Files only: nothing is run here."""

from __future__ import annotations

import os
import re
import shutil
import stat
from pathlib import Path

from k8r_agent.build.options import GoldenOptions

NETWORK = """\
# Every wired interface of the machine (not the virtual ones of containers: those have a kind) asks for an address.
# A file of a lower name in /etc/systemd/network wins.
[Match]
Type=ether
Kind=!*

[Network]
DHCP=yes

[DHCPv4]
UseDomains=yes
"""
# A golden image starts what its packages enabled and nothing else: without this the "first boot" that an
# uninitialised machine-id announces would enable every unit that ships a preset.
PRESET = "disable *\n"
INITRAMFS_CONF = "MODULES=most\nCOMPRESS=zstd\nCOMPRESSLEVEL=9\nRESUME=none\n"
# Modules that an initramfs of MODULES=most leaves out and that the k8r scripts need before the root is there.
INITRAMFS_MODULES = (
    "ext4", "overlay", "vfat", "nls_cp437", "nls_ascii", "nls_iso8859_1", "nls_utf8", "efivarfs", "loop",
    "virtio_pci", "virtio_blk", "virtio_scsi", "nvme", "ahci", "sd_mod", "usb_storage", "uas", "xhci_pci", "ehci_pci",
    "mmc_block", "sdhci_pci", "sdhci_acpi",
)
# Work that makes no sense on a system that is replaced as a whole, or that would wake every node at one hour.
_MASKED = ("systemd-firstboot.service", "apt-daily.timer", "apt-daily-upgrade.timer", "e2scrub_all.timer",
           "e2scrub_reap.service", "dpkg-db-backup.timer")
# Debian leaves networkd off; these are the links that `systemctl enable` would make.
_NETWORKD = (
    ("multi-user.target.wants/systemd-networkd.service", "systemd-networkd.service"),
    ("sockets.target.wants/systemd-networkd.socket", "systemd-networkd.socket"),
    ("network-online.target.wants/systemd-networkd-wait-online.service", "systemd-networkd-wait-online.service"),
    ("dbus-org.freedesktop.network1.service", "systemd-networkd.service"),
)
_EMPTIED = ("dev", "proc", "sys", "run", "tmp", "var/tmp", "var/cache/apt", "var/lib/apt/lists", "boot/firmware")
_REMOVED = (
    "etc/hostname", "etc/resolv.conf", "etc/machine-id", "etc/fstab", "etc/.pwd.lock", "usr/sbin/policy-rc.d",
    "etc/.resolv.conf.systemd-resolved.bak",
    "etc/passwd-", "etc/group-", "etc/shadow-", "etc/gshadow-", "etc/subuid-", "etc/subgid-",
    "etc/apt/apt.conf.d/99mmdebstrap", "etc/apt/sources.list",
    "var/lib/dbus/machine-id", "var/lib/systemd/random-seed",
    "var/lib/dpkg/status-old", "var/lib/dpkg/available-old", "var/lib/dpkg/diversions-old",
    "var/lib/dpkg/statoverride-old", "var/cache/ldconfig/aux-cache",
    "var/cache/debconf/config.dat-old", "var/cache/debconf/templates.dat-old",
)
_REMOVED_GLOBS = ("etc/ssh/ssh_host_*", "etc/apt/sources.list.d/*", "boot/System.map-*", "boot/*.old",
                  "boot/*.dpkg-bak")
_DOCUMENTATION = ("usr/share/man", "usr/share/info", "usr/share/locale")


def prepare(tree: Path) -> None:
    """Before packages are installed and the initramfs is made."""
    modules = tree / "etc/initramfs-tools/modules"
    write(modules, "# Needed before the root is mounted, on any machine.\n" + "\n".join(INITRAMFS_MODULES) + "\n")
    write(tree / "etc/initramfs-tools/conf.d/k8r-image", INITRAMFS_CONF)
    # No service may start while packages are configured.
    write(tree / "usr/sbin/policy-rc.d", "#!/bin/sh\nexit 101\n", mode=0o755)


def configure(tree: Path, options: GoldenOptions) -> None:
    """What makes it a node's image: release, keys, network, no identity."""
    write(tree / "usr/lib/k8r/release", f"{options.release}\n")
    write(tree / "usr/lib/k8r/version", f"{options.version}\n")
    if options.signers:
        write(tree / "usr/lib/k8r/allowed_signers", options.signers)
    # Only now: Debian's packages ask the presets before they enable their units.
    write(tree / "usr/lib/systemd/system-preset/00-k8r.preset", PRESET)
    write(tree / "usr/lib/systemd/network/80-k8r-ethernet.network", NETWORK)
    for name, service in _NETWORKD:
        link(tree / "etc/systemd/system" / name, f"/lib/systemd/system/{service}")
    if options.authorized_keys:
        (tree / "root/.ssh").mkdir(mode=0o700, exist_ok=True)
        write(tree / "root/.ssh/authorized_keys", options.authorized_keys, mode=0o600)
    for directory, mode in (("boot/firmware", 0o755), ("var/lib/k8r", 0o700)):
        (tree / directory).mkdir(parents=True, exist_ok=True)
        (tree / directory).chmod(mode)
    for unit in _MASKED:
        for wanted in (tree / "etc/systemd/system").glob(f"*.wants/{unit}"):
            wanted.unlink()
        link(tree / "etc/systemd/system" / unit, "/dev/null")
    _os_release(tree, options)


def _os_release(tree: Path, options: GoldenOptions) -> None:
    path = tree / "usr/lib/os-release"
    kept = [line for line in path.read_text().splitlines() if not line.startswith(("IMAGE_ID=", "IMAGE_VERSION="))]
    write(path, "\n".join([*kept, "IMAGE_ID=k8r", f'IMAGE_VERSION="{options.version}"']) + "\n")


def os_name(tree: Path) -> str:
    match = re.search(r'^PRETTY_NAME="?([^"\n]*)', (tree / "usr/lib/os-release").read_text(), re.M)
    return match[1] if match else "Debian GNU/Linux"


def clean(tree: Path, options: GoldenOptions) -> None:
    """Drop what a build leaves behind, then what only a running node may have. Last step before the file system."""
    for name in _EMPTIED:
        if (tree / name).is_dir():
            _empty(tree / name)
    for name in _REMOVED:
        (tree / name).unlink(missing_ok=True)
    for pattern in _REMOVED_GLOBS:
        for path in tree.glob(pattern):
            _remove(path)
    for name in _DOCUMENTATION:
        if (tree / name).is_dir():
            _empty(tree / name)
    _drop_logs(tree / "var/log")
    _drop_documentation(tree / "usr/share/doc")
    write(tree / "etc/machine-id", "uninitialized\n", mode=0o444)
    write(tree / "etc/fstab", "# Empty: the initramfs resolves the root from the disk that the firmware booted.\n")
    if options.node_sources is not None:
        name = "k8r.sources" if options.node_sources.suffix == ".sources" else "k8r.list"
        write(tree / "etc/apt/sources.list.d" / name, options.node_sources.read_text())
    resolved = (tree / "usr/lib/systemd/systemd-resolved").exists()
    link(tree / "etc/resolv.conf", "../run/systemd/resolve/stub-resolv.conf" if resolved else "../run/resolv.conf")
    _shadow(tree / "etc/shadow", options.epoch // 86400)
    _clamp_times(tree, options.epoch)


def _drop_logs(logs: Path) -> None:
    """Log files go, the directories that packages own stay."""
    for directory, _, files in os.walk(logs):
        for name in files:
            Path(directory, name).unlink()


def _drop_documentation(docs: Path) -> None:
    """Licences stay: they must go where the software goes."""
    for directory in docs.iterdir() if docs.is_dir() else ():
        if directory.is_symlink() or not directory.is_dir():
            continue
        for path in directory.iterdir():
            if path.name != "copyright":
                _remove(path)


def _shadow(path: Path, day: int) -> None:
    """Root gets no password, and no account a password date: it would be the day of the build."""
    lines = []
    for line in path.read_text().splitlines():
        fields = line.split(":")
        if fields[0] == "root":
            fields[1] = "*"
        if len(fields) > 2 and fields[2]:
            fields[2] = str(day)
        lines.append(":".join(fields))
    write(path, "\n".join(lines) + "\n", mode=stat.S_IMODE(path.stat().st_mode))


def _clamp_times(tree: Path, epoch: int) -> None:
    """Nothing is newer than the point in time that the build is for."""
    for directory, directories, files in os.walk(tree):
        for name in (*files, *directories):
            _clamp(os.path.join(directory, name), epoch)
    _clamp(str(tree), epoch)


def _clamp(path: str, epoch: int) -> None:
    if os.lstat(path).st_mtime_ns != epoch * 10**9 and os.lstat(path).st_mtime >= epoch:
        os.utime(path, (epoch, epoch), follow_symlinks=False)


def write(path: Path, text: str, *, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.write_text(text)
    path.chmod(mode)


def link(path: Path, target: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_symlink() or path.exists():
        path.unlink()
    path.symlink_to(target)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _empty(directory: Path) -> None:
    for path in directory.iterdir():
        _remove(path)
