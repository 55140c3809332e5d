"""The table of known classifiers, docs/heads.md: it lists them all, and says what is so."""

import pathlib

import list_heads
import numpy as np
import pytest
from backends import BACKEND
from libraries import keras_hub_classifiers
from library_classifiers import randomize

from heads.assertions import assert_close, call, softmax
from heads.exposing import expose_cells
from keras_sdd import expose_spatial_logits

REPOSITORY = pathlib.Path(__file__).parents[2]

if BACKEND != "torch":
    pytest.skip(
        "graphs are alike on all backends, and built fastest on PyTorch", allow_module_level=True
    )

REMEDY = "docs/heads.md is out of date: run `python examples/list_heads.py`"
ROWS = {
    cells[0]: cells[1:]
    for cells in (
        [x.strip() for x in line.strip("|").split("|")]
        for line in (REPOSITORY / "docs/heads.md").read_text().splitlines()
        if line.startswith("| `")
    )
}
MODELS = {library: dict(list_heads.list_models(library)) for library in list_heads.TITLES}
# Of each kind of head the quickest; VGG16 for its refusal, which tells the size of its map.
APPLICATIONS = {"MobileNetV3Small": 64, "ConvNeXtTiny": 64, "EfficientNetB0": 64, "VGG16": 128}


def test_the_page_lists_all_models():
    assert list(ROWS) == [label for models in MODELS.values() for label in models], REMEDY
    assert len(MODELS["keras"]) >= 40 and len(MODELS["keras_hub"]) >= 40


def test_all_could_be_built():
    kinds = (list_heads.LINEAR, list_heads.OWN, list_heads.PATCHES, list_heads.REFUSED)
    for label, (how, _) in ROWS.items():
        assert how.startswith(kinds), f"{label}: {how}. {REMEDY}"


def test_only_flattened_maps_are_refused():
    flattening = ("VGG16", "VGG19", 'pooling="flatten"', 'global_pool=""')
    refused = [x for x, (how, _) in ROWS.items() if how.startswith(list_heads.REFUSED)]
    assert refused == [x for x in ROWS if any(y in x for y in flattening)]


def test_what_cannot_be_built_has_a_row():
    label, how, head = list_heads.make_row(
        "`NewImageClassifier`", lambda: keras_hub_classifiers.build("NewImageClassifier", "")
    )
    assert (label, head) == ("`NewImageClassifier`", "")
    assert "keras_hub_classifiers.py has no small NewImageClassifier" in how


def assert_first_cell_is_the_models_own(model, how, size):
    """Cells of scale 1 are the model's logits, and those of scale 2 differ from each other.

    A model for images of any size gets some of `size`.
    """
    if how.startswith(list_heads.REFUSED):
        return
    randomize(model)
    shape = [size if x is None else x for x in model.inputs[0].shape[1:]]
    images = np.random.default_rng(0).uniform(0, 2, (2, *shape)).astype("float32")
    source = model
    if how == list_heads.PATCHES:
        source = expose_spatial_logits(model, patch_tokens=True)
    outputs, own = call(expose_cells(source, list_heads.SCALES), images), call(model, images)
    first, is_softmax = outputs["cells"][:, 0], np.allclose(own.sum(-1), 1.0, atol=1e-4)
    assert_close(softmax(first) if is_softmax else first, own)
    if how == list_heads.LINEAR:
        assert_close(outputs["cells"][:, 1:5].mean(1), first)
    assert np.ptp(outputs["cells"][:, 1:5], axis=1).max() > 1e-4


@pytest.mark.parametrize("label", MODELS["keras_hub"], ids=lambda x: x.replace("`", ""))
def test_keras_hub(label):
    model = MODELS["keras_hub"][label]()
    row = list(list_heads.describe(model))
    assert row == ROWS[label], REMEDY
    assert_first_cell_is_the_models_own(model, row[0], 32)


@pytest.mark.parametrize("name", APPLICATIONS)
def test_applications(name):
    model = list_heads.build_application(name, APPLICATIONS[name])
    row = list(list_heads.describe(model))
    assert row == ROWS[f"`{name}`"], REMEDY
    assert_first_cell_is_the_models_own(model, row[0], None)
