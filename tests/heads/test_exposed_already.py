"""Models that are exposed already, or only look so."""

import keras
import numpy as np
import pytest
from keras import layers, ops
from library_classifiers import NUM_CLASSES, randomize

from heads.assertions import assert_close, call, draw_images, to_numpy
from heads.exposing import check_classifier, class_logits, expose_cells
from heads.own_models import average
from keras_sdd import expose_spatial_logits, pool_cells


def exposed_by_hand(maps_shape=(4, 4, 5), logits_shape=(5,)):
    inputs = keras.Input((4, 4, 5))
    logits = layers.Reshape(logits_shape)(layers.Dense(5)(average()(inputs)))
    count = int(np.prod(maps_shape))
    maps = layers.Reshape(maps_shape)(layers.Dense(count)(layers.Flatten()(inputs)))
    return keras.Model(inputs, {"logits": logits, "spatial_logits": maps})


def test_a_model_exposed_by_hand_is_taken_as_it_is():
    model = randomize(exposed_by_hand())
    assert expose_spatial_logits(model) is model
    check_classifier(model)
    assert class_logits(model) is model.output["logits"]
    images = draw_images(model)
    outputs, cells = call(model, images), call(expose_cells(model, (1, 2, 3)), images)
    assert_close(cells["logits"], outputs["logits"])
    expected = to_numpy(pool_cells(outputs["spatial_logits"].astype("float32"), (1, 2, 3)))
    assert_close(cells["cells"], expected)


def test_a_subclassed_model_wrapped_as_the_refusal_says():
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.conv, self.classifier = layers.Conv2D(4, 3), layers.Dense(NUM_CLASSES)

        def call(self, images):
            maps = self.conv(images)
            logits = self.classifier(ops.mean(maps, (1, 2)))
            return {"logits": logits, "spatial_logits": self.classifier(maps)}

    own, inputs = Own(), keras.Input((8, 8, 3))
    with pytest.raises(ValueError, match="Own.* is subclassed.*keras.Model"):
        expose_spatial_logits(own)
    model = keras.Model(inputs, own(inputs))
    assert expose_spatial_logits(model) is model
    assert tuple(expose_cells(model, (1, 2)).output["cells"].shape) == (None, 5, NUM_CLASSES)


@pytest.mark.parametrize(
    ("maps_shape", "logits_shape"),
    [((4, 4, 6), (5,)), ((16, 5), (5,)), ((5, 4, 4), (5,)), ((4, 4, 5), (1, 5))],
)
def test_outputs_that_only_look_exposed(maps_shape, logits_shape):
    model = exposed_by_hand(maps_shape, logits_shape)
    with pytest.raises(ValueError, match=r"spatial_logits.*\(B, H, W, K\).*Received.*\(None, 4|5"):
        expose_spatial_logits(model)
    with pytest.raises(ValueError, match=r"spatial_logits"):
        expose_cells(model, (1, 2))
