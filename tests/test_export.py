"""An exported model runs where this package is not, says what `predict` says, and is put in place only when it does."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import chdir
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from commands import Outcome, class_folders, done, photo, refused
from made_caches import blobs, make_cache, names
from PIL import Image

from pipeline.backbone import Backbone
from pipeline.errors import ExportError, SourceError
from pipeline.export import CheckImages, export_model, standalone, torch_model
from pipeline.export import linear as kinds
from pipeline.export.api import check_output_place
from pipeline.export.graph_builder import GraphBuilder
from pipeline.export.onnx_model import append_answers
from pipeline.export.verify import TOLERANCE
from pipeline.extraction import recipe_of
from pipeline.images import ImageSource, prepare, rgb
from pipeline.images.check_images import photo_kinds
from pipeline.model import Model, fit
from pipeline.model.check_images import check_images, decode_check_images
from pipeline.progress import SILENT
from pipeline.search import Predictions

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder to work in, with photos, a model of them, and a new photo."""
    folder = tmp_path_factory.mktemp("work")
    with chdir(folder):
        class_folders(Path("photos"), 8)
        photo(Path("new.jpg"), "bees", 99, size=300)
        done("fit", "photos", "--out", "bees.model", "--cv", "2", "--grid", "logistic.C=0.01", "--jobs", "1")
        yield folder


@pytest.fixture(scope="module")
def model(place: Path) -> Model:
    return Model.open(place / "bees.model")


@pytest.fixture(scope="module")
def as_onnx(place: Path) -> Outcome:
    return done("export", "bees.model", "--out", "bees.onnx")


@pytest.fixture(scope="module")
def as_torch(place: Path) -> Outcome:
    return done("export", "bees.model", "--format", "torch", "--out", "bees.torch")


@pytest.fixture(scope="module")
def wanted(place: Path) -> dict[str, Any]:
    """What `pipeline predict` says of the new photo."""
    return json.loads(done("predict", "bees.model", "new.jpg", "--json").out)["predictions"][0]


