"""Questions and orders of the Runs page flow in; runs, curves, plans and the starts and stops of runs flow out.

The page holds one stream open. It begins with everything that the page shows, so that a page that is loaded again, or
reached again after a pause, has lost nothing.
"""

from collections.abc import AsyncIterator, Callable, Mapping
from functools import partial
from typing import Any

import anyio
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from homespun.config import TOKENS_DIR
from homespun.errors import UserError
from homespun.reporting.run_record import read_standing
from homespun.server.answers import FieldError
from homespun.server.parsing import Fields
from homespun.server.sending import Streamed
from homespun.server.studio.exchange import JSON
from homespun.server.studio.folders import place, run_place
from homespun.server.studio.form import (
    LENGTHS,
    NAMES,
    ON_RESUME,
    check_reward,
    checked_form,
    command_line,
    field_at_fault,
    form,
    note_on,
    run_of,
    words_of,
)
from homespun.server.studio.library import Library
from homespun.server.studio.state import State
from homespun.server.studio.watched import Cursor

POLL_SECONDS = 0.5
"""Between two looks for news of a page."""
SILENT_SECONDS = 5.0
"""After so long without news the stream shows that it is there, and finds out whether the page is."""


def routes(state: State) -> list[BaseRoute]:
    page = Runs(state)
    return [
        Route("/api/runs", page.listed),
        Route("/api/runs/live", page.live),
        Route("/api/runs/curves", page.curves),
        Route("/api/runs/advice", page.advice),
        Route("/api/runs/messages", page.messages),
        Route("/api/runs/tune", page.tune),
        Route("/api/runs/form", page.form),
        Route("/api/runs/check", page.check, methods=["POST"]),
        Route("/api/runs/plan", page.plan, methods=["POST"]),
        Route("/api/runs/start", page.start, methods=["POST"]),
        Route("/api/runs/stop", page.stop, methods=["POST"]),
        Route("/api/runs/resume", page.resume, methods=["POST"]),
        Route("/api/runs/forget", page.forget, methods=["POST"]),
    ]


