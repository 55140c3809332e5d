"""`SDDDistiller` as a Keras model: what it trains, logs, accepts, saves and refuses."""

import functools
import json
import zipfile

import keras
import numpy as np
import pytest
import reference
from backends import BACKEND, to_numpy
from keras import layers, ops
from small_classifiers import (
    NUM_CLASSES,
    assert_same_weights,
    build_cnn,
    copy_weights,
    draw_data,
    spread_predictions,
)

from keras_sdd import SDDDistiller, expose_spatial_logits, pool_cells
from keras_sdd.losses import DKD, KD, NKD, CrossEntropy, LogitLoss, ScaleDecoupled

X, Y = draw_data()


def build_distiller(optimizer=None, compile_options=None, teacher=None, student=None, **options):
    teacher = teacher or spread_predictions(build_cnn(8, "teacher", softmax=True))
    student = student or build_cnn(4, "student")
    distiller = SDDDistiller(teacher, student, **options)
    optimizer = optimizer or keras.optimizers.SGD(0.1, momentum=0.9)
    # TensorFlow's own compiler takes longer than these runs; one test below holds the two equal.
    compile_options = {"jit_compile": BACKEND == "jax"} | (compile_options or {})
    distiller.compile(optimizer, metrics=["accuracy"], **compile_options)
    return distiller


def fit(distiller, x=X, y=Y, **options):
    options = {"batch_size": 8, "shuffle": False, "verbose": 0} | options
    return distiller.fit(x, y, **options).history


def rebuild(**options):
    """The same distiller again: same weights, fresh everything else."""
    keras.utils.set_random_seed(7)
    return build_distiller(**options)


@functools.cache
def weights_of_a_run(kind=KD):
    """The student's weights after `fit`, to which several tests come in other ways."""
    distiller = rebuild(distillation_loss=kind())
    fit(distiller)
    return copy_weights(distiller.student)


# What is trained, and what is not


def test_teacher_is_frozen_whatever_trainable_says():
    distiller = build_distiller()
    before = copy_weights(distiller.teacher), copy_weights(distiller.student)
    distiller.trainable = True
    distiller.teacher.trainable = True
    for layer in distiller.teacher.layers:
        layer.trainable = True
    distiller.compile("sgd")
    fit(distiller)
    assert_same_weights(distiller.teacher, before[0])
    changed = [
        not np.array_equal(a, b)
        for a, b in zip(copy_weights(distiller.student), before[1], strict=True)
    ]
    assert all(changed)  # batch-norm statistics too
    assert {id(v) for v in distiller.trainable_variables} == {
        id(v) for v in distiller.student.trainable_variables
    }
    others = {id(v) for v in distiller.non_trainable_variables}
    assert not others & {id(v) for v in distiller.trainable_variables}


def test_frozen_student_layers_stay():
    distiller = build_distiller()
    distiller.student.get_layer("conv1").trainable = False
    before = to_numpy(distiller.student.get_layer("conv1").kernel.value)
    distiller.compile("sgd")
    fit(distiller)
    np.testing.assert_array_equal(
        before, to_numpy(distiller.student.get_layer("conv1").kernel.value)
    )


def test_batch_norm_of_the_student_moves_once_a_step():
    distiller = build_distiller()
    copy = keras.models.clone_model(distiller.student)
    copy.set_weights(distiller.student.get_weights())
    copy(X, training=True)
    fit(distiller, batch_size=len(X))
    for name in ("moving_mean", "moving_variance"):
        actual, expected = (getattr(m.get_layer("bn"), name) for m in (distiller.student, copy))
        np.testing.assert_allclose(to_numpy(actual.value), to_numpy(expected.value), rtol=1e-5)


