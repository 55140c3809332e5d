"""Exposing heads: every kind of classifier that can be, and the reason where one cannot."""

import functools
import itertools
import json

import builders
import keras
import numpy as np
import pytest
from backends import BACKEND
from builders import NUM_CLASSES, randomize
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers, ops

from keras_sdd import expose_spatial_logits, pool_cells
from keras_sdd.heads import check_classifier, class_logits, expose_cells

needs_channels_first = pytest.mark.skipif(
    BACKEND == "tensorflow", reason="TensorFlow has no channels_first convolution on CPUs"
)


@pytest.fixture(autouse=True, scope="module")
def quick_builds():
    with builders.drawn_by_numpy():
        yield


def to_numpy(tensor):
    return np.asarray(ops.convert_to_numpy(tensor), "float64")


def call(model, images, **kwargs):
    return keras.tree.map_structure(to_numpy, model(images, **kwargs))


def draw_images(model, size=3, seed=0):
    rng = np.random.default_rng(seed)
    shape = (size, *model.inputs[0].shape[1:])
    return rng.uniform(0.0, 2.0, shape).astype("float32")


def softmax(logits):
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def assert_close(actual, desired, tolerance=2e-5):
    """Equal within `tolerance` times the largest value."""
    assert actual.shape == desired.shape
    np.testing.assert_allclose(
        actual, desired, rtol=0, atol=tolerance * max(1.0, np.abs(desired).max())
    )


def assert_shares_weights(exposed, model):
    weights = [v for v in exposed.weights if not v.path.endswith("weights_of_cells")]
    assert {id(v) for v in weights} == {id(v) for v in model.weights}
    assert len(weights) == len(model.weights)


def assert_positions_differ(spatial_logits):
    """A map whose positions were all equal would pass any test."""
    assert spatial_logits.shape[1] * spatial_logits.shape[2] > 1
    assert np.ptp(spatial_logits, axis=(1, 2)).max() > 1e-2


def config_of(model):
    return json.dumps(model.get_config(), default=str, sort_keys=True)


# Models of our own: name -> builder(activation).


def features(name=None):
    """Input and a map of 6x6 positions."""
    inputs = keras.Input((12, 12, 3), name=name)
    x = layers.Conv2D(6, 3, strides=2, padding="same", activation="relu")(inputs)
    return inputs, layers.BatchNormalization()(x)


def functional(*head):
    inputs, x = features()
    for layer in head:
        x = layer(x)
    return keras.Model(inputs, x)


def dense(activation=None, **kwargs):
    return layers.Dense(NUM_CLASSES, activation, **{"name": "predictions"} | kwargs)


def average(**kwargs):
    return layers.GlobalAveragePooling2D(**{"name": "pool"} | kwargs)


def convolution_head(activation):
    return functional(
        average(keepdims=True),
        layers.Dropout(0.5),
        layers.Conv2D(NUM_CLASSES, 1, padding="same", name="predictions"),
        layers.Reshape((NUM_CLASSES,)),
        layers.Activation(activation, name="activation"),
    )


def base(pooling=None):
    """A model without a classifier, to be nested."""
    inputs, x = features()
    return keras.Model(inputs, average()(x) if pooling else x, name="base")


def sequential(*parts):
    return keras.Sequential([keras.Input((12, 12, 3)), *parts])


def nested_in_inference_mode(activation):
    inputs = keras.Input((12, 12, 3))
    x = average()(base()(inputs, training=False))
    return keras.Model(inputs, dense(activation)(x))


def nested_twice(activation):
    inner = keras.Sequential([base(pooling="avg"), layers.Dropout(0.2)], name="inner")
    inputs = keras.Input((12, 12, 3))
    head = keras.Sequential([dense(activation)], name="head")
    return keras.Model(inputs, head(keras.Sequential([inner], name="outer")(inputs)))


def nested_between_layers(activation):
    """Preprocessing before, the head after a nested model with several outputs."""
    inputs, x = features()
    trunk = keras.Model(inputs, [layers.Flatten()(x), x, average()(x)], name="trunk")
    images = keras.Input((24, 24, 3))
    outputs = trunk(layers.AveragePooling2D(2)(images))
    return keras.Model(images, dense(activation)(outputs[2]))


def called_twice(activation):
    """A base called on two inputs, of which the second counts."""
    inputs, shared = keras.Input((12, 12, 3)), base(pooling="avg")
    shared(layers.Rescaling(5.0)(inputs))
    return keras.Model(inputs, dense(activation)(shared(layers.Rescaling(0.5)(inputs))))


def ops_head(activation):
    inputs, x = features()
    x = ops.reshape(ops.mean(x, axis=(-2, 1), keepdims=True), (-1, 6))
    logits = dense()(ops.cast(x, "float32"))
    return keras.Model(inputs, ops.softmax(logits) if activation else logits)


