"""What a run is made of: `Result`, one head on one label set, and `LabelSetInfo`, what was asked of it. Pure data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# The columns of the leaderboard; a result holds a few more.
LEADERBOARD = (
    "label_set", "source", "cache", "backbone", "layer", "head", "n", "scoring", "mean", "low", "high", "nested",
    "optimistic", "tied", "p_best", "test", "test_low", "test_high", "test_apart", "test_apart_low", "test_apart_high",
    "params", "params_of", "seconds",
)  # fmt: skip

CHOSEN = "chosen"
DUMMY = "dummy"
PIXELS = "pixel_statistics"
NOTHING = "none"  # the features of the dummy

# What the parameters of a result were chosen on.
ALL_ROWS = "all rows"
MOST_FOLDS = "most folds"
EACH_FOLD = "each fold"


@dataclass(frozen=True)
class Result:
    """One head on one label set under one scoring. A score never travels without its interval.

    Attributes
    ----------
    label_set, cache, backbone, layer, head : str
        What was evaluated; `layer` is ``pixel_statistics`` for the null of that name and ``none`` for the dummy, and
        `head` is ``chosen`` for the whole procedure of choosing among the heads within every fold (the other three
        are then those of the best head).
    n : int
        Rows that were scored out of fold.
    scoring : str
    mean, low, high : float or None
        The score of all out-of-fold predictions together, and its 95% interval; None where nothing can be said.
    nested : bool
        False: the parameters were chosen on the rows they are scored on, so the score is optimistic.
    test, test_low, test_high : float or None
        The score on the fixed test set, looked at once.
    test_apart, test_apart_low, test_apart_high : float or None
        The same without the test images that training holds copies of; None where it holds none.
    params : mapping
        Plain JSON values.
    seconds : float
        Time spent on this head, all folds together.
    method : str
        How the interval was made.
    fold_scores : tuple of float
        The score of each outer fold.
    null : bool
        Whether this is a null to hold the others against: the dummy, or the pixel statistics.
    warnings : tuple of str
    source : str
        The name of the images, which tells label sets of one name apart where several DATA were evaluated.
    tied : bool or None
        Whether the best head of this label set, by this scoring, is not shown to be better: a paired t-test over the
        outer folds, corrected for the rows that they share, at 5% after Holm's adjustment for all heads, layers,
        backbones and nulls that the best was held against. The best is tied with itself. None for ``chosen``, and
        where fewer than 3 folds have a score.
    p_best : float or None
        That test's adjusted p value, two-sided.
    params_of : {"all rows", "most folds", "each fold"}
        Whether `params` were chosen on all training rows, as `fit` does; or are those chosen most often over the outer
        folds, because nothing was fitted on all rows; or, for ``chosen``, name the head of each fold.
    test_cache : str
        Where the features of the test images are, if the test set is one of its own; empty where they are in `cache`,
        or there is no test set.
    """

    label_set: str
    cache: str
    backbone: str
    layer: str
    head: str
    n: int
    scoring: str
    mean: float | None
    low: float | None
    high: float | None
    nested: bool
    test: float | None
    test_low: float | None
    test_high: float | None
    params: Mapping[str, Any]
    seconds: float
    method: str
    fold_scores: tuple[float | None, ...] = ()
    null: bool = False
    warnings: tuple[str, ...] = ()
    source: str = ""
    tied: bool | None = None
    p_best: float | None = None
    params_of: str = MOST_FOLDS
    test_apart: float | None = None
    test_apart_low: float | None = None
    test_apart_high: float | None = None
    test_cache: str = ""

    @property
    def optimistic(self) -> bool:
        """Whether the parameters were chosen on the rows that `mean` is about; a test score never is."""
        return not self.nested

    def as_dict(self) -> dict[str, Any]:
        """Return the result as plain JSON values."""
        values = {**self.__dict__, "optimistic": self.optimistic}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    @classmethod
    def from_dict(cls, said: Mapping[str, Any]) -> Result:
        """Return the result that `as_dict` told."""
        values = _known(cls, said)
        values |= {name: tuple(values[name]) for name in ("fold_scores", "warnings") if name in values}
        return cls(**values)


@dataclass(frozen=True)
class TestCopy:
    """A test image and the training image that it is a copy of.

    Attributes
    ----------
    id, copy_of : str
    cosine : float
        Of their embeddings less the mean of the training images'; 1 for exact copies.
    exact : bool
        Whether the two files have one content.
    """

    __test__ = False  # for pytest, which takes it for a test

    id: str
    copy_of: str
    cosine: float
    exact: bool


@dataclass(frozen=True)
class LabelSetInfo:
    """What was asked of one label set: how many rows, which classes, how it was split.

    Attributes
    ----------
    name : str
    kind : {"class", "number", "multi"}
    n : int
        Rows that were learned from and scored out of fold.
    classes : tuple of str
        Classes or tags that could be learned; empty for numbers.
    unlabelled : int
        Images without a label, which were left out.
    groups : int or None
        How many there were; None where images were taken as independent.
    folds : int
    test : int or None
        Rows of the fixed test set.
    scoring : str
        What the choice was made by.
    source : str
        The name of the images.
    test_copies : tuple of TestCopy
        The test images that are copies of training images, each with the one it is most like.
    test_apart : int or None
        Rows of the test set without those; None where there are none.
    """

    name: str
    kind: str
    n: int
    classes: tuple[str, ...]
    unlabelled: int
    groups: int | None
    folds: int
    test: int | None
    scoring: str
    source: str = ""
    test_copies: tuple[TestCopy, ...] = ()

    @property
    def test_apart(self) -> int | None:
        return self.test - len(self.test_copies) if self.test is not None and self.test_copies else None

    def as_dict(self) -> dict[str, Any]:
        """Return the label set as plain JSON values."""
        copies = [dict(copy.__dict__) for copy in self.test_copies]
        return {
            **self.__dict__,
            "classes": list(self.classes),
            "test_apart": self.test_apart,
            "test_copies": copies,
        }

    @classmethod
    def from_dict(cls, said: Mapping[str, Any]) -> LabelSetInfo:
        """Return the label set that `as_dict` told."""
        copies = tuple(TestCopy(**copy) for copy in said.get("test_copies", ()))
        return cls(**{**_known(cls, said), "classes": tuple(said["classes"]), "test_copies": copies})


def _known(kind: Any, said: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a dataclass has a field for: what is derived is told too, and is not read."""
    return {name: value for name, value in said.items() if name in kind.__dataclass_fields__}
