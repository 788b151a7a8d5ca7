"""Models and pairs of texts flow in, the share of right choices flows out: does a model find the true text likelier?

Nothing is sampled. A text counts with the sum of the log-probabilities of all its tokens after an end-of-text token, as
in BLiMP (Warstadt et al. 2020), computed in float32. Two equal sums are a tie and count half.
"""

import dataclasses
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from homespun.config import BUILT_IN_PAIRS, EvalConfig
from homespun.engine.base import Floats
from homespun.errors import UserError
from homespun.evaluation.intervals import interval
from homespun.language_model import LanguageModel, load_stored
from homespun.model_formats.formats import open_model
from homespun.stories.pairs import Pair, pairs
from homespun.terminal import Say, bar

PAIRS_PER_SKILL = 50
"""Built-in pairs for each skill."""
MAX_LOGITS = 1 << 26
"""Logits that are computed together: 256 MB."""
GOOD, BAD = "sentence_good", "sentence_bad"
"""The fields of a pair in a .jsonl file, and the titles of its columns in a .tsv file with titles."""
SKILLS = ("skill", "UID")
"""The field or column that names the skill, by the names that it may have. The second is that of BLiMP."""


@dataclass(frozen=True)
class Score:
    """Right choices among some pairs."""

    skill: str
    """The skill of the pairs; `all` for all of them."""
    n_pairs: int
    right: float
    """Pairs whose true text is the likelier one; a tie counts half."""
    share: float
    low: float
    """The lower end of the 95% interval of the share."""
    high: float
    """The upper end."""


@dataclass(frozen=True)
class ChoicesResult:
    """The choices of a model between true and false texts."""

    model: str
    """Its path."""
    pairs: str
    """The file of the pairs, or `stories` for the built-in ones."""
    overall: Score
    skills: tuple[Score, ...]
    """The same by skill, in the order of the pairs; empty if they name none."""


def evaluate_choices(config: EvalConfig, say: Say) -> Iterator[ChoicesResult]:
    """Let each model choose, one after the other.

    Args:
        config: the models, and the pairs in `choices`.
        say: receives messages.

    Yields:
        The result of each model, as soon as it is known.

    Raises:
        UserError: a model or the pairs cannot be read.
    """
    assert config.choices
    built_in = config.choices == BUILT_IN_PAIRS
    named = [] if built_in else read_pairs(Path(config.choices))
    models = [open_model(Path(path), report=say) for path in config.models]
    chosen = named or pairs(PAIRS_PER_SKILL)
    exact = dataclasses.replace(config, precision="float32")
    for path, stored in zip(config.models, models, strict=True):
        model = load_stored(stored, exact, generates=False)
        texts = [text for pair in chosen for text in (pair.true, pair.false)]
        sums = log_probabilities(model, texts, config.batch_size).reshape(-1, 2)
        yield ChoicesResult(path, config.choices, *scored(chosen, sums[:, 0] - sums[:, 1]))


def scored(
    chosen: Sequence[Pair], advantages: npt.NDArray[np.float64]
) -> tuple[Score, tuple[Score, ...]]:
    """The score of all pairs and of each skill.

    Args:
        chosen: the pairs.
        advantages: log-probability of the true text of each pair minus that of the false one, in nats.
    """
    right = np.where(advantages > 0, 1.0, np.where(advantages == 0, 0.5, 0.0))
    skills: dict[str, list[float]] = {}
    for pair, points in zip(chosen, right.tolist(), strict=True):
        if pair.skill:
            skills.setdefault(pair.skill, []).append(points)
    return (
        _score("all", right.tolist()),
        tuple(_score(skill, points) for skill, points in skills.items()),
    )


def _score(skill: str, points: Sequence[float]) -> Score:
    right, n = sum(points), len(points)
    return Score(skill, n, right, right / n, *interval(right, n))


