"""Reinforcement from end to end: a model learns what its reward wants, and a killed run is the uninterrupted one."""

import dataclasses
import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import homespun as package
from homespun.checkpoint.folder import CheckpointFolder
from homespun.config import TrainConfig
from homespun.data.corpus import survey
from homespun.engine.decoding_probe import Decoded
from homespun.engine.launcher import Place
from homespun.engine.probe import Probed
from homespun.engine.torch.engine import TorchEngine
from homespun.engine.torch.shares import share_of
from homespun.errors import UserError
from homespun.records import events
from homespun.training.reinforcement import steps as policy_steps
from tests.answering import model_and_questions
from tests.conftest import Command, command, finished, new_workplace, records
from tests.test_resume import assert_equal_runs, killed_when

STEPS = 8
RUN: dict[str, Any] = {
    "data_file": "questions.jsonl",
    "max_steps": STEPS,
    "group_size": 4,
    "batch_size": 8,
    "grad_accumulation_steps": 1,
    "answer_tokens": 6,
    "threads": 1,
    "seq_len": 384,
    "log_interval": 1,
    "eval_interval": 3,
    "eval_tokens": 500,
    "sample_interval": 4,
    "learning_rate": 3e-3,
    "reward": "mine.py:letters",
}

REWARD = """
def letters(prompt, answers):
    assert prompt["messages"][-1]["role"] == "user"
    assert prompt["answer"]
    return [answer.count("e") / (1 + len(answer)) for answer in answers]

def of_story(prompt, answers):
    assert prompt["messages"] == []
    assert len(prompt["text"].split()) == 5
    return [(prompt["text"] + answer).count("e") / (1 + len(answer)) for answer in answers]

def fails_later(prompt, answers, calls=[]):
    calls.append(len(answers) > 1)
    if sum(calls) > 6:
        raise ValueError("no more")
    return letters(prompt, answers)
"""
"""The last one fails in the fourth step of two groups; an evaluation has one answer to a prompt."""
ON_TEXT: dict[str, Any] = RUN | {"data_file": "stories.txt", "reward": "mine.py:of_story"}
ON_TEXT |= {"prompt_words": 5, "answer_tokens": 12, "max_steps": 6}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, story_file: Path) -> Path:
    """A folder with a small model of stories, questions, a reward, and an uninterrupted run."""
    folder = tmp_path_factory.mktemp("reinforce")
    new_workplace(folder, story_file)
    (folder / "mine.py").write_text(REWARD)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        model_and_questions(120)
        package.reinforce("base", quiet=True, checkpoint_dir="control", **RUN)
    return folder


