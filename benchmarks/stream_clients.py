"""Clients of `homespun serve` in a process of their own: each reads one stream to its end.

    python -m benchmarks.stream_clients PORT N BODY

For each line of the input, `N` clients send the request `BODY` at once; the seconds until all have ended are printed.
"""

import asyncio
import sys
import time


async def read(port: int, request: bytes) -> None:
    """Read one stream."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    end = b""
    while part := await reader.read(1 << 16):
        end = (end + part)[-200:]
    writer.close()
    assert end.endswith(b"0\r\n\r\n"), end
    assert b"data: [DONE]" in end, end


async def read_all(port: int, n: int, request: bytes) -> float:
    """The seconds that `n` streams at once take."""
    start = time.perf_counter()
    await asyncio.gather(*(read(port, request) for _ in range(n)))
    return time.perf_counter() - start


def main(port: str, n: str, body: str) -> None:
    content = body.encode()
    head = f"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {len(content)}"
    for _ in sys.stdin:
        seconds = asyncio.run(read_all(int(port), int(n), f"{head}\r\n\r\n".encode() + content))
        print(seconds, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