class Runs:
    """The Runs page of one studio."""

    def __init__(self, state: State) -> None:
        self._root, self._limits = state.folder, state.limits
        self._processes = state.processes
        self._library = Library(state.folder, self._processes, state.limits)

    async def listed(self, request: Request) -> Response:
        return JSONResponse(await run_in_threadpool(self._library.look))

    async def live(self, request: Request) -> Response:
        names = request.query_params.getlist("run")[: self._limits.compared_runs]
        return Streamed(self._news(names))

    async def _news(self, names: list[str]) -> AsyncIterator[JSON | None]:
        """The news of some runs, and None from time to time while there is none."""
        cursors: dict[str, Cursor] = {}
        told: JSON | None = None
        silent = 0.0
        while True:
            listed = await run_in_threadpool(self._library.look)
            found = await run_in_threadpool(self._library.news, names, cursors)
            if listed != told:
                told = listed
                found.insert(0, {"kind": "list", **listed})
            for event in found:
                yield event
            silent = 0.0 if found else silent + POLL_SECONDS
            if silent >= SILENT_SECONDS:
                silent = 0.0
                yield None
            await anyio.sleep(POLL_SECONDS)

    async def curves(self, request: Request) -> Response:
        """The curves of a run between two steps, with more detail than the whole has."""
        low, high = (_number(request, name) for name in ("from", "to"))

        def found() -> JSON:
            return self._library.watched(_named(request, "run")).whole(low, high)

        return JSONResponse((await run_in_threadpool(found))["curves"])

    async def advice(self, request: Request) -> Response:
        name = _named(request, "run")
        return JSONResponse(await run_in_threadpool(self._library.advice, name))

    async def messages(self, request: Request) -> Response:
        name = _named(request, "run")
        return JSONResponse({"text": await run_in_threadpool(self._processes.messages, name)})

    async def tune(self, request: Request) -> Response:
        name = _named(request, "tune")
        return JSONResponse(await run_in_threadpool(self._library.tune, name))

    async def form(self, request: Request) -> Response:
        groups = await run_in_threadpool(form)
        return JSONResponse({"folder": self._root.name, "groups": groups, "lengths": LENGTHS})

    async def check(self, request: Request) -> Response:
        """Check the settings of a form: the mistakes in them, and the command that they stand for."""
        fields = Fields(await request.body())
        settings = fields.settings("settings")
        fields.end()

        def answer() -> JSON:
            typed = checked_form(self._root, settings)
            errors, note = dict(typed.errors), None
            if not errors:
                try:
                    note = note_on(self._root, typed.values)
                except FieldError as error:
                    errors[error.field] = str(error)
            words = ["train", *words_of(typed.values)]
            return {"errors": errors, "note": note, "command": command_line(words)}

        return JSONResponse(await run_in_threadpool(answer))

    async def plan(self, request: Request) -> Response:
        fields = Fields(await request.body())
        run = fields.text("run")
        settings = fields.settings("settings", {} if run else None)
        fields.end()

        def answer() -> JSON:
            words = self._resume_words(run, settings) if run else words_of(self._typed(settings))
            facts = with_field(self._processes.plan, ["plan", *words])
            trains = any(one["state"] == "running" for one in self._library.look()["runs"])
            return {"facts": facts, "is_busy": trains}

        return JSONResponse(await run_in_threadpool(answer))

    async def start(self, request: Request) -> Response:
        fields = Fields(await request.body())
        settings = fields.settings("settings")
        fields.end()

        def answer() -> JSON:
            values = self._typed(settings)
            note_on(self._root, values)
            run = run_of(self._root, values)
            self._processes.start(run, ["train", *words_of(values)])
            return {"run": run}

        return await self._ordered(answer)

    async def stop(self, request: Request) -> Response:
        run = _run_of(Fields(await request.body()))

        def answer() -> JSON:
            if run not in self._processes.started():  # one that has no record yet
                run_place(self._root, run)
            self._processes.stop(run)
            return {"run": run}

        return await self._ordered(answer)

    async def resume(self, request: Request) -> Response:
        fields = Fields(await request.body())
        run, settings = fields.needed_text("run"), fields.settings("settings", {})
        fields.end()

        def answer() -> JSON:
            words = self._resume_words(run, settings)
            self._processes.start(run, ["train", *words])
            return {"run": run}

        return await self._ordered(answer)

    async def forget(self, request: Request) -> Response:
        run = _run_of(Fields(await request.body()))

        def answer() -> JSON:
            if run not in self._processes.started():
                raise UserError("the studio has not started such a run")
            self._processes.forget(run)
            return {"run": run}

        return await self._ordered(answer)

    async def _ordered(self, order: Callable[[], JSON]) -> Response:
        """Carry an order out, and see to it that the next look shows its effect."""
        answer = await run_in_threadpool(order)
        await run_in_threadpool(partial(self._library.look, now=True))
        return JSONResponse(answer)

    def _typed(self, settings: JSON, names: tuple[str, ...] = NAMES) -> Mapping[str, Any]:
        """The values of settings that were typed into a form.

        Raises:
            FieldError: one of them was refused.
        """
        typed = checked_form(self._root, settings, names)
        typed.refuse()
        return typed.values

    def _resume_words(self, run: str, settings: JSON) -> list[str]:
        stored = read_standing(run_place(self._root, run)).requested
        place(self._root, str(stored.get("tokens_dir") or TOKENS_DIR))  # the run writes there, too
        check_reward(stored.get("reward"))
        values = self._typed(settings, ON_RESUME)
        return ["--resume", f"--checkpoint-dir={run}", *words_of(values)]


def with_field(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function; a refusal names the setting that its message begins with."""
    try:
        return function(*arguments)
    except FieldError:
        raise
    except UserError as error:
        raise FieldError(field_at_fault(str(error)), str(error)) from None


def _run_of(fields: Fields) -> str:
    """The run that a body names, and nothing else."""
    run = fields.needed_text("run")
    fields.end()
    return run


def _named(request: Request, parameter: str) -> str:
    name = request.query_params.get(parameter)
    if not name:
        raise UserError(f"the question names no {parameter}")
    return name


def _number(request: Request, parameter: str) -> float:
    text = request.query_params.get(parameter)
    if text is None:
        return 0.0 if parameter == "from" else float("inf")
    try:
        return float(text)
    except ValueError:
        raise UserError(f"{parameter} is {text[:50]!r}: a number is expected") from None
