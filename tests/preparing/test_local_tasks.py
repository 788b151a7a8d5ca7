"""A process that does tasks ends when the process that started it is killed."""

import subprocess
import sys

from homespun import child_process

TASKS = (
    "import sys; from homespun.preparing.local_tasks import end_with; end_with(int(sys.argv[1]))"
)
PARENT = f"""
import os, subprocess, sys
worker = subprocess.Popen([sys.executable, "-c", {TASKS!r}, str(os.getpid())], start_new_session=True)
print("started", flush=True)
worker.wait()
"""


def test_tasks_end_with_their_command() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT],
        env=child_process.environment(),
        stdout=subprocess.PIPE,
        text=True,
    ) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "started\n"
        parent.kill()
        assert (
            parent.stdout.read() == ""
        )  # ends when the worker, which has this output too, has ended
