"""Recipes and their keys: whatever changes a feature changes the key, and nothing else does."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from inspect import signature
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.backbone import Backbone
from pipeline.extraction import recipe_of
from pipeline.provenance import Preprocessing, Recipe, canonical_json, sha256_json
from pipeline.runtime import runtime_name

PREPROCESSING = Preprocessing(256, 224, "bicubic", True, (0.4, 0.5, 0.6), (0.2, 0.2, 0.3))
RECIPE = Recipe("resnet50", "ab" * 32, PREPROCESSING, decoder="d1", photo_rules="rules 1", architecture={"a": False})
PLACE = "/data/photos"

OTHER: dict[str, Any] = {
    "backbone": "resnet18",
    "weights_sha256": "cd" * 32,
    "decoder": "d2",
    "photo_rules": "rules 2",
    "architecture": {"a": True},
    "precision": "bf16",
    "store": "fp16",
    "runtime": "torch-cuda",
    "pooling": "maximum",
}
OTHER_PREPROCESSING: dict[str, Any] = {
    "resize": 232,
    "crop": 225,
    "interpolation": "bilinear",
    "antialias": False,
    "mean": (0.4, 0.5, 0.60001),
    "std": (0.2, 0.3, 0.3),
    "value_range": 255.0,
}


def changed() -> dict[str, Recipe]:
    """One recipe for every field of the recipe and of its preprocessing, with that field alone changed."""
    whole = {name: replace(RECIPE, **{name: value}) for name, value in OTHER.items()}
    parts = {
        f"preprocessing.{name}": replace(RECIPE, preprocessing=replace(PREPROCESSING, **{name: value}))
        for name, value in OTHER_PREPROCESSING.items()
    }
    return {**whole, **parts}


def test_every_field_is_among_those_that_are_changed_here():
    assert {field.name for field in fields(Recipe)} == OTHER.keys() | {"preprocessing"}
    assert {field.name for field in fields(Preprocessing)} == OTHER_PREPROCESSING.keys()


def test_every_field_changes_the_key():
    keys = {name: recipe.key(PLACE) for name, recipe in changed().items()}
    keys["none"] = RECIPE.key(PLACE)
    keys["place"] = RECIPE.key(PLACE + "2")
    assert len(set(keys.values())) == len(keys)
    assert all(len(key) == 12 and set(key) <= set("0123456789abcdef") for key in keys.values())


@pytest.mark.parametrize("name", changed())
def test_differences_name_the_field_and_nothing_else(name):
    field = name.partition(".")[0]
    mine, theirs = RECIPE.as_dict(), changed()[name].as_dict()
    assert RECIPE.differences(theirs) == {field: (mine[field], theirs[field])}
    assert RECIPE.differences(mine) == {}


def test_a_field_that_one_side_lacks_is_a_difference():
    old = RECIPE.as_dict()
    del old["pooling"]
    assert RECIPE.differences(old) == {"pooling": ("mean over positions", None)}
    assert RECIPE.differences({**RECIPE.as_dict(), "new": 1}) == {"new": (None, 1)}


def test_the_key_is_the_same_for_ever():
    """A change here makes every cache that anybody has made be made again."""
    assert RECIPE.key(PLACE) == "f042ab29ce11"


def test_equal_recipes_have_one_key_however_they_were_made():
    again = Recipe(**{field.name: getattr(RECIPE, field.name) for field in fields(Recipe)})
    assert again.key(PLACE) == RECIPE.key(PLACE)
    turned = replace(RECIPE, architecture={"b": 1, "a": 2})
    assert turned.key(PLACE) == replace(RECIPE, architecture={"a": 2, "b": 1}).key(PLACE)


def test_a_recipe_comes_back_from_json_as_it_was():
    assert json.loads(canonical_json(RECIPE.as_dict())) == RECIPE.as_dict()


def test_what_is_no_number_has_no_canonical_text():
    with pytest.raises(ValueError, match="Out of range float"):
        sha256_json({"value": float("nan")})


@given(st.dictionaries(st.text(max_size=5), st.one_of(st.integers(), st.text(max_size=5), st.none()), max_size=6))
def test_canonical_text_depends_on_the_values_alone(value):
    shuffled = dict(reversed(list(value.items())))
    assert canonical_json(shuffled) == canonical_json(value)
    assert json.loads(canonical_json(value)) == value


@given(*(st.text(st.characters(exclude_categories=("Cs",)), max_size=8),) * 4)
def test_recipe_and_place_cannot_be_taken_for_each_other(backbone, place, other, other_place):
    keys = replace(RECIPE, backbone=backbone).key(place), replace(RECIPE, backbone=other).key(other_place)
    assert (keys[0] == keys[1]) == ((backbone, place) == (other, other_place))


def test_the_recipe_of_a_backbone_holds_what_the_backbone_says():
    backbone = Backbone.open()
    recipe = recipe_of(backbone)
    assert (recipe.backbone, recipe.weights_sha256) == (backbone.name, backbone.weights_sha256)
    assert recipe.preprocessing == backbone.preprocessing
    assert (recipe.precision, recipe.store, recipe.runtime) == ("fp32", "fp32", "")


def test_the_runtime_is_in_the_recipe_of_lower_precision_alone():
    assert recipe_of(Backbone.open(), precision="bf16", device="cpu").runtime == runtime_name("cpu") != ""
    assert recipe_of(Backbone.open(), precision="fp32", device="cpu").runtime == ""


@pytest.mark.parametrize(
    "change",
    [
        {"weights_sha256": "0" * 64},
        {"architecture": {"transform_input": True}},
        {"preprocessing": replace(Backbone.open().preprocessing, resize=257)},
        {"name": "another"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_another_backbone_has_another_key(change):
    backbone = Backbone.open()
    assert recipe_of(replace(backbone, **change)).key(PLACE) != recipe_of(backbone).key(PLACE)


def test_every_choice_that_changes_a_feature_has_a_key_of_its_own():
    backbone = Backbone.open()
    choices: dict[str, Any] = {"precision": "bf16", "store": "fp16", "decode": "fast"}
    # The device moves the last bits in fp32, and in lower precision it is the runtime, which is looked at above.
    assert {*signature(recipe_of).parameters} == choices.keys() | {"backbone", "device"}
    keys = {recipe_of(backbone, **{name: value}).key(PLACE) for name, value in choices.items()}
    assert len({recipe_of(backbone).key(PLACE), *keys}) == 4


def test_where_the_weights_lie_is_not_in_the_key(tmp_path):
    backbone = Backbone.open()
    assert recipe_of(replace(backbone, file=tmp_path)).key(PLACE) == recipe_of(backbone).key(PLACE)


@pytest.mark.parametrize(("name", "value"), [("decoder_of", lambda _: "other"), ("PHOTO_RULES", "other")])
def test_another_decoder_and_other_photo_rules_have_another_key(monkeypatch, name, value):
    from pipeline.extraction import api as room

    before = recipe_of(Backbone.open()).key(PLACE)
    monkeypatch.setattr(room, name, value)
    assert recipe_of(Backbone.open()).key(PLACE) != before