def test_evaluate_and_predict_use_the_student_alone_and_change_nothing():
    distiller = build_distiller()
    fit(distiller)
    distiller.teacher.set_weights(
        [np.full_like(w, np.nan) for w in distiller.teacher.get_weights()]
    )
    before = [to_numpy(v.value).copy() for v in distiller.variables]
    results = distiller.evaluate(X, Y, verbose=0, return_dict=True)
    logits = distiller.predict(X, verbose=0)
    for variable, value in zip(distiller.variables, before, strict=True):
        np.testing.assert_array_equal(to_numpy(variable.value), value)
    assert sorted(results) == ["accuracy", "loss"]
    np.testing.assert_allclose(logits, to_numpy(distiller.student(X)), rtol=1e-5, atol=1e-6)
    expected = keras.losses.SparseCategoricalCrossentropy(from_logits=True)(Y, logits)
    np.testing.assert_allclose(results["loss"], to_numpy(expected), rtol=1e-5)
    np.testing.assert_allclose(results["accuracy"], np.mean(logits.argmax(-1) == Y), rtol=1e-6)
    assert distiller.evaluate(X, Y, verbose=0) == pytest.approx(
        [results["loss"], results["accuracy"]]
    )


# The loss and its terms


def expected_terms(distiller, x=X, y=Y, loss=None, scales=(1, 2, 4)):
    """Per-sample cross-entropy and distillation loss of the student as it is, in inference mode."""
    outputs = [expose_spatial_logits(m)(x) for m in (distiller.teacher, distiller.student)]
    cells = [pool_cells(o["spatial_logits"], scales) for o in outputs]
    distillation = (loss or ScaleDecoupled(KD()))(y, *cells)
    log_p = ops.log_softmax(outputs[1]["logits"])
    return -to_numpy(log_p)[np.arange(len(y)), y], to_numpy(distillation)


@pytest.mark.parametrize("loss", [KD(), DKD(), NKD()], ids=repr)
def test_logged_terms_add_up_to_the_loss(loss):
    options = {"student_loss_weight": 0.3, "distillation_weight": 0.7, "distillation_loss": loss}
    student = build_cnn(4, batch_norm=False, kernel_regularizer=keras.regularizers.L2(0.1))
    distiller = build_distiller(keras.optimizers.SGD(0.0), student=student, **options)
    supervised, distillation = expected_terms(distiller, loss=ScaleDecoupled(loss))
    logs = {name: values[0] for name, values in fit(distiller).items()}
    np.testing.assert_allclose(logs["student_loss"], 0.3 * supervised.mean(), rtol=1e-5)
    np.testing.assert_allclose(logs["distillation_loss"], 0.7 * distillation.mean(), rtol=1e-5)
    regularization = 0.1 * np.sum(to_numpy(student.get_layer("conv1").kernel.value) ** 2)
    total = logs["student_loss"] + logs["distillation_loss"] + regularization
    np.testing.assert_allclose(logs["loss"], total, rtol=1e-5)


def test_logged_fractions():
    distiller = build_distiller(keras.optimizers.SGD(0.0), student=build_cnn(batch_norm=False))
    teacher, student = (expose_spatial_logits(m)(X) for m in (distiller.teacher, distiller.student))
    predicted = to_numpy(pool_cells(teacher["spatial_logits"], (1, 2, 4))).argmax(-1)
    correct = predicted == Y[:, None]
    logs = fit(distiller)
    fraction = np.mean(correct != correct[:, :1])
    assert 0 < fraction < 1
    np.testing.assert_allclose(logs["complementary_fraction"][0], fraction, rtol=1e-5)
    agreement = np.mean(predicted[:, 0] == to_numpy(student["logits"]).argmax(-1))
    np.testing.assert_allclose(logs["teacher_agreement"][0], agreement, rtol=1e-5)


@pytest.mark.parametrize("kind", ["sample", "class"])
def test_weights_of_samples_and_classes_reach_both_terms(kind):
    weights = np.random.default_rng(3).uniform(0, 2, len(X)).astype("float32")
    options = {"sample_weight": weights}
    if kind == "class":
        class_weight = {0: 0.5, 1: 2.0, 2: 0.0, 3: 1.0}
        weights, options = np.vectorize(class_weight.get)(Y), {"class_weight": class_weight}
    distiller = build_distiller(keras.optimizers.SGD(0.0), student=build_cnn(batch_norm=False))
    supervised, distillation = expected_terms(distiller)
    logs = fit(distiller, **options)
    np.testing.assert_allclose(logs["student_loss"][0], np.mean(weights * supervised), rtol=1e-5)
    np.testing.assert_allclose(
        logs["distillation_loss"][0], np.mean(weights * distillation), rtol=1e-5
    )


