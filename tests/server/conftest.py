"""A small model, and real servers for it on the loopback address."""

import contextlib
import http.client
import json
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from homespun import tokenizer
from homespun.architectures.families import parameters
from homespun.architectures.presets import preset, shaped
from homespun.checkpoint.archive import write_archive
from homespun.data.batch import Tokens
from homespun.engine.base import Floats
from homespun.language_model import LanguageModel, load
from homespun.server import launch
from homespun.server.app import server_app
from homespun.server.limits import Limits
from homespun.server.writing import Service
from homespun.stories import stories
from homespun.tokenizer import ChatTemplate

SHAPE = {"vocab_size": 320, "seq_len": 64, "n_layers": 2, "d_model": 32, "n_heads": 2, "d_ff": 48}
SCALE = 0.3
"""Of the weights. They are large, so that the logits differ much and rounding does not choose a token."""


def write_model(path: Path, *, answers: bool) -> None:
    """A model with random weights; `answers`: with a chat template."""
    shape = shaped(preset("pico"), SHAPE)
    words = tokenizer.train(list(stories(50, seed=1)), shape.vocab_size)
    header: dict[str, Any] = {"model": vars(shape), "tokenizer": words.to_json()}
    if answers:
        header["chat_template"] = ChatTemplate(words).stored()
    rng = np.random.default_rng(3)
    weights = (
        (p.name, (p.mean + SCALE * rng.standard_normal(p.shape)).astype(np.float32))
        for p in parameters(shape)
    )
    write_archive(path, weights, header, step=1)


@pytest.fixture(scope="session")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that continues texts."""
    path = tmp_path_factory.mktemp("model") / "small.npz"
    write_model(path, answers=False)
    return path


@pytest.fixture(scope="session")
def model(model_file: Path) -> LanguageModel:
    return load(model_file, engine="numpy", threads=1)


@pytest.fixture(scope="session")
def answering_model(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    """A model with a chat template."""
    path = tmp_path_factory.mktemp("model") / "answers.npz"
    write_model(path, answers=True)
    return load(path, engine="numpy", threads=1)


class Gate:
    """Lets the steps of a model through, one permit for each, until it is open."""

    def __init__(self) -> None:
        self.permits = threading.Semaphore(0)
        self.arrivals = threading.Semaphore(0)
        self.is_open = False
        self.n_steps = 0
        self.error: Exception | None = None

    def __call__(self) -> None:
        self.arrivals.release()
        if not self.is_open:
            assert self.permits.acquire(timeout=60)
        if self.error:
            raise self.error
        self.n_steps += 1

    def wait(self) -> None:
        """Until the model is at the gate."""
        assert self.arrivals.acquire(timeout=60)

    def let(self, n: int = 1) -> None:
        self.permits.release(n)

    def open(self) -> None:
        self.is_open = True
        self.permits.release(10_000)


class GatedDecoder:
    """A decoder whose steps wait at a gate."""

    def __init__(self, decoder: Any, gate: Gate) -> None:
        self.decoder, self.gate = decoder, gate

    @property
    def length(self) -> int:
        return int(self.decoder.length)

    def prefill(self, tokens: Tokens) -> Floats:
        return self.decoder.prefill(tokens)  # type: ignore[no-any-return]

    def step(self, tokens: Tokens) -> Floats:
        self.gate()
        return self.decoder.step(tokens)  # type: ignore[no-any-return]

    def repeated(self, n: int) -> "GatedDecoder":
        return GatedDecoder(self.decoder.repeated(n), self.gate)

    def join(self, other: "GatedDecoder") -> None:
        self.decoder.join(other.decoder)

    def drop(self, row: int) -> None:
        self.decoder.drop(row)


Start = Callable[..., "Server"]


@pytest.fixture
def gated(model: LanguageModel, start: Start) -> Iterator[tuple[LanguageModel, Gate]]:
    """The model, and the gate of its steps, which is open before its servers stop."""
    gate = Gate()
    copy = LanguageModel(model.stored, model.engine)
    make = copy.session.make_decoder
    copy.session.make_decoder = lambda rows, length: GatedDecoder(make(rows, length), gate)
    yield copy, gate
    gate.open()


class Answer:
    """An answer of the server."""

    def __init__(self, status: int, headers: Any, body: bytes) -> None:
        self.status, self.headers, self.body = status, headers, body

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def message(self) -> str:
        """The message of an error."""
        return str(self.json["error"]["message"])

    @property
    def events(self) -> list[Any]:
        """The server-sent events; the last one says that the stream is complete."""
        lines = [line for line in self.body.decode().split("\n\n") if line]
        assert all(line.startswith("data: ") for line in lines)
        assert lines.pop() == "data: [DONE]"
        return [json.loads(line.removeprefix("data: ")) for line in lines]


class Server:
    """A server that is running."""

    def __init__(self, service: Service, port: int, stop: Callable[[], None]) -> None:
        self.service, self.port, self.stop = service, port, stop

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)

    def ask(self, path: str, body: Any = None, method: str | None = None, **headers: str) -> Answer:
        """Send a request; a body that is no bytes is sent as JSON."""
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        with contextlib.closing(self.connect()) as connection:
            connection.request(method or ("GET" if body is None else "POST"), path, body, named)
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read())

    def complete(self, prompt: Any = "Once", **fields: Any) -> Answer:
        return self.ask("/v1/completions", {"model": "small", "prompt": prompt} | fields)

    def raw(self, data: bytes) -> bytes:
        """Send bytes; returns all that comes until the server closes the connection."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=60) as connection:
            connection.sendall(data)
            parts = iter(lambda: connection.recv(65536), b"")
            return b"".join(parts)

    @property
    def is_idle(self) -> bool:
        return not (self.service.batcher.n_running or self.service.batcher.n_waiting)


@pytest.fixture(scope="module")
def start_for_module() -> Iterator[Start]:
    """As `start`, until the end of a file. Tests of other parts set clocks, which would stop a server beside them."""
    with starting() as start:
        yield start


@pytest.fixture
def start() -> Iterator[Start]:
    """`start(model, Limits(...), key=...)`: a server that runs until the end of the test."""
    with starting() as start:
        yield start


@contextlib.contextmanager
def starting() -> Iterator[Start]:
    with contextlib.ExitStack() as stack:

        def start(model: LanguageModel, limits: Limits | None = None, **options: Any) -> Server:
            service = stack.enter_context(closing(Service(model, "small", limits)))
            listening = launch.bind("127.0.0.1", 0, options.get("key"))
            server = launch.new_server(server_app(service, **options), service.limits)
            thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
            thread.start()

            def stop() -> None:
                server.should_exit = True
                thread.join(30)
                listening.close()
                assert not thread.is_alive()

            stack.callback(stop)
            return Server(service, listening.getsockname()[1], stop)

        yield start


@contextlib.contextmanager
def closing(service: Service) -> Iterator[Service]:
    with service.batcher:
        yield service


@pytest.fixture(scope="module")
def server(model: LanguageModel, start_for_module: Start) -> Server:
    """A server for all tests of a file that leave it as it was."""
    return start_for_module(model)
