"""What cannot be exposed, and that the message names the layer in the way and the remedy."""

import builders
import keras
import pytest
from builders import NUM_CLASSES
from keras import layers, ops

from heads.exposing import expose_cells
from heads.own_models import (
    Projection,
    average,
    dense,
    features,
    functional,
    halved,
    token_classifier,
)
from keras_sdd import expose_spatial_logits


class Sharpened(layers.Dense):
    """A Dense layer that is not linear."""

    def call(self, inputs):
        return super().call(inputs) ** 3


class PowerPooling(layers.GlobalAveragePooling2D):
    """A pooling that is no mean."""

    def call(self, inputs):
        return super().call(inputs**3) ** (1 / 3)


class Mean(layers.Layer):
    """A layer of the user's with the name of an operation."""

    def call(self, inputs):
        return ops.max(inputs, (1, 2))


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


NOT_LINEAR = ["only dropout, reshapes and linear layers", "before the pooling", "scales=(1,)"]

# Name: (builder, parts of the message, overrides).
OWN_REFUSALS = {
    "flatten": (
        lambda: functional(layers.Flatten(name="flat"), dense()),
        ["Flatten 'flat'", "GlobalAveragePooling2D"],
        {},
    ),
    "hidden layer": (
        lambda: functional(average(), layers.Dense(4, "relu", name="hidden"), dense()),
        ["Dense 'hidden'", *NOT_LINEAR],
        {},
    ),
    "activation": (
        lambda: functional(average(), layers.ReLU(name="relu"), dense()),
        ["ReLU 'relu'", *NOT_LINEAR],
        {},
    ),
    "softmax in between": (
        lambda: functional(average(), layers.Dense(4, "softmax", name="gate"), dense()),
        ["Dense 'gate'", *NOT_LINEAR],
        {},
    ),
    "batch norm": (
        lambda: functional(average(), layers.BatchNormalization(name="norm"), dense()),
        ["BatchNormalization 'norm'", *NOT_LINEAR],
        {},
    ),
    "spatial dropout": (
        lambda: functional(
            average(keepdims=True),
            layers.SpatialDropout2D(0.5, name="drop"),
            layers.Flatten(),
            dense(),
        ),
        ["SpatialDropout2D 'drop'", *NOT_LINEAR],
        {},
    ),
    "maximum": (
        lambda: functional(
            layers.ReLU(name="map"), layers.GlobalMaxPooling2D(name="maximum"), dense()
        ),
        ["GlobalMaxPooling2D 'maximum'", "pass feature_layer='map'"],
        {},
    ),
    "part of the map": (
        lambda: functional(layers.AveragePooling2D(3, name="half"), layers.Flatten(), dense()),
        ["Flatten", "(None, 2, 2, 6)", "GlobalAveragePooling2D"],
        {},
    ),
    "pooling with a border": (
        lambda: functional(layers.AveragePooling2D(5, name="most"), layers.Flatten(), dense()),
        ["AveragePooling2D 'most'", *NOT_LINEAR],
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
    "a pooling of the user's": (
        lambda: functional(PowerPooling(name="power"), dense()),
        ["PowerPooling 'power'", *NOT_LINEAR],
        {},
    ),
    "a layer named as an operation": (
        lambda: functional(Mean(name="mine"), dense()),
        ["Mean 'mine'", *NOT_LINEAR],
        {},
    ),
    "a classifier of the user's": (
        lambda: functional(average(), Sharpened(NUM_CLASSES, name="sharp")),
        ["Sharpened 'sharp'", "pass it as classifier_layer"],
        {},
    ),
    "an activated classifier of the user's": (
        lambda: functional(average(), Projection("softmax", name="mine")),
        ["Projection 'mine'", "activation 'softmax'", "activation=None"],
        {"classifier_layer": "mine"},
    ),
    "an operation": (halved, ["TrueDivide 'true_divide", "no Dense layer"], {}),
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
    "wide convolution": (
        lambda: functional(
            average(keepdims=True),
            layers.Conv2D(NUM_CLASSES, 3, padding="same", name="wide"),
            layers.Flatten(),
        ),
        ["Conv2D 'wide'", "no Dense layer or 1x1 convolution"],
        {},
    ),
    "no classifier": (
        lambda: functional(average()),
        ["GlobalAveragePooling2D 'pool'", "no Dense layer or 1x1 convolution"],
        {},
    ),
    "no pooling": (
        lambda: keras.Sequential([keras.Input((4,)), dense()], name="flat_model"),
        ["'flat_model' has no pooling", "scales=(1,)"],
        {},
    ),
    "joined inputs": (two_inputs, ["Concatenate 'join'", "several tensors", "scales=(1,)"], {}),
    "masked tokens": (masked_tokens, ["GlobalAveragePooling1D 'pool'", "masks count"], {}),
    "class token": (first_token, ["GetItem", *NOT_LINEAR], {}),
    "tokens": (
        lambda: token_classifier(None),
        ["GlobalAveragePooling1D 'pool'", "(None, 16, 8)", "pass feature_layer='norm'"],
        {},
    ),
    "tokens with a class token": (
        lambda: token_classifier(None, class_token=True),
        ["'pool'", "(None, 17, 8)", "class token", "Reshape"],
        {"feature_layer": "norm"},
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
        {"feature_layer": "map"},
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
        ["Dense 'fc2'", *NOT_LINEAR],
    ),
    "ConvNeXt": (
        lambda: keras.applications.ConvNeXtTiny(weights=None, input_shape=(32, 32, 3), classes=5),
        ["LayerNormalization 'convnext_tiny_head_layernorm'", *NOT_LINEAR],
    ),
    "KerasHub's MobileNet": (
        lambda: builders.KERAS_HUB_MOBILENET(None),
        ["Conv2D 'classifier_conv'", *NOT_LINEAR],
    ),
    "KerasHub's ViT with class token": (
        lambda: builders.vision_transformer("token", use_class_token=True)(None),
        ["GetItem", *NOT_LINEAR],
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
