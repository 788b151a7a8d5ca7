"""Files flow in, conversations flow out, one at a time.

- A conversation is a line of a .jsonl file or a row of a .parquet file. Its column `messages` holds a list of messages,
  each with a role and a content; or two columns hold a question and its answer. Other columns are left alone.
- Other names of columns, as in datasets on the hub, are in `MESSAGES`, `QUESTIONS`, `CONTEXTS`, `ANSWERS` and
  `SYSTEMS`; `from` and `value` may stand for `role` and `content`, and roles may have the names in `OTHER_ROLES`.
- The rules of roles are those of `tokenizer.messages`. What breaks them is refused, with file, line and field.
- A conversation with an empty message is left out, and so is one without an answer. The number of both is told.
- Messages after the last answer are left out, since nothing can be learned from them.
- White space at both ends of a message is removed; CRLF and lone CR become LF; NUL is dropped.

Downstream, a conversation is a document whose text is its JSON, see `document_of`, so that it is split, hashed and
stored like any other.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from homespun.data.files import files_to_read, opened
from homespun.data.text_formats.columns import TEXT_COLUMNS, listed
from homespun.data.text_formats.formats import WITH_COLUMNS, format_of, opened_content
from homespun.errors import UserError
from homespun.tokenizer import Message, check_messages
from homespun.tokenizer.messages import ASSISTANT, ROLES, SYSTEM, USER

MESSAGES = ("messages", "conversations", "conversation")
QUESTIONS = ("prompt", "question", "instruction", "query")
CONTEXTS = ("input", "context")
"""Texts that follow the question, in sets like Alpaca."""
ANSWERS = ("answer", "response", "output", "completion")
SYSTEMS = ("system", "system_prompt")
OTHER_ROLES = {
    "human": USER,
    "gpt": ASSISTANT,
    "model": ASSISTANT,
    "bot": ASSISTANT,
    "chatgpt": ASSISTANT,
}

Located = tuple["Conversation | None", str, int | None]
"""A conversation, or None if it is left out; its place for messages; the position after it, see `documents.read`."""


@dataclass(frozen=True)
class Conversation:
    """A conversation that ends with an answer."""

    messages: tuple[Message, ...]
    fields: Mapping[str, Any] = field(default_factory=dict)
    """Other columns that were asked for."""


@dataclass(frozen=True)
class Columns:
    """The columns that hold the parts of a conversation."""

    messages: str | None = None
    question: str | None = None
    context: str | None = None
    answer: str | None = None
    system: str | None = None

    @property
    def names(self) -> list[str]:
        parts = (self.system, self.messages, self.question, self.context, self.answer)
        return [name for name in parts if name]


def columns_of(names: Sequence[str]) -> Columns | None:
    """The columns of conversations among these, or None if there are none.

    A column of messages is taken first, then a column of text, which makes the file a text, then question and answer.
    """

    def first(known: Sequence[str]) -> str | None:
        return next((name for name in known if name in names), None)

    if messages := first(MESSAGES):
        return Columns(messages=messages)
    question, answer = first(QUESTIONS), first(ANSWERS)
    if first(TEXT_COLUMNS) or not question or not answer:
        return None
    return Columns(None, question, first(CONTEXTS), answer, first(SYSTEMS))


def holds_conversations(path: Path) -> bool:
    """Whether a file or folder holds conversations: the first line of its first file decides.

    Raises:
        UserError: there is nothing to read, or it cannot be read.
    """
    first = files_to_read(path)[0]
    with opened(first) as file:
        return begins_with_conversation(file, str(first))


def begins_with_conversation(file: BinaryIO, name: str) -> bool:
    """Whether an open file holds conversations; its position is at the start before and after.

    Raises:
        UserError: it cannot be read.
    """
    try:
        return _columns(file, name) is not None
    finally:
        file.seek(0)


def _columns(file: BinaryIO, name: str) -> Columns | None:
    records = format_of(name).records
    if records is None:
        return None
    content, _ = opened_content(file, name, 0)
    found: list[Columns | None] = []

    def look(names: list[str]) -> list[str]:
        found.append(columns_of(names))
        return []

    for record, _, _ in records(content, name, 0, look):
        if not found and isinstance(record, dict):
            found.append(columns_of(list(record)))
        break
    return found[0] if found else None


def conversations(path: Path, also: Sequence[str] | None = ()) -> Iterator[Conversation]:
    """Stream the conversations of a file or folder.

    Args:
        path: the file or folder.
        also: other columns that are wanted, see `Conversation.fields`. One that a record lacks is None. None: all that
            a record has.

    Raises:
        UserError: there is nothing to read, or a file breaks the rules of this module.
    """
    for conversation, _ in located(path, also):
        if conversation:
            yield conversation


def located(
    path: Path, also: Sequence[str] | None = ()
) -> Iterator[tuple[Conversation | None, str]]:
    """As `conversations`, with those that are left out, as None, and with the place of each."""
    for name in files_to_read(path):
        with opened(name) as file:
            for conversation, place, _ in read(file, str(name), also=also):
                yield conversation, place


def read(
    file: BinaryIO, name: str, start: int = 0, also: Sequence[str] | None = ()
) -> Iterator[Located]:
    """Stream the conversations of one seekable file, from a position on.

    Args:
        file: open for reading bytes.
        name: its suffix tells the kind of file. Messages begin with the name.
        start: the position to start at.
        also: as for `conversations`.

    Raises:
        UserError: the file breaks the rules of this module.
    """
    records = format_of(name).records
    if records is None:
        raise UserError(f"{name}: conversations are in {WITH_COLUMNS} files; remove this file")
    content, is_packed = opened_content(file, name, start)
    columns: Columns | None = None

    def choose(names: list[str]) -> list[str]:
        nonlocal columns
        columns = _needed(names, name)
        wanted = names if also is None else also
        return [*columns.names, *(n for n in wanted if n in names and n not in columns.names)]

    for record, place, position in records(content, name, start, choose):
        if not isinstance(record, dict):
            raise UserError(f"{place}: an object with `messages` is expected")
        columns = columns or _needed(list(record), place)
        for column in columns.names:
            if column not in record and column not in (columns.context, columns.system):
                raise UserError(f"{place}: no column '{column}'; it has {listed(list(record))}")
        messages = _messages(record, columns, place)
        wanted = [n for n in record if n not in columns.names] if also is None else also
        conversation = messages and Conversation(
            tuple(messages), {one: record.get(one) for one in wanted}
        )
        yield conversation or None, place, None if is_packed else position


def _needed(names: list[str], place: str) -> Columns:
    columns = columns_of(names)
    if columns is None:
        raise UserError(
            f"{place}: no conversation: it needs a column `messages`, or `prompt` and `answer`; "
            f"it has {listed(names)}"
        )
    return columns


def _messages(record: dict[str, Any], columns: Columns, place: str) -> list[Message] | None:
    """The messages of a record up to the last answer; None if it has none, or an empty message.

    Raises:
        UserError: they break the rules.
    """
    name = columns.messages or "messages"
    stated = record[name] if columns.messages else _pair(record, columns, place)
    if not isinstance(stated, list):
        raise UserError(f"{place}: {name}: a list of messages is expected")
    messages = [message_of(one, f"{place}: {name}[{n}]") for n, one in enumerate(stated)]
    if messages and messages[0] == {"role": SYSTEM, "content": ""}:
        del messages[0]
    while messages and messages[-1]["role"] != ASSISTANT:
        messages.pop()
    if not messages or any(not one["content"] for one in messages):
        return None
    try:
        return check_messages(messages)
    except UserError as error:
        raise UserError(f"{place}: {str(error).replace('messages', name, 1)}") from None


def _pair(record: dict[str, Any], columns: Columns, place: str) -> list[dict[str, str]]:
    def text(column: str | None) -> str:
        value = record.get(column) if column else None
        if not isinstance(value, str | None):
            raise UserError(f"{place}: {column}: {value!r:.60} is not a text")
        return value or ""

    question = "\n\n".join(filter(None, (text(columns.question), text(columns.context))))
    messages = [
        {"role": USER, "content": question},
        {"role": ASSISTANT, "content": text(columns.answer)},
    ]
    if system := text(columns.system):
        messages.insert(0, {"role": SYSTEM, "content": system})
    return messages


def message_of(stated: object, place: str) -> Message:
    """A message under the usual names, with its content cleaned.

    Raises:
        UserError: it is no message.
    """
    if not isinstance(stated, dict):
        raise UserError(f"{place}: an object with `role` and `content` is expected")
    role = stated.get("role", stated.get("from"))
    content = stated.get("content", stated.get("value"))
    if not isinstance(content, str | None):
        raise UserError(f"{place}.content: {content!r:.60} is not a text")
    content = (content or "").replace("\0", "").replace("\r\n", "\n").replace("\r", "\n").strip()
    try:
        content.encode()
    except UnicodeEncodeError:
        raise UserError(
            f"{place}.content: half of a surrogate pair, which is not a character"
        ) from None
    role = OTHER_ROLES.get(role, role) if isinstance(role, str) else role
    if role not in ROLES:
        known = ", ".join((*ROLES, *OTHER_ROLES))
        raise UserError(f"{place}.role: {str(role)[:40]!r} is none of {known}")
    return {"role": role, "content": content}


def document_of(messages: Sequence[Message]) -> str:
    """The text that stands for a conversation: a line of .jsonl."""
    return json.dumps({"messages": list(messages)}, ensure_ascii=False)


def messages_of(document: str) -> list[Message]:
    """The inverse of `document_of`."""
    messages: list[Message] = json.loads(document)["messages"]
    return messages


def documents_of(path: Path, left_out: Callable[[str], None]) -> Iterator[str]:
    """Stream the conversations of a file or folder as documents. `left_out` gets the place of each that is left out.
    Raises as `conversations`."""
    empty = True
    for conversation, place in located(path):
        if conversation is None:
            left_out(place)
        else:
            empty = False
            yield document_of(conversation.messages)
    if empty:
        raise UserError(f"{path}: there is no conversation with an answer in it")
