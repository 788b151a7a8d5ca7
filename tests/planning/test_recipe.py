"""The settings of a planned run: defaults with a preset, the recipe without one, limits, and contradictions."""

import dataclasses
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from homespun.architectures.families import count_parameters, flops_per_token
from homespun.architectures.presets import PRESETS, preset, shaped
from homespun.config import TrainConfig
from homespun.errors import UserError
from homespun.planning.estimate import EVALUATION_COST, MAX_EVALUATION_SHARE, UTILISATION
from homespun.planning.new_model import (
    AVERAGING,
    MAX_PASSES,
    MIN_PASSES_TO_AVERAGE,
    SIZES,
    TOKENS_PER_PARAMETER,
)
from homespun.planning.recipe import LEAST_EVALUATIONS, SHAPE, expected_passes, plan, step_limits
from homespun.planning.resolved import Plan, ResolvedConfig, given_settings
from homespun.planning.trained_model import (
    CHAT_EPOCHS,
    FINE_TUNING_RATE,
    LORA_RATE,
    OF_ITS_RUN,
    REWARD_RATE,
    Initial,
)
from homespun.training.schedule import rate_curve

VOCAB = 4096
TOKENS = 1_000_001
SPEED = 1e11


def settle(tokens: int = TOKENS, speed: float = SPEED, **wanted: Any) -> Plan:
    config = TrainConfig(**wanted)
    n_samples = (tokens - 1) // config.seq_len
    return plan(config, vocab_size=VOCAB, n_samples=n_samples, flops_per_second=speed)


def test_a_preset_comes_with_the_settings_of_the_specification() -> None:
    settled = settle(model_size="tiny")
    config = settled.config
    assert settled.model == dataclasses.replace(PRESETS["tiny"], vocab_size=VOCAB, seq_len=256)
    assert (config.optimizer, config.learning_rate, config.weight_decay) == ("adamw", 3e-4, 0.1)
    assert (config.schedule, config.min_learning_rate_ratio) == ("cosine", 0.1)
    assert (config.batch_size, config.grad_accumulation_steps) == (16, 1)
    assert config.warmup_steps is None  # 2% of the run, whose number of steps may be unknown
    assert step_limits(config, 1600) == {"max_epochs": 1000}


@pytest.mark.parametrize("wanted", [{"model_size": "tiny"}, {}], ids=["preset", "recipe"])
def test_nothing_is_left_open(wanted: dict[str, Any]) -> None:
    config = settle(**wanted).config
    still_open = {field.name for field in dataclasses.fields(config)} - given_settings(
        config
    ).keys()
    free = {
        "config",
        "data_file",
        "tokenizer_path",
        "model_size",
        "threads",
        "patience",
        "init_from",
        "reward",
        "replay",
        "preferences",
        "lora_rank",
        "lora_alpha",
        "lora_targets",
    }
    shape = set(SHAPE)
    limits = {"max_epochs", "max_steps", "time_budget"}
    of_its_length = {"warmup_steps", "eval_interval", "sample_interval"}
    assert still_open <= free | shape | limits | of_its_length
    assert config.vocab_size == VOCAB
    assert config.compile in ("on", "off")
    with pytest.raises(UserError, match="--batch-size is None: a whole number is expected"):
        dataclasses.replace(config, batch_size=None)  # type: ignore[arg-type]


@pytest.mark.parametrize("base", [{"model_size": "tiny"}, {}], ids=["preset", "recipe"])
def test_what_the_user_says_stays(base: dict[str, Any]) -> None:
    said: dict[str, Any] = {
        "batch_size": 3,
        "grad_accumulation_steps": 2,
        "seq_len": 64,
        "max_steps": 9,
        "optimizer": "muon",
        "learning_rate": 1e-3,
        "muon_learning_rate": 0.01,
        "schedule": "linear",
        "warmup_steps": 7,
        "min_learning_rate_ratio": 0.5,
        "weight_decay": 0.0,
        "compile": "on",
        "n_layers": 2,
        "d_model": 128,
        "n_heads": 2,
    }
    settled = settle(**base, **said)
    assert {name: getattr(settled.config, name) for name in said} == said
    model = settled.model
    assert (model.n_layers, model.d_model, model.n_heads, model.head_dim) == (2, 128, 2, 64)
    assert (model.seq_len, model.vocab_size) == (64, VOCAB)


