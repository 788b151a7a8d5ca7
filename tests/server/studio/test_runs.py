"""The runs of a studio, asked as the page asks: lists, curves, forms, and real runs that are started and stopped."""

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from homespun import durable
from homespun.checkpoint.archive import read_archive
from homespun.checkpoint.folder import CheckpointFolder
from homespun.checkpoint.names import METRICS
from homespun.cli.arguments import parse
from homespun.cli.commands import COMMANDS
from homespun.config import TrainConfig
from homespun.errors import UserError
from homespun.server.limits import Limits
from homespun.server.studio import folders, form
from homespun.server.studio.processes import Processes
from homespun.server.studio.watched import Watched
from homespun.tuning.design import Design
from homespun.tuning.preparation import tokens_per_step
from tests.conftest import new_workplace, records
from tests.reporting.pages import write_run
from tests.server.studio.running import TINY, Asker, Refusal
from tests.tuning.test_course import design

pytest.importorskip("starlette")

TIMES = {"seconds", "tokens_per_second", "memory_bytes", "active_memory_bytes"}
"""Keys of records that differ between two equal runs."""

Studio = Callable[[Path], str]


@pytest.fixture
def root(tmp_path: Path, story_file: Path) -> Path:
    """The folder of a studio, with a text."""
    folder = (tmp_path / "work").resolve()
    folder.mkdir()
    new_workplace(folder, story_file)
    return folder


