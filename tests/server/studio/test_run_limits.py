"""Limits of the Runs page."""

import dataclasses
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from homespun.checkpoint.names import METRICS
from homespun.errors import UserError
from homespun.server.limits import Limits
from homespun.server.studio.app import studio_app
from homespun.server.studio.processes import Processes
from homespun.server.studio.watched import Watched
from tests.server.studio.asking import ask
from tests.server.studio.conftest import serving
from tests.server.studio.pages import TOKEN
from tests.server.studio.running import Asker
from tests.server.test_limits import until


@pytest.mark.parametrize(("most", "kept"), [(3, ["1", "2", "3"]), (2, ["2", "3"])])
def test_the_last_samples_of_a_run_are_shown(tmp_path: Path, most: int, kept: list[str]) -> None:
    lines = [{"step": n, "tokens": n, "prompt": "a", "text": str(n)} for n in (1, 2, 3)]
    (tmp_path / METRICS).write_text("".join(json.dumps(one) + "\n" for one in lines))
    watched = Watched(tmp_path, dataclasses.replace(Limits(), sample_texts=most))
    watched.update()
    assert [sample["text"] for sample in watched.whole()["samples"]] == kept


def test_a_plan_that_takes_too_long_is_given_up(tmp_path: Path) -> None:
    processes = Processes(tmp_path, Limits(plan_seconds=0.001))
    with pytest.raises(UserError, match=r"the plan took longer than 0\.001 seconds"):
        processes.plan(["plan"])


@pytest.mark.parametrize(("most", "text"), [(5, "Once."), (4, "Once")])
def test_a_sample_is_cut(tmp_path: Path, most: int, text: str) -> None:
    record = {"step": 1, "tokens": 1, "prompt": "a", "text": "Once."}
    (tmp_path / METRICS).write_text(json.dumps(record) + "\n")
    watched = Watched(tmp_path, Limits(sample_characters=most))
    watched.update()
    assert watched.whole()["samples"][0]["text"] == text


@pytest.mark.parametrize(("most", "steps"), [(3, [1, 2, 3]), (2, [2, 3])])
def test_the_last_notes_are_shown(tmp_path: Path, most: int, steps: list[int]) -> None:
    lines = [{"step": n, "tokens": n, "cause": "spike", "advice": "wait"} for n in (1, 2, 3)]
    (tmp_path / METRICS).write_text("".join(json.dumps(one) + "\n" for one in lines))
    watched = Watched(tmp_path, Limits(notes=most))
    watched.update()
    assert [note["step"] for note in watched.whole()["notes"]] == steps


@pytest.mark.parametrize(("most", "shown"), [(7, "message"), (4, "sage")])
def test_the_last_messages_are_shown(tmp_path: Path, most: int, shown: str) -> None:
    processes = Processes(tmp_path, Limits(message_bytes=most))
    log = processes._file("run", ".log")
    log.parent.mkdir()
    log.write_text("message")
    assert processes.messages("run") == shown


@pytest.mark.parametrize(("most", "runs"), [(2, ["a", "b"]), (1, ["a", "a"])])
def test_the_first_runs_are_compared(tmp_path: Path, most: int, runs: list[str]) -> None:
    record = json.dumps({"step": 1, "tokens": 1, "loss": 2.0}) + "\n"
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / METRICS).write_text(record)
    app = studio_app(tmp_path, TOKEN, Limits(compared_runs=most))
    with serving(app) as place, Asker(place).live("a", "b") as events:
        told = (event["run"] for event in events if event["kind"] == "run")
        assert next(told) == "a"
        with (tmp_path / "a" / METRICS).open("a") as file:
            file.write(record.replace("1", "2"))
        assert next(told) == runs[1]


def test_a_plan_is_given_up_when_the_studio_ends(tmp_path: Path) -> None:
    processes = Processes(tmp_path, Limits())
    endless = ["studio", str(tmp_path), "--no-browser", "--port", "0"]
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(processes.plan, endless)
        assert until(lambda: processes._plan is not None)
        processes.close()
        with pytest.raises(UserError, match="the plan was given up"):
            answer.result(timeout=60)
    with pytest.raises(UserError, match="the studio is ending"):
        processes.plan(endless)


def test_a_server_that_ends_closes_the_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[Processes] = []
    monkeypatch.setattr(Processes, "close", lambda processes: closed.append(processes))
    with serving(studio_app(tmp_path, TOKEN)) as address:
        assert ask(address, "/api/runs")[0] == 200
        assert not closed
    assert len(closed) == 1
