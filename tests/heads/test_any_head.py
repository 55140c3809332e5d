"""Heads that are not linear in the average of a map: each region is pooled and classified."""

import logging

import keras
import numpy as np
import pytest
from backends import BACKEND
from keras import layers, ops
from library_classifiers import NUM_CLASSES, randomize

from heads.assertions import (
    assert_close,
    assert_positions_differ,
    assert_shares_weights,
    call,
    draw_images,
    softmax,
)
from heads.exposing import expose_cells
from heads.own_models import average, dense, features, functional, token_classifier
from keras_sdd import SDDDistiller, expose_spatial_logits

SCALES = (1, 2, 4)


@keras.saving.register_keras_serializable(package="test_any_head")
class PowerPooling(layers.Layer):
    """A pooling of the user's, with a weight."""

    def build(self, input_shape):
        self.power = self.add_weight(name="power", initializer=lambda *_, **__: ops.ones(()) * 3.0)

    def call(self, maps):
        return ops.mean(ops.abs(maps + 0.1) ** self.power, axis=(1, 2)) ** (1.0 / self.power)


@keras.saving.register_keras_serializable(package="test_any_head")
class UnitLength(layers.Layer):
    """A layer of the user's after the pooling."""

    def call(self, x):
        return x / (ops.norm(x, axis=-1, keepdims=True) + 1e-3)


def maximum(**kwargs):
    return layers.GlobalMaxPooling2D(**{"name": "pool"} | kwargs)


def two_poolings():
    inputs, x = features()
    x = layers.Identity(name="map")(x)
    pooled = layers.Concatenate()([average()(x), maximum(name="maximum")(x)])
    return keras.Model(inputs, dense()(layers.Dense(7, "relu")(pooled)))


def residual():
    inputs, x = features()
    x = layers.Dense(6)(average()(x))
    return keras.Model(inputs, dense()(x + layers.Dense(6, "gelu")(x)))


def averaged_heads():
    """Two heads on one map, whose probabilities are averaged."""
    inputs, x = features()
    x = average()(x)
    parts = [layers.Dense(NUM_CLASSES, "softmax")(x) for _ in range(2)]
    return keras.Model(inputs, layers.Average()(parts))


def with_operations():
    """A part of a calibrated classifier's classes."""
    inputs, x = features()
    logits = layers.Dense(8)(average()(x)) / 1.7
    return keras.Model(inputs, ops.take(logits, [0, 3, 4, 6, 7], axis=-1))


def nested_head():
    inputs, x = features()
    head = keras.Sequential(
        [average(), layers.LayerNormalization(), layers.Dense(9, "silu"), dense("softmax")]
    )
    return keras.Model(inputs, head(x))


def mobile_net_v3(activation="softmax"):
    """The head of MobileNetV3: hidden 1x1 convolutions after the pooling."""
    return functional(
        average(keepdims=True),
        layers.Conv2D(9, 1, padding="same"),
        layers.Activation("hard_silu"),
        layers.Dropout(0.2),
        layers.Conv2D(NUM_CLASSES, 1, padding="same", name="logits"),
        layers.Flatten(),
        layers.Activation(activation),
    )


def with_batch_norm():
    return functional(
        average(), layers.BatchNormalization(name="norm"), layers.Dropout(0.0), dense("softmax")
    )


