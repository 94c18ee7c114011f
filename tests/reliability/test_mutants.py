"""The table of mutants: `make mutants` runs it, and here it is held to the source as it is."""

from __future__ import annotations

import re
import shutil

import pytest
from mutants import MUTANTS, ROOT, Mutant


@pytest.mark.parametrize("one", MUTANTS, ids=lambda one: one.without)
def test_a_mutant_can_be_made_and_its_tests_are_there(one: Mutant, tmp_path):
    shutil.copytree(ROOT / "pipeline", tmp_path / "pipeline", ignore=shutil.ignore_patterns("__pycache__"))
    for patch in one.patches:
        patch.apply(tmp_path)
        place = tmp_path / patch.file
        for path in [place] if place.is_file() else place.rglob("*.py"):
            compile(path.read_text(encoding="utf-8"), str(path), "exec")
    assert one.tests
    for test in one.tests:
        file, _, name = test.partition("::")
        assert re.search(rf"^def {name}\(", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE), test


def test_no_safeguard_is_taken_away_twice():
    assert len({one.without for one in MUTANTS}) == len(MUTANTS)
