"""A program in place of the Runs page: it asks a studio, orders runs, and follows their stream."""

import http.client
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlencode, urlsplit

from tests.browsing import PATIENCE
from tests.server.studio.asking import KEY, ask

TINY: dict[str, str] = {
    "data_file": "stories.txt", "model_size": "pico", "n_layers": "1", "d_model": "32", "n_heads": "2",
    "seq_len": "16", "batch_size": "4", "vocab_size": "300", "eval_tokens": "500", "log_interval": "5",
    "eval_interval": "100", "sample_interval": "200", "learning_rate": "0.003", "threads": "1", "compile": "off",
    "engine": "torch", "seed": "3",
}  # fmt: skip
"""The settings of a run of some seconds, as they are typed into the form."""


class Refusal(Exception):
    """The studio has refused an order."""

    def __init__(self, status: int, message: str, field: str | None) -> None:
        super().__init__(message)
        self.status, self.field = status, field


class Asker:
    """Asks the studio at an address."""

    def __init__(self, address: str) -> None:
        self.address = address.partition("?")[0]

    def get(self, path: str, **parameters: Any) -> Any:
        return self._answer(f"{path}?{urlencode(parameters)}")

    def post(self, path: str, **body: Any) -> Any:
        return self._answer(path, body)

    def _answer(self, path: str, body: Any = None) -> Any:
        status, told = ask(self.address, f"/api/runs{path}", body)
        if status != 200:
            raise Refusal(status, told["error"]["message"], told["error"]["param"])
        return told

    def run(self, name: str) -> Any:
        """A run in the list; None if it is not there."""
        return next((one for one in self.get("")["runs"] if one["run"] == name), None)

    def until(self, name: str, holds: Callable[[Any], object]) -> Any:
        """A run, as soon as something holds of it."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            one = self.run(name)
            if one and holds(one):
                return one
            time.sleep(0.05)
        raise AssertionError(
            f"{name} is {self.run(name)}: {self.get('/messages', run=name)['text']}"
        )

    @contextmanager
    def live(self, *runs: str) -> Iterator[Iterator[Any]]:
        """The events of the stream of runs."""
        place = urlsplit(self.address)
        connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=PATIENCE)
        query = urlencode([("run", run) for run in runs])
        connection.request("GET", f"/api/runs/live?{query}", headers=KEY)
        answer = connection.getresponse()

        def events() -> Iterator[Any]:
            for line in answer:
                if line.startswith(b"data: "):
                    yield json.loads(line.removeprefix(b"data: "))

        try:
            yield events()
        finally:
            connection.close()
