"""A story flows in; the verdict of the judge flows out, with the place of each sentence in the text."""

from collections.abc import Iterable

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from homespun.server.answers import FieldError
from homespun.server.limits import Limits
from homespun.server.parsing import Fields
from homespun.server.studio.exchange import JSON
from homespun.server.studio.state import State
from homespun.stories.judge import events, judge


def routes(state: State) -> list[BaseRoute]:
    async def judged(request: Request) -> Response:
        fields = Fields(await request.body())
        text = fields.needed_text("text")
        fields.end()
        return JSONResponse(await run_in_threadpool(verdict, text, state.limits))

    return [Route("/api/judge", judged, methods=["POST"])]


def verdict(text: str, limits: Limits) -> JSON:
    """`consistent`, the number of sentences `understood`, and `pieces`: the whole text in order, each piece with the
    problems of its sentence, or with `null` instead where it is no sentence that was judged.

    Raises:
        FieldError: there is no text, or too much.
    """
    if not text.strip():
        raise FieldError("text", "there is no story yet: write one, or let a model write it")
    if len(text) > (most := limits.story_characters):
        raise FieldError("text", f"the judge reads at most {most:,} characters: shorten it")
    readings = list(events(text))
    found = judge(text)
    problems: dict[int, list[str]] = {}
    for problem in found.problems:
        problems.setdefault(problem.sentence, []).append(problem.what)
    pieces: list[JSON] = []
    end = 0
    for number, (start, stop) in enumerate(placed(text, (sentence for sentence, _ in readings))):
        if start > end:
            pieces.append({"text": text[end:start], "problems": None})
        pieces.append({"text": text[start:stop], "problems": problems.get(number, [])})
        end = stop
    if end < len(text):
        pieces.append({"text": text[end:], "problems": None})
    return {
        "consistent": found.consistent,
        "sentences": len(readings),
        "understood": sum(reading is not None for _, reading in readings),
        "pieces": pieces,
    }


def placed(text: str, sentences: Iterable[str]) -> list[tuple[int, int]]:
    """Where each sentence of a text stands in it. Sentences come in order, and their white space may be another one."""
    places, end = [], 0
    for sentence in sentences:
        start = -1
        for character in sentence:
            if character.isspace():
                continue
            while text[end].isspace():
                end += 1
            assert text[end] == character
            start = end if start < 0 else start
            end += 1
        places.append((start, end))
    return places