HEADS = {
    "hidden layer": lambda: functional(
        average(), layers.Dense(7, "relu"), layers.Dropout(0.3), dense("softmax")
    ),
    "batch norm": with_batch_norm,
    "batch norm of (1, 1, C)": lambda: functional(
        average(keepdims=True), layers.BatchNormalization(), layers.Conv2D(5, 1), layers.Flatten()
    ),
    "layer norm": lambda: functional(average(), layers.LayerNormalization(), dense()),
    "MobileNetV3": mobile_net_v3,
    "activation": lambda: functional(average(), layers.ReLU(), dense("softmax")),
    "maximum": lambda: functional(maximum(), layers.Dropout(0.1), dense("softmax")),
    "maximum by an operation": lambda: functional(
        layers.Lambda(lambda x: x, name="body"),
        layers.Lambda(lambda x: ops.max(x, (1, 2))),
        dense(),
    ),
    "maximum of (1, 1, C)": lambda: functional(
        maximum(keepdims=True), layers.Conv2D(7, 1, activation="relu"), layers.Flatten(), dense()
    ),
    "a pooling of the user's": lambda: functional(PowerPooling(name="pool"), dense()),
    "a layer of the user's": lambda: functional(average(), UnitLength(), dense()),
    "softmax in between": lambda: functional(average(), layers.Dense(4, "softmax"), dense()),
    "spatial dropout": lambda: functional(
        average(keepdims=True), layers.SpatialDropout2D(0.5), layers.Flatten(), dense()
    ),
    "wide convolution": lambda: functional(
        average(keepdims=True), layers.Conv2D(5, 3, padding="same"), layers.Flatten()
    ),
    "two poolings": two_poolings,
    "residual": residual,
    "averaged heads": averaged_heads,
    "operations": with_operations,
    "nested head": nested_head,
    "map of one width": lambda: functional(
        layers.Cropping2D((1, 0)), average(), layers.Dense(7, "relu"), dense()
    ),
}


# JAX compiles every operation of every model: there, one of each kind.
TRIED = [
    name
    for name in HEADS
    if BACKEND != "jax"
    or name in ("batch norm", "MobileNetV3", "maximum", "two poolings", "residual", "nested head")
]


def pool_by_hand(maps, kind, scale):
    """(B, m * m, C) by NumPy: the mean or another reduction of adaptive bins, in float64."""
    reduce = {
        "mean": lambda x: x.mean((1, 2)),
        "max": lambda x: x.max((1, 2)),
        "power": lambda x: (np.abs(x + 0.1) ** 3).mean((1, 2)) ** (1 / 3),
    }[kind]

    def bins(size):
        edges = range(scale)
        return [
            (int(np.floor(i * size / scale)), int(np.ceil((i + 1) * size / scale))) for i in edges
        ]

    rows, columns = bins(maps.shape[1]), bins(maps.shape[2])
    return np.stack([reduce(maps[:, a:b, c:d]) for a, b in rows for c, d in columns], axis=1)


def classify_by_hand(model, maps_of, images, kinds, scales):
    """Cells of a model: its own layers after the pooling, called on regions pooled by NumPy."""
    maps = call(keras.Model(model.input, maps_of), images)
    pooled = [node.outputs[0] for node in find_poolings(model, maps_of)]
    tail = keras.Model(pooled if len(pooled) > 1 else pooled[0], model.outputs[0])
    cells = []
    for scale in scales:
        parts = [pool_by_hand(maps, kind, scale) for kind in kinds]
        for i in range(scale * scale):
            vectors = [part[:, i].astype("float32") for part in parts]
            shaped = [v.reshape(-1, *x.shape[1:]) for v, x in zip(vectors, pooled, strict=True)]
            cells.append(call(tail, shaped if len(shaped) > 1 else shaped[0]))
    return np.stack(cells, axis=1)


def find_poolings(model, maps):
    """The calls that read the map, in the order of the graph."""
    return [
        node
        for operation in model.operations
        for node in operation._inbound_nodes
        if any(x is maps for x in node.input_tensors)
    ]


def find_kinds(name):
    return {"two poolings": ["mean", "max"], "a pooling of the user's": ["power"]}.get(
        name, ["max" if "maximum" in name else "mean"]
    )


def normalize(outputs, model):
    """Logits up to the constant that a softmax does not see."""
    is_softmax = np.allclose(outputs.sum(-1), 1.0, atol=1e-4) and (outputs >= 0).all()
    return outputs if is_softmax else softmax(outputs)


