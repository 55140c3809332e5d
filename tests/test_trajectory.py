"""Six steps of training, from `fit`, against recorded runs of the authors' PyTorch code.

Networks, checkpoint conversion, optimizer, losses and the step all have a part in them.
"""

import json
import pathlib

import numpy as np
import pytest
from backends import to_numpy
from fixtures.weights import make_state_dict

from keras_sdd import SDDDistiller
from keras_sdd.converters import load_torch_state_dict
from keras_sdd.losses import DKD, KD, NKD
from keras_sdd.models import build
from keras_sdd.normalization import BatchNorm
from keras_sdd.optimizers import SGD

FIXTURES = pathlib.Path(__file__).parent / "fixtures"
RECORDED = np.load(FIXTURES / "trajectory.npz")
NAME = "cifar100/resnet8x4"
METHODS = {
    "sd_kd": {
        "distillation_loss": KD(4.0),
        "scales": (1, 2),
        "student_loss_weight": 0.1,
        "distillation_weight": 0.9,
    },
    "sd_dkd": {"distillation_loss": DKD(1.0, 2.0, 4.0), "distillation_weight": 0.5},
    "sd_nkd_legacy": {
        "distillation_loss": NKD(1.5, 1.0, mask_target=False),
        "distillation_weight": 0.5,
    },
    "dkd": {"distillation_loss": DKD(1.0, 2.0, 4.0), "scales": (1,), "distillation_weight": 0.5},
}


def build_recorded(seed):
    shapes = json.loads((FIXTURES / "models" / "state_dicts.json").read_text())[NAME]["state_dict"]
    return load_torch_state_dict(build(NAME), make_state_dict(shapes, seed))


@pytest.mark.parametrize("method", METHODS)
def test_training_follows_the_recorded_run(method):
    rng = np.random.default_rng([0, 99])
    images = rng.standard_normal((6, 8, 3, 32, 32)).astype("float32").transpose(0, 1, 3, 4, 2)
    labels = rng.integers(0, 100, (6, 8))
    distiller = SDDDistiller(build_recorded(7), build_recorded(8), **METHODS[method])
    distiller.compile(SGD(0.01, momentum=0.9, weight_decay=5e-4), jit_compile="auto")
    for step in range(6):
        logs = distiller.fit(images[step], labels[step], batch_size=8, verbose=0).history
        terms = logs["student_loss"][0], logs["distillation_loss"][0]
        expected = RECORDED[f"{method}/ce"][step], RECORDED[f"{method}/kd"][step]
        np.testing.assert_allclose(terms, expected, rtol=1e-3, err_msg=f"step {step}")
    logits, expected = to_numpy(distiller.student(images[0])), RECORDED[f"{method}/final_logits"]
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-3 * np.abs(expected).max())


def test_moving_variance_is_that_of_pytorch():
    x = np.random.default_rng(1).standard_normal((3, 2, 2, 5)).astype("float32")
    layer = BatchNorm(momentum=0.9, epsilon=1e-5)
    layer(x, training=True)
    np.testing.assert_allclose(
        to_numpy(layer.moving_variance.value), 0.9 + 0.1 * x.var((0, 1, 2), ddof=1), rtol=1e-5
    )
    np.testing.assert_allclose(
        to_numpy(layer.moving_mean.value), 0.1 * x.mean((0, 1, 2)), rtol=1e-4, atol=1e-6
    )
