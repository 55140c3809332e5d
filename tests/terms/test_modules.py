"""Corner cases of the terms with trained modules: sizes, batches, networks that lack something."""

import keras
import numpy as np
import pytest
import reference_terms
from backends import BACKEND, value_and_gradient
from keras import ops
from recorded_networks import build_empty
from small_classifiers import (
    NUM_CLASSES,
    assert_same_weights,
    build_cnn,
    copy_weights,
    draw_data,
)

from keras_sdd import Distiller, reuse_classifier, terms
from keras_sdd.terms.features import name_shapes
from terms.harness import named_weights

X, Y = draw_data()


def draw_maps(sizes, batch_size):
    rng = np.random.default_rng(0)
    return [rng.standard_normal((batch_size, *size)).astype("float32") for size in sizes]


def test_maps_of_odd_sizes():
    """Sizes of no whole factor either way, and a batch of one, whose pooled stage has no spread."""
    teacher_sizes, student_sizes = [(7, 7, 3), (2, 2, 4), (5,)], [(6, 6, 5), (3, 3, 6), (8,)]
    cases = (
        (terms.ReviewKD, reference_terms.reviewkd, 3),
        (lambda: terms.SemCKD(4), reference_terms.semckd, 2),
    )
    for make, formula, count in cases[:1] if BACKEND == "jax" else cases:  # it compiles each
        term = make()
        teacher, student = (draw_maps(x[:count], 4) for x in (teacher_sizes, student_sizes))

        def measure(first, term=term, teacher=teacher, student=student):
            size = first.shape[0]
            teacher, student = (
                [ops.convert_to_tensor(x[:size]) for x in side] for side in (teacher, student)
            )
            with keras.StatelessScope():
                return ops.mean(term.compare(teacher, [first, *student[1:]]))

        term.build(*map(name_shapes, (teacher, student)))
        value, gradient = value_and_gradient(measure, student[0])
        as_float64 = lambda side: [x.astype("float64") for x in side]  # noqa: E731
        expected = formula(named_weights(term), as_float64(teacher), as_float64(student))
        np.testing.assert_allclose(value, expected.mean(), rtol=1e-4)
        assert np.isfinite(gradient).all() and gradient.any()
        if count == 3 and BACKEND != "jax":
            value, gradient = value_and_gradient(measure, student[0][:1])
            assert np.isfinite(value) and np.isfinite(gradient).all()


@pytest.mark.skipif(BACKEND == "jax", reason="as on PyTorch: sizes are always known")
def test_batches_of_another_size():
    """A smaller batch adds nothing, a larger one is refused, or NaN where sizes are unknown."""
    keras.utils.set_random_seed(0)
    term = terms.SemCKD(8, [("conv1", "conv2"), ("conv2", "conv2")], weight=1.0)
    distiller = Distiller(build_cnn(8), build_cnn(4, batch_norm=False), [term])
    distiller.compile(keras.optimizers.SGD(0.0), jit_compile=False)

    def fit(size, batch_size=8):
        options = {"shuffle": False, "verbose": 0}
        return distiller.fit(X[:size], Y[:size], batch_size, **options).history

    (full,), (both,) = (fit(size)["semckd_loss"] for size in (8, 12))
    assert full > 0
    np.testing.assert_allclose(both, full * 8 / 12, rtol=1e-5)
    if BACKEND == "tensorflow":
        assert np.isnan(fit(12, 12)["semckd_loss"][0])
    else:
        with pytest.raises(ValueError, match="batches of 8.*Received: 12 images"):
            fit(12, 12)


@pytest.mark.skipif(BACKEND != "torch", reason="alike on all backends")
def test_stages_of_other_networks():
    """A teacher without preactivations; of more stages the coarsest count."""
    teacher = build_empty("cifar100/mobilenet_v2")
    for name, pairs in (("shufflenet_v2", 3), ("vgg8", 4)):
        term = terms.ReviewKD()
        student = build_empty(f"cifar100/{name}")
        distiller = Distiller(teacher, student, [term, terms.SemCKD(4)])
        assert len(term._pairs) == pairs
        assert term._pairs[-1][0] == "blocks_6_0_conv_7"
        distiller.compile("sgd", jit_compile=False)
        images = np.random.default_rng(0).standard_normal((1, 32, 32, 3)).astype("float32")
        logs = distiller.fit(images, np.array([3]), verbose=0).history
        assert np.isfinite(logs["reviewkd_loss"][0]) and logs["semckd_loss"] == [0.0]


@pytest.mark.skipif(BACKEND != "torch", reason="alike on all backends")
def test_reused_classifier():
    """A copy, frozen, of all that follows the map that is pooled; the teacher stays as it was."""
    teacher = build_empty("cifar100/wrn_16_1")
    weights, calls = copy_weights(teacher), [len(x._inbound_nodes) for x in teacher.layers]
    student = reuse_classifier(teacher, build_cnn_for(teacher))  # of a larger map
    (wanted,) = (x for x in student.layers if x.name == "reused_classifier")
    assert [x.name for x in wanted.layers][1:] == ["avgpool", "fc"]
    distiller = Distiller(teacher, student, [terms.SimKD()], student_loss_weight=0.0)
    assert distiller.terms[0]._pairs == [("bn1_relu", "projector")]
    distiller.compile(keras.optimizers.SGD(0.1), jit_compile=False)
    images = np.random.default_rng(0).standard_normal((8, 32, 32, 3)).astype("float32")
    losses = distiller.fit(images, np.arange(8), epochs=4, verbose=0).history["simkd_loss"]
    assert losses[-1] < losses[0]
    assert_same_weights(teacher, weights)
    assert_same_weights(wanted, weights[-2:])
    assert calls == [len(x._inbound_nodes) for x in teacher.layers] and teacher.trainable_weights


def build_cnn_for(teacher):
    inputs = keras.Input((32, 32, 3))
    x = keras.layers.Conv2D(4, 3, strides=2, padding="same", activation="relu")(inputs)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(teacher.output.shape[-1])(x), name="small")


def nest(model):
    inputs = keras.Input(model.input.shape[1:])
    return keras.Model(inputs, model(inputs), name="outer")


def build_for_any_size():
    inputs = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(4, 3, strides=4, name="conv")(inputs)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(NUM_CLASSES)(x))


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (terms.ReviewKD, r"maps .* of known size.*Received: .*\(None, None, None, 4\)"),
        (lambda: terms.SemCKD(8), r"static height and width.*\(None, None, None, 4\)"),
        (lambda: terms.SemCKD(3), "4 or greater. Received: batch_size=3"),
    ],
)
def test_bad_input(make, match):
    with pytest.raises(ValueError, match=match):
        Distiller(build_for_any_size(), build_for_any_size(), [make()])


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: Distiller(build_cnn(), build_cnn(), [terms.SimKD()]), "reuse_classifier.teacher"),
        (lambda: reuse_classifier(nest(build_cnn()), build_cnn()), "without others.*'outer'"),
        (
            lambda: reuse_classifier(build_cnn(), build_for_any_size()),
            r"known size. Received: \(None, None\)",
        ),
    ],
)
def test_bad_students(make, match):
    with pytest.raises(ValueError, match=match):
        make()
