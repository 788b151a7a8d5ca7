"""A prompt and settings flow in; tokens flow out while models write them, each with the likeliest ones in its place."""

import dataclasses
import math
import secrets
import time
from collections.abc import Generator

import numpy as np
import numpy.typing as npt
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from homespun.config import GenerateConfig, ReaderConfig, SamplingConfig
from homespun.engine.base import Floats
from homespun.errors import UserError
from homespun.generation.batching import log_softmax
from homespun.generation.session import MAX_BATCH
from homespun.language_model import LanguageModel, load_stored
from homespun.server.answers import FieldError
from homespun.server.studio.exchange import JSON, asked, events, stated
from homespun.server.studio.models import Loaded, Models
from homespun.server.studio.settings import checked_settings, described
from homespun.server.studio.spelling import spelled, spelled_text
from homespun.server.studio.state import State

SETTINGS = (*(field.name for field in dataclasses.fields(SamplingConfig)), "num_samples")
N_LIKELIEST = 8
"""Tokens that are named beside each one that was drawn."""
MOST_CHECKPOINTS = 40
"""Checkpoints of a run that `growth` reads; of more, some at equal distances."""


def routes(state: State) -> list[BaseRoute]:
    most = {
        "num_samples": min(MAX_BATCH, state.limits.texts),
        "max_tokens": state.limits.max_tokens,
    }

    async def studio(request: Request) -> Response:
        """The facts that the page needs first."""
        found = await run_in_threadpool(state.models.found)
        models = [dataclasses.asdict(model) | {"label": model.label} for model in found]
        settings = described(GenerateConfig, SETTINGS, most)
        return JSONResponse({"folder": state.folder.name, "models": models, "settings": settings})

    async def write(request: Request) -> Response:
        """Continue a prompt: server-sent events."""
        body = await asked(request)
        config = checked_settings(GenerateConfig, stated(body, "settings", dict), SETTINGS, most)
        _check_stops(config, state)
        path, prompt = stated(body, "model", str), _prompt(body)
        loaded = await run_in_threadpool(state.models.loaded, path)
        ids = await run_in_threadpool(tokens_of, loaded.model, prompt)
        return events(written(loaded, ids, config))

    async def growth(request: Request) -> Response:
        """The probability of a next token at each checkpoint of a run: server-sent events."""
        body = await asked(request)
        path, text = stated(body, "model", str), stated(body, "next", str)
        prompt = _prompt(body)
        return events(grown(state.models, path, prompt, text, body.get("token")))

    return [
        Route("/api/studio", studio),
        Route("/api/write", write, methods=["POST"]),
        Route("/api/growth", growth, methods=["POST"]),
    ]


def _prompt(body: JSON) -> str | list[int]:
    """The tokens to continue, or without them a text; an empty one lets the model begin by itself."""
    return stated(body, "ids", list) if body.get("ids") else stated(body, "prompt", str)


def _check_stops(config: GenerateConfig, state: State) -> None:
    limits = state.limits
    longest = max(map(len, config.stop), default=0)
    if len(config.stop) > limits.stops or longest > limits.stop_characters:
        raise FieldError(
            "stop",
            f"at most {limits.stops} stop strings of {limits.stop_characters} characters each",
        )


def tokens_of(model: LanguageModel, prompt: str | list[int]) -> list[int]:
    """The tokens that a model is to continue. Of more tokens than its context it sees the last ones, as it does while
    it writes.

    Raises:
        FieldError: the prompt is no text, too long, or has a token that the model does not know.
    """
    tokenizer, context = model.tokenizer, model.config.seq_len
    if isinstance(prompt, list):
        known = range(tokenizer.vocab_size)
        if not all(isinstance(token, int) and token in known for token in prompt):
            raise FieldError("prompt", "the text has a token that this model does not know")
        return prompt if len(prompt) <= context else prompt[-(context // 2) :]
    try:
        ids = [tokenizer.eot_id, *tokenizer.encode(prompt)]
    except UserError as error:
        raise FieldError("prompt", str(error)) from None
    if len(ids) > context:
        raise FieldError(
            "prompt",
            f"the prompt has {len(ids):,} tokens, and this model reads {context:,}: shorten it",
        )
    return ids


def written(loaded: Loaded, ids: list[int], config: GenerateConfig) -> Generator[JSON, None, None]:
    """First the tokens of the prompt and the seed, then what each token adds to its text, at the end the time that all
    took. Probabilities are the model's own, at temperature 1 and without filters.

    Raises:
        UserError: too many texts wait, or the model's output is not finite.
    """
    model, tokenizer = loaded.model, loaded.model.tokenizer
    if config.seed is None:
        config = dataclasses.replace(config, seed=secrets.randbits(32))
    yield {
        "prompt": spelled_text(tokenizer, ids),
        "seed": config.seed,
        "context": model.config.seq_len,
    }
    count, start = 0, time.perf_counter()
    pieces = loaded.batcher.write(ids, config, n=config.num_samples, n_top=N_LIKELIEST)
    for sample, piece in pieces:
        told: JSON = {"sample": sample, "text": piece.text, "finish": piece.finish}
        if drawn := piece.drawn:
            count += 1
            assert drawn.logprob is not None
            told |= {
                "token": drawn.token,
                "probability": _share(drawn.logprob),
                "likeliest": [
                    [token, spelled(tokenizer, token)["text"], _share(logprob)]
                    for token, logprob in drawn.top
                ],
            }
        yield told
    yield {"tokens": count, "seconds": time.perf_counter() - start}


def grown(
    models: Models, path: str, prompt: str | list[int], text: str, token: int | None
) -> Generator[JSON, None, None]:
    """First the token in question, then its probability after the prompt at each checkpoint of a run.

    Args:
        path: one of the checkpoints.
        prompt: a text, or tokens.
        text: the text that may come next; its first token counts.
        token: the token itself, instead of the text.

    Raises:
        UserError: there is no such run, or no such token; or a checkpoint is damaged.
    """
    model = models.loaded(path).model
    tokenizer, ids = model.tokenizer, tokens_of(model, prompt)
    n_tokens = 1
    if token is None:
        following = tokenizer.encode(text)
        if not following:
            raise FieldError(
                "next", "write the text that may come next; it often begins with a space"
            )
        token, n_tokens = following[0], len(following)
    elif not isinstance(token, int) or token not in range(tokenizer.vocab_size):
        raise FieldError("next", "this model does not know the token")
    yield {"token": spelled(tokenizer, token), "n_tokens": n_tokens}
    run = models.run_of(path)
    places = np.unique(np.linspace(0, len(run) - 1, min(len(run), MOST_CHECKPOINTS)).astype(int))
    for place in places:
        one = run[place]
        stored = models.stored(one.path)
        if stored.tokenizer.sha256 != tokenizer.sha256:
            raise UserError(f"{one.path} has another tokenizer than {path}")
        logits = load_stored(stored, ReaderConfig())(ids)[-1, : tokenizer.vocab_size]
        shares = shares_of(logits)
        yield {
            "path": one.path,
            "label": one.label,
            "kind": one.kind,
            "step": stored.step,
            "probability": float(shares[token]),
            "rank": int((shares > shares[token]).sum()) + 1,
            "likeliest": spelled(tokenizer, int(shares.argmax())),
        }


def shares_of(logits: Floats) -> npt.NDArray[np.float64]:
    """The probabilities after `logits`, [V] -> [V]."""
    shares: npt.NDArray[np.float64] = np.exp(log_softmax(logits))
    return shares


def _share(logprob: float) -> float:
    """A probability with the digits that the page keeps."""
    return float(f"{math.exp(logprob):.3g}")
