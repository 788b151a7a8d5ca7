"""Questions to a studio over HTTP, as the page asks them."""

import http.client
import json
from typing import Any
from urllib.parse import urlsplit

from tests.browsing import PATIENCE
from tests.server.studio.pages import TOKEN

KEY = {"Authorization": f"Bearer {TOKEN}"}


def ask(address: str, path: str, body: Any = None) -> tuple[int, Any]:
    """Status and JSON of an answer; `body` is posted as JSON, bytes as they are."""
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=PATIENCE)
    content = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    connection.request("GET" if body is None else "POST", path, content, KEY)
    answer = connection.getresponse()
    text = answer.read()
    connection.close()
    return answer.status, json.loads(text)


def told(address: str, path: str, body: Any) -> list[Any]:
    """The server-sent events of an answer."""
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=PATIENCE)
    connection.request("POST", path, json.dumps(body).encode(), KEY)
    answer = connection.getresponse()
    assert answer.status == 200, answer.read()
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = answer.read().decode().split("\n\n")
    connection.close()
    return [json.loads(event.removeprefix("data: ")) for event in events if event]
