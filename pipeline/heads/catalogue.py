"""The catalogue: each named head, its estimator, its default grid, and why they are as they are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from pipeline.heads.describe import estimator_text
from pipeline.heads.grids import own_name
from pipeline.heads.trial import has_method

DEFAULT = {"class": "logistic", "number": "ridge", "multi": "logistic"}
FAST = ("logistic", "ridge", "lda", "knn", "centroid")
GROUPS = ("fast", "all")


@dataclass(frozen=True, eq=False)
class Head:
    """An unfitted estimator with the grid to search.

    Parameters
    ----------
    name : str
        What tables call it.
    kind : {"class", "number", "multi"}
    estimator : scikit-learn estimator
        Never fitted in place: clone it.
    grid : dict of str to list
        The estimator's own parameter names ("logisticregression__C") and values, the most regularised first, so
        that a tie goes to the simpler model. Empty: nothing to choose.
    """

    name: str
    kind: str
    estimator: Any
    grid: dict[str, list[Any]]

    @property
    def probabilities(self) -> bool:
        """Whether it gives a probability for each class or tag."""
        return self.kind != "number" and has_method(self.estimator, "predict_proba")


@dataclass(frozen=True)
class CatalogueEntry:
    """What `pipeline heads` prints of one head for one kind of label."""

    name: str
    kind: str
    estimator: str
    grid: dict[str, list[Any]]
    probabilities: bool
    fast: bool
    note: str


def catalogue() -> list[CatalogueEntry]:
    """Return every named head, first those for classes, then those for numbers and for tags."""
    entries = []
    for kind, recipes in RECIPES.items():
        for name, recipe in recipes.items():
            head = named_head(name, kind, random_state=0)
            short = {key.rpartition("__")[2]: values for key, values in head.grid.items()}
            fast = name in FAST
            entries.append(
                CatalogueEntry(name, kind, estimator_text(head.estimator), short, head.probabilities, fast, recipe.note)
            )
    return entries


@dataclass(frozen=True)
class HeadSpec:
    """How a named head is made from a seed, its grid by short names, and a word on it."""

    make: Callable[[int | None], Any]
    grid: dict[str, list[Any]]
    note: str


def _scaled(*steps: Any) -> Any:
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), *steps)


def _logistic(random_state: int | None) -> Any:
    from sklearn.linear_model import LogisticRegression

    # lbfgs at its default tolerance on standardised float32 embeddings: 10 to 210 iterations over the whole
    # grid (1,000 x 1,280, 18 real classes as well as random labels), the same choices and scores as in float64 at
    # two thirds of the time. 2,000 leaves room for far more rows than columns, where random labels need the most.
    return _scaled(LogisticRegression(max_iter=2000, random_state=random_state))


def _one_each(make: Callable[[int | None], Any], random_state: int | None) -> Any:
    """Return the head with its last step fitted once a tag, for estimators that do not take several tags at once."""
    from sklearn.multiclass import OneVsRestClassifier

    *steps, (_, last) = make(random_state).steps
    return _scaled(*(step for _, step in steps[1:]), OneVsRestClassifier(last))


def _linear_svm(random_state: int | None) -> Any:
    from sklearn.svm import LinearSVC

    # liblinear needs ever more sweeps as C grows (0.01: 230, 0.1: 510, 1.0: over 1,000, none better), so the grid ends.
    return _scaled(LinearSVC(max_iter=5000, random_state=random_state))


def _ridge(random_state: int | None, *, number: bool = False) -> Any:
    from sklearn.linear_model import Ridge, RidgeClassifier

    # The solver ("auto": Cholesky, of the smaller side) draws nothing, so there is no seed to set.
    return _scaled(Ridge() if number else RidgeClassifier())


def _lda(random_state: int | None) -> Any:
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    return _scaled(LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.1))


def _knn(random_state: int | None, *, number: bool = False) -> Any:
    from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor

    # Brute force: trees gain nothing at a thousand dimensions, and a tree is a type that cannot be stored safely.
    return _scaled((KNeighborsRegressor if number else KNeighborsClassifier)(algorithm="brute"))


def _centroid(random_state: int | None) -> Any:
    from sklearn.feature_selection import VarianceThreshold
    from sklearn.neighbors import NearestCentroid
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    # Shrinking divides by each column's spread, and a ReLU network has columns that are zero on every image.
    return make_pipeline(VarianceThreshold(), StandardScaler(), NearestCentroid())


def _naive_bayes(random_state: int | None) -> Any:
    from sklearn.naive_bayes import GaussianNB

    return _scaled(GaussianNB())


def _rbf_svm(random_state: int | None) -> Any:
    from sklearn.svm import SVC

    # `probability=True` is deprecated, and a calibration inside would cost five fits more: it gives scores.
    return _scaled(SVC(kernel="rbf", random_state=random_state))


def _svr(random_state: int | None) -> Any:
    from sklearn.compose import TransformedTargetRegressor
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVR

    # The target is standardised: C and epsilon are in its units otherwise.
    return _scaled(TransformedTargetRegressor(regressor=SVR(kernel="rbf"), transformer=StandardScaler()))


def _random_forest(random_state: int | None) -> Any:
    from sklearn.ensemble import RandomForestClassifier

    return RandomForestClassifier(n_estimators=100, random_state=random_state)


def _boosting(random_state: int | None, *, number: bool = False) -> Any:
    from sklearn.decomposition import PCA
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    # On 1,280 columns one fit of 50 rounds took 16 s for 18 classes, even when each split saw 3% of the columns
    # (`max_features`); on the components that hold 80% of the variance 3 s, at equal accuracy. Early stopping is
    # left to scikit-learn's rule (above 10,000 rows): it holds out a stratified tenth, which small classes break.
    boosting = HistGradientBoostingRegressor if number else HistGradientBoostingClassifier
    rounds = boosting(max_iter=50, max_leaf_nodes=15, random_state=random_state)
    return _scaled(PCA(0.8, svd_solver="full", random_state=random_state), rounds)


def _mlp(random_state: int | None) -> Any:
    from sklearn.neural_network import MLPClassifier

    # A step of 0.003 and a stop at gains below 0.001: converged within 130 rounds on 100 to 1,000 rows, at the accuracy
    # of scikit-learn's defaults, which take 500 and more. Early stopping would hold rows out.
    learner = MLPClassifier(
        hidden_layer_sizes=(64,), learning_rate_init=3e-3, tol=1e-3, max_iter=1000, random_state=random_state
    )
    return _scaled(learner)


def _dummy(random_state: int | None, *, number: bool = False) -> Any:
    from sklearn.dummy import DummyClassifier, DummyRegressor

    return DummyRegressor(strategy="mean") if number else DummyClassifier(strategy="prior", random_state=random_state)


# The most regularised value first: GridSearchCV gives a tie to the first.
_CS = [1e-4, 1e-3, 1e-2, 1e-1, 1e0, 1e1, 1e2]
_SHRINKAGES = [1.0, 0.9, 0.7, 0.5, 0.2, 0.1, 0.01]
_ALPHAS = [1e6, 1e5, 1e4, 1e3, 1e2, 1e1, 1e0]
_KNN_GRID: dict[str, list[Any]] = {"n_neighbors": [20, 10, 5, 3, 1], "weights": ["uniform", "distance"]}
_BOOSTING_GRID: dict[str, list[Any]] = {"max_leaf_nodes": [7, 15]}
RECIPES: dict[str, dict[str, HeadSpec]] = {
    "class": {
        "logistic": HeadSpec(_logistic, {"C": _CS}, "the default"),
        "linear-svm": HeadSpec(_linear_svm, {"C": [1e-5, 1e-4, 1e-3, 1e-2]}, "slow with many classes"),
        "ridge": HeadSpec(_ridge, {"alpha": _ALPHAS}, "the fastest linear head"),
        "lda": HeadSpec(_lda, {"shrinkage": _SHRINKAGES}, "one decomposition a fold for all shrinkages"),
        "knn": HeadSpec(_knn, _KNN_GRID, "keeps every training row"),
        "centroid": HeadSpec(_centroid, {"shrink_threshold": [2.0, 1.0, 0.5, None]}, "sure of itself: see log loss"),
        "naive-bayes": HeadSpec(
            _naive_bayes, {"var_smoothing": [1e0, 1e-1, 1e-2, 1e-9]}, "sure of itself: see log loss"
        ),
        "rbf-svm": HeadSpec(_rbf_svm, {"C": [1.0, 10.0, 100.0], "gamma": [1e-4, "scale"]}, "slow above 10,000 rows"),
        "random-forest": HeadSpec(_random_forest, {"min_samples_leaf": [5, 1]}, "slow"),
        "hist-gradient-boosting": HeadSpec(_boosting, _BOOSTING_GRID, "slow with many classes"),
        "mlp": HeadSpec(_mlp, {"alpha": [10.0, 1.0, 0.1]}, "slow"),
        "dummy": HeadSpec(_dummy, {}, "always the commonest class; what every score is held against"),
    },
    "number": {
        "ridge": HeadSpec(partial(_ridge, number=True), {"alpha": _ALPHAS}, "the default"),
        "knn": HeadSpec(partial(_knn, number=True), _KNN_GRID, "keeps every training row"),
        "svr": HeadSpec(_svr, {"C": [0.01, 0.1, 1.0, 10.0, 100.0]}, "slow above 10,000 rows"),
        "hist-gradient-boosting": HeadSpec(partial(_boosting, number=True), _BOOSTING_GRID, "slow"),
        "dummy": HeadSpec(partial(_dummy, number=True), {}, "always the mean; what every score is held against"),
    },
    "multi": {
        "logistic": HeadSpec(partial(_one_each, _logistic), {"C": _CS}, "the default"),
        "ridge": HeadSpec(_ridge, {"alpha": _ALPHAS}, "the fastest linear head"),
        "lda": HeadSpec(partial(_one_each, _lda), {"shrinkage": _SHRINKAGES}, "slow with many tags"),
        "knn": HeadSpec(_knn, _KNN_GRID, "keeps every training row"),
        "random-forest": HeadSpec(_random_forest, {"min_samples_leaf": [5, 1]}, "slow"),
        "mlp": HeadSpec(_mlp, {"alpha": [10.0, 1.0, 0.1]}, "slow"),
        "dummy": HeadSpec(_dummy, {}, "how common each tag is; what every score is held against"),
    },
}


def named_head(name: str, kind: str, random_state: int | None) -> Head:
    """Return a head of the catalogue with its default grid."""
    recipe = RECIPES[kind][name]
    estimator = recipe.make(random_state)
    return Head(name, kind, estimator, {own_name(estimator, name, key): list(v) for key, v in recipe.grid.items()})
