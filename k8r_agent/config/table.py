"""The table of settings: one row per key gives parsing, help, `config show`, completion and the manual page.

Defaults are those of the dataclasses in settings.py and stand nowhere else.
"""

from __future__ import annotations

from k8r_agent.config import clustertable
from k8r_agent.config import readers as r
from k8r_agent.config.setting import Setting

SECTIONS = {
    "node": "What the node is.",
    "access": "Who may log in over SSH.",
    "network": "How the node reaches the network when it has no network configuration of its own yet.",
    "disk": "Sizes on the disk. They are used once, at first boot; changing them later has no effect.",
    "update": "Where new releases come from and what is accepted.",
    "boot": "How long and how often a boot may try.",
    "kubernetes": "The node's place in a cluster.",
}

TABLE: tuple[Setting, ...] = (
    Setting(
        section="node", key="hostname", read=r.optional(r.hostname), kind="host name",
        help="name of the node",
        doc="Lower case, as Kubernetes wants its node names. Empty: the node keeps the name that it has. "
            "One without a name of its own is named after its address before it enters a cluster, as k8r did: "
            "`192-168-1-20`.",
    ),
    Setting(
        section="node", key="role",
        read=r.choice("auto", "worker", "control-plane", aliases={"master": "control-plane"}),
        kind="auto, worker or control-plane", values=("auto", "worker", "control-plane"),
        help="role in the cluster",
        doc="`auto`: what the state partition keeps decides, then its label (`masterpersistent` means control "
            "plane), then join information (worker), then `kubernetes.initialise` (control plane). `master` is "
            "accepted and means `control-plane`. The first boot decides the label of the state partition (`k8r-state` "
            "or `masterpersistent`).",
    ),
    Setting(
        section="access", key="user", read=r.user, kind="user name",
        help="user that the keys below log in as",
        doc="The user must exist in the image.",
    ),
    Setting(
        section="access", key="authorized_keys", read=r.list_of(r.ssh_key), kind="list of public SSH keys",
        help="public keys of that user",
        doc="Lines as in an `id_ed25519.pub`. They are added to the keys the user has; none is removed. A key that "
            "was cut off while copying is an error.",
    ),
    Setting(
        section="network", key="interface", read=r.interface, kind="interface name or pattern",
        help="interface to configure",
        doc="A name or a pattern as in networkd's `[Match] Name=`.",
    ),
    Setting(
        section="network", key="address", read=r.optional(r.address), kind="address with prefix length",
        help="static address; empty means DHCP",
        doc="For example `192.168.1.20/24`. Empty: DHCP.",
    ),
    Setting(
        section="network", key="gateway", read=r.optional(r.ip), kind="IP address",
        help="default gateway of a static address",
        doc="Needs `network.address`, and must lie in its network.",
    ),
    Setting(
        section="network", key="dns", read=r.list_of(r.ip), kind="list of IP addresses",
        help="name servers",
        doc="Name servers to use with a static address, or besides those of DHCP.",
    ),
    Setting(
        section="disk", key="image_size", read=r.size, kind="size",
        help="size of the image slot",
        doc="The image partition is grown to this at first boot, so that later, larger releases fit. A whole number "
            "of MiB, such as `4GiB`.",
    ),
    Setting(
        section="disk", key="state_size", read=r.at_least("256MiB", r.size), kind="size",
        help="size of the state partition",
        doc="Made at first boot at the end of the disk. The working slot gets everything in between. At least "
            "`256MiB`: a file system of one block group has no copy of its superblock, and a power cut can tear that.",
    ),
    Setting(
        section="disk", key="foreign_state", read=r.choice("refuse", "adopt"), kind="refuse or adopt",
        values=("refuse", "adopt"),
        help="what to do with a state partition of an earlier life of the disk",
        doc="At first boot a partition may be found that carries data but was not made by this installation. "
            "`refuse`: the node runs without a state partition and says so. `adopt`: it is used as it is, in its "
            "place and size, whatever `state_size` says. It is never formatted.",
    ),
    Setting(
        section="update", key="source", read=r.optional(r.source), kind="directory or http(s) prefix",
        help="where `check` and `update` look for a bundle",
        doc="Used when `update` and `check` are given no argument. An absolute directory, or an `http://` or "
            "`https://` prefix under which `manifest.toml` lies. http is safe here: the manifest is signed and "
            "everything else hangs off its hashes.",
    ),
    Setting(
        section="update", key="allow_unsigned", read=r.flag, kind="true or false", values=("true", "false"),
        help="accept a bundle that nobody signed",
        doc="For a laboratory. Anybody who can answer for the source owns the node.",
    ),
    Setting(
        section="update", key="allow_legacy", read=r.flag, kind="true or false", values=("true", "false"),
        help="accept image.img.xz and boot.tar.xz without a manifest",
        doc="Images of the shell version of k8r have no manifest, so nothing about them can be checked but that they "
            "unpack. Such an image is also unsigned.",
    ),
    Setting(
        section="update", key="auto", read=r.flag, kind="true or false", values=("true", "false"),
        help="let the daily check also submit an update",
        doc="The update writes the image slot and nothing else; the reinstall stays with you.",
    ),
    Setting(
        section="update", key="ca_file", read=r.optional(r.path), kind="absolute path",
        help="certificate authorities for an https source",
        doc="PEM file. Empty: those of the system.",
    ),
    Setting(
        section="boot", key="tries", read=r.count(1, 4), kind="number from 1 to 4",
        help="boots that the working slot gets to become healthy",
        doc="Each boot of the working slot costs one; reaching `boot-complete.target` refills them. At 0 the image "
            "slot boots.",
    ),
    Setting(
        section="boot", key="deadline", read=r.at_least("2min", r.duration), kind="duration",
        help="time that a boot may take to become healthy",
        doc="After this long without `boot-complete.target` the node reboots, which costs a try. Time in which "
            "container images of the golden image are imported does not count. Below two minutes a slow boot would be "
            "taken for a bad one.",
    ),
    Setting(
        section="boot", key="grace", read=r.duration, kind="duration",
        help="time in a slot that is not the primary before the node leaves it",
        doc="A node that finds itself in the other slot without a task to do there reboots to its primary after this "
            "long, and a working slot without tries gets its last chance: time to log in and to ask for something "
            "else.",
    ),
    Setting(
        section="boot", key="when_working_dead", read=r.choice("offer", "reinstall"), kind="offer or reinstall",
        values=("offer", "reinstall"),
        help="what the image slot does when the working slot used up its tries",
        doc="`offer`: the node stays up in the image slot, reachable over SSH, and says so. `reinstall`: it rewrites "
            "the working slot by itself.",
    ),
    *clustertable.ROWS,
)

BY_NAME = {row.name: row for row in TABLE}


def toml_text(row: Setting, value: object) -> str:
    """A value as it would be written in a file; sizes and durations with the largest unit that keeps them exact.
    "" for what no file can say, because TOML has no null. A secret is not shown."""
    if row.secret and value:
        return '""  # set, not shown'
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if row.kind == "size":
        return _with_unit(int(str(value)), (("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)))
    if row.kind == "duration":
        return _with_unit(int(float(str(value))), (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)))
    if isinstance(value, tuple):
        return "[" + ", ".join(_quoted(item) for item in value) + "]"
    return _quoted(value) if isinstance(value, str) else str(value)


def _with_unit(number: int, units: tuple[tuple[str, int], ...]) -> str:
    name, factor = next(((n, f) for n, f in units if number and number % f == 0), units[-1])
    return f'"{number // factor}{name}"'


def _quoted(value: object) -> str:
    """TOML's basic strings are JSON's."""
    import json

    return json.dumps(value, ensure_ascii=False)
