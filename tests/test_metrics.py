"""Metrics of `compile`: each sees what it expects of a student of logits."""

import keras
import numpy as np
import pytest
from backends import BACKEND
from small_classifiers import NUM_CLASSES, build_cnn, draw_data

from keras_sdd import SDDDistiller

X, Y = draw_data()
ROWS = np.eye(NUM_CLASSES, dtype="float32")[Y]


@keras.saving.register_keras_serializable(package="test_metrics")
def largest(y_true, y_pred):
    return keras.ops.max(y_pred, axis=-1)


OF_ROWS = {
    "categorical_crossentropy": lambda: "categorical_crossentropy",
    "crossentropy object": lambda: keras.metrics.CategoricalCrossentropy(
        name="smooth", label_smoothing=0.1
    ),
    "AUC": lambda: keras.metrics.AUC(name="auc"),
    "precision": lambda: keras.metrics.Precision(0.3, name="precision"),
    "recall": lambda: keras.metrics.Recall(class_id=1, thresholds=0.25, name="recall"),
    "F1": lambda: keras.metrics.F1Score(),
    "KL": lambda: "kl_divergence",
    "mean squared error": lambda: "mse",
    "accuracy": lambda: "accuracy",
    "acc": lambda: "acc",
    "top k": lambda: keras.metrics.TopKCategoricalAccuracy(2),
    "own function": lambda: largest,
    "wrapped function": lambda: keras.metrics.MeanMetricWrapper(largest, name="w"),
}
OF_CLASSES = {
    "sparse_categorical_crossentropy": lambda: "sparse_categorical_crossentropy",
    "sparse object": lambda: keras.metrics.SparseCategoricalCrossentropy(name="object"),
    "sparse top k": lambda: keras.metrics.SparseTopKCategoricalAccuracy(2),
    "accuracy": lambda: "accuracy",
}


def build(metrics, softmax=True, **options):
    keras.utils.set_random_seed(7)
    student = build_cnn(4, softmax=softmax)
    distiller = SDDDistiller(build_cnn(8), student, **options)
    distiller.compile("sgd", metrics=metrics(), jit_compile=BACKEND == "jax")
    student.compile("sgd", loss=largest, metrics=metrics(), jit_compile=BACKEND == "jax")
    return student, distiller


@pytest.mark.parametrize(
    ("labels", "ignore_class"), [(ROWS, None), (Y, -1)], ids=["rows", "classes"]
)
def test_a_student_with_a_softmax_gets_what_it_gives_itself(labels, ignore_class):
    table = OF_ROWS if labels.ndim == 2 else OF_CLASSES
    student, distiller = build(
        lambda: [make() for make in table.values()], ignore_class=ignore_class
    )
    expected = student.evaluate(X, labels, 8, 0, return_dict=True)
    scores = distiller.evaluate(X, labels, 8, 0, return_dict=True)
    assert scores.keys() == expected.keys()
    for name in scores.keys() - {"loss"}:
        np.testing.assert_allclose(scores[name], expected[name], rtol=2e-5, err_msg=name)


def test_from_logits_sees_logits():
    make = lambda: [keras.metrics.CategoricalCrossentropy(from_logits=True, name="ce")]  # noqa: E731
    student, distiller = build(make, softmax=False)
    expected = student.evaluate(X, ROWS, 8, 0, return_dict=True)["ce"]
    np.testing.assert_allclose(
        distiller.evaluate(X, ROWS, 8, 0, return_dict=True)["ce"], expected, rtol=1e-6
    )
    scores = build(make)[1].evaluate(X, ROWS, 8, 0, return_dict=True)  # a softmax is stripped
    np.testing.assert_allclose(scores["ce"], scores["loss"], rtol=1e-5)


def test_a_student_of_logits():
    """Keras's metrics of probabilities see some; what Keras does not know sees logits."""
    student, distiller = build(lambda: [keras.metrics.AUC(name="auc"), largest], softmax=False)
    logits = student.predict(X, verbose=0)
    scores = distiller.evaluate(X, ROWS, 8, 0, return_dict=True)
    auc = keras.metrics.AUC()
    auc.update_state(ROWS, keras.ops.softmax(logits))
    np.testing.assert_allclose(scores["auc"], auc.result(), rtol=1e-5)
    np.testing.assert_allclose(scores["largest"], logits.max(-1).mean(), rtol=1e-5)


def test_training_and_sample_weights():
    keras.utils.set_random_seed(7)
    distiller = SDDDistiller(build_cnn(8), build_cnn(4, softmax=True, batch_norm=False))
    metrics = {
        "metrics": ["categorical_crossentropy"],
        "weighted_metrics": [keras.metrics.CategoricalCrossentropy(name="weighted")],
    }
    distiller.compile(keras.optimizers.SGD(0.0), jit_compile=BACKEND == "jax", **metrics)
    weights = np.random.default_rng(0).uniform(0.5, 2, len(X))
    logs = distiller.fit(X, ROWS, 8, verbose=0, sample_weight=weights, shuffle=False).history
    probabilities = distiller.student.predict(X, verbose=0)
    values = -np.log((probabilities * ROWS).sum(-1))
    np.testing.assert_allclose(logs["categorical_crossentropy"], values.mean(), rtol=1e-4)
    np.testing.assert_allclose(logs["weighted"], np.average(values, weights=weights), rtol=1e-4)


def test_saving_keeps_the_metrics_that_were_given(tmp_path):
    _, distiller = build(lambda: ["accuracy", keras.metrics.AUC(name="auc"), largest])
    expected = distiller.evaluate(X, ROWS, 8, 0, return_dict=True)
    distiller.save(tmp_path / "distiller.keras")
    loaded = keras.saving.load_model(tmp_path / "distiller.keras")
    scores = loaded.evaluate(X, ROWS, 8, 0, return_dict=True)
    assert scores.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(scores[name], value, rtol=1e-5)