def test_of_epochs_and_steps_the_one_that_ends_first_comes_first() -> None:
    config = ResolvedConfig(max_epochs=2, max_steps=100, batch_size=4, grad_accumulation_steps=2)
    assert list(step_limits(config, 1000).items()) == [("max_steps", 100), ("max_epochs", 250)]
    assert list(step_limits(config, 100).items()) == [("max_epochs", 25), ("max_steps", 100)]
    half = dataclasses.replace(config, max_epochs=0.5, max_steps=None)
    assert step_limits(half, 1000) == {"max_epochs": 63}
    # Even the shortest run has one step.
    assert step_limits(half, 1) == {"max_epochs": 1}


def warm_up(config: ResolvedConfig, n_steps: int) -> tuple[int, float]:
    curve = rate_curve(config, {"max_steps": n_steps})
    return curve.warmup_steps, curve.warmup_share


def test_without_a_word_the_warm_up_is_two_percent_and_at_most_2000_steps() -> None:
    assert warm_up(ResolvedConfig(), 10_000) == (200, 0.02)
    assert warm_up(ResolvedConfig(), 1_000_000) == (2000, 0.002)
    assert warm_up(ResolvedConfig(warmup_steps=500), 10_000) == (500, 0.05)
    assert warm_up(ResolvedConfig(warmup_steps=0), 10_000) == (0, 0.0)
    assert warm_up(ResolvedConfig(warmup_steps=500), 100) == (500, 1.0)


def test_where_a_clock_may_end_the_run_the_warm_up_knows_no_steps() -> None:
    assert warm_up(ResolvedConfig(time_budget="1h"), 10_000) == (0, 0.02)
    assert warm_up(ResolvedConfig(time_budget="1h", warmup_steps=500), 10_000) == (500, 0.0)


def test_a_limit_that_is_given_is_the_only_one() -> None:
    given: dict[str, Any] = {"max_steps": 5, "max_epochs": 1.0, "time_budget": "3m"}
    for name, value in given.items():
        for size in ("tiny", None):
            config = settle(model_size=size, **{name: value}).config
            limits = {n: getattr(config, n) for n in given}
            assert {n: v for n, v in limits.items() if v is not None} == {name: value}
    assert settle().config.time_budget == "10m"


def test_a_longer_budget_or_a_faster_machine_trains_a_larger_model() -> None:
    times = ["1s", "1m", "10m", "1h", "10h", "10d"]
    sizes = [count_parameters(settle(time_budget=time).model) for time in times]
    assert sizes == sorted(sizes)
    assert sizes[0] == count_parameters(settle(model_size="pico").model)
    assert sizes[-1] == count_parameters(settle(model_size="small").model)
    slow_machine, fast_machine = (settle(speed=s, time_budget="10m") for s in (1e10, 1e13))
    assert count_parameters(slow_machine.model) < count_parameters(fast_machine.model)
    assert [s.min_flops for s in SIZES] == sorted(s.min_flops for s in SIZES)
    assert {s.preset for s in SIZES} <= set(PRESETS)


