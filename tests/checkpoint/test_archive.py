"""An archive returns exactly the stored arrays or is refused; a failed write keeps the earlier file."""

import errno
import hashlib
import io
import json
import os
import resource
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from homespun.bfloat16 import from_bfloat16, to_bfloat16
from homespun.checkpoint import archive
from homespun.checkpoint.archive import ArrayInfo, CheckpointError, read_archive, write_archive
from homespun.errors import UserError
from tests.checkpoint.faults import Call, intercepted, trace

HEADER = {"model": {"n_layers": 2}, "best": None, "text": 'ü "\\ \N{SNOWMAN}'}


def small() -> list[tuple[str, np.ndarray]]:
    return [
        ("transformer.h.0.attn.c_attn.weight", np.arange(6, dtype=np.float32).reshape(2, 3)),
        ("exp_avg/transformer.h.0.attn.c_attn.weight", np.ones(5, np.float32)),
        ("optimizer/step", np.array(7, np.int64)),
        ("empty", np.zeros((0, 3), np.float16)),
    ]


def same(left: list[tuple[str, Any]], right: list[tuple[str, Any]]) -> bool:
    return len(left) == len(right) and all(
        a == b and x.dtype == y.dtype and x.shape == y.shape and x.tobytes() == y.tobytes()
        for (a, x), (b, y) in zip(left, right, strict=True)
    )


def load(path: Path) -> list[tuple[str, Any]]:
    return list(read_archive(path).tensors())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "best.npz"
    write_archive(path, small(), HEADER, step=3)
    return path


# Round trips