def log_probabilities(
    model: LanguageModel, texts: Sequence[str], batch_size: int
) -> npt.NDArray[np.float64]:
    """The log-probability of each text after an end-of-text token, in nats: the sum over all its tokens.

    A text that is longer than the context is read in windows that overlap by half.

    Args:
        model: the model.
        texts: the texts.
        batch_size: the most windows that are computed together.
    """
    windows: list[_Window] = []
    with bar("Tokenizing texts", len(texts)) as advance:
        for number, text in enumerate(texts):
            windows += _windows(number, _tokens(model, text), model.config.seq_len)
            advance(1)
    windows.sort(key=lambda window: -len(window.inputs))
    sums = np.zeros(len(texts))
    with bar("Comparing texts", len(windows)) as advance:
        while windows:
            logits_of_one = len(windows[0].inputs) * model.config.vocab_size
            size = max(1, min(batch_size, MAX_LOGITS // logits_of_one))
            batch, windows = windows[:size], windows[size:]
            inputs = np.zeros((len(batch), len(batch[0].inputs)), np.int32)
            for row, window in zip(inputs, batch, strict=True):
                row[: len(window.inputs)] = window.inputs
            for logits, window in zip(model.engine.logits(inputs), batch, strict=True):
                length = len(window.inputs)
                sums[window.text] += _log_probability(logits[:length], window)
            advance(len(batch))
    return sums


@dataclass(frozen=True)
class _Window:
    """A part of a text that the model sees at once."""

    text: int
    """Number of the text."""
    inputs: Sequence[int]
    targets: Sequence[int]
    """The tokens that follow each of the inputs."""
    first: int
    """The first target that counts; an earlier window has those before it."""


def _tokens(model: LanguageModel, text: str) -> list[int]:
    return [model.tokenizer.eot_id, *model.tokenizer.encode(text)]


def _windows(number: int, ids: Sequence[int], seq_len: int) -> Iterator[_Window]:
    """The windows of a text. Each of its tokens counts once."""
    stride = max(1, seq_len // 2)
    n_targets = len(ids) - 1
    starts = range(0, max(1, n_targets - seq_len + stride), stride)
    for start in starts:
        targets = ids[start + 1 : start + 1 + seq_len]
        first = seq_len - stride if start else 0
        yield _Window(number, ids[start : start + len(targets)], targets, first)


def _log_probability(logits: Floats, window: _Window) -> float:
    """Of the targets of a window that count; `logits` [T, V]."""
    exact = logits[window.first :].astype(np.float64)
    exact -= exact.max(-1, keepdims=True)
    targets = window.targets[window.first :]
    chosen = exact[np.arange(len(targets)), targets]
    return float((chosen - np.log(np.exp(exact).sum(-1))).sum())


# Pairs of the user.


def read_pairs(path: Path) -> list[Pair]:
    """Read pairs from a .jsonl file with the fields `sentence_good` and `sentence_bad`, or from a .tsv file whose
    columns are the true text, the false text and, if it has three, the skill. A .tsv file may begin with titles.

    Raises:
        UserError: the file cannot be read, or a line is no pair.
    """
    if path.is_dir():
        raise UserError(
            f"{path} is a folder: --choices takes a file of pairs; name models before --choices"
        )
    readers = {".jsonl": _of_jsonl, ".tsv": _of_tsv}
    if path.suffix not in readers:
        raise UserError(f"{path}: pairs are read from files that end in .jsonl or .tsv")
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 text: convert it to UTF-8") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    numbered = [(n, line.removesuffix("\r")) for n, line in enumerate(lines, 1) if line.strip()]
    found = []
    try:
        for number, fields in readers[path.suffix](numbered):
            found.append(_pair(number, fields))
    except ValueError as error:
        raise UserError(f"{path}, {error}") from None
    if not found:
        raise UserError(f"{path} has no pairs")
    return found


Numbered = tuple[int, dict[str, Any]]


def _of_jsonl(lines: Sequence[tuple[int, str]]) -> Iterator[Numbered]:
    for number, line in lines:
        try:
            fields = json.loads(line)
        except (ValueError, RecursionError):
            raise ValueError(f"line {number}: not JSON") from None
        if not isinstance(fields, dict):
            raise ValueError(f"line {number}: an object with {GOOD} and {BAD} is expected")
        yield number, fields


def _of_tsv(lines: Sequence[tuple[int, str]]) -> Iterator[Numbered]:
    titles = [GOOD, BAD, SKILLS[0]]
    if lines and {GOOD, BAD} <= set(lines[0][1].split("\t")):
        titles, lines = lines[0][1].split("\t"), lines[1:]
    for number, line in lines:
        cells = line.split("\t")
        if not 2 <= len(cells) <= len(titles):
            n_tabs = len(cells) - 1
            raise ValueError(
                f"line {number}: {n_tabs} tabs: a true and a false text with a tab between are expected"
            )
        yield number, dict(zip(titles, cells, strict=False))


def _pair(number: int, fields: dict[str, Any]) -> Pair:
    """Raises ValueError: a text is missing or empty, or the two are the same."""
    texts = []
    for name in (GOOD, BAD):
        text = fields.get(name)
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"line {number}: {name} is missing or empty")
        texts.append(text)
    if texts[0] == texts[1]:
        raise ValueError(f"line {number}: both texts are the same")
    skill = next((fields[name] for name in SKILLS if name in fields), "")
    return Pair(texts[0], texts[1], str(skill))
