"""What a user can be told: every expected failure has a stable code, a reason, a remedy and an exit code."""

from __future__ import annotations

import enum


class Exit(enum.IntEnum):
    """Exit codes, frozen: scripts and timers depend on them."""

    OK = 0
    FAILED = 1
    USAGE = 2
    BUSY = 75
    NOTHING_TO_DO = 77
    BAD_CONFIG = 78


class K8rError(Exception):
    """An expected failure. `what` failed, `why`, and a `hint` what to do; `code` is stable for machines."""

    code = "failed"
    exit = Exit.FAILED

    def __init__(self, what: str, *, why: str = "", hint: str = "") -> None:
        super().__init__(what)
        self.what, self.why, self.hint = what, why, hint

    def __str__(self) -> str:
        return f"{self.what}: {self.why}" if self.why else self.what

    def as_dict(self) -> dict[str, str]:
        return {"code": self.code, "message": self.what, "why": self.why, "hint": self.hint}


class UsageError(K8rError):
    code, exit = "usage", Exit.USAGE


class ConfigError(K8rError):
    """A file somebody wrote cannot be used; `where` is file:line."""

    code, exit = "bad-config", Exit.BAD_CONFIG

    def __init__(self, what: str, *, where: str = "", why: str = "", hint: str = "") -> None:
        super().__init__(f"{where}: {what}" if where else what, why=why, hint=hint)
        self.where = where


class TaskFileError(ConfigError):
    code = "bad-task"


class Busy(K8rError):
    """Another transaction, or another user of the slot, is in the way."""

    code, exit = "busy", Exit.BUSY


class SlotBusy(Busy):
    code = "slot-busy"


class NothingToDo(K8rError):
    code, exit = "nothing-to-do", Exit.NOTHING_TO_DO


class Refused(K8rError):
    """A gate: the operation is possible but must not go on now."""

    code = "refused"


class Protected(K8rError):
    """The target is the running slot, the primary, or not this node's disk. Never overridable."""

    code = "protected"


class BundleError(K8rError):
    code = "bad-bundle"


class SignatureError(BundleError):
    code = "bad-signature"


class Incompatible(BundleError):
    code = "incompatible"


class FetchError(K8rError):
    code = "fetch-failed"


class ContentChanged(FetchError):
    """The server has another file than the one whose beginning was read."""

    code = "content-changed"


class DiskError(K8rError):
    code = "disk"


class DiskTooSmall(DiskError):
    code = "disk-too-small"


class DiskAmbiguous(DiskError):
    """Two disks claim to be this node's: nothing may be written."""

    code = "disk-ambiguous"


class ReadBackMismatch(DiskError):
    """What the device returns is not what was written."""

    code = "read-back-mismatch"


class BootError(K8rError):
    code = "boot"


class StateError(K8rError):
    code = "state"


class NoState(StateError):
    """The state partition is not there; nothing that must be remembered may be started."""

    code = "no-state"


class CommandFailed(K8rError):
    code = "command-failed"


class BusError(K8rError):
    """systemd or logind did not do, over D-Bus, what it was asked."""

    code = "bus"


class ClusterError(K8rError):
    """The API server, etcd or kubeadm did not do what they were asked, or cannot be reached."""

    code = "cluster"


class Unreachable(ClusterError):
    """The control plane does not answer: nothing that this node could mend."""

    code = "unreachable"


class StepFailed(K8rError):
    code = "step-failed"


class HealthFailed(K8rError):
    code = "unhealthy"


class Cancelled(K8rError):
    code = "cancelled"


class BuildError(K8rError):
    """Host side: an image, bundle or disk could not be made of what was given."""

    code = "build"
