"""The map that several label sets of one cache and layer share: points are stored once, colors per label set."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from pipeline.cache import RowSubset
from pipeline.report.diagnostics.embedding_map import ClassOverlap, EmbeddingMap, class_overlap, embedding_map
from pipeline.report.diagnostics.mistakes import DuplicatePairs, find_duplicate_pairs
from pipeline.report.diagnostics.predictions import StoredFeatures
from pipeline.report.diagnostics.summary import labelled, load_features
from pipeline.report.html.charts import GREY, LegendKey
from pipeline.runs import LabelSetInfo, Run

MARKS = ("circle", "triangle", "square", "diamond", "inverted_triangle", "hex")
APART = GREY * len(MARKS)  # classes that colour and shape tell apart
NOT_LABELLED = 2**16 - 1
NUMBER_STEPS = 5  # colours from low to high


@dataclass(frozen=True, eq=False)
class MapLayer:
    """One layer of one cache, and the label sets that heads were trained on with it.

    Attributes
    ----------
    number : int
        Its own on the page.
    source : str
        The name of the images.
    cache, layer : str
        As of `Result`.
    infos : tuple of LabelSetInfo
    features : StoredFeatures or None
        None where the cache is gone.
    map : EmbeddingMap or None
    copies : DuplicatePairs or None
    labels : mapping of str to mapping
        Of each label set by name: what an image is, by its id. Empty where the cache is gone.
    notes : tuple of str
    """

    number: int
    source: str
    cache: str
    layer: str
    infos: tuple[LabelSetInfo, ...]
    features: StoredFeatures | None = field(repr=False)
    map: EmbeddingMap | None = field(repr=False)
    duplicates: DuplicatePairs | None = field(repr=False)
    labels: Mapping[str, Mapping[str, Any]] = field(repr=False)
    notes: tuple[str, ...] = ()

    def overlap(self, info: LabelSetInfo) -> ClassOverlap | None:
        """Return how well the classes of a label set are apart on the map; None where that cannot be computed."""
        if self.map is None:
            return None
        known = self.labels.get(info.name, {})
        rows = [row for row, name in enumerate(self.map.ids) if name in known]
        if not rows:
            return None
        codes = np.unique([str(known[self.map.ids[row]]) for row in rows], return_inverse=True)[1]
        return class_overlap(self.map.x[rows], self.map.y[rows], codes)


def build_map_layers(run: Run, *, most: int) -> list[MapLayer]:
    """Return what the label sets of a run stand on: those of one cache and layer on one ground."""
    together: dict[tuple[str, str], list[LabelSetInfo]] = {}
    for info in run.label_sets:
        best = run.best(info.name, source=info.source)
        together.setdefault((best.cache, best.layer), []).append(info)
    alone = split_by_label_set(run)
    return [_build_map_layer(run, alone, number, tuple(infos), most) for number, infos in enumerate(together.values())]


def split_by_label_set(run: Run) -> dict[tuple[str, str], Run]:
    """Return the run once for each label set, by its name and source, with the predictions of that one alone.

    Of many label sets the whole table is long: it is searched once, and not for each question.
    """
    tables = {}
    if len(run.predictions):
        found = run.predictions.groupby(["label_set", "source"], sort=False, observed=True)
        tables = {(str(name), str(source)): table for (name, source), table in found}
    nothing = run.predictions.iloc[:0]
    keys = [(info.name, info.source) for info in run.label_sets]
    return {key: replace(run, predictions=tables.get(key, nothing)) for key in keys}


def _build_map_layer(
    run: Run, alone: Mapping[tuple[str, str], Run], number: int, infos: tuple[LabelSetInfo, ...], most: int
) -> MapLayer:
    first = run.best(infos[0].name, source=infos[0].source)
    features, notes = load_features(run, first)
    if features is None:
        return MapLayer(number, infos[0].source, first.cache, first.layer, infos, None, None, None, {}, tuple(notes))
    labels = {}
    for info in infos:
        own_run = alone[info.name, info.source]
        ids, texts = labelled(own_run, own_run.best(info.name, source=info.source), features)
        labels[info.name] = dict(zip(ids, texts.tolist(), strict=True))
    # Drawn in proportion to the classes of the first label set; images that it leaves out are a class of their own.
    everybody = list(dict.fromkeys(name for known in labels.values() for name in known))
    rows = features.rows(everybody)
    present = np.flatnonzero(rows >= 0)
    names = [everybody[place] for place in present]
    known = labels[infos[0].name]
    first_labels: Any = [known.get(name, "") for name in names]
    if infos[0].kind == "number":
        first_labels = np.array([float(value) if value != "" else np.nan for value in first_labels])
    drawn = embedding_map(RowSubset(features.X, rows[present]), names, first_labels, most=most)
    duplicates = find_duplicate_pairs(features, names, [str(label) for label in first_labels], folds=infos[0].folds)
    return MapLayer(
        number, infos[0].source, first.cache, first.layer, infos, features, drawn, duplicates, labels, tuple(notes)
    )


def points(drawn: EmbeddingMap, pictures: Sequence[int]) -> dict[str, Any]:
    """Return a map's images for the page: ids, places, and which of the page's pictures shows which."""
    pictured = [[row, place] for row, place in enumerate(pictures) if place >= 0]
    return {"ids": list(drawn.ids), "x": _packed(drawn.x, "<f4"), "y": _packed(drawn.y, "<f4"), "pictures": pictured}


def color_by_labels(map_layer: MapLayer, info: LabelSetInfo) -> tuple[dict[str, Any], tuple[LegendKey, ...]]:
    """Return how one label set colours the map, and its legend: the commonest classes have colour and shape."""
    assert map_layer.map is not None
    known = map_layer.labels[info.name]
    if info.kind == "number":
        values = np.array([float(known.get(name, np.nan)) for name in map_layer.map.ids])
        low, high = (float(np.nanmin(values)), float(np.nanmax(values))) if np.isfinite(values).any() else (0.0, 0.0)
        ranks = _steps(values)
        numbers = [_number(value) for value in values]
        colors = {"names": numbers, "codes": _packed(ranks, "<u2"), "ramp": True, "hues": [], "marks": []}
        return colors, (LegendKey("low", f"from {low:.4g}", 0), LegendKey("high", f"to {high:.4g}", NUMBER_STEPS - 1))
    texts = [str(known[name]) if name in known else None for name in map_layer.map.ids]
    counts: dict[str, int] = {}
    for text in texts:
        if text is not None:
            counts[text] = counts.get(text, 0) + 1
    order = {name: place for place, name in enumerate(info.classes)}
    names = sorted(counts, key=lambda name: (-counts[name], order.get(name, len(order)), name))
    code = {name: place for place, name in enumerate(names[: NOT_LABELLED - 1])}
    shown = [(place % GREY, place // GREY) if place < APART else (GREY, 0) for place in range(len(code))]
    colors = {
        "names": names,
        "codes": _packed(np.array([NOT_LABELLED if text is None else code[text] for text in texts]), "<u2"),
        "ramp": False,
        "hues": [hue for hue, _ in shown],
        "marks": [MARKS[mark] for _, mark in shown],
    }
    keys = tuple(LegendKey(str(place), name, shown[place][0], MARKS[shown[place][1]]) for name, place in code.items())
    return colors, keys[:APART]


def sample(drawn: EmbeddingMap, *, random_state: int = 0) -> Iterator[str]:
    """Give the ids of a map in random order: the first of them are to have a picture."""
    order = np.random.default_rng(random_state).permutation(len(drawn))
    return (drawn.ids[row] for row in order)


def _steps(values: np.ndarray) -> np.ndarray:
    """Return a colour's place for each number, by its rank; `NOT_LABELLED` where there is none."""
    found = np.full(len(values), NOT_LABELLED)
    present = np.flatnonzero(np.isfinite(values))
    if len(present):
        edges = np.quantile(values[present], np.linspace(0, 1, NUMBER_STEPS + 1)[1:-1])
        found[present] = np.searchsorted(edges, values[present], side="right")
    return found


def _number(value: float) -> str:
    return f"{value:.4g}" if np.isfinite(value) else ""


def _packed(values: np.ndarray, kind: str) -> str:
    return b64encode(np.ascontiguousarray(values, kind).tobytes()).decode()
