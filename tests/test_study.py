"""`study` from photos to verdicts: what is scored on what, what is kept, and what it says."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import fake_backbone
import numpy as np
import pandas as pd
import pytest
from commands import class_folders, done, photo, refused
from PIL import Image

import pipeline as pl
from pipeline.backbone import Backbone
from pipeline.errors import CacheError, EvaluationError
from pipeline.progress import Progress
from pipeline.runs import Store
from pipeline.studies import Study, api, data, memo, study, trials
from pipeline.studies.analysis import (
    CLEARLY,
    caveats,
    crossovers_of,
    depth_text,
    low_label_point,
    summary_of,
    verdicts_of,
)
from pipeline.studies.results import (
    DUMMY,
    GENERALISATION,
    LABELS,
    METHODS,
    NOT_HERE,
    NOT_SHOWN,
    PERFORMANCE,
    RANDOM,
    RAW,
    SCRATCH,
    STATISTICS,
    TIME,
    TRANSFER,
    YES,
    Point,
)
from pipeline.studies.trials import AnyTrial, Trial, TrialResult

QUICK: dict[str, Any] = {"budget": 0.05, "n_jobs": 1, "device": "cpu"}
LAYERS = ("early", "middle", "late", "penultimate")


class Eyes:
    """Stands where `open_runtime` stood: a network that, if it is pretrained, sees what class a photo is of.

    Features of random weights are noise of each photo's own; the earlier a layer, the more noise lies over the class.
    """

    name, version, batch_size = "eyes", "1", 8
    noise: ClassVar = dict(zip(LAYERS, (3.0, 1.5, 0.6, 0.05), strict=True))

    def __init__(self, backbone: Backbone, layers: Any, **_: Any) -> None:
        self.sighted, self.layers = backbone.weights != "random", tuple(layers)

    def workers(self, count: int) -> Any:
        return fake_backbone.PlantedRuntime.workers(self, count)  # type: ignore[arg-type]

    def __call__(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        answer = {}
        for layer in self.layers:
            width = fake_backbone.WIDTHS.get(layer, 112)
            seeds = [int(image.astype(np.int64).sum()) for image in pixels]
            found = np.stack([np.random.default_rng(seed).normal(size=width) for seed in seeds])
            if self.sighted:
                hue = pixels[..., 0].mean((1, 2)) / 100 - pixels[..., 2].mean((1, 2)) / 100
                found = self.noise[layer] * found + hue[:, None] * np.linspace(1, 2, width)
            answer[layer] = found.astype(np.float32)
        return answer


@pytest.fixture(scope="module", autouse=True)
def eyes() -> Iterator[None]:
    import pipeline.extraction.encoder as network_room

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(network_room, "open_runtime", Eyes)
        fewer_draws(patch)
        yield


def fewer_draws(patch: pytest.MonkeyPatch) -> None:
    """As many as show what they do."""
    patch.setattr(data, "DRAWS", {1: 4, 2: 4})
    patch.setattr(trials, "SCRATCH_DRAWS", {1: 3, 2: 3})
    for room in (data, trials):
        patch.setattr(room, "FEWEST_DRAWS" if room is data else "FEWEST_SCRATCH_DRAWS", 2)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return class_folders(tmp_path_factory.mktemp("data") / "photos", 16)


def asked_of(photos: Any, folder: Path, **options: Any) -> Study:
    return study(photos, **{**QUICK, "cache": folder / "caches", "out": folder / "run", **options})


@pytest.fixture(scope="module")
def taught() -> list[AnyTrial]:
    """Every trial of the study that `found` is."""
    return []


@pytest.fixture(scope="module")
def found(photos: Path, taught: list[AnyTrial], subjects: list[Any], tmp_path_factory: pytest.TempPathFactory) -> Study:
    real = api.run_trials

    def listening(trials: Any, **how: Any) -> Any:
        taught.extend(trials)
        return real(trials, **how)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(api, "run_trials", listening)
        remember_subjects(patch, subjects)
        return asked_of(photos, tmp_path_factory.mktemp("study"))


def remember_subjects(patch: pytest.MonkeyPatch, subjects: list[Any]) -> None:
    """Append what each study is about."""
    real = api.TrialFactory
    patch.setattr(api, "TrialFactory", lambda subject, *rest: (subjects.append(subject), real(subject, *rest))[1])


@pytest.fixture(scope="module")
def subjects() -> list[Any]:
    """What the study that `found` is was about."""
    return []


def without_seconds(points: Any) -> list[dict[str, Any]]:
    """The points, less what no two trainings have in common."""
    clocks = ("seconds", "extraction_seconds", "total_seconds")
    return [{name: value for name, value in point.as_dict().items() if name not in clocks} for point in points]


# --- what is studied


def test_every_method_has_a_curve_over_the_same_labels(found: Study) -> None:
    assert found.methods == METHODS
    assert found.train + found.test == 32 and found.test == 8
    for method in METHODS:
        assert [point.labels for point in found.curve(method)] == [2, 4, 10, 24]
        assert [point.per_class for point in found.curve(method)] == [1, 2, 5, 12]
    assert [point.draws for point in found.curve(TRANSFER)] == [4, 4, 2, 1]
    assert [point.draws for point in found.curve(SCRATCH)] == [3, 3, 2, 2]
    for point in found.points:
        assert 0 <= point.low <= point.score <= point.high <= 1 and len(point.scores) == point.draws
        assert point.score == pytest.approx(np.mean(point.scores))
        assert point.seconds > 0 and (point.extraction_seconds > 0) == (point.method in (TRANSFER, RANDOM))
        assert (point.lead is None) == (point.method == TRANSFER)


def test_scores_are_those_of_what_was_planted(found: Study) -> None:
    at = {method: found.curve(method)[-1] for method in METHODS}
    assert at[TRANSFER].score == at[RAW].score == 1  # the class is the colour
    assert at[DUMMY].score == 0.5
    assert abs(at[RANDOM].score - 0.5) < 0.35 and at[RANDOM].train > at[RANDOM].score  # noise, learned by heart
    assert at[SCRATCH].cut_short == 2
    assert found.notes[-1].startswith(
        "10 of 10 trainings from scratch were shortened for their budget of 0.05 seconds: "
    )


def test_every_layer_is_studied_at_a_few_numbers_of_labels(found: Study) -> None:
    depth = found.depth()
    assert list(depth) == [5, 12]
    assert all({point.layer for point in points} == set(LAYERS) for points in depth.values())
    scores = {point.layer: point.score for point in depth[5]}
    assert scores["early"] < scores["penultimate"] == 1
    assert found.about_depth == depth_text(found.points) != ""


def test_no_draw_touches_the_test_images(found: Study, taught: list[AnyTrial]) -> None:
    assert len(taught) > 60
    for trial in taught:
        assert trial.rows.max() < found.train
        if trial.key.method == DUMMY:
            continue
        learned = {image.tobytes() for image in trial.material.X[trial.rows]}
        asked = {image.tobytes() for image in trial.material.test_X}
        assert len(learned) == len(trial.rows) and len(asked) == found.test
        assert not learned & asked


def test_all_methods_learn_the_same_draws(taught: list[AnyTrial]) -> None:
    drawn: dict[tuple[int, int], set[bytes]] = {}
    for trial in taught:
        drawn.setdefault((trial.key.level, trial.key.draw), set()).add(trial.rows.tobytes())
    assert all(len(rows) == 1 for rows in drawn.values())
    assert len(set().union(*drawn.values())) > 10


def subject_of(photos: Any, folder: Path, **options: Any) -> Any:
    """What a study would be about, with nothing learned."""

    class Enough(Exception):
        pass

    def stop(subject: Any, *_: Any) -> None:
        raise Enough(subject)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(api, "TrialFactory", stop)
        with pytest.raises(Enough) as caught:
            asked_of(photos, folder, **options)
    assert not (folder / "run").exists()  # nothing was kept, so nothing is left
    return caught.value.args[0]


def test_copies_of_what_is_learned_are_no_test(photos: Path, tmp_path: Path) -> None:
    test = class_folders(tmp_path / "test", 3, first=100)
    shutil.copy(photos / "ants" / "00.png", test / "ants" / "copy.png")
    subject = subject_of(photos, tmp_path, test=str(test))
    assert (len(subject.train.part), len(subject.test.part)) == (32, 6)
    assert "1 of 7 test images are duplicates of training images, and are left out" in subject.notes
    assert not set(map(bytes, subject.train.part.digests())) & set(map(bytes, subject.test.part.digests()))


def test_the_test_set_is_of_whole_groups(photos: Path, tmp_path: Path) -> None:
    rows = [f"{kind}/{number:02d}.png,{kind},{kind}{number // 3}" for kind in ("ants", "bees") for number in range(16)]
    table = tmp_path / "labels.csv"
    table.write_text("\n".join(["id,kind,nest", *rows]), encoding="utf-8")
    subject = subject_of(photos, tmp_path, labels=str(table), groups="nest")
    train, test = (set(side.part.groups) for side in (subject.train, subject.test))
    assert len(train | test) == 12 and not train & test
    assert any(text.endswith(f": {len(test)} whole groups") for text in subject.notes)


def test_few_groups_and_absent_classes_are_told(photos: Path, tmp_path: Path) -> None:
    """Nests are of one kind each, so a test set of whole nests may well lack one."""
    kinds = [f"{kind}{number // 4}" for kind in ("ants", "bees") for number in range(16)]
    names = [f"{kind}/{number:02d}.png" for kind in ("ants", "bees") for number in range(16)]
    table = tmp_path / "labels.csv"
    rows = [f"{name},{kind},{number % 16 // 2}" for number, (name, kind) in enumerate(zip(names, kinds, strict=True))]
    table.write_text("\n".join(["id,kind,nest", *rows]), encoding="utf-8")
    subject = subject_of(photos, tmp_path, labels=str(table), groups="nest")
    lacking = set(kinds) - {subject.question.classes[code] for code in subject.test.part.y}
    assert lacking
    listed_scores = list(caveats(subject, (), 1.0))
    assert (
        f"the test images are of {len(set(subject.test.part.groups))} groups alone: intervals are wide"
        in listed_scores[0]
    )
    assert (
        listed_scores[1] == f"no test image is of {', '.join(sorted(lacking))}: the scores are about the other classes"
    )


def test_at_most_so_many_images_are_studied_and_it_is_said(photos: Path, tmp_path: Path) -> None:
    subject = subject_of(photos, tmp_path, most_labels=6)
    assert [np.bincount(side.part.y).tolist() for side in (subject.train, subject.test)] == [[3, 3], [3, 3]]
    assert "6 of 24 images are drawn for training (--most-labels)" in subject.notes
    assert "6 of 8 images are drawn for testing (--most-labels)" in subject.notes


# --- what follows


def test_the_verdicts_follow_from_the_table(found: Study) -> None:
    """Recomputed from points.csv by rules written down here once more."""
    assert found.folder is not None
    kept = json.loads((found.folder / "study.json").read_text(encoding="utf-8"))
    table = pd.read_csv(found.folder / "points.csv", keep_default_na=False)
    assert answers_of(table, kept["layer"]) == {one["promise"]: one["answer"] for one in kept["verdicts"]}
    assert_said(kept)


def answers_of(table: pd.DataFrame, layer: str) -> dict[str, str]:
    """The answers that a table of points gives, method by method."""
    mine = table[(table.method == TRANSFER) & (table.layer == layer)].sort_values("labels")
    rivals = table[table.method.isin([RANDOM, SCRATCH, RAW, STATISTICS])]
    for name in ("lead_low", "lead_high", "gap_lead_low", "gap_lead_high"):
        rivals = rivals.assign(**{name: pd.to_numeric(rivals[name])})

    def answer(low: pd.Series, high: pd.Series) -> str:
        return NOT_HERE if (high < 0).any() else YES if (low > 0).all() else NOT_SHOWN

    most = mine.labels.max()
    few_labels = mine.labels.iloc[int(np.argmin(np.abs(np.log(mine.per_class.to_numpy() / 5))))]
    last, early = rivals[rivals.labels == most], rivals[rivals.labels == few_labels]
    scratch = last[last.method == SCRATCH].iloc[0]
    ours = mine.total_seconds.iloc[-1]
    as_good = last[(last.method == SCRATCH) | (last.lead_low <= 0)]
    quicker = as_good[(as_good.total_seconds <= ours) & (as_good.cut_short == 0)]
    better = ((quicker.method == SCRATCH) | (quicker.lead_high < 0)).any()
    unknown = scratch.gap_lead_low <= 0 and scratch.train <= mine.score.iloc[-1]
    return {
        TIME: NOT_HERE if better else YES if as_good.total_seconds.min() >= CLEARLY * ours else NOT_SHOWN,
        LABELS: answer(early.lead_low, early.lead_high),
        PERFORMANCE: answer(last.lead_low, last.lead_high),
        GENERALISATION: NOT_SHOWN
        if unknown
        else answer(*(last[last.method == SCRATCH][name] for name in ("gap_lead_low", "gap_lead_high"))),
    }


def assert_said(kept: dict[str, Any]) -> None:
    """What a study says is what its points make of it."""
    again = Study.from_dict(kept)
    assert tuple(verdicts_of(again.points, again.layer)) == again.verdicts
    assert tuple(crossovers_of(again.points, again.layer)) == again.crossovers
    assert summary_of(again.points, again.layer) == again.summary
    for verdict in again.verdicts:
        text = verdict.text
        said = [value for value in verdict.figures.values() if value is not None]
        assert any(f"{value:.3f}" in text or f"{value:.2g} s" in text or f"{value:,.0f} s" in text for value in said)


def test_leads_are_differences_of_the_same_draws(found: Study) -> None:
    mine = {point.labels: point for point in found.curve(TRANSFER)}
    for method in (RANDOM, SCRATCH, RAW, STATISTICS):
        for point in found.curve(method):
            leader = mine[point.labels]
            pairs = min(leader.draws, point.draws)
            lead = np.mean(leader.scores[:pairs]) - np.mean(point.scores[: max(pairs, point.draws * point.everything)])
            assert point.lead == pytest.approx(lead)
            assert point.lead_low is not None and point.lead_high is not None
            assert point.lead_low <= point.lead <= point.lead_high


# --- what is kept


def test_a_study_is_kept_whole_and_opened_again(found: Study) -> None:
    assert found.folder is not None
    assert Study.open(found.folder) == found
    table = pd.read_csv(found.folder / "points.csv", keep_default_na=False)
    assert len(table) == len(found.points) and list(table.columns) == list(found.table().columns)
    assert table.score.to_numpy() == pytest.approx(found.table().score.to_numpy())


def test_the_same_study_again_learns_nothing(found: Study, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert found.folder is not None
    monkeypatch.setattr(Trial, "learn", lambda self: pytest.fail("learned again"))
    again = study(photos, cache=found.folder.parent / "caches", out=found.folder, **QUICK)
    assert again.points == found.points and again.verdicts == found.verdicts


def test_another_seed_or_draw_is_another_lesson(found: Study, taught: list[AnyTrial], subjects: list[Any]) -> None:
    trial = next(one for one in taught if one.key.method == TRANSFER)
    other_draw = replace(trial, key=replace(trial.key, draw=99))  # which happens to draw the same labels
    other_seed = replace(trial, seed=99)
    with Store.open(None) as store:
        (subject,) = subjects
        kept = memo.TrialCache(store, subject, {(trial.key.method, trial.key.layer): "features"})
        learned = TrialResult(np.zeros(found.test, np.int64), 0.75, 1.5, "fixed")
        kept.keep(trial, learned)
        known, waiting = kept.look_up([trial, other_draw])
        assert list(known) == [trial.key] and waiting == [other_draw]
        assert known[trial.key].seconds == 1.5 and known[trial.key].train == 0.75
        assert kept.look_up([other_seed])[1] == [other_seed]


KILLED = """
import sys
sys.path.insert(0, sys.argv[1])
import os, signal
import pipeline.extraction.encoder as network_room
from test_study import Eyes, QUICK, fewer_draws
import pytest
from pipeline.studies import memo, study
network_room.open_runtime = Eyes
fewer_draws(pytest.MonkeyPatch())
kept = memo.TrialCache.keep
def keep(self, trial, learned, done=[]):
    kept(self, trial, learned)
    done.append(trial)
    if len(done) == 40:
        os.kill(os.getpid(), signal.SIGKILL)
