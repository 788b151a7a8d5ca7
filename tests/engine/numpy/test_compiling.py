"""A compiled library is kept for the next time, and taken only if it is whole and nobody else can have written it."""

import ctypes
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from homespun import terminal
from homespun.engine.numpy import compiling
from homespun.engine.numpy.products import SOURCES, _working, compiled


def answer(path: Path) -> int | None:
    """The work of the little library of these tests."""
    try:
        return int(ctypes.CDLL(str(path)).answer())
    except (OSError, AttributeError):
        return None


class Place:
    """A folder for caches, a compiler that counts, and a source."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.monkeypatch = monkeypatch
        self.log = folder / "log"
        self.source = folder / "answer.c"
        self.caches = folder / "caches"
        self.returns(42)
        real = shutil.which("cc")
        compiler = folder / "bin" / "cc"
        compiler.parent.mkdir()
        compiler.write_text(f'#!/bin/sh\necho compiled >> {self.log}\nexec {real} "$@"\n')
        compiler.chmod(0o755)
        monkeypatch.setenv("PATH", f"{compiler.parent}:{os.environ['PATH']}")
        monkeypatch.setenv("XDG_CACHE_HOME", str(self.caches))

    def returns(self, number: int) -> None:
        self.source.write_text(f"int answer(void) {{ return {number}; }}\n")

    def library(self) -> int | None:
        return compiling.library([self.source], answer)

    @property
    def n_compiled(self) -> int:
        return self.log.read_text().count("compiled")

    @property
    def kept(self) -> Path:
        [file] = (self.caches / "homespun").glob("*.so")
        return file


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    return Place(tmp_path, monkeypatch)


def test_a_library_is_compiled_once_and_kept_for_this_user_alone(place: Place) -> None:
    assert [place.library() for _ in range(3)] == [42, 42, 42]
    assert place.n_compiled == 1
    assert place.kept.stat().st_mode & 0o777 == 0o600
    assert place.kept.parent.stat().st_mode & 0o777 == 0o700


def test_the_second_attempt_is_a_file_of_its_own(place: Place) -> None:
    """The system would give back the first library under its name."""
    seen: list[Path] = []

    def refused_once(path: Path) -> int | None:
        seen.append(path)
        return answer(path) if len(seen) == 2 else None

    assert compiling.library([place.source], refused_once) == 42
    assert len(set(seen)) == 2


def another_source(place: Place) -> None:
    place.returns(43)


def another_processor(place: Place) -> None:
    other = place.source.with_name("cpuinfo")
    other.write_text("flags : little\n")
    place.monkeypatch.setattr(compiling, "CPUINFO", other)


def other_flags(place: Place) -> None:
    place.monkeypatch.setattr(compiling, "FLAGS", (*compiling.FLAGS, "-g0"))


@pytest.mark.parametrize("change", [another_source, another_processor, other_flags])
def test_another_library_is_compiled_for(place: Place, change: Callable[[Place], None]) -> None:
    place.library()
    change(place)
    assert place.library() == (43 if change is another_source else 42)
    assert place.n_compiled == 2


def one_bit(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def empty(file: Path) -> None:
    file.write_bytes(b"")


def writable(file: Path) -> None:
    file.chmod(0o666)


def a_link(file: Path) -> None:
    file.rename(file.with_suffix(".other"))
    file.symlink_to(file.with_suffix(".other"))


@pytest.mark.parametrize("damage", [one_bit, cut, empty, writable, a_link])
def test_a_damaged_or_foreign_library_is_not_taken(
    place: Place, damage: Callable[[Path], None]
) -> None:
    place.library()
    damage(place.kept)
    assert [place.library(), place.library()] == [42, 42]
    assert place.n_compiled == 2, "it is replaced"


def test_where_others_can_write_nothing_is_taken(place: Place) -> None:
    place.library()
    place.kept.parent.chmod(0o777)
    assert place.library() == 42
    assert place.n_compiled == 2


@pytest.mark.parametrize("unknown", ["folder", "processor", "home"])
def test_a_library_that_cannot_be_kept_works(place: Place, unknown: str) -> None:
    if unknown == "folder":
        place.caches.write_text("a file")
    elif unknown == "processor":
        place.monkeypatch.setattr(compiling, "CPUINFO", place.source.with_name("missing"))
    else:
        place.monkeypatch.setenv("XDG_CACHE_HOME", "")
        place.monkeypatch.setattr(Path, "home", no_home)
    assert [place.library(), place.library()] == [42, 42]
    assert place.n_compiled == 2


def no_home() -> Path:
    raise RuntimeError("Could not determine home directory.")


def test_a_library_that_computes_wrongly_is_not_taken(place: Place) -> None:
    assert compiling.library([place.source], lambda path: None) is None
    assert not (place.caches / "homespun").exists()


def test_a_library_that_has_other_functions_does_not_work(place: Place) -> None:
    assert compiling.library([place.source], _working) is None
    assert compiling.library(SOURCES[:1], _working) is None  # without the steps


def test_without_a_compiler_that_works_there_are_no_products(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempt = compiled.__wrapped__
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    for script in ("exit 1", 'for last; do :; done; echo "no library" > "$last"'):
        compiler = tmp_path / "cc"
        compiler.write_text(f"#!/bin/sh\n{script}\n")
        compiler.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:/nowhere")
        assert attempt() is None
    monkeypatch.setenv("PATH", "/nowhere")
    assert attempt() is None


def test_without_room_or_with_a_compiler_that_hangs_there_are_no_products(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempt = compiled.__wrapped__
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    with monkeypatch.context() as at_the_moment:
        at_the_moment.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
        assert attempt() is None
    compiler = tmp_path / "cc"
    compiler.write_text(f"#!/bin/sh\necho started >> {tmp_path}/log\nexec /bin/sleep 60\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/nowhere")
    monkeypatch.setattr(compiling, "COMPILE_SECONDS", 0.5)
    assert attempt() is None
    assert (tmp_path / "log").read_text() == "started\n"  # it is not tried again


def test_a_compilation_that_takes_long_is_named_unless_the_call_is_quiet(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    """A ticker whose time the test decides takes the place of the one that waits."""

    class TenSeconds:
        def __init__(self, tick: Callable[[float], object], first: float, every: float) -> None:
            tick(10.0)

        def stop(self) -> None:
            pass

    place.monkeypatch.setattr(terminal, "Ticker", TenSeconds)
    with terminal.silence():
        assert place.library() == 42
    assert capsys.readouterr() == ("", "")
    place.returns(43)
    assert place.library() == 43
    said = "Compiling the kernels of the NumPy engine, once: 10 s\n"
    assert capsys.readouterr() == ("", said)
    assert place.library() == 43  # it is kept
    assert capsys.readouterr() == ("", "")
