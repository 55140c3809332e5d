"""What a run sees when: held-out images while it trains, the test images once, at the end."""

import json
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf
from small_classifiers import copy_weights
from training import command_line, data_sets, experiment, measures, networks, records

from configs import cifar100, own_data
from keras_sdd import data, models

BACKEND = keras.backend.backend()
on_one = pytest.mark.skipif(BACKEND != "torch", reason="alike on all backends")
# The example traces three small networks for its last numbers.
pytestmark = pytest.mark.filterwarnings("ignore:.*triggered tf.function retracing:UserWarning")

load = data.load


@pytest.fixture
def guarded(monkeypatch):
    """Test images that end the run that reads them before it has been trained."""
    seen = {"trained": False, "images": 0}
    fit = keras.Model.fit

    def fit_and_tell(*args, **options):
        history = fit(*args, **options)
        seen["trained"] = True
        return history

    def look(labels):
        if not seen["trained"]:
            raise AssertionError("test images are read in training")
        seen["images"] += len(labels)
        return labels

    def load_guarded(name, split, *args, **options):
        dataset = load(name, split, *args, **options)
        if split != "test":
            return dataset
        return dataset.map(
            lambda x, y: (x, tf.ensure_shape(tf.numpy_function(look, [y], y.dtype), [None]))
        )

    monkeypatch.setattr(keras.Model, "fit", fit_and_tell)
    monkeypatch.setattr(data, "load", load_guarded)
    return seen


def make_config(arg="resnet20", **changes):
    config = cifar100.get_config(arg, smoke=True)
    config.update(epochs=2, num_examples=48, **changes)
    return config


@on_one
def test_test_images_are_read_once_and_at_the_end(guarded, tmp_path):
    config = make_config("resnet56,resnet20,sd_kd+crd", augment=False)
    config.teacher_cache = str(tmp_path / "cache")
    config.teacher_checkpoint = str(tmp_path / "teacher.keras")
    models.build(config.teacher, 10, (32, 32, 3)).save(config.teacher_checkpoint)
    result = experiment.train(config, tmp_path / "run")
    assert guarded["images"] == 48
    assert result["protocol"] == "validation" and result["teacher"]
    assert {"last_validation_accuracy", "best_validation_accuracy", "best_epoch"} <= set(result)
    for when in ("last", "best"):
        assert 0 <= result[f"{when}_teacher_agreement"] <= 100 and result[f"{when}_nll"] > 0
    assert result["milliseconds_per_image"] > 0
    # Another run finds what the teacher predicts beside its cells.
    (kept,) = (tmp_path / "cache").glob("test-*.npz")
    written = kept.stat().st_mtime_ns
    config.seed = 1
    again = experiment.train(config, tmp_path / "again")
    assert again["teacher"] == result["teacher"]
    assert kept.stat().st_mtime_ns == written
    # What was kept for other images is refused, with the file's name.
    np.savez(kept, classes=np.zeros(3), labels=np.zeros(3))
    shutil.rmtree(tmp_path / "again")
    with pytest.raises(command_line.SetupError, match=f"other test images.*{kept.name}"):
        experiment.train(config, tmp_path / "again")
    kept.write_bytes(b"cut")  # damaged, it is made again, by the run that broke there
    assert experiment.train(config, tmp_path / "again")["last_accuracy"] == again["last_accuracy"]


@on_one
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # a log left open
def test_labels_only_and_the_habit_of_the_authors(guarded, tmp_path):
    result = experiment.train(make_config(), tmp_path / "run")
    assert guarded["images"] == 48 and result["teacher"] == ""
    assert "last_teacher_agreement" not in result
    guarded["trained"] = False
    config = make_config(protocol="authors")
    with pytest.raises(tf.errors.OpError, match="test images are read in training"):
        experiment.train(config, tmp_path / "authors")


@on_one
def test_authors_protocol_chooses_on_the_test_images(tmp_path):
    result = experiment.train(make_config(protocol="authors"), tmp_path / "run")
    for when in ("last", "best"):
        validation = result[f"{when}_validation_accuracy"]
        assert result[f"{when}_accuracy"] == pytest.approx(validation, abs=1e-4)
    assert json.loads((tmp_path / "run/result.json").read_text())["protocol"] == "authors"
    with pytest.raises(command_line.SetupError, match="Near: authors. Received: 'author'"):
        data_sets.load_data(make_config(protocol="author"))


