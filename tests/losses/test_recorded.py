"""Losses against values and gradients of the public PyTorch programs."""

import pathlib

import numpy as np
import pytest
from backends import BACKEND, to_numpy, value_and_gradient
from keras import ops

from keras_sdd.losses import (
    DIST,
    DKD,
    GDKD,
    KD,
    NKD,
    RLD,
    TTM,
    WSLD,
    WTTM,
    BatchRelation,
    CellRelation,
    ClassRelation,
    CrossEntropy,
    ScaleDecoupled,
    Standardized,
    Swapped,
)
from keras_sdd.losses.standardized import standardize

FIXTURES = pathlib.Path(__file__).parents[1] / "fixtures"
SDD = np.load(FIXTURES / "losses.npz")
BASELINES = np.load(FIXTURES / "baselines.npz")
ICD = np.load(FIXTURES / "icd.npz")
# Name of a recorded loss: ours.
LOSSES = {
    "kd": KD(),
    "dkd": DKD(),
    "lskd_kd": Standardized(KD(2.0)),
    "lskd_dkd": Standardized(DKD(temperature=2.0)),
    "dist_t4": DIST(),
    "dist_t1": DIST(temperature=1.0),
    "ttm": TTM(),
    "ttm_power_025": TTM(0.25),
    "wttm": WTTM(),
    "nkd": NKD(),
    "nkd_t3": NKD(3.5, 3.0),
    "wsld": WSLD(),
    "rld": RLD(),
    "rld_scd": RLD(beta=0.0),
    "rld_mcd": RLD(alpha=0.0, beta=1.0),
    "rld_same_t": RLD(confidence_temperature=4.0),
    "rld_lskd": Standardized(RLD(temperature=2.0, confidence_temperature=2.0)),
    "swap": Swapped(KD()),
    "gdkd": GDKD(),
    "gdkd3": GDKD(4, (1.0, 1.0, 8.0), three_parts=True),
}
# Name of a recorded part of a loss: ours.
PARTS = {
    "dist_t4/inter": DIST(gamma=0.0),
    "dist_t4/intra": DIST(beta=0.0),
    "gdkd/high": GDKD(weights=(1.0, 0.0, 0.0)),
    "gdkd/top": GDKD(weights=(0.0, 1.0, 0.0)),
    "gdkd/other": GDKD(weights=(0.0, 0.0, 1.0)),
}
# JAX compiles them all again for other sizes.
cases = pytest.mark.parametrize("case", ["small"] if BACKEND == "jax" else ["small", "cifar100"])


def assert_close(value, gradient, expected_value, expected_gradient, name=""):
    np.testing.assert_allclose(value, expected_value, rtol=2e-5, err_msg=name)
    atol = 2e-5 * np.abs(expected_gradient).max()
    np.testing.assert_allclose(gradient, expected_gradient, rtol=0, atol=atol, err_msg=name)


def values_and_gradients(functions, x):
    """Values (F,) and gradients (F, ...) of scalar functions of an array, in one program.

    Every function has a copy of the array, and a factor: its value is the factor's gradient.
    """
    copies = np.repeat(x[None], len(functions), 0)

    def total(flat):
        factors, inputs = flat[: len(functions)], ops.reshape(flat[len(functions) :], copies.shape)
        return sum(f(inputs[i]) * factors[i] for i, f in enumerate(functions))

    ones = np.ones(len(functions), "float32")
    _, gradient = value_and_gradient(total, np.concatenate([ones, copies.ravel()]))
    return gradient[: len(functions)], gradient[len(functions) :].reshape(copies.shape)


def recorded_sdd_losses(case):
    temperature, alpha, beta, gamma, nkd_temperature = SDD[f"{case}/hparams"]
    return {
        "kd": KD(temperature),
        "dkd": DKD(alpha, beta, temperature),
        "nkd_legacy": NKD(gamma, nkd_temperature, mask_target=False),
    }


@pytest.mark.parametrize("case", ["small", "cifar100", "imagenet", "batch1"])
@pytest.mark.parametrize("scaled", [False, True])
def test_losses_of_the_sdd_authors(case, scaled):
    labels, teacher = SDD[f"{case}/labels"], SDD[f"{case}/teacher"]
    losses = recorded_sdd_losses(case)

    def build(loss):
        if scaled:
            return lambda student: ops.mean(ScaleDecoupled(loss)(labels, teacher, student))
        return lambda student: ops.mean(loss(labels, teacher[:, 0], student[:, 0]))

    values, gradients = values_and_gradients(
        [build(loss) for loss in losses.values()], SDD[f"{case}/student"]
    )
    for name, value, gradient in zip(losses, values, gradients, strict=True):
        key = f"{case}/{'sd_' if scaled else ''}{name}"
        assert_close(value, gradient, SDD[key], SDD[f"{key}_grad"], name)