@pytest.mark.parametrize("name", TRIED)
def test_cells_are_the_head_of_pooled_regions(name):
    model = randomize(HEADS[name]())
    images = draw_images(model)
    built = expose_cells(model, SCALES)
    outputs, own = call(built, images), call(model, images)
    assert outputs["cells"].shape == (3, 21, NUM_CLASSES)
    assert_close(normalize(outputs["logits"], model), normalize(own, model), 1e-5)
    assert_close(outputs["cells"][:, 0], outputs["logits"])
    assert np.ptp(outputs["cells"], axis=1).max() > 1e-2
    if name != "nested head":
        maps = next(x for x in map(_output, reversed(model.operations)) if _is_map(x))
        expected = classify_by_hand(model, maps, images, find_kinds(name), SCALES)
        assert_close(normalize(outputs["cells"], model), normalize(expected, model), 1e-5)
    assert_shares_weights(built, model)


def _output(operation):
    return operation._inbound_nodes[0].outputs[0]


def _is_map(x):
    return len(x.shape) == 4 and x.shape[1] * x.shape[2] > 1


@pytest.mark.parametrize("name", TRIED)
def test_exposed_models_say_the_same_and_are_saved(name, tmp_path):
    model = randomize(HEADS[name]())
    images = draw_images(model)
    exposed = expose_spatial_logits(model)
    outputs = call(exposed, images)
    assert_close(normalize(outputs["logits"], model), normalize(call(model, images), model), 1e-5)
    assert_positions_differ(outputs["spatial_logits"])
    assert_shares_weights(exposed, model)
    size = outputs["spatial_logits"].shape[1]
    if outputs["spatial_logits"].shape[2] == size:  # cells of one position each
        cells = call(expose_cells(model, (size,)), images)["cells"]
        assert_close(cells.reshape(outputs["spatial_logits"].shape), outputs["spatial_logits"])
    if "Lambda" in {type(x).__name__ for x in model.layers}:
        return
    exposed.save(tmp_path / "exposed.keras")
    loaded = keras.models.load_model(tmp_path / "exposed.keras")
    for name_, value in call(loaded, images).items():
        assert_close(value, outputs[name_])
    assert len(loaded.weights) == len(exposed.weights)


@pytest.mark.parametrize("name", ["hidden layer", "batch norm", "two poolings", "averaged heads"])
def test_an_exposed_model_has_the_cells_of_its_source(name):
    model = randomize(HEADS[name]())
    images, exposed = draw_images(model), expose_spatial_logits(model)
    expected = call(expose_cells(model, (2, 1, 3), "nested"), images)
    outputs = call(expose_cells(exposed, (2, 1, 3), "nested"), images)
    assert_close(outputs["cells"], expected["cells"])
    assert_close(outputs["cells"][:, 4], outputs["logits"])


def test_all_convolutional_networks_are_linear():
    """Without a layer after the pooling, as SqueezeNet has none."""
    model = randomize(functional(layers.Conv2D(NUM_CLASSES, 1), average(), layers.Softmax()))
    images = draw_images(model)
    outputs = call(expose_spatial_logits(model), images)
    assert_close(softmax(outputs["logits"]), call(model, images), 1e-6)
    assert_close(outputs["spatial_logits"].mean((1, 2)), outputs["logits"])


def test_a_head_that_is_not_linear_is_told_once(caplog):
    caplog.set_level(logging.INFO, logger="keras_sdd")
    SDDDistiller(functional(average(), dense()), randomize(HEADS["hidden layer"]()))
    told = [x for x in caplog.messages if "not linear" in x]
    assert len(told) == 1 and "functional" in told[0]


