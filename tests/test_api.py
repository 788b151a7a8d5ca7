"""The Python API: train, load, evaluate, generate, write."""

import dataclasses
import inspect
import os
import shutil
import signal
import subprocess
import sys
import tracemalloc
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import homespun
from homespun.checkpoint.archive import CheckpointError, write_archive
from homespun.checkpoint.folder import CheckpointFolder
from homespun.data.batch import Batch
from homespun.engine import select
from homespun.engine.base import EngineOptions
from homespun.errors import UserError
from homespun.records import events
from homespun.training import train
from homespun.training.checkpointing.resume import find_point, given_config, with_stored
from tests.conftest import records
from tests.reference import random_batch, random_weights, relative_error

SMALL = homespun.TrainConfig(
    data_file="stories.txt",
    tokenizer_path="tokenizer_model",
    model_size="pico",
    n_layers=1,
    d_model=32,
    n_heads=2,
    seq_len=32,
    batch_size=4,
    max_steps=3,
    precision="float32",
    log_interval=1,
    eval_tokens=500,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, story_file: Path) -> Path:
    """Stories, a tokenizer, and a run in `checkpoints`."""
    folder = tmp_path_factory.mktemp("api")
    (folder / "stories.txt").write_bytes(story_file.read_bytes())
    text = story_file.read_text(encoding="utf-8").split("<|endoftext|>")
    from homespun.tokenizer import train

    train(text, 400).save(folder / "tokenizer_model")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        result = homespun.train(SMALL)
    assert (result.steps, result.ended_by, result.stopped_by) == (3, "max_steps", None)
    assert result.val_loss == result.best_val_loss
    assert result.best == Path("checkpoints/best.npz")
    return folder


@pytest.fixture
def model(folder: Path, monkeypatch: pytest.MonkeyPatch) -> homespun.LanguageModel:
    monkeypatch.chdir(folder)
    return homespun.load("checkpoints/best.npz", precision="float32")


def ids(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 400, shape)


def test_the_inside_of_a_model_leads_to_its_logits(model: homespun.LanguageModel) -> None:
    tokens = ids(20)
    inside = model.inspect(tokens)
    assert inside.hidden.shape == (2, 20, 32)
    assert inside.attention.shape == (1, 2, 20, 20)
    lens = model.lens(inside.hidden)
    assert lens.shape == (2, 20, 400)
    assert relative_error(lens[1], model(tokens)) < 1e-6
    assert relative_error(lens[0], model(tokens)) > 1e-3
    for wrong in (ids(2, 5), ids(33), np.array([400])):
        with pytest.raises(ValueError, match="tokens"):
            model.inspect(wrong)
    with pytest.raises(ValueError, match="states"):
        model.lens(np.zeros((3, 31)))


def test_an_engine_without_a_look_inside_says_so(folder: Path) -> None:
    model = homespun.load(folder / "checkpoints", engine="torch", precision="float32")
    with pytest.raises(UserError, match='load it with engine="numpy"'):
        model.inspect([0])


def test_logits_and_loss_agree_with_each_other(model: homespun.LanguageModel) -> None:
    tokens = ids(3, 33)
    inputs, targets = tokens[:, :-1], tokens[:, 1:].copy()
    logits = model(inputs)
    assert logits.shape == (3, 32, 400)
    assert logits.dtype == np.float32
    again, loss = model(inputs, targets)
    np.testing.assert_array_equal(logits, again)
    exact = logits.astype(np.float64)
    nats = np.log(np.exp(exact).sum(-1)) - np.take_along_axis(exact, targets[..., None], -1)[..., 0]
    assert loss == pytest.approx(nats.mean(), rel=1e-5)
    # One sequence without a batch dimension, and ignored targets.
    one, one_loss = model(inputs[0], targets[0])
    assert one.shape == (32, 400)
    np.testing.assert_allclose(one, logits[0], atol=1e-5)
    assert one_loss == pytest.approx(nats[0].mean(), rel=1e-5)
    targets[0], targets[2] = -1, -1
    assert model(inputs, targets)[1] == pytest.approx(nats[1].mean(), rel=1e-5)


