"""What it costs that threads wait for each other asleep, on a quiet machine and beside a busy process.

    python benchmarks/threads.py

Each run is a process of its own, as the policy is read when the framework loads; the two policies take turns.
"""

import os
import statistics
import subprocess
import sys

ROUNDS = 3
STEPS = """
from benchmarks.engine import engine, training
run = training(engine("gpt2", "adamw", "bfloat16", False))
run()
print(run())
"""


def tokens_per_second(policy: str) -> float:
    environment = {**os.environ, "OMP_WAIT_POLICY": policy}
    done = subprocess.run(
        [sys.executable, "-c", STEPS], env=environment, capture_output=True, text=True, check=True
    )
    return float(done.stdout)


def main() -> None:
    for beside in ("a quiet machine", "a busy process beside it"):
        other = None
        if beside != "a quiet machine":
            other = subprocess.Popen([sys.executable, "-c", "while True: pass"])
        measured = [{p: tokens_per_second(p) for p in ("ACTIVE", "PASSIVE")} for _ in range(ROUNDS)]
        if other:
            other.kill()
            other.wait()
        for policy in ("ACTIVE", "PASSIVE"):
            print(
                f"{beside:26} {policy:8} {statistics.median(m[policy] for m in measured):7,.0f} tokens/s"
            )


if __name__ == "__main__":
    main()
