"""What MLflow is given, read back from a database of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from commands import done, refused
from made_caches import blobs, make_cache, names
from test_scored import planted

if find_spec("mlflow") is None:  # looked for, not loaded: how it is loaded is tested
    pytest.skip("MLflow is not installed: pip install 'transfer-pipeline[mlflow]'", allow_module_level=True)

from pipeline.errors import ReportError
from pipeline.evaluation import evaluate
from pipeline.report.html.write import Report, write_report
from pipeline.report.mlflow import load_mlflow, log_report, tracked_runs, without_password
from pipeline.runs import Run
from pipeline.runs.directory import report_name
from pipeline.studies import Study
from pipeline.studies.results import NO_LAYER, SCRATCH, TRANSFER, Point, Verdict


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("tracking")
    X, y = blobs(60, d=8, apart=1.5, seed=3)
    cache = make_cache(folder / "a.h5", X, {"a/b: kind?": names(y)}, name="a")
    return evaluate(
        cache, heads=["ridge", "knn"], grid={"ridge.alpha": 1.0}, scoring=["balanced_accuracy", "accuracy"], cv=3,
        n_jobs=1, out=folder / "run",
    )  # fmt: skip


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of a database of MLflow, whose files come beside it."""
    monkeypatch.chdir(tmp_path)
    return f"sqlite:///{tmp_path}/kept.db"  # MLflow remembers stores by their address


def kept(uri: str, experiment: str = "transfer-pipeline") -> tuple[Any, Any, dict[str, Any]]:
    """Return the client, the run of the whole, and its children by name."""
    client = load_mlflow().MlflowClient(tracking_uri=uri)
    found = client.get_experiment_by_name(experiment)
    runs = client.search_runs([found.experiment_id], max_results=1000)
    (whole,) = [one for one in runs if "mlflow.parentRunId" not in one.data.tags]
    children = [one for one in runs if one.data.tags.get("mlflow.parentRunId") == whole.info.run_id]
    assert len(children) == len(runs) - 1
    return client, whole, {one.info.run_name: one for one in children}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of MLflow's and its database's, when read back here
def test_every_head_is_kept_with_its_parameters_scores_and_folds(run: Run, store: str) -> None:
    logged = log_report(write_report(run), store)
    client, whole, children = kept(store)
    assert (logged.run_id, logged.children, logged.uri) == (whole.info.run_id, len(children), store)
    assert {one.info.status for one in (whole, *children.values())} == {"FINISHED"}
    assert len(children) == len({(one.layer, one.head) for one in run.results})
    for result in run.results:
        child = children[f"{result.label_set} · {result.head} · {result.layer}"]
        metrics, params = child.data.metrics, child.data.params
        assert metrics[result.scoring] == result.mean
        assert (metrics[f"{result.scoring}.low"], metrics[f"{result.scoring}.high"]) == (result.low, result.high)
        folds = client.get_metric_history(child.info.run_id, f"{result.scoring}.fold")
        assert [one.value for one in sorted(folds, key=lambda one: one.step)] == list(result.fold_scores)
        assert (params["label_set"], params["n"], params["nested"]) == ("a/b: kind?", "60", "True")
        assert {name: str(value) for name, value in result.params.items()}.items() <= params.items()
        assert child.data.tags["null"] == str(result.null)
    best = next(one for one in run.of("a/b: kind?") if one.head == "chosen")
    assert whole.data.metrics["balanced_accuracy"] == best.mean
    assert whole.data.tags["mlflow.note.content"].startswith(run.verdicts[0])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_page_is_kept_byte_for_byte(run: Run, store: str, tmp_path: Path) -> None:
    report = write_report(run)
    logged = log_report(report, store, experiment="mine")
    client, whole, _ = kept(store, "mine")
    assert [one.path for one in client.list_artifacts(logged.run_id)] == [report.path.name]
    place = Path(client.download_artifacts(whole.info.run_id, report.path.name, str(tmp_path)))
    assert place.read_bytes() == report.path.read_bytes()


def curve(method: str, layer: str, *scores: float) -> list[Point]:
    said = {"low": 0.1, "high": 0.9, "train": 1.0, "seconds": 0.5, "extraction_seconds": 0.25}
    return [
        Point(method, layer, labels / 2, labels, False, 3, score, **said)  # type: ignore[arg-type]
        for labels, score in zip((2, 10, 40), scores, strict=True)
    ]


