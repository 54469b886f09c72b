"""`birdjepa report RUN`."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import tyro

from birdjepa.cli import tell
from birdjepa.cli.arguments import parse
from birdjepa.core.errors import EXIT_DONE
from birdjepa.recipes import report
from birdjepa.report.contents import ReportConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReportArguments:
    run: tyro.conf.Positional[Path]
    """Run folder, such as runs/first."""
    report: tyro.conf.OmitArgPrefixes[ReportConfig] = dataclasses.field(default_factory=ReportConfig)


def run(argv: Sequence[str]) -> int:
    arguments = parse(
        ReportArguments, argv, prog="birdjepa report", description="Shows a run as one self-contained HTML file."
    )
    print(report.report(arguments.run, arguments.report, tell))
    return EXIT_DONE
