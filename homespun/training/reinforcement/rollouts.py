"""Prompts flow in; groups of sampled answers with their scores come out, and batches to learn from.

Everything random about an answer follows from the seed of the run and the number of its prompt, so a resumed run
samples what the uninterrupted one does. Answers are drawn from the distribution of the model itself, at temperature 1
and with no token left out, since the loss compares probabilities.
"""

import re
from array import array
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from homespun.config import SamplingConfig
from homespun.data.batch import IGNORED, PADDING, Batch
from homespun.data.chat_samples import ROW_STEP
from homespun.data.conversations import conversations
from homespun.data.corpus import Corpus
from homespun.data.samples import mixed, permuted
from homespun.errors import UserError
from homespun.generation.session import Continuation, Session
from homespun.planning.answers import TOGETHER, longest_row
from homespun.terminal import Say, bar, counted
from homespun.tokenizer import ChatTemplate, Tokenizer
from homespun.training.reinforcement.loss import Values, advantages
from homespun.training.reinforcement.rewards import Reward, distinguished_by, scores

HELD_OUT = 64
"""Texts of an evaluation."""
HELD_OUT_QUESTIONS = 256
"""Answers of an evaluation in conversations, which are short."""
MOST_BEGINNINGS = 1 << 14
"""Prompts that are taken from a text."""
HELD_OUT_SEED = 0x68656C64
"""Of their answers, where these are sampled."""


@dataclass(frozen=True)
class Prompt:
    """A prompt as the model reads it, and as a reward does."""

    ids: "array[int]"
    record: Mapping[str, Any]
    """The argument of a reward, see `rewards.Prompt`."""

    @property
    def text(self) -> str:
        """Its last message, or the beginning of a text."""
        messages = self.record["messages"]
        return str(messages[-1]["content"] if messages else self.record.get("text", ""))


class Prompts(NamedTuple):
    """The prompts of a run."""

    training: list[Prompt]
    held_out: list[Prompt]
    greedy: bool
    """Whether an evaluation takes the likeliest answers: one prompt alone would always have the same."""


def of_conversations(corpus: Corpus, template: ChatTemplate, room: int, say: Say) -> Prompts:
    """The prompts of a corpus of conversations: each up to its last answer, which the record holds as `answer`.

    Args:
        corpus: the conversations. Those for validation give the prompts of evaluations.
        template: makes tokens of them.
        room: the most tokens of a prompt. Longer ones are left out.
        say: gets a line about them.

    Raises:
        UserError: no prompt is left to train on, or to evaluate with.
    """
    prompts: dict[bool, list[Prompt]] = {True: [], False: []}
    n_long = 0
    with bar("Reading the prompts", corpus.n_documents) as advance:
        for one, is_validation in zip(
            conversations(corpus.path, None),
            (is_held_out for _, is_held_out in corpus.split()),
            strict=True,
        ):
            advance(1)
            *messages, answer = one.messages
            held_out = prompts[True]
            if is_validation and len(held_out) >= HELD_OUT_QUESTIONS:
                continue
            ids = template.prompt(messages)
            if len(ids) <= room:
                record = {**one.fields, "messages": messages, "answer": answer["content"]}
                prompts[is_validation].append(Prompt(array("i", ids), record))
            else:
                n_long += 1
    if not all(prompts.values()):
        which = "prompt that is held out" if prompts[False] else "prompt"
        raise UserError(
            f"{corpus.path}: no {which} leaves room for an answer in the context: give shorter conversations, or a "
            "smaller --answer-tokens"
        )
    if n_long:
        say(
            f"{counted(n_long, 'prompt')} left out: they leave no room for an answer in the context."
        )
    return Prompts(prompts[False], prompts[True], greedy=True)


def of_nothing(eot_id: int) -> Prompts:
    """The empty prompt, after which a model begins a text by itself."""
    empty = Prompt(array("i", [eot_id]), {"messages": []})
    return Prompts([empty], [empty] * HELD_OUT, greedy=False)


def first_words(n: int) -> re.Pattern[str]:
    """Matches the first words of a text with more words."""
    return re.compile(rf"\s*\S+(?:\s+\S+){{{n - 1}}}(?=\s+\S)")