def test_activity_regularization_counts_for_the_student_and_not_for_the_teacher():
    regularizer = keras.regularizers.L2(0.1)
    build = lambda: build_cnn(batch_norm=False, activity_regularizer=regularizer)  # noqa: E731
    distiller = build_distiller(keras.optimizers.SGD(0.0), teacher=build(), student=build())
    # What Keras makes of it when it trains the student alone; versions differ in the scale.
    alone = keras.models.clone_model(distiller.student)
    alone.set_weights(distiller.student.get_weights())
    alone.compile(keras.optimizers.SGD(0.0), CrossEntropy(), jit_compile=False)
    logs, expected = (fit(model, batch_size=len(X)) for model in (distiller, alone))
    np.testing.assert_allclose(
        logs["loss"][0] - logs["distillation_loss"][0], expected["loss"][0], rtol=1e-4
    )
    assert expected["loss"][0] > 2 * logs["student_loss"][0]  # it does count


@pytest.mark.parametrize("scales", [(1,), (2,), (4, 1), (2, 3)])
@pytest.mark.parametrize("pooling", ["direct", "nested"])
def test_every_scale_set(scales, pooling):
    distiller = build_distiller(
        keras.optimizers.SGD(0.0),
        student=build_cnn(batch_norm=False),
        scales=scales,
        pooling=pooling,
    )
    ordered = (1, *(m for m in scales if m != 1))
    outputs = [expose_spatial_logits(m)(X) for m in (distiller.teacher, distiller.student)]
    cells = [pool_cells(o["spatial_logits"], ordered, pooling) for o in outputs]
    loss = ScaleDecoupled(KD(), include_global=1 in scales)
    logs = fit(distiller)
    np.testing.assert_allclose(
        logs["distillation_loss"][0], to_numpy(loss(Y, *cells)).mean(), rtol=1e-4
    )


@pytest.mark.parametrize("scales", [(4, 1, 2), (2, 4)])
def test_every_scale_has_one_vote(scales, tmp_path):
    distiller = build_distiller(
        keras.optimizers.SGD(0.0),
        student=build_cnn(batch_norm=False),
        scales=scales,
        reduction="mean_of_scales",
    )
    ordered = (1, *(m for m in scales if m != 1))
    outputs = [expose_spatial_logits(m)(X) for m in (distiller.teacher, distiller.student)]
    cells = [to_numpy(pool_cells(o["spatial_logits"], ordered)).astype("float64") for o in outputs]
    values = reference.scale_decoupled_cells(reference.kd, Y, *cells, (1.0, 2.0), "label")
    votes = np.split(values, np.cumsum([m * m for m in ordered])[:-1], axis=1)
    expected = np.mean([vote.mean() for vote in votes[1 not in scales :]])
    assert fit(distiller)["distillation_loss"][0] == pytest.approx(expected, rel=1e-4)
    distiller.save(tmp_path / "d.keras")
    loaded = keras.saving.load_model(tmp_path / "d.keras")
    assert loaded.get_config()["reduction"] == "mean_of_scales"
    assert repr(loaded.scale_decoupled_loss) == repr(distiller.scale_decoupled_loss)
    assert fit(loaded)["distillation_loss"][0] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("steps_per_execution", [1, 3])
def test_warmup_counts_steps(steps_per_execution):
    if BACKEND == "torch" and steps_per_execution > 1:
        steps_per_execution = 1  # Keras has no more there
    distiller = build_distiller(
        keras.optimizers.SGD(0.0), {"steps_per_execution": steps_per_execution},
        student=build_cnn(batch_norm=False), warmup_steps=5,
    )  # fmt: skip
    same = np.repeat(X[:1], 3, 0), np.repeat(Y[:1], 3, 0)
    logs = fit(distiller, *same, batch_size=1, epochs=3)["distillation_loss"]
    ramp = [np.mean([1, 2, 3]) / 5, (4 / 5 + 1 + 1) / 3, 1.0]
    np.testing.assert_allclose(np.array(logs) / logs[-1], ramp, rtol=1e-5)


# What can be fed