@on_one
def test_run_that_was_killed_before_its_result_ends_as_the_unbroken_one(tmp_path, monkeypatch):
    config = make_config()
    whole = experiment.train(config, tmp_path / "whole")

    def kill(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(measures, "measure_run", kill)
        experiment.train(config, tmp_path / "killed")
    assert not (tmp_path / "killed/result.json").exists()
    again = experiment.train(config, tmp_path / "killed")
    timed = {"seconds", "milliseconds_per_image"}
    assert {k: v for k, v in again.items() if k not in timed} == {
        k: v for k, v in whole.items() if k not in timed
    }


@on_one
def test_images_without_labels_take_part_in_distillation_alone(tmp_path):
    config = make_config("resnet56,resnet20,sd_kd", labelled_examples=1)
    result = experiment.train(config, tmp_path / "run")
    row = records.read_log(tmp_path / "run")[0]
    # One image in 48 has a label: two of three steps have none at all.
    assert row["distillation_loss"] > 0 and 0 <= result["last_accuracy"] <= 100
    train, validation = data_sets.load_data(config)
    labels = np.concatenate([x for _, x in train.as_numpy_iterator()])
    assert (labels >= 0).sum() == 1 and len(labels) == 48
    assert min(x.min() for _, x in validation.as_numpy_iterator()) >= 0


@on_one
def test_measures():
    logits = np.array([[3.0, 1, 0], [0, 2, 1], [1, 0, 4], [2, 5, 1]])
    labels = np.array([0, 2, 2, 0])
    measured = measures.measure_logits(labels, logits, np.array([0, 1, 1, 0]))
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    confidence, right = p.max(1), np.array([1, 0, 1, 0])
    bins = np.ceil(confidence * 15).astype(int)
    gaps = [
        abs(right[bins == b].mean() - confidence[bins == b].mean()) * (bins == b).mean()
        for b in set(bins)
    ]
    assert measured == {
        "accuracy": 50.0,
        "top5_accuracy": 100.0,
        "teacher_agreement": 50.0,
        "ece": pytest.approx(100 * sum(gaps)),
        "nll": pytest.approx(-np.log(p[range(4), labels]).mean()),
    }
    many = np.tile(np.arange(8.0), (2, 1))
    assert measures.measure_logits(np.array([3, 2]), many)["top5_accuracy"] == 50.0


@on_one
def test_own_data_and_own_networks(tmp_path):
    random = np.random.default_rng(0)
    arrays = {
        f"x_{x}": random.integers(0, 255, (n, 16, 16, 1), "uint8")
        for x, n in (("train", 60), ("test", 20))
    }
    arrays |= {f"y_{x}": np.arange(n) % 3 for x, n in (("train", 60), ("test", 20))}
    np.savez(tmp_path / "own.npz", **arrays)
    inputs = keras.Input((16, 16, 1))
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 3)(inputs))
    network = keras.Model(inputs, keras.layers.Dense(3, activation="softmax")(x))
    network.save(tmp_path / "net.keras")
    config = own_data.get_config("cnn_8_16_32,cnn_8_16_32,sd_kd")
    path = str(tmp_path / "net.keras")
    config.update(dataset=str(tmp_path / "own.npz"), validation_examples=10, epochs=1, student=path)
    config.teacher_checkpoint = path
    result = experiment.train(config, tmp_path / "run")
    assert result["parameters"] == 4 * 9 + 4 + 15
    # A final softmax does not pass for logits.
    last = keras.saving.load_model(tmp_path / "run/last.keras")
    mean, std = (np.array(data.find_spec(config.dataset)[key]) for key in ("mean", "std"))
    p = last.predict((arrays["x_test"] / 255 - mean) / std, verbose=0)
    nll = -np.log(p[range(20), arrays["y_test"]]).mean()
    assert result["last_nll"] == pytest.approx(nll, rel=1e-4)
    # Of the student only the architecture counts.
    fresh = networks.build_network(config, path, (16, 16, 1))
    given = keras.saving.load_model(path)
    assert not np.allclose(copy_weights(fresh)[0], copy_weights(given)[0])
    zoo = networks.build_network(config, "small/cnn_8_16_32", (16, 16, 1))
    assert zoo.output_shape == (None, 3)
