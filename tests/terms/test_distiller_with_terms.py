"""Distillers of several terms: targets, weights that change, resuming, the cache, bad input."""

import json
import subprocess
import sys
import zipfile

import keras
import numpy as np
import pytest
from backends import BACKEND, to_numpy
from keras import ops
from small_classifiers import (
    NUM_CLASSES,
    assert_same_weights,
    build_cnn,
    copy_weights,
    draw_data,
    spread_predictions,
)
from terms_of_users import Remembering

import keras_sdd
from keras_sdd import Distiller, SDDDistiller, terms
from keras_sdd.losses import DKD, KD, LogitLoss, ScaleDecoupled

X, Y = draw_data()


def make_terms(seed=2):
    """A term of every kind, the last with dropout, a trained layer, a batch norm and a memory."""
    return [
        terms.SP(warmup_steps=4, weight=10.0),
        terms.FitNet([("conv2", "conv2")], weight=1.0),
        Remembering(dropout=0.3, seed=seed),
    ]


def build(kind=SDDDistiller, seed=11, optimizer=None, student_seed=1, **options):
    keras.utils.set_random_seed(seed)
    teacher = spread_predictions(build_cnn(8, "teacher"))
    # A bias before a batch norm has no gradient but rounding, of which Adam makes steps.
    student = build_cnn(4, "student", dropout=0.3, dropout_seed=student_seed, use_bias=False)
    if kind is SDDDistiller:
        options = {"feature_losses": make_terms(), "warmup_steps": 5} | options
    distiller = kind(teacher, student, **options)
    optimizer = optimizer or keras.optimizers.Adam(0.01)
    distiller.compile(optimizer, metrics=["accuracy"], jit_compile=BACKEND == "jax")
    return distiller


def fit(distiller, y=Y, **options):
    options = {"batch_size": 8, "shuffle": False, "verbose": 0} | options
    return distiller.fit(X, y, **options).history


def test_parts_add_up_and_the_student_bears_no_trace(tmp_path):
    distiller = build()
    config = json.dumps(distiller.student.get_config(), default=str)
    logs = {name: values[0] for name, values in fit(distiller).items()}
    parts = ("student_loss", *(term.name for term in distiller.terms))
    assert logs["loss"] == pytest.approx(sum(logs[name] for name in parts), rel=1e-5)
    learned = sum(len(term.trainable_variables) for term in distiller.terms)
    assert learned == 4 + 4  # regressor; projection and batch norm
    student = distiller.student
    assert len(distiller.trainable_variables) == len(student.trainable_variables) + learned
    assert json.dumps(student.get_config(), default=str) == config
    student.save(tmp_path / "student.keras")
    with zipfile.ZipFile(tmp_path / "student.keras") as file:
        assert b"keras_sdd" not in file.read("config.json")
    loaded = keras.saving.load_model(tmp_path / "student.keras")
    assert loaded.count_params() == student.count_params()
    np.testing.assert_array_equal(to_numpy(loaded(X)), to_numpy(student(X)))
    results = distiller.evaluate(X, Y, verbose=0, return_dict=True)
    assert sorted(results) == ["accuracy", "loss"]


@pytest.mark.skipif(BACKEND != "tensorflow", reason="SavedModel is TensorFlow's")
def test_student_exports_without_a_trace(tmp_path):
    import tensorflow as tf

    distiller = build()
    fit(distiller)
    distiller.student.export(tmp_path / "student", verbose=False)
    exported = tf.saved_model.load(tmp_path / "student")
    served = exported.serve(X)
    np.testing.assert_allclose(served, to_numpy(distiller.student(X)), rtol=1e-5, atol=1e-6)


def test_one_further_term_needs_no_list():
    distiller = SDDDistiller(build_cnn(8), build_cnn(4), feature_losses=terms.SP())
    assert [term.name for term in distiller.terms] == ["distillation_loss", "sp_loss"]
    assert isinstance(distiller.terms, tuple)  # a program cannot take in another one