def alone(code: str, cwd: Path, *, without: tuple[str, ...] = ("pipeline",)) -> str:
    """Run Python lines in a process in which these packages cannot be imported; return what they print."""
    blocked = "".join(f"sys.modules[{name!r}] = None\n" for name in without)
    ended = subprocess.run(
        [sys.executable, "-c", f"import sys\n{blocked}{code}"], cwd=cwd, capture_output=True, text=True, timeout=900
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


# --- the check


def test_it_is_checked_on_the_photos_it_learned_from(as_onnx: Outcome, as_torch: Outcome, place: Path) -> None:
    assert as_onnx.out == "bees.onnx\n" and as_torch.out == "bees.torch\n"
    figures = r"checked on 16 training photos: largest difference of a probability (\S+), 0 changed labels"
    for outcome, files in ((as_onnx, ["bees.onnx"]), (as_torch, ["model.py", "model.pt2"])):
        for file in files:
            found = re.search(f"{re.escape(file)} {figures}", outcome.err)
            assert found is not None and float(found[1]) <= TOLERANCE
    assert not [item.name for item in place.iterdir() if item.name.startswith(".")]


def test_photos_of_one_s_own_are_taken_for_the_check(place: Path, model: Model) -> None:
    class_folders(place / "others", 2, first=50)
    seen = check_images(model, place / "others", SILENT)
    assert seen.which == "4 photos of others"
    assert seen.ids == ["ants/50.png", "ants/51.png", "bees/50.png", "bees/51.png"]
    assert seen.pixels.shape == (4, 224, 224, 3) and seen.pixels.dtype == np.uint8


def test_photos_that_have_changed_are_not_those_it_learned_from(
    place: Path, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = replace(model, training_digests=model.training_digests[:5])
    assert check_images(changed, None, SILENT).which == "5 training photos"
    unknown = replace(model, training_digests=np.zeros((16, 16), np.uint8))
    assert check_images(unknown, None, SILENT).which == "32 of 1,440 crops of scikit-image's photographs"
    opened = ImageSource.open

    def without_crops(data: Any, **options: Any) -> ImageSource:
        if isinstance(data, str) and data == "photo-crops":
            raise SourceError("expected scikit-image, got none", "pip install scikit-image")
        return opened(data, **options)

    monkeypatch.setattr(ImageSource, "open", without_crops)
    assert check_images(unknown, None, SILENT).which == "32 generated images"


def test_photos_that_cannot_be_read_prove_nothing(place: Path, model: Model) -> None:
    (place / "broken").mkdir()
    (place / "broken" / "a.jpg").write_text("no photo")
    with pytest.raises(ExportError, match="got none of 1 that can be read"):
        check_images(model, place / "broken", SILENT)


def shifted(seen: CheckImages, by: float) -> CheckImages:
    """The same photos, and probabilities that are a little others."""
    assert seen.expected.probabilities is not None
    return replace(seen, expected=Predictions(seen.expected.labels, seen.expected.probabilities + np.array([by, -by])))


def test_what_answers_otherwise_leaves_nothing_behind(
    model: Model, as_onnx: Outcome, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = check_images(model, place / "new.jpg", SILENT)
    written = onnx.load(place / "bees.onnx")
    monkeypatch.setattr("pipeline.export.onnx_model.onnx_model", lambda *_: written)
    monkeypatch.setattr("pipeline.export.onnx_model.describe", lambda *_: None)
    out = tmp_path / "deep" / "bees.onnx"
    export_model(model, out, "onnx", lambda: shifted(seen, TOLERANCE / 2))
    before = out.read_bytes()
    with pytest.raises(ExportError, match=r"largest difference of a probability 2.0e-04, 0 changed labels; expected"):
        export_model(model, out, "onnx", lambda: shifted(seen, 2 * TOLERANCE))
    other = replace(seen, expected=replace(seen.expected, labels=1 - seen.expected.labels))
    with pytest.raises(ExportError, match=r"1 changed label, e.g. new.jpg; expected .* nothing was written"):
        export_model(model, tmp_path / "deep" / "new.onnx", "onnx", lambda: other)
    assert [item.name for item in out.parent.iterdir()] == ["bees.onnx"]
    assert out.read_bytes() == before
    monkeypatch.setattr("pipeline.model.check_images.check_images", lambda *_: other)
    error, _ = refused("export", place / "bees.model", "--out", tmp_path / "new.onnx")
    assert "1 changed label" in error and not (tmp_path / "new.onnx").exists()


# --- without this package


def readme_lines() -> str:
    """The lines of the documentation that run an exported ONNX file."""
    text = (ROOT / "docs" / "how_to" / "export_and_serve.md").read_text(encoding="utf-8")
    (lines,) = [block for block in re.findall(r"^```py\n(.*?)^```$", text, re.M | re.S) if "InferenceSession" in block]
    return lines


def test_the_readme_s_lines_run_the_onnx_file_without_this_package(
    as_onnx: Outcome, place: Path, wanted: dict[str, Any]
) -> None:
    lines = readme_lines()
    assert len([line for line in lines.splitlines() if line and not line.startswith(("import", "from"))]) <= 24
    label, *sure = alone(lines, place).split()
    assert label == wanted["label"]
    assert max(float(text.strip("[]")) for text in sure) == pytest.approx(wanted["probability"], abs=TOLERANCE)


def test_the_torch_folder_runs_in_plain_torchvision(as_torch: Outcome, place: Path, wanted: dict[str, Any]) -> None:
    code = (
        "import runpy\nsys.argv = ['model.py', 'new.jpg']\nrunpy.run_path('bees.torch/model.py', run_name='__main__')"
    )
    path, label, probability = alone(code, place).split()
    assert (path, label) == ("new.jpg", wanted["label"])
    assert float(probability) == pytest.approx(wanted["probability"], abs=TOLERANCE)


def test_the_program_runs_with_torch_alone(
    as_torch: Outcome, model: Model, place: Path, wanted: dict[str, Any]
) -> None:
    seen = check_images(model, place / "new.jpg", SILENT)
    np.save(place / "pixels.npy", np.concatenate([seen.pixels] * 3))  # any number, and one
    code = (
        "import numpy, torch\nwhole = torch.export.load('bees.torch/model.pt2').module()\n"
        "pixels = torch.from_numpy(numpy.load('pixels.npy'))\n"
        "print([p for part in (pixels, pixels[:1]) for p in whole(part)['probabilities'].max(1).values.tolist()])"
    )
    said = json.loads(alone(code, place, without=("pipeline", "torchvision", "onnxruntime")))
    assert said == pytest.approx([wanted["probability"]] * 4, abs=TOLERANCE)


def test_the_network_is_the_one_it_was_but_for_its_last_layer(as_torch: Outcome, model: Model, place: Path) -> None:
    """Its own tensors are bit for bit those of the backbone, and the new layer gives the head's decision."""
    network, before = standalone.load(place / "bees.torch"), model.backbone.load_network()
    assert type(network).__name__ == "EfficientNetLite0"
    final = network.get_submodule("classifier")
    assert isinstance(final, torch.nn.Linear) and final.out_features == 2
    state = network.state_dict()
    for name, tensor in before.state_dict().items():
        if not name.startswith("classifier."):
            assert torch.equal(state[name], tensor), name
    images = torch.randn(3, 3, 224, 224)
    with torch.no_grad():
        features = model.backbone.load(["penultimate"])(images)["penultimate"].numpy()
        outputs = network(images).numpy()
    np.testing.assert_allclose(outputs[:, 1] - outputs[:, 0], model.estimator.decision_function(features), atol=1e-4)


def test_the_onnx_file_says_what_it_is(as_onnx: Outcome, model: Model, place: Path) -> None:
    session = onnxruntime.InferenceSession(place / "bees.onnx", providers=["CPUExecutionProvider"])
    (pixels,) = session.get_inputs()
    assert (pixels.name, pixels.type, pixels.shape[1:]) == ("pixels", "tensor(uint8)", [224, 224, 3])
    assert [output.name for output in session.get_outputs()] == ["label", "probabilities"]
    about = session.get_modelmeta().custom_metadata_map
    assert json.loads(about["classes"]) == ["ants", "bees"] and about["label_set"] == "label"
    assert json.loads(about["preprocessing"])["interpolation"] == "bicubic"
    origin = json.loads(about["provenance"])
    assert origin["weights_sha256"] == model.backbone.weights_sha256 and origin["training_images"] == 16
    assert origin["head"] == "logistic" and origin["params"] == {"C": 0.01} and origin["verdict"] == model.verdict
    assert {"transfer-pipeline", "scikit-learn"} <= origin["fitted_with"].keys()
    assert str(place) not in json.dumps(about)
    for count in (1, 5):
        label, probabilities = session.run(None, {"pixels": np.zeros((count, 224, 224, 3), np.uint8)})
        assert label.shape == (count,) and probabilities.shape == (count, 2)


def test_the_torch_folder_says_what_it_is(as_torch: Outcome, model: Model, place: Path) -> None:
    folder = place / "bees.torch"
    assert {item.name for item in folder.iterdir()} <= torch_model.ENTRIES
    text = (folder / "README.md").read_text()
    for line in ("# bees.torch", f"> {model.verdict}", "python model.py photo.jpg", "0 changed labels"):
        assert line in text
    record = standalone.read_record(folder)
    assert record["classes"] == ["ants", "bees"] and record["network"]["arguments"] == {"num_classes": 2}


# --- photos of every kind


@pytest.fixture(scope="module")
def kinds_folder(place: Path) -> Path:
    """Files that are transparent, CMYK, palettes, of 16 bits or floats, and turned by EXIF."""
    folder = place / "kinds"
    folder.mkdir()
    for name, content in photo_kinds().items():
        (folder / name).write_bytes(content)
    return folder


def test_every_kind_of_photo_is_answered_alike_by_predict_and_by_all_exports(
    as_onnx: Outcome, as_torch: Outcome, model: Model, place: Path, kinds_folder: Path
) -> None:
    """The README's lines and the torch folder's own code against `predict`, and the kinds do differ."""
    table = model.predict(kinds_folder, cache=place / "caches")
    assert table["error"].tolist() == [""] * len(table) and len(table) >= 20
    network = standalone.FromPixels(standalone.load(place / "bees.torch"), standalone.read_record(place / "bees.torch"))
    read = torch_model.reader(place / "bees.torch")
    lines = readme_lines().replace('"bees.onnx"', 'str(folder / "bees.onnx")').replace('"new.jpg"', "path")
    once, each, rest = lines.replace("print(", "said = (").partition("with Image.open(")
    names: dict[str, Any] = {"folder": place}
    exec(compile(once, "README.md", "exec"), names)
    code = compile(each + rest, "README.md", "exec")
    seen = decode_check_images(model)
    exact = dict(zip(seen.names, seen.pixels, strict=True))
    for name, label, probability in zip(table["id"], table["label"], table["probability"], strict=True):
        names["path"] = kinds_folder / name
        exec(code, names)
        pixels = read((kinds_folder / name).read_bytes())
        np.testing.assert_array_equal(names["pixels"], pixels, err_msg=name)
        np.testing.assert_array_equal(exact[name], pixels, err_msg=name)
        with torch.inference_mode():
            plain = network(torch.from_numpy(pixels)[None])["probabilities"].numpy()[0]
        for sure in (names["said"][1], plain):
            assert model.classes[int(np.argmax(sure))] == label
            # The pixels are the same bit for bit; what is left is how three runtimes round in fp32.
            assert float(np.max(sure)) == pytest.approx(probability, abs=5e-5), name
    assert len(np.unique(seen.pixels.reshape(len(seen.names), -1), axis=0)) >= 15


def test_transparent_photos_are_shown_on_white_by_the_torch_folder_s_own_command(
    as_torch: Outcome, place: Path, kinds_folder: Path
) -> None:
    wanted = json.loads(done("predict", "bees.model", "kinds/colour-alpha.png", "--json").out)["predictions"][0]
    code = (
        "import runpy\nsys.argv = ['model.py', 'kinds/colour-alpha.png']\n"
        "runpy.run_path('bees.torch/model.py', run_name='__main__')"
    )
    _, label, probability = alone(code, place).split()
    assert label == wanted["label"] and float(probability) == pytest.approx(wanted["probability"], abs=TOLERANCE)


def test_an_export_that_reads_photos_otherwise_is_refused(
    model: Model, as_onnx: Outcome, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = Path(rgb.__file__).read_text(encoding="utf-8")
    monkeypatch.setattr(torch_model, "_write_program", lambda *_: None)
    whole = torch_model.whole
    monkeypatch.setattr(torch_model, "program_runner", lambda path: torch_model.runner(whole(path.parent)))
    check = ImageSource.open(place / "new.jpg")
    for text, other, kind in (
        ("(255, 255, 255, 255)", "(0, 0, 0, 255)", "colour-alpha.png"),  # on black
        ("turn is None else", "True else", "turned-3.jpg"),  # not turned
        ("share * SIXTEEN", "share * 60000", "16-bit.png"),
    ):
        assert right.count(text) == 1
        (tmp_path / "rgb.py").write_text(right.replace(text, other), encoding="utf-8")
        monkeypatch.setattr(torch_model, "rgb", SimpleNamespace(__file__=str(tmp_path / "rgb.py")))
        with pytest.raises(
            ExportError, match=f"expected the pixels that `pipeline predict` makes of {kind}, got others"
        ):
            model.export(tmp_path / "it.torch", format="torch", check=check)
        assert not (tmp_path / "it.torch").exists()
    written = onnx.load(place / "bees.onnx")
    for entry in written.metadata_props:
        if entry.key == "preprocessing":
            entry.value = json.dumps({**json.loads(entry.value), "interpolation": "bilinear"})
    monkeypatch.setattr("pipeline.export.onnx_model.onnx_model", lambda *_: written)
    monkeypatch.setattr("pipeline.export.onnx_model.describe", lambda *_: None)
    with pytest.raises(ExportError, match=r"it.onnx: expected the pixels .* of colour-alpha.png, got others"):
        model.export(tmp_path / "it.onnx", check=check)
    assert not (tmp_path / "it.onnx").exists()


# --- the lines that prepare a photo


@pytest.mark.parametrize("spec", ["efficientnet_lite0", "resnet18:random"])
def test_its_own_lines_prepare_a_photo_bit_for_bit(spec: str, tmp_path: Path) -> None:
    how = Backbone.open(spec).preprocessing
    rng = np.random.default_rng(0)
    for number, size in enumerate([(300, 200), (200, 333), (256, 256), (224, 500), (97, 64), (641, 480)]):
        image = Image.fromarray(rng.integers(0, 256, (*size[::-1], 3), np.uint8))
        exif = image.getexif()
        exif[0x0112] = number + 1  # turned and mirrored in all the ways that there are
        image.save(tmp_path / f"{number}.jpg", exif=exif, quality=95)
    source = ImageSource.open(tmp_path)
    record = {"preprocessing": {"resize": how.resize, "crop": how.crop, "interpolation": how.interpolation}}
    for row in range(len(source)):
        with Image.open(tmp_path / source.ids[row]) as opened:
            found = standalone.prepare(opened, record)
        np.testing.assert_array_equal(found, prepare(source.read(row), how)[0])


# --- other backbones, layers, kinds


def planted(spec: str, layer: str, folder: Path, *, kind: str = "class", **how: Any) -> Model:
    """A model of a backbone whose head learned from made-up features of that layer."""
    backbone = Backbone.open(spec)
    (width,) = backbone.resolve_layers([layer]).values()
    X, y = blobs(60, d=width, apart=1.0)
    columns = {"kind": names(y)} if kind == "class" else {"size": [f"{value:.4f}" for value in X[:, 0]]}
    changes = {**recipe_of(backbone).as_dict(), **how.pop("changes", {})}
    cache = make_cache(folder / "made.h5", {layer: X}, columns, changes=changes, backbone=backbone.record())
    return fit(cache, layer=layer, cv=2, n_jobs=1, nested=False, **how)


@pytest.mark.parametrize(
    ("spec", "layer"),
    [
        ("resnet18:random", "penultimate"),
        ("resnet18:random", "middle"),
        ("mobilenet_v3_small:random", "penultimate"),
        ("squeezenet1_1:random", "penultimate"),
        ("efficientnet_lite0", "late"),
    ],
)
def test_the_head_takes_the_final_layer_s_place_on_any_backbone_and_layer(
    spec: str, layer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new network's outputs are the head's layer on the features that extraction would have stored."""
    model = planted(spec, layer, tmp_path, heads="ridge", grid={"ridge.alpha": 10.0})
    monkeypatch.setattr(torch_model, "_write_program", lambda *_: None)
    before = torch.get_rng_state()
    torch_model.write_network(model, tmp_path)
    network = torch_model.whole(tmp_path).network
    assert torch.equal(torch.get_rng_state(), before)
    images = torch.randn(2, 3, model.backbone.preprocessing.crop, model.backbone.preprocessing.crop)
    with torch.no_grad():
        features = model.backbone.load([layer])(images)[layer].numpy().astype(np.float64)
        found = network(images).numpy()
    folded = torch_model.layer_of(model)(features)
    np.testing.assert_allclose(found, folded, rtol=1e-4, atol=1e-4 * np.abs(folded).max())


def test_a_number_is_exported_from_a_layer_in_the_middle(tmp_path: Path) -> None:
    model = planted("resnet18:random", "middle", tmp_path, kind="number", heads="svr", grid={"svr.C": 1.0})
    pytest.importorskip("skl2onnx", reason="the extra `export` is not installed")
    exported = model.export(tmp_path / "size.onnx")
    (proof,) = exported.proofs
    assert proof.of == "number" and proof.largest <= TOLERANCE and proof.photos == 32
    said = exported.as_dict()
    assert said["format"] == "onnx" and said["checks"][0]["changed"] == 0


@pytest.mark.parametrize(
    "answer",
    [kinds.SOFTMAX, kinds.NEAREST, kinds.ONE_VS_REST, kinds.SCORES, kinds.TAGS, kinds.TAG_SCORES, kinds.NUMBER],
)
def test_outputs_mean_the_same_in_torch_and_in_onnx(answer: str) -> None:
    count = 1 if answer == kinds.NUMBER else 6
    outputs = np.random.default_rng(0).normal(0, 3, (7, count)).astype(np.float32)
    draft = GraphBuilder("outputs", count)
    first, sure = append_answers(draft, "outputs", answer, count)
    shape: list[int | str] = ["images", "columns"]
    asked: dict[str, tuple[int, list[int | str]]] = {
        draft.cast(first, onnx.TensorProto.FLOAT): (onnx.TensorProto.FLOAT, shape if "tag" in answer else ["images"])
    }
    if sure is not None:
        asked[draft.cast(sure, onnx.TensorProto.FLOAT)] = (onnx.TensorProto.FLOAT, shape)
    session = onnxruntime.InferenceSession(draft.model(asked).SerializeToString(), providers=["CPUExecutionProvider"])
    found = session.run(None, {"outputs": outputs})
    said = list(standalone.answers(torch.from_numpy(outputs), answer).values())
    assert len(found) == len(said) == (1 if answer == kinds.NUMBER else 2)
    for mine, theirs in zip(found, said, strict=True):
        np.testing.assert_allclose(mine, theirs.numpy().astype(np.float32), atol=1e-6)


# --- refused


def test_what_cannot_be_exported_is_said_before_the_work(model: Model, place: Path, tmp_path: Path) -> None:
    for bad, format, text in (
        (model, "tflite", "--format: expected onnx or torch, got 'tflite'"),
        (replace(model, recipe={**model.recipe, "precision": "bf16"}), "onnx", "fp32 features.*got bf16"),
        (replace(model, recipe={**model.recipe, "store": "fp16"}), "torch", "stored in fp32.*got fp16"),
        (replace(model, classes=("ants", "bees", "wasps")), "onnx", "all 3 classes, got 2"),
    ):
        with pytest.raises(ExportError, match=text):
            bad.export(tmp_path / "it", format=format, check=place / "nowhere")
    assert not list(tmp_path.iterdir())


def test_only_a_linear_head_can_be_a_final_layer(tmp_path: Path) -> None:
    model = planted("efficientnet_lite0", "penultimate", tmp_path, heads="knn")
    with pytest.raises(ExportError, match="head 'knn': expected a linear head") as caught:
        model.export(tmp_path / "it.torch", format="torch")
    assert caught.value.next_step.startswith("--format onnx")


def test_nothing_of_a_person_s_is_replaced(place: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years")
    (tmp_path / "file").write_text("more years")
    for out, format, text in (
        ("mine", "torch", "got a folder with other files"),
        ("mine", "onnx", "expected to write a file here, got a folder"),
        ("file", "torch", "expected to write a folder here, got a file"),
        ("file", "onnx", "expected an ONNX file to replace, got another file"),
    ):
        error, _ = refused("export", place / "bees.model", "--out", tmp_path / out, "--format", format)
        assert text in error
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years"


def test_an_earlier_export_is_replaced_unless_something_was_added_to_it(as_torch: Outcome, place: Path) -> None:
    folder = Path(shutil.copytree(place / "bees.torch", place / "again.torch"))
    check_output_place(folder, folder=True)
    added = Path(shutil.copytree(place / "bees.torch", place / "added.torch"))
    (added / "notes.txt").write_text("mine")
    with pytest.raises(ExportError, match="got a folder with other files"):
        check_output_place(added, folder=True)
