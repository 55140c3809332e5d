"""What a distiller finds out before it trains, and that the remedies it names work."""

import functools
import logging
import types

import keras
import numpy as np
import pytest
import small_classifiers
from backends import BACKEND, to_numpy
from keras import layers, ops
from small_classifiers import NUM_CLASSES, build_cnn

import keras_sdd
from keras_sdd import Distiller, SDDDistiller, _devices, distribution

X, Y = small_classifiers.draw_data()
WRONG = Y + 1


def build(teacher=None, student=None, loss=None, **options):
    keras.utils.set_random_seed(7)
    distiller = SDDDistiller(teacher or build_cnn(8), student or build_cnn(4), **options)
    # Some random layers cannot be compiled on JAX.
    jit_compile = "auto" if BACKEND == "jax" else False
    distiller.compile(keras.optimizers.SGD(0.1), loss=loss, jit_compile=jit_compile)
    return distiller


def fit(distiller, x=X, y=Y, **options):
    options = {"batch_size": 8, "shuffle": False, "verbose": 0} | options
    return distiller.fit(x, y, **options).history


# Labels, in whatever they come


def as_data_set(labels, **options):
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices((X, labels)).batch(8), None


def as_generator(labels):
    return ((X[i : i + 8], labels[i : i + 8]) for i in range(0, len(X), 8)), None


def as_sequence(labels):
    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return 3

        def __getitem__(self, i):
            return X[8 * i : 8 * i + 8], labels[8 * i : 8 * i + 8]

    return Batches(), None


def as_loader(labels):
    torch = pytest.importorskip("torch")
    pairs = torch.utils.data.TensorDataset(torch.as_tensor(X), torch.as_tensor(labels))
    return torch.utils.data.DataLoader(pairs, batch_size=8, shuffle=True), None


def as_series(labels):
    pandas = pytest.importorskip("pandas")
    return X, pandas.Series(labels)


KINDS = {
    "array": lambda labels: (X, labels),
    "column": lambda labels: (X, labels[:, None]),
    "dict": lambda labels: (X, {"labels": labels}),
    "tensor": lambda labels: (X, ops.convert_to_tensor(labels)),
    "data set": as_data_set,
    "generator": as_generator,
    "sequence": as_sequence,
    "loader": as_loader,
    "series": as_series,
}


@pytest.mark.parametrize("kind", KINDS)
def test_labels_counted_from_one(kind):
    distiller = build()
    before = small_classifiers.copy_weights(distiller.student)
    # A loader that shuffles may have none of the wrong ones in its first batch.
    x, y = KINDS[kind](Y + NUM_CLASSES if kind == "loader" else WRONG)
    with pytest.raises(ValueError, match=r"Labels must be classes in \[0, 4\).*first y\[") as error:
        distiller.fit(x, y, verbose=0)
    small_classifiers.assert_same_weights(distiller.student, before)
    if kind == "array":
        assert "these count from 1: subtract 1" in str(error.value)
        distiller.fit(x, y - 1, verbose=0)  # the remedy


@functools.cache
def weights_of_a_run():
    distiller = build()
    fit(distiller)
    return small_classifiers.copy_weights(distiller.student)


@pytest.mark.parametrize("kind", sorted(KINDS.keys() - {"column", "dict", "tensor"}))
def test_looking_loses_no_batch_and_changes_no_order(kind):
    """A run from data that are looked at, and one whose steps are given by hand."""
    distiller = build()
    seen = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: steps.append(batch)
    )
    steps: list = []
    x, y = KINDS[kind](Y)
    options = {"batch_size": 8} if y is not None else {}
    if isinstance(x, types.GeneratorType):
        options = {"steps_per_epoch": 3}
    distiller.fit(x, y, shuffle=False, verbose=0, callbacks=[seen], **options)
    assert len(steps) == 3
    if kind == "loader":  # it shuffles
        return
    small_classifiers.assert_same_weights(
        distiller.student, weights_of_a_run(), rtol=1e-5, atol=1e-7
    )


