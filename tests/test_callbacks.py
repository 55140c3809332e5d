"""Callbacks that watch a distiller's metrics, and the one that saves its student."""

import keras
import numpy as np
import pytest
from backends import BACKEND
from small_classifiers import NUM_CLASSES, build_cnn, draw_data

import keras_sdd

X, Y = draw_data()


def build(**options):
    keras.utils.set_random_seed(3)
    distiller = keras_sdd.SDDDistiller(build_cnn(8), build_cnn(4, softmax=True), **options)
    metrics = ["accuracy", "sparse_categorical_crossentropy"]
    metrics.append(keras.metrics.SparseTopKCategoricalAccuracy(2, name="top2"))
    distiller.compile("sgd", metrics=metrics, jit_compile=BACKEND == "jax")
    return distiller


def test_keras_knows_which_value_of_a_metric_is_better():
    distiller = build(ignore_class=-1)  # so that no metric is Keras's own
    better = {"accuracy": "greater", "top2": "greater", "loss": "less"}
    better["sparse_categorical_crossentropy"] = "less"
    stops = {name: keras.callbacks.EarlyStopping(f"val_{name}", patience=5) for name in better}
    data = {"validation_data": (X, Y), "callbacks": list(stops.values())}
    distiller.fit(X, Y, epochs=1, verbose=0, **data)
    assert {name: stop.monitor_op.__name__ for name, stop in stops.items()} == better


def test_the_student_alone_is_saved_when_it_is_better(tmp_path):
    distiller, path = build(), tmp_path / "deep" / "best.keras"
    save = keras_sdd.callbacks.SaveStudent(path, monitor="val_accuracy", save_best_only=True)
    seen = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: kept.append((logs["val_accuracy"], np.array(first)))
    )
    kept, first = [], distiller.student.weights[0]
    distiller.fit(X, Y, validation_data=(X, Y), epochs=4, verbose=0, callbacks=[save, seen])
    accuracies = [accuracy for accuracy, _ in kept]
    saved = keras.saving.load_model(path)
    weights = kept[int(np.argmax(accuracies))][1]
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(saved.weights[0]), weights)
    assert len(saved.weights) == len(distiller.student.weights)
    assert saved.output_shape == (None, NUM_CLASSES)
    np.testing.assert_allclose(saved.predict(X, verbose=0).sum(-1), 1.0, atol=1e-5)  # a softmax


def test_within_an_epoch_too(tmp_path):
    distiller = build()
    save = keras_sdd.callbacks.SaveStudent(
        str(tmp_path / "{batch}.weights.h5"), save_weights_only=True, save_freq=1
    )
    before = np.array(distiller.student.weights[0])
    distiller.fit(X, Y, batch_size=len(X) // 2, verbose=0, callbacks=[save])
    steps = sorted(tmp_path.glob("*.weights.h5"))
    values = [before]
    for path in steps:
        other = build_cnn(4, softmax=True)
        other.load_weights(path)
        values.append(np.array(other.weights[0]))
    assert len(steps) == 2
    assert np.abs(values[1] - values[0]).max() > 0 < np.abs(values[2] - values[1]).max()
    np.testing.assert_array_equal(values[2], np.array(distiller.student.weights[0]))


def test_other_models_are_refused(tmp_path):
    model = build_cnn(4)
    model.compile("sgd", "sparse_categorical_crossentropy")
    save = keras_sdd.callbacks.SaveStudent(tmp_path / "x.keras")
    with pytest.raises(ValueError, match=r"keras\.callbacks\.ModelCheckpoint"):
        model.fit(X, Y, verbose=0, callbacks=[save])
