"""Conversations flow in, token ids flow out, each with whether it belongs to an answer.

A template is written in Jinja, as in the `tokenizer_config.json` of other programs. It is rendered in the sandbox that
the `transformers` library uses. The special tokens that the template itself writes become their ids; their spellings
inside a message stay text, so no message can forge the end of another.
"""

import hashlib
import json
import re
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from homespun.errors import UserError
from homespun.tokenizer.jinja import compiled
from homespun.tokenizer.messages import ASSISTANT, SYSTEM, USER, Message
from homespun.tokenizer.tokenizer import Tokenizer

OWN = (
    "{% for message in messages %}"
    "{{ eos_token + message['role'] + '\\n' + message['content'] | trim }}"
    "{% endfor %}"
    "{{ eos_token }}"
    "{% if add_generation_prompt %}{{ 'assistant\\n' }}{% endif %}"
)
"""The template of models that have none. Each message is the mark that separates documents, the role on a line, and the
text; the same mark ends the last message. Every tokenizer has this mark, and every model knows it, so that neither the
vocabulary nor the embedding has to grow, and adapters can learn it."""
APART = "\ufdd0"
"""A noncharacter of Unicode, which no text may hold. While a template is rendered, it interrupts the spellings of
special tokens in messages. One that is in a message already is dropped."""


@dataclass(frozen=True)
class Rendered:
    """A conversation as tokens."""

    ids: npt.NDArray[np.int32]
    """[n_tokens]"""
    in_answer: npt.NDArray[np.bool_]
    """[n_tokens] True for the tokens that the assistant writes: its messages, each with the token that ends it."""


class _Piece(NamedTuple):
    """A part of a rendered conversation: one special token, or the text between two."""

    text: str
    special: int | None
    """The id of the special token; None for text."""
    answer_from: int | None
    """The character of the text at which an answer begins; None if the piece belongs to no answer."""


