"""CRD: what it draws and remembers, what it asks of the targets, and recorded values."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from backends import BACKEND, to_numpy, value_and_gradient
from keras import ops
from small_classifiers import NUM_CLASSES, build_cnn, draw_data

from keras_sdd import Distiller, terms
from terms.recorded import (
    BASELINES,
    STEPS,
    assert_close,
    assert_taken,
    distil_maps,
    fit_maps,
    follow_recorded_run,
    to_keras,
)

X, Y = draw_data(24)
on_one = pytest.mark.skipif(BACKEND == "jax", reason="alike on all backends, slow to compile here")
IDS = np.arange(len(X), dtype="int32")


def build(num_samples=24, **options):
    term = terms.CRD(num_samples, **{"num_negatives": 8, "num_features": 6, "seed": 1} | options)
    distiller = Distiller(build_cnn(8, "teacher"), build_cnn(4, "student"), [term])
    distiller.compile("sgd", jit_compile=BACKEND == "jax")
    return distiller, term


def classes_of(term):
    return to_numpy(ops.convert_to_tensor(term.classes))


@pytest.mark.parametrize(
    "classes, count",
    [
        (np.arange(60) % 5, 16),
        (np.repeat([0, 1, 2], [2, 55, 3]), 16),  # of class 1 there are only 5 others
        (np.where(np.arange(60) % 2, -1, np.arange(60) % 3), 16),  # some were not seen yet
        (np.zeros(60, int), 3),  # no others at all
    ],
)
def test_negatives_are_of_other_classes(classes, count):
    distiller, term = build(60, num_negatives=count)
    term.classes.assign(classes)
    labels = np.repeat(np.arange(3), 200).astype("int32")
    drawn = to_numpy(term.draw_negatives(ops.convert_to_tensor(labels)))
    assert drawn.shape == (600, count) and drawn.min() >= 0 and drawn.max() < 60
    for label in range(3):
        others = np.flatnonzero(classes != label)
        if not others.size:
            continue
        rows = drawn[labels == label]
        times = np.bincount(rows.ravel(), minlength=60)
        assert not times[classes == label].any()
        # Every other is as likely: within five standard deviations of a binomial count.
        mean = 200 * count / len(others)
        assert (abs(times[others] - mean) < 5 * np.sqrt(mean) + 1e-6).all()
        repeats = [np.bincount(row).max() for row in rows]
        assert max(repeats) == -(-count // len(others))  # none twice while there are enough


def test_arrays_are_numbered_by_row():
    """Also where fit shuffles: a sample's class is noted under its own number."""
    distiller, term = build()
    distiller.fit(X, Y, batch_size=8, verbose=0, validation_data=(X, Y))
    np.testing.assert_array_equal(classes_of(term), Y)
    normalizers = [float(x.value) for x in (term.student_normalizer, term.teacher_normalizer)]
    assert min(normalizers) > 0
    distiller.fit(X, np.eye(NUM_CLASSES)[Y], batch_size=8, verbose=0, validation_split=0.5)
    assert normalizers == [
        float(x.value) for x in (term.student_normalizer, term.teacher_normalizer)
    ]


@on_one
def test_ids_and_weights_of_samples_come_together():
    distiller, term = build(100)
    ids = 99 - IDS
    weights = np.random.default_rng(0).uniform(0, 2, len(X)).astype("float32")
    targets = {"labels": Y, "ids": ids}
    results = distiller.evaluate(X, targets, sample_weight=weights, verbose=0, return_dict=True)
    expected = distiller.evaluate(X, Y, sample_weight=weights, verbose=0, return_dict=True)
    np.testing.assert_allclose(results["loss"], expected["loss"], rtol=1e-6)
    before = to_numpy(ops.copy(term.student_memory))
    distiller.fit(X, targets, batch_size=7, sample_weight=weights, verbose=0)
    moved = np.flatnonzero((to_numpy(ops.copy(term.student_memory)) != before).any(-1))
    np.testing.assert_array_equal(moved, np.sort(ids))


@on_one
@pytest.mark.filterwarnings("ignore:Gradients do not exist")  # of the classifier: true
def test_without_labels_every_sample_is_a_class():
    distiller, term = build()
    history = distiller.fit(X, batch_size=8, verbose=0).history
    assert np.isfinite(history["crd_loss"]).all()
    np.testing.assert_array_equal(classes_of(term), IDS)


@on_one
def test_what_the_targets_lack():
    distiller, term = build()
    data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(8)
    with pytest.raises(ValueError, match=r"'crd_loss' needs the number .*with_ids=True"):
        distiller.fit(data, verbose=0)
    with pytest.raises(ValueError, match=r"num_samples=24, ids from 1 to 24"):
        distiller.fit(X, {"labels": Y, "ids": IDS + 1}, verbose=0)
    with pytest.raises(ValueError, match="needs the number"):
        distiller.train_on_batch(X[:8], Y[:8])
    # Past the first batch a step cannot raise: its loss is NaN.
    readings = ({"embedding": ops.ones((2, 16))}, {"embedding": ops.ones((2, 8))})
    targets = {"labels": ops.zeros(2, "int32"), "ids": ops.convert_to_tensor([1, 24])}
    with keras.StatelessScope():
        values = to_numpy(term(*readings, targets))
    assert np.isfinite(values[0]) and np.isnan(values[1])


@pytest.mark.parametrize(
    "options, match",
    [
        ({"num_samples": 1}, "num_samples=1"),
        ({"num_negatives": 0}, "num_negatives=0"),
        ({"temperature": 0.0}, "temperature=0.0"),
        ({"momentum": 1.5}, "momentum=1.5"),
        ({"layers": [("conv1", "conv1"), ("conv2", "conv2")]}, "one pair"),
    ],
)
def test_bad_arguments(options, match):
    with pytest.raises(ValueError, match=match):
        terms.CRD(**{"num_samples": 24} | options)


def test_embeddings_of_nothing_stay_finite():
    _, term = build(24, layers=[("conv1", "conv1")])
    shapes = [
        (2, *layer.output.shape[1:]) for layer in (build_cnn(8).layers[1], build_cnn(4).layers[1])
    ]
    readings = [{"map0": ops.zeros(shape)} for shape in shapes]
    targets = {"labels": ops.zeros(2, "int32"), "ids": ops.arange(2)}
    for layer in (term.embed_teacher, term.embed_student):
        layer.bias.assign(0 * layer.bias)
    with keras.StatelessScope():
        assert np.isfinite(to_numpy(term(*readings, targets))).all()


# Against values, gradients and steps of the public program.


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


def test_training_follows_the_recorded_run():
    term = RecordedCRD([STEPS[f"crd/memory_v{i}"] for i in (1, 2)])

    def make_targets(step, labels):
        term.negatives.assign(STEPS["crd/contrast_index"][step][:, 1:])
        return {"labels": labels, "ids": STEPS["crd/index"][step].astype("int32")}

    follow_recorded_run("crd", term, find_crd_weight, make_targets)
    for i, memory in ((1, term.student_memory), (2, term.teacher_memory)):
        assert_close(to_numpy(memory.value), STEPS[f"crd/final_memory_v{i}"], f"memory_v{i}", 3e-3)
    normalizers = [float(x.value) for x in (term.student_normalizer, term.teacher_normalizer)]
    np.testing.assert_allclose(normalizers, STEPS["crd/Z"], rtol=2e-5)
