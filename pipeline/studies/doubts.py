"""What the verdicts of a study are to be read with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from pipeline.studies.points import RANDOM, SCRATCH, Point
from pipeline.studies.subject import StudyData

FEW_GROUPS = 8


def caveats(subject: StudyData, points: Sequence[Point], budget: float) -> Iterator[str]:
    """Give a sentence each on test images that tell little, an untrained backbone and short budgets."""
    test = subject.test.part
    if test.groups is not None and len(np.unique(test.groups)) < FEW_GROUPS:
        yield f"the test images are of {len(np.unique(test.groups))} groups alone: intervals are wide, verdicts careful"
    lacking = [name for code, name in enumerate(subject.question.classes) if code not in test.y]
    if lacking:
        yield f"no test image is of {', '.join(lacking)}: the scores are about the other classes"
    if RANDOM not in {point.method for point in points}:
        yield "the backbone's own weights are random: there is no transfer to study, and no null beside it"
    mine = [point for point in points if point.method == SCRATCH]
    cut, trained = sum(point.cut_short for point in mine), sum(point.draws for point in mine)
    if cut:
        yield (
            f"{cut} of {trained} trainings from scratch were shortened for their budget of {budget:g} seconds: with "
            "more (--budget) they might do better than they do here"
        )
