"""The faster teacher: folded batch norms, its own precision, and that it teaches the same."""

import logging

import keras
import numpy as np
import pytest
import small_classifiers
from backends import BACKEND, to_numpy
from keras import layers
from library_classifiers import randomize
from recorded_networks import build_filled

import keras_sdd
from keras_sdd import SDDDistiller, fold_batch_norm

X, Y = small_classifiers.draw_data()
# Layers that take in a batch norm of their outputs, and of their inputs: constructor and rank.
PLAIN = {
    "conv": (layers.Conv2D, (6, 3), {"strides": 2, "padding": "same"}),
    "conv_without_bias": (layers.Conv2D, (6, 3), {"use_bias": False}),
    "grouped": (layers.Conv2D, (6, 3), {"groups": 2}),
    "dilated": (layers.Conv2D, (6, 3), {"dilation_rate": 2}),
    "depthwise": (layers.DepthwiseConv2D, (3,), {"depth_multiplier": 2}),
    "pointwise": (layers.Conv2D, (6, 1), {"padding": "same"}),
    "dense": (layers.Dense, (6,), {}),
}
ONLY_AFTER = {
    "transposed": (layers.Conv2DTranspose, (6, 3), {"strides": 2, "padding": "same"}),
    "separable": (layers.SeparableConv2D, (6, 3), {"padding": "same"}),
}


def run(model, x):
    return keras.tree.map_structure(to_numpy, model(x, training=False))


def count_norms(model):
    layers_of_model = model._flatten_layers()
    return sum(isinstance(x, layers.BatchNormalization) for x in layers_of_model)


