"""Runs that were never trained: folders with a record and perhaps a checkpoint, for the tests of the page."""

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from homespun.architectures.presets import preset, shaped
from homespun.checkpoint.folder import CheckpointFolder
from homespun.checkpoint.names import METRICS
from homespun.config import TrainConfig
from homespun.planning.resolved import ResolvedConfig

EVIL = '<script>window.broken = 1</script><img src="http://evil.example/x.png" onerror="window.broken = 1">'


def write_run(
    folder: Path,
    steps: int = 200,
    *,
    every: int = 10,
    rate: float = 3e-4,
    experts: bool = False,
    checkpoint: bool = True,
    data_file: str = "book.txt",
    data_sha256: str = "0" * 64,
    sample: str = " there was a fox.",
    settings: Mapping[str, Any] = MappingProxyType({}),
) -> Path:
    """Make a run of so many steps, with a line for each `every` steps and three evaluations."""
    folder.mkdir(parents=True, exist_ok=True)
    records: list[dict[str, Any]] = []
    for step in range(every, steps + 1, every):
        tokens, loss = 2048 * step, 2.5 + 4 * math.exp(-step / 60) + 0.03 * math.sin(step)
        record = {
            "step": step, "tokens": tokens, "epoch": step / 100, "loss": loss, "lr": rate, "muon_lr": 40 * rate,
            "grad_norm": 0.7 + 0.1 * math.cos(step), "clipped": 0.0, "refused": 0, "tokens_per_second": 20_000.0,
            "memory_bytes": 500_000_000, "seconds": step / 10,
        }  # fmt: skip
        if experts:
            record |= {"expert_load": [[1.2, 0.8]], "largest_load": 1.2, "smallest_load": 0.8}
            record |= {"router_entropy": 0.9, "auxiliary_share": 0.01}
        records.append(record)
    for third in (1, 2, 3):
        step = max(1, steps * third // 3)
        loss = 2.6 + 4 * math.exp(-step / 60)
        at = {"step": step, "tokens": 2048 * step, "epoch": step / 100}
        records.append(at | {"val_loss": loss, "val_bits_per_byte": loss / 2.6})
        records.append(at | {"prompt": "Once upon a time", "text": sample})
    records.sort(key=lambda record: record["step"])
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (folder / METRICS).write_text(lines)
    if checkpoint:
        shape = {"n_layers": 1, "d_model": 32, "n_heads": 2, "vocab_size": 300, "seq_len": 64}
        model = shaped(preset("pico"), shape)
        requested = TrainConfig(
            **{
                "data_file": data_file,
                "learning_rate": rate,
                "checkpoint_dir": str(folder),
                **settings,
            }
        )
        resolved = ResolvedConfig(data_file=data_file, learning_rate=rate, optimizer="muon")
        header = {
            "model": dataclasses.asdict(model),
            "data_file": data_file,
            "data_sha256": data_sha256,
            "requested": dataclasses.asdict(requested),
            "resolved": dataclasses.asdict(resolved),
            "facts": {"engine": "torch 2.13.0", "device": "cpu"},
        }
        weights = [("weight", np.zeros(3, dtype=np.float32))]
        CheckpointFolder(folder).save(steps, weights, [], header, {})
    return folder
