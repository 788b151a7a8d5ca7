"""Many streams at once return the texts that each returns alone; and memory does not grow with their number."""

import gc
import json
import threading
import tracemalloc
from typing import Any

import pytest

from homespun.config import SamplingConfig
from homespun.language_model import LanguageModel
from homespun.server import writing
from homespun.server.limits import Limits
from tests.server.conftest import Server, Start
from tests.server.test_limits import in_flight, until

NO_END = {"0": -100}


def streamed(server: Server, prompt: str, **fields: Any) -> str:
    """The text of a stream, put together."""
    answer = server.complete(prompt, stream=True, **fields)
    assert answer.status == 200, answer.body
    return "".join(choice["text"] for event in answer.events for choice in event["choices"])


def together(server: Server, asked: list[tuple[str, dict[str, Any]]]) -> list[str]:
    """All of these streams at once."""
    texts = [""] * len(asked)

    def read(number: int) -> None:
        prompt, fields = asked[number]
        texts[number] = streamed(server, prompt, **fields)

    threads = [threading.Thread(target=read, args=(number,)) for number in range(len(asked))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(300)
    return texts


@pytest.mark.parametrize(
    "n", [24, pytest.param(100, marks=pytest.mark.slow)], ids=["quick", "slow"]
)
def test_streams_at_once_equal_serial_ones(server: Server, model: LanguageModel, n: int) -> None:
    """Greedy texts and drawn ones, of different length, some past the context."""
    asked: list[tuple[str, dict[str, Any]]] = []
    for number in range(n):
        fields: dict[str, Any] = {"max_tokens": 5 + 7 * number % 90, "temperature": 0}
        if number % 3 == 0:
            fields |= {"temperature": 1.0, "seed": number}
        asked.append((f"{number} a day " * (number % 3 + 1), fields))
    texts = together(server, asked)
    for text, (prompt, fields) in zip(texts, asked, strict=True):
        config = SamplingConfig(min_p=0.0, **fields)
        [alone] = model.session.generate(prompt, config)
        assert text == alone.text
    assert len(set(texts)) > n / 2


def test_streams_run_in_one_batch(model: LanguageModel, start: Start) -> None:
    """Sixteen streams take about as many steps as one."""
    server = start(model)
    steps = 0
    make = model.session.make_decoder

    class Counting:
        def __init__(self, decoder: Any) -> None:
            self.decoder = decoder

        def step(self, tokens: Any) -> Any:
            nonlocal steps
            steps += 1
            return self.decoder.step(tokens)

        def join(self, other: "Counting") -> None:
            self.decoder.join(other.decoder)

        def __getattr__(self, name: str) -> Any:
            return getattr(self.decoder, name)

    model.session.make_decoder = lambda rows, length: Counting(make(rows, length))  # type: ignore[assignment,return-value]
    try:
        fields = {"max_tokens": 400, "logit_bias": NO_END}
        together(server, [("a", fields)] * 16)
    finally:
        model.session.make_decoder = make
    assert steps < 16 * 400 / 4


def test_a_fast_model_hands_out_several_tokens_at_a_time(
    model: LanguageModel, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first part comes at once, and the last one as soon as the text ends; others wait for their time."""
    fields = {"max_tokens": 300, "logit_bias": NO_END, "temperature": 0, "stream": True}
    parts = {}
    for seconds in (0, 3600):
        monkeypatch.setattr(writing, "HANDING_OUT_SECONDS", seconds)
        answer = start(model).complete("a", **fields)
        parts[seconds] = [event["choices"][0]["text"] for event in answer.events]
    assert len(parts[3600]) <= 2 < len(parts[0])
    assert "".join(parts[3600]) == "".join(parts[0])


@pytest.mark.parametrize(
    "n", [60, pytest.param(3000, marks=pytest.mark.slow)], ids=["quick", "slow"]
)
def test_memory_does_not_grow_with_requests(model: LanguageModel, start: Start, n: int) -> None:
    server = start(model, Limits(queue=8))

    def some(count: int) -> None:
        for number in range(count // 6):
            streamed(server, "a", max_tokens=5)
            server.complete(["a", "b"], n=3, max_tokens=3, logprobs=3, echo=True)
            server.complete(max_tokens=-1)
            server.ask(f"/nothing/{number}")
            connection = server.connect()
            body = {"model": "small", "prompt": "a", "stream": True, "max_tokens": 4000}
            connection.request("POST", "/v1/completions", json.dumps(body | {"logit_bias": NO_END}))
            connection.getresponse().close()
            connection.close()
            assert until(lambda: in_flight(server) == 0)

    some(30)
    tracemalloc.start()
    try:
        some(30)
        gc.collect()
        before, _ = tracemalloc.get_traced_memory()
        some(n)
        gc.collect()
        after, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 300_000
    assert peak - before < 30_000_000
