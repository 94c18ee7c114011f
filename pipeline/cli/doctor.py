"""`pipeline doctor`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipeline.cli import options as o
from pipeline.cli.terminal import Terminal
from pipeline.errors import PipelineError

if TYPE_CHECKING:
    from pipeline.doctor import Check, DoctorReport


def command(cache: o.Cache = "features_cache", as_json: o.Json = False, quiet: o.Quiet = False) -> None:
    """Say what is installed, which weights are at hand and what is missing, with the command that mends each."""
    from pipeline.doctor import examine

    terminal = Terminal(as_json=as_json, quiet=quiet)
    report = examine(cache=cache)
    if as_json:
        terminal.object(report.as_dict())
    else:
        _print(terminal, report)
    wrong = report.wrong
    if wrong:
        first = wrong[0]
        names = ", ".join(finding.name for finding in wrong)
        raise PipelineError(
            f"expected all that is needed to be there and to work, got {len(wrong)} that must be mended: {names}"
            f" ({first.found})",
            first.mend,
        )


def _print(terminal: Terminal, report: DoctorReport) -> None:
    terminal.result(", ".join(f"{name} {said}" for name, said in report.system.items()))
    for heading, findings in (
        ("needed", report.needed),
        ("extras", report.extras),
        ("computing", report.computing),
        ("caches", report.places),
    ):
        if findings:
            terminal.stdout.print()
            terminal.table([heading, "", "found", "to mend it"], _rows(findings))
    if not report.weights:
        return
    terminal.stdout.print()
    here = [weights for weights in report.weights if weights.state != "missing"]
    if here:
        rows = [[f"{w.backbone}:{w.name}", w.state, w.file, w.mend] for w in here]
        terminal.table(["weights", "", "file", "to mend it"], rows)
    missing = [weights for weights in report.weights if weights.state == "missing"]
    if missing:
        example = next((weights for weights in missing if weights.backbone == "resnet50"), missing[0])
        terminal.paragraph(
            f"{len(missing)} files of torchvision's weights are not here. Each is downloaded when it is first asked "
            f"for: {example.mend}. Without a network put {example.url} at {example.file}; `pipeline backbones NAME` "
            "names the file of any other."
        )


def _rows(findings: Sequence[Check]) -> list[list[str]]:
    return [[finding.name, finding.status, finding.found, finding.mend] for finding in findings]
