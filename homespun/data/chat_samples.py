"""Conversations flow in, batches flow out in which only the answers are targets.

Documents of conversations become one stream of numbers, which `prepare` stores like any tokens: the lowest bit of each
says whether the token belongs to an answer, the next one whether it begins a conversation, the others are its id.

A sample is a row of `seq_len` positions with whole conversations, which do not see each other. They are packed by their
length: the longest first, each into the fullest row that has room for it (best fit decreasing, Johnson et al., 1974).
The rest of a row is filled up, and ignored.
"""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from homespun.data.batch import IGNORED, PADDING, Batch, Tokens
from homespun.data.conversations import messages_of
from homespun.data.samples import TokenSource, mixed, permuted
from homespun.errors import UserError
from homespun.tokenizer import ChatTemplate, Message, Rendered

Places = npt.NDArray[np.int64]

ENCODED_TOGETHER = 256
"""Conversations."""
_READ = 1 << 20
_SHOWN = 40
"""Characters of a message in an error."""
ROW_STEP = 64
"""Rows whose length follows that of their texts are a multiple of so many tokens long."""


class ChatEncoder:
    """Encodes documents of conversations for `prepare`, as a tokenizer does texts."""

    def __init__(self, template: ChatTemplate) -> None:
        self.template = template
        self.sha256 = template.sha256
        self.vocab_size = 4 * template.tokenizer.vocab_size

    def join(self, documents: Iterable[str]) -> npt.NDArray[np.int32]:
        """The stream of conversations, see the module. [n_tokens]

        Raises:
            UserError: the template refuses a conversation.
        """
        stream = [np.empty(0, np.int32)]
        waiting = []
        for document in documents:
            waiting.append(document)
            if len(waiting) == ENCODED_TOGETHER:
                stream += map(_marked, self._rendered(waiting))
                waiting = []
        stream += map(_marked, self._rendered(waiting))
        return np.concatenate(stream)

    def _conversations(self, documents: Sequence[str]) -> list[list[Message]]:
        return [messages_of(document) for document in documents]

    def _rendered(self, documents: Sequence[str]) -> list[Rendered]:
        conversations = self._conversations(documents)
        try:
            return self.template.render_all(conversations)
        except UserError:
            for messages in conversations:  # find out which one it is
                try:
                    self.template.render(messages)
                except UserError as error:
                    shown = messages[0]["content"][:_SHOWN]
                    raise UserError(f"the conversation that begins {shown!r}: {error}") from None
            raise


def _marked(rendered: Rendered) -> npt.NDArray[np.int32]:
    marked = rendered.ids << 2 | rendered.in_answer
    marked[0] |= 2
    return marked


def as_batch(conversations: Sequence[Rendered], seq_len: int | None = None) -> Batch:
    """Conversations as a batch, one in each row.

    Args:
        conversations: each of at most `seq_len + 1` tokens.
        seq_len: length of a row; by default that of the longest.
    """
    length = seq_len or max(len(one.ids) for one in conversations) - 1
    rows = [[(one.ids, one.in_answer)] for one in conversations]
    return _batch(rows, length)


def _batch(rows: Sequence[Iterable[tuple[Tokens, npt.NDArray[np.bool_]]]], seq_len: int) -> Batch:
    inputs = np.zeros((len(rows), seq_len), np.int32)
    targets = np.full_like(inputs, IGNORED)
    documents = np.full_like(inputs, PADDING)
    for row, conversations in enumerate(rows):
        begin = 0
        for number, (ids, in_answer) in enumerate(conversations):
            here = slice(begin, begin + len(ids) - 1)
            inputs[row, here] = ids[:-1]
            targets[row, here] = np.where(in_answer[1:], ids[1:], IGNORED)
            documents[row, here] = number
            begin = here.stop
    return Batch(inputs, targets, documents)


