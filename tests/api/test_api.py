"""The Python API: train, load, evaluate, generate, write."""

import dataclasses
import inspect
import tracemalloc
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import homespun
from homespun.checkpoint.archive import CheckpointError, write_archive
from homespun.checkpoint.folder import CheckpointFolder
from homespun.errors import UserError
from homespun.training import train
from homespun.training.checkpointing.resume import find_point, given_config, with_stored
from tests.api.small_run import SMALL


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
