"""A table of 50 label columns over the built-in digits: what `pipeline evaluate --head fast` answers in one command.

    python benchmarks/digit_labels.py labels.csv
    pipeline evaluate digits --labels labels.csv --column '*' --column tags:multi --head fast

Each digit against the rest, the digit, parity, loops, thresholds, remainders; ten random columns, which must score like
the dummy; thirteen with 30% of the cells missing; one numeric and one with several tags a cell.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np

from pipeline import ImageSource

LOOPS = {0: "one", 4: "one", 6: "one", 8: "two", 9: "one"}


def main() -> None:
    """Write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    source = ImageSource.open("digits")
    columns = table(np.array([int(str(text)) for text in source.columns["label"]]))
    with arguments.out.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", *columns])
        writer.writerows(zip(source.ids, *columns.values(), strict=True))
    print(f"{len(columns)} columns, {len(source.ids):,} rows: {arguments.out}")


def table(digit: np.ndarray) -> dict[str, list[str]]:
    """Return the columns; an empty text is a missing label."""
    rng = np.random.default_rng(0)
    columns = {f"is_{one}": yes(digit == one) for one in range(10)}
    columns["digit"] = [f"d{one}" for one in digit]
    columns["parity"] = ["odd" if one % 2 else "even" for one in digit]
    columns["loops"] = [LOOPS.get(int(one), "none") for one in digit]
    full = list(columns)
    columns |= {f"above_{one}": yes(digit > one) for one in range(1, 9)}
    columns |= {f"modulo_{one}": [f"r{rest}" for rest in digit % one] for one in (3, 4)}
    columns["prime"] = yes(np.isin(digit, [2, 3, 5, 7]))
    columns["straight"] = yes(np.isin(digit, [1, 4, 7]))
    for one in range(10):
        columns[f"random_{one}"] = ["abc"[code] for code in rng.integers(0, 2 + one % 2, len(digit))]
    for name in full:
        gone = rng.random(len(digit)) < 0.3
        columns[f"{name}_gaps"] = ["" if miss else text for miss, text in zip(gone, columns[name], strict=True)]
    columns["size"] = [f"{value:.3f}" for value in digit + rng.normal(0, 0.5, len(digit))]
    columns["tags"] = [tags(int(one)) for one in digit]
    return columns


def yes(chosen: np.ndarray) -> list[str]:
    """Return yes and no."""
    return ["yes" if one else "no" for one in chosen]


def tags(digit: int) -> str:
    """Return what holds of a digit; a separator alone where nothing does."""
    said = {"odd": digit % 2 == 1, "loop": digit in LOOPS, "big": digit > 4, "round": digit in (0, 3, 6, 8, 9)}
    return ";".join(name for name, holds in said.items() if holds) or ";"


if __name__ == "__main__":
    main()
