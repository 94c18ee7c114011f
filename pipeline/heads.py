"""Which heads can be trained: named scikit-learn estimators with their search grids, and the user's own estimators.

A head is the estimator itself: nothing wraps it.
"""

from __future__ import annotations

import ast
import difflib
import importlib
import inspect
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from pipeline.errors import HeadError

__all__ = [
    "DEFAULT",
    "FAST",
    "GROUPS",
    "CatalogueEntry",
    "Head",
    "catalogue",
    "estimator_text",
    "fits",
    "fitted_on_random_rows",
    "parse_grid",
    "resolve_heads",
]


def estimator_text(estimator: Any) -> str:
    """Return the code that constructs the estimator, in one line, without parameters at their defaults."""
    from sklearn.pipeline import Pipeline

    if isinstance(estimator, Pipeline):
        return " + ".join(estimator_text(step) for _, step in estimator.steps)
    try:
        defaults = {
            name: parameter.default
            for name, parameter in inspect.signature(type(estimator).__init__).parameters.items()
        }
    except (TypeError, ValueError):
        return type(estimator).__name__
    shown = []
    for name, value in estimator.get_params(deep=False).items():
        if name == "random_state" or _same(value, defaults.get(name)):
            continue
        shown.append(f"{name}={estimator_text(value) if hasattr(value, 'get_params') else repr(value)}")
    return f"{type(estimator).__name__}({', '.join(shown)})"


def _same(value: Any, default: Any) -> bool:
    return (
        value is default
        or (type(value) is type(default) and not hasattr(value, "__len__") and value == default)
        or (isinstance(value, str) and value == default)
    )


def parse_grid(grid: Mapping[str, Any] | Sequence[str]) -> dict[str, list[Any]]:
    """Return {"head.param": values} from texts like "logistic.C=0.01,0.1,1" or from a mapping.

    Values are Python literals (1e-3, None, True, (64, 64)) where they read as such, otherwise text.
    """
    if isinstance(grid, Mapping):
        return {key: _as_list(values, key) for key, values in grid.items()}
    parsed: dict[str, list[Any]] = {}
    for text in [grid] if isinstance(grid, str) else grid:
        key, equals, values = text.partition("=")
        if not equals or "." not in key or not values.strip():
            raise HeadError(
                f"--grid {text}: expected HEAD.PARAM=VALUE,VALUE, got {text!r}",
                "write it like --grid logistic.C=0.01,0.1,1",
            )
        parsed.setdefault(key.strip(), []).extend(_literal(value) for value in _split_values(values))
    return parsed


def own_name(estimator: Any, head: str, param: str) -> str:
    """Return the full name of a parameter given by its short name: C -> logisticregression__C."""
    names = list(estimator.get_params())
    if param in names:
        return param
    matches = [name for name in names if name.rpartition("__")[2] == param]
    if len(matches) > 1:  # the last step has precedence over the scalers before it
        last = [name for name in matches if name.split("__")[0] == _last_step(estimator)]
        matches = last if len(last) == 1 else matches
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise HeadError(
            f"--grid {head}.{param}: expected one parameter, got {', '.join(matches)}",
            f"write it in full: --grid {head}.{matches[0]}=...",
        )
    short = list(dict.fromkeys(name.rpartition("__")[2] for name in names if name.rpartition("__")[2]))
    folded = {name.casefold(): name for name in short}
    near = [folded[n] for n in difflib.get_close_matches(param.casefold(), list(folded), n=3, cutoff=0.5)]
    raise HeadError(
        f"--grid {head}.{param}: expected a parameter of {estimator_text(estimator)}, got {param!r}",
        f"did you mean --grid {head}.{near[0]}=...?" if near else f"its parameters: {', '.join(short[:12])}",
    )


def _last_step(estimator: Any) -> str | None:
    from sklearn.pipeline import Pipeline

    return estimator.steps[-1][0] if isinstance(estimator, Pipeline) else None


def _as_list(values: Any, key: str) -> list[Any]:
    if isinstance(values, str) or not isinstance(values, Iterable):
        return [values]
    values = values.tolist() if hasattr(values, "tolist") else list(values)
    if not values:
        raise HeadError(f"--grid {key}: expected at least one value, got none", "give a value, or leave the grid out")
    return values


