"""OpenAI's `/v1/completions`: a prompt flows in, its continuations flow out, whole or as server-sent events.

The functions without an underscore serve `/v1/chat/completions`, too. Defaults are OpenAI's: the model's own
distribution at temperature 1.
"""

import time
import uuid
from collections.abc import AsyncIterator, Sequence
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from homespun.config import SamplingConfig
from homespun.generation.batching import Drawn
from homespun.server.answers import Unanswerable
from homespun.server.limits import LEAST_TEMPERATURE
from homespun.server.parsing import Fields, checked_text, refuse
from homespun.server.sending import DONE, Chunks, Streamed, answered
from homespun.server.writing import (
    FINISH_REASONS,
    Growing,
    Service,
    Wanted,
    Writing,
    token_text,
)

DEFAULT_MAX_TOKENS = 16
"""OpenAI's."""

LARGEST_SEED = (1 << 63) - 1


async def completions(request: Request) -> Response:
    """The route."""
    service: Service = request.app.state.service
    # Encoding a long prompt takes a while, and the other clients should not wait for it.
    asked = await run_in_threadpool(Completion, service, await request.body())
    writing = Writing(service, asked.wanted) if asked.wanted.writes else None
    if asked.wanted.is_streamed:
        end = writing.cancel if writing else lambda: None
        return Streamed(asked.chunks(writing), end, last=DONE)
    try:
        return await answered(request, asked.whole(writing))
    finally:
        if writing:
            writing.cancel()


