"""One small class per step; a step's module is imported when the step is first needed."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from typing import cast

from k8r_agent.ports.step import Step

TABLE: Mapping[str, str] = {
    "blank-secret": "enter_cluster:BlankSecret",
    "boot-image": "boot_steps:BootImage",
    "boot-working": "boot_steps:BootWorking",
    "capture-identity": "capture_identity:CaptureIdentity",
    "check-bundle": "check_bundle:CheckBundle",
    "check-entry": "enter_cluster:CheckEntry",
    "check-previous-bundle": "check_bundle:CheckPreviousBundle",
    "check-rescue-bundle": "check_bundle:CheckRescueBundle",
    "cluster-gates": "cluster_gates:ClusterGates",
    "cluster-health": "cluster_health:ClusterHealth",
    "confirm": "confirm:Confirm",
    "disarm": "boot_steps:Disarm",
    "drain": "drain:Drain",
    "enter-cluster": "enter_cluster:EnterCluster",
    "fetch-working": "write_slot:FetchWorking",
    "fetch-working-assets": "assets:FetchWorkingAssets",
    "finish-update": "finish_update:FinishUpdate",
    "fresh-working": "fresh_working:FreshWorking",
    "grow-working": "grow_working:GrowWorking",
    "health-check": "health:HealthCheck",
    "hold-image": "boot_steps:HoldImage",
    "install-cni": "install_cni:InstallCni",
    "install-image-assets": "assets:InstallImageAssets",
    "install-working-assets": "assets:InstallWorkingAssets",
    "make-state": "make_state:MakeState",
    "name-node": "name_node:NameNode",
    "partition-disk": "partition_disk:PartitionDisk",
    "preflight": "gates:Preflight",
    "quarantine-release": "quarantine:QuarantineRelease",
    "rejoin": "enter_cluster:Rejoin",
    "self-check": "health:SelfCheck",
    "set-primary-image": "boot_steps:SetPrimaryImage",
    "settle-control-plane": "upgrade:SettleControlPlane",
    "snapshot-etcd": "snapshot_etcd:SnapshotEtcd",
    "uncordon": "drain:Uncordon",
    "upgrade-control-plane": "upgrade:UpgradeControlPlane",
    "verify-image": "verify_image:VerifyImage",
    "write-image": "write_slot:WriteImage",
    "write-working": "write_slot:WriteWorking",
}


class LazySteps(Mapping[str, Step]):
    def __init__(self, table: Mapping[str, str] = TABLE) -> None:
        self._table = table
        self._made: dict[str, Step] = {}

    def __getitem__(self, name: str) -> Step:
        if name not in self._made:
            module, kind = self._table[name].split(":")
            made = getattr(importlib.import_module(f"{__name__}.{module}"), kind)()
            self._made[name] = cast(Step, made)
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._table)

    def __len__(self) -> int:
        return len(self._table)


STEPS: Mapping[str, Step] = LazySteps()