def _split_values(text: str) -> list[str]:
    """Split at the commas that no bracket or quote encloses: "(64,),(128,64)" is two values."""
    parts, depth, quote = [""], 0, ""
    for char in text:
        if quote:
            quote = "" if char == quote else quote
        elif char in "'\"":
            quote = char
        else:
            depth += (char in "([{") - (char in ")]}")
        if char == "," and depth == 0 and not quote:
            parts.append("")
        else:
            parts[-1] += char
    return [part.strip() for part in parts if part.strip()]


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def has_method(estimator: Any, name: str) -> bool:
    """Return whether an estimator has a method, also where the method is available only after fitting.

    Parameters
    ----------
    estimator : estimator
        An unfitted one; a `StackingClassifier` without a final estimator of its own shows no `predict` yet.
    name : str
        Such as "predict".
    """
    from sklearn.base import is_classifier, is_regressor

    if callable(getattr(estimator, name, None)):
        return True
    if not callable(getattr(type(estimator), name, None)) or callable(getattr(estimator, "predict", None)):
        return False
    # Not even `predict` is available before fitting, so the methods depend on the fit.
    kind = "class" if is_classifier(estimator) else "number" if is_regressor(estimator) else ""
    if not kind:
        return False
    return name == "predict" or callable(getattr(fitted_on_random_rows(estimator, kind), name, None))


def fitted_on_random_rows(estimator: Any, kind: str) -> Any:
    """Return a clone fitted to 60 random rows of 64 columns, or the estimator itself where fitting fails.

    Parameters
    ----------
    estimator : estimator
    kind : {"class", "number", "multi"}
    """
    from sklearn.base import clone

    rng = np.random.default_rng(0)
    # So many columns that scikit-learn's "auto" options choose what they choose for real embeddings.
    X = rng.normal(size=(60, 64)).astype(np.float32)
    y = {
        "class": np.arange(60) % 2,
        "number": rng.normal(size=60),
        "multi": np.column_stack([np.arange(60) % 2, np.arange(60) % 3 == 0]).astype(np.int8),
    }[kind]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return clone(estimator).fit(X, y)
    except Exception:
        return estimator


DEFAULT = {"class": "logistic", "number": "ridge", "multi": "logistic"}
FAST = ("logistic", "ridge", "lda", "knn", "centroid")
GROUPS = ("fast", "all")


