"""Messages and settings flow in; the answer of a model flows out while it writes, or a file that holds them.

The answer is that of `homespun chat` and of `/v1/chat/completions`: one template, one thread that generates.
"""

from contextlib import ExitStack
from dataclasses import fields as fields_of

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from homespun.config import SamplingConfig
from homespun.errors import UserError
from homespun.generation.conversation_file import add_conversation
from homespun.server.answers import FieldError
from homespun.server.chat import fitting, messages_of
from homespun.server.parsing import Fields
from homespun.server.studio.exchange import JSON
from homespun.server.studio.folders import place
from homespun.server.studio.form import command_line
from homespun.server.studio.models import Found
from homespun.server.studio.playground import check_stops, written
from homespun.server.studio.settings import checked_settings, described
from homespun.server.studio.state import State
from homespun.tokenizer import check_messages
from homespun.tokenizer.messages import ASSISTANT

SETTINGS = tuple(field.name for field in fields_of(SamplingConfig))
DOWNLOAD = ("download", "--dataset", "stories-questions", "--plain", "--num-samples", "6000")
"""Conversations for a model of the built-in stories."""
QUESTIONS = "data/stories-questions_6000.jsonl"
ANSWERS = "answers"
"""The folder of a run that learns from them."""


def routes(state: State) -> list[BaseRoute]:
    most = {"max_tokens": state.limits.max_tokens}

    async def chat(request: Request) -> Response:
        """The facts that the page needs first: models that answer come first."""

        def facts() -> JSON:
            models = [
                {
                    "path": model.path,
                    "label": model.label,
                    "answers": answers,
                    "teach": _teach(model),
                }
                for model, answers in state.models.with_template()
            ]
            models.sort(key=lambda model: not model["answers"])
            return {
                "folder": state.folder.name,
                "models": models,
                "settings": described(SamplingConfig, SETTINGS, most),
            }

        return JSONResponse(await run_in_threadpool(facts))

    async def answer(request: Request) -> Response:
        """Answer the last message: server-sent events."""
        fields = Fields(await request.body())
        config = checked_settings(SamplingConfig, fields.settings("settings"), SETTINGS, most)
        check_stops(config, state)
        path = fields.needed_text("model")
        messages = messages_of(fields.any("messages"), state.limits.messages)
        fields.end()
        with ExitStack() as held:
            loaded = held.enter_context(await run_in_threadpool(state.models.lent, path))
            kept, ids = await run_in_threadpool(fitting, loaded.service, messages, config)
            facts = {"n_left_out": len(messages) - len(kept), "n_prompt": len(ids)}
            return written(loaded, ids, config, facts, held, is_answer=True)

    async def save(request: Request) -> Response:
        """Add a conversation to a file below the folder of the studio."""
        fields = Fields(await request.body())
        name = fields.needed_text("file").strip()
        messages = messages_of(fields.any("messages"), state.limits.messages)
        fields.end()

        def work() -> JSON:
            checked = check_messages(messages, ends_with=ASSISTANT)
            try:
                add_conversation(place(state.folder, name), checked)
            except UserError as error:
                shown = str(error).replace(f"{state.folder}/", "")
                raise FieldError("file", shown) from None
            return {"n_messages": len(checked)}

        return JSONResponse(await run_in_threadpool(work))

    return [
        Route("/api/chat", chat),
        Route("/api/chat/answer", answer, methods=["POST"]),
        Route("/api/chat/save", save, methods=["POST"]),
    ]


def _teach(model: Found) -> list[str]:
    """The commands after which a model answers questions about stories."""
    start = model.path if model.kind == "model" else model.run or "."
    train = ("train", "--init-from", start, "--data-file", QUESTIONS, "--checkpoint-dir", ANSWERS)
    return [command_line(DOWNLOAD), command_line(train)]
