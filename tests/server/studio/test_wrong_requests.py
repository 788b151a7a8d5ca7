"""Any request gets an answer with a reason, never a failure of the server."""

import json
import random
from typing import Any

import pytest

from tests.browsing import PATIENCE
from tests.server.studio.asking import KEY, ask

GOOD: dict[str, dict[str, Any]] = {
    "write": {
        "model": "checkpoints/best.npz",
        "prompt": "Once",
        "ids": None,
        "settings": {"max_tokens": "2", "seed": "1", "temperature": "0.5", "stop": ["x"]},
    },
    "chat/answer": {
        "model": "answers/best.npz",
        "messages": [{"role": "user", "content": "Hi"}],
        "settings": {"max_tokens": "2", "seed": "1", "temperature": "0.5", "stop": ["x"]},
    },
    "growth": {"model": "checkpoints/best.npz", "prompt": "Once", "next": " a", "token": None},
    "inside": {"model": "mixture/best.npz", "text": "Once"},
    "attention": {"model": "mixture/best.npz", "text": "Once", "layer": 0, "head": "mean"},
    "lens": {"model": "mixture/best.npz", "text": "Once", "position": 0},
    "judge": {"text": "Tom was sad."},
}
WRONG: tuple[Any, ...] = (
    *(None, True, -1, 0, 2, 1.5, 10**30, float("nan"), float("inf"), 1e-300, "", "x", "nan", "\0"),
    *("\ud800", "9" * 5000, "../x", [], [[]], [1, 2], ["a"], [10**30], [True], {}, {"a": 1}),
)
REQUESTS = 150


def status(address: str, path: str, body: object) -> int:
    """The status of an answer, whatever its form."""
    import http.client
    from urllib.parse import urlsplit

    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=PATIENCE)
    connection.request("POST", path, json.dumps(body).encode(), KEY)
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer.status


@pytest.mark.parametrize("path", GOOD)
def test_wrong_values_are_refused_and_the_next_good_request_is_answered(
    address: str, path: str
) -> None:
    dice = random.Random(path)
    for _ in range(REQUESTS // len(GOOD)):
        body = json.loads(json.dumps(GOOD[path]))
        place = body
        if "settings" in body and dice.random() < 0.5:
            place = body["settings"]
        place[dice.choice([*place, "unknown"])] = dice.choice(WRONG)
        assert status(address, f"/api/{path}", body) in (200, 400), body
    assert status(address, f"/api/{path}", GOOD[path]) == 200
    assert ask(address, "/api/studio")[0] == 200
