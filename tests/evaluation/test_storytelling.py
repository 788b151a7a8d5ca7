"""Figures about stories: repeated ones count once, foreign models are refused, and shares are those of the texts."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import homespun
from homespun import workspace
from homespun.cli.main import main
from homespun.config import JudgeConfig
from homespun.errors import UserError
from homespun.evaluation import storytelling
from homespun.evaluation.storytelling import (
    Told,
    check_understood,
    compared,
    continued,
    sampling_shown,
    summarised,
    training_text,
)
from homespun.generation.session import Continuation
from homespun.language_model import LanguageModel
from homespun.stories import stories
from homespun.stories.dice import PLAIN
from homespun.stories.judge import judge, split
from homespun.stories.outline import first_mishaps, generated, outline


def as_told(texts: list[str]) -> list[Told]:
    return [Told(number, text, judge(text)) for number, text in enumerate(texts, start=1)]


TRUE = list(stories(4, seed=8))
FALSE = TRUE[3].rpartition(". ")[0] + "."


def test_each_different_story_counts_once() -> None:
    result = summarised(as_told([TRUE[0], FALSE, TRUE[0], TRUE[1], TRUE[0]]), None)
    assert result.n_told == 5
    assert (result.tally.n, result.tally.consistent) == (3, 2)
    assert result.n_courses == 2
    assert result.n_known_courses is result.n_with_new_course is None


def test_courses_are_compared_with_the_training_text() -> None:
    result = summarised(as_told(TRUE), [TRUE[1], TRUE[2], FALSE])
    assert (result.n_courses, result.n_known_courses, result.n_with_new_course) == (4, 2, 2)


def test_the_generator_is_as_far_from_itself_as_its_samples() -> None:
    mine = [outline(events) for events, _ in generated(200, seed=12)]
    everything = [outline(events) for events, _ in generated(2000)]
    for row in compared(mine, everything):
        assert row.model == pytest.approx(row.generator, abs=0.08), row.of
    same = {row.of: row for row in compared(mine[:1] * 200, everything)}
    for of in ("distance of plots", "distance of things"):
        assert same[of].model > same[of].generator + 0.3


@pytest.mark.parametrize(("understood", "sentences"), [(0, 0), (0, 30), (7, 30)])
def test_a_model_that_tells_something_else_is_refused(understood: int, sentences: int) -> None:
    check_understood(30, 30)
    check_understood(8, 30)
    with pytest.raises(UserError, match="built-in stories only"):
        check_understood(understood, sentences)


def test_the_settings_are_told() -> None:
    assert sampling_shown(JudgeConfig(temperature=0)) == "temperature 0"
    all_ = JudgeConfig(temperature=0.9, top_k=5, top_p=0.5, min_p=0.1, repetition_penalty=1.1)
    assert (
        sampling_shown(all_)
        == "temperature 0.9, top-k 5, top-p 0.5, min-p 0.1, repetition penalty 1.1"
    )
    assert sampling_shown(JudgeConfig(temperature=1, min_p=0)) == "temperature 1"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, story_file: Path) -> Path:
    """A run of one step on stories."""
    folder = tmp_path_factory.mktemp("storytelling")
    shutil.copy(story_file, folder / "stories.txt")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        shape: dict[str, Any] = {"model_size": "pico", "n_layers": 1, "d_model": 32, "n_heads": 2}
        homespun.train(data_file="stories.txt", vocab_size=300, seq_len=256, max_steps=1, **shape)
    return folder


def test_the_command_refuses_a_model_that_knows_no_stories(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(run)
    for more in ([], ["--beginnings"]):
        assert main(["judge", "--num-samples", "2", "--max-tokens", "40", *more]) == 2
        assert "knows the built-in stories only" in capsys.readouterr().err


def test_the_training_text_is_found_from_anywhere(
    run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model = homespun.load(run / "checkpoints")
    monkeypatch.chdir(tmp_path)
    found = training_text(model)
    assert found
    learned = list(found.training())
    assert set(learned) < set((run / "stories.txt").read_text().split("\n<|endoftext|>\n"))
    (tmp_path / "stories.txt").write_text("Another text of the same name. " * 100)
    again = training_text(model)
    assert again
    assert again.sha256 == found.sha256
    shutil.copytree(run / "checkpoints", tmp_path / "moved/checkpoints")
    assert training_text(homespun.load("moved/checkpoints")) is None


def test_a_model_without_a_record_learned_from_the_last_download(
    run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    model = homespun.load(run / "checkpoints")
    del model.stored.header["data_file"]
    assert training_text(model) is None
    workspace.remember("data", run / "stories.txt", print)
    found = training_text(model)
    assert found
    assert found.path == run / "stories.txt"


def retelling(texts: list[str]) -> Any:
    """`LanguageModel.samples` of a model that writes these texts."""

    def samples(*arguments: object, **more: object) -> Iterator[Continuation]:
        yield from (Continuation(text, (), "end") for text in texts)

    return samples


def test_the_command_tells_its_figures(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(run)
    monkeypatch.setattr(LanguageModel, "samples", retelling([TRUE[0], FALSE, TRUE[0], TRUE[1]]))
    assert main(["judge", "--num-samples", "4", "--temperature", "0.5"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^story 2: unfinished: ", out, re.MULTILINE)
    assert "2 of 3 different stories are consistent from start to end." in out
    assert "67%, 95% interval 21 to 94%" in out
    assert "sampling  temperature 0.5, min-p " in out
    assert "4 stories were told; each counts once" in out
    assert "2 different courses of events" in out
    assert re.search(r"^new       \d consistent stor", out, re.MULTILINE)
    assert re.search(r"^distance of plots +\d+% +\d+%$", out, re.MULTILINE)


def test_beginnings_are_continued_and_counted_by_mishap(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A model that knows the endings of half of the beginnings."""
    whole = [(events, text) for events, text in generated(100, seed=12, variety=PLAIN)]
    given, endings = [], {}
    for number, (events, text) in enumerate(whole[:20]):
        kind = outline(events).plot[0]
        sentence = split(text)[len(storytelling.beginning(events)) - 1]
        cut = text.index(sentence) + len(sentence)
        given.append(storytelling.Beginning(kind, text[:cut]))
        endings[text[:cut]] = text[cut:] if number % 2 else " The end."

    def generate_batch(self: object, prompts: list[str], config: object) -> list[Continuation]:
        return [Continuation(endings[prompt], (), "end") for prompt in prompts]

    monkeypatch.chdir(run)
    monkeypatch.setattr(storytelling, "beginnings", lambda n: given)
    monkeypatch.setattr(LanguageModel, "generate_batch", generate_batch)
    own, at_settings = continued(homespun.load("checkpoints"), JudgeConfig())
    assert (own.settings, at_settings.settings) == ("temperature 1", sampling_shown(JudgeConfig()))
    for column in (own, at_settings):
        assert (column.overall.n, column.overall.consistent) == (20, 10)
        assert sum(tally.n for tally in column.mishaps.values()) == 20
        assert sum(tally.consistent for tally in column.mishaps.values()) == 10
        assert set(column.mishaps) <= first_mishaps()
    assert main(["judge", "--beginnings", "--num-samples", "20"]) == 0
    assert "temperature 1: 10 of 20, 50%, 95% interval 30 to 70%" in capsys.readouterr().out
