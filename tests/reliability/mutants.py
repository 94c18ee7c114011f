"""The suite is itself tested: each safeguard is taken away, one at a time, and a test must fail.

``mutants.py [--only WORDS] [--results FILE]`` copies the tree once a mutant, patches the copy, runs in it the tests
that hold the safeguard, and prints the table. It ends with 1 where a mutant survives.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from promises import on_trial

ROOT = Path(__file__).parents[2]
COPIED = ("pipeline", "tests", "features_cache/README.md", "pyproject.toml", "README.md", "CONTRIBUTING.md", "docs")
PATIENCE = 1800  # seconds for the tests of one mutant


@dataclass(frozen=True)
class Patch:
    """A change of source text: `old` stands in the file, or in all files of the folder, exactly `times` times."""

    file: str
    old: str
    new: str
    times: int = 1

    def apply(self, root: Path) -> None:
        place = root / self.file
        texts = {
            path: path.read_text(encoding="utf-8") for path in ([place] if place.is_file() else place.rglob("*.py"))
        }
        found = sum(text.count(self.old) for text in texts.values())
        assert found == self.times, f"{self.file}: expected {self.times} of {self.old!r}, got {found}"
        for path, text in texts.items():
            path.write_text(text.replace(self.old, self.new), encoding="utf-8")


@dataclass(frozen=True)
class Mutant:
    """A safeguard that is taken away, and the tests of which one must fail then."""

    without: str
    patches: tuple[Patch, ...]
    tests: tuple[str, ...]


def mutant(without: str, file: str, old: str, new: str, *tests: str) -> Mutant:
    return Mutant(without, (Patch(file, old, new),), tests)


WRITER, CREATION = "pipeline/cache/writer.py", "pipeline/cache/create.py"
CHECKSUM, HEADER = "pipeline/cache/reader.py", "pipeline/cache/reader.py"
FOLDS, CELLS = "pipeline/splits.py", "pipeline/evaluation/memo.py"
POWER = "tests/reliability/test_power.py::test_a_power_failure_at_any_moment_loses_no_acknowledged_row"
FLIPS = "tests/reliability/test_flips.py::test_no_damage_is_silent"
KNOWN = "tests/test_store.py::test_changed_labels_features_seeds_and_folds_are_computed_anew"

MUTANTS = (
    # The cache on the disk
    mutant("the fsync between a row and its status", WRITER, "                self._sync_data()\n", "", POWER),
    mutant(
        "the fsync after the status",
        WRITER,
        "                self._unacknowledged.clear()\n                self._file.sync()\n",
        "                self._unacknowledged.clear()\n",
        POWER,
    ),
    mutant(
        "forgetting what a failed fsync was about",
        WRITER,
        "            self._unacknowledged.clear()\n            raise\n",
        "            raise\n",
        "tests/reliability/test_power.py::test_a_power_failure_after_a_failed_sync_loses_no_acknowledged_row",
    ),
    mutant("the fsync before a new file gets its name", CREATION, "            file.sync()\n", "", POWER),
    mutant("the fsync of a new name", CREATION, "        _sync_folder(path.parent)\n    except", "    except", POWER),
    mutant("the fsync of a new folder's name", CREATION, "        _sync_folder(folder.parent)\n", "", POWER),
    mutant(
        "a temporary name for a file in the making",
        CREATION,
        "        temporary.replace(path)\n",
        "        path.write_bytes(temporary.read_bytes())\n",
        "tests/reliability/test_killed.py::test_a_kill_at_any_call_loses_nothing",
    ),
    mutant(
        "the lock",
        "pipeline/cache/lock.py",
        "            portalocker.lock(handle, kind | LockFlags.NON_BLOCKING)\n",
        "            pass\n",
        "tests/reliability/test_company.py::test_two_writers_never_do_damage",
    ),
    mutant(
        "the lock of those who read",
        "pipeline/evaluation/executor.py",
        "            held.enter_context(CacheLock.shared(path))",
        "            held.enter_context(ExitStack())",
        "tests/reliability/test_company.py::test_an_update_during_a_grid_search_leaves_the_search_its_own_generation",
    ),
    mutant(
        "the reserved disk space",
        "pipeline/cache/create.py",
        '        if hasattr(os, "posix_fallocate"):\n',
        "        if fields:\n            return\n" + '        if hasattr(os, "posix_fallocate"):\n',
        "tests/test_cache.py::test_disk_space_is_reserved_when_the_file_is_made",
        "tests/reliability/test_company.py::test_a_full_disk_is_told_in_one_line",
    ),
    mutant(
        "finishing a short write",
        "pipeline/cache/create.py",
        "            left, position = left[written:], position + written\n",
        "            left = left[len(left) :]\n",
        "tests/reliability/test_errors.py::test_an_error_at_any_call_is_told_and_the_next_run_completes",
    ),
    # Damage
    mutant("the row checksum", CHECKSUM, ' & (checksums(rows) == rows["crc32"])', "", FLIPS),
    mutant(
        "the ids in the checksum", CHECKSUM, '{"crc32", "provenance"})\n', '{"crc32", "provenance", "ids"})\n', FLIPS
    ),
    mutant(
        "the labels in the checksum",
        CHECKSUM,
        "for name in names if name not in when_stored]",
        'for name in names if name not in when_stored and not name.startswith("labels")]',
        FLIPS,
    ),
    mutant(
        "the hash of the provenance",
        "pipeline/cache",
        "    if hashlib.sha256(text).hexdigest().encode() != sha256:\n",
        "    if False:\n",
        FLIPS,
    ),
    mutant(
        "checksums of HDF5's own metadata",
        "pipeline/cache/create.py",
        'libver=("v110", "v110")',
        'libver=("earliest", "v110")',
        "tests/test_cache.py::test_every_block_of_metadata_carries_a_checksum",
    ),
    mutant(
        "the check of labels before they are given",
        "pipeline/cache/feature_cache.py",
        "        self.check()\n        texts",
        "        texts",
        FLIPS,
    ),
    mutant(
        "making damaged rows anew",
        "pipeline/extraction/build.py",
        "[stale, cache.damaged(), pending]",
        "[stale, pending]",
        "tests/test_extraction_doubts.py::test_a_damaged_row_is_healed_bit_for_bit_and_no_other_is_computed",
    ),
    mutant(
        "refusing to lend damaged rows",
        "pipeline/extraction/reuse.py",
        "    return batch.select(valid_rows(held))\n",
        '    return batch.select(held["status"] != PENDING)\n',
        "tests/test_extraction_doubts.py::test_a_damaged_row_is_not_lent",
    ),
    mutant(
        "refusing links",
        HEADER,
        ".type != h5py.h5l.TYPE_HARD:",
        ".type == h5py.h5l.TYPE_ERROR:",
        "tests/test_cache_refused.py::test_what_format_1_does_not_have_is_refused_and_never_followed",
    ),
    # What a feature is, and whose
    mutant(
        "the id join",
        "pipeline/labels/join.py",
        "[values.get(key) for key in keys]",
        "[*values.values(), *[None] * len(keys)][: len(keys)]",
        "tests/test_labels.py::test_labels_join_by_id_and_never_by_position",
    ),
    Mutant(
        "eval()",
        (
            Patch("pipeline/backbone/weights.py", "network.eval()", "network.train()", 2),
            Patch("pipeline/backbone/layers.py", "module.eval()", "module.train()"),
            Patch("pipeline/runtime/torch_runtime.py", "module.eval()", "module.train()"),
            Patch("pipeline/runtime/onnx_export.py", "self.eval()", "self.train()"),
        ),
        ("tests/test_runtime.py::test_batch_size_and_order_move_only_the_last_bits",),
    ),
    mutant(
        "the EXIF rule",
        "pipeline/images/rgb.py",
        "    return rgb if turn is None else rgb.transpose(turn)\n",
        "    return rgb\n",
        "tests/test_decode.py::test_exif_orientation_is_applied",
    ),
    mutant(
        "the place in the key",
        "pipeline/provenance.py",
        'sha256_json({"recipe": self.as_dict(), "place": place})',
        'sha256_json({"recipe": self.as_dict()})',
        "tests/test_provenance.py::test_recipe_and_place_cannot_be_taken_for_each_other",
    ),
    # Files from strangers
    Mutant(
        "the allowlist",
        (
            Patch("pipeline/model/storage.py", "data=content)) - set(ALLOWED_TYPES)", "data=content)[:0])"),
            Patch(
                "pipeline/model/storage.py",
                "trusted=list(ALLOWED_TYPES)",
                "trusted=skops.io.get_untrusted_types(data=content)",
            ),
        ),
        ("tests/test_model_folder.py::test_a_type_that_is_not_on_the_list_is_refused_and_never_made",),
    ),
    mutant(
        "the hashes of a model's files",
        "pipeline/model/storage.py",
        '    if found != expected:\n        raise ModelError(\n            f"{path / name}: expected SHA-256',
        '    if False:\n        raise ModelError(\n            f"{path / name}: expected SHA-256',
        "tests/test_model_folder.py::test_a_file_that_was_changed_is_named",
    ),
    # Scores
    mutant(
        "the group rule",
        FOLDS,
        "    splits = _split(y, kind, groups, together, folds, random_state)\n",
        "    splits = _split(y, kind, None, None, folds, random_state)\n",
        "tests/test_splits.py::test_no_group_spans_two_folds_and_every_row_is_tested_once",
    ),
    mutant(
        "the group rule within the folds",
        FOLDS,
        "in _split(y, kind, groups, together, folds, random_state)]\n    if",
        "in _split(y, kind, None, None, folds, random_state)]\n    if",
        "tests/test_evaluation.py::test_no_group_is_on_both_sides_of_an_outer_or_inner_fold",
    ),
    mutant(
        "the guard of copies",
        "pipeline/evaluation/leakage.py",
        "        return codes, notes\n",
        "        return None, notes\n",
        "tests/test_duplicates.py::test_copies_stay_on_one_side_of_every_fold_and_that_is_said",
    ),
    mutant(
        "the features in a result's key",
        CELLS,
        "            features=self.features,\n",
        '            features="",\n',
        KNOWN,
    ),
    mutant(
        "the labels in a result's key",
        CELLS,
        "            label_set=self.label_set,\n",
        '            label_set="",\n',
        "tests/test_store.py::test_labels_that_leave_the_folds_as_they_are_are_told_apart",
    ),
    mutant("the rows in a result's key", CELLS, "            rows=rows,\n", '            rows="",\n', KNOWN),
    mutant(
        "the estimator in a result's key",
        CELLS,
        "            estimator=self.estimator,\n",
        '            estimator="",\n',
        "tests/test_store.py::test_another_estimator_of_the_same_name_is_computed_anew",
    ),
    mutant(
        "a part of a cell in its key",
        "pipeline/runs/store.py",
        "canonical_json(self.__dict__)",
        'canonical_json({**self.__dict__, "scoring": None})',
        "tests/test_store.py::test_what_is_put_is_got_and_every_part_of_a_cell_tells",
    ),
)


def copy(root: Path) -> None:
    """Copy what the tests need of the tree."""
    for name in COPIED:
        there = ROOT / name
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        if there.is_dir():
            shutil.copytree(there, root / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(there, root / name)


def tested(root: Path, tests: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run tests in a copy of the tree."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests]
    environment = {**os.environ, "PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=PATIENCE)


def killed(one: Mutant) -> tuple[str, float]:
    """Return what became of a mutant (``killed``, or why not) and the seconds it took."""
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        copy(Path(folder))
        for patch in one.patches:
            patch.apply(Path(folder))
        try:
            said = tested(Path(folder), one.tests)
        except subprocess.TimeoutExpired:
            return "no verdict: they hang", time.perf_counter() - started
    # A test that fails is what is wanted; one that cannot even be collected shows nothing.
    fate = {0: "SURVIVED", 1: "killed"}.get(said.returncode, f"no verdict: {said.stdout[-300:]}")
    return fate, time.perf_counter() - started


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="those whose name holds these words")
    parser.add_argument("--results", type=Path, help="append a line of JSON")
    options = parser.parse_args()
    chosen = [one for one in MUTANTS if options.only in one.without]
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        copy(Path(folder))
        said = tested(Path(folder), sorted({test for one in chosen for test in one.tests}))
        if said.returncode:
            print(f"the tests fail with nothing taken away:\n{said.stdout}")
            return 1
    width = max(len(one.without) for one in chosen)
    print(f"{'without':{width}}  what became of it  time   tests")
    about = {"test": "tests/reliability/mutants.py", "about": "The suite is itself tested", "size": "full"}
    text = "each safeguard of `make mutants`, taken away alone, makes a test fail"
    try:
        with on_trial(text, **about, results=options.results) as promise, ThreadPoolExecutor(os.cpu_count()) as pool:
            for one, (fate, seconds) in zip(chosen, pool.map(killed, chosen), strict=True):
                promise.held()
                if not fate.startswith("killed"):
                    promise.lost(f"without {one.without}: {fate}")
                print(f"{one.without:{width}}  {fate:17}  {seconds:4.0f} s {', '.join(one.tests)}", flush=True)
    except AssertionError as error:
        print(error)
        return 1
    print(f"{len(chosen)} mutants, all killed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
