"""FitNet and SP against values, gradients and training steps of the public PyTorch programs."""

import keras
import numpy as np
import pytest
from backends import to_numpy, value_and_gradient
from keras import ops

from keras_sdd import terms
from terms.recorded import (
    BASELINES,
    STEPS,
    as_maps,
    assert_close,
    assert_taken,
    distil_maps,
    fit_maps,
    follow_recorded_run,
    read_features,
    to_keras,
)

# PyTorch's name of a weight of the regressor: ours.
WEIGHTS = {
    "conv.weight": ("conv", "kernel"),
    "conv.bias": ("conv", "bias"),
    "bn.weight": ("bn", "gamma"),
    "bn.bias": ("bn", "beta"),
    "bn.running_mean": ("bn", "moving_mean"),
    "bn.running_var": ("bn", "moving_variance"),
}


def find_weight(term, name):
    layer, variable = WEIGHTS[name]
    return getattr(getattr(term, layer), variable)


def recorded_maps(case):
    if case == "fitnet_same":
        return [read_features(who)[0] for who in ("student", "teacher")]
    return [as_maps(BASELINES[f"{case}/{who}_map"]) for who in ("student", "teacher")]


@pytest.mark.parametrize("case", ["fitnet_same", "fitnet_down", "fitnet_up", "fitnet_valid"])
def test_fitnet(case):
    """Value, gradient of the map, and those of the weights: what a step of rate 1 takes off."""
    student, teacher = recorded_maps(case)
    distiller = distil_maps([teacher], [student], terms.FitNet([("maps0", "maps0")], weight=1.0))
    (term,) = distiller.terms
    before = {}
    for name in ("conv.weight", "conv.bias", "bn.weight", "bn.bias"):
        before[name] = to_keras(BASELINES[f"{case}/param/{name}"])
        find_weight(term, name).assign(before[name])
    value, gradient = value_and_gradient(
        lambda x: ops.mean(term.compare(ops.convert_to_tensor(teacher), x)), student
    )
    np.testing.assert_allclose(value, BASELINES[f"{case}/loss"], rtol=2e-5)
    assert_close(gradient, as_maps(BASELINES[f"{case}/student_map_grad"]), "student_map")
    for name in ("moving_mean", "moving_variance"):  # on backends that run at once, it moved them
        getattr(term.bn, name).assign(
            np.full(teacher.shape[-1], name == "moving_variance", "float32")
        )
    logs = fit_maps(distiller, [teacher], [student])
    np.testing.assert_allclose(logs["fitnet_loss"][0], BASELINES[f"{case}/loss"], rtol=2e-5)
    for name, value in before.items():
        if name != "conv.bias":  # before a batch norm: what is recorded is rounding
            gradient = to_keras(BASELINES[f"{case}/param_grad/{name}"])
            assert_taken(find_weight(term, name), value, gradient, name)
    for name in ("bn.running_mean", "bn.running_var"):
        statistics = to_numpy(find_weight(term, name).value)
        assert_close(statistics, BASELINES[f"{case}/stats/{name}"], name)


def test_sp():
    student, teacher = (read_features(who)[3] for who in ("student", "teacher"))
    term = terms.SP()
    value, gradient = value_and_gradient(
        lambda x: ops.mean(term.compare(ops.convert_to_tensor(teacher), x)), student
    )
    np.testing.assert_allclose(value, BASELINES["sp/loss"], rtol=2e-5)
    assert_close(gradient, as_maps(BASELINES["sp/student3_grad"]), "student3")
    np.testing.assert_allclose(
        to_numpy(ops.mean(term.compare(teacher, student))), value, rtol=1e-6
    )  # arrays will do


def test_sp_of_extreme_maps():
    rng = np.random.default_rng(0)
    maps = np.maximum(rng.standard_normal((6, 2, 2, 3)), 0).astype("float32")
    maps[2] = 0.0  # a sample that no unit answers to
    term = terms.SP()
    expected = to_numpy(term.compare(maps, maps[::-1].copy()))
    for factor in (1e-15, 1e15):
        value, gradient = value_and_gradient(
            lambda x, factor=factor: ops.mean(term.compare(factor * maps, x)), factor * maps[::-1]
        )
        np.testing.assert_allclose(value, expected.mean(), rtol=1e-5)
        assert np.isfinite(gradient).all()
    value, gradient = value_and_gradient(
        lambda x: ops.mean(term.compare(maps[:1], x)), 0 * maps[:1]
    )
    assert np.isfinite(value) and np.isfinite(gradient).all()  # a batch of one, all zeros


