"""Counts of the server flow in, Prometheus' text format flows out (exposition format 0.0.4)."""

import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Collection, Iterator

from homespun.server.guard import Application, Message, Receive, Scope, Send

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

BUCKETS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
"""Upper bounds of the buckets of a histogram, in seconds."""


class Histogram:
    """How many durations were how long."""

    def __init__(self) -> None:
        self._counts = [0] * (len(BUCKETS) + 1)
        self._sum = 0.0

    def add(self, seconds: float) -> None:
        self._counts[bisect_left(BUCKETS, seconds)] += 1
        self._sum += seconds

    def lines(self, name: str) -> Iterator[str]:
        total = 0
        for bound, count in zip((*BUCKETS, "+Inf"), self._counts, strict=True):
            total += count
            yield f'{name}_bucket{{le="{bound}"}} {total}'
        yield f"{name}_sum {self._sum:.6f}"
        yield f"{name}_count {total}"


class Metrics:
    """The figures of a server."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, int]] = Counter()
        """By route and status."""
        self.request_seconds = Histogram()
        self.first_token_seconds = Histogram()

    def text(self, gauges: dict[str, tuple[str, int]], counters: dict[str, tuple[str, int]]) -> str:
        """All figures. `gauges` and `counters` are those that others keep: help text and value by name."""
        lines = _head("requests_total", "counter", "Requests by route and status.")
        for (route, status), count in sorted(self.requests.items()):
            lines.append(f'homespun_requests_total{{route="{route}",status="{status}"}} {count}')
        for kind, figures in (("counter", counters), ("gauge", gauges)):
            for name, (about, value) in figures.items():
                lines += [*_head(name, kind, about), f"homespun_{name} {int(value)}"]
        for name, about, histogram in (
            (
                "request_seconds",
                "Time from a request to the end of its answer.",
                self.request_seconds,
            ),
            (
                "first_token_seconds",
                "Time from a request to its first token.",
                self.first_token_seconds,
            ),
        ):
            lines += [*_head(name, "histogram", about), *histogram.lines(f"homespun_{name}")]
        return "\n".join(lines) + "\n"


def _head(name: str, kind: str, about: str) -> list[str]:
    return [f"# HELP homespun_{name} {about}", f"# TYPE homespun_{name} {kind}"]


class Counted:
    """An application whose requests are counted, with those that the guard refuses."""

    def __init__(
        self,
        app: Application,
        metrics: Metrics,
        routes: Collection[str],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`routes` are the paths that are counted by name; all others are counted together."""
        self._app = app
        self._metrics = metrics
        self._routes = routes
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = self._clock()
        route = scope["path"] if scope["path"] in self._routes else "other"

        async def counting(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._metrics.requests[route, message["status"]] += 1
            await send(message)

        try:
            await self._app(scope, receive, counting)
        finally:
            self._metrics.request_seconds.add(self._clock() - began)
