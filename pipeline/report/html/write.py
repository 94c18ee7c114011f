"""`write_report`: write a run, a score or a study as one HTML file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.arguments import check_arguments
from pipeline.errors import ReportError
from pipeline.files import replace_file
from pipeline.model import ModelScore
from pipeline.progress import SILENT, Progress
from pipeline.report.html.run_page import run_page
from pipeline.report.html.score_page import score_page
from pipeline.report.html.study_page import study_page
from pipeline.runs import Run
from pipeline.runs.directory import RUN, SCORE, STUDY, report_name
from pipeline.studies import Study

About = Run | ModelScore | Study


@dataclass(frozen=True)
class Report:
    """A page that was written.

    Attributes
    ----------
    path : Path
    about : Run, ModelScore or Study
    bytes : int
        How large the file is.
    """

    path: Path
    about: About
    bytes: int


@check_arguments
def write_report(
    run: str | Path | About, *, out: str | Path | None = None, photos: Any = None, progress: Progress = SILENT
) -> Report:
    """Write one self-contained HTML page about a run, a score or a study, which loads nothing from other places.

    Parameters
    ----------
    run : path, Run, ModelScore or Study
        The folder that `evaluate`, `score` or `study` wrote, or the object itself.
    out : str or Path, optional
        ``NAME-report.html`` in the run's folder by default, NAME being that of the data set.
    photos : path or ImageSource, optional
        Where the photos are now; by default where they were when their features were extracted. Without photos, or
        without the cache, the page is made without what needs them, and says so.
    progress : Progress

    Returns
    -------
    Report

    Raises
    ------
    PipelineError
        There is no run, the page cannot be written, or what draws it is not installed.
    """
    about = run if isinstance(run, About) else open_run(run)
    if out is None and about.folder is None:
        raise ReportError(
            f"the report of {about.name}: expected a file to write, got a run that no folder holds", "out="
        )
    path = Path(out) if out is not None else about.folder / report_name(about.name)  # type: ignore[operator]
    content = _page(about, photos, progress).encode()
    try:
        if out is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, content)
    except OSError as error:
        raise ReportError(
            f"{path}: expected to write the report here, got {error.strerror or error}",
            "choose another place with --out",
        ) from error
    return Report(path, about, len(content))


@check_arguments
def open_run(folder: str | Path) -> About:
    """Return the run, the score or the study that a folder holds.

    Raises
    ------
    PipelineError
        It holds none of them.
    """
    folder = Path(folder)
    if not (folder / RUN).exists():
        for file, kind in ((STUDY, Study), (SCORE, ModelScore)):
            if (folder / file).exists():
                return kind.open(folder)
    return Run.open(folder)


def _page(about: About, photos: Any, progress: Progress) -> str:
    if isinstance(about, Study):  # shows no photos
        return study_page(about)
    if isinstance(about, ModelScore):
        return score_page(about, photos=photos, progress=progress)
    return run_page(about, photos=photos, progress=progress)