@pytest.mark.skipif(BACKEND != "torch", reason="a loader draws its order from PyTorch's generator")
def test_a_loader_keeps_its_order():
    orders = []
    for look in (True, False):
        keras.utils.set_random_seed(3)
        loader, _ = as_loader(Y)
        if look:
            loader = keras_sdd.first_batch.peek(loader)[0]
        orders.append(np.concatenate([y.numpy() for _, y in loader]))
    np.testing.assert_array_equal(*orders)


@pytest.mark.parametrize("labels", [Y.astype("int64") + 2**32, Y + 0.5, Y - 1.0, Y * np.nan])
def test_labels_that_would_be_read_as_others(labels):
    """JAX reads 2 ** 32 + 1 as 1."""
    with pytest.raises(ValueError, match="Labels must be classes"):
        fit(build(), y=labels)


def test_names_of_classes():
    names = np.array(["cat", "dog", "eel", "fox"])[Y]
    with pytest.raises(ValueError, match=r"numpy.unique\(names, return_inverse=True\)") as error:
        fit(build(), y=names)
    assert f"the first {str(names[0])!r}" in str(error.value)
    _, y = np.unique(names, return_inverse=True)  # the remedy
    fit(build(), y=y)


def test_missing_labels_without_a_marker():
    with pytest.raises(ValueError, match="images without one get ignore_class"):
        fit(build(), y=np.where(np.arange(len(Y)) < 3, -1, Y))
    fit(build(ignore_class=-1), y=np.where(np.arange(len(Y)) < 3, -1, Y))  # the remedy


def test_a_loss_that_is_no_number_is_told_once(caplog):
    labels = np.where(np.arange(len(Y)) == len(Y) - 1, -1, Y)
    x, _ = as_data_set(labels)
    build().fit(x, epochs=3, verbose=0, shuffle=False)
    told = [x for x in caplog.messages if "not finite" in x]
    assert len(told) == 1 and "After epoch 1" in told[0] and "labels outside [0, K)" in told[0]


@pytest.mark.parametrize("form", ["tuple", "one", "CallbackList"])
def test_callbacks_in_every_form(form, caplog):
    seen: list = []
    mine = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(epoch))
    distiller = build()
    callbacks = {"one": mine, "tuple": (mine,)}.get(form)
    if callbacks is None:
        callbacks = keras.callbacks.CallbackList([mine], True, model=distiller, epochs=2)
    distiller.fit(X * np.nan, Y, 8, 2, 0, callbacks)
    assert seen == [0, 1]
    assert sum("not finite" in x for x in caplog.messages) <= 1


# Weights of classes, loss functions


@functools.cache
def logs_of_a_weighted_run():
    return fit(build(), sample_weight=np.array([0.5, 2.0, 0.0, 1.0])[Y])


@pytest.mark.parametrize("kind", ["array", "dict", "data set", "data set of a dict", "cached"])
def test_class_weights(kind, tmp_path):
    import tensorflow as tf

    weights = {0: 0.5, 1: 2.0, 2: 0.0}
    targets = {"labels": Y, "ids": np.arange(len(Y))}
    distiller = build()
    if kind == "array":
        x, y = X, Y
    elif kind == "dict":
        x, y = X, {"labels": Y}
    else:
        data = (X, Y) if kind == "data set" else (X, targets)
        x, y = tf.data.Dataset.from_tensor_slices(data).batch(8), None
        if kind == "cached":
            x = keras_sdd.cache_teacher(distiller, x, tmp_path / "cells", verbose=0)
    options = {"batch_size": 8} if y is not None else {}
    logs = distiller.fit(x, y, shuffle=False, verbose=0, class_weight=weights, **options).history
    expected = logs_of_a_weighted_run()
    for name in ("loss", "student_loss", "distillation_loss"):
        np.testing.assert_allclose(logs[name], expected[name], rtol=1e-4)


def test_class_weights_last_for_one_fit():
    distiller, reference = build(), build()
    for weights in ({0: 3.0}, None, {1: 2.0}):
        logs = fit(distiller, class_weight=weights)
        sample_weight = None
        if weights is not None:
            sample_weight = np.vectorize(lambda k: weights.get(k, 1.0))(Y)  # noqa: B023
        np.testing.assert_allclose(
            logs["loss"], fit(reference, sample_weight=sample_weight)["loss"], rtol=1e-5
        )


