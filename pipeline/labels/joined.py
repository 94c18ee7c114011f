"""What was joined: label sets with their rows and classes, ids without a partner, columns left out. Pure data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from pipeline.labels.columns import count


@dataclass(frozen=True)
class IdMatch:
    """Which ids a label table and the images have in common.

    Attributes
    ----------
    place : str
        Where the table comes from.
    table_ids, images : int
        How many each has.
    strangers : int
        Ids of the table that are no image; `stranger` is the first, or empty.
    absent : int
        Images that the table does not have; `absentee` is the first, or empty.
    """

    place: str
    table_ids: int
    images: int
    strangers: int
    stranger: str
    absent: int
    absentee: str

    @property
    def notes(self) -> tuple[str, ...]:
        """Ids of the table that are no image, in a sentence."""
        if not self.strangers:
            return ()
        are = "is no image" if self.strangers == 1 else "are no image"
        return (f"{self.place}: {self.strangers} of {count(self.table_ids, 'id')} {are} here, e.g. {self.stranger}",)

    @property
    def about_images(self) -> tuple[str, ...]:
        """Images that the table does not have, in a sentence."""
        if not self.absent:
            return ()
        are = "is" if self.absent == 1 else "are"
        return (f"{self.absent} of {count(self.images, 'image')} {are} not in {self.place}, e.g. {self.absentee}",)


_AS = {"number": "numbers", "class": "classes"}


def whole_numbers_note(name: str, kind: str, different: int) -> str:
    """Return the sentence that says how whole numbers are read, with the option for the other way."""
    other = "class" if kind == "number" else "number"
    return (
        f"{name}: {different} different whole numbers are read as {_AS[kind]}; "
        f"--column {name}:{other} reads them as {_AS[other]}"
    )


@dataclass(frozen=True)
class SkippedColumn:
    """A column that is no label set, and why."""

    column: str
    reason: str


@dataclass(frozen=True)
class JoinedLabelSet:
    """One label set as it was joined.

    Attributes
    ----------
    name : str
    kind : {"class", "number", "multi"}
    rows : int
        Images with a label, those of a test set in the same data among them.
    missing : int
        Images without one.
    classes : tuple of str
        Classes or tags; empty for numbers.
    low, high : float or None
        The range of numbers.
    notes : tuple of str
        The same in sentences, where something was left out or guessed.
    """

    name: str
    kind: str
    rows: int
    missing: int
    classes: tuple[str, ...] = ()
    low: float | None = None
    high: float | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class JoinReport:
    """What was joined to the images of one source, known before anything is trained.

    Attributes
    ----------
    source : str
        The name of the images.
    images : int
    label_sets : tuple of JoinedSet
    skipped : tuple of Skipped
    match : Match or None
        None where the labels are the source's own.
    """

    source: str
    images: int
    label_sets: tuple[JoinedLabelSet, ...]
    skipped: tuple[SkippedColumn, ...] = ()
    match: IdMatch | None = None

    @property
    def unmatched(self) -> tuple[str, ...]:
        """Ids without a partner, a sentence a direction; images that are not in the table only where they add
        something to what is said of the one label set's missing labels."""
        if self.match is None:
            return ()
        said = len(self.label_sets) == 1 and self.label_sets[0].missing == self.match.absent
        return (*self.match.notes, *(() if said else self.match.about_images))

    @property
    def about_whole_numbers(self) -> tuple[str, ...]:
        """Which label sets are whole numbers and how they are read, one sentence per kind."""
        told = []
        for kind, other in (("class", "number"), ("number", "class")):
            names = [
                one.name
                for one in self.label_sets
                if any(f"different whole numbers are read as {_AS[kind]};" in note for note in one.notes)
            ]
            if names:
                listed = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
                told.append(
                    f"whole numbers are read as {_AS[kind]} in {listed}; "
                    f"--column {names[0]}:{other} reads them as {_AS[other]}"
                )
        return tuple(told)

    @property
    def left_out(self) -> tuple[str, ...]:
        """The columns left out, in one sentence."""
        if not self.skipped:
            return ()
        listed = "; ".join(f"{one.column!r}: {one.reason}" for one in self.skipped)
        return (f"columns left out (ask for them with --column): {listed}",)

    @property
    def notes(self) -> tuple[str, ...]:
        """All of it that is worth a sentence; the name of its label set before each where there are several."""
        several = len(self.label_sets) > 1
        about = (
            f"{one.name}: {note}" if several and not note.startswith(f"{one.name}:") else note
            for one in self.label_sets
            for note in one.notes
        )
        return (*self.unmatched, *about, *self.left_out)

    def without(self, reasons: Mapping[str, str]) -> JoinReport:
        """Return the report with label sets turned into skipped columns, each with its reason."""
        return replace(
            self,
            label_sets=tuple(one for one in self.label_sets if one.name not in reasons),
            skipped=(*self.skipped, *(SkippedColumn(name, reason) for name, reason in reasons.items())),
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the report as plain JSON values."""
        return {
            **asdict(self),
            "label_sets": [
                {**asdict(one), "classes": list(one.classes), "notes": list(one.notes)} for one in self.label_sets
            ],
            "skipped": [asdict(one) for one in self.skipped],
        }

    @classmethod
    def from_dict(cls, said: Mapping[str, Any]) -> JoinReport:
        """Return the report that `as_dict` told."""
        sets = [{**one, "classes": tuple(one["classes"]), "notes": tuple(one["notes"])} for one in said["label_sets"]]
        return cls(
            said["source"],
            said["images"],
            tuple(JoinedLabelSet(**one) for one in sets),
            tuple(SkippedColumn(**one) for one in said["skipped"]),
            None if said["match"] is None else IdMatch(**said["match"]),
        )
