"""A text flows in; what a model makes of it flows out: tokens, attention, the opinion of each layer, experts."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from homespun.architectures.families import count_parameters
from homespun.engine.inside import Inside, Inspector
from homespun.errors import UserError
from homespun.generation.sampler import check_finite
from homespun.server.answers import FieldError
from homespun.server.limits import Limits
from homespun.server.parsing import Fields
from homespun.server.studio.exchange import JSON
from homespun.server.studio.models import Loaded
from homespun.server.studio.playground import shares_of, tokens_of
from homespun.server.studio.spelling import spelled, spelled_text
from homespun.server.studio.state import State

MOST_KEPT = 2
"""Forward passes that are kept for the next questions about them."""
N_LIKELIEST = 5
"""Tokens that are named for each layer."""
MEAN = "mean"
"""In place of a head: the mean of all heads of the layer."""


@dataclass(frozen=True)
class Look:
    """A text in a model."""

    loaded: Loaded
    ids: list[int]
    inside: Inside


class Looks:
    """Looks inside, and keeps the last ones."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._kept: OrderedDict[tuple[int, tuple[int, ...]], Look] = OrderedDict()
        self._lock = threading.Lock()

    def look(self, loaded: Loaded, text: str) -> Look:
        """
        Raises:
            UserError: the model is too large, its numbers are not finite, or the text is too long.
        """
        model = loaded.model
        if not isinstance(model.engine, Inspector):
            weights = count_parameters(model.config)
            raise FieldError(
                "model",
                f"{loaded.service.name} has {weights / 1e6:,.0f} M parameters, too many for the engine that shows the "
                "inside: choose a smaller model",
            )
        ids = tokens_of(model, text)
        if len(ids) > (most := self._limits.inside_tokens):  # memory grows with their square
            raise FieldError(
                "text",
                f"the text has {len(ids)} tokens, and the inside of at most {most} is shown: shorten it",
            )
        key = id(model), tuple(ids)
        with self._lock:
            look = self._kept.pop(key, None)
            if look is None:
                while len(self._kept) >= MOST_KEPT:
                    self._kept.popitem(last=False)
                seen = loaded.batcher.call(lambda: model.inspect(ids)).result()
                check_finite(seen.hidden)
                look = Look(loaded, ids, seen)
            self._kept[key] = look
        return look


def routes(state: State) -> list[BaseRoute]:
    looks = Looks(state.limits)

    async def answered(fields: Fields, answer: Callable[[Look], JSON]) -> Response:
        """The answer to a question about a look. `fields` has nothing but its model and its text left."""
        path, text = fields.needed_text("model"), fields.needed_text("text")
        fields.end()

        def work() -> JSON:
            with state.models.lent(path) as loaded:
                return answer(looks.look(loaded, text))

        return JSONResponse(await run_in_threadpool(work))

    async def overview(request: Request) -> Response:
        return await answered(Fields(await request.body()), overview_of)

    async def attention(request: Request) -> Response:
        fields = Fields(await request.body())
        layer, head = fields.needed_integer("layer"), fields.any("head")
        return await answered(
            fields, lambda look: {"weights": attention_of(look.inside, layer, head)}
        )

    async def lens(request: Request) -> Response:
        fields = Fields(await request.body())
        position = fields.needed_integer("position")
        return await answered(fields, lambda look: {"layers": lens_of(look, position)})

    return [
        Route("/api/inside", overview, methods=["POST"]),
        Route("/api/attention", attention, methods=["POST"]),
        Route("/api/lens", lens, methods=["POST"]),
    ]


def overview_of(look: Look) -> JSON:
    """Tokens, shape, and the experts: for each layer with a mixture, and each token, pairs of expert and weight."""
    config = look.loaded.model.config
    experts = []
    for layer, mixed in enumerate(look.inside.experts):
        if mixed is not None:
            shares = [[round(float(one), 3) for one in row] for row in mixed.weights]
            tokens = [
                [[int(one), share] for one, share in zip(ids, row, strict=True)]
                for ids, row in zip(mixed.ids, shares, strict=True)
            ]
            experts.append({"layer": layer, "tokens": tokens})
    return {
        "tokens": spelled_text(look.loaded.model.tokenizer, look.ids),
        "layers": config.n_layers,
        "heads": config.n_heads,
        "n_experts": config.experts,
        "experts": experts,
    }


def attention_of(inside: Inside, layer: int, head: object) -> list[list[float]]:
    """How much each token, a row, takes from each token up to itself: rows of length 1, 2, 3, ...

    Raises:
        UserError: there is no such layer or head.
    """
    n_layers, n_heads = inside.attention.shape[:2]
    is_head = isinstance(head, int) and not isinstance(head, bool) and 0 <= head < n_heads
    if not 0 <= layer < n_layers or not (is_head or head == MEAN):
        raise UserError("the model has no such layer or head")
    heads = inside.attention[layer]
    weights = heads[head] if isinstance(head, int) else heads.mean(0)
    return [[round(float(one), 4) for one in row[: n + 1]] for n, row in enumerate(weights)]


def lens_of(look: Look, position: int) -> list[JSON]:
    """The next token by each layer, at one position: the likeliest tokens, and rank and share of the one that follows.

    Raises:
        UserError: there is no such position.
    """
    if not 0 <= position < len(look.ids):
        raise UserError("the text has no such token")
    tokenizer = look.loaded.model.tokenizer
    following = look.ids[position + 1] if position + 1 < len(look.ids) else None
    states, model = look.inside.hidden[:, position], look.loaded.model
    logits = look.loaded.batcher.call(lambda: model.lens(states)).result()
    layers = []
    for row in logits[:, : tokenizer.vocab_size]:
        shares = shares_of(row)
        best = np.argsort(-shares, kind="stable")[:N_LIKELIEST]
        told: JSON = {
            "likeliest": [
                spelled(tokenizer, int(token)) | {"probability": float(shares[token])}
                for token in best
            ]
        }
        if following is not None:
            told["following"] = {
                "probability": float(shares[following]),
                "rank": int((shares > shares[following]).sum()) + 1,
            }
        layers.append(told)
    return layers
