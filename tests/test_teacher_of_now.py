"""The teacher that a step sees: one, of now, equal to the given one, and never changed."""

import functools
import gc
import logging
import weakref

import keras
import numpy as np
import pytest
import small_classifiers
from backends import BACKEND, to_numpy
from keras import layers, ops
from library_classifiers import randomize
from small_classifiers import NUM_CLASSES

import keras_sdd
from keras_sdd import SDDDistiller, fold_batch_norm

X, Y = small_classifiers.draw_data()


def build_teacher(seed, width=8, first=()):
    """A convolution with a batch norm, which is folded, and layers that are shared."""
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((16, 16, 3))
    x = inputs
    for layer in first:
        x = layer(x)
    x = layers.BatchNormalization()(layers.Conv2D(width, 3, strides=2)(x))
    x = layers.GlobalAveragePooling2D()(layers.ReLU()(x))
    return randomize(keras.Model(inputs, layers.Dense(NUM_CLASSES, name="logits")(x)), seed)


def build(teacher, **options):
    keras.utils.set_random_seed(1)
    distiller = SDDDistiller(teacher, small_classifiers.build_cnn(4), **options)
    distiller.compile(keras.optimizers.SGD(0.0), jit_compile=BACKEND == "jax")
    return distiller


def fit(distiller, epochs=1, **options):
    options = {"batch_size": len(X), "shuffle": False, "verbose": 0} | options
    return distiller.fit(X, Y, epochs=epochs, **options).history["distillation_loss"]


@functools.cache
def loss_of(seed, **options):
    return fit(build(build_teacher(seed), **options))[0]


OPTIONS = pytest.mark.parametrize(
    "options",
    # Without a copy there is nothing to follow: once will do.
    [{}, {"teacher_dtype": "bfloat16"}] + ([{"fold_teacher": False}] if BACKEND == "torch" else []),
    ids=str,
)


@OPTIONS
def test_a_callback_that_changes_the_teacher(options):
    first, second = (loss_of(seed, **options) for seed in (5, 9))
    teacher, other = build_teacher(5), build_teacher(9)
    swap = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, _: epoch and teacher.set_weights(other.get_weights())
    )
    losses = fit(build(teacher, **options), epochs=2, callbacks=[swap])
    np.testing.assert_allclose(losses, [first, second], rtol=1e-4)


