"""The Hugging Face hub over HTTP: the files of a dataset at one commit, each read by byte ranges.

A name goes in, seekable files come out that fetch only what is read of them. Cut connections and
busy servers are waited for here, so that those who read never notice.
"""

import contextlib
import hashlib
import io
import os
import re
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar, cast
from urllib.parse import quote, urljoin, urlsplit

from homespun.errors import UserError

if TYPE_CHECKING:
    from httpx2 import Response

DEFAULT_ENDPOINT = "https://huggingface.co"
BLOCK = 4 << 20
"""Bytes per request: a reader that stops early has not asked for more than this."""
TRIES = 6
"""Failures in a row, without a byte in between, before giving up."""
MAX_WAIT = 120
"""Seconds; a server that asks for a longer pause is left alone."""
MAX_REDIRECTS = 10
TIMEOUT = 30
"""Seconds without an answer."""
BUFFER = 1 << 18
"""Bytes that are held for a reader who takes fewer at a time."""

T = TypeVar("T")


class Missing(UserError):
    """The hub does not know this dataset, commit or file."""


class Changed(UserError):
    """What the hub sends is not what it announced, or not what was read of it before."""


class _Transient(Exception):
    """Worth another try, after `wait` seconds if the server said so."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


@dataclass(frozen=True)
class _Answer:
    response: "Response"
    etag: str | None
    """Of the content, as the hub (not its storage) names it."""
    size: int | None


class Hub:
    """The hub at `HF_ENDPOINT`, asked with `HF_TOKEN`; both are read when it is made."""

    def __init__(self, sleep: Callable[[float], None] = time.sleep) -> None:
        from huggingface_hub import get_token

        self.endpoint = (os.environ.get("HF_ENDPOINT") or DEFAULT_ENDPOINT).rstrip("/")
        if not re.fullmatch(r"https?://[^/\s]\S*", self.endpoint):
            raise UserError(f"HF_ENDPOINT is '{self.endpoint}': give an address with https://")
        self._token = get_token()
        self._sleep = sleep
        self._was_reached = False

    def commit(self, dataset: str) -> str:
        """The newest commit.

        Raises:
            UserError: the hub cannot be reached, or does not give this dataset.
        """
        answer, _ = self._json(f"{self.endpoint}/api/datasets/{dataset}/revision/main")
        return str(answer["sha"])

    def files(self, dataset: str, commit: str) -> list[str]:
        """The paths of all files at a commit.

        Raises:
            Missing: there is no such commit.
            UserError: the hub cannot be reached.
        """
        url: str | None = f"{self.endpoint}/api/datasets/{dataset}/tree/{commit}?recursive=true"
        paths = []
        while url:
            entries, url = self._json(url)
            paths += [str(entry["path"]) for entry in entries if entry["type"] == "file"]
        return paths

    def open(self, dataset: str, commit: str, path: str) -> "RemoteFile":
        """A file, for reading.

        Raises:
            UserError: the hub cannot be reached, or does not give this file.
        """
        return RemoteFile(
            self, f"{self.endpoint}/datasets/{dataset}/resolve/{commit}/{quote(path)}"
        )

    def _json(self, url: str) -> tuple[Any, str | None]:
        """The answer, and the address of the next page."""

        def ask() -> tuple[Any, str | None]:
            with self.request("GET", url) as answer:
                answer.response.read()
                try:
                    content = answer.response.json()
                except ValueError:
                    raise UserError(
                        f"{self.endpoint} does not answer like the hub; check HF_ENDPOINT, "
                        "or whether the network wants a log-in page"
                    ) from None
                return content, answer.response.links.get("next", {}).get("url")

        return self.retry(ask)

    def retry(self, ask: Callable[[], T]) -> T:
        """Ask until there is an answer."""
        patience = self.patience()
        while True:
            with patience:
                return ask()

    def patience(self) -> "_Patience":
        return _Patience(self.endpoint, self._sleep, lambda: self._was_reached)

    @contextlib.contextmanager
    def request(self, method: str, url: str, **headers: str) -> Iterator[_Answer]:
        """One try, redirects followed by hand: the token goes to the hub's own host only, and what
        the hub says of a file is read off its redirect to the storage."""
        from huggingface_hub import get_session

        client = get_session()
        origin, etag, size = url, None, None
        for _ in range(MAX_REDIRECTS):
            authorization = {}
            if self._token and _host(url) == _host(self.endpoint):
                authorization = {"authorization": f"Bearer {self._token}"}
            response = client.send(
                client.build_request(
                    method,
                    url,
                    headers={"accept-encoding": "identity", **headers, **authorization},
                    timeout=TIMEOUT,
                ),
                stream=True,
                follow_redirects=False,
            )
            self._was_reached = True
            with contextlib.closing(response):
                etag = etag or response.headers.get("x-linked-etag")
                size = size or response.headers.get("x-linked-size")
                if response.has_redirect_location and not (method == "HEAD" and size):
                    url = urljoin(url, response.headers["location"])
                    continue
                if _host(url) == _host(self.endpoint):
                    etag = etag or response.headers.get("etag")
                size = size or response.headers.get("content-length")
                if not response.has_redirect_location:
                    _check_status(response, origin)
                yield _Answer(response, _plain(etag), int(size) if size else None)
                return
        raise UserError(f"{origin}: redirected in a circle; check HF_ENDPOINT")


def _host(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc.lower()


def _plain(etag: str | None) -> str | None:
    return etag.removeprefix("W/").strip('"') if etag else None


def _check_status(response: "Response", url: str) -> None:
    status = response.status_code
    if status < 300:
        return
    if status in (401, 403):
        raise UserError(
            f"{url}: the hub refuses it (HTTP {status}); check the name, or if the dataset is "
            "private or needs its terms accepted, set HF_TOKEN"
        )
    if status == 404:
        raise Missing(f"{url}: unknown to the hub (HTTP 404); check the name of the dataset")
    if status == 416:
        raise Changed(f"{url}: shorter than announced (HTTP 416); run this again")
    if status in (408, 425, 429) or status >= 500:
        raise _Transient(f"HTTP {status}", _retry_after(response))
    raise UserError(f"{url}: the hub answers HTTP {status}")


def _retry_after(response: "Response") -> float | None:
    try:
        return max(0.0, float(response.headers.get("retry-after", "")))
    except ValueError:  # none, or a date
        return None


class _Patience:
    """A `with` block that may fail: what is passing is waited for and swallowed, a few times."""

    def __init__(
        self, host: str, sleep: Callable[[float], None], was_reached: Callable[[], bool]
    ) -> None:
        from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]

        # The root of the errors of whichever HTTP client the hub's library uses.
        self._passing = (HTTPError, OSError, _Transient)
        self._host = host
        self._sleep = sleep
        self._was_reached = was_reached
        self._failures = 0

    def progressed(self) -> None:
        self._failures = 0

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> bool:
        if not isinstance(error, self._passing):
            return False
        reason = str(error) or type(error).__name__
        if not self._was_reached():
            raise UserError(
                f"{self._host} cannot be reached ({reason}); without a network use "
                "--dataset stories or a local file, or set HF_ENDPOINT to a mirror"
            ) from None
        self._failures += 1
        wait = getattr(error, "wait", None)
        wait = 2.0 ** (self._failures - 1) if wait is None else wait
        if self._failures == TRIES or wait > MAX_WAIT:
            asked = f", which asks to wait {wait:.0f} s" if wait > MAX_WAIT else ""
            raise UserError(
                f"{self._host}: gave up ({reason}{asked}); run this again later, "
                "it goes on where it stopped"
            ) from None
        self._sleep(wait)
        return True


class RemoteFile(io.RawIOBase):
    """A file on the hub; reading streams from the position on, seeking asks anew."""

    def __init__(self, hub: Hub, url: str) -> None:
        self._hub = hub
        self._url = url

        def facts() -> tuple[str | None, int | None]:
            with hub.request("HEAD", url) as answer:
                return answer.etag, answer.size

        self.etag, size = hub.retry(facts)
        if size is None:
            raise UserError(f"{url}: the hub does not say how long it is")
        self.size = size
        self._position = 0
        self._stream = self._bytes_from(0)
        self._pending = b""

    def buffered(self) -> BinaryIO:
        """The same file, to be read in pieces of any size."""
        return cast(BinaryIO, io.BufferedReader(self, BUFFER))

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.size}[whence]
        if base + offset != self._position:
            self._stream.close()
            self._position = base + offset
            self._stream = self._bytes_from(self._position)
            self._pending = b""
        return self._position

    def readinto(self, buffer: Any) -> int:
        if not self._pending:
            self._pending = next(self._stream, b"")
        n = min(len(buffer), len(self._pending))
        buffer[:n] = self._pending[:n]
        self._pending = self._pending[n:]
        self._position += n
        return n

    def close(self) -> None:
        self._stream.close()
        super().close()

    def _bytes_from(self, position: int) -> Generator[bytes]:
        """All bytes from `position` on, whatever happens to the connections that bring them."""
        # Large files are named by the SHA-256 of their content, which one whole reading can check.
        is_digest = position == 0 and re.fullmatch("[0-9a-f]{64}", self.etag or "")
        digest = hashlib.sha256() if is_digest else None
        patience = self._hub.patience()
        while position < self.size:
            wanted = min(position + BLOCK, self.size)
            with (
                patience,
                self._hub.request(
                    "GET", self._url, range=f"bytes={position}-{wanted - 1}"
                ) as answer,
            ):
                at, end = self._extent(answer, position, wanted)
                for chunk in answer.response.iter_raw():
                    if at + len(chunk) > end:
                        raise Changed(f"{self._url}: longer than announced; run this again")
                    fresh = chunk[max(0, position - at) :]
                    at += len(chunk)
                    if not fresh:
                        continue
                    patience.progressed()
                    position += len(fresh)
                    if digest:
                        digest.update(fresh)
                    yield fresh
                if at < end:
                    raise _Transient("the connection was cut")
        if digest and digest.hexdigest() != self.etag:
            raise Changed(f"{self._url}: damaged on its way (its SHA-256 differs); run this again")

    def _extent(self, answer: _Answer, position: int, wanted: int) -> tuple[int, int]:
        """Which bytes of the file an answer brings: of those asked for some, or simply all."""
        begin, end, size = 0, self.size, str(self.size)
        if answer.response.status_code == 206:
            announced = answer.response.headers.get("content-range", "")
            parts = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", announced)
            if not parts or int(parts[1]) != position or int(parts[2]) >= wanted:
                raise Changed(f"{self._url}: other bytes than asked for ('{announced}')")
            begin, end, size = position, int(parts[2]) + 1, parts[3]
        length = answer.response.headers.get("content-length", str(end - begin))
        is_same_etag = not answer.etag or not self.etag or answer.etag == self.etag
        if not is_same_etag or size not in (str(self.size), "*") or length != str(end - begin):
            raise Changed(f"{self._url}: has changed while it was read; run this again")
        return begin, end