RESUME = """
import sys
import keras, numpy as np
sys.path[:0] = {paths!r}
import terms_of_users
from small_classifiers import draw_data
import keras_sdd

x, y = draw_data()
distiller = keras.saving.load_model({file!r})
if keras.backend.backend() == "torch":
    import torch

    torch.rand(3)  # as a program may, before it goes on
distiller.fit(x, y, batch_size=8, shuffle=False, verbose=0, epochs=4, initial_epoch=2)
np.savez({result!r}, *[np.array(w) for w in distiller.get_weights()])
"""


# Without seeds of their own layers draw from a generator that is PyTorch's there.
@pytest.mark.parametrize("seed", [1, None] if BACKEND == "torch" else [None])
def test_resumes_to_the_last_digit_in_a_new_process(tmp_path, seed):
    def build_random():
        return build(student_seed=seed, feature_losses=make_terms(seed))

    unbroken = build_random()
    fit(unbroken, epochs=4)
    first = build_random()
    fit(first, epochs=2)
    first.save(tmp_path / "distiller.keras")
    paths = [x for x in sys.path if x]
    files = {"file": str(tmp_path / "distiller.keras"), "result": str(tmp_path / "weights.npz")}
    program = RESUME.format(paths=paths, **files)
    subprocess.run([sys.executable, "-c", program], check=True, cwd=tmp_path)
    with np.load(tmp_path / "weights.npz") as weights:
        assert_same_weights(unbroken, [weights[name] for name in weights.files])


def test_targets_with_the_teacher_skip_it():
    expected = build()
    fit(expected)
    distiller = build()
    targets = {"labels": Y} | distiller.compute_teacher_targets(X)
    assert {x: sorted(read) for x, read in targets["teacher"].items()} == {
        "distillation_loss": ["cells"],
        "sp_loss": ["map0"],
        "fitnet_loss": ["map0"],
        "remembering_loss": ["embedding"],
    }
    distiller.teacher.set_weights(
        [np.full_like(w, np.nan) for w in distiller.teacher.get_weights()]
    )
    logs = fit(distiller, targets, validation_data=(X, targets))
    assert np.isfinite(logs["val_loss"]).all()
    assert_same_weights(distiller.student, copy_weights(expected.student), rtol=1e-3, atol=1e-5)


def test_cells_alone_do_not_do_for_further_terms():
    distiller = build()
    cells = distiller.compute_teacher_cells(X)
    with pytest.raises(ValueError, match="make its cache again. Received: nothing for sp_loss"):
        fit(distiller, {"labels": Y, "teacher_cells": cells})


def make_cacheable():
    import tensorflow as tf

    targets = {"labels": Y, "ids": 50 + np.arange(len(X))}
    return tf.data.Dataset.from_tensor_slices((X, targets)).batch(8)


@pytest.mark.parametrize("kind", [SDDDistiller, Distiller])
def test_cache_stores_what_terms_read(kind, tmp_path):
    options = {"terms": make_terms()} if kind is Distiller else {}
    live, cached = build(kind, **options), build(kind, **(options and {"terms": make_terms()}))
    expected = fit(live, epochs=2)
    data = keras_sdd.cache_teacher(cached, make_cacheable(), tmp_path, verbose=0)
    stored = sorted(path.name for path in tmp_path.glob("00000-*"))
    assert "00000-sp_loss.map0.npy" in stored and "00000-remembering_loss.embedding.npy" in stored
    assert ("00000-distillation_loss.cells.npy" in stored) == (kind is SDDDistiller)
    actual = cached.fit(data, epochs=2, shuffle=False, verbose=0).history
    for name, values in expected.items():
        np.testing.assert_allclose(actual[name], values, rtol=1e-3, atol=1e-5, err_msg=name)


def test_cache_of_other_readings_is_refused(tmp_path):
    build_with = lambda term: build(Distiller, terms=[term])  # noqa: E731
    keras_sdd.cache_teacher(build_with(terms.SP()), make_cacheable(), tmp_path, verbose=0)
    with pytest.raises(ValueError, match="What differs: layers"):
        other = build_with(terms.SP([("conv1", "conv2")]))
        keras_sdd.cache_teacher(other, make_cacheable(), tmp_path, verbose=0)