@pytest.mark.parametrize("zoo", [False, True])
@pytest.mark.parametrize("keepdims", [False, True])
def test_a_students_batch_norm_uses_the_images_own_statistics(zoo, keepdims):
    from keras_sdd.normalization import BatchNorm

    kind = BatchNorm if zoo else layers.BatchNormalization
    norm = kind(momentum=0.9, name="norm")
    tail = [layers.Conv2D(NUM_CLASSES, 1, name="last"), layers.Flatten()] if keepdims else [dense()]
    model = randomize(functional(average(keepdims=keepdims), norm, *tail))
    images = draw_images(model, size=6)
    built = expose_cells(model, SCALES)
    before = np.asarray(norm.moving_mean)
    features_ = keras.Model(model.input, model.get_layer("pool").input)
    # In training the body's own batch norm moves too: freeze it, so that maps are the same.
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization) and layer is not norm:
            layer.trainable = False
    maps = call(features_, images, training=True)
    outputs = call(built, images, training=True)
    vectors = maps.mean((1, 2))
    mean, variance = vectors.mean(0), vectors.var(0)
    gamma, beta = (np.asarray(ops.convert_to_numpy(v)) for v in (norm.gamma, norm.beta))
    cells = np.concatenate([pool_by_hand(maps, "mean", m) for m in SCALES], axis=1)
    cells = (cells - mean) / np.sqrt(variance + norm.epsilon) * gamma + beta
    kernel, bias = (
        np.asarray(ops.convert_to_numpy(v)) for v in model.layers[-1 - keepdims].weights
    )
    assert_close(outputs["cells"], cells @ kernel.reshape(-1, NUM_CLASSES) + bias)
    moved = 0.9 * before + 0.1 * mean  # once
    assert_close(np.asarray(ops.convert_to_numpy(norm.moving_mean), "float64"), moved, 1e-5)


def test_layers_that_keep_other_state_are_refused_in_a_student():
    class Centered(layers.Layer):
        def build(self, input_shape):
            self.center = self.add_weight(name="center", shape=input_shape[1:], trainable=False)

        def call(self, x, training=False):
            if training:
                self.center.assign(0.9 * self.center + 0.1 * ops.mean(x, axis=0))
            return x - self.center

    teacher = functional(average(), Centered(name="centered"), layers.Dense(4, "relu"), dense())
    student = functional(average(), Centered(name="centered"), layers.Dense(4, "relu"), dense())
    with pytest.raises(ValueError, match="Centered 'centered' keeps 'center'.*trainable = False"):
        SDDDistiller(teacher, student)
    student.get_layer("centered").trainable = False  # the remedy
    SDDDistiller(teacher, student)


def test_gradients_reach_all_layers_of_a_student():
    student = randomize(mobile_net_v3(None))
    distiller = SDDDistiller(
        randomize(functional(maximum(), layers.LayerNormalization(), dense())), student,
        student_loss_weight=0.0,
    )  # fmt: skip
    distiller.compile(keras.optimizers.SGD(0.1), jit_compile=BACKEND == "jax")
    before = [np.asarray(ops.convert_to_numpy(v)) for v in student.trainable_variables]
    images = draw_images(student, size=4)
    distiller.fit(images, np.arange(4) % NUM_CLASSES, batch_size=4, verbose=0)
    for old, variable in zip(before, student.trainable_variables, strict=True):
        assert np.abs(np.asarray(ops.convert_to_numpy(variable)) - old).max() > 0, variable.path


@pytest.mark.parametrize("scales", [(1, 2, 4), (2,), (1,)])
def test_a_student_that_pools_by_maximum_trains(scales):
    """Where JAX computes a map again and rounds otherwise, no position equals the maximum."""
    keras.utils.set_random_seed(0)
    inputs = x = keras.Input((16, 16, 3))
    for width in (8, 16):
        x = layers.Conv2D(width, 3, strides=2, padding="same")(x)
        x = layers.ReLU()(layers.BatchNormalization()(x))
    student = keras.Model(inputs, dense()(maximum()(x)))
    x = layers.Conv2D(8, 3, strides=2, padding="same")(inputs)
    distiller = SDDDistiller(keras.Model(inputs, dense()(average()(x))), student, scales=scales)
    distiller.compile(keras.optimizers.SGD(0.01), jit_compile=BACKEND == "jax")
    images = np.random.default_rng(0).normal(size=(16, 16, 16, 3)).astype("float32")
    logs = distiller.fit(images, np.arange(16) % NUM_CLASSES, 8, verbose=0).history
    assert np.isfinite(logs["loss"]).all()