def squeezed_head(activation):
    inputs, x = features()
    x = ops.squeeze(average(keepdims=True)(x), axis=(1, 2))
    return keras.Model(inputs, dense(activation)(x))


def dict_input(activation):
    inputs, x = features(name="image")
    return keras.Model({"image": inputs}, dense(activation)(average()(x)))


def functional_subclass(activation):
    class Classifier(keras.Model):
        def __init__(self):
            inputs, x = features()
            super().__init__(inputs, dense(activation)(average()(x)))

    return Classifier()


OWN_MODELS = {
    "functional": lambda a: functional(average(), dense(a)),
    "dropout": lambda a: functional(average(), layers.Dropout(0.5), dense(a)),
    "noise": lambda a: functional(
        average(), layers.GaussianNoise(1.0), layers.GaussianDropout(0.5), dense(a)
    ),
    "linear activations": lambda a: functional(
        average(), layers.Activation("linear"), layers.Identity(), dense(a), layers.Identity()
    ),
    "two linear layers": lambda a: functional(average(), layers.Dense(7), dense(a)),
    "no bias": lambda a: functional(average(), dense(a, use_bias=False)),
    "not square": lambda a: functional(layers.Cropping2D((1, 0)), average(), dense(a)),
    "activation layer": lambda a: functional(average(), dense(), layers.Activation(a)),
    "softmax layer": lambda a: functional(
        average(), dense(), layers.Softmax(axis=1) if a else layers.Identity()
    ),
    "ops.softmax as activation": lambda a: functional(average(), dense(a and ops.softmax)),
    "ops": ops_head,
    "squeeze": squeezed_head,
    "average pooling and flatten": lambda a: functional(
        layers.AveragePooling2D(6), layers.Flatten(), dense(a)
    ),
    "convolution": convolution_head,
    "convolution with activation": lambda a: functional(
        average(keepdims=True), layers.Conv2D(NUM_CLASSES, 1, activation=a), layers.Flatten()
    ),
    "sequential": lambda a: sequential(layers.Conv2D(4, 3), average(), dense(a)),
    "sequential around a base": lambda a: sequential(base(), average(), dense(a)),
    "sequential around a pooled base": lambda a: sequential(base("avg"), dense(a)),
    "sequential of sequentials": lambda a: sequential(
        keras.Sequential([layers.Conv2D(4, 3), layers.ReLU()]),
        keras.Sequential([average(), layers.Dropout(0.1)]),
        keras.Sequential([dense(a)]),
    ),
    "nested in inference mode": nested_in_inference_mode,
    "nested twice": nested_twice,
    "nested between layers": nested_between_layers,
    "called twice": called_twice,
    "dict input": dict_input,
    "functional subclass": functional_subclass,
}


@pytest.mark.parametrize("activation", [None, "softmax"])
@pytest.mark.parametrize("name", OWN_MODELS)
def test_own_models(name, activation):
    model = randomize(OWN_MODELS[name](activation))
    twin = OWN_MODELS[name](None)
    twin.set_weights(model.get_weights())
    images = draw_images(model)
    if name == "dict input":
        images = {"image": images}
    config, before, expected = config_of(model), call(model, images), call(twin, images)

    exposed = expose_spatial_logits(model)
    outputs = call(exposed, images)

    assert set(outputs) == {"logits", "spatial_logits"}
    assert_close(outputs["logits"], expected)
    assert_close(outputs["spatial_logits"].mean((1, 2)), expected)
    assert_positions_differ(outputs["spatial_logits"])
    assert_shares_weights(exposed, model)
    if activation:
        assert_close(softmax(outputs["logits"]), before, 1e-6)
    # The model itself is as it was.
    np.testing.assert_array_equal(call(model, images), before)
    assert config_of(model) == config


@pytest.mark.parametrize("name", ["convolution", "nested twice", "sequential around a pooled base"])
def test_the_model_saves_loads_and_clones_as_before(name, tmp_path):
    model = randomize(OWN_MODELS[name]("softmax"))
    images = draw_images(model)
    expected = call(model, images)
    expose_spatial_logits(model)
    expose_cells(model, (1, 2))

    model.save(tmp_path / "model.keras")
    assert_close(call(keras.models.load_model(tmp_path / "model.keras"), images), expected)
    clone = keras.models.clone_model(model)
    assert [v.shape for v in clone.weights] == [v.shape for v in model.weights]
    clone.set_weights(model.get_weights())
    assert_close(call(clone, images), expected)