@pytest.mark.parametrize("engine", ["numpy", "torch", "mlx"])
def test_the_loss_of_a_model_is_the_one_of_training(
    engine: Any, model: homespun.LanguageModel, tmp_path: Path
) -> None:
    """In training no document sees another. The weights are far from initial ones, whose attention does nothing."""
    weights, mark = random_weights(model.config), model.tokenizer.eot_id
    path = tmp_path / "random.npz"
    write_archive(path, weights.items(), model.stored.header)
    loaded = homespun.load(path, engine=engine, precision="float32")
    tokens = random_batch(model.config).inputs
    tokens[:, 7] = tokens[1, 20] = mark
    inputs, targets = tokens[:, :-1], tokens[:, 1:]
    options = EngineOptions(precision="float32", document_mark=mark, seed=None)
    training = select.create(model.config, options)
    training.load(weights.items())
    total, n_targets = training.loss(Batch(inputs.copy(), targets.copy()))
    logits, loss = loaded(inputs, targets)
    assert loss == pytest.approx(total / n_targets, rel=1e-5)
    assert relative_error(logits, training.logits(inputs.copy())) < 1e-5


def test_the_stored_loss_is_the_models(model: homespun.LanguageModel, folder: Path) -> None:
    stored = model.stored.header["val_loss"]
    assert abs(stored - np.log(400)) < 0.5
    from homespun.data.corpus import survey

    text = next(iter(survey(folder / "stories.txt").validation()))
    tokens = np.array([model.tokenizer.eot_id, *model.tokenizer.encode(text)])[:33]
    assert model(tokens[:-1], tokens[1:])[1] == pytest.approx(stored, abs=0.5)


@pytest.mark.parametrize(
    "tokens",
    [
        np.zeros((1, 33), int),
        np.zeros((1, 1, 1), int),
        np.zeros((0, 4), int),
        np.zeros((4, 0), int),
        np.zeros(4),
        np.array([400]),
        np.array([-1]),
        np.array(5),
    ],
    ids=lambda tokens: f"{tokens.dtype}{list(tokens.shape)}",
)
def test_tokens_that_no_model_can_read_are_refused(
    model: homespun.LanguageModel, tokens: np.ndarray
) -> None:
    with pytest.raises(ValueError, match=r"^tokens (are|must be) "):
        model(tokens)


def test_targets_of_another_shape_or_vocabulary_are_refused(model: homespun.LanguageModel) -> None:
    with pytest.raises(ValueError, match="give both the same shape"):
        model(ids(2, 8), ids(2, 7))
    for wrong in (400, -2):
        with pytest.raises(ValueError, match="targets must be"):
            model(ids(8), np.full(8, wrong))
    with pytest.raises(ValueError, match="targets must be"):
        model(ids(8), np.full(8, 0.5))


def test_generation_is_seeded_and_streams_what_it_returns(model: homespun.LanguageModel) -> None:
    settings: dict[str, Any] = {"max_tokens": 20, "seed": 5}
    text = model.generate("Once upon", **settings)
    assert text.startswith("Once upon")
    assert model.generate("Once upon", **settings) == text
    assert "Once upon" + "".join(model.stream("Once upon", **settings)) == text
    assert model.generate("Once upon", max_tokens=20, seed=6) != text
    assert model.generate(**settings)
    greedy = [model.generate("Once", max_tokens=8, temperature=0) for _ in range(2)]
    assert greedy[0] == greedy[1]


def test_prompts_of_unequal_length_are_continued_together(model: homespun.LanguageModel) -> None:
    prompts = ["Once upon a time", None, "The cat"]
    settings: dict[str, Any] = {"max_tokens": 40, "seed": 5}
    together = model.generate_batch(prompts, **settings)
    for prompt, written in zip(prompts, together, strict=True):
        assert [written] == model.continuations(prompt, **settings)


def test_saved_weights_are_the_model(model: homespun.LanguageModel, tmp_path: Path) -> None:
    path = tmp_path / "copy.npz"
    model.save_weights(path)
    copy = homespun.load(path, precision="float32")
    assert copy.config == model.config
    assert copy.tokenizer.sha256 == model.tokenizer.sha256
    ours, theirs = dict(model.engine.state()), dict(copy.engine.state())
    assert ours.keys() == theirs.keys()
    for name, values in ours.items():
        np.testing.assert_array_equal(values, theirs[name])
    np.testing.assert_array_equal(model(ids(2, 9)), copy(ids(2, 9)))


def test_a_folder_stands_for_its_best_weights(model: homespun.LanguageModel, folder: Path) -> None:
    of_folder = homespun.load(folder / "checkpoints", precision="float32")
    np.testing.assert_array_equal(model(ids(2, 9)), of_folder(ids(2, 9)))