def data_sets():
    import tensorflow as tf
    import torch

    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return 3

        def __getitem__(self, index):
            part = slice(8 * index, 8 * index + 8)
            return X[part], Y[part]

    tensors = torch.utils.data.TensorDataset(torch.from_numpy(X), torch.from_numpy(Y))
    return {
        "tf.data": tf.data.Dataset.from_tensor_slices((X, Y)).batch(8),
        "PyDataset": Batches(),
        "DataLoader": torch.utils.data.DataLoader(tensors, batch_size=8),
    }


@pytest.mark.parametrize("kind", ["tf.data", "PyDataset", "DataLoader"])
def test_every_kind_of_data_set(kind):
    distiller = rebuild()
    distiller.fit(data_sets()[kind], shuffle=False, verbose=0)
    assert_same_weights(distiller.student, weights_of_a_run(), rtol=1e-4, atol=1e-6)


ONE_HOT = np.eye(NUM_CLASSES, dtype="float32")[Y]


@pytest.mark.parametrize(
    "labels",
    [Y[:, None], Y.astype("uint8"), Y.astype("float32"), ONE_HOT, ONE_HOT.astype("int64")],
    ids=["column", "uint8", "float", "one-hot", "integer one-hot"],
)
def test_every_kind_of_label(labels):
    distiller = rebuild(distillation_loss=DKD())
    fit(distiller, y=labels)
    assert_same_weights(distiller.student, weights_of_a_run(DKD), rtol=1e-4, atol=1e-6)


def test_soft_labels_teach_all_their_classes():
    soft = (0.7 * ONE_HOT + 0.3 * np.roll(ONE_HOT, 1, axis=1)).astype("float32")
    distiller = build_distiller(keras.optimizers.SGD(0.0), student=build_cnn(batch_norm=False))
    log_p = to_numpy(ops.log_softmax(distiller.student(X)))
    _, distillation = expected_terms(distiller)
    logs = fit(distiller, y=soft)
    np.testing.assert_allclose(
        logs["student_loss"][0], -np.mean(np.sum(soft * log_p, -1)), rtol=1e-5
    )
    np.testing.assert_allclose(logs["distillation_loss"][0], distillation.mean(), rtol=1e-5)


def test_data_with_teacher_cells_skip_the_teacher():
    distiller = rebuild()
    teacher = expose_spatial_logits(distiller.teacher)(X)["spatial_logits"]
    cells = to_numpy(pool_cells(teacher, (1, 2, 4)))
    distiller.teacher.set_weights(
        [np.full_like(w, np.nan) for w in distiller.teacher.get_weights()]
    )
    targets = {"labels": Y, "teacher_cells": cells}
    logs = fit(distiller, y=targets, validation_data=(X, targets))
    assert_same_weights(distiller.student, weights_of_a_run(), rtol=1e-4, atol=1e-6)
    assert np.isfinite(logs["val_loss"]).all()


def test_last_batch_may_be_smaller_and_batches_of_one():
    for batch_size in (7, 1):
        logs = fit(build_distiller(), batch_size=batch_size)
        assert np.isfinite(logs["loss"]).all()


def test_models_with_exposed_heads():
    plain = rebuild()
    exposed = [expose_spatial_logits(m) for m in (plain.teacher, plain.student)]
    distiller = SDDDistiller(*exposed)
    distiller.compile(keras.optimizers.SGD(0.1, momentum=0.9), metrics=["accuracy"])
    fit(distiller)
    assert_same_weights(plain.student, weights_of_a_run(), rtol=1e-4, atol=1e-6)
    assert distiller.predict(X, verbose=0).shape == (len(X), NUM_CLASSES)


def test_plain_distillation_of_a_head_that_has_no_regions():
    model = keras.Sequential(
        [
            keras.Input((16, 16, 3)),
            layers.Flatten(),
            layers.Dense(8, "relu"),
            layers.Dense(NUM_CLASSES),
        ]
    )
    logs = fit(build_distiller(student=model, scales=(1,)))
    assert np.isfinite(logs["loss"]).all() and logs["complementary_fraction"] == [0.0]


# How it can be trained


@pytest.mark.skipif(BACKEND == "torch", reason="Keras runs one step per execution on PyTorch")
def test_steps_per_execution_changes_nothing():
    one, three = (
        rebuild(warmup_steps=4),
        rebuild(warmup_steps=4, compile_options={"steps_per_execution": 3}),
    )
    for distiller in (one, three):
        fit(distiller, epochs=2)
    assert_same_weights(three.student, copy_weights(one.student), rtol=1e-4, atol=1e-6)