def of_beginnings(
    corpus: Corpus, tokenizer: Tokenizer, n_words: int, room: int, say: Say
) -> Prompts:
    """The first words of the documents of a text, which the record holds as `text`.

    Args:
        corpus: the text. The documents for validation give the prompts of evaluations.
        tokenizer: of the model.
        n_words: of a prompt. Documents without more words are left out.
        room: the most tokens of a prompt. Longer ones are left out.
        say: gets a line about them.

    Raises:
        UserError: no prompt is left to train on, or to evaluate with.
    """
    beginning = first_words(n_words)
    prompts: dict[bool, list[Prompt]] = {True: [], False: []}
    most = {True: HELD_OUT, False: MOST_BEGINNINGS}
    n_long = 0
    with bar("Reading the prompts", corpus.n_documents) as advance:
        for document, is_validation in corpus.split():
            advance(1)
            if len(prompts[is_validation]) < most[is_validation]:
                found = beginning.match(document)
                ids = [tokenizer.eot_id, *tokenizer.encode(found[0])] if found else []
                if found and len(ids) <= room:
                    record = {"messages": [], "text": found[0]}
                    prompts[is_validation].append(Prompt(array("i", ids), record))
                n_long += len(ids) > room
    if not all(prompts.values()):
        which = "document that is held out" if prompts[False] else "document"
        raise UserError(
            f"{corpus.path}: no {which} has {counted(n_words, 'word')} and room for more in the context: lower "
            "--prompt-words or --answer-tokens"
        )
    if n_long:
        say(f"{counted(n_long, 'beginning')} left out: they leave no room in the context.")
    return Prompts(prompts[False], prompts[True], greedy=False)


@dataclass(frozen=True)
class Group:
    """The answers to one prompt."""

    prompt: Prompt
    answers: list[Continuation]
    scores: list[float]
    advantages: Values
    """[answers]"""
    n_distinct: int
    """How many answers there are if those that `rewards.distinguished_by` does not tell apart count once."""

    @property
    def has_signal(self) -> bool:
        """Whether some answers are better than others."""
        return bool(self.advantages.any())


class Sampler:
    """Samples groups of answers from a model in training, and scores them."""

    def __init__(
        self,
        prompts: Prompts,
        reward: Reward,
        name: str,
        *,
        seed: int,
        group_size: int,
        max_tokens: int,
        reward_seconds: float,
    ) -> None:
        """
        Args:
            prompts: of the run.
            reward: scores the answers.
            name: that of the reward.
            seed: of the run.
            group_size: answers to each prompt.
            max_tokens: longest answer.
            reward_seconds: longest time of a call of the reward.
        """
        self.prompts = prompts
        self._reward, self._name, self._seconds = reward, name, reward_seconds
        self._kind: Callable[[Mapping[str, Any], str], Hashable] = distinguished_by(name)
        self._seed, self._group_size, self._max_tokens = seed, group_size, max_tokens

    @property
    def longest_row(self) -> int:
        """Tokens of a row with the longest prompt and the longest answer."""
        longest = max(len(prompt.ids) for prompt in self.prompts.training)
        return longest_row(longest, self._max_tokens)

    def groups(self, session: Session, first: int, count: int) -> Iterator[Group]:
        """The groups of the prompts with the numbers `first` to `first + count - 1`. A pass over all prompts has each
        once, in random order.

        Raises:
            UserError: the reward fails, or the model's output is not finite.
        """
        for number in range(first, first + count):
            prompt = self._prompt(number)
            [seed] = mixed(np.array([number], np.uint64), np.uint64(self._seed))
            sampling = self._sampling(temperature=1.0, seed=int(seed >> np.uint64(1)))
            written = session.generate(prompt.ids.tolist(), sampling, self._group_size)
            given = self._scores(prompt, written)
            kinds = {self._kind(prompt.record, one.text) for one in written}
            yield Group(prompt, written, given, advantages([given])[0], len(kinds))

    def _prompt(self, number: int) -> Prompt:
        n = len(self.prompts.training)
        passes, index = divmod(number, n)
        [key] = mixed(np.array([self._seed], np.uint64), np.uint64(passes))
        [place] = permuted(np.array([index], np.uint64), n, key)
        return self.prompts.training[int(place)]

    def held_out_score(self, session: Session, stopped: Callable[[], object]) -> float | None:
        """The mean score of answers to the prompts that are held out; None if there are none, or if `stopped()` becomes
        true before that is done. The same model always has the same one."""
        prompts, total = self.prompts.held_out, 0.0
        if not prompts:
            return None
        for first in range(0, len(prompts), TOGETHER):
            if stopped():
                return None
            part = prompts[first : first + TOGETHER]
            temperature = 0.0 if self.prompts.greedy else 1.0
            sampling = self._sampling(temperature=temperature, seed=HELD_OUT_SEED + first)
            written = _continued(session, part, sampling)
            if all(prompt is part[0] for prompt in part):
                # They are a group, as in training: a reward may compare them.
                total += sum(self._scores(part[0], written))
            else:
                total += sum(
                    self._scores(prompt, [one])[0]
                    for prompt, one in zip(part, written, strict=True)
                )
        return total / len(prompts)

    def _sampling(self, *, temperature: float, seed: int) -> SamplingConfig:
        return SamplingConfig(
            max_tokens=self._max_tokens, temperature=temperature, min_p=0.0, top_p=1.0, seed=seed
        )

    def _scores(self, prompt: Prompt, written: Sequence[Continuation]) -> list[float]:
        texts = [one.text for one in written]
        return scores(self._reward, self._name, prompt.record, texts, self._seconds)