def line(folder: Path, **record: Any) -> None:
    """Append a line to the record of a run."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / METRICS).open("a") as file:
        file.write(json.dumps({"tokens": 8 * record["step"], "epoch": 0.1, **record}) + "\n")


# Names and folders


OUTSIDE = (
    *("..", "../work2", "a/../../b", "/etc/passwd", "/", "out", "out/run", "a\0b"),
    *(".homespun-studio", "x/.homespun-studio/a"),
)


@pytest.mark.parametrize("name", OUTSIDE)
def test_nothing_outside_of_the_folder_is_named(root: Path, name: str) -> None:
    (root.parent / "elsewhere").mkdir()
    (root / "out").symlink_to(root.parent / "elsewhere")
    with pytest.raises(UserError):
        folders.place(root, name)


def test_names_below_the_folder_are_allowed(root: Path) -> None:
    (root / "real").mkdir()
    (root / "alias").symlink_to(root / "real")
    for name in ("a", "a/b c", "alias", str(root / "a"), "ä", "..a"):
        assert folders.place(root, name).resolve().is_relative_to(root)


def test_runs_are_found_below_the_folder_alone(root: Path) -> None:
    for name in ("one", "deep/er/two", ".hidden/run", "node_modules/run", "one/later.1"):
        line(root / name, step=1, loss=1.0)
    (root.parent / "elsewhere").mkdir()
    line(root.parent / "elsewhere", step=1, loss=1.0)
    (root / "out").symlink_to(root.parent / "elsewhere")
    (root / "linked").mkdir()
    (root / "linked" / METRICS).symlink_to(root.parent / "elsewhere" / METRICS)
    with pytest.raises(UserError, match="no run"):
        folders.run_place(root, "linked")
    os.utime(root / "one" / METRICS, (1, 1))
    found = folders.search(root, Limits())
    assert (found.runs, found.more, found.is_whole) == (("deep/er/two", "one"), 0, True)
    few = folders.search(root, Limits(shown_runs=1))
    assert (few.runs, few.more) == (("deep/er/two",), 1)
    assert not folders.search(root, Limits(depth=1)).is_whole
    assert not folders.search(root, Limits(searched=2)).is_whole


# The form


def test_the_form_has_all_settings_of_a_run() -> None:
    fields = {one["name"]: one for group in form.form() for one in group["fields"]}
    known = {field.name: field for field in dataclasses.fields(TrainConfig)}
    assert fields.keys() == known.keys() - form.NOT_IN_FORM
    assert all(one["help"] == known[name].metadata["help"] for name, one in fields.items())
    assert fields["batch_size"]["bounds"] == "At least 1"
    assert "tiny" in fields["model_size"]["choices"]
    assert form.form()[0]["fields"][0]["name"] == "data_file"


def test_what_the_form_shows_at_first_changes_nothing(root: Path) -> None:
    shown = {one["name"]: one["value"] for group in form.form() for one in group["fields"]}
    typed = form.checked_form(root, shown)
    assert (typed.errors, typed.values) == ({}, {})


AWKWARD = {
    "data_file": "--help", "checkpoint_dir": "-x y", "sample_prompts": "--resume\n-1 and 'so' on\n$(touch broken); `x`",
    "gradient_checkpointing": True, "learning_rate": "1e-05", "max_epochs": "0.1", "max_steps": "7",
    "on_spike": "skip", "track": "tensorboard", "time_budget": "1h30m",
}  # fmt: skip


def test_words_mean_the_same_on_the_command_line(root: Path) -> None:
    typed = form.checked_form(root, AWKWARD)
    assert typed.errors == {}
    given = parse(COMMANDS["train"], form.words_of(typed.values))
    assert TrainConfig(**given) == TrainConfig(**typed.values)
    assert TrainConfig(**given).data_file == "--help"


def test_every_refusal_is_beside_its_field(root: Path) -> None:
    bad = {
        "batch_size": "0", "learning_rate": "high", "seed": "3.5", "time_budget": "20", "data_file": "../book.txt",
        "checkpoint_dir": "/tmp/x", "on_spike": "panic", "resume": "latest", "shell": "sh",
    }  # fmt: skip
    errors = form.checked_form(root, bad).errors
    assert errors.keys() == bad.keys() - {"time_budget"}
    assert errors["batch_size"] == "Batch size is 0: it must be at least 1"
    assert "add a unit" in form.checked_form(root, {"time_budget": "20"}).errors["time_budget"]


@pytest.mark.parametrize("settings", [None, ["--data-file"], "x", 1])
def test_without_settings_nothing_starts(studio: Studio, root: Path, settings: Any) -> None:
    for order in ("/start", "/check", "/plan"):
        with pytest.raises(Refusal, match="an object with fields is expected") as refused:
            Asker(studio(root)).post(order, settings=settings)
        assert refused.value.field == "settings"


def test_a_run_has_a_folder_of_its_own(studio: Studio, root: Path) -> None:
    asker = Asker(studio(root))
    for name in (".", str(root)):
        with pytest.raises(Refusal, match="the folder of the studio") as refusal:
            asker.post("/start", settings={"checkpoint_dir": name})
        assert refusal.value.field == "checkpoint_dir"
    write_run(root / "old")
    told = asker.post("/check", settings={"checkpoint_dir": "old"})
    assert "moves to a folder of its own" in told["note"]
    with CheckpointFolder(root / "old").lock():
        told = asker.post("/check", settings={"checkpoint_dir": "old"})
        assert f"in use by process {os.getpid()}" in told["errors"]["checkpoint_dir"]
        with pytest.raises(Refusal, match="in use"):
            asker.post("/start", settings={"checkpoint_dir": "old"})
    assert (
        asker.post("/check", settings={"max_steps": "5"})["command"]
        == "homespun train --max-steps=5"
    )


# Records


def merged(whole: Any, *parts: Any) -> Any:
    """As the page puts parts together."""
    curves = {
        name: [list(column) for column in columns] for name, columns in whole["curves"].items()
    }
    for part in parts:
        for name, columns in part["curves"].items():
            old = curves.setdefault(name, [[], [], []])
            curves[name] = [a + b for a, b in zip(old, columns, strict=True)]
    return curves


def test_parts_together_are_the_whole(root: Path) -> None:
    run = root / "run"
    watched, parts = Watched(run, Limits()), []
    cursor = None
    for step in range(1, 40):
        line(run, step=step, loss=1 / step, lr=1e-3, **({"muon_lr": 0.02} if step > 9 else {}))
        if step % 10 == 0:
            line(run, step=step, val_loss=2 / step, val_bits_per_byte=1 / step)
            line(run, step=step, prompt="Once", text=f" {step}")
        if step % 3 == 0:
            watched.update()
            part, cursor = watched.since(cursor)
            assert part
            parts.append(part)
    assert watched.since(cursor) == (None, cursor)
    assert parts[0]["begins"]
    assert not any(part["begins"] for part in parts[1:])
    assert merged(*parts) == watched.whole()["curves"]
    assert [text for part in parts for text in part["samples"]] == watched.whole()["samples"]
    assert watched.best() == {"step": 30, "val_loss": 2 / 30, "bits_per_byte": 1 / 30}


def test_a_long_curve_is_thinned_and_keeps_its_spikes(root: Path) -> None:
    run = root / "run"
    run.mkdir()
    lines = [
        {"step": n, "tokens": n, "loss": 9.0 if n == 777 else 1.0, "grad_norm": 1.0}
        for n in range(5000)
    ]
    (run / METRICS).write_text("".join(json.dumps(one) + "\n" for one in lines))
    watched = Watched(run, Limits(points=100))
    watched.update()
    whole, cursor = watched.since(None)
    assert whole
    steps, _, values = whole["curves"]["loss"]
    assert len(steps) <= 100
    assert (steps[values.index(9.0)], steps[-1]) == (777, 4999)
    inside = watched.whole(700, 780)["curves"]["loss"]
    assert inside[0] == list(range(700, 781))
    for n in range(5000, 5102, 3):
        line(run, step=n, loss=1.0)
    for n in range(6000, 6102):
        line(run, step=n, loss=1.0)
    watched.update()
    again, _ = watched.since(cursor)
    assert again
    assert again["begins"]  # so many new points that the whole is thinned anew
    assert len(again["curves"]["loss"][0]) <= 100


def test_another_yardstick_and_damage_are_told(root: Path) -> None:
    run = root / "run"
    line(run, step=1, val_loss=3.0)
    line(run, step=2, loss=None, cause_of="later versions")
    watched = Watched(run, Limits())
    watched.update()
    _, cursor = watched.since(None)
    line(run, step=2, eval_tokens=5, best_val_loss=4.0, best_step=1)
    line(run, step=3, val_loss=3.5)
    with (run / METRICS).open("a") as file:
        file.write("{damage}\n")
    watched.update()
    part, _ = watched.since(cursor)
    assert part
    assert (part["begins"], part["damaged"]) == (True, 1)
    assert part["curves"] == {"val_loss": [[3], [24.0], [3.5]]}


def test_the_stream_begins_with_everything_and_goes_on(studio: Studio, root: Path) -> None:
    run = root / "run"
    write_run(run, 200)
    write_run(root / "other", 100)
    asker = Asker(studio(root))
    with asker.live("run", "missing", "../x") as events:
        listed, first = next(events), next(events)
        assert {one["run"] for one in listed["runs"]} == {"run", "other"}
        assert (listed["kind"], first["kind"], first["run"], first["begins"]) == (
            "list",
            "run",
            "run",
            True,
        )
        assert len(first["curves"]["loss"][0]) == 20
        line(run, step=210, loss=2.0)
        part = next(event for event in events if event["kind"] == "run")
        assert (part["begins"], part["curves"]["loss"]) == (False, [[210], [1680.0], [2.0]])
        lines = (run / METRICS).read_text().splitlines(keepends=True)
        (run / METRICS).write_text("".join(lines[:5]))
        part = next(event for event in events if event["kind"] == "run")
        assert part["begins"]
        assert len(part["curves"]["loss"][0]) == 5
    with asker.live("run") as events:  # a page that is loaded again
        found = next(event for event in events if event["kind"] == "run")
        assert found["curves"] == part["curves"]


@pytest.mark.parametrize("path", ["", "/live", "/curves", "/advice", "/messages", "/tune", "/form"])
@pytest.mark.parametrize("name", ["../x", "nothing", ""])
def test_questions_about_what_is_no_run_are_answered_in_a_sentence(
    studio: Studio, root: Path, path: str, name: str
) -> None:
    asker = Asker(studio(root))
    if path in ("", "/form"):
        assert asker.get(path)
    elif path == "/live":
        with asker.live(name) as events:
            assert next(events)["kind"] == "list"
    elif path == "/messages" and name:
        assert asker.get(path, run=name) == {"text": ""}
    else:
        with pytest.raises(Refusal) as refusal:
            asker.get(path, run=name, tune=name)
        assert refusal.value.status == 400
    for order in ("/stop", "/resume", "/forget"):
        with pytest.raises(Refusal) as refusal:
            asker.post(order, run=name)
        assert refusal.value.status == 400


def test_records_of_others_lead_nowhere_else(studio: Studio, root: Path) -> None:
    """A folder from elsewhere may hold a run that writes outside, and notes of a studio that name one there."""
    write_run(root.parent / "elsewhere")
    write_run(root / "run", settings={"tokens_dir": "../elsewhere"})
    (root / folders.OWN).mkdir()
    durable.write_json(root / folders.OWN / "0.json", {"run": "../elsewhere", "pid": os.getpid()})
    asker = Asker(studio(root))
    assert [one["run"] for one in asker.get("")["runs"]] == ["run"]
    with (
        CheckpointFolder(root.parent / "elsewhere").lock(),
        pytest.raises(Refusal, match="leads out of the folder"),
    ):
        asker.post("/stop", run="../elsewhere")
    with pytest.raises(Refusal, match=r"\.\./elsewhere leads out of the folder"):
        asker.post("/resume", run="run")


@pytest.mark.parametrize("reward", ["evil.py:score", "os:getcwd", "../evil.py:score", ":"])
def test_a_reward_that_is_code_is_not_run(studio: Studio, root: Path, reward: str) -> None:
    """Neither from the form nor from the settings of a run that came from elsewhere."""
    (root / "evil.py").write_text("raise SystemExit")
    write_run(root / "run", settings={"reward": reward})
    asker = Asker(studio(root))
    assert asker.post("/check", settings={"reward": reward})["errors"].keys() == {"reward"}
    for order, more in (
        ("/start", {"settings": {"reward": reward}}),
        ("/plan", {"settings": {"reward": reward}}),
        ("/plan", {"run": "run"}),
        ("/resume", {"run": "run"}),
        ("/resume", {"run": "run", "settings": {"reward": reward}}),
    ):
        with pytest.raises(Refusal, match="is code"):
            asker.post(order, **more)
    assert not (root / folders.OWN).exists()


def test_advice_is_that_of_the_doctor(studio: Studio, root: Path) -> None:
    run = write_run(root / "run")
    line(run, step=200, cause="standstill", advice="lower the rate")
    told = Asker(studio(root)).get("/advice", run="run")
    assert told["problems"][0]["title"] == "The run came to a standstill"
    assert told["problems"][0]["text"] == "Lower the rate."
    assert told["problems"][0]["evidence"]
    assert "comparable curve" in told["comparison"]


def write_tune(folder: Path) -> Design:
    """A tune in progress: the recipe has come to its end, and one trial to the first rung."""
    plan = design()
    folder.mkdir()
    durable.write_json(folder / "tune.json", plan.stored())
    for name, rate, n_rungs in (("trial_0", 3e-4, len(plan.ladder.tokens)), ("trial_1", 1e-2, 1)):
        settings = plan.recipe | {"learning_rate": rate}
        line(folder / name, step=0, run={"settings": settings})
        for step in plan.ladder.steps(tokens_per_step(settings))[:n_rungs]:
            line(folder / name, step=step, val_loss=1 + 1 / step)
    return plan


def test_a_tune_in_progress_has_its_table(studio: Studio, root: Path) -> None:
    plan = write_tune(root / "tune")
    asker = Asker(studio(root))
    listed = asker.get("")
    assert listed["tunes"] == ["tune"]
    assert {one["run"]: one["tune"] for one in listed["runs"]} == {
        "tune/trial_0": "tune",
        "tune/trial_1": "tune",
    }
    told = asker.get("/tune", tune="tune")
    rows = {row["trial"]: row for row in told["rows"]}
    assert list(rows) == ["recipe", "1"]
    assert rows["recipe"]["state"] == "whole run"
    assert rows["1"]["state"].startswith("stopped at")
    assert rows["1"]["learning_rate"] == 1e-2
    assert (told["verdict"], told["columns"]) == (None, plan.columns)
    (root / "tune" / "tune.json").write_text("{")
    with pytest.raises(Refusal, match="damaged"):
        asker.get("/tune", tune="tune")


# Real runs


def plain(folder: Path) -> list[dict[str, Any]]:
    """The records of a run, without what differs from time to time."""
    return [{k: v for k, v in record.items() if k not in TIMES} for record in records(folder)]


def tensors(file: Path) -> dict[str, Any]:
    return dict(read_archive(file).tensors())


def test_a_run_by_the_page_equals_one_by_the_command_line(studio: Studio, root: Path) -> None:
    """Bit for bit, although it is stopped and gone on with."""
    steps = 1500  # some seconds: the page has to stop it before its end
    settings = TINY | {"max_steps": str(steps)}
    words = form.words_of(form.checked_form(root, settings).values)
    command = [sys.executable, "-m", "homespun", "train", *words, "--checkpoint-dir", "typed"]
    control = subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    output, _ = control.communicate(timeout=300)
    assert control.returncode == 0, output.decode()

    asker = Asker(studio(root))
    assert asker.post("/start", settings=settings | {"checkpoint_dir": "paged"}) == {"run": "paged"}
    with pytest.raises(Refusal, match=r"in use|has a process"):
        asker.post("/start", settings=settings | {"checkpoint_dir": "paged"})
    running = asker.until("paged", lambda run: run["state"] == "running" and run.get("step", 0) > 0)
    assert running["can_stop"]
    asker.post("/stop", run="paged")
    with pytest.raises(Refusal, match=r"stopping already|not running"):
        asker.post("/stop", run="paged")
    stopped = asker.until("paged", lambda run: run["state"] in ("stopped", "failed"))
    assert stopped["state"] == "stopped"
    assert 0 < stopped["saved_step"] < steps
    assert "--resume" in asker.get("/messages", run="paged")["text"]
    asker.post("/resume", run="paged")
    done = asker.until(
        "paged",
        lambda run: run["state"] in ("finished", "stopped", "failed") and run["step"] == steps,
    )
    assert (done["state"], done["ended_by"], done["progress"]) == ("finished", "max_steps", 1.0)

    assert "not at its place" not in asker.get("/advice", run="paged")["comparison"]
    assert plain(root / "paged") == plain(root / "typed")
    for name in (f"checkpoint_step_{steps}.npz", f"checkpoint_step_{steps}.state.npz", "best.npz"):
        one, other = tensors(root / "paged" / name), tensors(root / "typed" / name)
        assert one.keys() == other.keys()
        assert all(np.array_equal(one[key], other[key]) for key in one), name


def test_a_run_outlives_its_studio_and_another_one_stops_it(root: Path) -> None:
    limits, settings = Limits(), TINY | {"max_steps": "1000000"}
    values = form.checked_form(root, settings).values
    program = (
        "import sys; from pathlib import Path; from homespun.server.limits import Limits\n"
        "from homespun.server.studio.processes import Processes\n"
        "Processes(Path.cwd(), Limits()).start('run', sys.argv[1:])"
    )
    words = ["train", *form.words_of(values), "--checkpoint-dir=run"]
    subprocess.run([sys.executable, "-W", "ignore", "-c", program, *words], cwd=root, check=True)

    later = Processes(root, limits)
    assert later.of("run").doing in ("starting", "running")
    watched = Watched(root / "run", limits)
    while not len(watched.training):
        assert later.of("run").doing, later.messages("run")
        watched.update()
    found = later.of("run")
    assert (found.doing, found.is_ours, found.can_stop) == ("running", True, True)
    later.stop("run")
    assert later.of("run").doing in ("stopping", None)
    assert Processes(root, limits).of("run").doing in (
        "stopping",
        None,
    )  # it is asked once, by whichever studio
    while later.of("run").doing:
        pass
    assert later.of("run").failure is None
    assert CheckpointFolder(root / "run").latest()


def test_a_run_that_fails_says_why(studio: Studio, root: Path) -> None:
    asker = Asker(studio(root))
    asker.post("/start", settings={"data_file": "missing.txt", "checkpoint_dir": "new"})
    failed = asker.until("new", lambda run: run["state"] == "failed")
    assert "missing.txt" in failed["failure"]
    assert not failed["has_record"]
    assert failed["failure"] in " ".join(asker.get("/messages", run="new")["text"].split())
    asker.post("/forget", run="new")
    assert asker.run("new") is None


def test_a_plan_is_that_of_the_command_and_names_the_field_at_fault(
    studio: Studio, root: Path
) -> None:
    asker = Asker(studio(root))
    told = asker.post("/plan", settings=TINY | {"max_steps": "50"})
    assert told["facts"]["length"].startswith("50 steps (--max-steps 50)")
    assert {"memory", "disk", "speed", "time", "loss"} < told["facts"].keys()
    assert not (root / "checkpoints").exists()
    with pytest.raises(Refusal, match=r"missing\.txt") as refusal:
        asker.post("/plan", settings={"data_file": "missing.txt"})
    assert refusal.value.status == 400


def test_only_so_many_runs_train_at_once(root: Path) -> None:
    processes = Processes(root, Limits(trainers=0))
    with pytest.raises(UserError, match="0 runs of the studio train already"):
        processes.start("run", ["train"])
    assert not (root / "run").exists()
