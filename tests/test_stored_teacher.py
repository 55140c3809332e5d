"""A stored teacher in a distiller: it teaches as the teacher did, and says what it has not."""

import shutil

import keras
import numpy as np
import pytest
import small_classifiers
from backends import BACKEND

import keras_sdd
from keras_sdd import Distiller, SDDDistiller, StoredTeacher, cache_outputs, terms

X, Y = small_classifiers.draw_data(20)
on_one = pytest.mark.skipif(BACKEND != "torch", reason="alike on all backends")


def build_teacher():
    keras.utils.set_random_seed(5)
    return small_classifiers.spread_predictions(small_classifiers.build_cnn(8, "teacher"))


def build(teacher, **options):
    keras.utils.set_random_seed(0)
    return compiled(SDDDistiller(teacher, small_classifiers.build_cnn(4, "student"), **options))


def compiled(distiller):
    distiller.compile(keras.optimizers.SGD(0.1), metrics=["accuracy"], jit_compile=BACKEND == "jax")
    return distiller


def store(folder, teacher, data=(X, Y), **options):
    """Keep the teacher's maps as one of another framework: NumPy in, NumPy out."""
    exposed = keras_sdd.expose_spatial_logits(teacher)

    def function(images):
        return keras.ops.convert_to_numpy(exposed(images)["spatial_logits"])

    return cache_outputs(function, data, folder, batch_size=20, verbose=0, **options)


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A folder of cells of scales 1, 2 and 4, and the data set that carries them."""
    folder = tmp_path_factory.mktemp("stored")
    return folder, store(folder, build_teacher())


@pytest.mark.parametrize(
    "scales", [(1, 2, 4), (2,), (4, 1)] if BACKEND == "torch" else [(1, 2, 4), (4, 1)]
)
def test_it_teaches_as_the_teacher_did(stored, scales):
    folder, data = stored
    live = build(build_teacher(), scales=scales)
    expected = live.fit(X, Y, batch_size=20, epochs=2, verbose=0).history
    distiller = build(StoredTeacher(folder), scales=scales)
    actual = distiller.fit(data, epochs=2, verbose=0).history
    assert actual.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(actual[name], values, rtol=1e-4, err_msg=name)
    assert distiller.evaluate(X, Y, verbose=0, return_dict=True).keys() == {"accuracy", "loss"}
    assert distiller.predict(X, verbose=0).shape == (20, 4)


def test_single_steps_and_saving(stored, tmp_path):
    shutil.copytree(stored[0], tmp_path / "cells")
    distiller = build(StoredTeacher(tmp_path / "cells"), scales=(1, 2))
    x, y = distiller.teacher.attach((X, Y), batch_size=20)[0]
    distiller.train_on_batch(x, y)
    distiller.save(tmp_path / "distiller.keras")
    shutil.rmtree(tmp_path / "cells")  # as on another machine
    loaded = keras.saving.load_model(tmp_path / "distiller.keras")
    np.testing.assert_allclose(
        loaded.predict(X, verbose=0), distiller.predict(X, verbose=0), rtol=1e-5, atol=1e-6
    )
    values = [d.train_on_batch(x, y, return_dict=True) for d in (distiller, loaded)]
    for name, value in values[0].items():
        if name not in ("accuracy", "loss", "student_loss", "distillation_loss"):
            np.testing.assert_allclose(value, values[1][name], rtol=1e-4, err_msg=name)
    small_classifiers.assert_same_weights(
        loaded.student, small_classifiers.copy_weights(distiller.student), rtol=1e-4, atol=1e-6
    )
    with pytest.raises(FileNotFoundError, match="no stored outputs"):
        loaded.teacher.attach((X, Y))


@on_one
def test_several_terms_read_it(stored):
    folder, data = stored

    def train(teacher, *data):
        keras.utils.set_random_seed(0)
        parts = [terms.SDD(scales=(1, 4)), terms.CTKD(scales=(1,), name="ctkd")]
        distiller = compiled(Distiller(teacher, small_classifiers.build_cnn(4, "student"), parts))
        size = {"batch_size": 20} if len(data) > 1 else {}
        return distiller.fit(*data, **size, epochs=2, verbose=0).history

    expected = train(build_teacher(), X, Y)
    actual = train(StoredTeacher(folder), data)
    for name, values in expected.items():
        np.testing.assert_allclose(actual[name], values, rtol=1e-4, err_msg=name)


@on_one
def test_missing_labels_get_the_class_of_the_stored_cells(stored):
    folder, _ = stored
    data = StoredTeacher(folder).attach((X, np.full(20, -1)), batch_size=20)
    distiller = build(StoredTeacher(folder), ignore_class=-1)
    history = distiller.fit(data, verbose=0).history
    predicted = np.argmax(build(build_teacher()).compute_teacher_cells(X)[:, 0], -1)
    live = build(build_teacher()).fit(X, predicted, batch_size=20, verbose=0).history
    np.testing.assert_allclose(history["distillation_loss"], live["distillation_loss"], rtol=1e-4)


@on_one
def test_a_folder_that_cache_teacher_filled(tmp_path):
    teacher = build_teacher()
    keras_sdd.cache_teacher(build(teacher, scales=(2, 4)), (X, Y), tmp_path, verbose=0)
    stored = StoredTeacher(tmp_path)
    assert stored.scales == (1, 2, 4) and stored.num_classes == 4
    expected = build(teacher, scales=(4,)).fit(X, Y, batch_size=20, verbose=0).history
    distiller = build(stored, scales=(4,))
    actual = distiller.fit(stored.attach((X, Y), batch_size=20), verbose=0).history
    np.testing.assert_allclose(actual["loss"], expected["loss"], rtol=1e-4)
    with pytest.raises(ValueError, match="What differs: .*teacher"):
        store(tmp_path, teacher, scales=(2, 4))


# What it has not


@on_one
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scales": (1, 2, 8)}, r"has the scales \(1, 2, 4\).*\[8\] are missing"),
        ({"pooling": "nested"}, "were pooled 'direct'"),
        ({"teacher_dtype": "bfloat16"}, "computes nothing"),
        ({"feature_losses": [terms.SP()]}, "no features: leave out the terms"),
        ({"feature_losses": [terms.RKD()]}, "no features: leave out the terms"),
        ({"feature_losses": [terms.FitNet()]}, "no features: leave out the terms"),
    ],
    ids=str,
)
def test_what_is_not_stored_is_told_at_construction(stored, options, message):
    with pytest.raises(ValueError, match=message):
        build(StoredTeacher(stored[0]), **options)


@on_one
def test_nested_cells_are_those_of_their_finest_scale(tmp_path):
    store(tmp_path, build_teacher(), pooling="nested")
    teacher = StoredTeacher(tmp_path)
    build(teacher, pooling="nested", scales=(2, 4))
    build(teacher, scales=(1,))
    with pytest.raises(ValueError, match="pooled 'nested' from scale 4"):
        build(teacher, pooling="nested", scales=(1, 2))


@on_one
def test_another_number_of_classes(stored):
    inputs = keras.Input((16, 16, 3))
    outputs = keras.layers.Dense(7)(keras.layers.GlobalAveragePooling2D()(inputs))
    with pytest.raises(ValueError, match="Received: teacher 4 in .*, student 7"):
        SDDDistiller(StoredTeacher(stored[0]), keras.Model(inputs, outputs), scales=(1,))


def test_data_that_do_not_carry_the_cells(stored):
    distiller = build(StoredTeacher(stored[0]))
    cells = np.zeros((20, 5, 4), "float32")
    for targets in (Y, {"labels": Y, "teacher_cells": cells}, None):
        with pytest.raises(ValueError, match=r"has to carry the cells.*\(B, 21, 4\)"):
            distiller.fit(X, targets, verbose=0)
    with pytest.raises(ValueError, match="has to carry the cells"):
        distiller.train_on_batch(X, Y)


@on_one
def test_it_computes_nothing(stored, tmp_path):
    distiller = build(StoredTeacher(stored[0]))
    with pytest.raises(ValueError, match="computes nothing of images"):
        distiller.compute_teacher_cells(X)
    with pytest.raises(ValueError, match="is on disk"):
        keras_sdd.cache_teacher(distiller, (X, Y), tmp_path / "new")
    assert not (tmp_path / "new").exists()


@on_one
def test_folders_that_hold_something_else(tmp_path):
    with pytest.raises(FileNotFoundError, match="no stored outputs; .*cache_outputs"):
        StoredTeacher(tmp_path / "none")
    assert not (tmp_path / "none").exists()
    distiller = build(build_teacher(), feature_losses=[terms.SP()])
    keras_sdd.cache_teacher(distiller, (X, Y), tmp_path / "several", verbose=0)
    with pytest.raises(ValueError, match="what some terms read of a teacher"):
        StoredTeacher(tmp_path / "several")
    for content in ("{}", '{"scales": [1]}', '{"scales": 3, "shape": [1, 4]}', "[]"):
        (tmp_path / "cache.json").write_text(content)
        with pytest.raises(ValueError, match="cache.json is damaged"):
            StoredTeacher(tmp_path)
