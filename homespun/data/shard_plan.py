"""The facts of all documents flow in, a plan flows out: which documents each shard holds, and where they begin.

With the plan, any machine can make any shard alone, and it comes out as `prepare` makes it. The documents of some
shards flow out as they are needed, and the files are read only from where the first of these shards begins.
"""

import dataclasses
import hashlib
import json
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from homespun import durable
from homespun.data import prepare
from homespun.data.corpus import RULES, Corpus, Piece, as_fact, corpus_of, from_fact
from homespun.data.documents import read
from homespun.data.facts import NO_POSITION, Fact
from homespun.data.files import look_at, opened
from homespun.data.kept_facts import kept_facts
from homespun.data.prepare import Index, Part, shard_name, side_of
from homespun.errors import UserError

VERSION = 1


@dataclass(frozen=True)
class Place:
    """Where reading can start."""

    file: int
    """Number of the file."""
    position: int
    """In the file, see `documents.read`."""
    document: int
    """Number of the first document that is read from there, in the whole text."""


@dataclass(frozen=True)
class PlannedShard:
    """The documents of a shard. Those of the other side lie between them."""

    name: str
    side: str
    sha256: str
    """See `Part.sha256`."""
    n_documents: int
    n_bytes: int
    first: int
    """Number of its first document, in the whole text."""
    last: int
    start: Place
    """The last place before its first document."""


