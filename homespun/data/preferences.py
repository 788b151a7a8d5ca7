"""Files flow in, preference pairs flow out: a conversation, and two answers to its last message, the better one first.

- A pair is a line of a .jsonl file or a row of a .parquet file with the columns `chosen` and `rejected`, and usually
  `prompt` (or another name in `conversations.QUESTIONS`) and perhaps `system`. Other columns are left alone.
- A prompt is a text or a list of messages. An answer is a text, or a list of messages that ends with one of the
  assistant. A list that begins with another role is the whole conversation, and needs no prompt.
- Both conversations are the same up to the last message. What breaks a rule is refused, with file, line and field.
- A pair with an empty message or with equal answers is left out. Their number is told.

Downstream, a pair is a document whose text is its JSON, see `document_of`, so that it is split, hashed and stored like
any other.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from homespun.data.conversations import QUESTIONS, SYSTEMS, message_of
from homespun.data.files import files_to_read, opened
from homespun.data.text_formats.columns import listed
from homespun.data.text_formats.formats import WITH_COLUMNS, format_of, opened_content
from homespun.errors import UserError
from homespun.tokenizer import Message, check_messages
from homespun.tokenizer.messages import ASSISTANT, SYSTEM, USER

CHOSEN, REJECTED = "chosen", "rejected"


class Pair(NamedTuple):
    """Two answers to the same messages."""

    messages: list[Message]
    chosen: str
    rejected: str

    def conversations(self) -> tuple[list[Message], list[Message]]:
        """The messages with the better answer, and with the other one."""
        better, worse = (
            [*self.messages, {"role": ASSISTANT, "content": answer}]
            for answer in (self.chosen, self.rejected)
        )
        return better, worse


def located(path: Path) -> Iterator[tuple[Pair | None, str]]:
    """Stream the pairs of a file or folder, each with its place, and None for those that are left out.

    Raises:
        UserError: there is nothing to read, or a file breaks the rules of this module.
    """
    for name in files_to_read(path):
        with opened(name) as file:
            yield from _read(file, str(name))


def _read(file: BinaryIO, name: str) -> Iterator[tuple[Pair | None, str]]:
    records = format_of(name).records
    if records is None:
        raise UserError(f"{name}: preferences are in {WITH_COLUMNS} files; remove this file")
    content, _ = opened_content(file, name, 0)
    for record, place, _ in records(content, name, 0, lambda names: _columns(names, name)):
        if not isinstance(record, dict):
            raise UserError(
                f"{place}: an object with `prompt`, `chosen` and `rejected` is expected"
            )
        _columns(list(record), place)
        yield _pair(record, place), place


def _columns(names: list[str], place: str) -> list[str]:
    """The columns that matter, of those that are there."""
    for column in (CHOSEN, REJECTED):
        if column not in names:
            raise UserError(
                f"{place}: no column '{column}'; a pair has `prompt`, `chosen` and `rejected`, "
                f"this has {listed(names)}"
            )
    return [one for one in (*QUESTIONS, *SYSTEMS, CHOSEN, REJECTED) if one in names]


def _pair(record: dict[str, Any], place: str) -> Pair | None:
    """The pair in a record; None if an answer or a message is empty, or the answers are equal.

    Raises:
        UserError: it breaks the rules.
    """
    prompt = _prompt(record, place)
    chosen, rejected = (_conversation(record, name, prompt, place) for name in (CHOSEN, REJECTED))
    if chosen[:-1] != rejected[:-1]:
        raise UserError(
            f"{place}: {REJECTED}: it differs from {CHOSEN} before the last message; only the answers may differ"
        )
    if any(not one["content"] for one in (*chosen, rejected[-1])):
        return None
    try:
        check_messages(chosen)
    except UserError as error:
        raise UserError(f"{place}: {CHOSEN}, after its prompt: {error}") from None
    pair = Pair(chosen[:-1], chosen[-1]["content"], rejected[-1]["content"])
    return None if pair.chosen == pair.rejected else pair


def _prompt(record: dict[str, Any], place: str) -> list[Message]:
    """The messages of the prompt, which may be none."""
    name = next((one for one in QUESTIONS if record.get(one) is not None), None)
    prompt = _messages(record, name, USER, place) if name else []
    system = next((one for one in SYSTEMS if record.get(one)), None)
    if system and not (prompt and prompt[0]["role"] == SYSTEM):
        prompt = [*_messages(record, system, SYSTEM, place), *prompt]
    return prompt


def _conversation(
    record: dict[str, Any], name: str, prompt: list[Message], place: str
) -> list[Message]:
    """The whole conversation that ends with this answer."""
    messages = _messages(record, name, ASSISTANT, place)
    if not messages or messages[-1]["role"] != ASSISTANT:
        raise UserError(f"{place}: {name}: the last message has to be one of the assistant")
    if messages[0]["role"] != ASSISTANT:
        return messages
    if not prompt:
        raise UserError(f"{place}: prompt: there is none, so it is unknown what {name} answers")
    return [*prompt, *messages]


def _messages(record: dict[str, Any], name: str, role: str, place: str) -> list[Message]:
    """The messages in a column: a list of them, or a text, which is one with this role."""
    stated, here = record[name], f"{place}: {name}"
    if stated is None or isinstance(stated, str):
        return [message_of({"role": role, "content": stated}, here)]
    if isinstance(stated, list):
        return [message_of(one, f"{here}[{number}]") for number, one in enumerate(stated)]
    raise UserError(f"{here}: {stated!r:.60} is neither a text nor a list of messages")


def document_of(pair: Pair) -> str:
    """The text that stands for a pair: a line of .jsonl."""
    return json.dumps(pair._asdict(), ensure_ascii=False)


def pair_of(document: str) -> Pair:
    """The inverse of `document_of`."""
    return Pair(**json.loads(document))


def documents_of(path: Path, left_out: Callable[[str], None]) -> Iterator[str]:
    """Stream the pairs of a file or folder as documents. `left_out` gets the place of each that is left out. Raises as
    `located`."""
    empty = True
    for pair, place in located(path):
        if pair is None:
            left_out(place)
        else:
            empty = False
            yield document_of(pair)
    if empty:
        raise UserError(f"{path}: there is no pair of two different answers in it")