def test_class_weights_of_single_steps():
    for targets in (Y, {"labels": Y}):
        weights = {0: 0.5, 1: 2.0}
        logs = build().train_on_batch(X, targets, class_weight=weights, return_dict=True)
        sample_weight = np.array([0.5, 2.0, 1.0, 1.0])[Y]
        expected = build().train_on_batch(X, Y, sample_weight, return_dict=True)
        np.testing.assert_allclose(float(logs["loss"]), float(expected["loss"]), rtol=1e-5)


def test_bad_class_weights():
    with pytest.raises(ValueError, match=r"classes in \[0, 4\).*Received: class_weight with 4"):
        fit(build(), class_weight={4: 1.0})
    with pytest.raises(ValueError, match="not by both"):
        fit(build(), class_weight={1: 1.0}, sample_weight=np.ones(len(Y)))


@keras.saving.register_keras_serializable(package="test_before_training")
def smooth_cross_entropy(y_true, y_pred):
    return -ops.sum((0.9 * y_true + 0.025) * ops.log_softmax(y_pred), axis=-1)


@pytest.mark.parametrize("dtype", ["int64", "bool"])
def test_loss_functions_get_labels_in_floating_point(dtype):
    rows = np.eye(NUM_CLASSES, dtype=dtype)[Y]
    logs = fit(build(loss=smooth_cross_entropy, distillation_weight=0.0), y=rows)
    keras.utils.set_random_seed(7)
    build_cnn(8)
    student = build_cnn(4)
    student.compile(
        keras.optimizers.SGD(0.1), loss=smooth_cross_entropy, jit_compile=BACKEND == "jax"
    )
    expected = student.fit(X, rows, batch_size=8, shuffle=False, verbose=0).history["loss"]
    np.testing.assert_allclose(logs["student_loss"], expected, rtol=1e-5)


def test_a_saved_distiller_keeps_a_loss_function(tmp_path):
    distiller = build(loss=smooth_cross_entropy)
    rows = np.eye(NUM_CLASSES)[Y]
    fit(distiller, y=rows)
    distiller.save(tmp_path / "distiller.keras")
    loaded = keras.saving.load_model(tmp_path / "distiller.keras")
    assert fit(loaded, y=rows) == fit(distiller, y=rows)


# Losses and terms of the user's


def test_an_argument_kept_under_another_name():
    class Scaled(keras_sdd.losses.LogitLoss):
        def __init__(self, factor=2.0):
            self._factor = factor

        def call(self, labels, teacher_logits, student_logits):
            return self._factor * ops.mean((teacher_logits - student_logits) ** 2, axis=-1)

    class Weighed(keras_sdd.terms.Term):
        def __init__(self, power=1.0):
            super().__init__()
            self.exponent = power

        def read(self, network):
            return {"logits": network.logits}

        def call(self, teacher, student, targets):
            return ops.mean((teacher["logits"] - student["logits"]) ** 2, axis=-1)

    for make in (
        lambda: build(distillation_loss=Scaled()),
        lambda: Distiller(build_cnn(8), build_cnn(4), terms=[Weighed()]),
    ):
        with pytest.raises(ValueError, match="attributes of the same names.*no attribute '(f|p)"):
            make()


def test_a_class_that_is_not_registered_is_told(caplog, tmp_path):
    class Unregistered(keras_sdd.losses.LogitLoss):
        def call(self, labels, teacher_logits, student_logits):
            return ops.mean((teacher_logits - student_logits) ** 2, axis=-1)

    distiller = build(distillation_loss=Unregistered())
    told = [x for x in caplog.messages if "register_keras_serializable" in x]
    assert len(told) == 1 and "Unregistered" in told[0]
    distiller.save(tmp_path / "distiller.keras")
    options = {"custom_objects": {"Unregistered": Unregistered}}  # one remedy
    keras.saving.load_model(tmp_path / "distiller.keras", **options)
    caplog.clear()
    keras.saving.register_keras_serializable(package="told")(Unregistered)  # the other
    build(distillation_loss=Unregistered()).save(tmp_path / "registered.keras")
    keras.saving.load_model(tmp_path / "registered.keras")
    assert not caplog.messages