def test_a_grid_over_rates_and_batches_is_a_loop(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    losses = {}
    for lr in [1e-3, 1e-2]:
        for batch_size in [2, 4]:
            result = homespun.train(
                SMALL,
                learning_rate=lr,
                batch_size=batch_size,
                checkpoint_dir=f"grid/{lr}-{batch_size}",
            )
            losses[lr, batch_size] = result.val_loss
    assert len(set(losses.values())) == 4
    assert homespun.load("grid/0.01-4").generate("The cat", max_tokens=3).startswith("The cat")


def test_equal_runs_are_equal_and_resuming_is_a_setting(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    straight = homespun.train(SMALL, checkpoint_dir="straight", max_steps=4)
    homespun.train(SMALL, checkpoint_dir="again", max_steps=4)
    one, other = (homespun.load(name) for name in ("straight", "again"))
    for (name, values), (_, others) in zip(one.engine.state(), other.engine.state(), strict=True):
        np.testing.assert_array_equal(values, others, err_msg=name)
    went_on = homespun.train(SMALL, checkpoint_dir="again", max_steps=6, resume="latest")
    assert (straight.steps, went_on.steps) == (4, 6)


def test_a_listener_gets_the_story_and_ends_it_and_the_run_can_be_resumed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    whole: list[events.Event] = []
    settings: dict[str, Any] = {"max_steps": 4, "eval_interval": 2, "sample_prompts": ("The cat",)}
    homespun.train(SMALL, checkpoint_dir="whole", on_event=whole.append, **settings)
    kinds = [type(event) for event in whole if not isinstance(event, events.Activity)]
    assert kinds[0] is events.Started
    assert kinds[-1] is events.Ended
    assert kinds.count(events.Step) == 4
    assert kinds.count(events.Evaluation) == 2
    [saved] = [event for event in whole if isinstance(event, events.Saved)]
    assert saved.path == Path("whole/checkpoint_step_4.npz")

    def stop(event: events.Event) -> None:
        if isinstance(event, events.Evaluation):
            raise homespun.StopRun("good enough")

    stopped = homespun.train(SMALL, checkpoint_dir="stopped", on_event=stop, **settings)
    assert (stopped.steps, stopped.ended_by) == (2, "on_event: good enough")
    homespun.train(checkpoint_dir="stopped", resume="latest")
    losses = [
        [record["loss_hex"] for record in records(Path(name)) if "loss" in record]
        for name in ("whole", "stopped")
    ]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 4


def test_an_error_of_a_listener_is_raised_after_the_run_is_saved(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)

    def fail(event: events.Event) -> None:
        if isinstance(event, events.Step) and event.step == 2:
            raise ZeroDivisionError("of the listener")

    with pytest.raises(ZeroDivisionError, match="of the listener"):
        homespun.train(SMALL, checkpoint_dir="failed", on_event=fail)
    assert Path("failed/checkpoint_step_2.state.npz").exists()
    assert homespun.train(checkpoint_dir="failed", resume="latest").steps == 3


PROGRAM = """
import os, signal, sys
import homespun
from homespun.records.events import Step
from tests.test_api import SMALL

presses, number = int(sys.argv[1]), int(sys.argv[2])

def press(event):
    if isinstance(event, Step) and event.step == 2:
        for _ in range(presses):
            os.kill(os.getpid(), number)

try:
    for rate in (1e-3, 2e-3):
        print("begins", rate, flush=True)
        homespun.train(SMALL, learning_rate=rate, checkpoint_dir=f"sweep/{rate}", on_event=press)
except KeyboardInterrupt:
    print("KeyboardInterrupt")
finally:
    print("cleaned up")
"""


@pytest.mark.parametrize("presses", [1, 2])
def test_ctrl_c_ends_a_sweep_and_the_program_cleans_up(
    folder: Path, tmp_path: Path, presses: int
) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(presses), str(int(signal.SIGINT))],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stdout.splitlines() if line.startswith(("beg", "Key", "cle"))]
    assert said == ["begins 0.001", "KeyboardInterrupt", "cleaned up"]
    assert (tmp_path / "sweep/0.001/checkpoint_step_2.state.npz").exists()


def test_a_program_is_terminated_after_the_run_is_saved(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "1", str(int(signal.SIGTERM))],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == -signal.SIGTERM, done.stderr
    assert done.stdout.count("begins") == 1
    assert (tmp_path / "sweep/0.001/checkpoint_step_2.state.npz").exists()


