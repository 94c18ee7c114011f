"""The doctor looks at what is there, and each complaint comes with a command."""

from __future__ import annotations

import json
import sys
import tomllib
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
from commands import done, pipeline

from pipeline import doctor
from pipeline.backbone import registry


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A few requirements instead of all, and an empty folder of torchvision's weights."""
    wish(monkeypatch, "numpy>=1", "pillow>=1", 'scikit-image>=0.2; extra == "demo"', 'no-such-thing; extra == "heif"')
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)


def wish(monkeypatch: pytest.MonkeyPatch, *texts: str) -> None:
    monkeypatch.setattr(doctor, "requires", lambda name: list(texts))


def by_name(findings: tuple[doctor.Check, ...]) -> dict[str, doctor.Check]:
    return {finding.name: finding for finding in findings}


def test_what_is_there_is_ok_and_a_missing_extra_is_no_trouble() -> None:
    outcome = done("doctor")
    assert "a picture" not in outcome.out  # torch is none of this test's requirements
    report = doctor.examine()
    assert not report.wrong
    assert by_name(report.needed)["numpy"].state == doctor.OK
    extras = by_name(report.extras)
    assert (extras["demo"].state, extras["demo"].mend) == (doctor.OK, "")
    assert (extras["heif"].state, extras["heif"].mend) == (doctor.MISSING, "pip install 'transfer-pipeline[heif]'")
    (line,) = [line for line in outcome.out.splitlines() if "[heif]" in line]
    assert line.startswith("heif") and "not installed (optional)" in line
    assert "missing" not in outcome.out


def test_no_gpu_is_shown_as_optional_and_stays_missing_in_json() -> None:
    gpu = doctor.Check("GPU", doctor.MISSING, "none: networks run on the CPU")
    assert (gpu.status, gpu.state, gpu.wrong) == ("not installed (optional)", "missing", False)
    assert doctor.Check("numpy", doctor.MISSING, "none", needed=True).status == "missing"
    assert doctor.Check("heif", doctor.OLD, "1").status == "old"


def test_a_library_is_missing_or_old_or_does_not_load(monkeypatch: pytest.MonkeyPatch) -> None:
    wish(monkeypatch, "no-such-thing>=2", "numpy>=99", "pillow>=1", 'sky>=1; platform_system == "Nowhere"')
    monkeypatch.setitem(sys.modules, "PIL", None)
    report = doctor.examine()
    found = by_name(report.needed)
    assert "sky" not in found
    assert (found["no-such-thing"].state, found["no-such-thing"].mend) == (
        doctor.MISSING,
        "pip install 'no-such-thing>=2'",
    )
    assert (found["numpy"].state, found["numpy"].mend) == (doctor.OLD, "pip install --upgrade 'numpy>=99'")
    assert found["pillow"].state == doctor.BROKEN and "import of PIL halted" in found["pillow"].found
    assert found["pillow"].mend == "pip install --force-reinstall 'pillow>=1'"
    assert {one.name for one in report.wrong} == {"no-such-thing", "numpy", "pillow"}


def test_something_needed_that_is_missing_ends_with_two_lines_and_the_report_before_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wish(monkeypatch, "no-such-thing>=2")
    outcome = pipeline("doctor")
    assert outcome.code == 1 and "no-such-thing" in outcome.out
    error, way_out = outcome.err.splitlines()[-2:]
    assert error.startswith("error: ") and "1 problem: no-such-thing" in error
    assert way_out == "try: pip install 'no-such-thing>=2'"
    said = json.loads(pipeline("doctor", "--json").out)
    assert said["ok"] is False and said["needed"][0]["state"] == "missing"


def test_a_package_that_is_not_installed_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(name: str) -> list[str]:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(doctor, "requires", unknown)
    (first, *_) = doctor.examine().needed
    assert (first.state, first.mend) == (doctor.MISSING, "pip install transfer-pipeline")


def test_bundled_weights_are_compared_with_their_hash(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    other = tmp_path / "efficientnet-lite0-57934424.pth"
    other.write_bytes(b"half a file")
    monkeypatch.setattr(registry, "weights_file", lambda: other)
    report = doctor.examine()
    (weights,) = [one for one in report.needed if one.name == "weights of efficientnet_lite0"]
    assert weights.state == doctor.BROKEN and weights in report.wrong
    assert weights.mend == f"pip install --force-reinstall {registry.PACKAGE}"


def test_with_torch_a_picture_goes_through_the_network_and_its_weights_are_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wish(monkeypatch, "torch>=2", "torchvision>=0.1")
    enum = registry.enums("resnet18")["IMAGENET1K_V1"]
    file = registry.checkpoint_file(enum.url)
    file.parent.mkdir(parents=True)
    file.write_bytes(b"half a download")
    report = doctor.examine()
    assert by_name(report.needed)["efficientnet_lite0"].found == "computed the features of an image"
    weights = {(one.backbone, one.name): one for one in report.weights}
    broken = weights["resnet18", "IMAGENET1K_V1"]
    assert (broken.state, broken.mend) == (doctor.BROKEN, f"rm {file}")
    assert [one.name for one in report.wrong] == [str(file)]
    missing = weights["resnet50", "IMAGENET1K_V2"]
    assert missing.mend == "pipeline extract DATA --backbone resnet50:IMAGENET1K_V2" and missing.url.startswith("https")
    assert len({one.backbone for one in report.weights}) == len(registry.catalogue()) - 1


def test_a_folder_that_cannot_hold_caches_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    (finding,) = doctor.examine(cache=tmp_path / "file" / "caches").places
    assert finding.wrong and "cannot be written" in finding.found


def test_every_extra_that_is_not_for_developers_is_looked_at() -> None:
    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert set(doctor.EXTRAS) == set(project["optional-dependencies"]) - {"test", "fuzz", "dev", "docs"}
