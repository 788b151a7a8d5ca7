"""The metrics file of a run: complete lines, strict JSON, exact truncation."""

import errno
import json
import math
import os
import resource
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from homespun.errors import DiskFullError, UserError
from homespun.records.events import Started
from homespun.records.metrics import MetricsLog
from homespun.records.reading import read

RECORDS = [{"step": step, "loss": 9.0 / step, "text": "né\n🧵"} for step in range(1, 6)]


def fill(path, records=RECORDS):
    with MetricsLog(path) as log:
        lengths = [log.sync()]
        for record in records:
            log.append(record)
            lengths.append(log.sync())
    return lengths


def test_what_is_written_is_read(tmp_path):
    fill(tmp_path / "metrics.jsonl")
    assert list(read(tmp_path / "metrics.jsonl")) == RECORDS


def test_a_record_is_in_the_file_when_append_returns(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with MetricsLog(path) as log:
        for n, record in enumerate(RECORDS, 1):
            log.append(record)
            assert len(list(read(path))) == n
            assert log.sync() == path.stat().st_size


numbers = st.one_of(
    st.floats(),
    st.integers(),
    st.floats(width=32).map(np.float32),
    st.integers(-(2**63), 2**63 - 1).map(np.int64),
    st.booleans().map(np.bool_),
)


@settings(derandomize=True, deadline=None, max_examples=100)
@given(st.dictionaries(st.text(), numbers | st.text() | st.lists(numbers, max_size=3)))
def test_any_record_is_one_line_of_strict_json(tmp_path_factory, record):
    path = tmp_path_factory.mktemp("run") / "metrics.jsonl"
    fill(path, [record])
    (line,) = path.read_text(encoding="ascii").splitlines()

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    def plain(value):
        if isinstance(value, list):
            return [plain(item) for item in value]
        value = value.item() if isinstance(value, np.generic) else value
        return None if isinstance(value, float) and not math.isfinite(value) else value

    expected = {key: plain(value) for key, value in record.items()}
    assert json.loads(line, parse_constant=refuse) == expected


@pytest.mark.parametrize("kept", range(len(RECORDS) + 1))
def test_a_resumed_run_goes_on_after_the_record_of_its_checkpoint(tmp_path, kept):
    path = tmp_path / "metrics.jsonl"
    lengths = fill(path)
    with MetricsLog(path) as log:
        log.truncate(lengths[kept])
        assert log.sync() == lengths[kept]
        for record in RECORDS[kept:]:
            log.append(record)
    assert list(read(path)) == RECORDS


@pytest.mark.parametrize("torn", [b"{", b'{"step": 6}', b'{"text": "' + b"x" * 200_000])
def test_a_torn_last_line_is_not_read_and_not_built_upon(tmp_path, torn):
    path = tmp_path / "metrics.jsonl"
    fill(path, RECORDS[:3])
    with path.open("ab") as file:
        file.write(torn)
    assert list(read(path)) == RECORDS[:3]
    fill(path, RECORDS[3:])
    assert list(read(path)) == RECORDS


def test_a_file_that_is_only_a_torn_line_is_empty(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step"')
    assert list(read(path)) == []
    assert fill(path)[0] == 0


@pytest.mark.parametrize("wrong", [1, 20, 10**9])
def test_the_record_of_another_run_is_refused_and_left_as_it_is(tmp_path, wrong):
    path = tmp_path / "metrics.jsonl"
    fill(path)
    before = path.read_bytes()
    with MetricsLog(path) as log, pytest.raises(UserError, match="not the record of this run"):
        log.truncate(wrong)
    assert path.read_bytes() == before


def test_a_lost_record_is_begun_anew(tmp_path):
    with MetricsLog(tmp_path / "metrics.jsonl") as log:
        log.truncate(12345)
        log.append({"step": 7})
    assert list(read(tmp_path / "metrics.jsonl")) == [{"step": 7}]


@pytest.mark.parametrize("damage", [b"\n", b"[1]\n", b'{"step": \xff}\n', b'{"step": 1}{\n'])
def test_a_damaged_line_is_named(tmp_path, damage):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n' + damage + b'{"step": 3}\n')
    with pytest.raises(UserError, match="line 2"):
        list(read(path))


def test_while_the_disk_is_full_lines_are_held_back_and_no_checkpoint_relies_on_them(tmp_path):
    path = tmp_path / "metrics.jsonl"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with MetricsLog(path) as log:
        log.append(RECORDS[0])
        length = log.sync()
        resource.setrlimit(resource.RLIMIT_FSIZE, (length + 5, hard))
        try:
            log.append(RECORDS[1])
            log.append(RECORDS[2])
            with pytest.raises(DiskFullError, match=r"metrics\.jsonl cannot be written"):
                log.sync()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert path.stat().st_size == length
        log.append(RECORDS[3])
        assert list(read(path)) == RECORDS[:4]
        assert log.sync() == path.stat().st_size


def test_a_disk_that_fails_otherwise_is_loud_at_once(tmp_path, monkeypatch):
    def fail(line):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with MetricsLog(tmp_path / "metrics.jsonl") as log:
        file = SimpleNamespace(write=fail, truncate=log.file.truncate)
        with monkeypatch.context() as patched:
            patched.setattr(log, "file", file)
            with pytest.raises(UserError, match="Input/output error"):
                log.append(RECORDS[0])


def test_files_that_cannot_be_opened_are_named(tmp_path):
    with pytest.raises(UserError, match=r"no/metrics\.jsonl cannot be written"):
        MetricsLog(tmp_path / "no" / "metrics.jsonl")
    with pytest.raises(UserError, match=r"metrics\.jsonl cannot be read"):
        list(read(tmp_path / "metrics.jsonl"))


def written(path, records=RECORDS):
    """Length and hash after each record, as checkpoints store them."""
    with MetricsLog(path) as log:
        stored = [(log.sync(), log.sha256)]
        for record in records:
            log.append(record)
            stored.append((log.sync(), log.sha256))
    return stored


def resumed(path, length, sha256):
    """The reports of a log that is cut back, and the hash from which it goes on."""
    said = []
    with MetricsLog(path) as log:
        log.report = said.append
        log.truncate(length, sha256)
        return said, log.sha256


def test_a_changed_line_is_noticed_on_resume_and_never_forgotten(tmp_path):
    path = tmp_path / "metrics.jsonl"
    stored = written(path)
    whole = path.read_bytes()
    assert resumed(path, *stored[4]) == ([], stored[4][1])
    for place in range(stored[3][0]):
        path.write_bytes(whole)
        content = bytearray(whole)
        content[place] ^= 1
        path.write_bytes(content)
        said, sha256 = resumed(path, *stored[4])
        assert ["metrics.jsonl is damaged" in line for line in said] == [True]
        assert (
            sha256 == stored[4][1]
        )  # the hashes of later checkpoints differ from that of the file
        assert len(path.read_bytes()) == stored[4][0]
    path.write_bytes(whole)  # the right one is put back
    assert resumed(path, *stored[4])[0] == []
    assert resumed(path, stored[4][0], None)[0] == []  # a checkpoint of an earlier version


def changed_during_a_run(path, change):
    """The reports, the length and the records of a log whose file was changed between two records."""
    said = []
    with MetricsLog(path) as log:
        log.report = said.append
        for record in RECORDS[:3]:
            log.append(record)
        change()
        for record in RECORDS[3:]:
            log.append(record)
        length = log.sync()
        assert length == path.stat().st_size
        before = log.sha256
        assert log.sync() == length  # once is enough
        assert len(said) == 1
    damaged = []
    records = list(read(path, damaged.append))
    return said[0], records, before == written_hash(path), len(damaged)


def written_hash(path):
    with MetricsLog(path) as log:
        return log.sha256


@pytest.mark.parametrize("how", ["removed", "replaced"])
def test_a_file_that_is_removed_or_replaced_during_a_run_is_written_again(tmp_path, how):
    path = tmp_path / "metrics.jsonl"

    def change():
        path.unlink()
        if how == "replaced":
            path.write_text("mine\n")

    said, records, whole, _ = changed_during_a_run(path, change)
    assert "was removed or replaced by another program: it is written again" in said
    assert (records, whole) == (RECORDS, True)
    if how == "replaced":
        assert (tmp_path / "metrics.jsonl.1").read_text() == "mine\n"


@pytest.mark.parametrize(("length", "kept"), [(0, 0), (60, 1)])
def test_a_file_that_is_cut_during_a_run_is_noticed_at_the_next_save(tmp_path, length, kept):
    path = tmp_path / "metrics.jsonl"
    said, records, whole, damaged = changed_during_a_run(path, lambda: os.truncate(path, length))
    assert "was changed by another program" in said
    assert not whole  # `verify` will say so
    assert damaged == kept  # the line that was cut, with the next one behind it
    assert records[-1] == RECORDS[-1]


@pytest.mark.parametrize(
    "line",
    [
        '{"step": NaN}',
        '{"step": 2, "loss": Infinity}',
        '{"step": 2, "loss": 1e999}',
        '{"step": "2"}',
        '{"step": true}',
        '{"step": -1}',
        '{"stdp": 2, "loss": 1.0}',
        '{"step": 2, "loss": "1.0"}',
        '{"step": 2, "tokens": {}}',
        '{"step": 2, "text": 3}',
        '{"step": 2, "run": "mine"}',
        '{"step": 2, "expert_load": [[1.0], ["1.0"]]}',
        '{"step": 2, "expert_load": [1.0]}',
        '{"step": 2, "loss": ' + "9" * 5000 + "}",
        "[" * 100_000,
    ],
)
def test_a_line_that_is_no_record_is_named_or_left_out(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n' + line + '\n{"step": 3, "loss": null}\n')
    with pytest.raises(UserError, match=r"line 2: .* damaged there"):
        list(read(path))
    damaged = []
    assert [record["step"] for record in read(path, damaged.append)] == [1, 3]
    assert len(damaged) == 1


def started(run, step=0):
    return Started(
        step=step,
        tokens=0,
        progress=0.0,
        seconds_left=None,
        title="Training",
        facts={},
        total_steps=None,
        best_val_loss=None,
        run=run,
    )


def test_the_line_that_describes_the_run_comes_with_the_first_other_line_or_checkpoint(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with MetricsLog(path) as log:
        log(started({"model": "a"}))
    assert path.read_bytes() == b""  # nothing happened in this run
    line = {"step": 0, "tokens": 0, "epoch": 0.0, "run": {"model": "a"}}
    with MetricsLog(path) as log:
        log(started({"model": "a"}))
        assert log.sync() == path.stat().st_size
        assert list(read(path)) == [line]
    path.unlink()
    with MetricsLog(path) as log:
        log(started({"model": "a"}))
        log.append(RECORDS[0])
    assert list(read(path)) == [line, RECORDS[0]]


def test_a_resumed_run_describes_itself_only_if_it_differs(tmp_path):
    path = tmp_path / "metrics.jsonl"
    for step, run in enumerate([{"seq_len": 4}, {"seq_len": 4}, {"seq_len": 8}]):
        with MetricsLog(path) as log:
            log(started(run, step))
            log.append({"step": step, "text": '"run": {"seq_len": 9}'})
    described = [(record["step"], record["run"]) for record in read(path) if "run" in record]
    assert described == [(0, {"seq_len": 4}), (2, {"seq_len": 8})]
    with MetricsLog(path) as log:  # back to the first
        log.truncate(len(path.read_bytes().splitlines(keepends=True)[0]))
        log(started({"seq_len": 8}, 1))
        log.sync()
    assert len(list(read(path))) == 2
