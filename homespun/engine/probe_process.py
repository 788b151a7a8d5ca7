"""A request flows into a process of its own, the lines that it writes flow out, also if it runs out of memory."""

import json
import signal
import subprocess
from collections.abc import Mapping
from typing import Any

from homespun import child_process
from homespun.engine.base import OutOfMemory
from homespun.errors import UserError

ENDED_FOR_MEMORY = (-signal.SIGKILL, -signal.SIGABRT)
"""Exit statuses of a process that has taken the last memory: the system ends it, or a library gives up."""


class ProbeFailed(UserError):
    """The process of a probe ended with an error."""


def ask(module: str, request: Mapping[str, Any], time_limit: float) -> list[dict[str, Any]]:
    """Run a module with a request on its standard input.

    Returns:
        The objects of JSON that it has written, one a line, up to the time limit in seconds.

    Raises:
        OutOfMemory: the process needs more memory than there is.
        ProbeFailed: it failed for another reason.
    """
    process = subprocess.Popen(
        child_process.command(module),
        env=child_process.environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    in_time = True
    try:
        written, errors = process.communicate(json.dumps(request), timeout=time_limit)
    except subprocess.TimeoutExpired:
        in_time = False
        process.kill()
        written, errors = process.communicate()
    except BaseException:
        process.kill()
        process.wait()
        raise
    else:
        if process.returncode in ENDED_FOR_MEMORY:
            raise OutOfMemory
    lines = [json.loads(line) for line in written.splitlines() if line.startswith("{")]
    if any("out_of_memory" in line for line in lines):
        raise OutOfMemory
    if in_time and process.returncode:
        raise ProbeFailed(f"trial steps failed: {_reason(errors)}")
    return lines


def _reason(errors: str) -> str:
    """The message of the exception that ended a process, without its type."""
    last = errors.strip().rpartition("\n")[2]
    return last.partition(": ")[2] or last
