"""Groups of answers: which prompts come, how answers are drawn, and what a batch has as its targets."""

from array import array
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from homespun.config import SamplingConfig
from homespun.data.batch import IGNORED
from homespun.data.corpus import survey
from homespun.errors import UserError
from homespun.generation.session import Continuation
from homespun.tokenizer import train
from homespun.training.reinforcement.loss import advantages
from homespun.training.reinforcement.rollouts import (
    ROW_STEP,
    TOGETHER,
    Group,
    Prompt,
    Prompts,
    Rows,
    Sampler,
    merged,
    of_beginnings,
    of_nothing,
    rows_of,
)

N_PROMPTS = 7


class Written:
    """In the place of a session: answers that follow from the seed and the number of the sample."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, SamplingConfig]] = []

    def generate(self, prompt: Any, config: SamplingConfig, n: int = 1) -> list[Continuation]:
        self.asked.append((prompt[0], config))
        drawn = np.random.default_rng([config.seed or 0, prompt[0]]).integers(1, 9, (n, 2))
        return [Continuation(str(ids), tuple(ids), "end", end_id=0) for ids in drawn.tolist()]

    def generate_batch(self, prompts: Any, config: SamplingConfig) -> list[Continuation]:
        return [self.generate(prompt, config)[0] for prompt in prompts]


def length(prompt: Any, answers: Sequence[str]) -> list[float]:
    return [float(sum(map(int, answer.strip("[]").split(",")))) for answer in answers]


def sampler(seed: int = 0, greedy: bool = True) -> Sampler:
    prompts = [Prompt(array("i", [100 + n, 5]), {"messages": []}) for n in range(N_PROMPTS)]
    held_out = [Prompt(array("i", [200 + n, 5]), {"messages": []}) for n in range(3)]
    return Sampler(
        Prompts(prompts, held_out, greedy),
        length,
        "length",
        seed=seed,
        group_size=4,
        max_tokens=6,
        reward_seconds=30,
    )


def groups(made: Sampler, first: int, count: int) -> list[Group]:
    return list(made.groups(Written(), first, count))  # type: ignore[arg-type]


def test_a_pass_has_each_prompt_once_and_the_next_in_another_order() -> None:
    made = groups(sampler(), 0, 2 * N_PROMPTS)
    order = [group.prompt.ids[0] for group in made]
    first, second = order[:N_PROMPTS], order[N_PROMPTS:]
    assert sorted(first) == sorted(second) == [100 + n for n in range(N_PROMPTS)]
    assert first != second


def test_a_group_follows_from_the_seed_and_its_number() -> None:
    whole = groups(sampler(), 0, 10)
    for first in (0, 3, 9):
        assert groups(sampler(), first, 1)[0].answers == whole[first].answers
    again = [group.answers for group in whole if group.prompt == whole[0].prompt]
    assert len(again) == 2
    assert again[0] != again[1]  # other random numbers in the next pass
    assert groups(sampler(seed=1), 0, 10) != whole


def test_answers_are_drawn_from_the_distribution_of_the_model() -> None:
    session = Written()
    list(sampler().groups(session, 0, 1))  # type: ignore[arg-type]
    [(_, config)] = session.asked
    assert config.temperature == 1
    assert (config.top_k, config.top_p, config.min_p, config.repetition_penalty) == (None, 1, 0, 1)
    assert config.max_tokens == 6


@pytest.mark.parametrize("greedy", [True, False])
def test_the_held_out_score_is_always_the_same(greedy: bool) -> None:
    made, session = sampler(greedy=greedy), Written()
    found = made.held_out_score(session, lambda: False)  # type: ignore[arg-type]
    assert found == made.held_out_score(Written(), lambda: False)  # type: ignore[arg-type]
    assert [ids for ids, _ in session.asked] == [200, 201, 202]
    assert {config.temperature for _, config in session.asked} == {0.0 if greedy else 1.0}
    assert made.held_out_score(Written(), lambda: True) is None  # type: ignore[arg-type]


@pytest.mark.parametrize("n_tokens", [62, 63, 64])
def test_the_longest_row_is_that_of_the_longest_prompt_and_answer(n_tokens: int) -> None:
    prompts = [Prompt(array("i", [1] * n), {"messages": []}) for n in (1, 3)]
    longest = Continuation("", tuple(range(n_tokens)), "length")
    made = Sampler(
        Prompts(prompts, [], greedy=True),
        length,
        "length",
        seed=0,
        group_size=1,
        max_tokens=n_tokens,
        reward_seconds=30,
    )
    rows = rows_of([Group(prompts[1], [longest], [1.0], np.array([1.0]), 1)])
    assert made.longest_row == rows.batch.inputs.shape[1]


def test_equal_answers_of_a_group_count_once() -> None:
    made = groups(sampler(), 0, 5)
    for group in made:
        assert group.n_distinct == len({answer.text for answer in group.answers})
    assert {group.n_distinct for group in made} != {4}


def test_prompts_are_the_first_words_of_documents(tmp_path: Path) -> None:
    texts = [f"Once upon  a time {n} dogs\nran far." for n in range(200)] + ["Too short."]
    (tmp_path / "texts.txt").write_text("\n<|endoftext|>\n".join(texts))
    corpus, tokenizer = survey(tmp_path / "texts.txt"), train(texts, 300)
    found = of_beginnings(corpus, tokenizer, 6, 30, print)
    assert not found.greedy
    begins = [prompt.text for prompt in found.training]
    assert begins == [one[: one.index("dogs") + 4] for one in corpus.training() if "dogs" in one]
    held_out = [one for one in corpus.validation() if "dogs" in one]
    assert len(found.held_out) == len(held_out)
    assert not set(begins) & {prompt.text for prompt in found.held_out}
    for prompt in found.training:
        assert prompt.ids[0] == tokenizer.eot_id
        assert tokenizer.decode(prompt.ids[1:]) == prompt.text == prompt.record["text"]
        assert prompt.record["messages"] == []
    with pytest.raises(UserError, match="no document has 9 words and room for more"):
        of_beginnings(corpus, tokenizer, 9, 30, print)
    some: Any = SimpleNamespace(path="texts.txt", n_documents=2)
    some.split = lambda: [(texts[0], False), ("Too short.", True)]
    with pytest.raises(UserError, match="no document that is held out has 6 words and room"):
        of_beginnings(some, tokenizer, 6, 30, print)
    said: list[str] = []
    with pytest.raises(UserError, match=r"texts\.txt: no document has 6 words"):
        of_beginnings(corpus, tokenizer, 6, 2, said.append)


def test_the_empty_prompt_has_different_answers_in_an_evaluation() -> None:
    prompts = of_nothing(0)
    made = Sampler(prompts, length, "length", seed=0, group_size=4, max_tokens=6, reward_seconds=30)
    session = Written()
    found = made.held_out_score(session, lambda: False)  # type: ignore[arg-type]
    seeds = [config.seed for _, config in session.asked]
    assert len(set(seeds)) == len(seeds) == len(prompts.held_out) / TOGETHER
    drawn = [
        text.text
        for seed in seeds
        for text in Written().generate([0], SamplingConfig(seed=seed), TOGETHER)
    ]
    assert len(set(drawn)) > len(prompts.held_out) / 2
    assert found == pytest.approx(np.mean(length({}, drawn)))


def test_a_batch_has_the_tokens_of_the_answers_as_targets() -> None:
    finished = Continuation("a b", (11, 12), "end", end_id=0)
    cut_off = Continuation("c d e", (13, 14, 15), "length")
    short = Group(
        Prompt(array("i", [1, 2, 3]), {}),
        [finished, cut_off],
        [1.0, 0.0],
        advantages([[1.0, 0.0]])[0],
        2,
    )
    empty = Continuation("", (), "end", end_id=0)
    long = Group(
        Prompt(array("i", [1, 4, 5, 6, 7]), {}),
        [empty, finished],
        [0, 2],
        advantages([[0, 2]])[0],
        2,
    )
    rows = rows_of([short, long])
    x = IGNORED
    assert rows.batch.inputs.shape == rows.advantages.shape == (4, ROW_STEP)
    assert (rows.batch.targets[:, 7:] == x).all()
    assert rows.batch.inputs[:, :7].tolist() == [
        [1, 2, 3, 11, 12, 0, 0],
        [1, 2, 3, 13, 14, 0, 0],
        [1, 4, 5, 6, 7, 0, 0],
        [1, 4, 5, 6, 7, 11, 12],
    ]
    assert rows.batch.targets[:, :7].tolist() == [
        [x, x, 11, 12, 0, x, x],
        [x, x, 13, 14, 15, x, x],  # an answer that is cut off has no end to learn
        [x, x, x, x, 0, x, x],
        [x, x, x, x, 11, 12, 0],
    ]
    assert rows.batch.documents is not None
    assert [sorted(set(row)) for row in rows.batch.documents[:, :7].tolist()] == [
        [-1, 0], [-1, 0], [-1, 0], [0],
    ]  # fmt: skip
    assert rows.advantages[:, 0].tolist() == [1, -1, -1, 1]
    assert not Group(
        Prompt(array("i", [1]), {}), [empty] * 2, [3, 3], advantages([[3, 3]])[0], 1
    ).has_signal


def test_equal_answers_with_equal_scores_become_one_row_that_counts_for_all() -> None:
    anna = Continuation("Anna", (11, 12), "end", end_id=0)
    cut_off = Continuation("Anna", (11, 12), "length")
    tim = Continuation("Tim", (13,), "end", end_id=0)
    prompt = Prompt(array("i", [1, 2, 3]), {})
    one = Group(prompt, [anna, tim, anna, cut_off], [1, 0, 1, 0], advantages([[1, 0, 1, 0]])[0], 2)
    # A reward may give equal answers different scores.
    other = Group(prompt, [tim, tim, anna], [1, 0, 0], advantages([[1, 0, 0]])[0], 2)
    whole = rows_of([one, other])
    found = merged(whole)
    assert found.counts[:, 0].tolist() == [2, 1, 1, 1, 1, 1]
    assert found.counts.shape == found.batch.inputs.shape == (6, ROW_STEP)
    assert found.n_tokens == whole.n_tokens == whole.batch.n_targets == 17
    assert found.batch.n_targets == 14
    losses = np.random.default_rng(0).standard_normal(64)

    def total(rows: Rows) -> float:
        each = rows.counts * losses[rows.batch.targets] * rows.advantages
        return float(each[rows.batch.is_target].sum())

    assert total(found) == pytest.approx(total(whole))
    assert merged(found).counts.tolist() == found.counts.tolist()