@pytest.mark.parametrize("loaded_first", [False, True])
@pytest.mark.parametrize("activation", [None, "softmax"])
@pytest.mark.parametrize("name", ["functional", "convolution", "nested twice", "ops"])
def test_an_exposed_model_saves_and_loads(name, activation, loaded_first, tmp_path):
    model = randomize(OWN_MODELS[name](activation))
    if loaded_first:
        model.save(tmp_path / "model.keras")
        model = keras.models.load_model(tmp_path / "model.keras")
    images = draw_images(model)
    exposed = expose_spatial_logits(model)
    expected = call(exposed, images)

    exposed.save(tmp_path / "exposed.keras")
    loaded = keras.models.load_model(tmp_path / "exposed.keras")

    assert len(loaded.weights) == len(model.weights)
    outputs = call(loaded, images)
    assert_close(outputs["logits"], expected["logits"])
    assert_close(outputs["spatial_logits"], expected["spatial_logits"])
    # One classifier for both outputs: the loaded model's own logits follow its spatial ones.
    classifiers = [v for v in loaded.weights if v.path.endswith("predictions/kernel")]
    assert len(classifiers) == 1
    classifiers[0].assign(classifiers[0] * 2.0)
    outputs = call(loaded, images)
    assert_close(outputs["spatial_logits"].mean((1, 2)), outputs["logits"])
    assert np.abs(outputs["logits"] - expected["logits"]).max() > 1e-2
    # The loaded model is an exposed one to the library.
    assert expose_spatial_logits(loaded) is loaded
    clone = keras.models.clone_model(exposed)
    clone.set_weights(exposed.get_weights())
    assert_close(call(clone, images)["spatial_logits"], expected["spatial_logits"])


def test_weights_stay_shared_both_ways():
    model = randomize(functional(average(), dense("softmax")))
    exposed, images = expose_spatial_logits(model), draw_images(model)
    before = call(exposed, images)["logits"]
    model.get_layer("predictions").bias.assign(np.arange(NUM_CLASSES))
    assert np.abs(call(exposed, images)["logits"] - before).max() > 0.1
    exposed.set_weights([np.ones_like(w) for w in exposed.get_weights()])
    assert all((w == 1).all() for w in model.get_weights())


class CountedCalls(layers.Layer):
    """Counts how often it runs."""

    count = 0

    def call(self, inputs):
        self.count += 1
        return inputs


@pytest.mark.parametrize("is_nested", [False, True])
@pytest.mark.parametrize("expose", [expose_spatial_logits, lambda m: expose_cells(m, (1, 2))])
def test_the_features_are_computed_once(expose, is_nested):
    counter = CountedCalls()
    inputs, x = features()
    body = keras.Model(inputs, average()(counter(x)), name="body")
    parts = [body] if is_nested else body.layers[1:]
    model = sequential(*parts, layers.Dropout(0.1), dense())
    exposed, images = expose(model), draw_images(model)
    counter.count = 0
    exposed(images, training=True)
    assert counter.count == 1


def test_training_mode_reaches_batch_norm_and_dropout():
    model = randomize(sequential(base("avg"), layers.Dropout(0.5), dense()))
    exposed, images = expose_spatial_logits(model), draw_images(model)
    statistics = next(v for v in model.weights if v.path.endswith("moving_mean"))
    before = to_numpy(statistics)
    in_inference = call(exposed, images)["logits"]
    np.testing.assert_array_equal(to_numpy(statistics), before)
    in_training = call(exposed, images, training=True)["logits"]
    assert np.abs(to_numpy(statistics) - before).max() > 1e-4
    assert np.abs(in_training - in_inference).max() > 1e-2


def test_dropout_that_is_always_on_stays_on():
    inputs, x = features()
    x = layers.Dropout(0.5)(average()(x), training=True)
    exposed = expose_spatial_logits(randomize(keras.Model(inputs, dense()(x))))
    images = draw_images(exposed)
    assert np.abs(call(exposed, images)["logits"] - call(exposed, images)["logits"]).max() > 1e-3


def test_frozen_layers_stay_frozen():
    model = sequential(base("avg"), dense())
    model.layers[0].trainable = False
    exposed = expose_spatial_logits(model)
    assert [v.path.split("/")[-2:] for v in exposed.trainable_weights] == [
        ["predictions", "kernel"],
        ["predictions", "bias"],
    ]
    model.layers[0].trainable = True
    assert len(exposed.trainable_weights) == len(model.trainable_weights)


def test_a_file_of_layers_with_the_names_of_ours(tmp_path):
    """Names that Keras gives by itself come back from a file and must not clash with new ones."""
    inputs = keras.Input((4, 4, 3))
    x = layers.Permute((2, 1, 3), name="permute")(layers.Reshape((4, 4, 3), name="reshape")(inputs))
    x = layers.Reshape((4, 4, 3), name="cell_pooling")(layers.Flatten(name="flatten")(x))
    x = average(keepdims=True)(layers.Conv2D(4, 1, name="conv2d")(x))
    x = layers.Flatten(name="flatten_1")(x)
    keras.Model(inputs, dense()(x)).save(tmp_path / "model.keras")
    keras.utils.clear_session(free_memory=False)
    model = keras.models.load_model(tmp_path / "model.keras")
    expose_spatial_logits(model)
    expose_cells(model, (1,))
    expose_cells(model, (1, 2))


