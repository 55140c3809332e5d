"""The recipes' optimizer and learning rates against PyTorch's rules written out in NumPy."""

import keras
import numpy as np
import pytest
from backends import to_numpy
from small_classifiers import assert_same_weights, build_cnn, copy_weights, draw_data

from keras_sdd.optimizers import SGD
from keras_sdd.schedules import step_learning_rate


def run_pytorch_rule(weights, gradients, rates, momentum, decay, nesterov):
    velocity = np.zeros_like(weights)
    for gradient, rate in zip(gradients, rates, strict=True):
        g = gradient + decay * weights
        velocity = momentum * velocity + g
        step = g + momentum * velocity if nesterov and momentum else velocity
        weights = weights - rate * step
    return weights


@pytest.mark.parametrize(
    "momentum, decay, nesterov",
    [(0.9, 5e-2, False), (0.9, 0.0, False), (0.0, 5e-2, False), (0.8, 1e-2, True)],
)
def test_sgd_follows_pytorch_over_a_step_of_the_schedule(momentum, decay, nesterov):
    rng = np.random.default_rng(0)
    start, gradients = rng.standard_normal((3, 2)), rng.standard_normal((6, 3, 2))
    variable = keras.Variable(start.astype("float32"))
    optimizer = SGD(step_learning_rate(0.1, (2, 3), steps_per_epoch=2), momentum, decay, nesterov)
    for gradient in gradients:
        optimizer.apply([keras.ops.convert_to_tensor(gradient.astype("float32"))], [variable])
    rates = [0.1] * 4 + [0.01] * 2
    expected = run_pytorch_rule(start, gradients, rates, momentum, decay, nesterov)
    np.testing.assert_allclose(to_numpy(variable.value), expected, rtol=1e-5, atol=1e-6)


def test_step_learning_rate_drops_after_whole_epochs():
    rate = step_learning_rate(1.0, (150, 180), steps_per_epoch=10)
    steps = [0, 1499, 1500, 1799, 1800, 10**6]
    rates = [float(to_numpy(keras.ops.convert_to_tensor(rate(s)))) for s in steps]
    np.testing.assert_allclose(rates, [1.0, 1.0, 0.1, 0.1, 0.01, 0.01], rtol=1e-6)


@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
def test_sgd_trains_saves_and_resumes(policy, tmp_path):
    keras.config.set_dtype_policy(policy)
    x, y = draw_data(8)
    model = build_cnn()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(SGD(0.1, weight_decay=1e-3, global_clipnorm=40.0), loss, jit_compile=False)
    model.fit(x, y, batch_size=4, shuffle=False, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    for each in (model, loaded):
        each.fit(x, y, batch_size=4, shuffle=False, verbose=0)
    assert_same_weights(loaded, copy_weights(model))


@pytest.mark.parametrize(
    "build, match",
    [
        (lambda: SGD(momentum=-0.9), "momentum=-0.9"),
        (lambda: SGD(weight_decay=float("nan")), "weight_decay=nan"),
        (lambda: step_learning_rate(0.1, (3, 2), 10), "milestones"),
        (lambda: step_learning_rate(0.1, (0, 2), 10), "milestones"),
        (lambda: step_learning_rate(0.0, (1,), 10), "initial"),
    ],
)
def test_bad_input(build, match):
    with pytest.raises(ValueError, match=match):
        build()