class ChatDataset:
    """A stream of conversations as samples of `seq_len` positions.

    A conversation of more than `seq_len + 1` tokens is cut after the last answer that is whole; if not even the first
    one is, the conversation is left out.
    """

    def __init__(self, marked: TokenSource, seq_len: int) -> None:
        """
        Args:
            marked: the stream.
            seq_len: number of positions in a sample.

        Raises:
            UserError: no conversation fits into a sample.
        """
        self.marked = marked
        self.seq_len = seq_len
        flags = flags_of(marked)
        starts = np.flatnonzero(flags & 2)
        in_answer = np.append(flags & 1, 0).astype(np.int8)
        answer_ends = np.flatnonzero(np.diff(in_answer) < 0) + 1
        last_fits = np.searchsorted(answer_ends, starts + seq_len + 1, side="right") - 1
        ends = np.append(starts[1:], len(marked))
        stops = np.where(last_fits >= 0, answer_ends[np.maximum(last_fits, 0)], 0)
        whole = np.minimum(answer_ends[np.searchsorted(answer_ends, ends, side="right") - 1], ends)
        stops = np.minimum(stops, whole)
        fits = stops > starts
        self.n_left_out = int((~fits).sum())
        self.n_cut = int((fits & (stops < whole)).sum())
        self._starts, self._stops = starts[fits], stops[fits]
        if not len(self._starts):
            raise UserError(
                f"no conversation fits into --seq-len {seq_len} up to the end of its first answer: give a larger one"
            )
        self._order, self._row_starts = packed(self._stops - self._starts - 1, seq_len)

    @property
    def n_conversations(self) -> int:
        """Number of conversations in the samples."""
        return len(self._starts)

    @property
    def samples_per_pass(self) -> int:
        """Number of samples that have all conversations."""
        return len(self._row_starts) - 1

    def rows(self, numbers: Iterable[int]) -> Batch:
        """The samples of these numbers, [len(numbers), seq_len]."""
        return _batch([self._row(number) for number in numbers], self.seq_len)

    def _row(self, number: int) -> Iterator[tuple[Tokens, npt.NDArray[np.bool_]]]:
        begin, end = self._row_starts[number : number + 2]
        for one in self._order[begin:end]:
            marked = np.asarray(self.marked[self._starts[one] : self._stops[one]], np.int32)
            yield marked >> 2, (marked & 1).astype(np.bool_)

    def batches(self, seed: int) -> "ChatBatches":
        """The samples in the order of this seed."""
        return ChatBatches(self, seed)

    def targets(self, first: int) -> Tokens:
        """The tokens of answers among so many first tokens."""
        return targets_among(self.marked, first)


def flags_of(marked: TokenSource) -> npt.NDArray[np.uint8]:
    """The two lowest bits of a stream, see the module."""
    flags = np.empty(len(marked), np.uint8)
    for start in range(0, len(marked), _READ):
        flags[start : start + _READ] = np.asarray(marked[start : start + _READ]) & 3
    return flags


def targets_among(marked: TokenSource, first: int) -> Tokens:
    """The tokens of answers among so many first tokens of a stream."""
    found = np.asarray(marked[:first], np.int32)
    return found[(found & 1).astype(np.bool_)] >> 2


def lengths_of(marked: TokenSource) -> Places:
    """The number of tokens of each conversation in a stream."""
    starts = [np.empty(0, np.int64)]
    for start in range(0, len(marked), _READ):
        block = np.asarray(marked[start : start + _READ])
        starts.append(start + np.flatnonzero(block & 2))
    return np.diff(np.concatenate((*starts, [len(marked)])))


def packed(lengths: Places, room: int) -> tuple[Places, Places]:
    """Pack items into rows.

    Args:
        lengths: of the items, from 1 to `room` each.
        room: of a row.

    Returns:
        The items in the order of their rows, and the place in it at which each row begins, with the end of the last.
    """
    rows: list[list[int]] = []
    with_room: dict[int, list[int]] = {}  # rows by the room that is left
    rooms = 0  # bit n is set if there is a row with room n
    for item in np.argsort(-lengths, kind="stable").tolist():
        length = int(lengths[item])
        if fitting := rooms >> length:
            left = length + (fitting & -fitting).bit_length() - 1
            row = with_room[left].pop()
            if not with_room[left]:
                rooms &= ~(1 << left)
        else:
            left, row = room, len(rows)
            rows.append([])
        rows[row].append(item)
        left -= length
        if left:
            with_room.setdefault(left, []).append(row)
            rooms |= 1 << left
    sizes = np.array([len(row) for row in rows], np.int64)
    order = np.array([item for row in rows for item in row], np.int64)
    return order, np.append(0, np.cumsum(sizes))


class ChatBatches:
    """Shuffled samples by number, pass after pass; each pass has all samples once."""

    def __init__(self, dataset: ChatDataset, seed: int) -> None:
        self.dataset = dataset
        self.seed = seed

    def batch(self, first: int, count: int) -> Batch:
        """The samples `first` to `first + count - 1`, [count, seq_len]."""
        return self.dataset.rows(map(self._row, range(first, first + count)))

    def _row(self, number: int) -> int:
        n = self.dataset.samples_per_pass
        [key] = mixed(np.array([self.seed], np.uint64), np.uint64(number // n))
        [row] = permuted(np.array([number % n], np.uint64), n, key)
        return int(row)

    def microbatches(self, first: int, batch_size: int, n: int) -> list[Batch]:
        """The next `n * batch_size` samples in `n` batches. The order does not depend on `n`."""
        return [self.batch(first + i * batch_size, batch_size) for i in range(n)]