@functools.cache
def weights_of_a_compiled_run():
    distiller = rebuild(warmup_steps=4, compile_options={"jit_compile": BACKEND != "torch"})
    fit(distiller)
    return copy_weights(distiller.student)


@pytest.mark.parametrize("run_eagerly", [False, True])
def test_compilation_changes_nothing(run_eagerly):
    options = {"jit_compile": False, "run_eagerly": run_eagerly}
    distiller = rebuild(warmup_steps=4, compile_options=options)
    fit(distiller)
    assert_same_weights(distiller.student, weights_of_a_compiled_run(), rtol=1e-3, atol=1e-5)


def test_gradient_accumulation():
    options = {"student": None, "warmup_steps": 0}
    whole = rebuild(optimizer=keras.optimizers.SGD(0.1), **options)
    parts = rebuild(optimizer=keras.optimizers.SGD(0.1, gradient_accumulation_steps=3), **options)
    for distiller in (whole, parts):  # in inference mode statistics do not depend on the batch
        distiller.student.get_layer("bn").trainable = False
    fit(whole, batch_size=len(X))
    fit(parts, batch_size=8)
    assert_same_weights(parts.student, copy_weights(whole.student), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision(policy):
    expected = rebuild()
    keras.config.set_dtype_policy(policy)
    distiller = rebuild()
    is_scaled = isinstance(distiller.optimizer, keras.optimizers.LossScaleOptimizer)
    assert is_scaled == (policy == "mixed_float16")
    distiller.student.set_weights(expected.student.get_weights())
    distiller.teacher.set_weights(expected.teacher.get_weights())
    logs, expected_logs = fit(distiller), fit(expected)
    for name in ("loss", "student_loss", "distillation_loss"):
        np.testing.assert_allclose(logs[name], expected_logs[name], rtol=0.05)
    assert_same_weights(distiller.student, copy_weights(expected.student), rtol=0.1, atol=0.02)


def test_precision_of_the_student_is_its_own():
    student, teacher = build_cnn(4), build_cnn(8)
    keras.config.set_dtype_policy("mixed_float16")
    distiller = build_distiller(student=student, teacher=teacher)
    assert distiller.dtype_policy.name == "float32"
    np.testing.assert_allclose(to_numpy(distiller(X)), to_numpy(student(X)), rtol=1e-6)


# Saving and resuming


class Interrupt(keras.callbacks.Callback):
    def __init__(self, epoch):
        super().__init__()
        self.epoch = epoch

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.epoch:
            raise KeyboardInterrupt


RESUMABLE = {"warmup_steps": 5, "distillation_loss": DKD()}


def rebuild_resumable():
    keras.utils.set_random_seed(11)
    teacher = spread_predictions(build_cnn(8, "teacher"))
    optimizer = keras.optimizers.Adam(0.01)
    return build_distiller(
        optimizer, teacher=teacher, student=build_cnn(4, "student", dropout=0.3), **RESUMABLE
    )


@functools.cache
def weights_of_an_unbroken_run():
    """All weights of the distiller, the optimizer's aside."""
    unbroken = rebuild_resumable()
    fit(unbroken, epochs=4)
    return copy_weights(unbroken)


def test_interrupted_run_resumes_exactly(tmp_path):
    interrupted = rebuild_resumable()
    backup = lambda: keras.callbacks.BackupAndRestore(tmp_path / "backup")  # noqa: E731
    with pytest.raises(KeyboardInterrupt):
        fit(interrupted, epochs=4, callbacks=[backup(), Interrupt(2)])
    resumed = rebuild_resumable()
    fit(resumed, epochs=4, callbacks=[backup()])
    assert_same_weights(resumed, weights_of_an_unbroken_run())


def test_checkpoint_of_the_whole_distiller_resumes_exactly(tmp_path):
    first = rebuild_resumable()
    path = str(tmp_path / "distiller.keras")
    fit(first, epochs=2, callbacks=[keras.callbacks.ModelCheckpoint(path)])
    resumed = keras.saving.load_model(path)
    assert repr(resumed.scale_decoupled_loss) == repr(first.scale_decoupled_loss)
    np.testing.assert_array_equal(resumed.predict(X, verbose=0), first.predict(X, verbose=0))
    fit(resumed, epochs=4, initial_epoch=2)
    assert_same_weights(resumed, weights_of_an_unbroken_run())


@keras.saving.register_keras_serializable(package="tests")
def hinge(labels, logits):
    return keras.losses.categorical_hinge(ops.one_hot(ops.cast(labels, "int32"), 4), logits)


def test_every_option_survives_saving(tmp_path):
    options = {
        "distillation_loss": NKD(2.0, 3.0, mask_target=False), "scales": (2, 4),
        "consistent_weight": 0.5, "complementary_weight": 3.0, "consistency": "global",
        "pooling": "nested", "reduction": "sum", "student_loss_weight": 0.1,
        "distillation_weight": 0.9, "warmup_steps": 7,
    }  # fmt: skip
    distiller = build_distiller(compile_options={"loss": hinge}, **options)
    fit(distiller)
    distiller.save(tmp_path / "d.keras")
    loaded = keras.saving.load_model(tmp_path / "d.keras")
    config, loaded_config = distiller.get_config(), loaded.get_config()
    for name in options:
        assert loaded_config[name] == config[name], name
    assert loaded.evaluate(X, Y, verbose=0) == pytest.approx(distiller.evaluate(X, Y, verbose=0))
    assert_same_weights(loaded, copy_weights(distiller))


def test_student_bears_no_trace_of_the_distiller(tmp_path):
    student = build_cnn(4, "student")
    config = json.dumps(student.get_config(), default=str)
    fit(build_distiller(student=student))
    assert json.dumps(student.get_config(), default=str) == config
    student.save(tmp_path / "student.keras")
    with zipfile.ZipFile(tmp_path / "student.keras") as file:
        assert b"keras_sdd" not in file.read("config.json")
    loaded = keras.saving.load_model(tmp_path / "student.keras")
    np.testing.assert_array_equal(to_numpy(loaded(X)), to_numpy(student(X)))


def test_summary_and_clone():
    distiller = build_distiller()
    lines = []
    distiller.summary(print_fn=lines.append)
    assert "student" in "\n".join(lines)
    clone = keras.models.clone_model(distiller)
    clone.set_weights(distiller.get_weights())
    np.testing.assert_allclose(to_numpy(clone(X)), to_numpy(distiller(X)), rtol=1e-5, atol=1e-6)


# Bad input


class Subclassed(keras.Model):
    def call(self, inputs):
        return inputs


def build_two_outputs():
    model = build_cnn()
    return keras.Model(model.input, [model.output, model.get_layer("conv2").output])


def build_pair(classes=NUM_CLASSES, size=16):
    inputs = keras.Input((size, size, 3))
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3)(inputs))
    return build_cnn(), keras.Model(inputs, layers.Dense(classes)(x))


