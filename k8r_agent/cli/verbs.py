"""Every verb in one table: help, dispatch, completion, manual page and tests read it. Importing it costs nothing."""

from __future__ import annotations

from typing import NamedTuple


class Verb(NamedTuple):
    """`module` is in this package and has arguments(parser) and run(args, console, node); for a member of a group
    they are arguments_<name> and run_<name>. `hidden` verbs are for units and hooks, not for people."""

    name: str
    module: str
    summary: str
    members: tuple[Verb, ...] = ()
    hidden: bool = False


EVERYDAY = (
    Verb("status", "status", "show the slots, what boots next, the last transaction and what to do next"),
    Verb("check", "check", "ask the source whether there is a newer release"),
    Verb("update", "update", "write a newer release into the image slot, while the node works"),
    Verb("reinstall", "reinstall", "rewrite the working slot from the image slot (reboots twice)"),
    Verb("join", "join", "enter a cluster, as the configuration or a join command says"),
    Verb("confirm", "confirm", "make the running slot the one that boots"),
    Verb("rollback", "rollback", "go back to the previous release (rewrites the working slot)"),
    Verb("reboot", "reboot", "reboot, once into a given slot if wanted"),
    Verb("events", "events", "show what the agent did, across reinstalls"),
)

PLUMBING = (
    Verb("task", "task", "list, show, watch, cancel and retry tasks", members=(
        Verb("list", "task", "list the tasks and the queue"),
        Verb("show", "task", "show the steps of a task, or how far a transaction is"),
        Verb("watch", "task", "follow the running transaction"),
        Verb("cancel", "task", "cancel the running transaction, as long as that is safe"),
        Verb("retry", "task", "run the last failed transaction again"),
    )),
    Verb("slot", "slot", "list and verify slots", members=(
        Verb("list", "slot", "list the slots with what they hold"),
        Verb("verify", "slot", "compare the image slot with its manifest, block by block"),
        Verb("install-assets", "slot", "install a slot's kernel and initrd"),
    )),
    Verb("bundle", "bundle", "look at a bundle before it is used", members=(
        Verb("info", "bundle", "show a bundle's manifest and who signed it"),
        Verb("verify", "bundle", "read a whole bundle and check every hash"),
    )),
    Verb("config", "config", "show and check the configuration", members=(
        Verb("show", "config", "show every setting and where it comes from"),
        Verb("check", "config", "check the configuration and the task files"),
    )),
    Verb("identity", "identity", "keep what makes the node itself", hidden=True, members=(
        Verb("capture", "identity", "copy the identity to the state partition"),
        Verb("apply", "identity", "apply the kept identity to the running system"),
    )),
    Verb("boot", "boot", "check what the next boot needs", members=(
        Verb("health", "boot", "wait until the running slot is well", hidden=True),
        Verb("confirm", "boot", "this boot is complete: refill its tries", hidden=True),
        Verb("deadline", "boot", "this boot took too long: explain and reboot", hidden=True),
        Verb("check", "boot", "is there anything wrong with what the next boot needs?"),
    )),
    Verb("first-boot", "first_boot", "partition the disk and make the working slot on a fresh node"),
    Verb("runner", "runner", "run queued tasks, as k8r-runner.service does", hidden=True),
)

VERBS = (*EVERYDAY, *PLUMBING)


def find(name: str, verbs: tuple[Verb, ...] = VERBS) -> Verb | None:
    return next((verb for verb in verbs if verb.name == name), None)
