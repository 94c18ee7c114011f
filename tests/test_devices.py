"""What the machine computes with is found out without torch, and `runtime_name` says what `open_runtime` opens."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import fake_backbone
import pytest
import torch
from progress_notes import Notes

from pipeline.backbone import Backbone
from pipeline.errors import BackboneError
from pipeline.extraction import extract
from pipeline.model import fit
from pipeline.runtime import base, open_runtime, runtime_name

ZEN4 = "flags\t\t: fpu vme avx512f avx512_bf16 avx512_vnni\n"
SAPPHIRE_RAPIDS = "flags\t\t: fpu avx512f amx_bf16 amx_tile\n"
ICE_LAKE = "flags\t\t: fpu avx512f avx512_vnni\n"
GRAVITON = "Features\t: fp asimd bf16 i8mm\n"


@pytest.fixture
def cpuinfo(tmp_path):
    """Write a /proc/cpuinfo of two cores with these flags."""

    def write(flags: str) -> Path:
        path = tmp_path / "cpuinfo"
        path.write_text(f"processor\t: 0\nbugs\t\t: bf16\n{flags}\nprocessor\t: 1\n{flags}")
        return path

    return write


@pytest.mark.parametrize(
    ("flags", "there", "with_openvino"),
    [(ZEN4, True, True), (SAPPHIRE_RAPIDS, True, True), (ICE_LAKE, False, False), (GRAVITON, True, False)],
)
def test_bf16_is_read_from_the_cpus_flags(flags, there, with_openvino, cpuinfo, monkeypatch):
    monkeypatch.setattr(base, "find_spec", lambda name: object())
    assert base.has_bf16(cpuinfo(flags)) is there
    assert base.has_openvino_bf16(cpuinfo(flags)) is with_openvino
    monkeypatch.setattr(base, "find_spec", lambda name: None)
    assert base.has_openvino_bf16(cpuinfo(flags)) is False


def test_file_that_names_no_flags_means_none(cpuinfo):
    assert base.has_bf16(cpuinfo("")) is False


def test_torch_is_asked_where_there_is_no_such_file(tmp_path, monkeypatch):
    for known in ({"avx512_bf16": True, "avx2": True}, {"amx_bf16": True}, {"bf16": True, "architecture": "arm64"}):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda known=known: known, raising=False)
        assert base.has_bf16(tmp_path / "none") is True
    for known in ({"avx512_bf16": False, "avx2": True}, {"bf16": "no"}):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda known=known: known, raising=False)
        assert base.has_bf16(tmp_path / "none") is False
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert base.has_bf16(tmp_path / "none") is False


def test_name_is_of_the_runtime_that_is_opened(monkeypatch):
    monkeypatch.setattr("pipeline.runtime.open.may_have_gpu", lambda: False)
    for there, name in ((True, "openvino-cpu"), (False, "torch-cpu")):
        monkeypatch.setattr("pipeline.runtime.open.has_openvino_bf16", lambda there=there: there)
        assert runtime_name("cpu") == runtime_name("auto") == name
    opened = open_runtime(Backbone.open(), ["penultimate"], device="cpu", precision="bf16")
    assert opened.name == runtime_name("cpu") == "torch-cpu"
    monkeypatch.setattr("pipeline.runtime.open.may_have_gpu", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr("pipeline.runtime.open.has_openvino_bf16", lambda: True)
    assert runtime_name("auto") == runtime_name("cuda:0") == "torch-cuda"
    assert runtime_name("cpu") == "openvino-cpu"
    with pytest.raises(BackboneError, match="expected a device auto, cpu, cuda or cuda:0, got 'gpu'"):
        runtime_name("gpu")


@pytest.mark.parametrize(("flags", "name"), [("avx2", "torch-cpu"), ("avx512_bf16", "openvino-cpu")])
def test_neither_torch_nor_openvino_is_imported_for_the_name(flags, name):
    if name == "openvino-cpu" and find_spec("openvino") is None:
        pytest.skip("OpenVINO is an extra")
    code = f"""
import sys
from pipeline.runtime import base, runtime_name
base._cpu_flags = lambda cpuinfo: {{{flags!r}}}
print(runtime_name("cpu"), [name for name in ("torch", "openvino", "onnxruntime") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == (f"{name} []", "")


@pytest.mark.parametrize("native", [True, False])
def test_emulated_bf16_is_said_with_what_is_faster(native, monkeypatch):
    monkeypatch.setattr("pipeline.runtime.open.has_openvino_bf16", lambda: False)
    monkeypatch.setattr("pipeline.runtime.open.has_bf16", lambda: native)
    notes = Notes()
    open_runtime(Backbone.open(), ["penultimate"], device="cpu", precision="bf16", progress=notes)
    said = "this CPU has no bf16 instructions: bf16 is emulated, and slower than fp32"
    assert notes.texts == ([] if native else [said])


def test_a_precision_that_is_emulated_is_refused_before_any_work(processor, tmp_path):
    """A complete cache of another machine is read all the same, and a model that needs the precision predicts."""
    photos = fake_backbone.folder_of(tmp_path / "photos", range(4))
    options = {"cache": tmp_path / "caches", "precision": "bf16"}
    processor("arm")
    made = extract(photos, device="cpu", n_jobs=1, **options)
    processor("avx2")
    more = fake_backbone.folder_of(tmp_path / "more", range(4, 8))
    for n_jobs in (1, 2):
        with pytest.raises(BackboneError) as caught:
            extract(more, device="cpu", n_jobs=n_jobs, **options)
        assert caught.value.message == (
            "expected a CPU with bf16 instructions, got one that emulates them, slower than fp32"
        )
        assert caught.value.next_step == "--precision fp32"
    assert [path.name for path in (tmp_path / "caches").glob("*.h5")] == [made.path.name]
    assert extract(photos, device="cpu", **options).path == made.path  # no network is needed

    processor("arm")
    model = fit(
        photos, heads="ridge", grid={"ridge.alpha": 1.0}, cv=2, out=tmp_path / "a.model", device="cpu", **options
    )
    expected = model.predict(photos, device="cpu")["label"]
    processor("avx2")
    notes = Notes()
    assert list(model.predict(photos, device="cpu", progress=notes)["label"]) == list(expected)
    assert "this CPU has no bf16 instructions: bf16 is emulated, and slower than fp32" in notes.texts
    assert model.score(more, device="cpu", cache=tmp_path / "caches").n == 4
    assert [path.name for path in (tmp_path / "caches").glob("*.h5")] == [made.path.name]  # nothing was extracted
