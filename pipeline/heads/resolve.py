"""From what was asked for (names, import paths, estimators) to heads with their grids."""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pipeline.errors import HeadError
from pipeline.heads.catalogue import DEFAULT, FAST, GROUPS, RECIPES, Head, named_head
from pipeline.heads.grids import own_name, parse_grid
from pipeline.heads.trial import has_method

_KIND_TEXT = {"class": "classes", "number": "numbers", "multi": "several tags an image"}


def fits(head: object, kind: str) -> bool:
    """Say whether a head (name, group, import path or estimator) can learn label sets of this kind.

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
    """Return the heads asked for, each once, in the order asked for, with their grids.

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
    wanted = [heads] if isinstance(heads, str) or not isinstance(heads, Iterable) else list(heads)
    found: dict[str, Head] = {}
    for item in wanted:
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
        raise HeadError("wanted a head to train, found none", f"pass --head {DEFAULT[kind]}")
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
    known = list(dict.fromkeys([*GROUPS, *(name for recipes in RECIPES.values() for name in recipes)]))
    if name in known:
        return
    near = difflib.get_close_matches(name.lower().replace("_", "-"), known, n=3, cutoff=0.5)
    raise HeadError(
        f"wanted a head, found {name!r}; there are {', '.join(known)}",
        f"did you mean --head {' or --head '.join(near)}?"
        if near
        else "choose one of them, or an import path like --head sklearn.svm.SVC",
    )


def _does_not_fit(name: str, kind: str) -> HeadError:
    names = ", ".join(n for n in RECIPES[kind] if n != "dummy")
    return HeadError(
        f"head {name!r}: wanted one that learns {_KIND_TEXT[kind]}, found one that does not",
        f"choose one of {names}, or say what the labels are: --column NAME:class, NAME:number or NAME:multi",
    )


def _imported(path: str) -> Any:
    """Return an instance of the class at the import path, made with its defaults."""
    module_name, _, class_name = path.rpartition(".")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise HeadError(
            f"head {path!r}: wanted a module {module_name!r}, found none that imports ({error})",
            "write it like --head sklearn.svm.SVC, or install its package",
        ) from error
    except ValueError as error:  # ".SVC": an empty or relative module name
        raise HeadError(f"head {path!r}: wanted an import path", "write it like --head sklearn.svm.SVC") from error
    found = getattr(module, class_name, None)
    if found is None:
        near = difflib.get_close_matches(class_name, dir(module), n=3, cutoff=0.6)
        raise HeadError(
            f"head {path!r}: wanted {class_name!r} in {module_name}, found no such name",
            f"did you mean {' or '.join(f'{module_name}.{name}' for name in near)}?"
            if near
            else f"see help({module_name})",
        )
    if not inspect.isclass(found):
        kind = "module" if inspect.ismodule(found) else type(found).__name__
        raise HeadError(
            f"head {path!r}: wanted a scikit-learn estimator class, found a {kind}",
            "write the class itself, like --head sklearn.svm.SVC",
        )
    return _as_estimator(found)


def _as_estimator(item: Any) -> Any:
    """Return the estimator; a class is made with its defaults."""
    name = item.__name__ if inspect.isclass(item) else type(item).__name__
    # Of an object, `predict` may show only once it is fitted; of a class, every method does.
    lacks = [method for method in ("fit", "predict", "get_params") if not has_method(item, method)]
    if lacks:
        raise HeadError(
            f"head {name}: wanted a scikit-learn estimator, found one without {', '.join(lacks)}",
            "pass a name, an import path like sklearn.svm.SVC, or an estimator object",
        )
    if not inspect.isclass(item):
        return item
    try:
        return item()
    except TypeError as error:
        raise HeadError(
            f"head {name}: wanted a class that can be made without arguments, found {error}",
            "make the estimator in Python and pass the object",
        ) from error


def _estimator_fits(estimator: Any, kind: str) -> bool:
    from sklearn.base import is_classifier, is_regressor

    if kind == "multi":
        return _learns_tags(estimator)
    return bool(is_classifier(estimator) if kind == "class" else is_regressor(estimator))


def _learns_tags(estimator: Any) -> bool:
    """Whether a classifier takes several tags an image, by scikit-learn's word for it."""
    from sklearn.base import is_classifier
    from sklearn.pipeline import Pipeline
    from sklearn.utils import get_tags

    last = estimator.steps[-1][1] if isinstance(estimator, Pipeline) else estimator
    if not is_classifier(last):
        return False
    told = get_tags(last)
    # OneVsRestClassifier and MultiOutputClassifier say it of their targets alone.
    return bool(told.classifier_tags and told.classifier_tags.multi_label) or bool(told.target_tags.multi_output)


def _object_name(estimator: Any) -> str:
    from sklearn.pipeline import Pipeline

    return type(estimator.steps[-1][1] if isinstance(estimator, Pipeline) else estimator).__name__


def _with_grids(heads: dict[str, Head], kind: str, grid: dict[str, list[Any]]) -> list[Head]:
    changed = {name: dict(head.grid) for name, head in heads.items()}
    for key, values in grid.items():
        name, _, param = key.rpartition(".")
        if name not in heads:
            # A grid for a head of another kind of label set is used there.
            if name not in RECIPES[kind] and any(name in recipes for recipes in RECIPES.values()):
                continue
            near = difflib.get_close_matches(name, list(heads), n=1, cutoff=0.5)
            raise HeadError(
                f"--grid {key}: wanted one of the heads {', '.join(heads)}, found {name!r}",
                f"did you mean --grid {near[0]}.{param}=...?" if near else f"add --head {name}, or leave its grid out",
            )
        changed[name][own_name(heads[name].estimator, name, param)] = values
    return [Head(name, head.kind, head.estimator, changed[name]) for name, head in heads.items()]
