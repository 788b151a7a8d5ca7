"""Commands that examine a machine, a file or a run."""

import sys
from pathlib import Path

from homespun.cli.arguments import Settings
from homespun.config import BenchConfig, DoctorConfig, ReportConfig, VerifyConfig
from homespun.errors import UserError
from homespun.terminal import bar, columns, put, say


def doctor(settings: Settings) -> int:
    config = DoctorConfig(**settings)
    if config.run is None:
        from homespun.doctor import examine_engines

        with bar("Examining this machine", None):
            return 0 if examine_engines(say) else 1
    from homespun.reporting.doctor import examine_run

    return 0 if examine_run(Path(config.run), put, columns(sys.stdout)) else 1


def bench(settings: Settings) -> int:
    config = BenchConfig(**settings)
    from homespun.bench.bench import bench

    bench(config, put)
    return 0


def verify(settings: Settings) -> int:
    config = VerifyConfig(**settings)
    if not settings and not Path(config.path).exists():
        raise UserError(f"there is no run in {config.path}: name a file or a folder to check")
    from homespun.verify import verify

    with bar(f"Checking {config.path}", None):
        for line in verify(Path(config.path)):
            say(line)
    return 0


def report(settings: Settings) -> int:
    config = ReportConfig(**settings)
    from homespun.reporting.report import write_report

    output = Path(config.output) if config.output else None
    put(f"report      {write_report([Path(run) for run in config.runs], output)}")
    return 0