def test_term_that_cannot_be_stored_is_not(tmp_path):
    class Fleeting(terms.SP):
        storable = False

    distiller = build(feature_losses=[Fleeting()])
    with pytest.raises(ValueError, match="cannot be kept on disk.*Received: sp_loss"):
        keras_sdd.cache_teacher(distiller, make_cacheable(), tmp_path, verbose=0)


# Weights that callbacks change.


class Change(keras.callbacks.Callback):
    """Assigns to the weights at the start of an epoch, or of a batch."""

    def __init__(self, weights, by_batch):
        super().__init__()
        self.weights, self.by_batch = weights, by_batch

    def change(self, index):
        self.model.distillation_weight = self.weights[index]
        self.model.terms[1].weight = 3.0 * self.weights[index]
        self.model.student_loss_weight.assign(2.0 * self.weights[index])

    def on_epoch_begin(self, epoch, logs=None):
        if not self.by_batch:
            self.change(epoch)

    def on_train_batch_begin(self, batch, logs=None):
        if self.by_batch:
            self.change(batch)


class CountedTraces(LogitLoss):
    """Counts how often a step is traced."""

    count = 0

    def call(self, labels, teacher_logits, student_logits):
        type(self).count += 1
        return ops.mean((teacher_logits - student_logits) ** 2, axis=-1)


@pytest.mark.parametrize("by_batch", [False, True])
def test_changed_weights_are_followed_without_a_new_trace(by_batch):
    options = {"distillation_loss": CountedTraces(), "feature_losses": [terms.SP(weight=1.0)]}
    keras.utils.set_random_seed(1)
    teacher, student = build_cnn(8), build_cnn(4, batch_norm=False)
    distiller = SDDDistiller(teacher, student, **options)
    distiller.compile(keras.optimizers.SGD(0.0), jit_compile=BACKEND == "jax")
    before = fit(distiller, batch_size=len(X))
    fit(distiller)
    CountedTraces.count = 0
    weights = (1.0, 0.5, 0.0)
    change = Change(weights, by_batch)
    if by_batch:
        logs = fit(distiller, callbacks=[change])
        factors = None
    else:
        logs = fit(distiller, batch_size=len(X), epochs=3, callbacks=[change])
        factors = np.array(weights)
    assert CountedTraces.count == 0 or BACKEND == "torch"
    for name, own in (("distillation_loss", 1.0), ("sp_loss", 3.0), ("student_loss", 2.0)):
        if factors is not None:
            np.testing.assert_allclose(logs[name], own * factors * before[name], rtol=1e-5)
        elif name != "sp_loss":  # which depends on the batch
            parts = [fit_one(distiller, i, name) for i in range(3)]
            expected = own * np.mean([a * b for a, b in zip(weights, parts, strict=True)])
            np.testing.assert_allclose(logs[name][0], expected, rtol=1e-4)
    assert float(distiller.distillation_weight) == 0.0
    with pytest.raises(ValueError, match="distillation_weight|weight=-1"):
        distiller.distillation_weight = -1


def fit_one(distiller, index, name):
    """The term of one batch at weight 1."""
    distiller.distillation_weight = distiller.student_loss_weight = 1.0
    part = slice(8 * index, 8 * index + 8)
    value = distiller.fit(X[part], Y[part], shuffle=False, verbose=0).history[name][0]
    distiller.distillation_weight = 0.0
    return value


def test_changed_weights_are_saved(tmp_path):
    distiller = build()
    fit(distiller)
    distiller.distillation_weight, distiller.student_loss_weight = 0.9, 0.1
    distiller.save(tmp_path / "distiller.keras")
    loaded = keras.saving.load_model(tmp_path / "distiller.keras")
    for each in (distiller, loaded, build(student_loss_weight=0.1, distillation_weight=0.9)):
        config = each.get_config()
        assert (config["student_loss_weight"], config["distillation_weight"]) == (0.1, 0.9)


# Losses on all cells at once.