memo.TrialCache.keep = keep
study(sys.argv[2], cache=sys.argv[3] + "/caches", out=sys.argv[3] + "/run", **QUICK)
"""


@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
@pytest.mark.slow
def test_a_killed_study_goes_on_and_says_the_same(found: Study, photos: Path, tmp_path: Path) -> None:
    here = str(Path(__file__).parent)
    ended = subprocess.run([sys.executable, "-c", KILLED, here, str(photos), str(tmp_path)], timeout=900)
    assert ended.returncode == -signal.SIGKILL
    assert not (tmp_path / "run" / "study.json").exists()
    notes: list[str] = []
    learned: list[AnyTrial] = []

    class Listener(Progress):
        def note(self, text: str) -> None:
            notes.append(text)

    with pytest.MonkeyPatch.context() as patch:
        keep = memo.TrialCache.keep
        patch.setattr(memo.TrialCache, "keep", lambda self, one, what: (learned.append(one), keep(self, one, what))[0])
        again = asked_of(photos, tmp_path, progress=Listener())
    (said,) = [text for text in notes if text.endswith("trials are reused")]
    assert said == f"40 of {40 + len(learned)} trials are reused"
    # The small network's budget here is so short that where it ends is a matter of the clock.
    steady = [[point for point in one.points if point.method != SCRATCH] for one in (again, found)]
    assert without_seconds(steady[0]) == without_seconds(steady[1])


# --- what is refused


def test_a_cache_is_enough_while_its_photos_are_there(photos: Path, tmp_path: Path, found: Study) -> None:
    there = class_folders(tmp_path / "photos", 16)
    cache = pl.extract(there, layer=list(LAYERS), cache=tmp_path / "caches", n_jobs=1)
    again = asked_of(cache, tmp_path)
    steady = [[point for point in one.points if point.method != SCRATCH] for one in (again, found)]
    assert without_seconds(steady[0]) == without_seconds(steady[1])

    (there / "bees" / "03.png").unlink()
    with pytest.raises(
        CacheError, match=r"expected the photos that the cache was made of, got: 1 of 32 gone, e.g. bee"
    ):
        asked_of(cache, tmp_path)
    shutil.rmtree(there)
    with pytest.raises(CacheError, match="a study trains on the pixels, so it expected the photos") as caught:
        asked_of(str(cache.path), tmp_path)
    assert "pipeline study PHOTOS" in str(caught.value)


def test_what_cannot_be_studied_is_refused_before_the_network_runs(photos: Path, tmp_path: Path) -> None:
    photo(tmp_path / "few" / "ants" / "0.png", "ants", 0)
    for number in range(6):
        photo(tmp_path / "few" / "bees" / f"{number}.png", "bees", number)
    with pytest.raises(EvaluationError, match=r"expected 4 images per class .* got 1 image of 'ants'"):
        asked_of(tmp_path / "few", tmp_path)
    rows = [f"{kind}/{number:02d}.png,{kind},{number / 7:.3f}" for kind in ("ants", "bees") for number in range(16)]
    (tmp_path / "labels.csv").write_text("\n".join(["id,kind,wing", *rows]), encoding="utf-8")
    listed_scores = {"labels": str(tmp_path / "labels.csv")}
    with pytest.raises(EvaluationError, match="expected one label set, got 2: kind, wing"):
        asked_of(photos, tmp_path, **listed_scores)
    with pytest.raises(EvaluationError, match="expected labels that are classes, got numbers in 'wing'"):
        asked_of(photos, tmp_path, column="wing", **listed_scores)
    with pytest.raises(EvaluationError, match="expected labels and seconds to train with"):
        asked_of(photos, tmp_path, budget=0)
    with pytest.raises(EvaluationError, match="expected one head, got "):
        asked_of(photos, tmp_path, head="fast")
    assert not (tmp_path / "caches").exists() and not (tmp_path / "run").exists()


def test_a_folder_of_other_things_is_left_alone(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "letter.txt").write_text("dear", encoding="utf-8")
    with pytest.raises(EvaluationError, match="run"):
        asked_of(photos, tmp_path)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["letter.txt"]


def test_a_study_of_another_format_is_refused(found: Study, tmp_path: Path) -> None:
    assert found.folder is not None
    said = json.loads((found.folder / "study.json").read_text(encoding="utf-8"))
    (tmp_path / "study.json").write_text(json.dumps({**said, "format": 99}), encoding="utf-8")
    with pytest.raises(EvaluationError, match="expected a study of format 1, got 99"):
        Study.open(tmp_path)
    with pytest.raises(EvaluationError, match="expected a study, got No such file"):
        Study.open(tmp_path / "nothing")
    with pytest.raises(EvaluationError, match=r"expected one of the methods transfer, .* got 'magic'"):
        found.curve("magic")


def test_a_head_that_needs_more_labels_starts_with_more_and_it_is_said(photos: Path, tmp_path: Path) -> None:
    notes: set[str] = set()

    class Listener(Progress):
        def note(self, text: str) -> None:
            notes.add(text)

    made = asked_of(photos, tmp_path, head="knn", progress=Listener())
    assert [point.labels for point in made.curve(TRANSFER)] == [10, 24]  # five neighbours among four are too few
    assert [point.labels for point in made.curve(SCRATCH)] == [2, 4, 10, 24]
    assert [point.lead is None for point in made.curve(SCRATCH)] == [True, True, False, False]
    said = [text for text in notes if text.startswith("with 4 labels there is no transfer: ")]
    assert len(said) == 1 and "n_neighbors = 5, n_samples_fit = 4" in said[0]
    assert {one.rival: one for one in made.crossovers}[RAW].meets == 5
    assert Study.open(tmp_path / "run").points == made.points


# --- the command


def test_the_command_says_it_in_plain_words(found: Study, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert found.folder is not None
    monkeypatch.chdir(found.folder.parent)
    words = ("study", photos, "--cache", "caches", "--out", "run", "--budget", 0.05, "--jobs", 1, "--device", "cpu")
    outcome = done(*words)
    assert outcome.lines[0].split()[:3] == ["labels", "per", "class"]
    listed_scores = " ".join(outcome.out.split())
    for verdict in found.verdicts:
        assert f"{verdict.promise}: {verdict.answer}. {verdict.text}" in listed_scores
    assert outcome.lines[-1] == found.summary
    assert found.crossovers[0].text in listed_scores
    assert "kept in run/: every point in points.csv, all of it in study.json" in outcome.err
    assert outcome.next_command[:2] == ["pipeline", "evaluate"]
    said = json.loads(done(*words, "--json").out)
    assert said["verdicts"] == [one.as_dict() for one in found.verdicts] and said["run"] == "run"
    assert {"points", "crossovers", "budget", "interval"} <= said.keys()


def test_the_command_refuses_a_cache_whose_photos_are_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    there = class_folders(tmp_path / "photos", 8)
    path = done("extract", there).out.strip()
    shutil.rmtree(there)
    error, step = refused("study", path, "--out", "run")
    assert "so it expected the photos that the cache was made of, got: " in error
    assert step.startswith("give the photos themselves: pipeline study PHOTOS")
    assert not Path("run").exists()


# --- where transfer is not worth it


def test_where_the_pixels_tell_more_than_the_backbone_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A backbone that sees little, over squares whose brightness says it all."""
    monkeypatch.setattr(Eyes, "noise", dict.fromkeys(LAYERS, 30.0))
    monkeypatch.setattr(data, "DRAWS", {5: 10})  # two would show nothing
    rng = np.random.default_rng(0)
    for kind, level in (("dark", 60), ("light", 180)):
        for number in range(40):
            path = tmp_path / "squares" / kind / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.normal(level, 20, (8, 8, 3)).clip(0, 255).astype(np.uint8)).save(path)
    made = asked_of(tmp_path / "squares", tmp_path)
    answers = {one.promise: one.answer for one in made.verdicts}
    assert answers[LABELS] == answers[PERFORMANCE] == NOT_HERE
    assert made.summary.startswith("transfer was not worth it here: with all 60 labels transfer scores ")
    crossing = {one.rival: one for one in made.crossovers}[RAW]
    assert crossing.meets == 1 and "with as many labels as transfer it is never behind here" in crossing.text
    at: Point = low_label_point(made.curve(TRANSFER))
    assert at.per_class == 5 and at.score < 0.8 < {p.per_class: p for p in made.curve(RAW)}[5].score