@pytest.mark.parametrize("name", ["functional", "dict input"])
def test_predict_and_fit_of_an_exposed_model(name):
    model = randomize(OWN_MODELS[name]("softmax"))
    exposed, images = expose_spatial_logits(model), draw_images(model, 4)
    fed = {"image": images} if name == "dict input" else images
    outputs = exposed.predict(fed, verbose=0)
    assert_close(softmax(outputs["logits"]), call(model, fed), 1e-5)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    exposed.compile("sgd", loss={"logits": loss})
    before = model.get_weights()
    exposed.fit(fed, {"logits": np.array([0, 1, 2, 3])}, batch_size=4, verbose=0)
    assert any((w != b).any() for w, b in zip(model.get_weights(), before, strict=True))


# Data formats.


def channels_first_body(x):
    return layers.Conv2D(6, 3, data_format="channels_first", activation="relu")(x)


CHANNELS_FIRST = {
    "pooling": lambda a: [average(data_format="channels_first"), dense(a)],
    "pooling, keepdims": lambda a: [
        average(data_format="channels_first", keepdims=True),
        layers.Flatten(),
        dense(a),
    ],
    "convolution": lambda a: [
        average(data_format="channels_first", keepdims=True),
        layers.Conv2D(NUM_CLASSES, 1, data_format="channels_first"),
        layers.Flatten(),
        layers.Activation(a),
    ],
    "average pooling": lambda a: [
        layers.AveragePooling2D((5, 7), data_format="channels_first"),
        layers.Flatten(),
        dense(a),
    ],
}


@pytest.mark.parametrize("name", CHANNELS_FIRST)
def test_channels_first(name):
    def build(activation):
        inputs = x = keras.Input((6, 5, 7))
        for layer in CHANNELS_FIRST[name](activation):
            x = layer(x)
        return keras.Model(inputs, x)

    model = randomize(build("softmax"))
    exposed, cells = expose_spatial_logits(model), expose_cells(model, (1, 2))
    assert tuple(exposed.output["spatial_logits"].shape) == (None, 5, 7, NUM_CLASSES)
    assert_shares_weights(exposed, model)
    if name in ("convolution", "average pooling") and BACKEND == "tensorflow":
        return  # the model itself cannot run there
    images = draw_images(model)
    outputs, cells = call(exposed, images), call(cells, images)
    assert_close(softmax(outputs["logits"]), call(model, images), 1e-6)
    kernel, bias = (to_numpy(v) for v in model.get_layer(index=-1).weights or model.weights)
    by_hand = np.einsum("bchw,ck->bhwk", images, kernel.reshape(6, NUM_CLASSES)) + bias
    assert_close(outputs["spatial_logits"], by_hand)
    assert_close(outputs["logits"], by_hand.mean((1, 2)))
    assert_close(cells["cells"], to_numpy(pool_cells(by_hand, (1, 2))))


@needs_channels_first
def test_channels_first_convolutions():
    inputs = keras.Input((3, 12, 12))
    x = average(data_format="channels_first")(channels_first_body(inputs))
    model = randomize(keras.Model(inputs, dense()(x)))
    outputs = call(expose_spatial_logits(model), draw_images(model))
    assert_close(outputs["logits"], call(model, draw_images(model)))
    assert_close(outputs["spatial_logits"].mean((1, 2)), outputs["logits"])
    assert_positions_differ(outputs["spatial_logits"])


def test_channels_first_as_the_default_of_keras():
    keras.config.set_image_data_format("channels_first")
    model = keras.applications.MobileNet(
        weights=None, input_shape=(3, 64, 64), alpha=0.25, classes=NUM_CLASSES
    )
    exposed = expose_spatial_logits(model)
    assert tuple(exposed.output["spatial_logits"].shape) == (None, 2, 2, NUM_CLASSES)
    assert_shares_weights(exposed, model)