@keras.saving.register_keras_serializable(package="tests")
class CellDistance:
    """Distance between the two networks' similarities of the cells of an image."""

    def __call__(self, labels, teacher_cells, student_cells):
        relate = lambda x: ops.matmul(x, ops.swapaxes(x, 1, 2))  # noqa: E731
        gap = relate(teacher_cells) - relate(student_cells)
        return ops.mean(gap**2, axis=(1, 2))

    def get_config(self):
        return {}

    @classmethod
    def from_config(cls, config):
        return cls(**config)


@keras.saving.register_keras_serializable(package="tests")
def cell_function(labels, teacher_cells, student_cells):
    return ops.mean((teacher_cells - student_cells) ** 2, axis=(1, 2))


@pytest.mark.parametrize("loss", [CellDistance(), cell_function], ids=["object", "function"])
def test_loss_of_all_cells(loss, tmp_path):
    options = {"distillation_loss": loss, "scales": (2, 1), "distillation_weight": 0.5}
    keras.utils.set_random_seed(1)
    distiller = SDDDistiller(build_cnn(8), build_cnn(4, batch_norm=False), **options)
    distiller.compile(keras.optimizers.SGD(0.0), jit_compile=BACKEND == "jax")
    teacher = distiller.compute_teacher_cells(X)
    student = to_numpy(distiller(X, training=True)["distillation_loss"]["cells"])
    logs = fit(distiller, batch_size=len(X))
    if loss is cell_function:
        expected = np.mean((teacher - student) ** 2)
    else:
        relate = lambda x: x @ x.swapaxes(1, 2)  # noqa: E731
        expected = np.mean((relate(teacher) - relate(student)) ** 2)
    assert logs["distillation_loss"][0] == pytest.approx(0.5 * expected, rel=1e-4)
    correct = teacher.argmax(-1) == Y[:, None]
    fraction = np.mean(correct != correct[:, :1])
    assert logs["complementary_fraction"][0] == pytest.approx(fraction, abs=1e-6)
    distiller.save(tmp_path / "distiller.keras")
    loaded = keras.saving.load_model(tmp_path / "distiller.keras")
    again = fit(loaded, batch_size=len(X))["distillation_loss"]
    assert again == pytest.approx(logs["distillation_loss"], rel=1e-6)


def test_scale_decoupled_loss_is_a_loss_of_all_cells(tmp_path):
    options = {"distillation_loss": DKD(), "complementary_weight": 3.0, "reduction": "sum"}
    wrapped = build(feature_losses=(), **options)
    loss = ScaleDecoupled(DKD(), complementary_weight=3.0, reduction="sum")
    given = build(feature_losses=(), distillation_loss=loss)
    assert fit(given) == fit(wrapped)
    given.save(tmp_path / "distiller.keras")
    loaded = keras.saving.load_model(tmp_path / "distiller.keras")
    assert repr(loaded.scale_decoupled_loss) == repr(wrapped.scale_decoupled_loss)
    other = build(distillation_loss=ScaleDecoupled(KD(), include_global=False), feature_losses=())
    assert not SDDDistiller.from_config(other.get_config()).scale_decoupled_loss.include_global


def test_scales_of_a_loss_of_all_cells_stay_its_own():
    loss = ScaleDecoupled(KD(), reduction="mean_of_scales", scales=(1, 4, 2))
    distiller = build(distillation_loss=loss, feature_losses=())
    again = SDDDistiller.from_config(distiller.get_config())
    assert repr(again.scale_decoupled_loss) == repr(loss)
    term = terms.SDD(KD(), scales=(2, 4), reduction="mean_of_scales")
    config = keras.saving.serialize_keras_object(term)
    assert repr(keras.saving.deserialize_keras_object(config).loss) == repr(term.loss)


# Bad input.


class Shapeless(terms.Term):
    def read(self, network):
        return {"logits": network.logits}

    def call(self, teacher, student, targets):
        return teacher["logits"] - student["logits"]


class Unread(Shapeless):
    def read(self, network):
        return network.logits