def test_training_follows_the_recorded_runs():
    follow_recorded_run("fitnet", terms.FitNet(), find_weight)
    follow_recorded_run("sp", terms.SP())
    term = RecordedCRD([STEPS[f"crd/memory_v{i}"] for i in (1, 2)])

    def make_targets(step, labels):
        term.negatives.assign(STEPS["crd/contrast_index"][step][:, 1:])
        return {"labels": labels, "ids": STEPS["crd/index"][step].astype("int32")}

    follow_recorded_run("crd", term, find_crd_weight, make_targets)
    for i, memory in ((1, term.student_memory), (2, term.teacher_memory)):
        assert_close(to_numpy(memory.value), STEPS[f"crd/final_memory_v{i}"], f"memory_v{i}", 3e-3)
    normalizers = [float(x.value) for x in (term.student_normalizer, term.teacher_normalizer)]
    np.testing.assert_allclose(normalizers, STEPS["crd/Z"], rtol=2e-5)


@keras.saving.register_keras_serializable(package="tests")
class RecordedCRD(terms.CRD):
    """Begins with given memories, and takes the negatives that are assigned to it."""

    def __init__(self, memories, **options):
        self.memories = memories
        super().__init__(len(memories[0]), 16, num_features=memories[0].shape[1], **options)

    def build(self, *shapes):
        super().build(*shapes)
        self.student_memory.assign(self.memories[0])
        self.teacher_memory.assign(self.memories[1])
        self.negatives = self.add_weight(
            name="negatives", shape=(8, 16), dtype="int32", initializer="zeros", trainable=False
        )

    def draw_negatives(self, labels):
        return ops.convert_to_tensor(self.negatives)

    def get_config(self):
        return {}


def find_crd_weight(term, name):
    side, _, kind = name.partition(".linear.")
    layer = term.embed_student if side == "embed_s" else term.embed_teacher
    return layer.kernel if kind == "weight" else layer.bias


def test_crd():
    """Both steps: values, gradients, Z and memories; the second with the weights of the first."""
    memories = [BASELINES[f"crd/memory_v{i}"] for i in (1, 2)]
    pooled = [BASELINES[f"features/{who}_pooled"] for who in ("teacher", "student")]
    term = RecordedCRD(memories, layers=[("maps0", "maps0")], weight=1.0)
    distiller = distil_maps(*([x] for x in pooled), term)
    before = {
        f"{side}.linear.{kind}": to_keras(BASELINES[f"crd/{side}/param/linear.{kind}"])
        for side in ("embed_s", "embed_t")
        for kind in ("weight", "bias")
    }
    for step in ("step1", "step2"):
        if step == "step2":
            pooled = [BASELINES[f"crd/step2/{who}_pooled"] for who in ("teacher", "student")]
        for name, value in before.items():
            find_crd_weight(term, name).assign(value)
        index = BASELINES[f"crd/{step}/index"]
        term.negatives.assign(BASELINES[f"crd/{step}/contrast_index"][:, 1:])
        state = [ops.convert_to_numpy(v) for v in term.non_trainable_variables]

        def value_of(student, teacher=pooled[0], index=index):
            readings = ({"map0": ops.convert_to_tensor(teacher)}, {"map0": student})
            with keras.StatelessScope():  # what it remembers stays as it is
                return ops.mean(term(*readings, {"ids": ops.convert_to_tensor(index)}))

        _, gradient = value_and_gradient(value_of, pooled[1])
        expected = BASELINES[f"crd/{step}/student_pooled_grad"]
        assert_close(gradient, expected, f"{step} student_pooled")
        for variable, value in zip(term.non_trainable_variables, state, strict=True):
            np.testing.assert_array_equal(ops.convert_to_numpy(variable), value)
        logs = fit_maps(distiller, *([x] for x in pooled), ids=index.astype("int32"))
        np.testing.assert_allclose(logs["crd_loss"][0], BASELINES[f"crd/{step}/loss"], rtol=2e-5)
        for name, value in before.items():
            side, _, rest = name.partition(".")
            gradient = to_keras(BASELINES[f"crd/{step}/{side}/param_grad/{rest}"])
            assert_taken(find_crd_weight(term, name), value, gradient, f"{step} {name}")
        memories = [to_numpy(x.value) for x in (term.student_memory, term.teacher_memory)]
        for i in (0, 1):
            expected = BASELINES[f"crd/{step}/memory_v{i + 1}_rows"]
            assert_close(memories[i][index], expected, f"{step} memory_v{i + 1}")
        normalizers = [float(x.value) for x in (term.student_normalizer, term.teacher_normalizer)]
        np.testing.assert_allclose(normalizers, BASELINES[f"crd/{step}/Z"], rtol=2e-5)
    for i in (0, 1):
        assert_close(memories[i], BASELINES[f"crd/step2/memory_v{i + 1}"], f"memory_v{i + 1}")