def build_same():
    model = build_cnn()
    return model, model


def build_shared():
    model = build_cnn()
    return model, keras.Model(model.input, layers.Dense(NUM_CLASSES)(model.layers[-2].output))


@pytest.mark.parametrize(
    "build, match",
    [
        (build_same, "different models"),
        (build_shared, "common weights"),
        (lambda: build_pair(classes=5), "teacher 4, student 5"),
        (lambda: build_pair(size=32), "same input shape"),
        (lambda: (build_cnn(), build_two_outputs()), "one output"),
        (lambda: (build_cnn(), keras.Sequential([layers.Dense(3)])), "not built"),
        (lambda: (Subclassed(), build_cnn()), "subclassed"),
        (lambda: ("resnet", build_cnn()), "keras.Model"),
    ],
)
def test_bad_models(build, match):
    with pytest.raises(ValueError, match=match):
        SDDDistiller(*build())


@pytest.mark.parametrize(
    "options, match",
    [
        ({"scales": ()}, "scales"),
        ({"scales": (0, 2)}, r"Received: scales=\(0, 2\)"),
        ({"scales": (1, -2)}, "scales"),
        ({"scales": (1, 2.5)}, "scales"),
        ({"scales": (1, 2, 2)}, "scales"),
        ({"scales": 4}, "scales"),
        ({"consistent_weight": -1}, "consistent_weight"),
        ({"complementary_weight": float("nan")}, "complementary_weight"),
        ({"student_loss_weight": -0.1}, "student_loss_weight"),
        ({"distillation_weight": float("inf")}, "distillation_weight"),
        ({"warmup_steps": -5}, "warmup_steps"),
        ({"consistency": "labels"}, "consistency"),
        ({"pooling": "max"}, "pooling"),
        ({"reduction": "batchmean"}, "reduction"),
        ({"ignore_class": "none"}, "ignore_class"),
        ({"ignore_class": -1.0}, "ignore_class"),
        ({"distillation_loss": "kd"}, "distillation_loss|loss='kd'"),
        ({"distillation_loss": keras.losses.KLDivergence()}, "LogitLoss"),
    ],
)
def test_bad_options(options, match):
    with pytest.raises(ValueError, match=match):
        SDDDistiller(build_cnn(), build_cnn(), **options)