class Completion:
    """One request, and the form of its answer."""

    def __init__(self, service: Service, body: bytes) -> None:
        """
        Raises:
            Unanswerable: something in the body is missing, unknown or out of bounds.
        """
        self.service = service
        limits, fields = service.limits, Fields(body)
        check_model(fields, service)
        prompts = _prompts(fields.any("prompt"), service)
        self.echoes = fields.flag("echo")
        n = fields.integer("n", 1, 1, limits.texts)
        if len(prompts) * n > limits.texts:
            refuse(
                "n",
                f"{len(prompts)} prompts times n are {len(prompts) * n} texts: at most {limits.texts} are possible",
            )
        max_tokens = fields.integer("max_tokens", DEFAULT_MAX_TOKENS, 0, limits.max_tokens)
        if not max_tokens and not self.echoes:
            refuse("max_tokens", "max_tokens is 0: without echo, at least 1 is expected")
        n_top = fields.integer("logprobs", None, 0, limits.logprobs)
        self.wanted = Wanted(
            prompts,
            sampling_of(fields, service, max_tokens),
            n,
            n_top,
            fields.biases("logit_bias", service.tokenizer.vocab_size, limits.biases, limits.bias),
            *streaming_of(fields),
            writes=max_tokens > 0,
        )
        fields.only("best_of", 1)
        fields.only("suffix", "")
        ignore(fields)
        fields.end()
        vocab_size = service.model.config.vocab_size
        if self.echoes and n_top is not None:
            longest = limits.echo_logits // vocab_size
            if max(map(len, prompts)) > longest:
                refuse(
                    "echo", f"echo with logprobs takes prompts of at most {longest:,} tokens here"
                )
        self.frame = frame("cmpl", "text_completion", service)

    async def whole(self, writing: Writing | None) -> dict[str, Any]:
        """The answer in one piece."""
        growing = [Growing() for _ in range(self.wanted.n_texts)]
        begun = await self._begun()
        tokens: list[list[Drawn]] = [[] for _ in growing]
        if writing:
            async for come in writing.pieces():
                for index, pieces in come.items():
                    tokens[index] += growing[index].add(pieces)[1]
        choices = []
        for index, text in enumerate(growing):
            echo, echoed = begun[index // self.wanted.n]
            all_tokens = [*echoed, *_moved(tokens[index], len(echo))]
            reason = FINISH_REASONS[text.finish or "length"]
            choices.append(self._choice(index, echo + text.text, all_tokens, reason))
        return self.frame | {"choices": choices, "usage": self._usage(growing)}

    async def chunks(self, writing: Writing | None) -> AsyncIterator[Any]:
        """The answer as it grows. Each prompt that is echoed comes first."""
        wanted, growing = self.wanted, [Growing() for _ in range(self.wanted.n_texts)]
        chunks = Chunks(self.frame, {"usage": None} if wanted.has_usage_in_stream else {})
        begun = await self._begun()
        if self.echoes:
            reason = None if writing else "length"
            echoes = (begun[index // wanted.n] for index in range(wanted.n_texts))
            yield chunks.of(
                self._choice(index, echo, echoed, reason)
                for index, (echo, echoed) in enumerate(echoes)
            )
        if writing:
            async for come in writing.pieces():
                choices = []
                for index, pieces in come.items():
                    text = growing[index]
                    new, tokens = text.add(pieces)
                    if new or tokens or text.finish:
                        reason = FINISH_REASONS[text.finish] if text.finish else None
                        echo, _ = begun[index // wanted.n]
                        choices.append(self._choice(index, new, _moved(tokens, len(echo)), reason))
                if choices:
                    yield chunks.of(choices)
        if wanted.has_usage_in_stream:
            yield self.frame | {"choices": [], "usage": self._usage(growing)}

    async def _begun(self) -> list[tuple[str, list[Drawn]]]:
        """The echo of each prompt: its text, and its tokens if their logprobs are asked for."""
        if not self.echoes:
            return [("", [])] * len(self.wanted.prompts)
        begun = []
        for ids in self.wanted.prompts:
            has_mark = ids[0] == self.service.tokenizer.eot_id
            drawn: list[Drawn] = []
            if self.wanted.n_top is not None:
                drawn = await self.service.prompt_logprobs(ids, self.wanted.n_top)
            characters = self.service.tokenizer.stream()
            text, tokens = "", []
            for number, token in enumerate(ids):
                if drawn and not (number == 0 and has_mark):
                    tokens.append(drawn[number]._replace(offset=len(text)))
                text += characters.push(token)
            begun.append((text + characters.flush(), tokens))
        return begun

    def _choice(
        self, index: int, text: str, tokens: Sequence[Drawn], reason: str | None
    ) -> dict[str, Any]:
        logprobs = None
        if self.wanted.n_top is not None:
            logprobs = _logprobs(tokens, self.service)
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}

    def _usage(self, growing: Sequence[Growing]) -> dict[str, int]:
        return usage_of(self.wanted, growing)


def _prompts(value: Any, service: Service) -> list[list[int]]:
    """The tokens of each prompt: a text, several, tokens, or several lists of tokens."""
    if value is None or isinstance(value, str):
        value = [value or ""]
    if not isinstance(value, list) or not value:
        refuse(
            "prompt",
            "prompt has to be a text, a list of texts, a list of tokens, or a list of such lists",
        )
    if all(type(token) is int for token in value):
        value = [value]
    if len(value) > service.limits.texts:
        refuse(
            "prompt",
            f"there are {len(value):,} prompts: at most {service.limits.texts} are possible",
        )
    prompts = []
    for prompt in value:
        if not isinstance(prompt, list):
            checked_text("prompt", prompt)
        elif not all(type(token) is int for token in prompt):
            refuse("prompt", "a list of tokens has to hold whole numbers")
        elif not prompt:
            refuse("prompt", "a list of tokens is empty")
        prompts.append(service.prompt_ids(prompt))
    return prompts


def check_model(fields: Fields, service: Service) -> None:
    """
    Raises:
        Unanswerable: the request names another model than the one that is loaded, or none.
    """
    name = fields.text("model")
    if name is None:
        refuse("model", f"model is missing: this server has {service.name}")
    if name != service.name:
        raise Unanswerable(
            404,
            f"there is no model {name[:100]!r}: this server has {service.name}",
            "model",
            "model_not_found",
        )


def sampling_of(fields: Fields, service: Service, max_tokens: int) -> SamplingConfig:
    """The settings of sampling in a request. `top_k`, `min_p` and `repetition_penalty` are our own additions."""
    limits = service.limits
    return SamplingConfig(
        max_tokens=max(1, max_tokens),
        temperature=fields.number(
            "temperature", 1.0, LEAST_TEMPERATURE, limits.temperature, or_else=0
        ),
        top_p=fields.number("top_p", 1.0, 0.0001, 1),
        top_k=fields.integer("top_k", None, 1, service.tokenizer.vocab_size),
        min_p=fields.number("min_p", 0.0, 0, 1),
        repetition_penalty=fields.number("repetition_penalty", 1.0, 0.1, 10),
        seed=fields.integer("seed", None, 0, LARGEST_SEED),
        stop=fields.texts("stop", limits.stops, limits.stop_characters),
    )


def streaming_of(fields: Fields) -> tuple[bool, bool]:
    """Whether to stream, and whether the stream ends with the usage."""
    streams, options = fields.flag("stream"), fields.any("stream_options")
    if options is None:
        return streams, False
    if not streams:
        refuse("stream_options", "stream_options needs stream")
    inside = Fields.of("stream_options", options)
    has_usage = inside.flag("include_usage")
    inside.flag("include_obfuscation")
    inside.end("stream_options.")
    return streams, has_usage


def ignore(fields: Fields) -> None:
    """Fields that clients send, and that change nothing."""
    fields.only("presence_penalty", 0, 0.0)
    fields.only("frequency_penalty", 0, 0.0)
    fields.text("user")


def frame(prefix: str, kind: str, service: Service) -> dict[str, Any]:
    """The fields that an answer and all its chunks have in common."""
    return {
        "id": f"{prefix}-{uuid.uuid4().hex}",
        "object": kind,
        "created": int(time.time()),
        "model": service.name,
    }


def usage_of(wanted: Wanted, growing: Sequence[Growing]) -> dict[str, int]:
    """The tokens of the prompts, each counted once and with its end-of-text mark, and those that were drawn."""
    prompt, written = sum(map(len, wanted.prompts)), sum(text.n_tokens for text in growing)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": written,
        "total_tokens": prompt + written,
    }


def _logprobs(tokens: Sequence[Drawn], service: Service) -> dict[str, Any]:
    def text(token: int) -> str:
        return token_text(service.tokenizer, token)

    tops = []
    for drawn in tokens:
        # The token itself is there, too, as with OpenAI.
        top = dict(drawn.top) | ({} if drawn.logprob is None else {drawn.token: drawn.logprob})
        tops.append({text(token): value for token, value in top.items()} or None)
    return {
        "tokens": [text(drawn.token) for drawn in tokens],
        "token_logprobs": [drawn.logprob for drawn in tokens],
        "top_logprobs": tops,
        "text_offset": [drawn.offset for drawn in tokens],
    }


def _moved(tokens: Sequence[Drawn], by: int) -> Sequence[Drawn]:
    return [drawn._replace(offset=drawn.offset + by) for drawn in tokens] if by else tokens