@dataclass(frozen=True)
class Plan:
    """A text, and all its shards, those of each side in order."""

    corpus: Corpus
    block: int
    """See `documents.read`."""
    shards: tuple[PlannedShard, ...]

    @property
    def index(self) -> Index:
        """The list of shards as `prepare` writes it."""
        index: Index = {"training": {}, "validation": {}}
        for shard in self.shards:
            index[shard.side][shard.name] = shard.sha256
        return index

    def shares(self, n: int) -> list[list[PlannedShard]]:
        """All shards in n lists. Those of a list lie close together in the text, and all lists have about the same
        number of bytes."""
        in_order = sorted(self.shards, key=lambda shard: shard.first)
        ends = accumulate(shard.n_bytes for shard in in_order)
        total = sum(shard.n_bytes for shard in in_order)
        shares: list[list[PlannedShard]] = [[] for _ in range(n)]
        for shard, end in zip(in_order, ends, strict=True):
            shares[(2 * end - shard.n_bytes) * n // (2 * total)].append(shard)  # by its middle
        return shares


def identity(files: Sequence[Path], block: int) -> str:
    """Equal for the same files on each machine, until one of them changes.

    The times of a file are compared in seconds, because file systems that are shared do not keep them more exactly.
    A change within a second is found when the documents are read, see `parts_of`.

    Raises:
        UserError: a file is missing.
    """
    stats = [
        (file.name, found.st_size, int(found.st_mtime))
        for file in files
        for found in [look_at(file)]
    ]
    rules = [VERSION, RULES, prepare.SHARD_BYTES, block]
    return hashlib.sha256(json.dumps([rules, stats]).encode()).hexdigest()


def make_plan(path: Path, block: int, kept: Sequence[Path]) -> Plan:
    """Plan the shards of a text.

    Args:
        path: the text, see `survey`.
        block: see `documents.read`.
        kept: the facts of the documents in each file, see `kept_facts`.

    Raises:
        UserError: facts cannot be read, or the text is so short that its documents are cut.
    """
    corpus = corpus_of(path, (fact for file in kept for fact in kept_facts(file)))
    if corpus.max_block_bytes is not None:
        raise UserError(f"{path}: too few documents for several machines: prepare it on one")
    return Plan(corpus, block, tuple(_planned(corpus, map(kept_facts, kept))))


def _planned(corpus: Corpus, files: Iterable[Iterable[Fact]]) -> Iterator[PlannedShard]:
    """The shards, as `prepare` fills them."""
    parts = {"training": Part(), "validation": Part()}
    begun: dict[str, tuple[int, Place]] = {}
    last = dict.fromkeys(parts, 0)
    n_shards = dict.fromkeys(parts, 0)

    def finished(side: str) -> PlannedShard:
        part, (first, start) = parts[side], begun.pop(side)
        name = shard_name(side, n_shards[side])
        n_shards[side] += 1
        parts[side] = Part()
        return PlannedShard(
            name, side, part.sha256, len(part.documents), part.n_bytes, first, last[side], start
        )

    document = 0
    for number, facts in enumerate(files):
        place = Place(number, 0, document)
        for fact in facts:
            piece = Piece("", corpus.is_validation(fact.sha256), fact.sha256, fact.n_bytes)
            side = side_of(piece)
            begun.setdefault(side, (document, place))
            parts[side].add(piece)
            last[side] = document
            if parts[side].is_full:
                yield finished(side)
            document += 1
            if fact.end != NO_POSITION:
                place = Place(number, fact.end, document)
    yield from map(finished, [*begun])


def parts_of(
    plan: Plan, files: Sequence[Path], shards: Sequence[PlannedShard]
) -> Iterator[tuple[str, Part]]:
    """Stream some of the shards: the name and the documents of each.

    Args:
        plan: of the whole text.
        files: of the whole text.
        shards: those that are wanted, in any order.

    Raises:
        UserError: a file cannot be read, or has changed since the plan was made.
    """
    wanted = {
        side: deque(
            sorted((one for one in shards if one.side == side), key=lambda shard: shard.first)
        )
        for side in ("training", "validation")
    }
    while heads := [queue[0] for queue in wanted.values() if queue]:
        yield from _from(min(heads, key=lambda shard: shard.first).start, plan, files, wanted)


def _from(
    start: Place,
    plan: Plan,
    files: Sequence[Path],
    wanted: dict[str, deque[PlannedShard]],
) -> Iterator[tuple[str, Part]]:
    """Read from a place on, and take shards from those that are wanted, until the next one begins further on."""
    parts = {side: Part() for side in wanted}
    changed = UserError(f"{plan.corpus.path}: changed while it was being read; run this again")
    for number, text in _documents(start, plan, files):
        piece = plan.corpus.piece(text)
        side = side_of(piece)
        if wanted[side] and wanted[side][0].first <= number:
            parts[side].add(piece)
        for side, queue in wanted.items():
            if queue and queue[0].last == number:
                shard, part = queue.popleft(), parts[side]
                if part.sha256 != shard.sha256:
                    raise changed
                yield shard.name, part
                parts[side] = Part()
        if not any(part.documents for part in parts.values()):
            begins = [queue[0].start.document for queue in wanted.values() if queue]
            if not begins or min(begins) > number + 1:
                return
    raise changed  # the text ends too early


def _documents(start: Place, plan: Plan, files: Sequence[Path]) -> Iterator[tuple[int, str]]:
    number, position = start.document, start.position
    for path in files[start.file :]:
        with opened(path) as file:
            for text, _ in read(file, str(path), position, plan.block):
                yield number, text
                number += 1
        position = 0


def write_plan(path: Path, plan: Plan) -> None:
    """Write a plan. Raises the exceptions of `durable.write_json`."""
    shards = [dataclasses.asdict(shard) for shard in plan.shards]
    record = {"text": as_fact(plan.corpus), "block": plan.block, "shards": shards}
    durable.write_json(path, record)


def read_plan(path: Path, text: Path) -> Plan | None:
    """The plan of a text; None if there is none yet, or it is damaged.

    Raises:
        OSError: it cannot be read.
    """
    try:
        record: dict[str, Any] = durable.read_json(path)
    except durable.DamagedRecord:
        return None
    if not record:
        return None
    shards = [
        PlannedShard(**{**facts, "start": Place(**facts["start"])}) for facts in record["shards"]
    ]
    return Plan(from_fact(text, record["text"]), record["block"], tuple(shards))