def test_the_program_decides_about_a_signal_that_it_handles(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)

    def stop(event: events.Event) -> None:
        if isinstance(event, events.Step):
            signal.raise_signal(signal.SIGTERM)

    received: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))
    try:
        result = homespun.train(SMALL, checkpoint_dir="handled", on_event=stop)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert (result.steps, result.ended_by, received) == (1, "SIGTERM", [signal.SIGTERM])


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()])
def test_a_listener_that_leaves_the_program_does_not_cost_the_run(
    folder: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    monkeypatch.chdir(folder)

    def leave(event: events.Event) -> None:
        if isinstance(event, events.Step) and event.step == 2:
            raise error

    with pytest.raises(type(error)):
        homespun.train(SMALL, checkpoint_dir="left", on_event=leave)
    assert Path("left/checkpoint_step_2.state.npz").exists()


def test_paths_and_numbers_of_other_libraries_are_taken(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", str(folder))
    path = homespun.download(dataset=Path("stories.txt"), output=Path("copy.txt"))
    result = homespun.train(
        SMALL,
        data_file=path,
        checkpoint_dir=Path("~") / "paths",
        batch_size=np.int64(4),
        learning_rate=np.float32(1e-3),
        max_steps=np.array(2),
    )
    assert result.best == folder / "paths/best.npz"
    model = homespun.load(Path("~/paths"), threads=np.int64(1))  # type: ignore[arg-type]
    model.save_weights(Path("~/saved.npz"))
    assert homespun.load("~/saved.npz").config == model.config
    [written] = model.continuations("The cat", num_samples=np.int64(1), max_tokens=np.int64(3))  # type: ignore[arg-type]
    assert len(written.token_ids) <= 3


@pytest.mark.parametrize("number", [0, -1, 1.5, True, "2", None])
def test_a_number_of_samples_is_at_least_one(model: homespun.LanguageModel, number: Any) -> None:
    with pytest.raises(UserError, match=r"^--num-samples is "):
        model.continuations("The cat", num_samples=number)


def test_arguments_of_another_kind_are_refused_in_a_line(model: homespun.LanguageModel) -> None:
    calls: list[Any] = [
        lambda: homespun.train("stories.txt"),  # type: ignore[arg-type]
        lambda: homespun.train(homespun.SamplingConfig()),  # type: ignore[arg-type]
        lambda: homespun.train(SMALL, on_event=5),  # type: ignore[arg-type]
        lambda: homespun.train_tokenizer("stories.txt"),  # type: ignore[arg-type]
        lambda: homespun.download("stories"),  # type: ignore[arg-type]
        lambda: homespun.load(5),  # type: ignore[arg-type]
        lambda: homespun.load(b"checkpoints"),  # type: ignore[arg-type]
        lambda: homespun.load(""),
        lambda: homespun.load(threads=0),
        lambda: model.generate(5),  # type: ignore[arg-type]
        lambda: model.generate(b"The cat"),  # type: ignore[arg-type]
        lambda: model.generate("The cat", 100),  # type: ignore[arg-type]
        lambda: model.generate("The cat", num_samples=2),
        lambda: model.generate("The cat", max_token=2),
        lambda: model.generate_batch("The cat"),
        lambda: model.generate_batch(5),  # type: ignore[arg-type]
        lambda: model.generate_batch(["The cat", 5]),  # type: ignore[list-item]
        lambda: next(model.stream(["The cat"])),  # type: ignore[arg-type]
        lambda: model.stream("The cat", 100),  # type: ignore[arg-type]
        lambda: model.save_weights(5),  # type: ignore[arg-type]
        lambda: model.save_weights(""),
        lambda: model.save_weights("missing/weights.npz"),
    ]
    for call in calls:
        with pytest.raises(UserError) as refused:
            call()
        assert "\n" not in str(refused.value)
    assert model.generate_batch([]) == []


def test_settings_come_from_flags_then_the_file_then_the_resumed_run_then_the_defaults(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    homespun.train(SMALL, checkpoint_dir="first", weight_decay=0.3, beta2=0.9, max_steps=1)
    Path("run.toml").write_text("weight_decay = 0.2\nlearning_rate = 0.1\n")
    given = {"config": "run.toml", "learning_rate": 0.01, "checkpoint_dir": "first"}
    new = given_config(given)
    assert find_point(new, print) is None
    assert (new.learning_rate, new.weight_decay, new.beta2) == (0.01, 0.2, None)
    given["resume"] = "latest"
    point = find_point(given_config(given), print)
    assert point is not None
    resumed = with_stored(given_config(given), given, point)
    assert (resumed.learning_rate, resumed.weight_decay, resumed.beta2) == (0.01, 0.2, 0.9)
    assert (resumed.max_steps, resumed.resume) == (1, "latest")
    # A complete config from Python is used unchanged.
    config = homespun.TrainConfig(checkpoint_dir="first", resume="latest")
    monkeypatch.setattr(train, "_train", lambda wanted, *more: wanted)
    whole: Any = train.train({"learning_rate": 0.01}, print, None, config)
    assert (whole.learning_rate, whole.weight_decay, whole.beta2) == (0.01, None, None)


def test_accumulation_sees_the_same_samples_and_takes_the_same_steps(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    homespun.train(SMALL, batch_size=2, grad_accumulation_steps=2, checkpoint_dir="accumulated")
    whole, divided = (
        [r for r in records(Path(name)) if "loss" in r] for name in ("checkpoints", "accumulated")
    )
    assert [r["batch"] for r in divided] == [r["batch"] for r in whole]
    assert len({r["batch"] for r in whole}) == 3
    assert [r["loss"] for r in divided] == pytest.approx([r["loss"] for r in whole], rel=1e-5)


def test_text_and_tokenizer_can_be_made_from_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = homespun.download(dataset="stories", num_samples=60)
    assert text.read_text(encoding="utf-8").count("<|endoftext|>") == 60
    other = homespun.download(homespun.DownloadConfig("stories", 60), seed=1, output="other.txt")
    assert other.read_bytes() != text.read_bytes()
    tokenizer = homespun.train_tokenizer(data_file=str(text), vocab_size=300)
    assert tokenizer.vocab_size == 300
    assert homespun.Tokenizer.load(Path("tokenizer_model")).sha256 == tokenizer.sha256
    config = homespun.TokenizerConfig(vocab_size=300)
    # Without a data file the last download is used, as on the command line.
    assert homespun.train_tokenizer(config, output_dir="another").sha256 != tokenizer.sha256
    with pytest.raises(homespun.UserError, match="vocab_sise: did you mean vocab_size"):
        homespun.train_tokenizer(vocab_sise=300)
    with pytest.raises(homespun.UserError, match="--num-samples is 0"):
        homespun.download(dataset="stories", num_samples=0)


def test_errors_have_types(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(folder)
    with pytest.raises(homespun.UserError, match="no such file"):
        homespun.train(SMALL, data_file="missing.txt")
    with pytest.raises(homespun.UserError, match="--learning-rate is nan"):
        homespun.train(SMALL, learning_rate=float("nan"))
    with pytest.raises(homespun.UserError, match="--learning-rate is '3e-4': a number"):
        homespun.train(SMALL, learning_rate="3e-4")
    with pytest.raises(homespun.UserError, match=r"learnin_rate: did you mean learning_rate\?"):
        homespun.train(SMALL, learnin_rate=3)
    with pytest.raises(CheckpointError, match="no model is there"):
        homespun.load(tmp_path)
    model = homespun.load("checkpoints")
    with pytest.raises(homespun.UserError, match="the prompt is empty"):
        model.generate("")
    with pytest.raises(homespun.UserError, match="the model's context is 32"):
        model.generate("word " * 100)
    with pytest.raises(homespun.UserError, match="--temperature is inf"):
        model.generate("Once", temperature=float("inf"))
    with pytest.raises(
        homespun.UserError, match="unknown setting warmth: choose from max_tokens, "
    ):
        model.generate("Once", warmth=1)
    with pytest.raises(homespun.UserError, match="could not be saved"):
        model.save_weights(folder / "stories.txt" / "x.npz")


def test_room_on_the_disk_is_checked_before_the_work(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1_000_000))
    with pytest.raises(homespun.UserError, match=r"the checkpoints need \d+ MB, and 1 MB"):
        homespun.train()
    assert {path.name for path in workplace.iterdir()} == {"stories.txt", ".homespun.json"}


def test_everything_public_is_there() -> None:
    for name in homespun.__all__:
        assert getattr(homespun, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        homespun.nonsense  # noqa: B018


NEEDED_TO_GO_ON = {
    "weights": ("model", "tokenizer", "data_file", "data_sha256", "requested", "resolved", "facts"),
    "state": ("position", "metrics_length"),
}


@pytest.mark.parametrize(
    ("kind", "key"), [(kind, key) for kind, keys in NEEDED_TO_GO_ON.items() for key in keys]
)
@pytest.mark.parametrize("value", [None, [], 1.5, {"step": {}}])
def test_a_header_that_makes_no_sense_is_refused_before_anything_is_done(
    model: homespun.LanguageModel, tmp_path: Path, kind: str, key: str, value: Any
) -> None:
    found = CheckpointFolder(Path("checkpoints")).latest()
    assert found is not None
    archive = {"weights": found.weights, "state": found.state}[kind]
    archive.header[key] = value
    folder = CheckpointFolder(tmp_path / "run")
    with folder.lock():
        tensors = found.weights.tensors(), found.state.tensors()
        folder.save(found.step, *tensors, found.weights.header, found.state.header)
    config = homespun.TrainConfig(checkpoint_dir=str(folder.path), resume="auto")
    with pytest.raises(UserError) as refused:
        find_point(config, print)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("shape", [{"vocab_size": 10**12}, {"n_layers": 9_999}, {"d_ff": 10**9}])
def test_no_memory_is_taken_that_the_file_does_not_justify(
    model: homespun.LanguageModel, tmp_path: Path, shape: dict[str, int]
) -> None:
    header = model.stored.header
    path = tmp_path / "bomb.npz"
    described = header | {"model": header["model"] | shape}
    write_archive(path, model.stored.tensors(), described)
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match=r"bomb\.npz does not fit its own description"):
            homespun.load(path)
        assert tracemalloc.get_traced_memory()[1] < 100e6
    finally:
        tracemalloc.stop()
    write_archive(
        path, model.stored.tensors(), header | {"model": header["model"] | {"seq_len": 10**9}}
    )
    with pytest.raises(UserError, match="--seq-len is 1000000000"):
        homespun.load(path)


def test_a_quiet_run_prints_nothing_and_its_result_has_the_records(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    run = homespun.train(SMALL, checkpoint_dir="quiet", quiet=True)
    assert capfd.readouterr() == ("", "")
    assert [record["step"] for record in run.records if "loss" in record] == [1, 2, 3]
    assert list(run.records) == records(folder / "quiet")
    described = run.records[0]["run"]
    assert described["model"].startswith("qwen3, 1 layer x 32, 2 heads, ")
    assert described["text"].endswith("stories.txt")
    assert described["settings"]["max_steps"] == 3
    assert "checkpoint_dir" not in described["settings"]
    samples = 4 * 32 / described["training_tokens"]
    assert run.records[-1]["epoch"] == pytest.approx(3 * samples, rel=0.01)
    assert "records" not in repr(run)
    with pytest.raises(UserError, match="--quiet is 3: true or false"):
        homespun.train(SMALL, quiet=3)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"homespun\.plan"):
        homespun.train(SMALL, dry_run=True)


def test_the_records_are_a_data_frame_where_pandas_is_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = ({"step": 1, "loss": 2.0}, {"step": 1, "val_loss": 3.0})
    run = events.TrainResult(Path(), Path(), 1, "max_steps", 3.0, 3.0, None, records=rows)
    monkeypatch.setitem(sys.modules, "pandas", SimpleNamespace(DataFrame=list))
    assert run.frame() == list(rows)
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(UserError, match="pip install pandas"):
        run.frame()


@pytest.mark.parametrize(
    ("function", "config"),
    [
        (homespun.download, homespun.DownloadConfig),
        (homespun.train_tokenizer, homespun.TokenizerConfig),
        (homespun.train, homespun.TrainConfig),
        (homespun.plan, homespun.TrainConfig),
        (homespun.LanguageModel.generate, homespun.SamplingConfig),
        (homespun.LanguageModel.continuations, homespun.SamplingConfig),
        (homespun.LanguageModel.samples, homespun.SamplingConfig),
        (homespun.LanguageModel.generate_batch, homespun.SamplingConfig),
        (homespun.LanguageModel.stream, homespun.SamplingConfig),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_signature_names_every_setting(function: Any, config: type) -> None:
    parameters = inspect.signature(function).parameters
    names = {field.name: field.default for field in dataclasses.fields(config)}
    assert names.keys() <= parameters.keys()
    for name, default in names.items():
        if name != "config":
            assert parameters[name].kind is inspect.Parameter.KEYWORD_ONLY
            assert parameters[name].default == default


def test_a_notebook_completes_the_package_and_shows_a_model(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    assert set(homespun.__all__) <= set(dir(homespun))
    assert all(getattr(homespun, name) for name in dir(homespun))
    shown = repr(homespun.load("checkpoints"))
    assert shown.startswith("<LanguageModel checkpoints/best.npz: qwen3, 1 layer x 32, ")
    assert shown.endswith("vocabulary 400, context 32>")
