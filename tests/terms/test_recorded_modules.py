"""Terms with trained modules against recorded values, gradients, statistics and steps."""

import keras
import numpy as np
from backends import BACKEND, to_numpy, value_and_gradient
from keras import layers, ops

import keras_sdd
from keras_sdd import terms
from terms.recorded import (
    BASELINES,
    CHEAPEST,
    as_maps,
    assert_close,
    assert_taken,
    distil_maps,
    fit_maps,
    follow_recorded_run,
    read_features,
    to_keras,
)

NORM = {
    "weight": "gamma", "bias": "beta",
    "running_mean": "moving_mean", "running_var": "moving_variance",
}  # fmt: skip


def find_reviewkd_weight(term, name):
    """`"I.conv1.1.weight"`, I counted from the pooled stage: that of a batch norm."""
    index, module, step, kind = name.split(".")
    stage = term.stages[-1 - int(index)]
    if module == "att_conv":
        return getattr(stage.attention, {"weight": "kernel", "bias": "bias"}[kind])
    layer = {"conv1": "narrow", "conv2": "widen"}[module]
    if step == "0":
        return getattr(stage, layer).kernel
    return getattr(getattr(stage, f"{layer}_bn"), NORM[kind])


def find_semckd_weight(term, name):
    """`"regressor01.regressor.4.weight"`, or `"key_weight0.linear1.bias"`."""
    module, layer, *_, kind = name.split(".")
    if layer == "regressor":
        stage, step = [int(x) for x in module.removeprefix("regressor")], name.split(".")[2]
        regressor = term.regressors[stage[0] * len(term.keys) + stage[1]]
        found = {"0": "conv1", "1": "bn1", "3": "conv2", "4": "bn2", "6": "conv3"}[step]
        return getattr(getattr(regressor, found), NORM[kind] if step in "14" else "kernel")
    embeddings = term.keys if module.startswith("key") else term.queries
    layer = {"linear1": "hidden", "linear2": "out"}[layer]
    dense = getattr(embeddings[int(module[-1])], layer)
    return dense.kernel if kind == "weight" else dense.bias


def assign_recorded(case, term, find_weight):
    """Give the term its recorded weights, and return them by PyTorch's names."""
    start = f"{case}/param/"
    names = [x.removeprefix(start) for x in BASELINES.files if x.startswith(start)]
    weights = {name: to_keras(BASELINES[start + name]) for name in names}
    for name, value in weights.items():
        find_weight(term, name).assign(value)
    owned = sorted(id(find_weight(term, name)) for name in names)
    assert owned == sorted(map(id, term.trainable_variables))
    return weights


def check_step(case, distiller, find_weight, teacher_maps, student_maps, tolerance=2e-5):
    """Check value, gradients of weights, and statistics, in a step of rate 1."""
    (term,) = distiller.terms
    for variable in term.non_trainable_variables:
        name = variable.path.rpartition("/")[-1]
        if name.startswith("moving"):
            variable.assign(np.full(variable.shape, name == "moving_variance", "float32"))
    before = assign_recorded(case, term, find_weight)
    logs = fit_maps(distiller, teacher_maps, student_maps)
    np.testing.assert_allclose(logs[term.name][0], BASELINES[f"{case}/loss"], rtol=2e-5)
    for name, value in before.items():
        gradient = to_keras(BASELINES[f"{case}/param_grad/{name}"])
        assert_taken(find_weight(term, name), value, gradient, name, tolerance)
    for name in BASELINES.files:
        if name.startswith(f"{case}/stats/"):
            variable = find_weight(term, name.removeprefix(f"{case}/stats/"))
            assert_close(to_numpy(variable.value), BASELINES[name], name)


def find_map_gradients(term, teacher_maps, student_maps):
    """The mean of the term, and its gradients of the student's maps."""
    ends = np.cumsum([x.size for x in student_maps]).tolist()

    def measure(joined):
        parts = [
            ops.reshape(joined[end - x.size : end], x.shape)
            for x, end in zip(student_maps, ends, strict=True)
        ]
        with keras.StatelessScope():  # what the batch norms keep stays as it is
            return ops.mean(term.compare([ops.convert_to_tensor(x) for x in teacher_maps], parts))

    joined = np.concatenate([x.ravel() for x in student_maps])
    value, gradient = value_and_gradient(measure, joined)
    parts = np.split(gradient, ends[:-1])
    return value, [part.reshape(x.shape) for part, x in zip(parts, student_maps, strict=True)]


def test_reviewkd():
    teacher_maps, student_maps, before_activation = (
        [*read_features(who, kind)[1:], BASELINES[f"features/{who}_pooled"]]
        for who, kind in (("teacher", "preact"), ("student", "feats"), ("student", "preact"))
    )
    term = terms.ReviewKD([(f"maps{i}", f"maps{i}") for i in range(4)], weight=1.0)
    distiller = distil_maps(teacher_maps, student_maps, term)
    for case, maps in (("reviewkd", student_maps), ("reviewkd_preact", before_activation)):
        assign_recorded(case, term, find_reviewkd_weight)
        value, gradients = find_map_gradients(term, teacher_maps, maps)
        np.testing.assert_allclose(value, BASELINES[f"{case}/loss"], rtol=2e-5)
        for i, gradient in zip((1, 2, 3), gradients, strict=False):
            assert_close(
                gradient, as_maps(BASELINES[f"{case}/student{i}_grad"]), f"{case}, map {i}"
            )
        assert_close(gradients[3], BASELINES[f"{case}/student_pooled_grad"], f"{case}, pooled")
        check_step(case, distiller, find_reviewkd_weight, teacher_maps, maps)


