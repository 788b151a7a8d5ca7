"""A stage flows in; processes of this machine do its tasks, so many at a time, each as datatrove does a task.

datatrove's own pool waits forever for a process that was killed, for example because memory was short. Here the end of
a process ends the work.
"""

import contextlib
import dataclasses
import json
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any, BinaryIO

from homespun.config import PrepareConfig
from homespun.data.processes import Ended, Workers, receive, send, send_error, work
from homespun.errors import UserError
from homespun.preparing.stage import Stage

THREADS = "RAYON_NUM_THREADS"
"""The environment variable with the threads of the tokenizer's library."""


def do_tasks(executor: Any, settings: dict[str, Any]) -> None:
    """Do all tasks of a stage. After an error no further task begins, and those that run are stopped.

    Args:
        executor: datatrove's for this machine: it has the stage, and tells which tasks there are and how many run at a
            time.
        settings: its arguments, but for the pipeline.

    Raises:
        UserError: a task has failed, or its process has ended.
    """
    [stage] = executor.pipeline
    first, n_tasks = executor.local_rank_offset, executor.local_tasks
    if not isinstance(executor.workers, int):
        raise UserError(
            f"[local]: workers is {executor.workers!r}: give the number of tasks at a time"
        )
    n_at_a_time = max(1, min(executor.workers, n_tasks))
    told = [os.getpid(), dataclasses.asdict(stage), settings, os.environ.get(THREADS)]
    with (
        ThreadPoolExecutor(n_at_a_time) as threads,
        Workers(__name__, n_at_a_time, json.dumps(told, default=str).encode()) as workers,
    ):

        def do(task: int) -> None:
            with workers.one() as worker:
                worker.ask(str(task).encode())
                try:
                    worker.answer()
                except Ended as error:
                    told = f"task {task} of the stage {stage.name}: {error}"
                    raise Ended(f"{told}, or with fewer workers in the description") from None

        begun = [threads.submit(do, task) for task in range(first, first + n_tasks)]
        try:
            for one in as_completed(begun):
                one.result()
        finally:
            for one in begun:
                one.cancel()


def end_with(parent: int) -> None:
    """End this process after the one that started it. A task takes long, and reads and writes no message meanwhile."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def serve(messages: BinaryIO, answers: BinaryIO) -> None:
    """Do tasks for another process."""
    told = receive(messages)
    if told is None:
        return
    parent, of_stage, settings, threads = json.loads(told)
    threading.Thread(target=end_with, args=(parent,), daemon=True).start()
    os.environ.pop(THREADS, None)  # one, set for processes that encode
    if threads is not None:
        os.environ[THREADS] = threads
    from datatrove.executor import LocalPipelineExecutor

    stage = Stage(**{**of_stage, "config": PrepareConfig(**of_stage["config"])})
    executor = LocalPipelineExecutor(pipeline=[stage], **settings)
    while (task := receive(messages)) is not None:
        try:
            # The method that every executor of datatrove calls for each task.
            executor._run_for_rank(int(task), local_rank=int(task))
        except UserError as error:
            send_error(answers, error)
        else:
            send(answers, b"done")


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        work(serve)