LOSSES = keras.losses


@pytest.mark.parametrize(
    "loss, match",
    [
        ("sparse_categorical_crossentropy", r"SparseCategoricalCrossentropy\(from_logits=True\)"),
        ("categorical_crossentropy", r"keras.losses.CategoricalCrossentropy\(from_logits=True\)"),
        (
            LOSSES.SparseCategoricalCrossentropy(),
            r"SparseCategoricalCrossentropy\(from_logits=True\)",
        ),
        (LOSSES.categorical_crossentropy, r"CategoricalCrossentropy\(from_logits=True\)"),
        (
            LOSSES.CategoricalFocalCrossentropy(),
            r"CategoricalFocalCrossentropy\(from_logits=True\)",
        ),
        (LOSSES.KLDivergence(), r"CategoricalCrossentropy\(from_logits=True\)"),
        ("kl_divergence", r"CategoricalCrossentropy\(from_logits=True\)"),
        ("binary_crossentropy", "multi-label"),
        (LOSSES.BinaryCrossentropy(from_logits=True), "multi-label"),
        (["mse", "mse"], "one loss"),
        ("no_such_loss", "no_such_loss"),
    ],
)
def test_bad_losses(loss, match):
    with pytest.raises(ValueError, match=match):
        SDDDistiller(build_cnn(), build_cnn()).compile("sgd", loss=loss)


def test_loss_weights_are_refused():
    with pytest.raises(ValueError, match="student_loss_weight"):
        SDDDistiller(build_cnn(), build_cnn()).compile("sgd", loss_weights=[0.5])


@pytest.mark.parametrize(
    "labels, match",
    [
        (Y + 1, r"in \[0, 4\)"),
        (Y - 1, "first y"),
        (np.ones((len(X), NUM_CLASSES)), "multi-label"),
        (Y + 0.5, "others"),
        (np.zeros((len(X), 2), "int32"), "class indices"),
        (np.zeros((len(X), 16, 16), "int32"), "class indices"),
        ({"a": Y}, "teacher_cells"),
    ],
)
def test_bad_labels(labels, match):
    with pytest.raises(ValueError, match=match):
        fit(build_distiller(), y=labels)


@pytest.mark.parametrize("label", [-1, NUM_CLASSES])
@pytest.mark.parametrize("loss", [KD(), DKD(), NKD()], ids=repr)
def test_wrong_label_in_a_data_set_gives_nan(label, loss):
    """Where labels cannot be looked at beforehand they show in the loss, on every backend."""
    import tensorflow as tf

    data = tf.data.Dataset.from_tensor_slices(
        (X, np.where(np.arange(len(X)) == len(X) - 1, label, Y))
    ).batch(8)
    distiller = build_distiller(keras.optimizers.SGD(0.0), distillation_loss=loss)
    logs = distiller.fit(data, shuffle=False, verbose=0).history
    assert np.isnan(logs["student_loss"]).all() and np.isnan(logs["distillation_loss"]).all()


def test_own_loss():
    class Absolute(LogitLoss):
        def call(self, labels, teacher_logits, student_logits):
            return ops.mean(ops.abs(teacher_logits - student_logits), axis=-1)

    assert np.isfinite(fit(build_distiller(distillation_loss=Absolute()))["loss"]).all()
