"""Finds places where a text may be cut, so that the ids of its parts together are the ids of the whole text.

A pre-tokenizer splits a text into words, and no token reaches from one word into the next. So a text may be cut
at a place where a word ends in every context. This module knows such places for a few splittings.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any


@dataclass(frozen=True)
class Splitting:
    """A text may be cut before each character of `cut_before` that follows a character other than white space."""

    cut_before: str
    """White-space characters."""
    cuts_long_runs: bool = False
    """Whether `pieces` cuts a long run without such a place after any character."""

    def pieces(self, text: str, limit: int) -> Iterator[str]:
        """The text in pieces of at most `limit` characters, or up to the next place where it may be cut."""
        if len(text) <= limit:
            yield text
            return
        end = rf"\S(?=[{self.cut_before}])"
        patterns = [rf".{{1,{limit}}}\Z", rf".{{0,{limit - 1}}}{end}"]
        patterns += [f".{{{limit}}}"] if self.cuts_long_runs else [f".+?{end}", ".+"]
        for match in re.finditer("(?s)" + "|".join(patterns), text):
            yield match[0]

    def words(self, text: str) -> list[str]:
        """The text cut at all such places: each word with the white space before it."""
        return self._word.findall(text)

    @cached_property
    def _word(self) -> re.Pattern[str]:
        return re.compile(rf"\s*+\S++(?:[^\S{self.cut_before}]\s*+\S*+)*|\s+")

    def may_cut(self, text: str) -> bool:
        """Whether there is such a place inside a text."""
        return re.search(rf"\S[{self.cut_before}]", text) is not None


BEFORE_SPACE_OR_LINE_FEED = Splitting(cut_before=" \n")
"""A word of GPT-2's expression has white space at its start only, and a line feed only among white space."""
BEFORE_SPACE_OR_LINE_FEED_OR_ANYWHERE = replace(BEFORE_SPACE_OR_LINE_FEED, cuts_long_runs=True)
"""For tokenizers that are trained here: a long run without such a place is cut, so that it needs little memory."""
BEFORE_SPACE = Splitting(cut_before=" ")
"""Punctuation takes the line feeds that follow it into its word."""

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_LETTERS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_PUNCTUATION = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3_WORDS, QWEN2_WORDS = (
    "|".join([_CONTRACTIONS, _LETTERS, digits, _PUNCTUATION, _SPACES])
    for digits in (r"\p{N}{1,3}", r"\p{N}")
)
"""The expressions of Llama 3, and of Qwen 2, 2.5 and 3. In both, punctuation takes the line feeds that follow it."""


def _byte_level(use_regex: bool) -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": False, "use_regex": use_regex}


_KNOWN: list[tuple[list[dict[str, Any]], Splitting]] = [
    ([_byte_level(True)], BEFORE_SPACE_OR_LINE_FEED),
    *(
        (
            [{"type": "Digits", "individual_digits": individual}, _byte_level(True)],
            BEFORE_SPACE_OR_LINE_FEED,
        )
        for individual in (True, False)
    ),
    *(
        (
            [
                {
                    "type": "Split",
                    "pattern": {"Regex": expression},
                    "behavior": "Isolated",
                    "invert": False,
                },
                _byte_level(False),
            ],
            BEFORE_SPACE,
        )
        for expression in (LLAMA3_WORDS, QWEN2_WORDS)
    ),
]
"""Pre-tokenizers by their steps. A `Digits` step splits words further, and all earlier ends of words stay."""
_SAFE_NORMALIZERS = (None, {"type": "NFC"})
"""NFC joins no character to a space or line feed, and moves none across it."""


def known_splitting(
    normalizer: Any, pre_tokenizer: Any, added_tokens: Iterable[dict[str, Any]]
) -> Splitting | None:
    """The splitting of a tokenizer; None if it is not known exactly.

    Args:
        normalizer: the entry `normalizer` of a `tokenizer.json`.
        pre_tokenizer: the entry `pre_tokenizer`.
        added_tokens: those of the file. The library looks for them before it splits a text, so none may reach across
            a place where the text is cut, or look at the text around it.
    """
    steps = normal_steps(pre_tokenizer)
    splitting = next((splitting for known, splitting in _KNOWN if known == steps), None)
    if splitting is None or normalizer not in _SAFE_NORMALIZERS:
        return None
    for token in added_tokens:
        looks_around = any(token.get(option) for option in ("single_word", "lstrip", "rstrip"))
        if splitting.may_cut(token["content"]) or (looks_around and not token.get("special")):
            return None
    return splitting


def normal_steps(pre_tokenizer: Any) -> list[dict[str, Any]]:
    """The steps of a `pre_tokenizer`, equal for all that split equally."""
    return [_normal_form(step) for step in _steps(pre_tokenizer)]


def _steps(pre_tokenizer: Any) -> list[dict[str, Any]]:
    if pre_tokenizer is None:
        return []
    if pre_tokenizer["type"] != "Sequence":
        return [pre_tokenizer]
    return [step for inner in pre_tokenizer["pretokenizers"] for step in _steps(inner)]


def _normal_form(step: dict[str, Any]) -> dict[str, Any]:
    """A step with the default of `use_regex`, and without `trim_offsets`, which changes no ids."""
    if step["type"] != "ByteLevel":
        return step
    return {"use_regex": True} | {key: step[key] for key in step if key != "trim_offsets"}
