"""Layout, table and settings of a flashable disk; the numbers that make builds repeatable."""

from __future__ import annotations

from pathlib import Path

import pytest

from k8r_agent.build import assets, disk, inputs, nodeconfig, seeds
from k8r_agent.build.options import BundleOptions, DiskOptions, GoldenOptions
from k8r_agent.config import ConfigProblems
from k8r_agent.errors import BuildError, UsageError
from tests.fakes.assets import in_memory

MIB = 1 << 20


def options(**changes: object) -> DiskOptions:
    return DiskOptions(**{"bundle": "/b", "loader": "grub", "out": Path("d"), **changes})  # type: ignore[arg-type]


def test_a_disk_is_as_small_as_its_content_allows() -> None:
    found = disk.layout(700 * MIB - 4096, options())
    assert (found.boot_start, found.boot_size) == (MIB, 512 * MIB)
    assert (found.image_start, found.image_size, found.size) == (513 * MIB, 700 * MIB, 1214 * MIB)


def test_wanted_sizes_are_kept_when_they_are_enough() -> None:
    found = disk.layout(700 * MIB, options(size=4096 * MIB, image_size=1024 * MIB))
    assert (found.image_size, found.size) == (1024 * MIB, 4096 * MIB)


@pytest.mark.parametrize("changes", [
    {"size": 1213 * MIB}, {"size": 4096 * MIB + 1}, {"image_size": 699 * MIB}, {"image_size": 1024 * MIB + 512}])
def test_sizes_that_cannot_be(changes: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        disk.layout(700 * MIB, options(**changes))


def test_tables_name_what_the_boot_protocol_expects() -> None:
    found = disk.layout(700 * MIB, options())
    gpt, dos = disk.table_script(found, "gpt", "seed"), disk.table_script(found, "dos", "seed")
    assert gpt == disk.table_script(found, "gpt", "seed") != disk.table_script(found, "gpt", "other")
    assert 'name="system-boot"' in gpt and 'name="image"' in gpt and "start=2048, size=1048576, type=uefi" in gpt
    assert "type=ef, bootable" in dos and "uuid" not in dos and "label-id: 0x" in dos


def test_settings_are_checked_before_anything_is_flashed(tmp_path: Path) -> None:
    config = tmp_path / "k8r.toml"
    config.write_text('[node]\nrole = "worker"\n')
    assert nodeconfig.read(config) == config.read_bytes()
    config.write_text('[node]\nrolle = "worker"\n[disk]\nimage_size = "4"\n')
    with pytest.raises(ConfigProblems) as caught:
        nodeconfig.read(config)
    assert len(caught.value.problems) == 2
    with pytest.raises(UsageError, match="no such file"):
        nodeconfig.read(tmp_path / "none")


def test_the_file_to_fill_in_sets_nothing_and_is_right_when_it_is_filled_in(tmp_path: Path) -> None:
    config = tmp_path / "k8r.toml"
    config.write_text(nodeconfig.template())
    assert not [line for line in config.read_text().splitlines() if line and not line.startswith("#")]
    nodeconfig.read(config)
    lines = (line[1:] if line.startswith("#") and line[1:2] not in ("", " ") else line
             for line in nodeconfig.template().splitlines())
    config.write_text("\n".join(lines))
    nodeconfig.read(config)


def test_kernel_arguments_of_the_protocol_are_not_for_an_image_to_set() -> None:
    assert assets.check_cmdline("  quiet   console=ttyS0,115200 ") == "quiet console=ttyS0,115200"
    for bad in ("root=/dev/sda1", "quiet k8r.slot=image", "ro", "panic=0", "é", "x" * 500, "init=/bin/sh"):
        with pytest.raises(UsageError):
            assets.check_cmdline(bad)
    assert assets.check_cmdline("rootwait") == "rootwait"


def test_boot_assets_are_packed_the_same_each_time_and_complete(tmp_path: Path) -> None:
    boot = in_memory(kernel=b"k" * 5000, initrd=b"i" * 99, cmdline="quiet", release="3")
    assert assets.to_tar(boot, 42) == assets.to_tar(boot, 42) != assets.to_tar(boot, 43)
    assets.write_directory(boot, tmp_path)
    assert assets.read_directory(tmp_path) == boot
    (tmp_path / "initrd.img").write_bytes(b"")
    with pytest.raises(BuildError, match="complete boot assets"):
        assets.read_directory(tmp_path)


def deb(path: Path, time: int) -> Path:
    path.write_bytes(b"!<arch>\n" + b"debian-binary".ljust(16) + str(time).encode().ljust(12) + b"0     0     ")
    return path


def test_the_point_in_time_of_a_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    debs = [deb(tmp_path / "a.deb", 1_600_000_000), deb(tmp_path / "b.deb", 1_700_000_000)]
    assert seeds.source_date_epoch(debs) == 1_700_000_000
    assert seeds.source_date_epoch(debs, 5) == 5
    with pytest.raises(UsageError, match="point in time"):
        seeds.source_date_epoch([])
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "77")
    assert seeds.source_date_epoch(debs) == 77
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "yesterday")
    with pytest.raises(UsageError, match="yesterday"):
        seeds.source_date_epoch(debs)
    (tmp_path / "c.deb").write_bytes(b"not a package")
    with pytest.raises(UsageError, match=r"c\.deb"):
        seeds.deb_time(tmp_path / "c.deb")


def test_derived_numbers() -> None:
    assert seeds.derive("image", 1) == seeds.derive("image", 1) != seeds.derive("image", 2)
    assert len(seeds.volume_id("x")) == 8


def test_a_build_is_made_again_when_anything_that_counts_changed(tmp_path: Path) -> None:
    package = deb(tmp_path / "a.deb", 1)
    golden = GoldenOptions(release=1, version="1", debs=(package,))
    bundle = BundleOptions(release=1, version="1", created=1)

    def key(**changes: object) -> str:
        return inputs.key(**{"golden": golden, "bundle": bundle, "size": 0,  # type: ignore[arg-type]
                             "base": "b", "signing_key": "", **changes})

    first = key()
    assert first == key()
    assert len({first, key(size=1), key(base="c"), key(signing_key="x"),
                key(bundle=BundleOptions(release=1, version="1", created=2)),
                key(golden=GoldenOptions(release=1, version="1", debs=(package,), cmdline="quiet"))}) == 6
    package.write_bytes(package.read_bytes() + b"x")
    assert key() != first


def test_a_finished_build_is_known_by_its_files(tmp_path: Path) -> None:
    image = tmp_path / "image.img"
    image.write_bytes(b"x" * 10)
    assert not inputs.fresh(tmp_path, "k")
    inputs.record(tmp_path, "k", [image])
    assert inputs.fresh(tmp_path, "k") and not inputs.fresh(tmp_path, "other")
    image.write_bytes(b"x" * 9)
    assert not inputs.fresh(tmp_path, "k")
    inputs.record(tmp_path, "k", [image])
    inputs.forget(tmp_path)
    assert not inputs.fresh(tmp_path, "k")
