"""All limits of the server and the studio, in one table: requests above one of them are refused with its status.

The other modules of this room take a `Limits`; `rows` gives the table to the documentation.
"""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from homespun.stories.judge import MAX_CHARACTERS


def _limit(default: float, unit: str, meaning: str, status: int | str | None = 400) -> Any:
    """A limit; a status of None closes the connection without an answer. Words tell what happens instead of a
    refusal."""
    return dataclasses.field(
        default=default, metadata={"unit": unit, "meaning": meaning, "status": status}
    )


@dataclass(frozen=True)
class Limits:
    """The largest values that are accepted."""

    # Connections
    connections: int = _limit(512, "", "open connections", 503)
    header_bytes: int = _limit(16_384, "bytes", "request line and headers", 431)
    header_seconds: float = _limit(10, "s", "time until the headers have arrived", 408)
    body_bytes: int = _limit(1_048_576, "bytes", "body of a request", 413)
    body_seconds: float = _limit(10, "s", "time until the body has arrived", 408)
    idle_seconds: int = _limit(15, "s", "pause between two requests of a connection", None)
    unread_seconds: float = _limit(
        30, "s", "time for which a client reads nothing of an answer", None
    )
    stop_seconds: int = _limit(1, "s", "time for running answers when the server is stopped", None)
    # Work
    slots: int = _limit(16, "", "texts that are written together; others wait", "the text waits")
    queue: int = _limit(128, "", "texts that wait", 429)
    cache_bytes: int = _limit(2 << 30, "bytes", "keys and values of all texts together", 400)
    # One request
    texts: int = _limit(16, "", "prompts times `n`")
    max_tokens: int = _limit(4_096, "tokens", "`max_tokens`")
    logprobs: int = _limit(20, "", "alternatives of a token: `logprobs`, `top_logprobs`")
    echo_logits: int = _limit(
        1 << 26, "", "tokens of a prompt times the vocabulary, for `echo` with `logprobs`"
    )
    stops: int = _limit(4, "", "stop strings")
    stop_characters: int = _limit(256, "characters", "one stop string")
    biases: int = _limit(1_024, "", "tokens in `logit_bias`")
    bias: float = _limit(100, "", "size of a bias")
    temperature: float = _limit(2, "", "`temperature`, which is 0 or at least 0.01")
    messages: int = _limit(256, "", "messages of a chat")
    # Models of the studio
    models: int = _limit(3, "", "models in memory; more if all are in use", "the oldest goes")
    inside_tokens: int = _limit(256, "tokens", "a text whose inside is shown")
    checkpoints: int = _limit(
        40, "", "checkpoints of a run over which the growth of a token is shown", "thinned"
    )
    story_characters: int = _limit(MAX_CHARACTERS, "characters", "a story for the judge")
    # Runs of the studio
    trainers: int = _limit(8, "", "runs of the studio that train at the same time")
    shown_runs: int = _limit(200, "", "runs in the list: those that changed last", "counted")
    compared_runs: int = _limit(12, "", "runs in one picture: the first ones", "left out")
    searched: int = _limit(5_000, "", "folders that are searched for runs and models", "left out")
    depth: int = _limit(5, "", "folders below each other that are searched", "left out")
    points: int = _limit(2_000, "", "points of a curve in one answer", "thinned")
    sample_texts: int = _limit(60, "", "sample texts of a run: the last ones", "left out")
    sample_characters: int = _limit(4_000, "characters", "one sample text", "cut")
    notes: int = _limit(20, "", "notes about a run: the last ones", "left out")
    message_bytes: int = _limit(
        20_000, "bytes", "messages of the process of a run: the last ones", "left out"
    )
    plan_seconds: float = _limit(300, "s", "time for a plan")


LEAST_TEMPERATURE = 0.01
"""The smallest temperature apart from 0, which takes the most likely token."""


class Row(NamedTuple):
    """One limit, for the documentation."""

    name: str
    value: str
    meaning: str
    above: str
    """The answer to a request above it."""


def rows(limits: Limits | None = None) -> Iterator[Row]:
    """The table of all limits."""
    limits = limits or Limits()
    for field in dataclasses.fields(limits):
        rules, value = field.metadata, getattr(limits, field.name)
        status = "no answer" if rules["status"] is None else str(rules["status"])
        yield Row(field.name, f"{value:,} {rules['unit']}".strip(), rules["meaning"], status)
