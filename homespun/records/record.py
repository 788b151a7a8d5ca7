"""Events of a run flow in, records flow out: an object with plain values, which is one line of `metrics.jsonl`.

Console, plots and every other view show values from these records. The meaning of each field stands here.
"""

import dataclasses
import json
import math
from collections.abc import Mapping
from statistics import fmean
from typing import Any

import numpy as np

from homespun.records.events import (
    Advice,
    Answers,
    Evaluation,
    Event,
    LoggedSteps,
    Pairs,
    Remeasured,
    Sample,
    Started,
    Step,
    perplexity,
)

Record = Mapping[str, Any]
"""One line. All have `step`, `tokens` and `epoch` (passes over the training text); losses are in nats per token.

Training: `loss` (mean over the steps since the last such record that were applied; of the last step where none was),
`perplexity`, `lr`, `muon_lr` (with Muon), `grad_norm`, `clipped` (fraction of the steps since the last such record),
`refused` (steps so far), `tokens_per_second`, `memory_bytes` (the peak), `active_memory_bytes` (where it is known),
`seconds`, the exact loss as `loss_hex` (`float.hex`), and `batch` (a fingerprint of the tokens of the last step).
With experts also, as means over the steps since the last such record: `expert_load` (for each router the share of each
expert in its tokens, times their number: 1 is an even share), the largest and smallest of these as `largest_load` and
`smallest_load`, `dead_experts` (how many had no token), `router_entropy` (of a token's probabilities, as a fraction of
the largest possible, mean over the routers), `balance_loss` and `z_loss` (means over the routers), and
`auxiliary_loss`, the part of the minimised loss that comes from all routers, with its share as `auxiliary_share`
(both without LoRA, which leaves routers as they are).
With a reward also, as means over the answers since the last such record: `reward`, `reward_deviation`, `answer_tokens`,
`unfinished` (fraction that was cut off), `distinct` (fraction that is left if equal ones of a group count once),
`entropy` and `kl` (in nats per token, over the groups that were not skipped), `groups_skipped` and `ratio_clipped`
(fractions of groups and of tokens); `tokens_per_second` are those of the answers, and `perplexity` is missing, since
`loss` is no cross-entropy.
With preferences also, as means over the pairs since the last such record: `accuracy`, `margin`, `chosen_reward` and
`rejected_reward` (see `events.Pairs`); `loss` is that of the pairs, `tokens_per_second` are those of the answers, and
`perplexity` is missing.
Evaluation: `val_loss`, `val_perplexity`, `val_bits_per_byte`, and `val_reward` with a reward; with preferences
`val_loss` of pairs, `val_accuracy`, `val_margin`, `val_chosen_reward` and `val_rejected_reward`; with replay also
`val_replay_loss` and `val_replay_bits_per_byte` of the earlier text. Sample: `prompt`, `text`. Advice: `cause` (a word
or two), `advice`. Where a resumed run evaluates on other tokens or in another precision, from there on: `eval_tokens`,
`best_val_loss` and `best_step` (of the best weights, measured again; null where there are none).
The run itself, in the first line and again where a resumed run differs: `run`, an object with `model`, `text`,
`machine`, `settings` and others (see `training.run`). Readers skip lines of other kinds.
"""


def as_record(event: Event) -> Record | None:
    """The line for an event; None for events that are not recorded."""
    match event:
        case Step(log=LoggedSteps() as log):
            values = _logged(event, log)
        case Evaluation(loss=loss):
            values = {
                "val_loss": loss,
                **(_pairs(event.pairs, "val_") if event.pairs else _of_text(event)),
                **({} if event.reward is None else {"val_reward": event.reward}),
                **_replayed(event),
            }
        case Sample():
            values = {"prompt": event.prompt, "text": event.text}
        case Remeasured():
            values = {
                "eval_tokens": event.eval_tokens,
                "best_val_loss": event.best_val_loss,
                "best_step": event.best_step,
            }
        case Started(run=run) if run:
            values = {"run": dict(run)}
        case Advice():
            values = {"cause": event.cause, "advice": event.text}
        case _:
            return None
    return {"step": event.step, "tokens": event.tokens, "epoch": event.epoch, **values}


def _logged(event: Step, log: LoggedSteps) -> dict[str, Any]:
    values = {
        "loss": log.loss,
        "loss_hex": log.loss.hex(),
        "perplexity": None if log.answers or log.pairs else perplexity(log.loss),
        "lr": event.rates["adamw"],
        "muon_lr": event.rates.get("muon"),
        "grad_norm": event.grad_norm,
        "clipped": log.clipped,
        "refused": log.refused,
        "tokens_per_second": log.tokens_per_second,
        "memory_bytes": log.memory_bytes,
        "active_memory_bytes": log.active_memory_bytes,
        "seconds": log.training_seconds,
        "batch": event.batch,
        **(_experts(log.loss, log) if log.routers else {}),
        **(_answers(log.answers) if log.answers else {}),
        **(_pairs(log.pairs) if log.pairs else {}),
    }
    return {name: value for name, value in values.items() if value is not None}


def _answers(answers: Answers) -> dict[str, float]:
    values = {
        "reward": answers.reward,
        "reward_deviation": answers.reward_deviation,
        "answer_tokens": answers.tokens,
        "unfinished": answers.unfinished,
        "distinct": answers.distinct,
        "entropy": answers.entropy,
        "kl": answers.divergence,
        "groups_skipped": answers.skipped,
        "ratio_clipped": answers.clipped,
    }
    return {name: value for name, value in values.items() if value is not None}


def _of_text(event: Evaluation) -> dict[str, Any]:
    return {
        "val_perplexity": perplexity(event.loss),
        "val_bits_per_byte": event.bits_per_byte,
    }


def _replayed(event: Evaluation) -> dict[str, Any]:
    values = {
        "val_replay_loss": event.replay_loss,
        "val_replay_bits_per_byte": event.replay_bits_per_byte,
    }
    return {name: value for name, value in values.items() if value is not None}


def _pairs(pairs: Pairs, prefix: str = "") -> dict[str, float]:
    return {f"{prefix}{name}": value for name, value in dataclasses.asdict(pairs).items()}


def _experts(loss: float, log: LoggedSteps) -> dict[str, Any]:
    """The use of the experts."""
    routers, auxiliary = log.routers, log.auxiliary_loss
    loads = [[share * len(router.load) for share in router.load] for router in routers]
    all_loads = [load for of_router in loads for load in of_router]
    return {
        "expert_load": [[round(load, 4) for load in of_router] for of_router in loads],
        "largest_load": max(all_loads),
        "smallest_load": min(all_loads),
        "dead_experts": sum(load == 0 for load in all_loads),
        "router_entropy": fmean(r.entropy / math.log(len(r.load)) for r in routers),
        "balance_loss": fmean(r.balance_loss for r in routers),
        "z_loss": fmean(r.z_loss for r in routers),
        "auxiliary_loss": auxiliary,
        "auxiliary_share": None if auxiliary is None else auxiliary / (loss + auxiliary),
    }


def line_of(record: Record) -> bytes:
    return json.dumps(plain(record), allow_nan=False).encode() + b"\n"


def plain(value: Any) -> Any:
    """A value as JSON can hold it: NumPy numbers as Python numbers, null for NaN and infinity."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value
