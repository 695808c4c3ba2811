"""Packages come from where the host's own come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from k8r_agent.build import base, hostapt
from k8r_agent.build.options import GoldenOptions
from k8r_agent.errors import CommandFailed, UsageError
from k8r_agent.ports.commands import Result

SOURCES = """\
# a comment: with a colon
Types: deb deb-src
URIs: http://mirror.invalid/debian
Suites: bookworm bookworm-updates
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 abc

Types: deb
URIs: http://mirror.invalid/security
Suites: bookworm-security
Components: main

Types: deb
URIs: http://other.invalid/apt
Suites: nodistro
Components: main

Types: deb
URIs: http://mirror.invalid/debian
Suites: bookworm-backports
Components: main
Enabled: no
"""
LISTS = """\
deb [arch=amd64 signed-by=/k.gpg] http://mirror.invalid/debian bookworm main contrib
# deb http://commented.invalid/debian bookworm main
deb-src http://mirror.invalid/debian bookworm main
deb http://mirror.invalid/debian trixie main
"""


class Apt:
    """apt-config and dpkg-deb with fixed answers."""

    def __init__(self, acquire: str = "", packages: Mapping[str, str] | None = None) -> None:
        self.acquire, self.packages = acquire, packages or {}

    def run(self, argv: Sequence[str], *, ok: Sequence[int] = (0,), timeout: float = 60.0, stdin: bytes = b"",
            log: Path | None = None, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> Result:
        if argv[0] == "apt-config":
            return Result(0, self.acquire, "")
        assert argv[0] == "dpkg-deb", argv
        if argv[-1] not in self.packages:
            raise CommandFailed("dpkg-deb failed", why="not a Debian format archive")
        return Result(0, self.packages[argv[-1]], "")


def test_stanzas_of_the_suite_keep_their_key_and_lose_their_sources() -> None:
    kept = hostapt.select_stanzas(SOURCES, "bookworm")
    assert kept.count("Types: deb\n") == 2
    assert "bookworm-security" in kept and "Signed-By: \n -----BEGIN" in kept and "\n abc" in kept
    assert "nodistro" not in kept and "backports" not in kept


def test_lines_of_the_suite() -> None:
    assert hostapt.select_lines(LISTS, "bookworm") == LISTS.splitlines(keepends=True)[0]


def test_the_host_has_sources(tmp_path: Path) -> None:
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / "sources.list").write_text(LISTS)
    (tmp_path / "sources.list.d/debian.sources").write_text(SOURCES)
    (tmp_path / "sources.list.d/old.list.disabled").write_text(LISTS)
    found = hostapt.host_sources("bookworm", tmp_path)
    assert set(found) == {"host.list", "host.sources"} and found["host.list"].count("\n") == 1


def test_a_host_without_sources_is_told_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no sources for trixie") as caught:
        hostapt.host_sources("trixie", tmp_path)
    assert "--mirror" in caught.value.hint


def test_only_how_to_fetch_is_taken_from_the_host() -> None:
    apt = Apt('Acquire::Check-Valid-Until "false";\nAcquire::Languages:: "none";\nAcquire::http::Proxy "http://p:1";\n'
              'Acquire::IndexTargets::deb::Packages::Optional "0";\n')
    assert hostapt.acquire_options(apt) == ('Acquire::Check-Valid-Until "false";', 'Acquire::http::Proxy "http://p:1";')


@pytest.mark.parametrize(("field", "names"), [
    ("", ()), ("a, b (>= 1), c | d,e:any , f [amd64]", ("a", "b", "c", "e", "f")), ("x (= 1.0) | y, ", ("x",))])
def test_depends(field: str, names: tuple[str, ...]) -> None:
    assert base.depends(field) == names


def options(**changes: object) -> GoldenOptions:
    return GoldenOptions(**{"release": 1, "version": "1", "mirror": "http://m.invalid/", **changes})  # type: ignore[arg-type]


def test_what_the_packages_need_goes_into_the_base_and_they_themselves_do_not() -> None:
    apt = Apt(packages={"a.deb": "a\nb (>= 2), libx,libp\n", "b.deb": "b\n,\n"})
    plan = base.plan_base(options(debs=(Path("a.deb"), Path("b.deb")), packages=("vim",)), apt)
    assert {"libx", "libp", "vim", "linux-image-amd64", "systemd-boot-efi"} <= set(plan.packages)
    assert not {"a", "b"} & set(plan.packages)
    assert plan.packages == tuple(sorted(set(plan.packages)))


def test_a_file_that_is_no_package_is_named() -> None:
    with pytest.raises(UsageError, match=r"x\.deb is not a Debian package"):
        base.plan_base(options(debs=(Path("x.deb"),)), Apt())


def test_a_release_number_does_not_make_a_new_base_but_a_kernel_does() -> None:
    one, two = (base.plan_base(options(release=n, version=str(n)), Apt()) for n in (1, 2))
    other = base.plan_base(options(kernel="linux-image-cloud-amd64"), Apt())
    assert one.key() == two.key() != other.key()


def test_mmdebstrap_gets_sources_as_files_and_a_cache(tmp_path: Path) -> None:
    plan = base.BasePlan(suite="bookworm", packages=("a", "b"), sources={"host.sources": SOURCES}, epoch=1,
                         apt_options=('Acquire::Retries "3";',))
    argv = base.mmdebstrap_arguments(plan, tmp_path / "o.tar", tmp_path / "my cache", tmp_path, tmp_path / "l")
    assert argv[-3:] == ["bookworm", str(tmp_path / "o.tar"), str(tmp_path / "host.sources")]
    assert (tmp_path / "host.sources").read_text() == SOURCES
    assert "--include=a,b" in argv and '--aptopt=Acquire::Retries "3";' in argv
    assert f"--setup-hook=sync-in '{tmp_path}/my cache' /var/cache/apt/archives" in argv


def test_a_mirror_is_a_url_or_a_file(tmp_path: Path) -> None:
    given = tmp_path / "mine.sources"
    given.write_text("Types: deb\n")
    assert base.sources_for(options(mirror=str(given))) == {"given.sources": "Types: deb\n"}
    assert base.sources_for(options()) == {"mirror": "http://m.invalid/"}
    with pytest.raises(UsageError, match="neither"):
        base.sources_for(options(mirror="debian"))
