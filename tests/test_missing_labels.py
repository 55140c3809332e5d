"""Images without a label: what counts, what does not, and what stands in for the label."""

import keras
import numpy as np
import pytest
from backends import BACKEND, to_numpy
from keras import ops
from small_classifiers import NUM_CLASSES, build_cnn, copy_weights, draw_data, spread_predictions

from keras_sdd import Distiller, SDDDistiller
from keras_sdd.losses import DKD, KD, NKD
from keras_sdd.terms import SDD, SP, Term

X, Y = draw_data()
MISSING = np.arange(len(X)) % 3 == 0
SOFT = np.random.default_rng(3).dirichlet(np.ones(NUM_CLASSES), len(X)).astype("float32")


@keras.saving.register_keras_serializable(package="test_missing_labels")
class SeesLabels(Term):
    """Logs the mean label that a term is given."""

    def read(self, network):
        return {"logits": network.logits}

    def call(self, teacher, student, targets):
        return ops.cast(targets["labels"], "float32")


def rebuild(make=SDDDistiller, loss=None, learning_rate=0.1, metrics=("accuracy",), **options):
    keras.utils.set_random_seed(7)
    teacher, student = spread_predictions(build_cnn(8, "teacher")), build_cnn(4, "student")
    distiller = make(teacher, student, **options)
    optimizer = keras.optimizers.SGD(learning_rate)
    distiller.compile(optimizer, loss=loss, metrics=list(metrics), jit_compile=BACKEND == "jax")
    return distiller


def fit(distiller, x=X, y=Y, batch_size=24, **options):
    options = {"shuffle": False, "verbose": 0} | options
    return distiller.fit(x, y, batch_size=batch_size, **options).history


def mark(labels, missing=MISSING, ignore_class=-1):
    labels = np.array(labels)
    labels[missing] = ignore_class
    return labels


LABELS = {
    "integers": Y,
    "a column": Y[:, None],
    "bytes": Y.astype("uint8"),
    "one-hot": np.eye(NUM_CLASSES, dtype="float32")[Y],
    "soft": SOFT,
}


