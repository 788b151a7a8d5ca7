"""Settings: types, bounds, help texts, TOML files and durations."""

import contextlib
import dataclasses
import math
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from homespun.architectures.families import model_config
from homespun.config import (
    DoctorConfig,
    DownloadConfig,
    GenerateConfig,
    JudgeConfig,
    ModelConfig,
    ModelsConfig,
    SamplingConfig,
    TokenizerConfig,
    TrainConfig,
    VerifyConfig,
)
from homespun.config.checked import (
    Checked,
    PathName,
    parse_value,
    preset_defaults,
    seconds,
    settings_of,
)
from homespun.config.toml_file import read_toml
from homespun.errors import UserError
from homespun.planning.recipe import plan

KINDS = [
    DownloadConfig,
    TokenizerConfig,
    TrainConfig,
    SamplingConfig,
    GenerateConfig,
    JudgeConfig,
    ModelConfig,
]


def config_with(kind: type[Any], **values: Any) -> Any:
    """A config with these values. Only `ModelConfig` has a setting without a default."""
    return kind(**({"architecture": "qwen3"} if kind is ModelConfig else {}) | values)


BOUNDED = [
    (kind, field.name, bound, limit)
    for kind in KINDS
    for field in dataclasses.fields(kind)
    for bound, limit in field.metadata.get("bounds", {}).items()
]


@pytest.mark.parametrize(("kind", "name", "bound", "limit"), BOUNDED)
def test_a_number_beyond_its_bound_is_refused(
    kind: type[Any], name: str, bound: str, limit: float
) -> None:
    beyond = {
        "at_least": limit - 1,
        "above": limit,
        "at_most": limit + 1,
        "below": limit,
    }[bound]
    flag = "--" + name.replace("_", "-")
    with pytest.raises(UserError, match=f"^{flag} is .*: it must be {bound.replace('_', ' ')}"):
        config_with(kind, **{name: beyond})


@pytest.mark.parametrize("kind", KINDS)
def test_numbers_that_are_not_finite_or_too_long_are_refused(kind: type[Any]) -> None:
    for field in dataclasses.fields(kind):
        if not field.metadata.get("bounds"):
            continue
        for value in (math.nan, math.inf, -math.inf):
            with pytest.raises(UserError, match=r"give a finite number|a whole number is expected"):
                config_with(kind, **{field.name: value})
        with pytest.raises(UserError, match=r"--.* has 20 digits: give a smaller number"):
            config_with(kind, **{field.name: 10**19})


@pytest.mark.parametrize(
    ("kind", "values", "expected"),
    [
        (TrainConfig, {"optimizer": "adam"}, '"adamw" or "muon"'),
        (TrainConfig, {"schedule": "cos"}, '"cosine" or "linear"'),
        (TrainConfig, {"precision": "bf16"}, '"auto" or "float32" or "bfloat16" or "float16"'),
        (TrainConfig, {"batch_size": 2.5}, "a whole number"),
        (TrainConfig, {"batch_size": True}, "a whole number"),
        (TrainConfig, {"learning_rate": "1e-3"}, "a number"),
        (TrainConfig, {"seq_len": None}, "a whole number"),
        (TrainConfig, {"compile": "yes"}, '"auto" or "on" or "off"'),
        (TrainConfig, {"resume": True}, '"never" or "latest" or "auto"'),
        (TrainConfig, {"gradient_checkpointing": 1}, "true or false"),
        (TrainConfig, {"sample_prompts": "The king"}, "a list of strings"),
        (TrainConfig, {"time_budget": 90}, "text"),
        (DownloadConfig, {"output": b"stories.txt"}, "text"),
        (TrainConfig, {"batch_size": np.float64(4.0)}, "a whole number"),
        (TrainConfig, {"batch_size": np.bool_(True)}, "a whole number"),
        (TrainConfig, {"batch_size": np.array([4])}, "a whole number"),
        (TrainConfig, {"learning_rate": np.bool_(True)}, "a number"),
        (TrainConfig, {"learning_rate": Path("3e-4")}, "a number"),
        (TrainConfig, {"gradient_checkpointing": np.int64(1)}, "true or false"),
        (TrainConfig, {"gradient_checkpointing": 10**5000}, "true or false"),
        (TrainConfig, {"optimizer": np.array(["adamw", "muon"])}, '"adamw" or "muon"'),
        (SamplingConfig, {"stop": "END"}, "a list of strings"),
        (SamplingConfig, {"stop": [1]}, "a list of strings"),
        (DownloadConfig, {"difficulty": ["harder"]}, 'a list of "easy" or "medium" or "hard"'),
        (TrainConfig, {"engine": "jax"}, '"auto" or "torch" or "mlx"'),
    ],
)
def test_a_value_of_another_type_is_refused(
    kind: type[Any], values: dict[str, Any], expected: str
) -> None:
    [name] = values
    flag = "--" + name.replace("_", "-")
    with pytest.raises(UserError, match=f"^{flag} is .*: {expected} is expected$"):
        config_with(kind, **values)


