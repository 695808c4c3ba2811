"""One contract for BlockDevice: a file, and the fake that the other tests trust."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from k8r_agent.effects.device import open_device
from k8r_agent.errors import DiskError
from k8r_agent.ports.blockdev import BlockDevice
from tests.fakes.blockdev import FakeDevice

SIZE = 256 << 10
Opener = Callable[[], AbstractContextManager[BlockDevice]]


@pytest.fixture(params=["file", "fake"])
def opener(request: pytest.FixtureRequest, tmp_path: Path) -> Opener:
    """Each call opens the same medium again."""
    if request.param == "file":
        path = tmp_path / "device"
        path.write_bytes(bytes(SIZE))
        return lambda: open_device(path, write=True, dirty=16 << 10)
    fake = FakeDevice(SIZE)

    @contextmanager
    def opened() -> Iterator[BlockDevice]:
        with fake.opened():
            yield fake
    return opened


def test_what_is_written_is_read_before_and_after_a_flush(opener: Opener) -> None:
    with opener() as device:
        assert device.size == SIZE
        device.write(5000, b"hello")
        assert device.read(4998, 9) == b"\0\0hello\0\0"
        device.flush()
        device.drop_cache()
        assert device.read(4096, 8192)[904:909] == b"hello"
    with opener() as device:
        assert device.read(5000, 5) == b"hello"


def test_aligned_and_odd_reads_agree_after_the_cache_was_dropped(opener: Opener) -> None:
    data = bytes(range(256)) * 256
    with opener() as device:
        device.write(0, data)
        device.drop_cache()
        assert device.read(0, len(data)) == data
        assert device.read(1, 5000) == data[1:5001]
        device.write(100, b"new")
        assert device.read(0, 4096)[100:103] == b"new"


@pytest.mark.parametrize(("offset", "length"), [(SIZE, 1), (SIZE - 1, 2), (-1, 1), (0, SIZE + 1)])
def test_beyond_the_end_is_an_error_and_writes_nothing(opener: Opener, offset: int, length: int) -> None:
    with opener() as device:
        with pytest.raises(DiskError):
            device.read(offset, length)
        with pytest.raises(DiskError):
            device.write(offset, b"x" * length)
        assert device.read(0, SIZE) == bytes(SIZE)


def test_nothing_at_all_is_fine(opener: Opener) -> None:
    with opener() as device:
        device.write(SIZE, b"")
        assert device.read(SIZE, 0) == b""


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, SIZE - 1), st.binary(min_size=1, max_size=20_000)), max_size=12))
def test_any_writes_behave_like_a_byte_array(opener: Opener, writes: list[tuple[int, bytes]]) -> None:
    model = bytearray(SIZE)
    with opener() as device:
        device.write(0, bytes(SIZE))
        for offset, data in writes:
            data = data[:SIZE - offset]
            device.write(offset, data)
            model[offset:offset + len(data)] = data
        assert device.read(0, SIZE) == model
        device.drop_cache()
        assert device.read(0, SIZE) == model


def test_what_cannot_be_opened_says_why(tmp_path: Path) -> None:
    for path, says in ((tmp_path / "nothing", "No such file"), (tmp_path, "not a block device"),
                       (Path("/dev/null"), "not a block device")):
        with pytest.raises(DiskError) as caught, open_device(path, write=True):
            pass
        assert says in str(caught.value)