@pytest.fixture
def start(place: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Starts `homespun ...` in the folder, which is also that of the test."""
    monkeypatch.chdir(place)
    return command(place)


def flags(**settings: Any) -> list[str]:
    """The settings of `RUN` as flags, with others."""
    return [f"--{name.replace('_', '-')}={value}" for name, value in (RUN | settings).items()]


@pytest.mark.parametrize(
    ("line", "interval"),
    [("step 3/8  reward", 2), pytest.param("step 6/8  val", 1, marks=pytest.mark.slow)],
)
def test_a_killed_and_resumed_run_is_the_uninterrupted_one(
    place: Path, start: Command, line: str, interval: int
) -> None:
    folder = place / f"killed at {line[5]}"
    killed = start("reinforce", "base", *flags(checkpoint_dir=folder, save_interval=interval))
    killed_when(killed, line)
    assert killed.returncode == -signal.SIGKILL
    again = f"--reward={RUN['reward']}"  # no file runs code by itself
    finished(start("reinforce", "--resume", "--checkpoint-dir", folder, again))
    assert_equal_runs(place / "control", folder, step=STEPS)


@pytest.mark.usefixtures("start")
def test_a_run_that_goes_on_from_beginnings_resumes_exactly(place: Path) -> None:
    package.reinforce("base", quiet=True, checkpoint_dir="text control", **ON_TEXT)

    def stop(event: events.Event) -> None:
        if isinstance(event, events.Step) and event.step == 3:
            raise package.StopRun("for a test")

    package.reinforce("base", quiet=True, checkpoint_dir="text", on_event=stop, **ON_TEXT)
    package.reinforce(reward="mine.py:of_story", resume="latest", checkpoint_dir="text", quiet=True)
    assert_equal_runs(place / "text control", place / "text", step=6)
    steps = [record for record in records(place / "text") if "reward" in record]
    assert all(0 < record["distinct"] <= 1 for record in steps)
    assert min(record["groups_skipped"] for record in steps) < 1


@pytest.mark.usefixtures("start")
@pytest.mark.parametrize("reward", ["stories", "consistency"])
def test_the_built_in_rewards_of_stories_need_no_name_when_a_run_is_resumed(reward: str) -> None:
    given = ON_TEXT | {"reward": reward, "max_steps": 1, "checkpoint_dir": reward}
    for prompt_words in (0, 5):
        package.reinforce("base", quiet=True, **given | {"prompt_words": prompt_words})
    result = package.reinforce(resume="latest", quiet=True, checkpoint_dir=reward, max_steps=2)
    assert result.steps == 2


@pytest.mark.usefixtures("start")
def test_a_run_learns_from_a_reward_to_its_end_or_never(place: Path) -> None:
    with pytest.raises(UserError, match=r"base has no reward: `homespun train --resume`"):
        package.reinforce(reward="questions", resume="latest", checkpoint_dir="base", quiet=True)
    given = RUN | {"checkpoint_dir": "kept", "max_steps": 1, "reward": "questions"}
    package.reinforce("base", quiet=True, **given)
    with pytest.raises(UserError, match="--dropout would change the probabilities"):
        package.reinforce(resume="latest", checkpoint_dir="kept", dropout=0.1, quiet=True)
    plain = {name: value for name, value in given.items() if name != "reward"}
    with pytest.raises(UserError, match="this run has the reward questions: name it"):
        package.train(TrainConfig(init_from="base", resume="latest", **plain), quiet=True)


@pytest.mark.usefixtures("start")
def test_a_plan_knows_the_prompts_the_pairs_and_the_writing(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from homespun.forecast import speed as measuring

    tried: list[int] = []

    probed: list[int] = []

    def probe(model: Any, options: Any, batch_size: int, **more: Any) -> Probed:
        probed.append(batch_size)
        facts = {"engine": "torch 1", "device": "cpu", "precision": "float32"}
        return Probed(1.0, 0.1, 0.0, 5, 10**8, facts)

    def decode(model: Any, reader: Any, *, batch_size: int) -> Decoded:
        tried.append(batch_size)
        return Decoded(100.0, 10, "torch", 0.0)

    monkeypatch.setattr(measuring, "probe", probe)
    monkeypatch.setattr(measuring, "probe_decoding", decode)
    given = {name: value for name, value in RUN.items() if name not in ("reward", "max_steps")}
    before = {path.name for path in place.iterdir()}
    plan = package.plan(init_from="base", reward="questions", max_epochs=2, **given)
    n_prompts = len(conversations_of(place))
    assert plan.steps == pytest.approx(2 * n_prompts * 4 / 8, rel=0.02)
    assert tried == [4]
    writing = 2 * 6 / (100.0 / 4)  # two groups, six tokens each, at 25 steps a second
    assert probed == [4]  # a step has two updates, each from the four answers of one group
    assert plan.speed.seconds_per_step == pytest.approx(0.1 * 3.5 + writing, rel=0.1)
    assert any("as long as --answer-tokens" in note for note in plan.notes)
    assert plan.memory.initial_model == 4 * plan.parameters
    assert plan.memory_needed == 10**8 + plan.memory.initial_model + plan.memory.answers
    assert "initial model" in plan.facts()["memory"]
    pairs = place / "pairs.jsonl"
    row = {"prompt": "Who has it?", "chosen": "Anna", "rejected": "Tim"}
    pairs.write_text("".join(json.dumps(row | {"prompt": f"{n}?"}) + "\n" for n in range(80)))
    taken = {name: given[name] for name in ("seq_len", "threads")}
    plan = package.plan(init_from="base", preferences="pairs.jsonl", **taken)
    assert plan.steps == -(-plan.text.n_documents // 16) if plan.text else None
    assert plan.epochs == pytest.approx(1, rel=0.2)
    assert plan.memory.initial_model == plan.memory.answers == 0
    with pytest.raises(UserError, match="which is no multiple of --group-size 4"):
        package.plan(init_from="base", reward="questions", **given | {"batch_size": 6})
    pairs.unlink()
    assert {path.name for path in place.iterdir()} == before, "a plan writes nothing"


def conversations_of(place: Path) -> list[str]:
    """The conversations that a run learns from."""
    return list(survey(place / "questions.jsonl").training())


def test_the_records_have_all_figures(place: Path) -> None:
    found = records(place / "control")
    steps = [record for record in found if "reward" in record]
    assert [record["step"] for record in steps] == list(range(1, STEPS + 1))
    for record in steps:
        assert 0 <= record["reward"] <= 1
        assert 0 < record["answer_tokens"] <= 6
        assert 0 < record["distinct"] <= 1
        if record["groups_skipped"] < 1:
            assert record["entropy"] > 0
            assert record["kl"] >= 0
        else:
            assert "kl" not in record
        assert 0 <= record["groups_skipped"] <= 1
        assert 0 <= record["ratio_clipped"] <= 1
        assert "perplexity" not in record
    assert steps[0]["kl"] == 0  # the first answers are those of the initial model
    assert steps[-1]["kl"] > 0
    assert [record["step"] for record in found if "val_reward" in record] == [0, 3, 6, 8]
    assert [record["step"] for record in found if "text" in record][::3] == [4, 8]


@pytest.mark.slow
@pytest.mark.usefixtures("start")
def test_the_model_learns_what_the_reward_wants(place: Path) -> None:
    package.reinforce("base", quiet=True, **RUN | {"checkpoint_dir": "longer", "max_steps": 40})
    rewards = [record["reward"] for record in records(place / "longer") if "reward" in record]
    assert np.mean(rewards[-10:]) > 1.3 * np.mean(rewards[:10])


@pytest.mark.usefixtures("start")
def test_a_reward_that_raises_ends_the_run_and_the_checkpoint_is_intact(place: Path) -> None:
    given = RUN | {"checkpoint_dir": "failed", "save_interval": 1, "eval_interval": 100}
    with pytest.raises(UserError, match=r"mine\.py:fails_later raised ValueError: no more, for"):
        package.reinforce("base", quiet=True, **given | {"reward": "mine.py:fails_later"})
    found = CheckpointFolder(place / "failed").latest()
    assert found
    assert found.weights.step >= 1
    result = package.reinforce(
        reward="mine.py:letters", resume="latest", checkpoint_dir="failed", quiet=True
    )
    assert result.steps == STEPS


@pytest.mark.usefixtures("start")
def test_another_initial_model_in_the_folder_is_refused(place: Path) -> None:
    given = RUN | {"checkpoint_dir": "moved", "max_steps": 2}
    package.reinforce("base", quiet=True, **given)
    (place / "moved" / "base.npz").write_bytes((place / "moved" / "best.npz").read_bytes())
    with pytest.raises(UserError, match="is not the model from which this run began"):
        package.reinforce(resume="latest", quiet=True, **given | {"max_steps": 4})


@pytest.mark.usefixtures("start")
def test_from_python_with_a_function(place: Path) -> None:
    def shortest(prompt: Any, answers: list[str]) -> list[float]:
        return [-float(len(answer)) for answer in answers]

    found: list[events.Event] = []
    result = package.reinforce(
        "base",
        reward=shortest,
        on_event=found.append,
        quiet=True,
        **{name: value for name, value in RUN.items() if name != "reward"}
        | {"max_steps": 2, "checkpoint_dir": "from python"},
    )
    assert result.steps == 2
    assert result.best_val_loss is None
    assert result.best_reward is not None
    assert result.best_reward <= 0
    [described] = [event.run for event in found if isinstance(event, events.Started)]
    assert described["settings"]["reward"].endswith("shortest")


@pytest.mark.usefixtures("start")
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"reward": "nothing"}, "--reward nothing: questions, stories"),
        ({"batch_size": 6}, "which is no multiple of --group-size 4"),
        ({"dropout": 0.1}, "--dropout would change the probabilities"),
        ({"averaging": 0.1}, "--averaging would change the probabilities"),
        ({"reward_seconds": 1e12}, "seconds is 1000000000000.0: it must be at most"),
        ({"answer_tokens": 500}, "leaves no room for a prompt"),
        ({"answer_tokens": 380}, "no prompt leaves room for an answer"),
        (
            {"reward": "questions", "data_file": "stories.txt"},
            "--reward questions needs conversations",
        ),
    ],
)
def test_settings_that_have_no_meaning(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        package.reinforce("base", quiet=True, **RUN | {"checkpoint_dir": "wrong"} | settings)


@pytest.mark.usefixtures("start")
def test_a_model_has_to_be_named(start: Command) -> None:
    output = finished(start("reinforce", "--data-file", "questions.jsonl"), status=2)
    assert "name it with --init-from, or as in `homespun reinforce MODEL`" in output


@pytest.mark.usefixtures("start")
def test_with_one_update_nothing_is_clipped_and_the_ratio_is_one(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ratios: list[float] = []
    original = policy_steps.token_losses

    def watched(new: Any, old: Any, *others: Any, **more: Any) -> Any:
        ratios.append(float(np.abs(np.exp(np.asarray(new) - np.asarray(old)) - 1).max()))
        return original(new, old, *others, **more)

    monkeypatch.setattr(policy_steps, "token_losses", watched)
    common = RUN | {"batch_size": 4, "grad_accumulation_steps": 4}
    for updates in (1, 4):
        ratios.clear()
        folder = f"updates {updates}"
        given = common | {"updates": updates, "max_steps": 3, "checkpoint_dir": folder}
        package.reinforce("base", quiet=True, **given)
        assert (max(ratios) > 1e-4) == (updates > 1), ratios


@pytest.mark.usefixtures("start")
def test_repeated_answers_are_read_once_and_count_as_often_as_they_were_written(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (place / "same.py").write_text(
        "def scores(prompt, answers): return [len(a) % 2 for a in answers]"
    )
    n_rows: list[int] = []
    rows_of, merged = policy_steps.rows_of, policy_steps.merged

    def repeated(groups: Any) -> Any:
        twice = [
            dataclasses.replace(
                group,
                answers=group.answers * 2,
                scores=group.scores * 2,
                advantages=np.tile(group.advantages, 2),
            )
            for group in groups
        ]
        return rows_of(twice)

    def counted(rows: Any) -> Any:
        found = merged(rows)
        n_rows.append(len(rows.batch.inputs) - 2 * len(found.batch.inputs))
        return found

    given = RUN | {"reward": "same.py:scores", "max_steps": 3, "precision": "float32"}
    monkeypatch.setattr(policy_steps, "rows_of", repeated)
    found = {}
    for name, merge in {"apart": lambda rows: rows, "merged": counted}.items():
        monkeypatch.setattr(policy_steps, "merged", merge)
        package.reinforce("base", quiet=True, **given | {"checkpoint_dir": name})
        found[name] = records(place / name)
    assert n_rows
    assert min(n_rows) >= 0  # at most half of the rows are left
    for one, other in zip(found["apart"], found["merged"], strict=True):
        for figure in {"reward", "loss", "grad_norm", "kl", "entropy", "val_loss"} & one.keys():
            assert one[figure] == pytest.approx(other[figure], rel=1e-4, abs=1e-7), figure


@pytest.mark.usefixtures("start")
def test_an_earlier_text_is_kept_and_the_run_resumes_exactly(place: Path) -> None:
    given = RUN | {"replay": "stories.txt", "updates": 1, "max_steps": 6}

    def stop(event: events.Event) -> None:
        if isinstance(event, events.Step) and event.step == 2:
            raise package.StopRun("for a test")

    package.reinforce("base", quiet=True, checkpoint_dir="keeps", **given)
    package.reinforce("base", quiet=True, checkpoint_dir="keeps 2", on_event=stop, **given)
    package.reinforce(reward=RUN["reward"], resume="latest", checkpoint_dir="keeps 2", quiet=True)
    assert_equal_runs(place / "keeps", place / "keeps 2", step=6)

    def taken(folder: str) -> int:
        found = CheckpointFolder(place / folder).latest()
        assert found
        n: int = found.state.header["position"]["next_replayed"]
        return n

    before, more = taken("keeps 2"), {"updates": 2, "max_steps": 7}
    package.reinforce(
        reward=RUN["reward"], resume="latest", checkpoint_dir="keeps 2", quiet=True, **more
    )
    assert before <= taken("keeps 2") <= before + 2 * before / 6  # however many updates a step has

    def replayed(folder: str) -> list[float]:
        found = records(place / folder)
        return [one["val_replay_loss"] for one in found if "val_replay_loss" in one]

    package.reinforce("base", quiet=True, checkpoint_dir="less", **given | {"replay_share": 0.01})
    kept, less = replayed("keeps"), replayed("less")
    assert kept[0] == less[0]
    assert kept[-1] < less[-1]


@pytest.mark.usefixtures("start")
def test_ranks_can_divide_an_update_with_an_earlier_text(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_step, n_rows = TorchEngine.train_step, []

    def divided(engine: TorchEngine, microbatches: Any, *given: Any, **more: Any) -> Any:
        parts = [share_of(microbatches, Place(rank, 2, rank, 2))[1] for rank in range(2)]
        n_rows.append(sum(len(batch.inputs) for part in parts for batch in part))
        assert n_rows[-1] == sum(len(batch.inputs) for batch in microbatches)
        return train_step(engine, microbatches, *given, **more)

    monkeypatch.setattr(TorchEngine, "train_step", divided)
    package.reinforce(
        "base", quiet=True, checkpoint_dir="divided", **RUN | {"replay": "stories.txt"}
    )
    assert n_rows


@pytest.mark.usefixtures("start")
def test_adapters_learn_from_a_reward_too(place: Path) -> None:
    given = RUN | {"lora_rank": 2, "max_steps": 3, "checkpoint_dir": "lora"}
    package.reinforce("base", quiet=True, **given)
    steps = [record for record in records(place / "lora") if "reward" in record]
    assert steps[0]["kl"] == pytest.approx(0, abs=1e-6)
    assert steps[-1]["kl"] > 0