def test_a_model_grows_when_the_smaller_one_has_read_enough() -> None:
    def size(tokens: int, time: str) -> int:
        return count_parameters(settle(tokens, time_budget=time).model)

    for time in ("1m", "30m", "2h", "10h", "10d"):
        sizes = [size(tokens, time) for tokens in (10**6, 10**7, 10**9)]
        assert sizes == sorted(sizes, reverse=True)  # a short text is read often
    assert size(10**6, "2h") > size(10**9, "2h")
    settled = settle(10**9, time_budget="2h")
    read = expected_passes(settled.in_training, settled.config, 10**9 // 256, SPEED) * 10**9
    table = settled.model.vocab_size * settled.model.d_model
    assert read < TOKENS_PER_PARAMETER * (count_parameters(settled.model) - table)


def test_the_recipe_takes_muon_and_for_adamw_other_rates() -> None:
    muon, adamw = settle().config, settle(optimizer="adamw").config
    assert muon.optimizer == "muon"
    assert muon.schedule == adamw.schedule == "linear"
    assert muon.min_learning_rate_ratio == 0.0
    assert adamw.learning_rate < muon.learning_rate
    assert muon.tokens_per_step in {s.tokens_per_step for s in SIZES}


def test_the_more_often_a_text_is_seen_the_more_weights_decay() -> None:
    decays = [
        settle(tokens, max_steps=1000).config.weight_decay for tokens in (10**8, 10**6, 10**5)
    ]
    assert decays == sorted(set(decays))
    epochs = [settle(max_epochs=n).config.weight_decay for n in (1, 2, 10)]
    assert epochs == decays
    assert settle(10**5, max_steps=1000, optimizer="adamw").config.weight_decay == 0.1


def test_time_that_a_text_is_too_short_for_is_not_spent_on_learning_it_by_heart() -> None:
    short, long = (settle(tokens, time_budget="10h").config for tokens in (10**5, 10**9))
    assert (short.max_epochs, short.time_budget) == (MAX_PASSES, "10h")
    assert long.max_epochs is None
    for limit in ({"max_epochs": 50.0}, {"max_steps": 10**6}, {"model_size": "pico"}):
        config = settle(10**5, **{"time_budget": "10h", **limit}).config
        assert config.max_epochs == limit.get("max_epochs")


@given(tokens=st.integers(514, 5000), seq_len=st.integers(2, 512))
@settings(derandomize=True, deadline=None)
def test_the_recipe_fits_tiny_data(tokens: int, seq_len: int) -> None:
    settled = settle(tokens, seq_len=seq_len)
    assert 1 <= settled.config.batch_size <= (tokens - 1) // seq_len


def test_a_step_that_the_data_cannot_fill_is_refused() -> None:
    enough = 16 * 256 + 1
    assert settle(enough, model_size="tiny")
    beyond: dict[str, Any] = {"batch_size": 17, "seq_len": 257, "grad_accumulation_steps": 2}
    for name, value in beyond.items():
        with pytest.raises(UserError, match="lower --batch-size or --seq-len, or give more text"):
            settle(enough, model_size="tiny", **{name: value})


@pytest.mark.parametrize(
    ("wanted", "complaint"),
    [
        ({"model_size": "huge"}, "--model-size 'huge' is unknown: choose one of pico, nano"),
        ({"model_size": "tiny", "n_heads": 3}, "512 cannot be divided into --n-heads 3"),
        ({"model_size": "tiny", "n_kv_heads": 2}, "leave --n-kv-heads out"),
        ({"model_size": "mini", "n_kv_heads": 4}, "has to be a multiple of --n-kv-heads"),
        ({"time_budget": "soon"}, "--time-budget is 'soon'"),
        ({"model_size": "tiny", "time_budget": "soon"}, "--time-budget is 'soon'"),
        ({"compile": "on", "model_size": "tiny", "time_budget": "soon"}, "--time-budget is 'soon'"),
        ({"memory": "low", "averaging": 0.1}, "which --memory low has no room for"),
    ],
)
def test_contradictions_are_refused(wanted: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        settle(**wanted)


@pytest.mark.parametrize(
    ("wanted", "averaging"),
    [
        ({"max_epochs": MIN_PASSES_TO_AVERAGE}, AVERAGING),
        ({"max_epochs": MIN_PASSES_TO_AVERAGE / 2}, 0.0),
        ({"max_epochs": 10, "averaging": 0.0}, 0.0),
        ({"max_epochs": 1, "averaging": 0.3}, 0.3),
        ({"max_epochs": 10, "memory": "low"}, 0.0),
        ({"max_epochs": 10, "model_size": "tiny"}, 0.0),
        ({"max_epochs": 10, "model_size": "tiny", "averaging": 0.3}, 0.3),
    ],
)
def test_weights_are_averaged_where_a_new_model_reads_its_text_often(
    wanted: dict[str, Any], averaging: float
) -> None:
    assert settle(10**5, **wanted).config.averaging == averaging


def test_only_a_run_that_takes_long_is_compiled() -> None:
    # The number of steps that take ten minutes at this speed.
    tiny = settle(model_size="tiny", max_steps=1).model
    step = flops_per_token(tiny) * 16 * 256
    steps = int(600 * SPEED * UTILISATION / step)
    assert settle(model_size="tiny", max_steps=steps - 1).config.compile == "off"
    assert settle(model_size="tiny", max_steps=steps + 1).config.compile == "on"
    assert settle(model_size="tiny", max_steps=steps + 1, time_budget="9m").config.compile == "off"
    assert settle(model_size="tiny", max_steps=1, compile="on").config.compile == "on"


@pytest.mark.parametrize(
    ("wanted", "shape"),
    [
        ({"d_model": 128}, ("gpt2", 2, 2, 64, 512)),
        ({"d_model": 128, "n_heads": 4}, ("gpt2", 4, 4, 32, 512)),
        ({"d_model": 128, "d_ff": 100}, ("gpt2", 2, 2, 64, 100)),
        ({"architecture": "qwen3"}, ("qwen3", 8, 8, 64, 1408)),
        ({"architecture": "qwen3", "n_kv_heads": 2}, ("qwen3", 8, 2, 64, 1408)),
        ({"n_heads": 16}, ("gpt2", 16, 16, 32, 2048)),
    ],
)
def test_what_follows_from_a_changed_shape_follows(
    wanted: dict[str, Any], shape: tuple[Any, ...]
) -> None:
    model = settle(model_size="tiny", **wanted).model
    assert shape == (
        model.architecture,
        model.n_heads,
        model.n_kv_heads,
        model.head_dim,
        model.d_ff,
    )


def going_on(
    settings: ResolvedConfig | None, *, is_chat: bool = False, **given: Any
) -> ResolvedConfig:
    """The settings of a run that goes on from a model with this run behind it."""
    shape = shaped(preset("nano"), {"vocab_size": 500, "seq_len": 1024})
    initial = Initial(shape, settings, is_chat)
    config = TrainConfig(init_from="model", **given)
    planned = plan(config, vocab_size=500, n_samples=2_000, flops_per_second=1e11, initial=initial)
    assert planned.model == initial.shape
    return planned.config


def test_a_model_that_learns_from_pairs_takes_whole_ones_and_its_own_rate() -> None:
    from_elsewhere = going_on(None, preferences="pairs.jsonl")
    trained_here = going_on(ResolvedConfig(optimizer="muon"), preferences="pairs.jsonl")
    accumulated = going_on(None, preferences="pairs.jsonl", grad_accumulation_steps=3)
    for config in (from_elsewhere, trained_here, accumulated):
        assert config.optimizer == "adamw"
        assert config.batch_size % 2 == 0
        assert config.max_epochs == 1
        assert config.compile == "off"
    assert trained_here.learning_rate > 10 * from_elsewhere.learning_rate
    adapted = going_on(None, preferences="pairs.jsonl", lora_rank=4)
    assert adapted.learning_rate == 10 * from_elsewhere.learning_rate


def test_a_model_that_learns_from_a_reward_takes_whole_groups_and_its_own_rate() -> None:
    from_elsewhere = going_on(None, reward="questions", group_size=6, max_steps=50)
    assert from_elsewhere.optimizer == "adamw"
    assert from_elsewhere.learning_rate == FINE_TUNING_RATE
    assert from_elsewhere.batch_size % 6 == 0
    assert from_elsewhere.sequences_per_step == 16 * 6
    assert from_elsewhere.compile == "off"
    own = ResolvedConfig(optimizer="muon")
    tells = going_on(own, reward="stories", max_steps=50)
    answers = going_on(own, is_chat=True, reward="questions", max_steps=50)
    for trained_here in (tells, answers):
        assert trained_here.optimizer == "adamw"
        assert trained_here.learning_rate == REWARD_RATE
    assert answers.eval_tokens < tells.eval_tokens
    given = going_on(None, reward="questions", learning_rate=0.5, batch_size=8, max_steps=50)
    assert (given.learning_rate, given.batch_size) == (0.5, 8)


@pytest.mark.parametrize(
    ("n_samples", "passes"), [(10, MAX_PASSES), (250, 7), (600, CHAT_EPOCHS), (10**6, CHAT_EPOCHS)]
)
def test_a_small_file_of_conversations_is_read_more_often(n_samples: int, passes: float) -> None:
    """A step has eight samples of 256 tokens."""
    shape = shaped(preset("nano"), {"vocab_size": 500, "seq_len": 1024})
    for own in (None, ResolvedConfig(batch_size=8, optimizer="muon", max_epochs=2.0)):
        planned = plan(
            TrainConfig(init_from="model", time_budget="10h"),
            vocab_size=500,
            n_samples=n_samples,
            flops_per_second=1e11,
            initial=Initial(shape, own, is_chat=True),
        )
        assert planned.config.max_epochs == passes


def test_a_model_of_an_own_run_goes_on_with_the_settings_of_that_run() -> None:
    own = plan(TrainConfig(), vocab_size=500, n_samples=2_000, flops_per_second=1e11).config
    found = going_on(own)
    for name in (*OF_ITS_RUN, "tokens_per_step"):
        assert getattr(found, name) == getattr(own, name), name
    assert going_on(own, learning_rate=0.5).learning_rate == 0.5
    assert going_on(own, max_steps=7).max_epochs is None


def test_rates_of_adapters_are_not_those_of_a_whole_model() -> None:
    of_adapters = going_on(None, lora_rank=8)
    assert going_on(of_adapters).learning_rate == FINE_TUNING_RATE
    assert going_on(of_adapters, lora_rank=8).learning_rate == LORA_RATE


@pytest.mark.parametrize(("given", "rate"), [({}, FINE_TUNING_RATE), ({"lora_rank": 8}, LORA_RATE)])
def test_other_models_go_on_with_small_rates(given: dict[str, Any], rate: float) -> None:
    found = going_on(None, **given)
    assert (found.optimizer, found.learning_rate) == ("adamw", rate)
    muon = plan(TrainConfig(), vocab_size=500, n_samples=2_000, flops_per_second=1e11).config
    assert going_on(muon, **given, optimizer="adamw").learning_rate == rate


def test_a_short_time_is_divided_into_enough_steps_and_evaluations() -> None:
    for time, sequences in (("20s", 1), ("20h", 8)):
        found = going_on(None, time_budget=time)
        assert (found.sequences_per_step, found.seq_len) == (sequences, 256)
    assert going_on(None, max_steps=200).eval_interval == 20


def test_what_an_own_run_leaves_open_is_limited() -> None:
    own = plan(TrainConfig(), vocab_size=500, n_samples=2_000, flops_per_second=1e11).config
    assert going_on(dataclasses.replace(own, max_epochs=None)).max_epochs == MAX_PASSES
    parts = dataclasses.replace(own, batch_size=2, grad_accumulation_steps=4)
    found = going_on(parts)
    assert (found.batch_size, found.grad_accumulation_steps) == (2, 4)


@pytest.mark.parametrize("settings", [{}, {"init_from": "model"}])
def test_a_text_without_a_sample_is_refused(settings: dict[str, Any]) -> None:
    initial = Initial(preset("nano")) if settings else None
    with pytest.raises(UserError, match="only 0"):
        plan(
            TrainConfig(**settings),
            vocab_size=500,
            n_samples=0,
            flops_per_second=1.0,
            initial=initial,
        )


def records(**wanted: Any) -> tuple[int, int | None, int]:
    """The intervals of log and evaluation, and the tokens of an evaluation, of a run on much text."""
    c = settle(tokens=10**9, **wanted).config
    return c.log_interval, c.eval_interval, c.eval_tokens


def test_a_long_run_of_a_preset_is_evaluated_as_specified() -> None:
    assert records(model_size="tiny", max_steps=5000) == (10, 500, 200_000)
    assert records(model_size="tiny", max_epochs=10.0) == (10, 500, 200_000)


def test_a_short_run_is_evaluated_in_tenths_on_a_part_that_it_can_afford() -> None:
    preset: dict[str, Any] = {"model_size": "tiny", "seq_len": 256, "batch_size": 8}
    parts = [records(**preset, max_steps=steps)[1:] for steps in (200, 534, 2134, 4999)]
    assert parts == [(None, 4096), (None, 16_384), (None, 65_536), (None, 65_536)]
    assert records(**preset | {"batch_size": 64}, max_steps=4999)[1:] == (None, 200_000)
    for n_tokens, steps in ((16_384, 534), (65_536, 2134)):
        cost = LEAST_EVALUATIONS * EVALUATION_COST * n_tokens
        assert cost <= MAX_EVALUATION_SHARE * steps * 2048
    times = [records(time_budget=time)[1:] for time in ("20s", "20h")]
    assert times == [(None, 4096), (None, 200_000)]


def test_intervals_that_are_given_stay_and_so_do_the_tokens_with_them() -> None:
    preset: dict[str, Any] = {"model_size": "tiny", "max_steps": 60}
    assert records(**preset, eval_interval=30) == (6, 30, 200_000)
    assert records(**preset, eval_tokens=7000)[1:] == (None, 7000)
    assert records(**preset, log_interval=25)[0] == 25


@pytest.mark.parametrize(("steps", "interval"), [(5, 1), (9, 1), (60, 6), (100, 10), (900, 10)])
def test_a_short_run_has_lines_enough_for_a_curve(steps: int, interval: int) -> None:
    assert records(model_size="tiny", max_steps=steps)[0] == interval
