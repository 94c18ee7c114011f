"""The table of mutants: `make mutants` runs it, and here it is held to the source as it is."""

from __future__ import annotations

import re

import pytest
from mutants import MUTANTS, ROOT, Mutant


@pytest.mark.parametrize("one", MUTANTS, ids=lambda one: one.without)
def test_a_mutant_can_be_made_and_its_tests_are_there(one: Mutant, tmp_path):
    for patch in one.patches:
        copied = tmp_path / patch.file
        copied.parent.mkdir(parents=True, exist_ok=True)
        if not copied.exists():
            copied.write_bytes((ROOT / patch.file).read_bytes())
        patch.apply(tmp_path)
        compile(copied.read_text(encoding="utf-8"), patch.file, "exec")
    assert one.tests
    for test in one.tests:
        file, _, name = test.partition("::")
        assert re.search(rf"^def {name}\(", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE), test


def test_no_safeguard_is_taken_away_twice():
    assert len({one.without for one in MUTANTS}) == len(MUTANTS)