def used_term():
    term = terms.FitNet([("conv2", "conv2")])
    Distiller(build_cnn(), build_cnn(), [term])
    return term


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: [], "one or more. Received: terms="),
        (lambda: [KD()], r"KD\(temperature"),
        (lambda: [terms.SP(), terms.SP()], "name=.*Received: 'sp_loss' twice"),
        (lambda: [terms.SP(name="loss")], "'loss' twice"),
        (lambda: [used_term()], "belongs to one distiller"),
        (lambda: [terms.SP([("conv3", "conv2")])], "Near names: conv2"),
        (lambda: [terms.SP(["conv2"])], "list of pairs"),
        (lambda: [terms.SP([])], "list of pairs"),
        (lambda: [terms.FitNet([("conv1", "conv1"), ("conv2", "conv2")])], "one pair of layers"),
        (lambda: [terms.SP(weight=-1)], "weight=-1"),
        (lambda: [terms.SP(warmup_steps=float("nan"))], "warmup_steps=nan"),
        (lambda: [terms.AT(power=0.5)], "power=0.5"),
        (lambda: [terms.AT(layers=[("logits", "conv2")])], "rank 4"),
        (lambda: [terms.RKD(angle_weight=-1)], "angle_weight=-1"),
        (lambda: [terms.SDDSP(reading="cell")], "'concatenated'.*reading='cell'"),
        (lambda: [terms.MGD(mask_ratio=1)], "below 1.*mask_ratio=1"),
        (lambda: [terms.MGD(layers=[("conv1", "conv1"), ("conv2", "conv2")])], "MGD compares one"),
        (lambda: [terms.CTKD(start=None)], "start=None"),
        (lambda: [terms.CTKD(lowest=0)], "lowest=0"),
        (lambda: [terms.CTKD(ramp_steps=-1)], "ramp_steps=-1"),
        (lambda: [Unread()], "dict of name to tensor.*'unread_loss'"),
        (lambda: [terms.Term()], "must implement `read"),
        (lambda: [terms.SDD(keras.losses.KLDivergence())], "LogitLoss"),
        (lambda: [terms.SDD(KD)], "LogitLoss"),
        (lambda: [terms.SDD(cell_function, reduction="sum")], "give reduction to"),
        (lambda: [terms.SDD(ScaleDecoupled(KD()), complementary_weight=4)], "complementary_weight"),
    ],
)
def test_bad_terms(make, match):
    with pytest.raises((ValueError, NotImplementedError), match=match):
        Distiller(build_cnn(8), build_cnn(4), make())


def test_maps_that_no_regressor_fits():
    inputs = keras.Input((16, 16, 3))
    x = keras.layers.Conv2D(4, 3, strides=7, name="tiny")(inputs)
    small = keras.Model(inputs, keras.layers.Dense(4)(keras.layers.GlobalAveragePooling2D()(x)))
    with pytest.raises(ValueError, match=r"half as large.*teacher's \(None, 8, 8, 16\)"):
        Distiller(build_cnn(8), small, [terms.FitNet([("conv2", "tiny")])])
    with pytest.raises(ValueError, match=r"equal height and width.*student's \(None, 2, 2, 4\)"):
        Distiller(build_cnn(8), small, [terms.MGD(layers=[("conv2", "tiny")])])


def test_value_of_another_shape():
    distiller = Distiller(build_cnn(8), build_cnn(4), [Shapeless()])
    distiller.compile("sgd", jit_compile=False)
    with pytest.raises(ValueError, match=rf"'shapeless_loss' gives \(\d+|None, {NUM_CLASSES}\)"):
        fit(distiller)


def test_loss_that_relates_samples_needs_a_batch():
    class Related(LogitLoss):
        relates_samples = True

        def call(self, labels, teacher_logits, student_logits):
            return ops.mean((teacher_logits - student_logits) ** 2, axis=-1)

    logits = np.zeros((4,), "float32")
    with pytest.raises(ValueError, match=r"\(B, ..., K\)"):
        Related()(np.array(0), logits, logits)
    assert terms.SDD(Related()).relates_samples and not terms.SDD().relates_samples
    assert all(x().relates_samples for x in (terms.SP, terms.SDDSP, terms.RKD, terms.PKT))
    assert not any(x().relates_samples for x in (terms.FitNet, terms.AT, terms.MGD, terms.CTKD))
