"""The scale-decoupled form of losses: options, properties, losses of one's own, bad input."""

import keras
import numpy as np
import pytest
import reference
from backends import BACKEND, evaluate, value_and_gradient
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from keras_sdd.losses import (
    DIST,
    DKD,
    GDKD,
    KD,
    MLLD,
    NKD,
    CellRelation,
    ClassAveraged,
    LogitLoss,
    ScaleDecoupled,
    Standardized,
    Sum,
)
from losses.harness import draw


@pytest.mark.parametrize(
    "weights, reduction, consistency",
    [
        ((1.0, 2.0), "mean", "label"),
        ((1.0, 2.0), "sum", "global"),
        ((1.0, 0.0), "mean", "global"),
        ((0.0, 0.3), "sum", "label"),
    ],
)
def test_formula_with_every_option(weights, reduction, consistency):
    teacher, student = draw(6, 8, 5, 3), draw(7, 8, 5, 3)
    labels = np.random.default_rng(8).integers(0, 3, 8)
    scaled = ScaleDecoupled(DKD(), *weights, consistency, reduction)
    value = evaluate(scaled, labels, teacher, student)
    logits = (x.astype("float64") for x in (teacher, student))
    expected = reference.scale_decoupled(
        reference.dkd, labels, *logits, weights, consistency, reduction
    )
    np.testing.assert_allclose(value, expected, rtol=2e-5, atol=1e-5)


def test_reference_alone_leaves_the_global_cell_out():
    teacher, student, labels = draw(9, 4, 5, 3), draw(10, 4, 5, 3), np.array([0, 1, 2, 0])
    args = (labels, teacher, student)
    whole = evaluate(ScaleDecoupled(KD(), reduction="sum"), *args)
    local = evaluate(ScaleDecoupled(KD(), reduction="sum", include_global=False), *args)
    np.testing.assert_allclose(
        whole - local, evaluate(KD(), labels, teacher[:, 0], student[:, 0]), rtol=1e-4
    )


@pytest.mark.parametrize("consistency", ["label", "global"])
@pytest.mark.parametrize(
    "scales, sizes",
    [((1, 2, 4), (1, 4, 16)), ((4, 1, 2), (1, 16, 4)), ((2, 4), (4, 16)), ((3,), (9,))],
)
def test_every_scale_has_one_vote(scales, sizes, consistency):
    with_global = 1 in scales
    teacher, student = (draw(seed, 6, sum(sizes) + (not with_global), 3) for seed in (24, 25))
    labels = np.random.default_rng(26).integers(0, 3, 6)
    scaled = ScaleDecoupled(
        DKD(), 1.0, 2.0, consistency, "mean_of_scales", include_global=with_global, scales=scales
    )
    value = evaluate(scaled, labels, teacher, student)
    assert value.dtype == "float32"
    cells = reference.scale_decoupled_cells(
        reference.dkd, labels, *(x.astype("float64") for x in (teacher, student)), (1.0, 2.0),
        consistency,
    )  # fmt: skip
    votes, start = [], 0 if with_global else 1
    for size in sizes:
        votes.append(cells[:, start : start + size].mean(-1))
        start += size
    np.testing.assert_allclose(value, np.mean(votes, axis=0), rtol=2e-5, atol=1e-5)


CELLS = st.tuples(
    st.integers(1, 4), st.integers(1, 6), st.integers(2, 9), st.integers(0, 10**6)
)  # B, N, K, seed
PLAIN = st.sampled_from([KD(), DKD(), NKD(), NKD(mask_target=False)])
# JAX compiles every shape that is drawn.
FEW = settings(max_examples=4 if BACKEND == "jax" else 12, deadline=None)


def draw_cells(sizes):
    batch, cells, classes, seed = sizes
    teacher, student = draw(seed, batch, cells, classes), draw(seed + 1, batch, cells, classes)
    labels = np.random.default_rng(seed).integers(0, classes, batch)
    return labels, teacher, student


@FEW
@given(CELLS, PLAIN, st.sampled_from(["label", "global"]), st.sampled_from(["mean", "sum"]))
def test_one_cell_is_the_plain_loss(sizes, loss, consistency, reduction):
    labels, teacher, student = draw_cells(sizes)
    scaled = ScaleDecoupled(loss, consistency=consistency, reduction=reduction)
    value = evaluate(scaled, labels, teacher[:, :1], student[:, :1])
    np.testing.assert_array_equal(value, evaluate(loss, labels, teacher[:, 0], student[:, 0]))


@FEW
@given(CELLS, PLAIN)
def test_equal_weights_are_the_mean_over_cells(sizes, loss):
    labels, teacher, student = draw_cells(sizes)
    value = evaluate(ScaleDecoupled(loss, 1.0, 1.0), labels, teacher, student)
    plain = evaluate(loss, np.repeat(labels[:, None], teacher.shape[1], 1), teacher, student)
    np.testing.assert_allclose(value, plain.mean(1), rtol=1e-5, atol=1e-6)