class ChatTemplate:
    """The template of a tokenizer."""

    def __init__(
        self, tokenizer: Tokenizer, source: str = OWN, names: Mapping[str, str] | None = None
    ) -> None:
        """
        Args:
            tokenizer: encodes the texts.
            source: the template.
            names: the spellings of special tokens by the names that a template uses, `bos_token` and `eos_token`; by
                default both are the mark that separates documents.

        Raises:
            UserError: the template cannot be read, or does not end an answer with a special token.
        """
        self.tokenizer = tokenizer
        self.source = source
        self._special_ids = tokenizer.special_ids
        by_id = {number: name for name, number in self._special_ids.items()}
        mark = by_id[tokenizer.eot_id]
        self.names = {"bos_token": mark, "eos_token": mark} if names is None else dict(names)
        self._special = _any_of([name for name in by_id.values() if len(name) > 1])
        self._render = compiled(source)
        self.end_id = self._end_id()
        """The token that ends an answer."""

    @cached_property
    def sha256(self) -> str:
        """The identity of template and tokenizer: equal ones give equal tokens."""
        parts = [self.tokenizer.sha256, self.source, self.names]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def stored(self) -> dict[str, str]:
        """The template as a checkpoint stores it, see `from_stored`."""
        return {"source": self.source, **self.names}

    @classmethod
    def from_stored(cls, stored: Mapping[str, str], tokenizer: Tokenizer) -> "ChatTemplate":
        """The template that `stored` describes. Raises as the class."""
        names = {name: text for name, text in stored.items() if name != "source"}
        return cls(tokenizer, stored["source"], names)

    def prompt(self, messages: Sequence[Message], limit: int | None = None) -> list[int]:
        """The tokens after which the model writes its answer to the last message. Arguments and errors as `fitting`."""
        return self.fitting(messages, limit)[1]

    def fitting(
        self, messages: Sequence[Message], limit: int | None = None, most: int | None = None
    ) -> tuple[list[Message], list[int]]:
        """The messages that fit into a number of tokens, and their tokens, after which the model writes its answer.

        Args:
            messages: as `check_messages` gives them.
            limit: the most tokens. If there are more, the oldest messages are left out, each message of the user
                together with its answer; that of the system stays.
            most: the most tokens if no message can be left out; by default `limit`.

        Raises:
            UserError: the template refuses the messages, or the last one alone is too long.
        """
        oldest = int(bool(messages) and messages[0]["role"] == SYSTEM)
        rendered: dict[int, list[int]] = {}  # the tokens without so many pairs of messages

        def without(pairs: int) -> list[Message]:
            return [*messages[:oldest], *messages[oldest + 2 * pairs :]]

        def tokens(pairs: int) -> list[int]:
            if pairs not in rendered:
                [one] = self._encoded([self._pieces(self._text(without(pairs), asks=True), [])])
                rendered[pairs] = one.ids.tolist()
            return rendered[pairs]

        def fits(pairs: int) -> bool:
            return limit is None or len(tokens(pairs)) <= limit

        last = (len(messages) - oldest - 1) // 2
        pairs = 0 if fits(0) else bisect_left(range(last), True, key=fits)
        ids = tokens(pairs)
        if limit is not None and len(ids) > max(limit, most or limit):
            raise UserError(
                f"the message has {len(ids):,} tokens, but the model's context has room for {most or limit:,}: "
                "shorten it"
            )
        return without(pairs), ids

    def render(self, messages: Sequence[Message]) -> Rendered:
        """The tokens of a conversation that ends with an answer. Raises as `render_all`."""
        [rendered] = self.render_all([messages])
        return rendered

    def render_all(self, conversations: Iterable[Sequence[Message]]) -> list[Rendered]:
        """The tokens of conversations, each of which ends with an answer.

        Raises:
            UserError: the template refuses a conversation, or does not show where its answers are.
        """
        return self._encoded([self._pieces(*self._located(one)) for one in conversations])

    def _located(self, messages: Sequence[Message]) -> tuple[str, list[tuple[int, int]]]:
        """The text of a conversation, and the place of each answer in it: from the end of its prompt to the end of the
        first special token after that."""
        text = self._text(messages, asks=False)
        places = []
        for number, message in enumerate(messages):
            if message["role"] != ASSISTANT:
                continue
            before = self._text(messages[:number], asks=True)
            if not text.startswith(before):
                raise UserError(
                    "its chat template writes the beginning of a conversation in another way when the answer is "
                    "there, so that nothing can be learned from the answer"
                )
            end = self._special.search(text, len(before))
            if end is None:
                raise UserError("its chat template does not end an answer with a special token")
            places.append((len(before), end.end()))
        return text, places

    def _end_id(self) -> int:
        """The token that ends an answer."""
        question, answer = {"role": USER, "content": "a"}, {"role": ASSISTANT, "content": "b"}
        pieces = self._pieces(*self._located([question, answer]))
        ends = (piece.special for piece in pieces if piece.answer_from is not None)
        return next(number for number in ends if number is not None)

    def _text(self, messages: Sequence[Message], *, asks: bool) -> str:
        """The text of messages; with `asks`, up to the place where the answer begins."""
        written = [message | {"content": self._apart(message["content"])} for message in messages]
        return self._render({"messages": written, "add_generation_prompt": asks, **self.names})

    def _apart(self, content: str) -> str:
        """A message in which the spelling of each special token is interrupted."""
        content = content.replace(APART, "")
        while self._special.search(content):  # again where spellings overlap
            content = self._special.sub(
                lambda found: f"{found[0][0]}{APART}{found[0][1:]}", content
            )
        return content

    def _pieces(self, text: str, answers: Sequence[tuple[int, int]]) -> list[_Piece]:
        """The pieces of a rendered text with answers at these places."""
        pieces = []

        def add(begin: int, end: int, special: int | None) -> None:
            part = text[begin:end]
            found = [start for start, stop in answers if start < end and begin < stop]
            # An answer ends with a special token, so a piece of text has the beginning of one at most.
            first = max(0, found[0] - begin) if found else None
            if first:
                first -= part.count(APART, 0, first)
            if begin < end:
                pieces.append(_Piece(part.replace(APART, ""), special, first))

        at = 0
        for found in self._special.finditer(text):
            add(at, found.start(), None)
            add(found.start(), found.end(), self._special_ids[found[0]])
            at = found.end()
        add(at, len(text), None)
        return pieces

    def _encoded(self, conversations: Sequence[Sequence[_Piece]]) -> list[Rendered]:
        """The tokens of the pieces of each conversation."""
        texts = [p.text for pieces in conversations for p in pieces if p.special is None]
        encoded = iter(self.tokenizer.encode_with_places(texts))
        results = []
        for pieces in conversations:
            ids: list[int] = []
            in_answer: list[bool] = []
            for piece in pieces:
                first = piece.answer_from
                if piece.special is not None:
                    ids.append(piece.special)
                    in_answer.append(first is not None)
                    continue
                new, places = next(encoded)
                ids += new
                in_answer += [
                    first is not None and begin >= first and end > first for begin, end in places
                ]
            results.append(Rendered(np.array(ids, np.int32), np.array(in_answer, np.bool_)))
        return results


def _any_of(spellings: Sequence[str]) -> "re.Pattern[str]":
    """Finds these texts, of several the longest. There may be thousands, so only places with one of their first
    characters are looked at."""
    if not spellings:
        return re.compile("(?!)")
    first = "".join(sorted({re.escape(one[0]) for one in spellings}))
    longest_first = sorted(spellings, key=len, reverse=True)
    return re.compile(f"(?=[{first}])(?:{'|'.join(map(re.escape, longest_first))})")
