"""A part of a text flows in; its tokens flow out into a folder that several machines share.

The work has four stages: read (the facts of each file), plan (the shards, and the tokenizer), tokenize (each shard) and
complete (the index). A machine does its share of the first and the third, and the first machine also the others. There
is no coordinator. A machine needs the files of text and the shared folder, and sees there what the others have done.
"""

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from homespun import durable, workspace
from homespun.config import PrepareConfig
from homespun.data.conversations import holds_conversations
from homespun.data.corpus import keep_survey, plain, remark
from homespun.data.documents import block_of
from homespun.data.files import bytes_in, files_to_read, look_at
from homespun.data.kept_facts import keep_facts
from homespun.data.manifest import Snapshot
from homespun.data.prepare import (
    ENCODING_THREADS,
    INDEX,
    cannot_write_tokens,
    check_folder,
    folder_name,
    locked,
    make_shards,
    prepare,
)
from homespun.data.shard_plan import (
    Plan,
    PlannedShard,
    identity,
    make_plan,
    parts_of,
    read_plan,
    write_plan,
)
from homespun.data.text_file import is_described
from homespun.engine import hardware
from homespun.errors import UserError
from homespun.preparing.one_machine import encoder, facts_in_words, write_records
from homespun.terminal import Say, bar, counted, duration
from homespun.tokenizer import Tokenizer
from homespun.training.text_stage import check_size, choose_tokenizer, find_tokenizer

SECONDS_BETWEEN_LOOKS = 2.0
"""While a machine waits for others."""


def prepare_part(
    config: PrepareConfig, say: Say, sleep: Callable[[float], None] = time.sleep
) -> None:
    """Do one machine's part of the work, `config.part`, and wait for the others where their work is needed.

    Args:
        config: the text, the tokenizer, the folders, the part.
        say: receives messages.
        sleep: waits some seconds before the next look at the folder.

    Raises:
        UserError: the text cannot be read or divided, or the tokens not be written. Finished files stay.
    """
    workspace.check()
    if config.tokenizer_path:
        Tokenizer.load(Path(config.tokenizer_path))  # a mistake is found before the work
    part, n_parts = config.part_and_parts
    work = SharedWork(config, n_parts, say)

    def wait(pending: Callable[[], set[int]], what: str) -> None:
        if not (parts := pending()):
            return
        named = ", ".join(f"{one + 1}/{n_parts}" for one in sorted(parts))
        say(
            f"Waiting for --part {named} to {what}. If it has ended, start it again with the same command, on any "
            "machine that sees the same files."
        )
        with bar("Waiting", None):
            while pending():
                work.check_text()
                sleep(SECONDS_BETWEEN_LOOKS)

    try:
        work.read_files(part)
        if part == 0:
            wait(work.parts_that_read, "read the text")
            work.make_plan()
        wait(work.parts_that_plan, "plan the work")
        work.tokenize(part)
        if part == 0:
            wait(work.parts_that_tokenize, "make tokens")
            work.complete()
    except OSError as error:
        raise cannot_write_tokens(error, Path(config.tokens_dir)) from None


