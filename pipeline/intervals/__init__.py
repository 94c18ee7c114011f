"""How certain is a score, and which scores are tied: intervals and paired tests.

An interval is for the score that infinitely many new images would give.

Without groups the images are taken as independent: proportions get Wilson's interval, balanced accuracy the MOVER
combination of one Wilson interval per class, everything else a bootstrap of rows. With groups the groups are taken
as independent, and whole groups are resampled: errors within one patient or place are correlated, and an interval over
single rows would be too narrow. Fewer than 8 units are too few to resample (with 4 skewed groups the
bootstrap's limits covered the true value 86 times in 100): their spread comes from leaving each out in turn, the limits
from Student's t.

Two heads are compared fold by fold, on the same rows. Where folds are made of whole groups, so is the comparison.
"""

from pipeline.intervals.confidence import ScoreInterval, score_with_interval, wilson
from pipeline.intervals.significance import Comparison, compare_with_best, corrected_t_test, holm

__all__ = [
    "Comparison",
    "ScoreInterval",
    "compare_with_best",
    "corrected_t_test",
    "holm",
    "score_with_interval",
    "wilson",
]
