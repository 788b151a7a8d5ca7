"""Several processes, the ranks, train one model: rank 0 runs the run, the others repeat the steps of its engine.

Rank 0 alone has the text, the records and the checkpoints. It sends each step to all ranks. Each rank computes its
share of the rows, and the gradients of all are added up. So the samples and their order do not depend on the number of
ranks, and what a run tells is the same.
"""

import dataclasses
import gc

import torch

from homespun.config import ModelConfig
from homespun.engine.base import EngineOptions
from homespun.engine.torch.group import Group
from homespun.engine.torch.ranked_engine import RankedEngine
from homespun.engine.torch.replicas import ReplicatedEngine
from homespun.engine.torch.shares import received


def create(config: ModelConfig, options: EngineOptions, group: Group) -> RankedEngine:
    """The engine of a rank. Rank 0 tells the others to make theirs. Raises as `TorchEngine`."""
    if group.leads:
        group.send(
            {"do": "make", "config": dataclasses.asdict(config), "options": options.stored()}
        )
    if options.sharded:
        from homespun.engine.torch.shards import ShardedEngine  # takes a second to load

        return ShardedEngine(config, options, group)
    return ReplicatedEngine(config, options, group)


def follow(group: Group) -> None:
    """Do what rank 0 tells, until it ends.

    Raises:
        RankLostError: another rank has died or does not answer.
        OutOfMemory: a step needs more memory than there is.
    """
    engine: RankedEngine | None = None
    for command, tokens in group.commands():
        if command["do"] == "make":
            engine = None
            gc.collect()  # its memory is needed
            options = EngineOptions.restored(command["options"])
            engine = create(ModelConfig(**command["config"]), options, group)
            continue
        assert engine
        batches = received(command, tokens) if tokens else []
        match command["do"]:
            case "step":
                engine.train_step(batches, command["lr"], command["step"], **command["limits"])
            case "gradients":
                list(engine.gradients(batches, command["step"]))
            case "loss":
                engine.loss(*batches)
            case "log_probabilities":
                engine.log_probabilities(*batches)
            case "logits":
                engine.logits(batches[0].inputs)
            case "give":
                engine.give(command["name"])
            case "take":
                engine.take(command["name"])
    group.settle()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    group.leave()