@pytest.mark.parametrize("kind", [*KINDS, ModelsConfig])
def test_numbers_of_numpy_become_numbers_of_python(kind: type[Any]) -> None:
    for field in dataclasses.fields(kind):
        types = get_type_hints(kind)[field.name]
        for number, numpys in ((int, np.int32), (float, np.float64), (bool, np.bool_)):
            if number not in (types, *get_args(types)):
                continue
            usable = {"n_heads": 8, "n_kv_heads": 8, "vocab_size": 300}.get(field.name)
            usable = usable or field.metadata["bounds"].get("at_least", 0) or 0.5
            value = number(usable)
            for offered in (numpys(value), np.array(value)):
                taken = getattr(config_with(kind, **{field.name: offered}), field.name)
                assert type(taken) is number, field.name
                assert taken == value


PATHS = [
    (kind, field.name)
    for kind in [*KINDS, VerifyConfig]
    for field in dataclasses.fields(kind)
    for hint in [get_type_hints(kind, include_extras=True)[field.name]]
    if PathName in (hint, *get_args(hint)) and field.name != "resume"
]
"""Not `resume`, which may be a word or a step as well."""


def test_these_settings_are_paths() -> None:
    assert {name for _, name in PATHS} == {
        "data_file", "checkpoint_dir", "tokenizer_path", "config", "dataset", "output",
        "output_dir", "checkpoint", "path", "tokens_dir", "init_from", "prompt_file",
        "preferences", "replay",
    }  # fmt: skip


@pytest.mark.parametrize(("kind", "name"), PATHS)
def test_a_path_may_come_from_pathlib_and_begin_with_the_home_folder(
    kind: type[Any], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/of/mine")
    for offered, expected in {
        "~/runs/a": "/home/of/mine/runs/a",
        Path("~"): "/home/of/mine",
        Path("runs") / "a": "runs/a",
        "./~/runs": "./~/runs",
        "runs/~": "runs/~",
    }.items():
        assert getattr(config_with(kind, **{name: offered}), name) == expected
    with pytest.raises(UserError, match="there is no home folder ~nobody-of-that-name; a file"):
        config_with(kind, **{name: "~nobody-of-that-name/runs"})


def test_only_paths_have_a_home_folder() -> None:
    assert GenerateConfig(prompt="~").prompt == "~"
    assert SamplingConfig(stop=["~"]).stop == ("~",)  # type: ignore[arg-type]


HUGE = {
    "digits": 10**5000,
    "negative": -(10**5000),
    "text": "x" * 10**6,
    "list": ["a\nb"] * 10**5,
    "array": np.zeros(99),
}


@pytest.mark.parametrize("value", HUGE.values(), ids=HUGE.keys())
@pytest.mark.parametrize("kind", [*KINDS, ModelsConfig])
def test_a_value_of_any_size_is_refused_in_a_short_line(kind: type[Any], value: Any) -> None:
    refusals = []
    for field in dataclasses.fields(kind):
        try:
            config_with(kind, **{field.name: value})
        except UserError as error:
            refusals.append(str(error))
    assert refusals
    assert all(len(refusal) < 300 and "\n" not in refusal for refusal in refusals)


@pytest.mark.parametrize("digits", ["9" * 5000, "-" + "9" * 5000, "0b" + "1" * 20_000])
def test_a_number_of_thousands_of_digits_is_refused_everywhere(tmp_path: Path, digits: str) -> None:
    assert parse_value(TrainConfig, "max_steps", digits) == digits
    with pytest.raises(UserError, match="--max-steps is '"):
        TrainConfig(max_steps=digits)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"run\.toml: "):
        toml(tmp_path, f"max_steps = {digits}")


