"""How the threads of a step should wait for each other: on a quiet machine, and beside a busy process.

    python -m benchmarks.threads

Each run is a process of its own, as the policy is read when the framework loads; the policies take turns. A large and a
small model: the small one's parallel sections are so short that waking a thread takes as long as its work.
"""

import os
import statistics
import subprocess
import sys

ROUNDS = 2
POLICIES = {
    "spin": {"OMP_WAIT_POLICY": "ACTIVE", "GOMP_SPINCOUNT": ""},
    "spin shortly, then sleep": {"OMP_WAIT_POLICY": "", "GOMP_SPINCOUNT": "2000"},
    "sleep": {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": ""},
}
STEPS = """
import sys
from benchmarks.engine import engine, training
run = training(engine("gpt2", "adamw", "bfloat16", False, n_layers=int(sys.argv[1]), d_model=int(sys.argv[2])))
run()
print(run())
"""


def tokens_per_second(policy: dict[str, str], n_layers: int, d_model: int) -> float:
    done = subprocess.run(
        [sys.executable, "-c", STEPS, str(n_layers), str(d_model)],
        env={**os.environ, **policy},
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout)


def main() -> None:
    for beside in ("a quiet machine", "a busy process beside it"):
        other = None
        if beside != "a quiet machine":
            other = subprocess.Popen([sys.executable, "-c", "while True: pass"])
        for n_layers, d_model in ((6, 384), (3, 192)):
            measured = [
                {name: tokens_per_second(p, n_layers, d_model) for name, p in POLICIES.items()}
                for _ in range(ROUNDS)
            ]
            for name in POLICIES:
                median = statistics.median(one[name] for one in measured)
                print(f"{beside:26} {n_layers} x {d_model}  {name:26} {median:8,.0f} tokens/s")
        if other:
            other.kill()
            other.wait()


if __name__ == "__main__":
    main()