# Pairs


def shared_pair(trainable):
    norm, body = layers.Normalization(), layers.Conv2D(4, 3, name="body")
    norm.adapt(100 + 50 * X)
    body.trainable = trainable
    pair = []
    for _ in range(2):
        inputs = keras.Input((16, 16, 3))
        x = layers.ReLU()(layers.Conv2D(4, 3)(body(norm(inputs))))
        pair.append(keras.Model(inputs, layers.Dense(4)(layers.GlobalAveragePooling2D()(x))))
    return pair


def test_weights_that_no_training_changes_may_be_common():
    teacher, student = shared_pair(trainable=False)
    before = small_classifiers.copy_weights(teacher)
    distiller = build(teacher, student)
    fit(distiller)
    small_classifiers.assert_same_weights(teacher, before)
    np.testing.assert_allclose(
        distiller.compute_teacher_cells(X)[:, 0], to_numpy(teacher(X)), rtol=1e-4, atol=1e-5
    )
    student.get_layer("body").trainable = True
    with pytest.raises(ValueError, match="common weights that training changes"):
        distiller.compile("sgd")


def test_common_weights_that_train(tmp_path):
    teacher, student = shared_pair(trainable=True)
    expected = to_numpy(teacher(X))
    with pytest.raises(ValueError, match=r"model.save\(.*load_model.*2 common weights.*body"):
        build(teacher, student)
    teacher.save(tmp_path / "copy.keras")  # the remedies
    copy = keras.saving.load_model(tmp_path / "copy.keras")
    np.testing.assert_allclose(
        build(copy, student).compute_teacher_cells(X)[:, 0], expected, rtol=1e-4, atol=1e-5
    )
    teacher.get_layer("body").trainable = False
    build(teacher, student)


def test_moving_statistics_are_not_common():
    norm = layers.BatchNormalization(center=False, scale=False)
    pair = []
    for _ in range(2):
        inputs = keras.Input((16, 16, 3))
        x = layers.GlobalAveragePooling2D()(norm(inputs))
        pair.append(keras.Model(inputs, layers.Dense(4)(x)))
    with pytest.raises(ValueError, match="2 common weights"):
        build(*pair)


def with_named_input(name, width):
    inputs = keras.Input((16, 16, 3), name=name)
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(width, 3)(inputs))
    return keras.Model({name: inputs}, layers.Dense(4)(x))


def test_inputs_of_other_names():
    teacher, student = with_named_input("image", 8), with_named_input("pixels", 4)
    with pytest.raises(ValueError, match=r"teacher \['image'\], student \['pixels'\]"):
        build(teacher, student)
    x = keras.Input((16, 16, 3), name="pixels")  # the remedy
    wrapped = keras.Model({"pixels": x}, teacher({"image": x}))
    fit(build(wrapped, student), x={"pixels": X})


def for_any_size(width, pool=layers.GlobalAveragePooling2D, *head):
    inputs = keras.Input((None, None, 3))
    x = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(width, 3, strides=2)(inputs)))
    x = pool()(x)
    for layer in head:
        x = layer(x)
    return keras.Model(inputs, layers.Dense(NUM_CLASSES)(x))


@pytest.mark.parametrize("pool", [layers.GlobalAveragePooling2D, layers.GlobalMaxPooling2D])
@pytest.mark.parametrize("student", ["known", "any"])
def test_a_teacher_for_any_size(pool, student):
    keras.utils.set_random_seed(1)
    teacher = for_any_size(8, pool, layers.Dense(5, "relu"))
    student = build_cnn(4) if student == "known" else for_any_size(4)
    distiller = build(teacher, student)
    assert np.isfinite(fit(distiller)["loss"]).all()
    inputs = keras.Input((16, 16, 3))
    known = build(keras.Model(inputs, teacher(inputs)))
    cells = known.compute_teacher_cells(X)
    assert cells.shape == (len(X), 21, NUM_CLASSES)
    np.testing.assert_allclose(distiller.compute_teacher_cells(X), cells, rtol=1e-4, atol=1e-5)


