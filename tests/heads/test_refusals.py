"""What cannot be exposed, and that the message names the layer in the way and the remedy."""

import keras
import library_classifiers
import pytest
from keras import layers, ops
from library_classifiers import NUM_CLASSES

from heads.exposing import expose_cells
from heads.own_models import (
    average,
    dense,
    features,
    functional,
    token_classifier,
)
from keras_sdd import expose_spatial_logits


class Opaque(layers.Layer):
    """A whole network in a layer."""

    def build(self, input_shape):
        self.body, self.classifier = layers.Conv2D(4, 3), layers.Dense(NUM_CLASSES)

    def call(self, images):
        return self.classifier(ops.mean(self.body(images), (1, 2)))


def two_bodies():
    inputs, x = features()
    other = layers.Conv2D(4, 3)(inputs)
    parts = [
        dense(name=name)(layers.GlobalAveragePooling2D()(y))
        for name, y in zip("ab", (x, other), strict=True)
    ]
    return keras.Model(inputs, layers.Average(name="mean")(parts))


def two_outputs():
    inputs, x = features()
    x = average()(x)
    return keras.Model(inputs, [dense()(x), dense(name="second")(x)])


def two_inputs():
    inputs, x = features()
    other = keras.Input((4,))
    return keras.Model(
        [inputs, other], dense()(layers.Concatenate(name="join")([average()(x), other]))
    )


def masked_tokens():
    inputs = keras.Input((16, 4))
    x = layers.GlobalAveragePooling1D(name="pool")(layers.Masking(name="masking")(inputs))
    return keras.Model(inputs, dense()(x))


def first_token():
    inputs = keras.Input((17, 4))
    return keras.Model(inputs, dense()(layers.LayerNormalization()(inputs)[:, 0]))


NO_POOLING = ["no pooling that regions have too", "GlobalAveragePooling2D", "scales=(1,)"]