# Precisions.


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16", "bfloat16"])
@pytest.mark.parametrize("name", ["functional", "convolution", "sequential around a pooled base"])
def test_precisions(name, policy):
    keras.config.set_dtype_policy(policy)
    model = randomize(OWN_MODELS[name]("softmax"))
    twin = OWN_MODELS[name](None)
    twin.set_weights(model.get_weights())
    keras.config.set_dtype_policy("float32")
    exposed, images = expose_spatial_logits(model), draw_images(model)
    assert exposed.dtype_policy.name == policy
    compute_dtype = policy.removeprefix("mixed_")
    dtypes = [keras.backend.standardize_dtype(x.dtype) for x in exposed(images).values()]
    assert dtypes == [compute_dtype, compute_dtype]
    outputs, expected = call(exposed, images), call(twin, images)
    tolerance = {"float16": 3e-3, "bfloat16": 2e-2}[compute_dtype]
    assert_close(outputs["logits"], expected, tolerance)
    assert_close(outputs["spatial_logits"].mean((1, 2)), expected, tolerance)
    assert_shares_weights(exposed, model)
    cells = call(expose_cells(model, (1, 2)), images)["cells"]
    reference = to_numpy(pool_cells(outputs["spatial_logits"].astype("float32"), (1, 2)))
    assert_close(cells, reference, tolerance)


def test_a_float32_classifier_of_a_low_precision_model():
    inputs = keras.Input((12, 12, 3))
    x = layers.Conv2D(6, 3, dtype="mixed_float16")(inputs)
    x = dense("softmax", dtype="float32")(average(dtype="mixed_float16")(x))
    exposed = expose_spatial_logits(keras.Model(inputs, x))
    assert [x.dtype for x in exposed.outputs] == ["float32", "float32"]


def test_low_rank_and_quantized_classifiers():
    model = randomize(functional(average(), dense("softmax")))
    model.get_layer("predictions").enable_lora(2)
    for variable in model.get_layer("predictions").weights:
        variable.assign(np.random.default_rng(0).normal(size=variable.shape))
    exposed, images = expose_spatial_logits(model), draw_images(model)
    assert_close(softmax(call(exposed, images)["logits"]), call(model, images), 1e-6)
    assert_shares_weights(exposed, model)

    plain = randomize(functional(average(), dense()))
    plain.get_layer("predictions").quantize("int8")
    exposed = expose_spatial_logits(plain)
    assert_close(call(exposed, images)["logits"], call(plain, images))
    with_softmax = randomize(functional(average(), dense("softmax")))
    with_softmax.get_layer("predictions").quantize("int8")
    with pytest.raises(ValueError, match="'predictions' .*activation 'softmax'.*activation=None"):
        expose_spatial_logits(with_softmax)


# Other libraries.


@functools.cache
def build_application(name, activation):
    return randomize(builders.KERAS_APPLICATIONS[name](activation))


@pytest.mark.parametrize("activation", [None, "softmax"])
@pytest.mark.parametrize("name", builders.KERAS_APPLICATIONS)
def test_keras_applications(name, activation):
    """Feeds a random map to the heads: independent of the depth below, and quick."""
    model = build_application(name, activation)
    config = config_of(model)
    exposed = expose_spatial_logits(model)
    assert_shares_weights(exposed, model)
    assert config_of(model) == config

    pooling = [x for x in model.layers if isinstance(x, layers.GlobalAveragePooling2D)][-1]
    head = keras.Model(pooling.input, exposed.output | {"model": model.output})
    maps = np.random.default_rng(0).uniform(0, 1, (2, *pooling.input.shape[1:])).astype("float32")
    assert maps.shape[1:3] == (2, 2)
    outputs = call(head, maps)
    classifiers = [x for x in model.layers if isinstance(x, (layers.Dense, layers.Conv2D))]
    kernel, bias = (to_numpy(v) for v in classifiers[-1].weights)
    by_hand = maps @ kernel.reshape(-1, NUM_CLASSES) + bias
    assert_close(outputs["spatial_logits"], by_hand)
    assert_close(outputs["logits"], by_hand.mean((1, 2)))
    expected = by_hand.mean((1, 2))
    assert_close(outputs["model"], softmax(expected) if activation else expected)


@pytest.mark.skipif(BACKEND == "jax", reason="JAX compiles every operation: a minute a model")
@pytest.mark.parametrize("name", builders.KERAS_APPLICATIONS)
def test_keras_applications_from_images(name):
    model = build_application(name, None)
    exposed = expose_spatial_logits(model)
    both = keras.Model(model.input, exposed.output | {"model": model.output})
    outputs = call(both, draw_images(model, size=2))
    assert_close(outputs["logits"], outputs["model"])
    assert_close(outputs["spatial_logits"].mean((1, 2)), outputs["model"])
    assert_positions_differ(outputs["spatial_logits"])