def test_semckd():
    maps = [
        [as_maps(BASELINES[f"semckd/{who}{i}"]) for i in range(3)] for who in ("teacher", "student")
    ]
    term = terms.SemCKD(8, [(f"maps{i}", f"maps{i}") for i in range(3)], weight=1.0)
    distiller = distil_maps(*maps, term)
    assign_recorded("semckd", term, find_semckd_weight)
    value, gradients = find_map_gradients(term, *maps)
    np.testing.assert_allclose(value, BASELINES["semckd/loss"], rtol=2e-5)
    for i, gradient in enumerate(gradients):
        # On JAX a ReLU falls to the other side at one position.
        tolerance = 4e-3 if BACKEND == "jax" else 3e-3
        assert_close(gradient, as_maps(BASELINES[f"semckd/student{i}_grad"]), f"map {i}", tolerance)
    check_step("semckd", distiller, find_semckd_weight, *maps, 3e-3)


def find_projector_weight(student, name):
    """`"transfer.4.weight"`: PyTorch counts the steps as we do."""
    _, step, kind = name.split(".")
    layer = student.get_layer("projector").layers[int(step)]
    return layer.kernel if step in "036" else getattr(layer, NORM[kind])


def build_for_maps(shape, start, end):
    """A classifier of the part of its input (464,) that is a map."""
    inputs = keras.Input((16 * 24 + 4 * 20,))
    x = layers.Reshape((-1, 1))(inputs)
    x = layers.Cropping1D((start, end))(x)
    x = layers.GlobalAveragePooling2D()(layers.Reshape(shape)(x))
    return keras.Model(inputs, layers.Dense(12)(x))


def test_simkd(tmp_path):
    teacher_map, student_map = (read_features(who)[3] for who in ("teacher", "student"))
    teacher = build_for_maps((4, 4, 24), 0, 4 * 20)
    kernel, bias = (BASELINES[f"simkd/classifier/param/{x}"] for x in ("weight", "bias"))
    teacher.set_weights([kernel.T, bias])
    student = keras_sdd.reuse_classifier(teacher, build_for_maps((2, 2, 20), 16 * 24, 0))
    term = terms.SimKD()
    distiller = keras_sdd.Distiller(teacher, student, [term], student_loss_weight=0.0)
    distiller.compile(keras.optimizers.SGD(1.0), **CHEAPEST)
    start = "simkd/param/"
    names = [x.removeprefix(start) for x in BASELINES.files if x.startswith(start)]
    before = {name: to_keras(BASELINES[start + name]) for name in names}
    for name, value in before.items():
        find_projector_weight(student, name).assign(value)
    assert len(student.trainable_variables) == len(before)

    def measure(x):
        with keras.StatelessScope():
            projected = student.get_layer("projector")(x, training=True)
            return ops.mean(term.compare(ops.convert_to_tensor(teacher_map), projected))

    _, gradient = value_and_gradient(measure, student_map)
    assert_close(gradient, as_maps(BASELINES["simkd/student3_grad"]), "student3")
    joined = [np.reshape(x, (8, -1)) for x in (teacher_map, student_map)]
    with keras.StatelessScope():
        logits = to_numpy(student(np.concatenate(joined, axis=1), training=True))
    assert_close(logits, BASELINES["simkd/logits_training"], "logits in training")
    logs = fit_maps(distiller, [teacher_map], [student_map])
    for name in BASELINES.files:
        if name.startswith("simkd/stats/"):
            variable = find_projector_weight(student, name.removeprefix("simkd/stats/"))
            assert_close(to_numpy(variable.value), BASELINES[name], name)
    np.testing.assert_allclose(logs["simkd_loss"][0], BASELINES["simkd/loss"], rtol=2e-5)
    for name, value in before.items():
        variable = find_projector_weight(student, name)
        gradient = to_keras(BASELINES[f"simkd/param_grad/{name}"])
        assert_taken(variable, value, gradient, name)
        variable.assign(value)
    distiller.save(tmp_path / "distiller.keras")
    loaded = keras.saving.load_model(tmp_path / "distiller.keras").student
    assert len(loaded.trainable_variables) == len(before)
    logits = loaded.predict(np.concatenate(joined, axis=1), verbose=0)
    # With the statistics of the step.
    assert_close(logits, BASELINES["simkd/logits_inference_after"], "logits")


def test_training_follows_the_recorded_run():
    term = terms.ReviewKD(weight=2.5)  # 5 times the warm-up's 0.5
    follow_recorded_run("reviewkd", term, find_reviewkd_weight)
