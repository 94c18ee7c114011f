"""The scripts that count the structure of the source, and that record the documentation, do what they say."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import record_markdown

ROOT = Path(__file__).parent.parent


@pytest.fixture
def structure() -> Any:
    spec = importlib.util.spec_from_file_location("structure", ROOT / "benchmarks" / "structure.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_code_lines_leave_out_blank_lines_comments_and_docstrings(structure: Any) -> None:
    source = '"""One.\n\nTwo."""\n\n# a comment\nx = [\n    1,\n]\n\n\ndef f():\n    """Doc."""\n    return x  # why\n'
    assert structure.code_lines(source) == 5


def test_cycles_include_imports_in_functions_and_under_type_checking(structure: Any, tmp_path: Path) -> None:
    package = tmp_path / "pipeline"
    (package / "images").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "images" / "__init__.py").write_text("from pipeline.images.a import A\n")
    (package / "images" / "a.py").write_text(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from pipeline.images.b import B\nclass A: ...\n"
    )
    (package / "images" / "b.py").write_text(
        "def f():\n    from pipeline.images import a\nclass B: ...\nclass A: ...\n"
    )
    graph = structure.imports_of(tmp_path)
    assert graph["pipeline.images"] == {"pipeline.images.a"}
    assert structure.cycles(graph) == [["pipeline.images.a", "pipeline.images.b"]]
    assert structure.class_names(tmp_path) == {"A": ["pipeline/images/a.py", "pipeline/images/b.py"]}


def test_shown_lines_become_the_printed_ones_that_resemble_them() -> None:
    shown = ["logistic  penultimate  0.96", "...", "kept in runs/photos/", "x-473f13075c91-c2bc0f02.h5: 92 rows, sound"]
    printed = [
        "x-000000000000-11111111.h5: 92 rows, all sound",
        "logistic  penultimate layer  0.96  ",
        "saved in runs/photos/",
    ]
    assert record_markdown.recorded(shown, printed, "page") == [
        "logistic  penultimate layer  0.96",
        "...",
        "saved in runs/photos/",
        "x-473f13075c91-c2bc0f02.h5: 92 rows, all sound",
    ]


def test_a_block_whose_figures_alone_differ_stays() -> None:
    shown = ["92 images: 92 stored; 6.1 s", "..."]
    assert record_markdown.recorded(shown, ["92 images: 0 stored; 0.2 s", "next: x"], "page") == shown
