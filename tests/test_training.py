"""Several steps of training against a NumPy float64 run with gradients written out by hand.

All backends are held to the same run, and so to each other.
"""

import keras
import numpy as np
import pytest
import reference
from backends import BACKEND
from keras import layers
from small_classifiers import build_cnn, copy_weights, draw_data

from keras_sdd import SDDDistiller
from keras_sdd.losses import DKD, KD, NKD


def build_tiny(width):
    inputs = keras.Input((7, 5, 3))
    x = layers.Conv2D(width, 1, activation="relu", bias_initializer="normal")(inputs)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(3, kernel_initializer=spread(), name="logits")(x))


def spread():
    return keras.initializers.RandomNormal(stddev=3.0)


@pytest.mark.parametrize(
    "loss, formula",
    [(KD(), reference.kd), (DKD(), reference.dkd), (NKD(), reference.nkd)],
    ids=["KD", "DKD", "NKD"],
)
def test_steps_equal_a_hand_written_run(loss, formula):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((16, 7, 5, 3)).astype("float32")
    y = rng.integers(0, 3, 16)
    teacher, student = build_tiny(6), build_tiny(4)
    by_hand = [reference.TinyClassifier(m.get_weights()) for m in (teacher, student)]
    scales, loss_weights = (1, 2, 3), (0.4, 0.8)
    distiller = SDDDistiller(
        teacher, student, loss, scales, student_loss_weight=0.4, distillation_weight=0.8
    )
    distiller.compile(keras.optimizers.SGD(0.02, momentum=0.9))
    terms = []
    record = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda _, logs: terms.append((logs["student_loss"], logs["distillation_loss"]))
    )
    batches = [(x[4 * i : 4 * i + 4], y[4 * i : 4 * i + 4]) for i in range(4)]
    for batch in batches:  # an epoch each, so that the logs are those of the step
        distiller.fit(*batch, batch_size=4, verbose=0, callbacks=[record])
    expected = reference.train(*by_hand, batches, scales, formula, 0.02, 0.9, loss_weights)
    np.testing.assert_allclose(terms, expected, rtol=1e-4)
    for actual, exact in zip(copy_weights(student), by_hand[1].weights, strict=True):
        np.testing.assert_allclose(actual.reshape(exact.shape), exact, rtol=1e-4, atol=1e-5)


class CountTraces(keras.callbacks.Callback):
    """How often the step's Python has run by the end of each epoch."""

    def __init__(self, distiller):
        super().__init__()
        self.traces, self.at_end = 0, []
        compute_loss = distiller.compute_loss

        def count(*args, **kwargs):
            self.traces += 1
            return compute_loss(*args, **kwargs)

        distiller.compute_loss = count

    def on_epoch_end(self, epoch, logs=None):
        self.at_end.append(self.traces)


@pytest.mark.skipif(BACKEND == "torch", reason="PyTorch runs the step's Python every time")
def test_a_step_is_compiled_once_for_each_shape():
    x, y = draw_data(20)  # batches of 8, 8 and 4
    distiller = SDDDistiller(build_cnn(), build_cnn(), warmup_steps=4)
    distiller.compile("sgd", jit_compile=BACKEND == "jax")
    counter = CountTraces(distiller)
    distiller.fit(x, y, 8, epochs=3, callbacks=[counter], verbose=0)
    distiller.fit(x, y, 8, epochs=2, callbacks=[counter], verbose=0)
    assert counter.traces == counter.at_end[0]  # the first epoch had all shapes
    # Keras looks at shapes once; TensorFlow traces once more to find the last batch's.
    assert counter.traces <= 3