def study() -> Study:
    points = (*curve(TRANSFER, "early", 0.4, 0.5, 0.6), *curve(TRANSFER, "penultimate", 0.5, 0.7, 0.8))
    return Study(
        name="made", label_set="kind", classes=("ant", "bee"), train=40, test=60, groups=None, backbone="planted:none",
        layer="penultimate", head="ridge", scoring="balanced_accuracy",
        points=(*points, *curve(SCRATCH, NO_LAYER, 0.3, 0.4, float("nan"))), crossovers=(),
        verdicts=(Verdict("fewer labels", "yes", "with 5 labels", {"transfer": 0.7, "from scratch": None}),),
        summary="It was.", about_depth="", interval="over draws", budget={"draws": "3"}, seconds=7.0,
    )  # fmt: skip


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_study_s_curves_have_the_labels_as_steps(store: str, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    page.write_text("made")
    log_report(Report(page, study(), 4), store)
    client, whole, children = kept(store)
    assert set(children) == {"transfer · early", "transfer · penultimate", "from scratch"}
    history = client.get_metric_history(children["transfer · penultimate"].info.run_id, "balanced_accuracy")
    assert {one.step: one.value for one in history} == {2: 0.5, 10: 0.7, 40: 0.8}
    # What could not be scored is no number.
    history = client.get_metric_history(children["from scratch"].info.run_id, "balanced_accuracy")
    assert {one.step: one.value for one in history} == {2: 0.3, 10: 0.4}
    assert children["from scratch"].data.metrics["balanced_accuracy.total_seconds"] == 0.75
    assert whole.data.tags["fewer labels"] == "yes"
    assert whole.data.metrics == {"fewer labels/transfer": 0.7, "seconds": 7.0}
    assert whole.data.params["train"] == "40" and "groups" not in whole.data.params
    assert whole.data.tags["mlflow.note.content"] == "It was.\n\nfewer labels: yes. with 5 labels"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_score_is_one_run_with_its_figures_and_the_model_s_hash(store: str, tmp_path: Path) -> None:
    model, other = planted(tmp_path, "class", head="logistic")
    score = model.score(other, cache=tmp_path, out=tmp_path / "run")
    logged = log_report(write_report(score), store)
    client, whole, children = kept(store)
    assert (logged.run_id, logged.children, children) == (whole.info.run_id, 0, {})
    wanted = {
        f"{one.scoring}{end}": value
        for one in score.scores
        for end, value in (("", one.value), (".low", one.low), (".high", one.high))
    }
    assert wanted.items() <= whole.data.metrics.items()
    assert whole.data.metrics["unfamiliar"] == score.unfamiliar and whole.data.metrics["of_unknown_classes"] == 0
    assert (whole.data.params["model_sha256"], whole.data.params["n"]) == (model.sha256, "40")
    assert whole.data.params["logistic.C"] == str(model.params["C"]) and whole.data.tags["pipeline"] == "score"
    assert [one.path for one in client.list_artifacts(whole.info.run_id)] == [report_name(whole.info.run_name)]
    assert "runs in it" not in done("report", tmp_path / "run", "--mlflow", store).err


def test_names_that_mlflow_would_refuse_are_made_fit(run: Run) -> None:
    whole, parts = tracked_runs(run)
    from mlflow.utils.validation import _validate_metric_name, _validate_param_name

    for entry in (whole, *parts):
        for name, *_ in entry.metrics:
            _validate_metric_name(name)
        for name in entry.params:
            _validate_param_name(name)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_log_that_breaks_off_is_marked_as_failed(run: Run, store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    client = load_mlflow().MlflowClient
    log_batch, calls = client.log_batch, []

    def breaks(self: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        if len(calls) > 5:
            raise OSError("the cable was pulled")
        return log_batch(self, *args, **kwargs)

    monkeypatch.setattr(client, "log_batch", breaks)
    report = write_report(run)
    with pytest.raises(ReportError, match=r"expected to log to MLflow here, got OSError: the cable was pulled"):
        log_report(report, store)
    _, whole, children = kept(store)
    assert whole.info.status == "FAILED"
    assert sorted(one.info.status for one in children.values()) == ["FAILED"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_command_says_where_it_logged(run: Run, store: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert run.folder is not None
    outcome = done("report", run.folder, "--mlflow", store, "--json")
    _, whole, children = kept(store)
    assert json.loads(outcome.out)["mlflow"] == {
        "uri": store, "experiment": "transfer-pipeline", "run_id": whole.info.run_id, "children": len(children)
    }  # fmt: skip
    said = done("report", run.folder, "--mlflow", store, "--experiment", "mine")
    assert said.lines == [str(run.folder / report_name(run.name))]
    assert f"logged to {store}, experiment mine, as run " in said.err
    assert "INFO" not in capfd.readouterr().err  # MLflow's own words


def test_what_mlflow_refuses_is_told_in_two_lines(run: Run, tmp_path: Path) -> None:
    error, step = refused("report", run.folder, "--mlflow", tmp_path / "folder")
    assert error.startswith(f"{tmp_path / 'folder'}: expected to log to MLflow here, got MlflowException: ")
    assert "maintenance mode" in error and step.startswith("--mlflow sqlite:///mlflow.db")
    error, _ = refused("report", run.folder, "--mlflow", "foo://me:secret@host/x")
    assert error.startswith("foo://host/x: expected") and "secret" not in error
    assert (run.folder / report_name(run.name)).exists()  # type: ignore[operator]


def test_without_mlflow_the_extra_is_named_before_a_page_is_drawn(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    page = tmp_path / "page.html"
    assert refused("report", run.folder, "--out", page, "--mlflow", "sqlite:///x.db") == (
        "the report: expected mlflow, but it is not installed", "pip install 'transfer-pipeline[mlflow]'"
    )  # fmt: skip
    assert not page.exists()


@pytest.mark.parametrize(
    ("uri", "told"),
    [
        ("http://me:secret@host:5000/x", "http://host:5000/x"),
        ("http://host:5000/a@b", "http://host:5000/a@b"),
        ("sqlite:///kept.db", "sqlite:///kept.db"),
    ],
)
def test_a_password_is_never_told(uri: str, told: str) -> None:
    assert without_password(uri) == told


def test_mlflow_s_maker_is_told_nothing_and_the_settings_are_as_they_were() -> None:
    program = """
import os
before = dict(os.environ)
from pipeline.report.mlflow import load_mlflow
load_mlflow()
assert dict(os.environ) == before
from mlflow.telemetry import get_telemetry_client
print(get_telemetry_client())
"""
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert said.stdout == "None\n"
