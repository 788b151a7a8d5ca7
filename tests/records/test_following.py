"""A growing record, read piece by piece: each line once, and word of it when the file was cut or replaced."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from homespun.records import following
from homespun.records.following import Follower
from homespun.records.thinning import extremes


def line(step: int, **values: Any) -> bytes:
    return json.dumps({"step": step, "tokens": 8 * step, "loss": 1.0, **values}).encode() + b"\n"


def steps(news: following.News) -> list[int]:
    return [record["step"] for record in news.records]


def append(path: Path, *lines: bytes) -> None:
    with path.open("ab") as file:
        file.writelines(lines)


def test_each_line_comes_once_and_a_torn_one_waits(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    follower = Follower(path)
    assert follower.read() == following.News((), begins_anew=False, is_all=True)
    append(path, line(1), line(2)[:-9])
    assert steps(follower.read()) == [1]
    assert steps(follower.read()) == []
    append(path, line(2)[-9:], line(3))
    assert steps(follower.read()) == [2, 3]


def test_a_long_file_comes_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "MOST_BYTES", 100)
    path = tmp_path / "metrics.jsonl"
    append(path, *(line(n) for n in range(1, 20)), line(20, prompt="x" * 1000, text=""), line(21))
    follower, found, parts = Follower(path), list[int](), 0
    while True:
        news = follower.read()
        found += steps(news)
        parts += 1
        assert not news.begins_anew
        if news.is_all:
            break
    assert found == list(range(1, 22))
    assert parts > 3


@pytest.mark.parametrize("again", [(1, 2), (1, 2, 3), (1, 2, 3, 4, 5)])
def test_a_record_that_was_cut_begins_anew(tmp_path: Path, again: tuple[int, ...]) -> None:
    """Also where it has grown since then to its old length or beyond it."""
    path = tmp_path / "metrics.jsonl"
    append(path, *(line(n, seconds=1.5) for n in (1, 2, 3)))
    follower = Follower(path)
    follower.read()
    with path.open("r+b") as file:
        file.truncate(len(line(1, seconds=1.5)))
    append(path, *(line(n, seconds=2.5) for n in again[1:]))
    news = follower.read()
    assert news.begins_anew
    assert steps(news) == list(again)
    assert not follower.read().begins_anew


def test_a_file_in_place_of_another_begins_anew(tmp_path: Path) -> None:
    path, other = tmp_path / "metrics.jsonl", tmp_path / "other"
    append(path, line(1), line(2))
    follower = Follower(path)
    follower.read()
    append(other, line(1), line(2), line(3))
    other.replace(path)
    assert (follower.read().begins_anew, follower.read().begins_anew) == (True, False)
    path.unlink()
    assert follower.read().begins_anew
    append(path, line(7))
    assert steps(follower.read()) == [7]


def test_damaged_lines_are_left_out_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    append(path, line(1), b"{\n", b'{"step": "two"}\n', b"\xff\xfe\n", line(5))
    follower = Follower(path)
    assert steps(follower.read()) == [1, 5]
    assert follower.damaged == 3


def test_a_thinned_curve_keeps_the_ends_of_every_stretch() -> None:
    rng = np.random.default_rng(0)
    for n, most in [(1, 2), (5, 4), (100, 100), (101, 100), (100_000, 2_000), (12_345, 2_000)]:
        values = rng.normal(size=n)
        kept = extremes(values, most)
        assert len(kept) <= most
        assert kept[-1] == n - 1
        assert (np.diff(kept) > 0).all()
        assert {values.min(), values.max()} <= {*values[kept], values[-1]} or n <= 5
    spike = np.zeros(100_000)
    spike[77_777] = 1
    assert 77_777 in extremes(spike, 2_000)