def test_a_teacher_for_any_size_with_maps():
    distiller = Distiller(for_any_size(8), build_cnn(4), terms=[keras_sdd.terms.FitNet()])
    distiller.compile("sgd", jit_compile=BACKEND == "jax")
    assert np.isfinite(fit(distiller)["loss"]).all()


# Augmentation, small maps


class Augmenter(layers.Layer):
    """A layer of the user's that holds one of Keras's."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.flip = layers.RandomFlip()

    def call(self, x, training=None):
        return self.flip(x, training=training)


def augmented(*first):
    inputs = keras.Input((16, 16, 3))
    x = inputs
    for layer in first:
        x = layer(x)
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3)(x))
    return keras.Model(inputs, layers.Dense(NUM_CLASSES)(x))


MOVING = {
    "flip": lambda: layers.RandomFlip("horizontal"),
    "rotation": lambda: layers.RandomRotation(0.1),
    "crop": lambda: layers.RandomCrop(16, 16),
    "nested": lambda: keras.Sequential([layers.RandomZoom(0.1)], name="augmentation"),
    "own": lambda: Augmenter(name="own"),
}


@pytest.mark.parametrize("kind", MOVING)
def test_a_student_that_moves_pixels(kind):
    layer = MOVING[kind]()
    student = augmented(layer)
    with pytest.raises(ValueError, match="moves pixels at random in .*scales=\\(1,\\)") as error:
        build(student=student)
    assert layer.name in str(error.value)
    build(student=student, scales=(1,))  # the remedies
    build(teacher=augmented(MOVING[kind]()))  # in inference mode for good
    with pytest.raises(ValueError, match="Maps of teacher and student"):
        Distiller(build_cnn(8), augmented(MOVING[kind]()), terms=[keras_sdd.terms.FitNet()])


def test_augmenting_the_data_set_as_the_message_says():
    import tensorflow as tf

    layer = layers.RandomFlip("horizontal", seed=1)
    data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(8)
    data = data.map(lambda x, y: (layer(x, training=True), y))
    assert np.isfinite(fit(build(), data, None, batch_size=None)["loss"]).all()


@pytest.mark.parametrize(
    "make",
    [lambda: layers.RandomBrightness(0.1, (-3, 3)), lambda: layers.GaussianNoise(0.1),
     lambda: layers.SpatialDropout2D(0.1), lambda: layers.RandomContrast(0.1, (-3, 3))],
)  # fmt: skip
def test_other_random_layers_pass(make):
    build(student=augmented(make()))


@pytest.mark.parametrize(
    ("strides", "size", "images"), [((4, 4), "4 x 4", None), ((8, 8), "2 x 2", "32 x 32"),
                                    ((16, 16), "1 x 1", "64 x 64"), ((4, 8), "4 x 2", "16 x 32")],
)  # fmt: skip
def test_small_maps_are_told_once(strides, size, images, caplog):
    caplog.set_level(logging.INFO, logger="keras_sdd")
    inputs = keras.Input((16, 16, 3))
    x = layers.Conv2D(4, strides, strides=strides)(inputs)
    student = keras.Model(
        inputs, layers.Dense(NUM_CLASSES)(layers.GlobalAveragePooling2D()(x)), name="small"
    )
    build(student=student)
    told = [x for x in caplog.messages if "repeat its positions" in x]
    assert len(told) == int(images is not None)
    if told:
        assert (
            "'small'" in told[0] and size in told[0] and f"Images of {images} would do" in told[0]
        )
    caplog.clear()
    build(student=student, scales=(1,))
    assert not any("repeat" in x for x in caplog.messages)


def test_single_steps_know_of_several_devices(monkeypatch):
    monkeypatch.setattr(_devices, "_started", [distribution.Devices(2)])
    with pytest.raises(RuntimeError, match="devices.prepare"):
        build().train_on_batch(X, Y)