@FEW
@given(CELLS, PLAIN, st.randoms(use_true_random=False))
def test_order_of_local_cells_does_not_matter(sizes, loss, random):
    labels, teacher, student = draw_cells(sizes)
    local = list(range(1, teacher.shape[1]))
    random.shuffle(local)
    order = [0, *local]
    scaled = ScaleDecoupled(loss)
    value = evaluate(scaled, labels, teacher, student)
    permuted = evaluate(scaled, labels, teacher[:, order], student[:, order])
    np.testing.assert_allclose(value, permuted, rtol=1e-5, atol=1e-6)


@FEW
@given(CELLS, PLAIN, st.floats(-50, 50))
def test_constant_added_to_all_logits_of_a_cell_changes_nothing(sizes, loss, constant):
    labels, teacher, student = draw_cells(sizes)
    scaled = ScaleDecoupled(loss)
    value = evaluate(scaled, labels, teacher, student)
    moved = student.copy()
    moved[:, -1] += np.float32(constant)
    np.testing.assert_allclose(
        evaluate(scaled, labels, teacher, moved), value, rtol=1e-4, atol=1e-4
    )


@FEW
@given(CELLS, st.sampled_from([KD(), DKD(), KD(1.0)]))
def test_student_like_teacher_has_no_loss_and_no_gradient(sizes, loss):
    labels, teacher, _ = draw_cells(sizes)
    scaled = ScaleDecoupled(loss)
    value, gradient = value_and_gradient(lambda s: ops.sum(scaled(labels, teacher, s)), teacher)
    np.testing.assert_allclose(value, 0.0, atol=1e-5)
    np.testing.assert_allclose(gradient, 0.0, atol=1e-5)


def test_extreme_constant_cells():
    for loss in (KD(), DKD(), NKD()):
        teacher, student = np.full((1, 1, 4), 1e4, "float32"), np.full((1, 1, 4), -1e4, "float32")
        value = evaluate(ScaleDecoupled(loss), np.array([3]), teacher, student)
        assert np.isfinite(value).all()


@pytest.mark.parametrize("loss", [ScaleDecoupled(KD()), ScaleDecoupled(NKD())], ids=repr)
@pytest.mark.parametrize("label", [-1, 5, 10**6])
def test_label_outside_the_classes_gives_nan(loss, label):
    teacher, student = draw(12, 2, 1, 5), draw(13, 2, 1, 5)
    value = evaluate(loss, np.array([1, label]), teacher, student)
    assert np.isfinite(value[0]) and np.isnan(value[1])
    _, gradient = value_and_gradient(
        lambda s: ops.sum(loss(np.array([1, label]), teacher, s)), student
    )
    assert np.isfinite(gradient[0]).all() and np.isnan(gradient[1]).any()


def test_half_precision_is_cast():
    half = [draw(seed, 4, 300).astype("float16") for seed in (14, 15)]
    value, labels = evaluate(DKD(), np.array([0, 3, 99, 120]), *half), np.array([0, 3, 99, 120])
    whole = evaluate(DKD(), labels, *(x.astype("float32") for x in half))
    assert value.dtype == "float32"
    np.testing.assert_array_equal(value, whole)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int32", "int64", "float32"])
def test_labels_of_any_dtype(dtype):
    teacher, student, labels = draw(14, 4, 300), draw(15, 4, 300), np.array([0, 3, 99, 120])
    np.testing.assert_array_equal(
        evaluate(DKD(), labels.astype(dtype), teacher, student),
        evaluate(DKD(), labels, teacher, student),
    )


def test_nan_logits_are_not_hidden():
    teacher, student = draw(16, 2, 1, 5), draw(17, 2, 1, 5)
    teacher[1, 0, 2] = np.nan
    value = evaluate(ScaleDecoupled(KD()), np.array([2, 0]), teacher, student)
    assert np.isfinite(value[0]) and np.isnan(value[1])


@keras.saving.register_keras_serializable(package="tests")
class AbsoluteDifference(LogitLoss):
    """What a user writes: one method."""

    def call(self, labels, teacher_logits, student_logits):
        return ops.sum(ops.abs(teacher_logits - student_logits), axis=-1)


def test_own_loss_gets_its_scale_decoupled_form():
    teacher, student, labels = draw(18, 3, 5, 4), draw(19, 3, 5, 4), np.array([0, 1, 2])
    scaled = ScaleDecoupled(AbsoluteDifference(), 1.0, 1.0)
    expected = np.abs(teacher - student).sum(-1).mean(-1)
    np.testing.assert_allclose(evaluate(scaled, labels, teacher, student), expected, rtol=1e-5)