def assert_exposes(build, **overrides):
    """Round trip of a model of another library, run from images."""
    model = randomize(build(None))
    config, images = config_of(model), draw_images(model)
    exposed = expose_spatial_logits(model, **overrides)
    outputs, expected = call(exposed, images), call(model, images)
    assert_close(outputs["logits"], expected)
    assert_close(outputs["spatial_logits"].mean((1, 2)), expected)
    assert_positions_differ(outputs["spatial_logits"])
    assert_shares_weights(exposed, model)
    assert config_of(model) == config

    probabilities = build("softmax")
    probabilities.set_weights(model.get_weights())
    logits = call(expose_spatial_logits(probabilities, **overrides), images)["logits"]
    assert_close(logits, expected)
    return model


@pytest.mark.parametrize("name", builders.KERAS_HUB)
def test_keras_hub(name):
    assert_exposes(builders.KERAS_HUB[name])


@pytest.mark.parametrize("name", builders.KERAS_CV)
def test_keras_cv(name):
    assert_exposes(builders.KERAS_CV[name])


def test_keras_hub_vision_transformer_without_class_token():
    build = builders.vision_transformer("gap", use_class_token=False)
    name = build(None).backbone.name
    model = build(None)
    with pytest.raises(ValueError, match=r"Mean '.*tokens.*pass feature_layer='vi_t_backbone"):
        expose_spatial_logits(model)
    with pytest.raises(ValueError, match=f"not of feature_layer={name!r}"):
        expose_spatial_logits(model, feature_layer=name)
    exposed = expose_spatial_logits(model, feature_layer=model.backbone)
    assert tuple(exposed.output["spatial_logits"].shape) == (None, 4, 4, NUM_CLASSES)
    randomize(model)
    images = draw_images(model)
    outputs = call(exposed, images)
    assert_close(outputs["logits"], call(model, images))
    assert_close(outputs["spatial_logits"].mean((1, 2)), outputs["logits"])
    assert_positions_differ(outputs["spatial_logits"])
    assert_shares_weights(exposed, model)


@pytest.mark.filterwarnings("ignore:`compile..` was not called as part of model loading")
def test_the_original_keras_hub_model_saves_and_loads(tmp_path):
    model = randomize(builders.KERAS_HUB["ResNet"]("softmax"))
    images = draw_images(model)
    expected = call(model, images)
    exposed = expose_spatial_logits(model)
    model.save(tmp_path / "model.keras")
    assert_close(call(keras.models.load_model(tmp_path / "model.keras"), images), expected)
    exposed.save(tmp_path / "exposed.keras")
    loaded = keras.models.load_model(tmp_path / "exposed.keras")
    assert_close(softmax(call(loaded, images)["logits"]), expected, 1e-5)


# The two overrides.