def test_a_list_is_accepted_for_a_tuple_and_an_int_for_a_float() -> None:
    config = TrainConfig(sample_prompts=["One", "Two"], learning_rate=1)  # type: ignore[arg-type]
    assert config == TrainConfig(sample_prompts=("One", "Two"), learning_rate=1.0)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (TrainConfig, "checkpoint_dir"),
        (TrainConfig, "data_file"),
        (TrainConfig, "time_budget"),
        (GenerateConfig, "checkpoint"),
        (GenerateConfig, "prompt"),
        (DownloadConfig, "output"),
        (TokenizerConfig, "output_dir"),
    ],
)
def test_an_empty_text_and_a_nul_are_refused(kind: type[Any], name: str) -> None:
    flag = "--" + name.replace("_", "-")
    with pytest.raises(UserError, match=f"^{flag} is empty: give a value or leave it out$"):
        kind(**{name: ""})
    with pytest.raises(UserError, match=f"^{flag} contains a NUL"):
        kind(**{name: "a\0b"})


def test_the_defaults_are_those_of_the_specification() -> None:
    config = TrainConfig()
    assert (config.beta1, config.max_grad_norm) == (0.9, 1.0)
    assert (config.seq_len, config.save_interval, config.checkpoint_dir) == (
        256,
        1000,
        "checkpoints",
    )
    assert config.sample_prompts == ("Once upon a time", "The cat", "In space")
    assert (TokenizerConfig().output_dir, TokenizerConfig().vocab_size) == ("tokenizer_model", 8000)
    assert GenerateConfig().checkpoint is None  # the run's best weights


@pytest.mark.parametrize("kind", [*KINDS, ModelsConfig, DoctorConfig, VerifyConfig])
def test_every_setting_has_a_help_text(kind: type[Checked]) -> None:
    for field in dataclasses.fields(kind):
        assert field.metadata["help"].endswith("."), field.name


def test_a_preset_comes_with_the_defaults_that_its_settings_state() -> None:
    resolved = plan(
        TrainConfig(model_size="tiny", max_steps=5000),
        vocab_size=500,
        n_samples=500,
        flops_per_second=1.0,
    ).config
    for name, default in preset_defaults(TrainConfig).items():
        assert getattr(TrainConfig(), name) is None
        assert getattr(resolved, name) == default, name


def test_every_setting_of_a_run_says_whether_a_resumed_run_may_change_it() -> None:
    kinds = {
        field.name: field.metadata.get("on_resume", "free")
        for field in dataclasses.fields(TrainConfig)
    }
    assert set(kinds.values()) == {"fixed", "free", "announced"}
    fixed = {name for name, kind in kinds.items() if kind == "fixed"}
    assert fixed == {
        *("prompt_words", "replay_share"),
        *("vocab_size", "model_size", "architecture", "n_layers", "n_heads", "n_kv_heads"),
        *("d_model", "d_ff", "seq_len", "optimizer", "seed", "init_from"),
        *("lora_rank", "lora_alpha", "lora_targets"),
        *("experts", "experts_per_token", "d_expert", "dense_layers"),
        *("group_size", "kl_factor", "memory"),
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90s", 90),
        ("20m", 1200),
        ("1.5h", 5400),
        ("1h30m", 5400),
        ("1h 30m", 5400),
        ("5 min", 300),
        ("5min", 300),
        (" 90 s ", 90),
        ("90sec", 90),
        ("2d", 172_800),
    ],
)
def test_durations(text: str, expected: float) -> None:
    assert seconds(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "soon",
        "0",
        "0s",
        "-3m",
        " ",
        "1y",
        "1h30",
        "5 5",
        "5 minx",
        "5 m in",
        "1e9d",
        "9999999d",
        "nan",
        "inf",
    ],
)
def test_other_texts_are_no_durations(text: str) -> None:
    with pytest.raises(UserError, match=r"--time-budget is .*: give a duration"):
        seconds(text)