@pytest.mark.parametrize(
    "loss",
    [DKD(0.5, 6.0, 3.0), Sum([Standardized(KD()), DIST()], [1.0, 2.0]), AbsoluteDifference()],
    ids=repr,
)
def test_serialization(loss):
    scaled = ScaleDecoupled(loss, 0.5, 3.0, "global", "sum")
    of_scales = ScaleDecoupled(loss, reduction="mean_of_scales", scales=(4, 1, 2))
    for original in (loss, scaled, of_scales, ClassAveraged(loss, merge=False)):
        config = keras.saving.serialize_keras_object(original)
        restored = keras.saving.deserialize_keras_object(config)
        assert type(restored) is type(original)
        assert repr(restored) == repr(original)


@pytest.mark.parametrize(
    "build, match",
    [
        (lambda: KD(0.0), "temperature=0.0"),
        (lambda: KD(-1), "temperature=-1"),
        (lambda: KD(float("nan")), "temperature=nan"),
        (lambda: KD("4"), "temperature='4'"),
        (lambda: DKD(alpha=-1.0), "alpha=-1.0"),
        (lambda: DKD(beta=float("inf")), "beta=inf"),
        (lambda: NKD(gamma=None), "gamma=None"),
        (lambda: GDKD(num_top=0), "num_top=0"),
        (lambda: GDKD(num_top=1, three_parts=True), "integer, 2 or greater"),
        (lambda: GDKD(weights=(1.0, 2.0)), r"3 numbers. Received: weights=\(1.0, 2.0\)"),
        (lambda: GDKD()(np.zeros(1), *np.zeros((2, 1, 5))), "num_top=5, 5 classes"),
        (lambda: MLLD(4.0), "one or more numbers. Received: temperatures=4.0"),
        (lambda: MLLD((4.0, 0.0)), "temperatures=0.0"),
        (lambda: Standardized(KD), "loss=<class"),
        (lambda: Sum([]), "one loss or more"),
        (lambda: Sum([KD(), "dkd"]), "loss='dkd'"),
        (lambda: Sum([KD(), DKD()], [1.0]), r"2 numbers. Received: weights=\[1.0\]"),
        (lambda: DIST()(np.array(0), *np.zeros((2, 5))), r"\(B, ..., K\)"),
        (lambda: CellRelation(scales=(0,)), r"scales=\(0,\)"),
        (lambda: CellRelation(scale_weights=(1.0,)), r"3 numbers. Received: scale_weights"),
        (
            lambda: CellRelation(scales=(2, 4))(np.zeros(2), *np.zeros((2, 2, 20, 3))),
            r"\(B, 21, K\) of the scales \(2, 4\). Received: .*\(2, 20, 3\)",
        ),
        (lambda: ClassAveraged("kd"), "loss='kd'"),
        (
            lambda: ClassAveraged(KD())(np.zeros(2), *np.zeros((2, 2, 1, 3))),
            r"scales=\(4,\). Received: cells \(2, 1, 3\)",
        ),
        (lambda: ClassAveraged(KD())(np.zeros(2), *np.zeros((2, 3, 5, 3))), r"labels \(2,\)"),
        (lambda: ScaleDecoupled("kd"), "loss='kd'"),
        (lambda: ScaleDecoupled(ScaleDecoupled(KD())), "ScaleDecoupled"),
        (lambda: ScaleDecoupled(KD(), consistency="labels"), "'label' or 'global'"),
        (lambda: ScaleDecoupled(KD(), reduction="none"), "'mean' or 'sum'"),
        (lambda: ScaleDecoupled(KD(), reduction="mean_of_scales"), "scales=None"),
        (
            lambda: ScaleDecoupled(
                KD(), reduction="mean_of_scales", scales=(1,), include_global=False
            ),
            r"scales=\(1,\), include_global=False",
        ),
        (
            lambda: ScaleDecoupled(KD(), reduction="mean_of_scales", scales=(1, 2))(
                np.zeros(2), *np.zeros((2, 2, 21, 3))
            ),
            r"scales \(1, 2\) have 5 cells .* Received: 21 cells",
        ),
        (lambda: ScaleDecoupled(KD(), scales=(2, 2)), r"scales=\(2, 2\)"),
        (lambda: ScaleDecoupled(KD(), complementary_weight=-2), "complementary_weight=-2"),
        (lambda: KD()(np.zeros(3), np.zeros((3, 5)), np.zeros((3, 4))), r"\(3, 5\).*\(3, 4\)"),
        (lambda: KD()(np.zeros(2), np.zeros((3, 5)), np.zeros((3, 5))), r"labels \(2,\)"),
        (lambda: ScaleDecoupled(KD())(np.zeros(3), *np.zeros((2, 3, 5))), r"cells \(B, N, K\)"),
    ],
)
def test_bad_input(build, match):
    with pytest.raises(ValueError, match=match):
        build()