def test_a_teacher_that_moves_after_every_batch():
    """As an average of the student's weights would."""

    class Move(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            bias = self.model.teacher.get_layer("logits").bias
            bias.assign(bias + np.arange(NUM_CLASSES, dtype="float32"))
            kernel = self.model.teacher.layers[1].kernel
            kernel.assign(kernel * 1.5)

    distiller = build(build_teacher(5))
    losses = fit(distiller, epochs=2, callbacks=[Move()])
    for step, loss in enumerate(losses):
        teacher = build_teacher(5)
        for _ in range(step):
            bias, kernel = teacher.get_layer("logits").bias, teacher.layers[1].kernel
            bias.assign(bias + np.arange(NUM_CLASSES, dtype="float32"))
            kernel.assign(kernel * 1.5)
        np.testing.assert_allclose(loss, fit(build(teacher))[0], rtol=1e-4)


@OPTIONS
def test_weights_set_between_single_steps(options):
    distiller, other = build(build_teacher(9), **options), build(build_teacher(5), **options)
    distiller.train_on_batch(X, Y)
    distiller.set_weights(other.get_weights())
    distiller.reset_metrics()
    logs = distiller.train_on_batch(X, Y, return_dict=True)
    expected = loss_of(5, **options)
    np.testing.assert_allclose(float(logs["distillation_loss"]), expected, rtol=1e-4)
    cells = other.compute_teacher_cells(X)
    np.testing.assert_allclose(distiller.compute_teacher_cells(X), cells, rtol=1e-5, atol=1e-5)


def test_a_run_that_begins_again_with_an_untrained_teacher(tmp_path):
    class Stop(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                raise KeyboardInterrupt

    def backup():
        return keras.callbacks.BackupAndRestore(tmp_path / "backup")

    with pytest.raises(KeyboardInterrupt):
        fit(build(build_teacher(5)), epochs=2, callbacks=[backup(), Stop()])
    losses = fit(build(build_teacher(9)), epochs=2, callbacks=[backup()])
    np.testing.assert_allclose(losses, [loss_of(5)], rtol=1e-4)


@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize`")
@pytest.mark.parametrize("fold_teacher", [True, False])
def test_a_teacher_quantized_after_construction(fold_teacher):
    teacher = build_teacher(5)
    distiller = build(teacher, fold_teacher=fold_teacher)
    before = fit(distiller)[0]
    rough = np.array([0.1, -7.0, 3.0, 50.0], "float32")
    kernel = teacher.get_layer("logits").kernel
    kernel.assign(kernel * rough)  # so that eight bits show
    expected_before = fit(distiller)[0]
    teacher.quantize("int8")
    after = fit(distiller)[0]
    assert before != expected_before
    quantized = to_numpy(teacher(X))
    np.testing.assert_allclose(
        distiller.compute_teacher_cells(X)[:, 0], quantized, rtol=1e-3, atol=1e-3
    )
    np.testing.assert_allclose(after, fit(build(teacher))[0], rtol=1e-3)


# A copied layer is more than its config and weights


def adapted():
    norm = layers.Normalization()
    norm.adapt(100 + 50 * X)
    return norm


@pytest.mark.parametrize("dtype", [None, "float32", "bfloat16"])
def test_a_teacher_with_an_adapted_normalization(dtype):
    teacher = build_teacher(5, first=[layers.Rescaling(50.0, 100.0), adapted()])
    expected = to_numpy(teacher(X))
    cells = SDDDistiller(
        teacher, small_classifiers.build_cnn(4), teacher_dtype=dtype
    ).compute_teacher_cells(X)
    tolerance = 0.05 if dtype == "bfloat16" else 1e-4
    assert np.abs(cells[:, 0] - expected).max() < tolerance * np.abs(expected).max()
    np.testing.assert_allclose(
        to_numpy(fold_batch_norm(teacher)(X)), expected, rtol=1e-3, atol=1e-4
    )


class Standardized(layers.Conv2D):
    """A convolution that standardizes its kernel whenever it is called."""

    def convolution_op(self, inputs, kernel):
        kernel = kernel - ops.mean(kernel, axis=(0, 1, 2))
        return super().convolution_op(inputs, kernel / (ops.std(kernel, axis=(0, 1, 2)) + 1e-5))


def build_standardized():
    keras.utils.set_random_seed(5)
    inputs = keras.Input((16, 16, 3))
    x = layers.BatchNormalization()(Standardized(8, 3)(inputs))
    x = layers.GlobalAveragePooling2D()(layers.ReLU()(x))
    return randomize(keras.Model(inputs, layers.Dense(NUM_CLASSES)(x)))


@pytest.mark.parametrize("way", ["fit", "train_on_batch", "predict"])
def test_a_copy_that_is_none_is_given_up_with_a_warning(way, caplog):
    teacher = build_standardized()
    distiller = build(teacher)
    if way == "fit":
        loss = fit(distiller)[0]
    elif way == "predict":
        distiller.compute_teacher_cells(X)
        loss = fit(distiller)[0]
    else:
        loss = distiller.train_on_batch(X, Y, return_dict=True)["distillation_loss"]
    assert sum("is used as given" in x for x in caplog.messages) == 1
    np.testing.assert_allclose(
        distiller.compute_teacher_cells(X)[:, 0], to_numpy(teacher(X)), rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(float(loss), fit(build(teacher, fold_teacher=False))[0], rtol=1e-5)


def test_folding_says_so():
    with pytest.raises(ValueError, match="more than its config and weights.*Standardized"):
        fold_batch_norm(build_standardized())


def test_float16_that_overflows_is_told(caplog):
    teacher = build_teacher(5, first=[layers.Rescaling(1e6)])
    losses = fit(build(teacher, teacher_dtype="float16"))
    assert np.isfinite(losses).all() and "float16 ends at 65504" in caplog.text


# The teacher is never changed, and the models of a user forget a distiller


class Counting(layers.Layer):
    """A layer that writes a variable in inference too."""

    def build(self, input_shape):
        self.count = self.add_weight(name="count", shape=(), trainable=False)

    def call(self, x):
        self.count.assign_add(1.0)
        return x


def test_a_layer_that_writes_in_inference():
    teacher = build_teacher(5, first=[Counting()])
    before = small_classifiers.copy_weights(teacher)
    distiller = build(teacher)
    fit(distiller, epochs=2)
    distiller.compute_teacher_cells(X)
    distiller.train_on_batch(X, Y)
    small_classifiers.assert_same_weights(teacher, before)


def count_notes(*models):
    found = [x for model in models for x in model._flatten_layers()]
    operations = [x for y in found for x in getattr(y, "operations", [y])]
    return sum(len(x._inbound_nodes) + len(x._outbound_nodes) for x in operations)


@pytest.mark.parametrize(
    ("nested", "options"),
    [(False, {}), (True, {"fold_teacher": False}), (True, {"teacher_dtype": "bfloat16"})],
    ids=str,
)
def test_dropping_a_distiller_frees_what_it_made(nested, options):
    teacher, student = build_teacher(5), small_classifiers.build_cnn(4)
    if nested:
        inputs = keras.Input((16, 16, 3))
        teacher = keras.Model(inputs, teacher(inputs))
    notes = count_notes(teacher, student)
    distiller = build_distiller(teacher, student, options)
    distiller.fit(X, Y, verbose=0)
    assert count_notes(teacher, student) == notes
    parts = [distiller, distiller._frozen.model, distiller._view.selection]
    if distiller._frozen.copy is not None:
        parts += [
            layer for layer in distiller._frozen.copy.model.layers if layer not in teacher.layers
        ]
    dead = [weakref.ref(x) for x in parts]
    del distiller, parts
    gc.collect()
    assert [x() for x in dead if x() is not None] == []
    build_distiller(teacher, student, options)  # they can be used again


def build_distiller(teacher, student, options):
    distiller = SDDDistiller(teacher, student, feature_losses=[keras_sdd.terms.SP()], **options)
    distiller.compile("sgd", jit_compile=BACKEND == "jax")
    return distiller


# What cannot follow is read-only


@pytest.mark.parametrize(
    "name",
    ["teacher", "student", "terms", "scales", "pooling", "warmup_steps", "fold_teacher",
     "teacher_dtype", "ignore_class", "scale_decoupled_loss"],
)  # fmt: skip
def test_what_a_step_is_made_of_is_fixed(name):
    distiller = build(build_teacher(5))
    value = getattr(distiller, name)
    with pytest.raises(AttributeError, match=f"`{name}` of a distiller is fixed.*build a new one"):
        setattr(distiller, name, value)
    assert getattr(distiller, name) is value


def test_losses_and_terms_in_use_are_fixed():
    loss = keras_sdd.losses.KD()
    loss.temperature = 3.0  # not yet
    distiller = build(build_teacher(5), distillation_loss=loss)
    term = distiller.terms[0]
    for part, name in (
        (loss, "temperature"),
        (term.loss, "complementary_weight"),
        (term, "scales"),
    ):
        with pytest.raises(AttributeError, match=f"`{name}` is part of .* make a new one"):
            setattr(part, name, 2.0)
    term.weight = 0.5  # follows
    assert float(distiller.distillation_weight) == 0.5


def test_first_batch_with_nan_or_infinity(caplog):
    for value in (np.nan, np.inf):
        bad = X.copy()
        bad[3, 2, 2, 1] = value
        distiller = build(build_teacher(5))
        caplog.clear()
        losses = distiller.fit(bad, Y, 8, epochs=2, verbose=0, shuffle=False).history["loss"]
        told = [x for x in caplog.messages if "not finite" in x]
        assert len(told) == int(not np.isfinite(losses).all())  # TensorFlow's ReLU swallows NaN
        assert all("images that hold NaN or infinity" in x for x in told)
        assert told or BACKEND == "tensorflow"


def test_nothing_is_told_of_a_good_run(caplog):
    caplog.set_level(logging.WARNING, logger="keras_sdd")
    fit(build(build_teacher(5)))
    assert not caplog.messages