def assert_folded(model, x, left=0):
    randomize(model)
    before = small_classifiers.copy_weights(model)
    folded = fold_batch_norm(model)
    assert count_norms(folded) == left
    expected, actual = run(model, x), run(folded, x)
    for a, b in zip(keras.tree.flatten(actual), keras.tree.flatten(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * np.abs(b).max())
    small_classifiers.assert_same_weights(model, before)
    assert not folded.trainable_variables
    assert not {id(v) for v in folded.variables} & {id(v) for v in model.variables}
    return folded


def draw_maps(*shape):
    return np.random.default_rng(1).standard_normal(shape).astype("float32")


@pytest.mark.parametrize("case", PLAIN | ONLY_AFTER)
def test_norm_after_a_layer(case):
    kind, args, options = (PLAIN | ONLY_AFTER)[case]
    inputs = keras.Input((7, 5, 4))
    outputs = layers.BatchNormalization()(kind(*args, **options)(inputs))
    assert_folded(keras.Model(inputs, outputs), draw_maps(3, 7, 5, 4))


@pytest.mark.parametrize("case", PLAIN)
def test_norm_before_a_layer(case):
    kind, args, options = PLAIN[case]
    inputs = keras.Input((7, 5, 4))
    options = {k: v for k, v in options.items() if k != "padding" or case == "pointwise"}
    x = kind(*args, **options)(layers.BatchNormalization()(inputs))
    outputs = layers.BatchNormalization(scale=False, center=False)(x)
    assert_folded(keras.Model(inputs, outputs), draw_maps(3, 7, 5, 4))


def test_channels_first():
    if BACKEND == "tensorflow":
        pytest.skip("TensorFlow convolves channels first on GPUs only")
    inputs = keras.Input((4, 7, 5))
    options = {"data_format": "channels_first"}
    x = layers.DepthwiseConv2D(3, depth_multiplier=2, **options)(inputs)
    x = layers.Conv2D(6, 3, groups=2, **options)(layers.BatchNormalization(axis=1)(x))
    assert_folded(keras.Model(inputs, layers.BatchNormalization(axis=1)(x)), draw_maps(3, 4, 7, 5))


def test_norm_of_another_axis_stays():
    inputs = keras.Input((7, 5, 4))
    outputs = layers.BatchNormalization(axis=1)(layers.Conv2D(6, 3, padding="same")(inputs))
    assert_folded(keras.Model(inputs, outputs), draw_maps(3, 7, 5, 4), left=1)


def _padding(x):
    return layers.Conv2D(6, 3, padding="same")(layers.BatchNormalization()(x))


def _two_readers(x):
    x = layers.Conv2D(4, 3)(x)
    return layers.Add()([layers.BatchNormalization()(x), x])


def _activation(x):
    return layers.BatchNormalization()(layers.Conv2D(6, 3, activation="relu")(x))


def _shared_convolution(x):
    shared = layers.Conv2D(4, 1)
    return layers.BatchNormalization()(shared(layers.ReLU()(shared(x))))


def _shared_norm(x):
    norm = layers.BatchNormalization()
    return norm(layers.Conv2D(4, 1)(norm(layers.Conv2D(4, 1)(x))))


@pytest.mark.parametrize(
    "build", [_padding, _two_readers, _activation, _shared_convolution, _shared_norm]
)
def test_what_is_not_exact_stays(build):
    inputs = keras.Input((7, 5, 4))
    assert_folded(keras.Model(inputs, build(inputs)), draw_maps(3, 7, 5, 4), left=1)


def test_norm_that_is_always_training_stays():
    inputs = keras.Input((7, 5, 4))
    outputs = layers.BatchNormalization()(layers.Conv2D(6, 1)(inputs), training=True)
    folded = fold_batch_norm(keras.Model(inputs, outputs))
    assert count_norms(folded) == 1


def test_nested_models_and_structured_outputs():
    inputs = keras.Input((7, 5, 4), name="image")
    body = keras.Sequential(
        [keras.Input((7, 5, 4)), layers.Conv2D(4, 3), layers.BatchNormalization(), layers.ReLU()]
    )
    x = body(inputs)
    y = layers.BatchNormalization()(layers.Conv2D(4, 1, name="conv2d")(x))
    model = keras.Model({"image": inputs}, {"a": y, "b": [x, y + 1.0]})
    assert_folded(model, {"image": draw_maps(3, 7, 5, 4)})


def test_the_copy_does_not_follow_the_original():
    model = randomize(small_classifiers.build_cnn())
    folded = fold_batch_norm(model)
    before = run(folded, X)
    model.get_layer("conv1").kernel.assign(model.get_layer("conv1").kernel * 2.0)
    np.testing.assert_array_equal(run(folded, X), before)


def test_subclassed_model_is_refused():
    class Classifier(keras.Model):
        def call(self, x):
            return x

    with pytest.raises(ValueError, match="keras.Model\\(inputs, model\\(inputs\\)\\)"):
        fold_batch_norm(Classifier())


@pytest.mark.parametrize("name", ["resnet8x4", "mobilenet_v2", "wrn_16_2"])
def test_networks_of_the_zoo(name):
    model = build_filled(f"cifar100/{name}")
    folded = fold_batch_norm(model)
    assert count_norms(folded) < count_norms(model)
    x = draw_maps(2, 32, 32, 3)
    expected = run(model, x)
    error = np.abs(run(folded, x) - expected).max()
    assert error <= 1e-5 * np.abs(expected).max()


def train(teacher, steps=10, **options):
    keras.utils.set_random_seed(0)
    student = small_classifiers.build_cnn(4, "student")
    distiller = SDDDistiller(teacher, student, **options)
    distiller.compile(keras.optimizers.SGD(0.1, momentum=0.9), jit_compile=BACKEND == "jax")
    history = distiller.fit(X, Y, 8, epochs=steps // 3 + 1, shuffle=False, verbose=0).history
    return distiller, history["distillation_loss"]


def build_teacher():
    return small_classifiers.spread_predictions(
        randomize(small_classifiers.build_cnn(8, "teacher"))
    )


def test_folded_teacher_teaches_the_same(caplog):
    teacher = build_teacher()
    before = small_classifiers.copy_weights(teacher)
    with caplog.at_level(logging.INFO, "keras_sdd"):
        folded, losses = train(teacher)
    assert "1 batch norms folded" in caplog.text
    given, expected = train(teacher, fold_teacher=False)
    np.testing.assert_allclose(losses, expected, rtol=1e-4)
    small_classifiers.assert_same_weights(teacher, before)
    assert len(folded._frozen.copy.model.variables) < len(given._frozen.variables)


def test_weights_loaded_later_are_folded(tmp_path):
    trained, _ = train(build_teacher())
    trained.save(tmp_path / "distiller.keras")
    loaded = keras.saving.load_model(tmp_path / "distiller.keras")
    (loss,) = loaded.fit(X, Y, 24, shuffle=False, verbose=0).history["distillation_loss"]
    (same,) = trained.fit(X, Y, 24, shuffle=False, verbose=0).history["distillation_loss"]
    np.testing.assert_allclose(loss, same, rtol=1e-5)


def test_loaded_teacher_is_folded_before_single_steps(tmp_path):
    trained, _ = train(build_teacher())
    trained.save(tmp_path / "distiller.keras")
    cells = trained.compute_teacher_cells(X)
    loaded = keras.saving.load_model(tmp_path / "distiller.keras")
    np.testing.assert_allclose(loaded.compute_teacher_cells(X), cells, rtol=1e-4, atol=1e-5)
    again = keras.saving.load_model(tmp_path / "distiller.keras")
    losses = [x.train_on_batch(X, Y, return_dict=True) for x in (trained, again)]
    assert losses[1]["distillation_loss"] == pytest.approx(losses[0]["distillation_loss"], 1e-5)


@pytest.mark.parametrize("fold_teacher", [False, True])
def test_batch_norm_in_the_head_of_a_teacher(fold_teacher):
    """In inference it is linear, so that regions have logits of their own."""
    inputs = keras.Input((16, 16, 3))
    maps = layers.Conv2D(8, 3, strides=2, padding="same", activation="relu", name="map")(inputs)
    x = layers.BatchNormalization(name="norm")(layers.GlobalAveragePooling2D()(maps))
    teacher = randomize(
        keras.Model(inputs, layers.Dense(small_classifiers.NUM_CLASSES, name="end")(x))
    )
    student = small_classifiers.build_cnn()
    distiller = SDDDistiller(teacher, student, scales=(1, 2), fold_teacher=fold_teacher)
    norm, end = (teacher.get_layer(name) for name in ("norm", "end"))
    pooled = to_numpy(keras_sdd.pool_cells(keras.Model(inputs, maps)(X), (1, 2)))
    mean, variance = to_numpy(norm.moving_mean.value), to_numpy(norm.moving_variance.value)
    scale = to_numpy(norm.gamma.value) / np.sqrt(variance + 1e-3)
    normalized = (pooled - mean) * scale + to_numpy(norm.beta.value)
    expected = normalized @ to_numpy(end.kernel.value) + to_numpy(end.bias.value)
    cells = distiller.compute_teacher_cells(X)
    np.testing.assert_allclose(cells, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(cells[:, 0], run(teacher, X), rtol=1e-4, atol=1e-5)


def test_layer_that_cannot_be_called_again_leaves_the_teacher(caplog):
    class Once(layers.Layer):
        is_used = False

        def call(self, x):
            return x

        def compute_output_spec(self, x):
            if self.is_used:
                raise KeyError("called again")
            self.is_used = True
            return keras.KerasTensor(x.shape, x.dtype)

    inputs = keras.Input((16, 16, 3))
    x = layers.BatchNormalization()(layers.Conv2D(8, 3)(inputs))
    x = layers.GlobalAveragePooling2D()(Once()(x))
    teacher = keras.Model(inputs, layers.Dense(small_classifiers.NUM_CLASSES)(x))
    distiller = SDDDistiller(teacher, small_classifiers.build_cnn())
    assert distiller._frozen.copy is None and "used as given" in caplog.text


@pytest.mark.parametrize("dtype, tolerance", [("bfloat16", 0.03), ("float16", 0.005)])
def test_teacher_dtype(dtype, tolerance):
    teacher = build_teacher()
    exact, half = (
        SDDDistiller(teacher, small_classifiers.build_cnn(4), teacher_dtype=x)
        for x in (None, dtype)
    )
    expected, cells = (x.compute_teacher_cells(X) for x in (exact, half))
    assert cells.dtype == "float32"
    error = np.abs(cells - expected).max() / np.abs(expected).max()
    assert 0 < error < tolerance
    dtypes = {v.dtype for v in half._frozen.copy.model.variables}
    assert dtypes == {dtype, "float32"}  # the classifier's logits need it
    assert half.student.compute_dtype == "float32"
    _, losses = train(teacher, steps=1, teacher_dtype=dtype)
    assert np.isfinite(losses).all()


def test_float32_teacher_of_a_mixed_student():
    keras.config.set_dtype_policy("mixed_bfloat16")
    teacher, student = build_teacher(), small_classifiers.build_cnn(4)
    distiller = SDDDistiller(teacher, student, teacher_dtype="float32")
    computing = [layer for layer in distiller._frozen.copy.model.layers if layer.weights]
    assert {layer.compute_dtype for layer in computing} == {"float32"}
    assert student.compute_dtype == "bfloat16"


def test_unknown_teacher_dtype():
    with pytest.raises(ValueError, match="Received: teacher_dtype='int8'"):
        SDDDistiller(build_teacher(), small_classifiers.build_cnn(), teacher_dtype="int8")


class Doubling(layers.Layer):
    """A layer whose config does not make it again."""

    def __init__(self, secret):
        super().__init__()
        self.secret = secret

    def call(self, x):
        return self.secret * x


def test_layers_of_others_run_as_they_are(caplog):
    inputs = keras.Input((16, 16, 3))
    x = layers.BatchNormalization()(layers.Conv2D(8, 3)(inputs))
    x = layers.GlobalAveragePooling2D()(Doubling(2.0)(x))
    teacher = keras.Model(inputs, layers.Dense(small_classifiers.NUM_CLASSES, name="logits")(x))
    distiller = SDDDistiller(randomize(teacher), small_classifiers.build_cnn())
    assert distiller._frozen.copy.num_folded == 1
    cells = distiller.compute_teacher_cells(X)
    np.testing.assert_allclose(cells[:, 0], run(teacher, X), rtol=1e-4, atol=1e-5)


class Noise(layers.Layer):
    """Noise in inference too."""

    def call(self, x):
        return x + keras.ops.convert_to_tensor(np.random.standard_normal(x.shape), x.dtype)

    def compute_output_spec(self, x):
        return keras.KerasTensor(x.shape, x.dtype)


@pytest.mark.skipif(BACKEND != "torch", reason="PyTorch's teacher alone is traced")
class TestTracedTeacher:
    def run(self, model, x):
        from keras_sdd._backend import torch_graph

        x = keras.ops.convert_to_tensor(x)
        first, second = torch_graph.run(model, x), torch_graph.run(model, x)
        return to_numpy(first), to_numpy(second), list(torch_graph._graphs[model].values())

    @pytest.mark.parametrize("name", ["resnet8x4", "wrn_16_2"])
    def test_equals_the_layers(self, name):
        model = build_filled(f"cifar100/{name}")
        for shape in ((2, 32, 32, 3), (3, 32, 32, 3)):
            x = draw_maps(*shape)
            expected = run(model, x)
            _, traced, graphs = self.run(model, x)
            np.testing.assert_allclose(traced, expected, rtol=0, atol=1e-5 * expected.max())
        assert len(graphs) == 2 and all(graphs)

    def test_reshapes_of_what_is_not_contiguous(self):
        inputs = keras.Input((16, 16, 3))
        x = layers.Reshape((256, 2, 4))(layers.Conv2D(8, 1)(inputs))
        x = layers.Reshape((16, 16, 8))(layers.Permute((1, 3, 2))(x))
        model = randomize(keras.Model(inputs, layers.Conv2D(8, 3, strides=2)(x)))
        _, traced, (graph,) = self.run(model, X)
        assert graph is not None
        np.testing.assert_allclose(traced, run(model, X), rtol=1e-4, atol=1e-5)

    def test_follows_the_weights(self):
        model = randomize(small_classifiers.build_cnn())
        self.run(model, X)
        randomize(model, seed=1)
        np.testing.assert_allclose(self.run(model, X)[1], run(model, X), rtol=1e-5, atol=1e-6)

    def test_what_is_random_runs_layer_by_layer(self, caplog):
        inputs = keras.Input((16, 16, 3))
        first, second, graphs = self.run(keras.Model(inputs, Noise()(inputs)), X)
        assert graphs == [None] and "not a pure function" in caplog.text
        assert (first != second).any()


def test_public_names():
    assert keras_sdd.fold_batch_norm is fold_batch_norm