@settings(derandomize=True, deadline=None, max_examples=60)
@given(
    arrays=st.lists(
        hnp.arrays(
            dtype=st.sampled_from(sorted(archive.DTYPES)),
            shape=hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4),
        ),
        max_size=4,
    ),
    header=st.dictionaries(st.text(), st.none() | st.integers() | st.text()),
)
def test_round_trip(
    arrays: list[np.ndarray], header: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "round_trip.npz"
    named = [(f"layer.{i}/x", array) for i, array in enumerate(arrays)]
    sha256 = write_archive(path, named, header, kind="state", step=9)
    read = read_archive(path)
    assert (read.kind, read.step, read.header, read.sha256) == ("state", 9, header, sha256)
    assert [(i.name, i.shape, i.dtype) for i in read.arrays.values()] == [
        (name, array.shape, array.dtype.str) for name, array in named
    ]
    assert same(list(read.tensors()), named)


def test_numpy_and_zip_tools_read_it(path: Path) -> None:
    with np.load(path, allow_pickle=False) as file:
        assert file.files == [name for name, _ in small()] + ["manifest.json"]
        assert same([(name, file[name]) for name, _ in small()], small())
        assert json.loads(file["manifest.json"])["header"] == HEADER
    with zipfile.ZipFile(path) as file:
        assert file.testzip() is None


def test_the_layout_in_memory_does_not_matter(path: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.npz"
    write_archive(other, [(n, np.asarray(a, order="F")) for n, a in small()], HEADER, step=3)
    assert other.read_bytes() == path.read_bytes()
    base = np.arange(12.0).reshape(3, 4)
    write_archive(other, [("view", base[:, ::2])], {})
    assert same(load(other), [("view", base[:, ::2])])


def test_the_bytes_never_change(path: Path) -> None:
    """Equal runs write equal files, on any date and machine, and with any version of Python and NumPy."""
    expected = "889ab661a0e3bb2bfbc91d75fbc6b4f74e12e6fe934fc38fb2f9ccc7660f0252"
    assert hashlib.sha256(path.read_bytes()).hexdigest() == expected


def test_numbers_in_bfloat16_take_half_the_space_and_are_read_in_float32(tmp_path: Path) -> None:
    exact = from_bfloat16(to_bfloat16(np.linspace(-3, 3, 4000, dtype=np.float32))).reshape(40, 100)
    strange = np.array([0.0, -0.0, np.inf, -np.inf, 1e-40], np.float32)
    stored = [("a", exact.T), ("b", from_bfloat16(to_bfloat16(strange))), ("c", exact)]
    path, wide = tmp_path / "narrow.npz", tmp_path / "wide.npz"
    write_archive(path, stored, {}, narrow={"a", "b"})
    write_archive(wide, stored, {})
    assert same(load(path), load(wide))
    assert [info.holds for info in read_archive(path).arrays.values()] == ["bfloat16"] * 2 + [""]
    saved = wide.stat().st_size - path.stat().st_size
    assert abs(saved - 2 * (4000 + 5)) < 200
    with np.load(path) as file:  # other programs see the bits
        np.testing.assert_array_equal(from_bfloat16(file["a"]), exact.T)
    with zipfile.ZipFile(wide) as file:
        assert b"holds" not in file.read("manifest.json")


def test_a_number_that_is_none_in_bfloat16_is_not_rounded_silently(path: Path) -> None:
    before = path.read_bytes()
    with pytest.raises(ValueError, match="not a bfloat16 number"):
        write_archive(path, [("a", np.array([1.0, 0.1], np.float32))], {}, narrow={"a"})
    assert path.read_bytes() == before


def test_one_tensor_at_a_time(tmp_path: Path) -> None:
    path, count, size = tmp_path / "large.npz", 10, 1 << 20
    tracemalloc.start()
    try:
        write_archive(
            path, ((f"t{i}", np.full(size // 4, i, np.float32)) for i in range(count)), {}
        )
        read_archive(path).verify()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert path.stat().st_size > count * size
    assert peak < 3 * size


@pytest.mark.parametrize(
    "name", ["", "/a", "../a", "a/../b", "a/.", "a//b", "a/", "a\\b", "C:a", "ä", "a b", "a\n"]
)
def test_odd_names_are_not_written(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not a name"):
        write_archive(tmp_path / "x.npz", [(name, np.zeros(1))], {})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("tensors", "header"),
    [
        ([("a", np.zeros(1)), ("a", np.zeros(1))], {}),
        ([("a", np.array([None]))], {}),
        ([("a", np.array(["text"]))], {}),
        ([("a", np.zeros(1, ">f4"))], {}),
        ([("a", np.zeros(1, np.complex64))], {}),
        ([], {"loss": float("nan")}),
    ],
)
def test_what_has_no_place_in_it(tensors: Any, header: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"twice|not stored|JSON"):
        write_archive(tmp_path / "x.npz", tensors, header)
    assert list(tmp_path.iterdir()) == []


# Damage


def refused(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        load(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return message


def test_every_flipped_byte_is_noticed(path: Path) -> None:
    content = path.read_bytes()
    with path.open("r+b", buffering=0) as file:
        for offset, byte in enumerate(content):
            for flipped in (byte ^ 1 << offset % 8, byte ^ 0xFF, byte):
                file.seek(offset)
                file.write(bytes([flipped]))
                if flipped != byte:
                    refused(path)
    assert same(load(path), small())


def test_every_missing_or_added_end_is_noticed(path: Path) -> None:
    content = path.read_bytes()
    for length in reversed(range(len(content))):
        os.truncate(path, length)
        refused(path)
    for more in (b"\0", content):
        path.write_bytes(content + more)
        refused(path)
    path.write_bytes(b"\0" + content)
    refused(path)


@pytest.mark.parametrize("name", ["transformer.h.0.attn.c_attn.weight", "optimizer/step"])
@pytest.mark.parametrize("place", [0.0, 0.5, 0.999])
def test_the_damaged_array_is_named(path: Path, name: str, place: float) -> None:
    with zipfile.ZipFile(path) as file:
        member = file.getinfo(f"{name}.npy")
    content = bytearray(path.read_bytes())
    head = 30 + len(member.filename) + 20
    content[member.header_offset + head + int(place * member.file_size)] ^= 4
    path.write_bytes(content)
    read_archive(path)
    assert f"the array {name}" in refused(path)


def test_a_file_replaced_while_it_is_read_is_not_mixed_up(path: Path) -> None:
    opened = read_archive(path)
    write_archive(path, [(name, array + 1) for name, array in small()], HEADER, step=3)
    with pytest.raises(CheckpointError, match="was replaced while"):
        list(opened.tensors())


def test_unreadable(tmp_path: Path) -> None:
    assert "no such file" in refused(tmp_path / "none.npz")
    assert "cannot be read" in refused(tmp_path)


def test_a_damaged_manifest_is_named(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content.replace(b'"step": 3', b'"step": 4'))
    assert "the manifest" in refused(path)


# Malice


def seal(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the manifest of `path`, and adapt the rest of the zip to it."""
    with zipfile.ZipFile(path) as file:
        manifest = json.loads(file.read("manifest.json"))
        arrays = path.read_bytes()[: file.getinfo("manifest.json").header_offset]
    change(manifest)
    text = json.dumps(manifest).encode()
    with mock.patch.object(ArrayInfo, "__post_init__", return_value=None):
        listed = [
            ArrayInfo(**{**entry, "shape": tuple(entry["shape"])}) for entry in manifest["arrays"]
        ]
        path.write_bytes(arrays + archive.ending_of(listed, text)[1])


def first_array(**fields: Any) -> Callable[[dict[str, Any]], object]:
    return lambda manifest: manifest["arrays"][0].update(fields)


@pytest.mark.parametrize(
    "change",
    [
        first_array(name="../evil"),
        first_array(name="/etc/passwd"),
        first_array(name="a\\b"),
        first_array(name="a\x1b[2J"),
        first_array(name="missing"),
        first_array(name="exp_avg/transformer.h.0.attn.c_attn.weight"),
        first_array(dtype="|O8"),
        first_array(dtype="<U8"),
        first_array(shape=[1 << 40]),
        first_array(shape=[1 << 55, 0]),
        first_array(shape=[1 << 63, 0]),
        first_array(shape=[-2, -3]),
        first_array(shape=[True]),
        first_array(shape=[3, 2]),
        first_array(sha256="0" * 64),
        first_array(crc32=1),
        first_array(holds="bfloat16"),
        first_array(holds="float8"),
        first_array(holds=[]),
        lambda manifest: manifest["arrays"].pop(),
        lambda manifest: manifest["arrays"].append(manifest["arrays"][-1]),
        lambda manifest: manifest["arrays"].reverse(),
        lambda manifest: manifest.update(kind="pickle"),
        lambda manifest: manifest.update(step="1"),
        lambda manifest: manifest.update(header=[]),
    ],
)
def test_a_manifest_that_lies(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    seal(path, lambda manifest: None)
    assert same(load(path), small())
    seal(path, change)
    tracemalloc.start()
    try:
        refused(path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", ["../evil", "/etc/passwd", "a\\b", "a/../../b", "a\n"])
def test_a_whole_file_with_an_odd_name(path: Path, name: str) -> None:
    with mock.patch.object(ArrayInfo, "__post_init__", return_value=None):
        write_archive(path, [(name, np.zeros(3))], {})
        assert same(load(path), [(name, np.zeros(3))])
    assert "its manifest is wrong" in refused(path)


@pytest.mark.parametrize("shape", [(1 << 62,), (0, 1 << 63), (0, 1 << 40, 1 << 40)])
def test_no_array_is_beyond_memory(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="beyond any memory"):
        ArrayInfo("a", shape, "<f4")


@pytest.mark.parametrize("crc32", [-1, 1 << 32, "1", None])
def test_a_checksum_that_is_none(path: Path, crc32: Any) -> None:
    entry = {"name": "a", "shape": [], "dtype": "<f4", "crc32": crc32}
    facts = {"schema": 1, "kind": "weights", "step": 0, "header": {}, "arrays": [entry]}
    path.write_bytes(archive.ending_of([], json.dumps(facts).encode())[1])
    assert "its manifest is wrong" in refused(path)


def test_sizes_that_overflow_when_added_up(path: Path) -> None:
    listed = [{"name": f"a{i}", "shape": [1 << 59], "dtype": "<f8"} for i in range(20)]
    facts = {"schema": 1, "kind": "weights", "step": 0, "header": {}, "arrays": listed}
    path.write_bytes(archive.ending_of([], json.dumps(facts).encode())[1])
    assert "larger than the file" in refused(path)


def test_a_later_version_is_said_to_be_one(path: Path) -> None:
    seal(path, lambda manifest: manifest.update(schema=2))
    assert "another version" in refused(path)


@pytest.mark.parametrize("text", [b"[" * 100_000, b"{}", b"[]", b"1", b"\xff", b'{"schema": 1}'])
def test_a_manifest_that_is_none(path: Path, text: bytes) -> None:
    path.write_bytes(archive.ending_of([], text)[1])
    refused(path)


class Sentinel:
    """Creates a folder if it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def npy(array: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def test_zips_of_others(path: Path, tmp_path: Path) -> None:
    """Zips with the same manifest that differ in one way from the output of `write_archive` are refused."""
    with zipfile.ZipFile(path) as file:
        members = {name: file.read(name) for name in file.namelist()}
        comment = file.comment
    first = next(iter(members))
    terabytes = (
        b"\x93NUMPY\x01\x00v\x00"
        + b"{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776,), }".ljust(117)
        + b"\n"
    )
    tricks: dict[str, Callable[[zipfile.ZipFile], object]] = {
        "as stored by zipfile": lambda file: None,
        "a member of another name": lambda file: file.writestr("../../evil.npy", b""),
        "an absolute name": lambda file: file.writestr("/tmp/evil.npy", b""),
        "a link": lambda file: file.writestr(_link("evil.npy"), b"/etc/passwd"),
        "a member again": lambda file: file.writestr(zipfile.ZipInfo(first), members[first]),
        "a thousand to one": lambda file: file.writestr(
            "zeros.npy", bytes(1 << 24), zipfile.ZIP_DEFLATED
        ),
        "a pickle": lambda file: file.writestr(
            "a.npy", npy(np.array([Sentinel(tmp_path / "ran")]))
        ),
        "a header that asks for terabytes": lambda file: file.writestr("a.npy", terabytes),
    }
    for trick, add in tricks.items():
        with zipfile.ZipFile(path, "w") as file, mock.patch("warnings.warn"):
            for name, content in list(members.items())[:-1]:
                file.writestr(name, content)
            add(file)
            file.writestr("manifest.json", members["manifest.json"])
            file.comment = comment
        tracemalloc.start()
        try:
            refused(path)
            assert tracemalloc.get_traced_memory()[1] < 1 << 20, trick
        finally:
            tracemalloc.stop()
    assert not (tmp_path / "ran").exists()


def _link(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, 0o120777 << 16
    return info


def test_files_of_numpy_are_not_ours(tmp_path: Path) -> None:
    for save in (np.savez, np.savez_compressed):
        path = tmp_path / "numpy.npz"
        save(path, a=np.zeros(1000), b=np.array([Sentinel(tmp_path / "ran")]))
        assert "not a checkpoint" in refused(path)
    assert not (tmp_path / "ran").exists()


# Writing


def test_order_of_a_write(tmp_path: Path) -> None:
    """A power cut loses nothing: the content is flushed before the rename, and the folder before the call returns."""
    with mock.patch("secrets.token_hex", return_value="0123abcd"):
        calls = trace(lambda: write_archive(tmp_path / "x.npz", small(), HEADER))
    temporary = "x.npz.0123abcd.tmp"
    assert calls == [
        ("write", temporary),
        ("fsync", temporary),
        ("rename", "x.npz"),
        ("fsync", "folder"),
    ]


def test_every_failing_call_is_loud_and_keeps_the_earlier_file(path: Path) -> None:
    earlier = path.read_bytes()
    large = [("large", np.zeros(20_000)), ("larger", np.zeros(30_000))]
    calls: list[Call] = []
    with intercepted(calls.append):
        write_archive(path, large, HEADER)
    assert [kind for kind, _ in calls] == ["write"] * (len(calls) - 3) + [
        "fsync",
        "rename",
        "fsync",
    ]
    for k in range(len(calls) - 1):  # at the last call, the new file is already in place
        path.write_bytes(earlier)
        left = iter([False] * k + [True])

        def full(call: Call, left: Any = left) -> None:
            if next(left, False):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with intercepted(full), pytest.raises(UserError, match="No space left") as caught:
            write_archive(path, large, HEADER)
        assert "\n" not in str(caught.value)
        assert path.read_bytes() == earlier
        assert list(path.parent.iterdir()) == [path]


def test_a_limit_of_the_system_itself(path: Path) -> None:
    earlier = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(UserError, match="too large"):
            write_archive(path, [("large", np.zeros(20_000))], HEADER)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == earlier
    assert list(path.parent.iterdir()) == [path]


def test_a_failing_source_leaves_nothing(path: Path) -> None:
    earlier = path.read_bytes()

    def source() -> Any:
        yield from small()
        raise RuntimeError("the device is gone")

    with pytest.raises(RuntimeError, match="device"):
        write_archive(path, source(), HEADER)
    assert path.read_bytes() == earlier
    assert list(path.parent.iterdir()) == [path]


def test_a_folder_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="could not be saved"):
        write_archive(tmp_path / "none" / "x.npz", small(), HEADER)