@cases
def test_losses_of_other_methods(case):
    labels, teacher, student = (BASELINES[f"{case}/{x}"] for x in ("labels", "teacher", "student"))
    values, gradients = values_and_gradients(
        [
            lambda x, loss=loss: ops.mean(loss(labels, teacher, x))
            for loss in [*LOSSES.values(), *PARTS.values()]
        ],
        student,
    )
    for i, name in enumerate(LOSSES):
        key = f"{case}/{name}"
        expected = BASELINES[f"{key}/loss"], BASELINES[f"{key}/student_grad"]
        assert_close(values[i], gradients[i], *expected, name)
    for value, name in zip(values[len(LOSSES) :], PARTS, strict=True):
        np.testing.assert_allclose(value, BASELINES[f"{case}/{name}"], rtol=2e-5, err_msg=name)


@cases
def test_standardized_logits(case):
    standardized = to_numpy(standardize(ops.convert_to_tensor(BASELINES[f"{case}/student"]))[0])
    recorded = BASELINES[f"{case}/lskd_standardized"]
    np.testing.assert_allclose(standardized, recorded, rtol=0, atol=2e-5 * np.abs(recorded).max())


@cases
def test_standardized_cells(case):
    loss = ScaleDecoupled(Standardized(KD(2.0)))
    labels, teacher = BASELINES[f"{case}/labels"], BASELINES[f"{case}/teacher_cells"]
    value, gradient = value_and_gradient(
        lambda student: ops.mean(loss(labels, teacher, student)),
        BASELINES[f"{case}/student_cells"],
    )
    key = f"{case}/sd_lskd_kd"
    assert_close(value, gradient, BASELINES[f"{key}/loss"], BASELINES[f"{key}/student_cells_grad"])


def masked_parts(teacher):
    """The parts of samples and of classes that the teacher is least sure of, to the median."""
    p = np.exp(teacher - teacher.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    of_samples, of_classes = p.max(-1), p.sum(0)
    return [float(np.mean(x <= np.percentile(x, 50))) for x in (of_samples, of_classes)]


@cases
@pytest.mark.parametrize("name", ["mlld", "mlld_lskd"])
def test_two_views_of_mlld(case, name):
    """The authors' two-view loss, made of our losses and of their masks, which scale whole parts.

    The second view takes part in cross-entropy and, at three temperatures, in KD. With
    standardized logits the relations are of the bare ones.
    """
    standardizes = name == "mlld_lskd"
    temperatures = (2.0 if standardizes else 4.0, 3.0, 5.0, 2.0, 6.0)
    labels = BASELINES[f"{case}/labels"]
    weak, strong = BASELINES[f"{case}/teacher"], BASELINES[f"{case}/teacher_strong"]
    samples, classes = masked_parts(weak.astype("float64"))

    def total(build, teacher, student, chosen=temperatures):
        return sum(ops.mean(build(t)(labels, teacher, student)) for t in chosen)

    def kd(temperature):
        return Standardized(KD(temperature)) if standardizes else KD(temperature)

    supervised = CrossEntropy()
    terms = {
        "ce": lambda x: sum(supervised(ops.convert_to_tensor(labels), x[i]) for i in (0, 1)),
        "kd": lambda x: (
            samples * total(kd, weak, x[0])
            + total(kd, strong, x[1], temperatures[:3])
            + total(kd, weak, x[0], temperatures[3:])
        ),
        "cc": lambda x: classes * total(ClassRelation, weak, x[0]),
        "bc": lambda x: samples * total(BatchRelation, weak, x[0]),
    }
    students = np.stack([BASELINES[f"{case}/student"], BASELINES[f"{case}/student_strong"]])
    key = f"{case}/{name}"
    values, gradients = values_and_gradients(list(terms.values()), students)
    expected = [BASELINES[f"{key}/{term}"] for term in terms]
    np.testing.assert_allclose(values, expected, rtol=2e-5)
    weights = np.array([0.1, *[9.0 if standardizes else 0.9] * 3])
    loss, gradient = weights @ values, np.tensordot(weights, gradients, 1)
    for i, view in enumerate(("student", "student_strong")):
        expected = BASELINES[f"{key}/loss"], BASELINES[f"{key}/{view}_grad"]
        assert_close(loss, gradient[i], *expected, view)


@pytest.mark.parametrize("scales", [(1, 2, 4), (1, 2), (1, 4)])
def test_relation_of_cells(scales):
    chosen = {(1, 2, 4): [*range(21)], (1, 2): [*range(5)], (1, 4): [0, *range(5, 21)]}[scales]
    teacher, student = (ICD[f"{who}_cells"][:, chosen] for who in ("teacher", "student"))
    loss = CellRelation(scales=scales)
    value, gradient = value_and_gradient(
        lambda student: ops.mean(loss(np.zeros(len(teacher)), teacher, student)), student
    )
    key = f"scales_{'_'.join(map(str, scales))}"
    assert_close(value, gradient, ICD[f"{key}/loss"], ICD[f"{key}/student_cells_grad"])
