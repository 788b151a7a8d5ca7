"""OpenAI's `/v1/chat/completions`: a conversation flows in, the answer of the model flows out.

A model takes conversations if its tokenizer has a chat template, which `fitting` applies, and nothing else here.
"""

from collections.abc import AsyncIterator, Sequence
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from homespun.config import SamplingConfig
from homespun.errors import UserError
from homespun.generation.batching import Drawn
from homespun.server.answers import Unanswerable
from homespun.server.completions import (
    check_model,
    frame,
    ignore,
    sampling_of,
    streaming_of,
    usage_of,
)
from homespun.server.parsing import Fields, checked_text, refuse
from homespun.server.sending import DONE, Chunks, Streamed, answered
from homespun.server.writing import FINISH_REASONS, Growing, Service, Wanted, Writing, token_text
from homespun.tokenizer import Message


def fitting(
    service: Service, messages: Sequence[Message], sampling: SamplingConfig
) -> tuple[list[Message], list[int]]:
    """A conversation, and its tokens up to the place where the model's answer begins. If they leave no room for an
    answer, the oldest messages are left out.

    Raises:
        Unanswerable: the model has no chat template, or the messages break its rules.
    """
    try:
        return service.model.fitting(messages, sampling)
    except UserError as error:
        raise Unanswerable(400, str(error), "messages") from None


async def chat_completions(request: Request) -> Response:
    """The route."""
    service: Service = request.app.state.service
    asked = await run_in_threadpool(Chat, service, await request.body())
    writing = Writing(service, asked.wanted)
    if asked.wanted.is_streamed:
        return Streamed(asked.chunks(writing), writing.cancel, last=DONE)
    try:
        return await answered(request, asked.whole(writing))
    finally:
        writing.cancel()


class Chat:
    """One request, and the form of its answer."""

    def __init__(self, service: Service, body: bytes) -> None:
        """
        Raises:
            Unanswerable: something in the body is missing, unknown or out of bounds, or the model takes no
                conversations.
        """
        self.service = service
        limits, fields = service.limits, Fields(body)
        check_model(fields, service)
        messages = messages_of(fields.any("messages"), limits.messages)
        most = min(limits.max_tokens, service.model.config.seq_len)
        max_tokens = fields.integer("max_tokens", most, 1, limits.max_tokens)
        max_tokens = fields.integer("max_completion_tokens", max_tokens, 1, limits.max_tokens)
        n_top = fields.integer("top_logprobs", 0, 0, limits.logprobs)
        has_logprobs = fields.flag("logprobs")
        if n_top and not has_logprobs:
            refuse("top_logprobs", "top_logprobs needs logprobs")
        sampling = sampling_of(fields, service, max_tokens)
        self.wanted = Wanted(
            [fitting(service, messages, sampling)[1]],
            sampling,
            fields.integer("n", 1, 1, limits.texts),
            n_top if has_logprobs else None,
            fields.biases("logit_bias", service.tokenizer.vocab_size, limits.biases, limits.bias),
            *streaming_of(fields),
        )
        ignore(fields)
        fields.end()
        self.frame = frame("chatcmpl", "chat.completion", service)

    async def whole(self, writing: Writing) -> dict[str, Any]:
        """The answer in one piece."""
        growing = [Growing(is_answer=True) for _ in range(self.wanted.n)]
        tokens: list[list[Drawn]] = [[] for _ in growing]
        async for come in writing.pieces():
            for index, pieces in come.items():
                tokens[index] += growing[index].add(pieces)[1]
        choices = [
            {
                "index": index,
                "message": {"role": "assistant", "content": text.text.strip(), "refusal": None},
                "logprobs": self._logprobs(tokens[index]),
                "finish_reason": FINISH_REASONS[text.finish or "length"],
            }
            for index, text in enumerate(growing)
        ]
        return self.frame | {"choices": choices, "usage": usage_of(self.wanted, growing)}

    async def chunks(self, writing: Writing) -> AsyncIterator[Any]:
        """The answer as it grows. The role comes first."""
        growing = [Growing(is_answer=True) for _ in range(self.wanted.n)]
        rest = self.frame | {"object": "chat.completion.chunk"}
        chunks = Chunks(rest, {"usage": None} if self.wanted.has_usage_in_stream else {})

        def choice(
            index: int,
            delta: dict[str, str],
            tokens: Sequence[Drawn] = (),
            reason: str | None = None,
        ) -> dict[str, Any]:
            return {
                "index": index,
                "delta": delta,
                "logprobs": self._logprobs(tokens) if tokens else None,
                "finish_reason": reason,
            }

        opening = {"role": "assistant", "content": ""}
        yield chunks.of(choice(index, opening) for index in range(self.wanted.n))
        async for come in writing.pieces():
            choices = []
            for index, pieces in come.items():
                text = growing[index]
                new, tokens = text.add(pieces)
                if new or tokens:
                    choices.append(choice(index, {"content": new}, tokens))
                if text.finish:
                    choices.append(choice(index, {}, (), FINISH_REASONS[text.finish]))
            if choices:
                yield chunks.of(choices)
        if self.wanted.has_usage_in_stream:
            yield rest | {"choices": [], "usage": usage_of(self.wanted, growing)}

    def _logprobs(self, tokens: Sequence[Drawn]) -> dict[str, Any] | None:
        if self.wanted.n_top is None:
            return None

        def entry(token: int, logprob: float | None) -> dict[str, Any]:
            tokenizer = self.service.tokenizer
            return {
                "token": token_text(tokenizer, token),
                "logprob": logprob,
                "bytes": list(tokenizer.token_bytes(token)),
            }

        content = [
            entry(drawn.token, drawn.logprob)
            | {"top_logprobs": [entry(token, value) for token, value in drawn.top]}
            for drawn in tokens
        ]
        return {"content": content, "refusal": None}


def messages_of(value: Any, most: int) -> list[Message]:
    """The messages of a conversation, each with a role and a text. `check_messages` looks at their order.

    Raises:
        Unanswerable: there are none or too many, or one of them is none.
    """
    if not isinstance(value, list) or not value:
        refuse("messages", "messages has to be a list of messages with role and content")
    if len(value) > most:
        refuse("messages", f"there are {len(value):,} messages: at most {most:,} are possible")
    messages = []
    for number, given in enumerate(value):
        where = f"messages[{number}]"
        fields = Fields.of(where, given)
        role = fields.text("role") or ""
        content = _content(where, fields.any("content", ""))
        fields.text("name")
        fields.only("refusal", "")
        fields.end(f"{where}.")
        # OpenAI's newer models have another word for the system.
        messages.append({"role": "system" if role == "developer" else role, "content": content})
    return messages


def _content(where: str, content: Any) -> str:
    """The text of a message: a text, or a list of parts with texts."""
    if not isinstance(content, list):
        return checked_text(f"{where}.content", content)
    texts = []
    for part in content:
        fields = Fields.of(f"{where}.content", part)
        if fields.any("type") != "text":
            refuse("messages", f"{where} has a part that is no text: this model reads text alone")
        texts.append(fields.text("text") or "")
        fields.end(f"{where}.content.")
    return "".join(texts)