@dataclass(frozen=True)
class SharedWork:
    """The stages of the work on one text. Each can be repeated: it does only the work that is not done yet.

    Attributes:
        config: the text, the tokenizer, the folders, the number of processes.
        n_parts: number of machines.
        say: receives messages.
    """

    config: PrepareConfig
    n_parts: int
    say: Say

    @cached_property
    def path(self) -> Path:
        """The text.

        Raises:
            UserError: there is none, or it cannot be divided.
        """
        path = workspace.chosen_data(self.config.data_file)
        if is_described(path):
            raise UserError(
                f"{path} describes a text: divide the texts that it names among machines, one by one"
            )
        if holds_conversations(path):
            raise UserError(
                f"{path} holds conversations, whose tokens depend on the model that learns from them: "
                "`homespun train --init-from MODEL` makes them"
            )
        return path

    @cached_property
    def files(self) -> list[Path]:
        return files_to_read(self.path)

    @cached_property
    def block(self) -> int:
        return block_of(self.files)

    @property
    def tokens(self) -> Path:
        """The folder that all machines share."""
        return Path(self.config.tokens_dir)

    @cached_property
    def folder(self) -> Path:
        """The folder in which the machines leave their facts about this text, and the plan."""
        return self.tokens / f"{plain(self.path.resolve().name)}.parts"

    @cached_property
    def n_workers(self) -> int:
        return self.config.workers or hardware.usable_cpus()

    @cached_property
    def _plan_file(self) -> Path:
        """For the text as the work begins with it."""
        return self.folder / self._plan_name()

    def _plan_name(self) -> str:
        return f"plan-{identity(self.files, self.block)[:16]}.json"

    def _is_unchanged(self) -> bool:
        """Whether the text is the one that the work began with."""
        return self._plan_name() == self._plan_file.name

    def check_text(self) -> None:
        """Make sure that the text is the one that the work began with: nobody would do the work on another one.

        Raises:
            UserError: it is not.
        """
        if not self._is_unchanged():
            raise UserError(f"{self.path}: changed while it was being read; run this again")

    def plan(self) -> Plan | None:
        """The plan, once it is made."""
        return read_plan(self._plan_file, self.path)

    # Read -----------------------------------------------------------------------------------------

    @cached_property
    def _kept(self) -> list[Path]:
        """The facts of each file."""
        return [
            self.folder / f"{number:05}-{identity([file], self.block)[:16]}.facts"
            for number, file in enumerate(self.files)
        ]

    def read_files(self, part: int) -> None:
        """Find out the facts of some files of text.

        Args:
            part: of this machine, from 0.

        Raises:
            UserError: a file cannot be read, or the folder not be written.
        """
        check_folder(self.tokens)
        if self.plan():
            return
        durable.make_folder(self.folder)
        share = self._shares_of_files[part]
        open_tasks = [
            (file, kept)
            for file, kept in zip(self.files, self._kept, strict=True)
            if file in share and not kept.exists()
        ]
        n_bytes = bytes_in(file for file, _ in open_tasks)
        with bar(f"Reading {counted(len(open_tasks), 'file')} of {self.path}", n_bytes) as advance:
            keep_facts(open_tasks, self.block, self.n_workers, advance)

    @cached_property
    def _shares_of_files(self) -> list[set[Path]]:
        """The files that each machine reads: about the same number of bytes."""
        shares: list[set[Path]] = [set() for _ in range(self.n_parts)]
        n_bytes = [0] * self.n_parts
        sizes = [(look_at(file).st_size, file) for file in self.files]
        for size, file in sorted(sizes, key=lambda one: (-one[0], one[1])):
            least = n_bytes.index(min(n_bytes))
            shares[least].add(file)
            n_bytes[least] += size
        return shares

    def parts_that_read(self) -> set[int]:
        """The parts whose files are not all read yet."""
        if self.plan():
            return set()
        there = {path.name for path in self.folder.glob("*.facts")}
        unread = {
            file
            for file, kept in zip(self.files, self._kept, strict=True)
            if kept.name not in there
        }
        return {part for part, share in enumerate(self._shares_of_files) if unread & share}

    # Plan -----------------------------------------------------------------------------------------

    def make_plan(self) -> None:
        """Plan the shards, and choose the tokenizer, when all files are read.

        Raises:
            UserError: the text is too short, or there is no such tokenizer.
        """
        plan = self.plan()
        if plan is None:
            with bar("Planning", None):
                plan = make_plan(self.path, self.block, self._kept)
            remark(plan.corpus, self.say)
            check_size(plan.corpus, self.say)
            write_plan(self._plan_file, plan)
        if self.config.tokenizer_path:
            return
        size, earlier = self.config.vocab_size, self.tokenizer(plan)
        chosen = (
            find_tokenizer(None, size, plan.corpus, self.say)  # the one that `train` will find
            or earlier
            or choose_tokenizer(None, size, plan.corpus, self.say)
        )
        if earlier is None or earlier.sha256 != chosen.sha256:
            durable.write_json(self._tokenizer_file(plan), {"tokenizer": chosen.to_json()})

    def _tokenizer_file(self, plan: Plan) -> Path:
        size = self.config.vocab_size or "any"
        return self.folder / f"tokenizer-{plan.corpus.sha256[:12]}-{size}.json"

    def tokenizer(self, plan: Plan) -> Tokenizer | None:
        """The tokenizer that is named or was chosen; None if it is not chosen yet, or its record is damaged.

        Raises:
            UserError: it cannot be read.
        """
        config = self.config
        if config.tokenizer_path:
            return choose_tokenizer(
                config.tokenizer_path, config.vocab_size, plan.corpus, lambda line: None
            )
        path = self._tokenizer_file(plan)
        try:
            record = durable.read_json(path)
        except durable.DamagedRecord:
            return None
        return Tokenizer.from_json(record["tokenizer"], str(path)) if record else None

    @cached_property
    def _planned(self) -> tuple[Plan, Tokenizer, Path]:
        """The plan, the tokenizer, and the folder for the shards.

        Raises:
            UserError: they are not chosen yet.
        """
        plan = self.plan()
        tokenizer = self.tokenizer(plan) if plan else None
        if plan is None or tokenizer is None:
            raise UserError(f"{self.folder}: holds no plan of this text: run the first part")
        return plan, tokenizer, self.tokens / folder_name(plan.corpus.sha256, tokenizer.sha256)

    def parts_that_plan(self) -> set[int]:
        """The first part, unless it has made the plan and chosen the tokenizer."""
        plan = self.plan()
        return set() if plan and self.tokenizer(plan) else {0}

    # Tokenize -------------------------------------------------------------------------------------

    def tokenize(self, part: int) -> None:
        """Make some of the shards.

        Args:
            part: of this machine, from 0.

        Raises:
            UserError: the text has changed, or a shard cannot be written.
        """
        plan, tokenizer, home = self._planned
        durable.make_folder(home)
        share = plan.shares(self.n_parts)[part]
        missing = _missing(home, share)
        n_documents = sum(shard.n_documents for shard in missing)
        begun = time.monotonic()
        with (
            locked(home, self.say, together=True),
            bar("Tokenizing", n_documents) as advance,
            encoder(tokenizer, self.n_workers) as encodes,
        ):
            parts = parts_of(plan, self.files, missing)
            n_threads = max(ENCODING_THREADS, self.n_workers)
            make_shards(parts, plan.corpus, encodes, home, self.say, n_threads, advance)
        n_bytes = sum(shard.n_bytes for shard in missing)
        seconds = time.monotonic() - begun
        self.say(
            f"part {part + 1} of {self.n_parts}: {counted(len(share), 'file')} of tokens, "
            + (f"{there} of them from before, " if (there := len(share) - len(missing)) else "")
            + f"{duration(seconds)}, {n_bytes / 1e6 / max(seconds, 1e-3):,.1f} MB/s"
        )

    def parts_that_tokenize(self) -> set[int]:
        """The parts whose shards are not all made yet."""
        plan, _, home = self._planned
        missing = set(_missing(home, plan.shards))
        return {
            part for part, share in enumerate(plan.shares(self.n_parts)) if missing & set(share)
        }

    # Complete -------------------------------------------------------------------------------------

    def complete(self) -> None:
        """Write the index, when all shards are made, so that the next run with this text starts at once.

        Raises:
            UserError: a folder cannot be written, or a damaged shard not be made again.
        """
        plan, tokenizer, home = self._planned
        durable.write_json(home / INDEX, dict(plan.index))
        prepared = prepare(plan.corpus, tokenizer, self.tokens, say=self.say)
        self._keep_survey(plan)
        write_records(plan.corpus, tokenizer, prepared)
        with (home / "lock").open("a+") as lock:
            if durable.try_lock(lock.fileno()):  # nobody writes any more
                durable.remove_leftovers(home, lambda name: True)
        with contextlib.suppress(UserError):  # the text is gone: who knows which facts are its own?
            for kept in self._kept:
                kept.unlink(missing_ok=True)
        for name, fact in facts_in_words(self.config, plan.corpus, prepared).items():
            self.say(f"{name:<8}{fact}")

    def _keep_survey(self, plan: Plan) -> None:
        """Let the next run know the text without reading it. Otherwise it reads the text, so a failure is no error.

        A text that was replaced after it was read can have the size and the time of before, as with `rsync -t`. The
        time of its last change tells, which no program can set.
        """
        with contextlib.suppress(OSError, UserError):
            snapshot = Snapshot(self.files)
            planned = self._plan_file.stat().st_mtime_ns
            if self._is_unchanged() and snapshot.is_unchanged_since(planned):
                keep_survey(plan.corpus, snapshot, self.tokens)


def _missing(home: Path, shards: Sequence[PlannedShard]) -> list[PlannedShard]:
    """The shards that are not there. One look at the folder shows all that are."""
    there = {path.name for path in home.iterdir()} if home.is_dir() else set()
    return [shard for shard in shards if shard.name not in there]