def _continued(
    session: Session, prompts: Sequence[Prompt], sampling: SamplingConfig
) -> list[Continuation]:
    """One answer to each prompt. The same prompt again and again has different ones."""
    ids = [prompt.ids.tolist() for prompt in prompts]
    if all(one == ids[0] for one in ids):
        return session.generate(ids[0], sampling, len(ids))
    return session.generate_batch(ids, sampling)


class Rows(NamedTuple):
    """Answers as rows of a batch, one each."""

    batch: Batch
    """The tokens of the answers are its targets."""
    advantages: Values
    """[rows, T], the same for all tokens of a row."""
    counts: Values
    """[rows, T] How many answers a row stands for."""

    @property
    def n_tokens(self) -> int:
        """Tokens of all the answers that the rows stand for."""
        return int(self.counts[self.batch.is_target].sum())


def rows_of(groups: Sequence[Group]) -> Rows:
    """The answers of some groups in a batch, after their prompts. The rows are as long as the longest of them, rounded
    up, so that freed memory fits the next batches."""
    sequences, gains = [], []
    for group in groups:
        for answer, gain in zip(group.answers, group.advantages.tolist(), strict=True):
            end = [] if answer.end_id is None else [answer.end_id]
            sequences.append((group.prompt.ids, [*answer.token_ids, *end]))
            gains.append(gain)
    longest = max(len(prompt) + len(answer) for prompt, answer in sequences) - 1
    length = -(-longest // ROW_STEP) * ROW_STEP
    inputs = np.zeros((len(sequences), length), np.int32)
    targets = np.full_like(inputs, IGNORED)
    documents = np.full_like(inputs, PADDING)
    for row, (prompt, target) in enumerate(sequences):
        ids = [*prompt, *target]
        inputs[row, : len(ids) - 1] = ids[:-1]
        targets[row, len(prompt) - 1 : len(ids) - 1] = target
        documents[row, : len(ids) - 1] = 0
    spread = np.repeat(np.array(gains)[:, None], length, axis=1)
    return Rows(Batch(inputs, targets, documents), spread, np.ones_like(spread))


def merged(rows: Rows) -> Rows:
    """The rows without repetitions: equal answers to a prompt with equal advantages are one row, which counts as often
    as it was written. Its tokens have the same losses and gradients each time, so sums with `counts` stay the same, and
    short answers repeat often."""
    batch, numbers = rows.batch, dict[bytes, int]()
    assert batch.documents is not None
    counts = np.zeros(len(batch.inputs))
    for row, parts in enumerate(zip(batch.inputs, batch.targets, rows.advantages, strict=True)):
        first = numbers.setdefault(b"".join(part.tobytes() for part in parts), row)
        counts[first] += rows.counts[row, 0]
    kept = list(numbers.values())
    return Rows(
        Batch(batch.inputs[kept], batch.targets[kept], batch.documents[kept]),
        rows.advantages[kept],
        np.repeat(counts[kept, None], batch.inputs.shape[1], axis=1),
    )