def test_a_duration_needs_a_unit() -> None:
    with pytest.raises(UserError, match=r"^--time-budget is '5': add a unit, as in 5s, 5m or 5h$"):
        seconds("5")


@given(st.text(alphabet="0123456789.smhd -e", max_size=12))
@settings(derandomize=True, deadline=None)
def test_a_duration_is_positive_and_finite_or_refused(text: str) -> None:
    with contextlib.suppress(UserError):
        assert 0 < seconds(text) < math.inf


def toml(folder: Path, text: str) -> dict[str, Any]:
    path = folder / "run.toml"
    path.write_text(text, encoding="utf-8")
    return read_toml(path, TrainConfig)


def test_toml_sets_every_type_of_setting(tmp_path: Path) -> None:
    values = toml(
        tmp_path,
        """
        model_size = "tiny"
        batch_size = 8
        learning_rate = 1e-3
        max_epochs = 2
        gradient_checkpointing = true
        optimizer = "muon"
        sample_prompts = ["The dog", "A cat"]
        """,
    )
    config = TrainConfig(**values)
    assert (config.model_size, config.batch_size, config.learning_rate) == ("tiny", 8, 1e-3)
    assert (config.max_epochs, config.gradient_checkpointing) == (2, True)
    assert (config.optimizer, config.sample_prompts) == ("muon", ("The dog", "A cat"))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("learnin_rate = 1", "unknown key 'learnin_rate': did you mean learning_rate?"),
        ("learning-rate = 1", "unknown key 'learning-rate': did you mean learning_rate?"),
        ('config = "other.toml"', "a TOML file cannot name another one: remove the key config"),
        ("lr = 1", "unknown key 'lr': did you mean learning_rate? Peak learning rate"),
        (
            "[train]\nbatch_size = 8",
            "unknown key 'train': homespun train --help lists all settings",
        ),
        ('batch_size = "8"', "--batch-size is '8': a whole number is expected"),
        ("batch_size = 8.0", "--batch-size is 8.0: a whole number is expected"),
        ("max_steps = true", "--max-steps is True: a whole number is expected"),
        ("learning_rate = '1e-3'", "--learning-rate is '1e-3': a number is expected"),
        ("gradient_checkpointing = 1", "is 1: true or false is expected"),
        ("data_file = 1", "--data-file is 1: text is expected"),
        ("sample_prompts = 'one'", "is 'one': a list of strings is expected"),
        ("sample_prompts = [1]", "is (1,): a list of strings is expected"),
        ('optimizer = "sgd"', '--optimizer is \'sgd\': "adamw" or "muon" is expected'),
        ("batch_size = 0", "--batch-size is 0: it must be at least 1"),
        ("time_budget = 'soon'", "--time-budget is 'soon': give a duration"),
        ("batch_size = ", "not valid TOML"),
        ("batch_size = 1\nbatch_size = 2", "not valid TOML"),
    ],
)
def test_bad_toml_is_refused_with_its_place(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(UserError) as caught:
        toml(tmp_path, text)
    assert complaint in str(caught.value)
    assert "run.toml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_toml_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    assert toml(tmp_path, "\ufeffbatch_size = 8\n") == {"batch_size": 8}


def test_an_unknown_setting_from_python_is_explained() -> None:
    with pytest.raises(UserError, match=r"^unknown setting lr: did you mean learning_rate\? "):
        settings_of(TrainConfig, None, {"lr": 1e-3})
    with pytest.raises(UserError, match=r"^unknown setting temprature: did you mean temperature\?"):
        settings_of(SamplingConfig, None, {"temprature": 1})
    with pytest.raises(UserError, match=r"^unknown setting x: choose from max_tokens, "):
        settings_of(SamplingConfig, None, {"x": 1})


@pytest.mark.parametrize(
    ("shape", "complaint"),
    [
        ({"n_heads": 8, "n_kv_heads": 3}, "--n-heads has to be a multiple of --n-kv-heads"),
        ({"architecture": "gpt2", "d_model": 500}, "divisible by --n-heads"),
        ({"architecture": "gpt2", "n_kv_heads": 4}, "leave --n-kv-heads out"),
        ({"head_dim": 5}, "rotary positions need an even head size"),
    ],
)
def test_a_shape_that_contradicts_itself_is_refused(shape: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        model_config({"architecture": "qwen3", **shape})