@pytest.mark.parametrize("options", [{}, {"fold_teacher": False}, {"teacher_dtype": "bfloat16"}])
@pytest.mark.parametrize("name", ["batch norm", "MobileNetV3", "maximum", "averaged heads"])
def test_folding_and_precision_keep_a_teachers_cells(name, options):
    teacher, student = randomize(HEADS[name]()), functional(average(), dense())
    distiller = SDDDistiller(teacher, student, **options)
    images = draw_images(teacher)
    expected = call(expose_cells(teacher, SCALES), images)["cells"]
    tolerance = 0.05 if "teacher_dtype" in options else 2e-5
    assert_close(distiller.compute_teacher_cells(images).astype("float64"), expected, tolerance)


def vision_transformer(prefix, pooling="token"):
    """A small transformer on 4x4 patches with `prefix` class tokens."""
    inputs = keras.Input((16, 16, 3))
    x = layers.Reshape((16, 8))(layers.Conv2D(8, 4, strides=4)(inputs))
    x = layers.ZeroPadding1D((prefix, 0))(x)
    x = x + layers.MultiHeadAttention(2, 4)(x, x)
    x = layers.LayerNormalization(name="norm")(x)
    x = x[:, 0] if pooling == "token" else layers.GlobalAveragePooling1D()(x)
    return keras.Model(inputs, dense("softmax")(layers.Dense(6, "tanh", name="hidden")(x)))


@pytest.mark.parametrize("pooling", ["token", "mean"])
@pytest.mark.parametrize("prefix", [1, 2])
def test_patch_tokens_through_the_models_own_head(prefix, pooling, tmp_path):
    model = randomize(vision_transformer(prefix, pooling))
    with pytest.raises(ValueError, match="patch_tokens=True"):
        expose_spatial_logits(model)
    exposed = expose_spatial_logits(model, patch_tokens=True)  # the remedy
    images = draw_images(model)
    outputs = call(exposed, images)
    assert_close(softmax(outputs["logits"]), call(model, images), 1e-6)
    tokens = call(keras.Model(model.input, model.get_layer("norm").output), images)[:, prefix:]

    def classify(vectors):
        w, b, v, c = (np.asarray(ops.convert_to_numpy(x), "float64") for x in model.weights[-4:])
        return np.tanh(vectors @ w + b) @ v + c

    assert_close(outputs["spatial_logits"], classify(tokens).reshape(3, 4, 4, NUM_CLASSES))
    cells = call(expose_cells(exposed, SCALES), images)
    maps = tokens.reshape(3, 4, 4, 8)
    expected = np.concatenate([classify(pool_by_hand(maps, "mean", m)) for m in (2, 4)], axis=1)
    assert_close(cells["cells"][:, 1:], expected)
    assert_close(cells["cells"][:, 0], outputs["logits"])
    assert_shares_weights(exposed, model)
    exposed.save(tmp_path / "exposed.keras")
    loaded = keras.models.load_model(tmp_path / "exposed.keras")
    assert_close(call(expose_cells(loaded, SCALES), images)["cells"], cells["cells"])


def test_square_tokens_work_by_themselves():
    model = randomize(token_classifier("softmax"))
    images = draw_images(model)
    outputs = call(expose_spatial_logits(model), images)
    assert_close(outputs["spatial_logits"].mean((1, 2)), outputs["logits"])
    assert_positions_differ(outputs["spatial_logits"])