# Name: (builder, parts of the message, overrides).
OWN_REFUSALS = {
    "flatten": (
        lambda: functional(layers.Flatten(name="flat"), dense()),
        ["Flatten 'flat'", "GlobalAveragePooling2D"],
        {},
    ),
    "part of the map": (
        lambda: functional(layers.AveragePooling2D(3, name="half"), layers.Flatten(), dense()),
        ["Flatten", "(None, 2, 2, 6)", "GlobalAveragePooling2D"],
        {},
    ),
    "pooling with a border": (
        lambda: functional(layers.AveragePooling2D(5, name="most"), layers.Flatten(), dense()),
        ["AveragePooling2D 'most'", *NO_POOLING],
        {},
    ),
    "mean over one axis": (
        lambda: functional(
            layers.Lambda(lambda x: x, name="body"),
            layers.Lambda(lambda x: ops.mean(x, 1)),
            dense(),
        ),
        ["(None, 6, 5)"],
        {},
    ),
    "sigmoid": (
        lambda: functional(average(), dense("sigmoid")),
        ["Dense 'predictions'", "activation 'sigmoid'", "activation=None"],
        {},
    ),
    "sigmoid layer": (
        lambda: functional(average(), dense(), layers.Activation("sigmoid", name="end")),
        ["Activation 'end'", "activation 'sigmoid'", "activation=None"],
        {},
    ),
    "no pooling": (
        lambda: keras.Sequential([keras.Input((4,)), dense()], name="flat_model"),
        ["'flat_model' has no pooling", "scales=(1,)"],
        {},
    ),
    "joined inputs": (two_inputs, ["Concatenate 'join'", "several tensors", "scales=(1,)"], {}),
    "ensemble": (two_bodies, ["Average 'mean'", "different maps", "scales=(1,)"], {}),
    "an opaque layer": (
        lambda: keras.Sequential([keras.Input((12, 12, 3)), Opaque(name="opaque")]),
        ["Opaque 'opaque'", *NO_POOLING],
        {},
    ),
    "a position of the map": (
        lambda: functional(layers.Lambda(lambda x: x), layers.Lambda(lambda x: x[:, 0]), dense()),
        ["(None, 6, 5)"],
        {},
    ),
    "whole maximum": (
        lambda: functional(layers.MaxPooling2D(6, name="whole"), layers.Flatten(), dense()),
        ["MaxPooling2D 'whole'", *NO_POOLING],
        {},
    ),
    "masked tokens": (masked_tokens, ["GlobalAveragePooling1D 'pool'", "masks count"], {}),
    "class token": (first_token, ["GetItem", "class token", "patch_tokens=True"], {}),
    "tokens with a class token": (
        lambda: token_classifier(None, class_token=True),
        ["'pool'", "(None, 17, 8)", "class token", "patch_tokens=True", "Reshape"],
        {},
    ),
    "tokens of another layout": (
        lambda: keras.Sequential(
            [
                keras.Input((4, 4)),
                layers.ReLU(name="map"),
                layers.GlobalAveragePooling1D("channels_first", name="pool"),
                dense(),
            ]
        ),
        ["'pool'", "channels_first tokens", "Reshape"],
        {},
    ),
    "wrong feature layer": (
        lambda: functional(average(), dense()),
        ["GlobalAveragePooling2D 'pool'", "'batch_norm", "not of feature_layer='nowhere'"],
        {"feature_layer": "nowhere"},
    ),
    "wrong classifier layer": (
        lambda: functional(average(), layers.Dense(4, name="hidden"), dense()),
        ["Dense 'predictions'", "not classifier_layer='hidden'"],
        {"classifier_layer": "hidden"},
    ),
    "two outputs": (
        two_outputs,
        ["one output", "(None, 5), (None, 5)", "model.outputs[i]"],
        {},
    ),
    "unbuilt": (
        lambda: keras.Sequential([layers.Conv2D(4, 3), average(), dense()]),
        ["Sequential", "not built", "keras.Input", "model.build"],
        {},
    ),
    "one class": (lambda: functional(average(), layers.Dense(1)), ["2 or more", "(None, 1)"], {}),
    "a map as output": (lambda: functional(dense()), ["(B, K)", "(None, 6, 6, 5)"], {}),
    "no model": (lambda: dense(), ["Expected a keras.Model", "Dense"], {}),
    "a file name": (lambda: "model.keras", ["Expected a keras.Model", "model.keras"], {}),
}


@pytest.mark.parametrize("name", OWN_REFUSALS)
def test_refusals(name):
    build, parts, overrides = OWN_REFUSALS[name]
    with pytest.raises(ValueError) as refusal:
        expose_spatial_logits(build(), **overrides)
    for part in parts:
        assert part in str(refusal.value)


THIRD_PARTY_REFUSALS = {
    "VGG16": (
        lambda: keras.applications.VGG16(weights=None, input_shape=(32, 32, 3), classes=5),
        ["MaxPooling2D 'block5_pool'", *NO_POOLING],
    ),
    "VGG19": (
        lambda: keras.applications.VGG19(weights=None, input_shape=(64, 64, 3), classes=5),
        ["Flatten 'flatten'", "GlobalAveragePooling2D", "scales=(1,)"],
    ),
    "KerasHub's ViT with class token": (
        lambda: library_classifiers.vision_transformer("token", use_class_token=True)(None),
        ["GetItem", "class token", "patch_tokens=True"],
    ),
}


@pytest.mark.parametrize("name", THIRD_PARTY_REFUSALS)
def test_refusals_of_other_libraries(name):
    build, parts = THIRD_PARTY_REFUSALS[name]
    model = build()
    with pytest.raises(ValueError) as refusal:
        expose_spatial_logits(model)
    for part in parts:
        assert part in str(refusal.value)
    assert tuple(expose_cells(model, (1,)).output["cells"].shape) == (None, 1, 5)