@pytest.mark.parametrize(
    ("kind", "weighted"),
    [("integers", True), ("a column", False), ("bytes", False), ("one-hot", True), ("soft", False)],
)
def test_the_supervised_loss_is_that_of_the_labelled_images(kind, weighted):
    ignore_class = 255 if kind == "bytes" else -1
    labels, there = mark(LABELS[kind], ignore_class=ignore_class), ~MISSING
    weights = np.random.default_rng(1).uniform(0.5, 2, len(X)) if weighted else None
    runs = []
    for kept, options in ((slice(None), {"ignore_class": ignore_class}), (there, {})):
        # Batch norms would see the images without a label.
        keras.utils.set_random_seed(7)
        student = build_cnn(4, "student", batch_norm=False)
        distiller = SDDDistiller(
            build_cnn(8, "teacher"), student, distillation_weight=0.0, **options
        )
        distiller.compile(
            keras.optimizers.SGD(0.1), metrics=["accuracy"], jit_compile=BACKEND == "jax"
        )
        sample_weight = None if weights is None else weights[kept]
        logs = fit(distiller, X[kept], labels[kept], sample_weight=sample_weight)
        scores = distiller.evaluate(
            X[kept], labels[kept], len(X), 0, sample_weight, return_dict=True
        )
        runs.append((logs, copy_weights(student), scores))
    (logs, weights_, scores), (expected, weights_expected, scores_expected) = runs
    for name in ("student_loss", "accuracy"):
        np.testing.assert_allclose(logs[name], expected[name], rtol=1e-5)
    for name in scores_expected:
        np.testing.assert_allclose(scores[name], scores_expected[name], rtol=1e-5)
    for value, wanted in zip(weights_, weights_expected, strict=True):
        np.testing.assert_allclose(value, wanted, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("reduction", ["sum", None])
def test_losses_of_another_reduction(reduction):
    if reduction is None:
        loss = lambda y, logits: keras.losses.sparse_categorical_crossentropy(y, logits, True)  # noqa: E731
    else:
        loss = keras.losses.SparseCategoricalCrossentropy(True, reduction=reduction)
    logs = fit(rebuild(loss=loss, ignore_class=-1, learning_rate=0.0), y=mark(Y))
    logits = rebuild().student(X[:, :], training=True)
    logits = to_numpy(logits)
    values = np.log(np.exp(logits).sum(-1)) - logits[np.arange(len(Y)), Y]
    expected = values[~MISSING].sum() if reduction == "sum" else values[~MISSING].mean()
    np.testing.assert_allclose(logs["student_loss"], expected, rtol=1e-4)


@pytest.mark.parametrize(
    ("loss", "consistency"), [(KD(), "label"), (DKD(), "global"), (NKD(), "label")], ids=str
)
def test_the_teachers_prediction_stands_in(loss, consistency):
    options = {"distillation_loss": loss, "consistency": consistency, "student_loss_weight": 0.0}
    distiller = rebuild(ignore_class=-1, **options)
    predicted = np.argmax(distiller.compute_teacher_cells(X)[:, 0], -1)
    logs = fit(distiller, y=mark(Y))
    expected = fit(rebuild(**options), y=np.where(MISSING, predicted, Y))
    for name in ("distillation_loss", "complementary_fraction", "teacher_agreement"):
        np.testing.assert_allclose(logs[name], expected[name], rtol=1e-6)
    if not isinstance(loss, KD):
        return
    rows = np.eye(NUM_CLASSES, dtype="float32")[Y]
    logs = fit(rebuild(ignore_class=-1, **options), y=mark(rows))
    np.testing.assert_allclose(logs["distillation_loss"], expected["distillation_loss"], rtol=1e-6)


@pytest.mark.parametrize("weighted", [True, False])
def test_only_labelled_samples_change_nothing(weighted):
    weights = np.random.default_rng(1).uniform(0.5, 2, len(X)) if weighted else None
    runs = []
    for options in ({}, {"ignore_class": -1}):
        distiller = rebuild(distillation_loss=DKD(), **options)
        logs = fit(distiller, batch_size=9, sample_weight=weights)
        runs.append((copy_weights(distiller.student), logs))
    for value, expected in zip(runs[1][0], runs[0][0], strict=True):
        # To the last digit, but JAX compiles another program, whose sums may round otherwise.
        tolerance = {"rtol": 1e-5, "atol": 1e-6} if BACKEND == "jax" else {"rtol": 0}
        np.testing.assert_allclose(value, expected, **tolerance)
    assert runs[1][1] == runs[0][1]


@pytest.mark.parametrize("y", [None, np.full(len(X), -1), np.full((len(X), NUM_CLASSES), -1.0)])
def test_a_batch_without_any_label_trains_on_the_teacher_alone(y):
    distiller = rebuild(ignore_class=None if y is None else -1, distillation_loss=NKD())
    predicted = np.argmax(distiller.compute_teacher_cells(X)[:, 0], -1)
    logs = fit(distiller, y=y)
    assert logs["student_loss"] == [0.0]
    reference = rebuild(distillation_loss=NKD(), student_loss_weight=0.0)
    expected = fit(reference, y=predicted)
    np.testing.assert_allclose(logs["distillation_loss"], expected["distillation_loss"], rtol=1e-6)
    np.testing.assert_allclose(logs["loss"], logs["distillation_loss"], rtol=1e-6)
    for a, b in zip(copy_weights(distiller.student), copy_weights(reference.student), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
    assert ("accuracy" in logs) == (y is not None)


def test_images_alone_with_labels_for_validation_and_later():
    metrics = ("accuracy", keras.metrics.SparseTopKCategoricalAccuracy(2, name="top"))
    distiller = rebuild(metrics=metrics)
    logs = fit(distiller, y=None, epochs=2, validation_data=(X, Y))
    assert not logs.keys() & {"accuracy", "top"} and np.isfinite(logs["val_top"]).all()
    assert np.isfinite(fit(distiller)["accuracy"]).all()
    with pytest.raises(ValueError, match="Evaluation needs labels"):
        distiller.evaluate(X, verbose=0)


def test_a_data_set_of_images_alone():
    import tensorflow as tf

    expected = fit(rebuild(), y=None, batch_size=8)
    for batch in (lambda x: x, lambda x: (x,)):
        data = tf.data.Dataset.from_tensor_slices(X).batch(8).map(batch)
        logs = fit(rebuild(), data, None, batch_size=None)
        np.testing.assert_allclose(logs["loss"], expected["loss"], rtol=1e-6)


@pytest.mark.parametrize(
    ("terms", "knows"), [([SP(), SeesLabels(name="seen")], False), ([SDD(), SeesLabels()], True)]
)
def test_other_terms_get_the_teachers_prediction(terms, knows):
    terms = [type(x).from_config(x.get_config()) for x in terms]  # a term serves once
    distiller = rebuild(Distiller, terms=terms, ignore_class=-1, learning_rate=0.0)
    read = distiller.compute_teacher_targets(X)["teacher"]
    assert ("logits" in read) == (not knows)
    logits = to_numpy(distiller.teacher(X))
    logs = fit(distiller, y=mark(Y))
    expected = np.where(MISSING, logits.argmax(-1), Y).mean()
    np.testing.assert_allclose(logs[terms[1].name], expected, rtol=1e-6)


def test_class_weights_leave_missing_labels_alone():
    weights = {0: 0.5, 2: 3.0}
    logs = fit(rebuild(ignore_class=-1), y=mark(Y), class_weight=weights)
    table = np.array([0.5, 1.0, 3.0, 1.0])
    sample_weight = np.where(MISSING, 1.0, table[Y])
    expected = fit(rebuild(ignore_class=-1), y=mark(Y), sample_weight=sample_weight)
    for name in ("loss", "student_loss", "distillation_loss"):
        np.testing.assert_allclose(logs[name], expected[name], rtol=1e-6)


def test_saving_keeps_the_marker(tmp_path):
    distiller = rebuild(
        ignore_class=-1, metrics=("accuracy", keras.metrics.SparseTopKCategoricalAccuracy(2))
    )
    fit(distiller, y=mark(Y))
    distiller.save(tmp_path / "distiller.keras")
    loaded = keras.saving.load_model(tmp_path / "distiller.keras")
    assert loaded.ignore_class == -1
    assert fit(loaded, y=mark(Y)) == fit(distiller, y=mark(Y))


def test_mixed_precision():
    keras.config.set_dtype_policy("mixed_bfloat16")
    logs = fit(rebuild(ignore_class=-1), y=mark(Y))
    assert np.isfinite(logs["loss"]).all()
