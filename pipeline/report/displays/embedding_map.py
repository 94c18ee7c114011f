"""The map of the embeddings: images as points, coloured by what they are, some of them as pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.arguments import check_arguments
from pipeline.cache import FeatureCache, RowSubset
from pipeline.errors import ReportError
from pipeline.report.diagnostics.embedding_map import MOST, EmbeddingMap, embedding_map
from pipeline.report.diagnostics.predictions import StoredFeatures, open_cache_images
from pipeline.report.diagnostics.summary import labelled, load_features, open_result_cache
from pipeline.report.displays._style import (
    GREY,
    HUES,
    MARKS,
    PALE,
    axis_for,
    figure_of,
    hide_spines,
    read_square,
    select_label_set,
    set_title,
)
from pipeline.report.displays._style import shorten as short
from pipeline.runs import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_NAMED = 20  # classes with a colour and a mark of their own
_OTHERS = "the others"
_NO_LABEL = "no label"


@dataclass(eq=False)
class EmbeddingMapDisplay:
    """Images as points of a plane, along the two directions in which their embeddings differ most.

    Parameters
    ----------
    map : EmbeddingMap
    title : str
    pictures : mapping of int to ndarray
        Of some of the images, by their place in the map: pixels, uint8 ``(side, side, 3)``.
    side : float
        Of a picture, as a share of the map's longer side.

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    """

    map: EmbeddingMap
    title: str = ""
    pictures: dict[int, np.ndarray] = field(default_factory=dict, repr=False)
    side: float = 0.06
    ax_: Any = field(init=False, repr=False)
    figure_: Any = field(init=False, repr=False)

    @classmethod
    @check_arguments
    def from_run(
        cls,
        run: Run,
        label_set: str | None = None,
        *,
        source: str | None = None,
        most: int = MOST,
        pictures: int = 0,
        photos: Any = None,
        side: float = 0.06,
        random_state: int = 0,
    ) -> EmbeddingMapDisplay:
        """Return the map of the images of a label set, on the layer of its best head.

        Parameters
        ----------
        run : Run
        label_set : str, optional
            By default the only one.
        source : str, optional
            The name of the images, where several DATA have a label set of this name.
        most : int
            Images; of more than that as many are drawn, of each class in proportion.
        pictures : int
            How many images are shown as pictures at the most; they never cover one another.
        photos : path or ImageSource, optional
            Where they are now; by default where they were when their features were extracted.
        side : float
            Of a picture, as a share of the map's longer side.
        random_state : int

        Raises
        ------
        EvaluationError
            No such label set, or several and none named.
        ReportError
            The cache is gone, or fewer than three images; with `pictures`, the photos are gone.
        """
        info = select_label_set(run, label_set, source)
        best = run.best(info.name, source=info.source)
        features, notes = load_features(run, best)
        if features is None:
            raise ReportError(notes[0].partition("; ")[0], notes[0].partition("; ")[2])
        ids, labels = labelled(run, best, features)
        return cls._provenance(
            features, ids, labels, open_result_cache(run, best), info.name,
            most=most, pictures=pictures, photos=photos, side=side, random_state=random_state,
        )  # fmt: skip

    @classmethod
    @check_arguments
    def from_cache(
        cls,
        cache: FeatureCache,
        labels: str | Sequence[Any] | np.ndarray | None = None,
        *,
        layer: str | None = None,
        most: int = MOST,
        pictures: int = 0,
        photos: Any = None,
        side: float = 0.06,
        random_state: int = 0,
    ) -> EmbeddingMapDisplay:
        """Return the map of all images of a cache that have features.

        Parameters
        ----------
        cache : FeatureCache
        labels : str, or array of n texts or numbers, optional
            The name of one of the cache's columns, or what each of `cache.rows` is; by default the column ``label``
            where there is one.
        layer : str, optional
            By default the penultimate one.
        most, pictures, photos, side, random_state
            As of `from_run`.

        Raises
        ------
        CacheError
            No such layer or column.
        ReportError
            Another number of labels than of images, or fewer than three images; with `pictures`, the photos are gone.
        """
        rows = cache.rows
        if labels is None:
            labels = "label" if "label" in cache.columns else np.full(len(rows), "")
        title = labels if isinstance(labels, str) else ""
        values = np.asarray(cache.labels(labels) if isinstance(labels, str) else labels)
        if values.shape != (len(rows),):
            raise ReportError(
                f"{cache.path.name}: expected a label for each of {len(rows):,} images, got {values.shape}",
                "give them in the order of cache.rows, or name a column",
            )
        if values.dtype == object:
            values = np.array([_NO_LABEL if text is None else str(text) for text in values])
        elif not np.issubdtype(values.dtype, np.number):
            values = values.astype(str)  # True and False too
        # Of a list that names an image twice, the map shows it once, and the photos are found by their stored ids.
        rows, first = np.unique(cache.base_rows[rows], return_index=True)
        features = StoredFeatures.of(cache.base, layer)
        return cls._provenance(
            features, [features.ids[row] for row in rows], values[first], cache.base, title,
            most=most, pictures=pictures, photos=photos, side=side, random_state=random_state,
        )  # fmt: skip

    @classmethod
    def _provenance(
        cls,
        features: StoredFeatures,
        ids: Sequence[str],
        labels: np.ndarray,
        cache: FeatureCache,
        title: str,
        *,
        most: int,
        pictures: int,
        photos: Any,
        side: float,
        random_state: int,
    ) -> EmbeddingMapDisplay:
        rows = features.rows(ids)
        present = np.flatnonzero(rows >= 0)
        drawn = embedding_map(
            RowSubset(features.X, rows[present]), [ids[place] for place in present.tolist()], labels[present],
            most=most, random_state=random_state,
        )  # fmt: skip
        if drawn is None:
            raise ReportError(
                f"{cache.path.name}: expected three images or more for a map, got {len(present)}", "extract more"
            )
        made = cls(drawn, title, {}, side)
        if pictures:
            source, note = open_cache_images(cache, photos)
            if source is None:
                raise ReportError(note.partition("; ")[0], note.partition("; ")[2])
            row_of = {name: row for row, name in enumerate(source.ids)}
            for place in made._apart(pictures, random_state):
                row = row_of.get(drawn.ids[place])
                pixels = None if row is None else read_square(source, row)
                if pixels is not None:
                    made.pictures[place] = pixels
        return made

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes that have a colour and a mark of their own, sorted: the 20 commonest; empty for numbers."""
        if np.issubdtype(self.map.labels.dtype, np.number):
            return ()
        names, counts = np.unique(self.map.labels[self.map.labels != _NO_LABEL], return_counts=True)
        return tuple(sorted(str(names[place]) for place in np.argsort(-counts, kind="stable")[:_NAMED]))

    def hue(self, name: str) -> tuple[str, str]:
        """Return the colour and the mark of a class; those without one of their own are grey."""
        if name not in self.classes:
            return GREY, "o"
        place = self.classes.index(name)
        return HUES[place % len(HUES)], MARKS[place // len(HUES) % len(MARKS)]

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the map and return the axis.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            By default that of a new figure.
        """
        ax = axis_for(ax, 7.4, 5.2)
        drawn = self.map
        size = float(np.clip(14_000 / len(drawn), 3, 30))
        if np.issubdtype(drawn.labels.dtype, np.number):
            points = ax.scatter(drawn.x, drawn.y, s=size, c=drawn.labels, cmap="viridis", alpha=0.8, linewidths=0)
            bar = figure_of(ax).colorbar(points, ax=ax, shrink=0.7)
            bar.outline.set_visible(False)
        else:
            self._draw_classes(ax, size)
        for place, pixels in self.pictures.items():
            self._draw_picture(ax, place, pixels)
        reach = self._side() / 2 if self.pictures else 0.0
        for name, values in (("x", drawn.x), ("y", drawn.y)):
            margin = reach + 0.03 * max(float(np.ptp(values)), 1e-9)
            ax.set(**{f"{name}lim": (float(values.min()) - margin, float(values.max()) + margin)})
        ax.set_aspect("equal")
        first, second = (f"{100 * share:.0f}%" for share in drawn.explained)
        ax.set(xticks=[], yticks=[])
        ax.set(xlabel=f"first principal component, {first} of the variance", ylabel=f"second, {second}")
        n = f"{len(drawn):,} images" if len(drawn) == drawn.of else f"{len(drawn):,} of {drawn.of:,} images, drawn"
        set_title(ax, f"{short(self.title, 36)}: {n}" if self.title else n)
        hide_spines(ax, "left", "bottom")
        for spine in ax.spines.values():
            spine.set_color(PALE)
        self.ax_, self.figure_ = ax, figure_of(ax)
        return ax

    def _draw_classes(self, ax: Axes, size: float) -> None:
        drawn, result_name = self.map, self.classes
        rest = ~np.isin(drawn.labels, result_name)
        if rest.any():
            others = set(drawn.labels[rest].tolist()) - {_NO_LABEL}
            text = f"{_OTHERS} ({len(others):,} classes)" if others else _NO_LABEL
            ax.scatter(drawn.x[rest], drawn.y[rest], s=0.7 * size, c=GREY, alpha=0.5, linewidths=0, label=text)
        for name in result_name:
            of_class = drawn.labels == name
            colour, mark = self.hue(name)
            ax.scatter(
                drawn.x[of_class], drawn.y[of_class], s=size, c=colour, marker=mark, alpha=0.75, linewidths=0,
                label=short(name, 22) or " ",
            )  # fmt: skip
        if len(result_name) + bool(rest.any()) > 1:
            handles, labels = ax.get_legend_handles_labels()
            if rest.any():  # the others last
                handles, labels = [*handles[1:], handles[0]], [*labels[1:], labels[0]]
            legend = ax.legend(
                handles, labels, loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize="small",
                handletextpad=0.2, labelspacing=0.35,
            )  # fmt: skip
            for handle in legend.legend_handles:
                if handle is not None:
                    handle.set_alpha(1)
                    handle.set_sizes([34])  # type: ignore[attr-defined]

    def _draw_picture(self, ax: Axes, place: int, pixels: np.ndarray) -> None:
        half = self._side() / 2
        x, y = float(self.map.x[place]), float(self.map.y[place])
        box = (x - half, x + half, y - half, y + half)
        label = self.map.labels[place]
        colour = self.hue(str(label))[0] if self.classes else PALE
        ax.imshow(pixels, extent=box, zorder=3, aspect="auto", interpolation="antialiased")
        ax.plot(
            [box[0], box[1], box[1], box[0], box[0]], [box[2], box[2], box[3], box[3], box[2]],
            color=colour, linewidth=1.8, zorder=3.5, solid_joinstyle="miter",
        )  # fmt: skip

    def _side(self) -> float:
        """Return the side of a picture in the map's own units."""
        return self.side * max(float(np.ptp(self.map.x)), float(np.ptp(self.map.y)), 1e-9)

    def _apart(self, most: int, random_state: int) -> list[int]:
        """Return up to `most` places of the map, in random order, no two pictures at which cover one another."""
        chosen: list[int] = []
        side = 1.12 * self._side()
        for place in np.random.default_rng(random_state).permutation(len(self.map)).tolist():
            if len(chosen) == most:
                break
            x, y = np.abs(self.map.x[chosen] - self.map.x[place]), np.abs(self.map.y[chosen] - self.map.y[place])
            if not ((x < side) & (y < side)).any():
                chosen.append(place)
        return chosen
