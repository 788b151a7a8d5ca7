"""A prompt and settings flow in; tokens flow out while models write them, each with the likeliest ones in its place."""

import dataclasses
import math
import secrets
import time
from collections.abc import AsyncIterator, Generator
from contextlib import ExitStack
from typing import Any

import numpy as np
import numpy.typing as npt
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from homespun.config import GenerateConfig, ReaderConfig, SamplingConfig
from homespun.engine.base import Floats
from homespun.errors import UserError
from homespun.generation.batching import Drawn, log_softmax
from homespun.generation.session import MAX_BATCH
from homespun.language_model import LanguageModel, load_stored
from homespun.server.answers import FieldError
from homespun.server.parsing import Fields, refuse
from homespun.server.sending import Streamed, event
from homespun.server.studio.exchange import JSON, events
from homespun.server.studio.models import Loaded, Models
from homespun.server.studio.settings import checked_settings, described
from homespun.server.studio.spelling import spelled, spelled_text
from homespun.server.studio.state import State
from homespun.server.writing import Growing, Wanted, Writing
from homespun.tokenizer import Tokenizer

SETTINGS = (*(field.name for field in dataclasses.fields(SamplingConfig)), "num_samples")
N_LIKELIEST = 8
"""Tokens that are named beside each one that was drawn."""


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
        fields = Fields(await request.body())
        config = checked_settings(GenerateConfig, fields.settings("settings"), SETTINGS, most)
        check_stops(config, state)
        path, prompt = fields.needed_text("model"), _prompt(fields)
        fields.end()
        with ExitStack() as held:
            loaded = held.enter_context(await run_in_threadpool(state.models.lent, path))
            ids = await run_in_threadpool(tokens_of, loaded.model, prompt)
            facts = {"prompt": spelled_text(loaded.model.tokenizer, ids)}
            return written(loaded, ids, config, facts, held, n=config.num_samples)

    async def growth(request: Request) -> Response:
        """The probability of a next token at each checkpoint of a run: server-sent events."""
        fields = Fields(await request.body())
        path, text = fields.needed_text("model"), fields.text("next") or ""
        prompt, token = _prompt(fields), fields.any("token")
        fields.end()
        return events(grown(state.models, path, prompt, text, token))

    return [
        Route("/api/studio", studio),
        Route("/api/write", write, methods=["POST"]),
        Route("/api/growth", growth, methods=["POST"]),
    ]


def _prompt(fields: Fields) -> str | list[int]:
    """The tokens to continue, or without them a text; an empty one lets the model begin by itself."""
    ids, text = fields.any("ids"), fields.text("prompt")
    if ids and isinstance(ids, list):
        return ids
    if ids or text is None:
        refuse("prompt", "prompt is missing: a text is expected, or a list of tokens in ids")
    return text


def check_stops(config: SamplingConfig, state: State) -> None:
    """
    Raises:
        FieldError: there are too many stop strings, or one is too long.
    """
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
        if not all(type(token) is int and token in known for token in prompt):
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


def written(
    loaded: Loaded,
    ids: list[int],
    config: SamplingConfig,
    facts: JSON,
    held: ExitStack,
    *,
    n: int = 1,
    is_answer: bool = False,
) -> Response:
    """Server-sent events. First `facts` with the seed and the context, then the growth of each text, and at the end the
    time that all took. Probabilities are the model's own, at temperature 1 and without filters.

    Args:
        ids: tokens to continue.
        held: is closed when all is written, or when the reader leaves.
        n: number of texts.
        is_answer: white space at the beginning of a text is left out.

    Raises:
        Unanswerable: too many texts wait, or a text needs more memory than there may be.
    """
    if config.seed is None:
        config = dataclasses.replace(config, seed=secrets.randbits(32))
    writing = Writing(loaded.service, Wanted([ids], config, n, N_LIKELIEST))
    held.callback(writing.cancel)
    begun = facts | {"seed": config.seed, "context": loaded.model.config.seq_len}
    return Streamed(_growth_of(loaded, writing, begun, n, is_answer), held.pop_all().close)


async def _growth_of(
    loaded: Loaded, writing: Writing, begun: JSON, n: int, is_answer: bool
) -> AsyncIterator[Any]:
    yield begun
    start = time.perf_counter()
    texts = [Growing(is_answer=is_answer) for _ in range(n)]
    async for come in writing.pieces():
        new = []
        for sample, pieces in come.items():
            for piece in pieces:
                text, _ = texts[sample].add([piece])
                told: JSON = {"sample": sample, "text": text, "finish": piece.finish}
                if piece.drawn:
                    told |= _token(loaded.model.tokenizer, piece.drawn)
                new.append(event(told))
        yield b"".join(new)
    yield {
        "tokens": sum(text.n_tokens for text in texts),
        "seconds": time.perf_counter() - start,
    }


def _token(tokenizer: Tokenizer, drawn: Drawn) -> JSON:
    """A token that was drawn, its probability, and the likeliest ones."""
    assert drawn.logprob is not None
    return {
        "token": drawn.token,
        "probability": _share(drawn.logprob),
        "likeliest": [
            [token, spelled(tokenizer, token)["text"], _share(logprob)]
            for token, logprob in drawn.top
        ],
    }


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
    with models.lent(path) as loaded:
        tokenizer, ids = loaded.model.tokenizer, tokens_of(loaded.model, prompt)
    n_tokens = 1
    if token is None:
        following = tokenizer.encode(text)
        if not following:
            raise FieldError(
                "next", "write the text that may come next; it often begins with a space"
            )
        token, n_tokens = following[0], len(following)
    elif type(token) is not int or token not in range(tokenizer.vocab_size):
        raise FieldError("next", "this model does not know the token")
    yield {"token": spelled(tokenizer, token), "n_tokens": n_tokens}
    run = models.run_of(path)
    n_read = min(len(run), models.limits.checkpoints)
    places = np.unique(np.linspace(0, len(run) - 1, n_read).astype(int))
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
