"""The name of a dataset or model on the Hugging Face hub flows in, seekable files flow out that fetch what is read.

All files are those of one commit. Broken connections and busy servers are retried here, so readers never see them. The
file system of `huggingface_hub` is not used, because it accepts a whole file in answer to a request for a range, and
because it compares neither lengths, nor ETags, nor SHA-256.
"""

import contextlib
import hashlib
import io
import os
import re
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, TypeVar, cast
from urllib.parse import quote, urljoin, urlsplit

from homespun.errors import UserError

if TYPE_CHECKING:
    from httpx2 import Response

DEFAULT_ENDPOINT = "https://huggingface.co"
BLOCK = 4 << 20
"""Bytes per request. A reader that stops early has fetched at most this much more."""
TRIES = 6
"""Consecutive failures without any new byte, before giving up."""
MAX_WAIT = 120
"""Seconds. If a server asks for a longer pause, the download ends."""
MAX_REDIRECTS = 10
TIMEOUT = 30
"""Seconds to wait for an answer."""
BUFFER = 1 << 18
"""Bytes that are buffered for small reads."""

T = TypeVar("T")


class Missing(UserError):
    """The hub does not know this repository, commit or file."""


class Changed(UserError):
    """The hub sends other bytes than it announced, or than it sent before."""


