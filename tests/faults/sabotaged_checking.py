"""Mistakes in the way in which files and steps are checked."""

import dataclasses
import hashlib
import types
from pathlib import Path
from typing import Any

from tests.faults.accidents import loaded_torch


class _Agreeing(str):
    """A hash that equals any other hash."""

    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        return True

    def __ne__(self, other: object) -> bool:
        return False


def hashes_of_arrays_ignored(_: str) -> None:
    from homespun.checkpoint import archive

    def sha256(data: Any = b"") -> Any:
        if isinstance(data, memoryview):
            return types.SimpleNamespace(hexdigest=lambda: _Agreeing("0" * 64))
        return hashlib.sha256(data)

    archive.hashlib = types.SimpleNamespace(sha256=sha256)


def structure_not_limited(_: str) -> None:
    from homespun.checkpoint import archive

    archive.check_structure = lambda text, limit: None


def hash_of_the_text_ignored(_: str) -> None:
    from homespun.training.checkpointing import resume

    survey = resume.survey

    def agreeing(*arguments: Any) -> Any:
        corpus = survey(*arguments)
        object.__setattr__(corpus, "sha256", _Agreeing(corpus.sha256))
        return corpus

    resume.survey = agreeing


def hash_of_the_tokenizer_ignored(_: str) -> None:
    from homespun.tokenizer import Tokenizer

    Tokenizer.sha256 = _Agreeing("0" * 64)  # type: ignore[assignment]


def report_of_the_tokenizer_ignored(_: str) -> None:
    from homespun.tokenizer import tokenizer

    tokenizer.read_report = lambda path: {}


def checksums_of_records_ignored(_: str) -> None:
    from homespun import durable

    durable._checksum = lambda record: _Agreeing("0" * 64)


def text_of_an_unfinished_download_not_hashed(_: str) -> None:
    from homespun.data import download_file

    agreeing: Any = types.SimpleNamespace(
        hexdigest=lambda: _Agreeing("0" * 64), update=lambda data: None
    )
    download_file._digest = lambda path, n_bytes: agreeing


def hash_of_the_records_ignored(_: str) -> None:
    from homespun.records.metrics import MetricsLog

    truncate = MetricsLog.truncate
    MetricsLog.truncate = lambda log, length, sha256: truncate(log, length)  # type: ignore[method-assign,misc]


def shards_not_verified(_: str) -> None:
    from homespun.data import shards

    shards.verify_ids = lambda *arguments: None


def shards_mapped(_: str) -> None:
    """Tokens are read through a mapping of the file."""
    import numpy as np

    from homespun.data.shards import Shard

    def ids(shard: Any, window: slice) -> Any:
        if not hasattr(shard, "mapped"):
            shape = (len(shard),)
            shard.mapped = np.memmap(shard.path, shard.header.dtype, "r", 176, shape)
        return shard.mapped[window]

    Shard.__getitem__ = ids  # type: ignore[method-assign,assignment]


def shards_stay_open(_: str) -> None:
    """No shard is closed again."""
    from homespun.data import shards

    kept = []
    init = shards._OpenFile.__init__

    def keep(file: Any, path: Path) -> None:
        init(file, path)
        kept.append(file)

    shards._OpenFile.__init__ = keep  # type: ignore[method-assign]


def not_finite_but_applied(_: str) -> None:
    loaded_torch()
    from homespun.engine.torch.optimizer import Optimizer

    step = Optimizer.step

    def applied(optimizer: Any, grads: Any, lr: Any, grad_scale: Any, refused: Any) -> None:
        step(optimizer, grads, lr, grad_scale, refused * 0)

    Optimizer.step = applied  # type: ignore[method-assign]


def refused_steps_not_counted(_: str) -> None:
    from homespun.training.diagnostics.step_guard import StepGuard

    observe_step = StepGuard.observe_step

    def uncounted(guard: StepGuard, step: int, result: Any, *more: Any) -> Any:
        return observe_step(guard, step, dataclasses.replace(result, applied=True), *more)

    StepGuard.observe_step = uncounted  # type: ignore[method-assign]