def token_classifier(activation, tokens=16, class_token=False):
    """A small vision transformer on 4x4 patches."""
    inputs = keras.Input((16, 16, 3))
    x = layers.Conv2D(8, 4, strides=4)(inputs)
    x = layers.Reshape((tokens, 128 // tokens))(x)
    if class_token:
        x = layers.ZeroPadding1D((1, 0))(x)
    x = x + layers.MultiHeadAttention(2, 4)(x, x)
    x = layers.LayerNormalization(name="norm")(x)
    x = layers.GlobalAveragePooling1D(name="pool")(x)
    return keras.Model(inputs, dense(activation)(x))


@pytest.mark.parametrize("as_layer", [False, True])
def test_tokens_as_a_square_map(as_layer):
    model = randomize(token_classifier("softmax"))
    norm = model.get_layer("norm")
    exposed = expose_spatial_logits(model, feature_layer=norm if as_layer else "norm")
    images = draw_images(model)
    outputs = call(exposed, images)
    assert_close(softmax(outputs["logits"]), call(model, images), 1e-6)
    kernel, bias = (to_numpy(v) for v in model.get_layer("predictions").weights)
    tokens = call(keras.Model(model.input, norm.output), images)
    by_hand = (tokens @ kernel + bias).reshape(3, 4, 4, NUM_CLASSES)
    assert_close(outputs["spatial_logits"], by_hand)
    assert_shares_weights(exposed, model)


@keras.saving.register_keras_serializable(package="test_heads")
class Projection(layers.Layer):
    """A linear classifier that Keras does not know."""

    def __init__(self, activation=None, **kwargs):
        super().__init__(**kwargs)
        self.activation = keras.activations.get(activation)

    def build(self, input_shape):
        self.matrix = self.add_weight(shape=(input_shape[-1], NUM_CLASSES), name="matrix")

    def call(self, inputs):
        return self.activation(ops.matmul(inputs, self.matrix) / 3.0)

    def get_config(self):
        activation = keras.activations.serialize(self.activation)
        return super().get_config() | {"activation": activation}


@pytest.mark.parametrize("as_layer", [False, True])
@pytest.mark.parametrize("with_softmax", [False, True])
def test_a_classifier_layer_of_the_users_own(with_softmax, as_layer, tmp_path):
    last = [layers.Softmax()] if with_softmax else []
    model = randomize(functional(average(), layers.Dropout(0.1), Projection(name="mine"), *last))
    with pytest.raises(ValueError, match="Projection 'mine' .*classifier_layer"):
        expose_spatial_logits(model)
    layer = model.get_layer("mine") if as_layer else "mine"
    exposed, images = expose_spatial_logits(model, classifier_layer=layer), draw_images(model)
    outputs, expected = call(exposed, images), call(model, images)
    assert_close(softmax(outputs["logits"]) if with_softmax else outputs["logits"], expected, 1e-6)
    assert_close(outputs["spatial_logits"].mean((1, 2)), outputs["logits"])
    assert_shares_weights(exposed, model)
    exposed.save(tmp_path / "exposed.keras")
    loaded = keras.models.load_model(tmp_path / "exposed.keras")
    assert_close(call(loaded, images)["spatial_logits"], outputs["spatial_logits"])


def test_a_classifier_of_vectors_alone():
    classifier = layers.EinsumDense("bc,ck->bk", NUM_CLASSES, bias_axes="k", name="einsum")
    model = randomize(functional(average(), classifier))
    exposed, images = expose_spatial_logits(model, classifier_layer="einsum"), draw_images(model)
    outputs = call(exposed, images)
    assert_close(outputs["logits"], call(model, images))
    assert_close(outputs["spatial_logits"].mean((1, 2)), outputs["logits"])
    assert_positions_differ(outputs["spatial_logits"])


def test_an_operation_cannot_be_the_classifier_layer():
    model = halved()
    operation = model.outputs[0]._keras_history.operation
    for wanted in (operation, operation.name):
        with pytest.raises(ValueError, match="TrueDivide 'true_divide.*no Dense layer"):
            expose_spatial_logits(model, classifier_layer=wanted)


def test_naming_what_is_found_anyway_changes_nothing():
    model = randomize(sequential(base("avg"), dense("softmax")))
    images = draw_images(model)
    expected = call(expose_spatial_logits(model), images)
    for feature_layer in ("batch_normalization", "base"):
        inner = [x.name for x in model.layers[0].layers if x.name.startswith(feature_layer)]
        exposed = expose_spatial_logits(
            model, feature_layer=inner[0] if inner else None, classifier_layer="predictions"
        )
        outputs = call(exposed, images)
        assert_close(outputs["spatial_logits"], expected["spatial_logits"])


def test_maximum_pooling_by_feature_layer():
    pool = layers.GlobalMaxPooling2D(name="maximum")
    model = randomize(functional(layers.ReLU(name="map"), pool, dense("softmax")))
    exposed, images = expose_spatial_logits(model, feature_layer="map"), draw_images(model)
    outputs = call(exposed, images)
    assert_close(softmax(outputs["logits"]), call(model, images), 1e-6)
    kernel, bias = (to_numpy(v) for v in model.get_layer("predictions").weights)
    maps = call(keras.Model(model.input, model.get_layer("map").output), images)
    assert_close(outputs["spatial_logits"], maps @ kernel + bias)


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_adaptive_average_pooling(data_format):
    if not hasattr(layers, "AdaptiveAveragePooling2D"):
        pytest.skip("this Keras has no adaptive pooling")
    inputs = keras.Input((5, 7, 6) if data_format == "channels_last" else (6, 5, 7))
    x = layers.AdaptiveAveragePooling2D(1, data_format=data_format)(inputs)
    model = randomize(keras.Model(inputs, dense()(layers.Flatten()(x))))
    outputs = call(expose_spatial_logits(model), draw_images(model))
    assert_close(outputs["logits"], call(model, draw_images(model)))
    assert_close(outputs["spatial_logits"].mean((1, 2)), outputs["logits"])


def test_maps_of_unknown_size():
    inputs = keras.Input((None, None, 3))
    x = average()(layers.Conv2D(4, 3, activation="relu")(inputs))
    model = randomize(keras.Model(inputs, dense()(x)))
    exposed, images = expose_spatial_logits(model), np.random.rand(2, 9, 7, 3).astype("float32")
    outputs = call(exposed, images)
    assert outputs["spatial_logits"].shape == (2, 7, 5, NUM_CLASSES)
    assert_close(outputs["spatial_logits"].mean((1, 2)), call(model, images))
    assert tuple(exposed.output["spatial_logits"].shape) == (None, None, None, NUM_CLASSES)
    with pytest.raises(
        ValueError, match=r"static height and width.*keras.Model\(inputs, model\(inputs\)\)"
    ):
        expose_cells(model, (1, 2))
    # The remedy that the message names.
    inputs = keras.Input((9, 7, 3))
    wrapped = keras.Model(inputs, model(inputs))
    cells = call(expose_cells(wrapped, (1, 2)), images)["cells"]
    expected = pool_cells(outputs["spatial_logits"].astype("float32"), (1, 2))
    assert_close(cells, to_numpy(expected))


# Models that are exposed already.


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


# Cells.


@pytest.mark.parametrize("name", ["functional", "convolution", "nested twice", "not square"])
def test_pooling_then_classifying_equals_classifying_then_pooling(name):
    model = randomize(OWN_MODELS[name]("softmax"))
    images = draw_images(model)
    spatial = call(expose_spatial_logits(model), images)
    for scales, pooling in itertools.product(
        [(1, 2, 4), (1, 3), (3, 1), (2, 7)], ["direct", "nested"]
    ):
        exposed = expose_cells(model, scales, pooling)
        outputs = call(exposed, images)
        expected = pool_cells(spatial["spatial_logits"].astype("float32"), scales, pooling)
        assert_close(outputs["cells"], to_numpy(expected))
        assert_close(outputs["logits"], spatial["logits"])
        assert_shares_weights(exposed, model)
        if pooling == "direct" and 1 in scales:
            index = 0 if scales[0] == 1 else 9
            assert_close(outputs["cells"][:, index], spatial["logits"])


SCALE_ONE = {
    "flatten": lambda a: functional(layers.Flatten(), dense(a)),
    "hidden layer": lambda a: functional(average(), layers.Dense(4, "relu"), dense(a)),
    "batch norm": lambda a: functional(average(), layers.BatchNormalization(), dense(a)),
    "maximum": lambda a: functional(layers.GlobalMaxPooling2D(), dense(a)),
    "joined poolings": lambda a: keras.Model(
        *(lambda inputs, x: (inputs, dense(a)(average()(x) + layers.GlobalMaxPooling2D()(x))))(
            *features()
        )
    ),
    "nested head": lambda a: sequential(
        base(), keras.Sequential([layers.Flatten(), layers.Dense(4, "relu"), dense(a)])
    ),
    "classifier alone in a model": lambda a: sequential(
        base(), layers.Flatten(), keras.Sequential([dense(a)])
    ),
}


@pytest.mark.parametrize("activation", [None, "softmax"])
@pytest.mark.parametrize("name", [*SCALE_ONE, "functional", "convolution", "nested twice"])
def test_scale_one_takes_any_classifier(name, activation):
    build = (SCALE_ONE | OWN_MODELS)[name]
    model, twin = randomize(build(activation)), build(None)
    twin.set_weights(model.get_weights())
    exposed, images = expose_cells(model, (1,)), draw_images(model)
    outputs, expected = call(exposed, images), call(twin, images)
    assert_close(outputs["logits"], expected)
    np.testing.assert_array_equal(outputs["cells"][:, 0], outputs["logits"])
    assert outputs["cells"].shape == (3, 1, NUM_CLASSES)
    assert_shares_weights(exposed, model)


def test_scale_one_takes_vgg():
    model = keras.applications.VGG16(weights=None, input_shape=(32, 32, 3), classes=NUM_CLASSES)
    exposed = expose_cells(model, (1,))
    assert tuple(exposed.output["cells"].shape) == (None, 1, NUM_CLASSES)
    head = keras.Model(model.get_layer("fc2").input, exposed.output | {"model": model.output})
    outputs = call(head, np.random.rand(2, *head.input_shape[1:]))
    assert_close(softmax(outputs["logits"]), outputs["model"], 1e-5)


@settings(max_examples=8, deadline=None)
@given(
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    st.lists(st.integers(1, 6), min_size=1, max_size=3, unique=True),
    st.sampled_from(["direct", "nested"]),
)
def test_the_classifier_commutes_with_pooling(size, scales, pooling):
    inputs = keras.Input((*size, 3))
    model = randomize(keras.Model(inputs, dense("softmax")(average()(inputs))))
    images = draw_images(model)
    kernel, bias = (to_numpy(v) for v in model.weights)
    expected = to_numpy(pool_cells(images, scales, pooling)) @ kernel + bias
    if tuple(scales) != (1,):
        assert_close(call(expose_cells(model, scales, pooling), images)["cells"], expected)


# Refusals: (builder, parts of the message, overrides).


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


def halved():
    inputs, x = features()
    return keras.Model(inputs, dense()(average()(x)) / 2.0)


def masked_tokens():
    inputs = keras.Input((16, 4))
    x = layers.GlobalAveragePooling1D(name="pool")(layers.Masking(name="masking")(inputs))
    return keras.Model(inputs, dense()(x))


def first_token():
    inputs = keras.Input((17, 4))
    return keras.Model(inputs, dense()(layers.LayerNormalization()(inputs)[:, 0]))


NOT_LINEAR = ["only dropout, reshapes and linear layers", "before the pooling", "scales=(1,)"]
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