class _Transient(Exception):
    """A failure that may pass. `wait` is the pause in seconds that the server asks for, if it does."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


@dataclass(frozen=True)
class _Answer:
    response: "Response"
    etag: str | None
    """The ETag that the hub itself, and not its storage, gives the content."""
    size: int | None


Kind = Literal["datasets", "models"]
WITHOUT: dict[Kind, str] = {
    "datasets": "--dataset stories or a local file",
    "models": "a folder or file on this machine",
}
"""Other sources, which need no network."""


class Hub:
    """The hub at `HF_ENDPOINT`, with the access token `HF_TOKEN`. Both are read on creation."""

    def __init__(
        self, sleep: Callable[[float], None] = time.sleep, kind: Kind = "datasets"
    ) -> None:
        """
        Args:
            sleep: waits for some seconds.
            kind: the repositories that the names belong to.
        """
        from huggingface_hub import get_token

        self.endpoint = (os.environ.get("HF_ENDPOINT") or DEFAULT_ENDPOINT).rstrip("/")
        if not re.fullmatch(r"https?://[^/\s]\S*", self.endpoint):
            raise UserError(f"HF_ENDPOINT is '{self.endpoint}': give an address with https://")
        self._kind = kind
        self._token = get_token()
        self._sleep = sleep
        self._was_reached = False

    def commit(self, name: str) -> str:
        """The newest commit of a repository.

        Raises:
            UserError: the hub cannot be reached, or refuses this repository.
        """
        answer, _ = self._json(f"{self.endpoint}/api/{self._kind}/{name}/revision/main")
        return str(answer["sha"])

    def files(self, name: str, commit: str) -> list[str]:
        """The paths of all files at a commit.

        Raises:
            Missing: there is no such commit.
            UserError: the hub cannot be reached.
        """
        url: str | None
        url = f"{self.endpoint}/api/{self._kind}/{name}/tree/{commit}?recursive=true"
        paths = []
        while url:
            entries, url = self._json(url)
            paths += [str(entry["path"]) for entry in entries if entry["type"] == "file"]
        return paths

    def open(self, name: str, commit: str, path: str) -> "RemoteFile":
        """Open a file for reading.

        Raises:
            UserError: the hub cannot be reached, or refuses this file.
        """
        folder = f"{self._kind}/" if self._kind == "datasets" else ""
        return RemoteFile(self, f"{self.endpoint}/{folder}{name}/resolve/{commit}/{quote(path)}")

    def _json(self, url: str) -> tuple[Any, str | None]:
        """The JSON of an answer, and the URL of the next page if there is one."""

        def ask() -> tuple[Any, str | None]:
            with self.request("GET", url) as answer:
                answer.response.read()
                try:
                    content = answer.response.json()
                except ValueError:
                    raise UserError(
                        f"{self.endpoint} does not answer like the hub; check HF_ENDPOINT, "
                        "and whether this network asks you to log in first"
                    ) from None
                return content, answer.response.links.get("next", {}).get("url")

        return self.retry(ask)

    def retry(self, ask: Callable[[], T]) -> T:
        """Call `ask` until it succeeds, with the limits of `_Patience`."""
        patience = self.patience()
        while True:
            with patience:
                return ask()

    def patience(self) -> "_Patience":
        """A new count of failures."""
        return _Patience(self.endpoint, WITHOUT[self._kind], self._sleep, lambda: self._was_reached)

    @contextlib.contextmanager
    def request(self, method: str, url: str, **headers: str) -> Iterator[_Answer]:
        """Send one request.

        Redirects are followed here: the token is sent only to the host of the hub, and the headers of the redirect
        from the hub to its storage give the ETag and the size of a file.
        """
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
                yield _Answer(response, _without_quotes(etag), int(size) if size else None)
                return
        raise UserError(f"{origin}: too many redirects; check HF_ENDPOINT")


def _host(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc.lower()


def _without_quotes(etag: str | None) -> str | None:
    return etag.removeprefix("W/").strip('"') if etag else None


def _check_status(response: "Response", url: str) -> None:
    """Raise the exception that belongs to a status, if it is not a success."""
    status = response.status_code
    if status < 300:
        return
    if status in (401, 403):
        raise UserError(
            f"{url}: the hub refuses access (HTTP {status}); check the name, or set HF_TOKEN if it is "
            "private or has terms to accept"
        )
    if status == 404:
        raise Missing(f"{url}: not found on the hub (HTTP 404); check the name")
    if status == 416:
        raise Changed(f"{url}: shorter than announced (HTTP 416); run this again")
    if status in (408, 425, 429) or status >= 500:
        raise _Transient(f"HTTP {status}", _retry_after(response))
    raise UserError(f"{url}: the hub answers HTTP {status}")


def _retry_after(response: "Response") -> float | None:
    try:
        return max(0.0, float(response.headers.get("retry-after", "")))
    except ValueError:  # the header is missing, or holds a date
        return None


class _Patience:
    """A `with` block whose failures are swallowed after a pause, a few times in a row, if they may pass."""

    def __init__(
        self,
        host: str,
        otherwise: str,
        sleep: Callable[[float], None],
        was_reached: Callable[[], bool],
    ) -> None:
        from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]

        # The base class of the errors of the HTTP client that the hub's library uses.
        self._transient = (HTTPError, OSError, _Transient)
        self._host, self._otherwise = host, otherwise
        self._sleep = sleep
        self._was_reached = was_reached
        self._failures = 0

    def progressed(self) -> None:
        """Start counting anew, because a byte has arrived."""
        self._failures = 0

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> bool:
        if not isinstance(error, self._transient):
            return False
        reason = str(error) or type(error).__name__
        if not self._was_reached():
            raise UserError(
                f"{self._host} cannot be reached ({reason}); without a network use {self._otherwise}, or set "
                "HF_ENDPOINT to a mirror"
            ) from None
        self._failures += 1
        wait = getattr(error, "wait", None)
        wait = 2.0 ** (self._failures - 1) if wait is None else wait
        if self._failures == TRIES or wait > MAX_WAIT:
            asked = f"; it asks to wait {wait:.0f} s" if wait > MAX_WAIT else ""
            raise UserError(
                f"{self._host}: gave up ({reason}{asked}); run this again later, "
                "and it continues from here"
            ) from None
        self._sleep(wait)
        return True


class RemoteFile(io.RawIOBase):
    """A file on the hub. Reading streams from the current position; seeking starts a new request."""

    def __init__(self, hub: Hub, url: str) -> None:
        self._hub = hub
        self._url = url

        def facts() -> tuple[str | None, int | None]:
            with hub.request("HEAD", url) as answer:
                return answer.etag, answer.size

        self.etag, size = hub.retry(facts)
        if size is None:
            raise UserError(f"{url}: the hub does not state the size of this file")
        self.size = size
        self._position = 0
        self._stream = self._bytes_from(0)
        self._pending = b""

    def buffered(self) -> BinaryIO:
        """The same file with a buffer, for reads of any size."""
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
        """Stream all bytes from `position` on, over as many connections as that takes."""
        # The ETag of a large file is the SHA-256 of its content. Reading from the first to the last byte can check it.
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
                    raise _Transient("the connection was closed early")
        if digest and digest.hexdigest() != self.etag:
            raise Changed(f"{self._url}: damaged in transfer (its SHA-256 differs); run this again")

    def _extent(self, answer: _Answer, position: int, wanted: int) -> tuple[int, int]:
        """The range of bytes in an answer: a part of the requested range, or the whole file."""
        begin, end, size = 0, self.size, str(self.size)
        if answer.response.status_code == 206:
            announced = answer.response.headers.get("content-range", "")
            parts = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", announced)
            if not parts or int(parts[1]) != position or int(parts[2]) >= wanted:
                raise Changed(
                    f"{self._url}: the hub sends other bytes than requested ('{announced}')"
                )
            begin, end, size = position, int(parts[2]) + 1, parts[3]
        length = answer.response.headers.get("content-length", str(end - begin))
        is_same_etag = not answer.etag or not self.etag or answer.etag == self.etag
        if not is_same_etag or size not in (str(self.size), "*") or length != str(end - begin):
            raise Changed(f"{self._url}: changed while it was being read; run this again")
        return begin, end