@dataclass(frozen=True, eq=False)
class Head:
    """An unfitted estimator with the grid to search.

    Parameters
    ----------
    name : str
        The name in tables.
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
    """A row of `pipeline heads`: one head for one kind of label."""

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
    for kind, specs in RECIPES.items():
        for name, spec in specs.items():
            head = named_head(name, kind, random_state=0)
            short = {key.rpartition("__")[2]: values for key, values in head.grid.items()}
            fast = name in FAST
            entries.append(
                CatalogueEntry(name, kind, estimator_text(head.estimator), short, head.probabilities, fast, spec.note)
            )
    return entries


@dataclass(frozen=True)
class HeadSpec:
    """A named head: the function that makes it from a seed, its grid by short names, and a note."""

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
    # two thirds of the time. 2,000 is enough for far more rows than columns, where random labels need the most.
    return _scaled(LogisticRegression(max_iter=2000, random_state=random_state))


def _one_each(make: Callable[[int | None], Any], random_state: int | None) -> Any:
    """Return the head with its last step fitted once per tag, for estimators that do not support several tags."""
    from sklearn.multiclass import OneVsRestClassifier

    *steps, (_, last) = make(random_state).steps
    return _scaled(*(step for _, step in steps[1:]), OneVsRestClassifier(last))


def _linear_svm(random_state: int | None) -> Any:
    from sklearn.svm import LinearSVC

    # liblinear needs more sweeps as C grows (0.01: 230, 0.1: 510, 1.0: over 1,000, none better): the grid ends there.
    return _scaled(LinearSVC(max_iter=5000, random_state=random_state))


def _ridge(random_state: int | None, *, number: bool = False) -> Any:
    from sklearn.linear_model import Ridge, RidgeClassifier

    # The solver ("auto": Cholesky of the smaller side) is deterministic, so there is no seed to set.
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
    spec = RECIPES[kind][name]
    estimator = spec.make(random_state)
    return Head(name, kind, estimator, {own_name(estimator, name, key): list(v) for key, v in spec.grid.items()})


_KIND_TEXT = {"class": "classes", "number": "numbers", "multi": "several tags an image"}


def fits(head: object, kind: str) -> bool:
    """Return whether a head (name, group, import path or estimator) can be trained on this kind of label set.

    Raises
    ------
    HeadError
        There is no such head.
    """
    if isinstance(head, Head):
        return head.kind == kind
    if isinstance(head, str) and "." not in head:
        if head in GROUPS:
            return True
        _check_name(head)
        return head in RECIPES[kind]
    return _estimator_fits(_imported(head) if isinstance(head, str) else _as_estimator(head), kind)


def resolve_heads(
    heads: Sequence[Any] | str,
    *,
    kind: str,
    grid: Mapping[str, Any] | Sequence[str] = (),
    random_state: int | None = 0,
) -> list[Head]:
    """Return the requested heads, each once, in the order given, with their grids.

    Parameters
    ----------
    heads : sequence of str or estimator
        Names, `fast`, `all` (those that fit the kind, without the dummy), import paths ("sklearn.svm.SVC"),
        estimators.
    kind : {"class", "number", "multi"}
    grid : mapping, or sequence of str
        {"logistic.C": [0.01, 0.1]} or ["logistic.C=0.01,0.1"]: replaces that parameter's values; one value fixes it.
    random_state : int
        Given to every `random_state` that is not set.

    Raises
    ------
    HeadError
        An unknown name (with the nearest), a head that does not fit the kind, a parameter that a head lacks.
    """
    requested = [heads] if isinstance(heads, str) or not isinstance(heads, Iterable) else list(heads)
    found: dict[str, Head] = {}
    for item in requested:
        if isinstance(item, str) and item in GROUPS:
            names = [n for n in RECIPES[kind] if n != "dummy"] if item == "all" else list(FAST)
            for name in names:
                if name in RECIPES[kind]:
                    found.setdefault(name, named_head(name, kind, random_state))
            continue
        head = _resolve(item, kind, random_state)
        if isinstance(item, str):
            found.setdefault(head.name, head)
        else:  # two objects of one class are two heads
            name, n = head.name, 2
            while name in found:
                name, n = f"{head.name}-{n}", n + 1
            found[name] = Head(name, head.kind, head.estimator, head.grid)
    if not found:
        raise HeadError("expected a head to train, got none", f"pass --head {DEFAULT[kind]}")
    return _with_grids(found, kind, parse_grid(grid))


def _resolve(item: Any, kind: str, random_state: int | None) -> Head:
    if isinstance(item, Head):
        if item.kind != kind:
            raise _does_not_fit(item.name, kind)
        return item
    if isinstance(item, str) and "." not in item:
        _check_name(item)
        if item not in RECIPES[kind]:
            raise _does_not_fit(item, kind)
        return named_head(item, kind, random_state)
    from sklearn.base import clone

    estimator = _imported(item) if isinstance(item, str) else clone(_as_estimator(item))
    if not _estimator_fits(estimator, kind):
        raise _does_not_fit(item if isinstance(item, str) else type(estimator).__name__, kind)
    seeds = {
        key: random_state
        for key, value in estimator.get_params().items()
        if value is None and key.rpartition("__")[2] == "random_state"
    }
    estimator.set_params(**seeds)
    return Head(item if isinstance(item, str) else _object_name(estimator), kind, estimator, {})


def _check_name(name: str) -> None:
    known = list(dict.fromkeys([*GROUPS, *(name for specs in RECIPES.values() for name in specs)]))
    if name in known:
        return
    near = difflib.get_close_matches(name.lower().replace("_", "-"), known, n=3, cutoff=0.5)
    raise HeadError(
        f"expected a head, got {name!r}; there are {', '.join(known)}",
        f"did you mean --head {' or --head '.join(near)}?"
        if near
        else "choose one of them, or an import path like --head sklearn.svm.SVC",
    )


def _does_not_fit(name: str, kind: str) -> HeadError:
    names = ", ".join(n for n in RECIPES[kind] if n != "dummy")
    return HeadError(
        f"head {name!r}: expected one that learns {_KIND_TEXT[kind]}, got one that does not",
        f"choose one of {names}, or say what the labels are: --column NAME:class, NAME:number or NAME:multi",
    )


def _imported(path: str) -> Any:
    """Return an instance of the class at the import path, made with its defaults."""
    module_name, _, class_name = path.rpartition(".")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise HeadError(
            f"head {path!r}: expected a module {module_name!r}, got none that imports ({error})",
            "write it like --head sklearn.svm.SVC, or install its package",
        ) from error
    except ValueError as error:  # ".SVC": an empty or relative module name
        raise HeadError(f"head {path!r}: expected an import path", "write it like --head sklearn.svm.SVC") from error
    found = getattr(module, class_name, None)
    if found is None:
        near = difflib.get_close_matches(class_name, dir(module), n=3, cutoff=0.6)
        raise HeadError(
            f"head {path!r}: expected {class_name!r} in {module_name}, got no such name",
            f"did you mean {' or '.join(f'{module_name}.{name}' for name in near)}?"
            if near
            else f"see help({module_name})",
        )
    if not inspect.isclass(found):
        kind = "module" if inspect.ismodule(found) else type(found).__name__
        raise HeadError(
            f"head {path!r}: expected a scikit-learn estimator class, got a {kind}",
            "write the class itself, like --head sklearn.svm.SVC",
        )
    return _as_estimator(found)


def _as_estimator(item: Any) -> Any:
    """Return the estimator; a class is constructed with its defaults."""
    name = item.__name__ if inspect.isclass(item) else type(item).__name__
    # On an object, `predict` may be available only after fitting; on a class, every method is.
    lacks = [method for method in ("fit", "predict", "get_params") if not has_method(item, method)]
    if lacks:
        raise HeadError(
            f"head {name}: expected a scikit-learn estimator, got one without {', '.join(lacks)}",
            "pass a name, an import path like sklearn.svm.SVC, or an estimator object",
        )
    if not inspect.isclass(item):
        return item
    try:
        return item()
    except TypeError as error:
        raise HeadError(
            f"head {name}: expected a class that can be made without arguments, got {error}",
            "make the estimator in Python and pass the object",
        ) from error


def _estimator_fits(estimator: Any, kind: str) -> bool:
    from sklearn.base import is_classifier, is_regressor

    if kind == "multi":
        return _supports_tags(estimator)
    return bool(is_classifier(estimator) if kind == "class" else is_regressor(estimator))


def _supports_tags(estimator: Any) -> bool:
    """Return whether a classifier supports several tags per image, by its scikit-learn tags."""
    from sklearn.base import is_classifier
    from sklearn.pipeline import Pipeline
    from sklearn.utils import get_tags

    last = estimator.steps[-1][1] if isinstance(estimator, Pipeline) else estimator
    if not is_classifier(last):
        return False
    tags = get_tags(last)
    # OneVsRestClassifier and MultiOutputClassifier set it in their target tags alone.
    return bool(tags.classifier_tags and tags.classifier_tags.multi_label) or bool(tags.target_tags.multi_output)


def _object_name(estimator: Any) -> str:
    from sklearn.pipeline import Pipeline

    return type(estimator.steps[-1][1] if isinstance(estimator, Pipeline) else estimator).__name__


def _with_grids(heads: dict[str, Head], kind: str, grid: dict[str, list[Any]]) -> list[Head]:
    changed = {name: dict(head.grid) for name, head in heads.items()}
    for key, values in grid.items():
        name, _, param = key.rpartition(".")
        if name not in heads:
            # A grid for a head of another kind of label set is used there.
            if name not in RECIPES[kind] and any(name in specs for specs in RECIPES.values()):
                continue
            near = difflib.get_close_matches(name, list(heads), n=1, cutoff=0.5)
            raise HeadError(
                f"--grid {key}: expected one of the heads {', '.join(heads)}, got {name!r}",
                f"did you mean --grid {near[0]}.{param}=...?" if near else f"add --head {name}, or leave its grid out",
            )
        changed[name][own_name(heads[name].estimator, name, param)] = values
    return [Head(name, head.kind, head.estimator, changed[name]) for name, head in heads.items()]
