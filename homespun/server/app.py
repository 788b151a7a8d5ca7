"""The routes of `homespun serve` around one `Service`, behind the guard."""

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from homespun.server.answers import HANDLERS, Unanswerable
from homespun.server.chat import chat_completions
from homespun.server.completions import completions
from homespun.server.guard import Application, Guard
from homespun.server.metrics import CONTENT_TYPE, Counted
from homespun.server.writing import Service


async def models(request: Request) -> Response:
    service: Service = request.app.state.service
    return JSONResponse({"object": "list", "data": [_described(service)]})


async def model(request: Request) -> Response:
    service: Service = request.app.state.service
    name = request.path_params["name"]
    if name != service.name:
        raise Unanswerable(
            404,
            f"there is no model {name[:100]!r}: this server has {service.name}",
            "model",
            "model_not_found",
        )
    return JSONResponse(_described(service))


def _described(service: Service) -> dict[str, object]:
    return {
        "id": service.name,
        "object": "model",
        "created": service.created,
        "owned_by": "homespun",
        "context": service.model.config.seq_len,
    }


async def health(request: Request) -> Response:
    """Whether texts can be written. 503 when the thread that generates has ended."""
    batcher = request.app.state.service.batcher
    if not batcher.is_alive:
        return JSONResponse({"status": batcher.failure or "stopped"}, 503)
    return JSONResponse(
        {"status": "ok", "running": batcher.n_running, "waiting": batcher.n_waiting}
    )


async def metrics(request: Request) -> Response:
    service: Service = request.app.state.service
    batcher = service.batcher
    text = service.metrics.text(
        gauges={
            "texts_running": ("Texts that are being written.", batcher.n_running),
            "texts_waiting": ("Texts that wait for a slot.", batcher.n_waiting),
            "alive": ("1 while the thread that generates is alive.", batcher.is_alive),
        },
        counters={
            "tokens_written_total": ("Tokens drawn.", batcher.tokens_written),
            "prompt_tokens_total": ("Tokens of prompts read.", batcher.tokens_read),
        },
    )
    return PlainTextResponse(text, media_type=CONTENT_TYPE)


ROUTES = (
    Route("/v1/completions", completions, methods=["POST"]),
    Route("/v1/chat/completions", chat_completions, methods=["POST"]),
    Route("/v1/models", models),
    Route("/v1/models/{name:path}", model),
    Route("/health", health),
    Route("/metrics", metrics),
)


def server_app(service: Service, *, key: str | None = None, is_public: bool = False) -> Application:
    """The application of `homespun serve`; `key` and `is_public` as in `Guard`."""
    app = Starlette(routes=list(ROUTES), exception_handlers=HANDLERS)
    app.state.service = service
    guarded = Guard(app, key=key, is_public=is_public, limits=service.limits)
    return Counted(guarded, service.metrics, {route.path for route in ROUTES})
