"""Losses against values and gradients of the public PyTorch programs."""

import pathlib

import numpy as np
import pytest
from backends import evaluate, value_and_gradient
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
cases = pytest.mark.parametrize("case", ["small", "cifar100"])


def assert_close(value, gradient, expected_value, expected_gradient):
    np.testing.assert_allclose(value, expected_value, rtol=2e-5)
    atol = 2e-5 * np.abs(expected_gradient).max()
    np.testing.assert_allclose(gradient, expected_gradient, rtol=0, atol=atol)


def recorded_sdd_loss(case, name):
    temperature, alpha, beta, gamma, nkd_temperature = SDD[f"{case}/hparams"]
    return {
        "kd": KD(temperature),
        "dkd": DKD(alpha, beta, temperature),
        "nkd_legacy": NKD(gamma, nkd_temperature, mask_target=False),
    }[name]


@pytest.mark.parametrize("case", ["small", "cifar100", "imagenet", "batch1"])
@pytest.mark.parametrize("name", ["kd", "dkd", "nkd_legacy"])
@pytest.mark.parametrize("scaled", [False, True])
def test_losses_of_the_sdd_authors(case, name, scaled):
    loss, key = recorded_sdd_loss(case, name), f"{case}/{'sd_' if scaled else ''}{name}"
    labels, teacher = SDD[f"{case}/labels"], SDD[f"{case}/teacher"]
    if scaled:
        loss = ScaleDecoupled(loss)
    else:
        teacher = teacher[:, 0]

    def mean_loss(student):
        return ops.mean(loss(labels, teacher, student if scaled else student[:, 0]))

    value, gradient = value_and_gradient(mean_loss, SDD[f"{case}/student"])
    assert_close(value, gradient, SDD[key], SDD[f"{key}_grad"])


@cases
@pytest.mark.parametrize("name", LOSSES)
def test_losses_of_other_methods(case, name):
    labels, teacher = BASELINES[f"{case}/labels"], BASELINES[f"{case}/teacher"]
    value, gradient = value_and_gradient(
        lambda student: ops.mean(LOSSES[name](labels, teacher, student)),
        BASELINES[f"{case}/student"],
    )
    key = f"{case}/{name}"
    assert_close(value, gradient, BASELINES[f"{key}/loss"], BASELINES[f"{key}/student_grad"])


@cases
def test_parts_of_losses(case):
    inputs = [BASELINES[f"{case}/{name}"] for name in ("labels", "teacher", "student")]

    def compute_parts(*inputs):
        return ops.stack([ops.mean(loss(*inputs)) for loss in PARTS.values()])

    expected = [BASELINES[f"{case}/{name}"] for name in PARTS]
    np.testing.assert_allclose(evaluate(compute_parts, *inputs), expected, rtol=2e-5)
    standardized = evaluate(lambda x: standardize(ops.convert_to_tensor(x))[0], inputs[-1])
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

    def compute_terms(students):
        student, student_strong = students[0], students[1]
        labels_tensor = ops.convert_to_tensor(labels)
        return ops.stack(
            [
                sum(CrossEntropy()(labels_tensor, x) for x in (student, student_strong)),
                samples * total(kd, weak, student)
                + total(kd, strong, student_strong, temperatures[:3])
                + total(kd, weak, student, temperatures[3:]),
                classes * total(ClassRelation, weak, student),
                samples * total(BatchRelation, weak, student),
            ]
        )

    def loss(students):
        supervised, *others = ops.unstack(compute_terms(students))
        return 0.1 * supervised + (9.0 if standardizes else 0.9) * sum(others)

    students = np.stack([BASELINES[f"{case}/student"], BASELINES[f"{case}/student_strong"]])
    key = f"{case}/{name}"
    expected = [BASELINES[f"{key}/{term}"] for term in ("ce", "kd", "cc", "bc")]
    np.testing.assert_allclose(evaluate(compute_terms, students), expected, rtol=2e-5)
    value, gradients = value_and_gradient(loss, students)
    for gradient, view in zip(gradients, ("student", "student_strong"), strict=True):
        assert_close(value, gradient, BASELINES[f"{key}/loss"], BASELINES[f"{key}/{view}_grad"])


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
