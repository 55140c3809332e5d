"""The cells of a data set in figures, against loops over every image in float64."""

import math

import keras
import numpy as np
import pytest
import reference
from backends import BACKEND, to_numpy
from keras import layers
from small_classifiers import NUM_CLASSES, build_cnn, draw_data, spread_predictions
from test_calibration import loop

import keras_sdd

on_one = pytest.mark.skipif(BACKEND != "torch", reason="alike on all backends")
SCALES = (2, 1, 4)


@pytest.fixture(scope="module")
def pair():
    keras.utils.set_random_seed(3)
    return spread_predictions(build_cnn(8, "teacher")), spread_predictions(build_cnn(4), 5.0)


def read_cells(model, images):
    """Scale to logits (B, m * m, K), region by region of the 8 x 8 map."""
    maps = keras.Model(model.input, model.get_layer("conv2").output)(images)
    maps, last = to_numpy(maps).astype("float64"), model.get_layer("logits")
    kernel, bias = (to_numpy(x.value).astype("float64") for x in (last.kernel, last.bias))
    cells = {}
    for m in SCALES:
        size = 8 // m
        cells[m] = np.stack(
            [
                maps[:, i : i + size, j : j + size].mean((1, 2)) @ kernel + bias
                for i in range(0, 8, size)
                for j in range(0, 8, size)
            ],
            axis=1,
        )
    return cells


def measure_image(label, whole, cells):
    """The figures of one image: its label, its global logits (K,), its cells (N, K)."""
    log_p = [reference.log_softmax(x) for x in cells]
    p, predicted = np.exp(log_p), [int(x.argmax()) for x in cells]
    pairs = [a == b for i, a in enumerate(predicted) for b in predicted[:i]]
    likely = p.mean(0)
    vote = max(range(NUM_CLASSES), key=lambda k: (predicted.count(k), likely[k]))
    is_right = whole.argmax() == label
    return {
        "complementary_label": np.mean([(x == label) != is_right for x in predicted]),
        "complementary_global": np.mean([x != whole.argmax() for x in predicted]),
        "accuracy": np.mean([x == label for x in predicted]),
        "entropy": np.mean([-np.sum(np.exp(x) * x) for x in log_p]),
        "cell_agreement": np.mean(pairs) if pairs else math.nan,
        "vote_accuracy": float(vote == label),
        "mean_accuracy": float(likely.argmax() == label),
    }


def measure(labels, cells, teacher=None):
    """The figures of all images at one scale; `cells` of all scales, of the teacher too."""
    found = {}
    for m in SCALES:
        images = [measure_image(*x) for x in zip(labels, cells[1][:, 0], cells[m], strict=True)]
        found[m] = {name: np.mean([x[name] for x in images]) for name in images[0]}
        flat = np.repeat(labels, m * m), cells[m].reshape(-1, NUM_CLASSES)
        found[m]["calibration_error"], found[m]["negative_log_likelihood"] = loop(*flat, 15)
        both = ([], []) if teacher else ([math.nan], [math.nan])
        if teacher:
            for t, s in zip(teacher[m].reshape(-1, NUM_CLASSES), flat[1], strict=True):
                both[0].append(reference.kl(reference.log_softmax(t), reference.log_softmax(s)))
                both[1].append(t.argmax() == s.argmax())
        found[m]["divergence"], found[m]["teacher_agreement"] = map(np.mean, both)
    return found


def test_figures(pair):
    images, labels = draw_data(24)
    batches = [(images[i : i + 8], {"labels": labels[i : i + 8]}) for i in (0, 8, 16)]
    found = keras_sdd.inspect_cells(pair[0], batches, SCALES, pair[1], verbose=0)
    assert found.num_images == 24 and list(found.teacher) == list(found.student) == list(SCALES)
    cells = [read_cells(model, images) for model in pair]
    expected = [measure(labels, cells[0]), measure(labels, cells[1], cells[0])]
    for statistics, values in zip((found.teacher, found.student), expected, strict=True):
        for m in SCALES:
            assert (statistics[m].scale, statistics[m].cells) == (m, m * m)
            for name, value in values[m].items():
                np.testing.assert_allclose(
                    getattr(statistics[m], name), value, rtol=1e-4, atol=1e-6, err_msg=name
                )
            assert statistics[m].reliability.counts.sum() == 24 * m * m
    # So that the figures can be told from each other.
    assert 0.1 < found.teacher[4].complementary_label < found.teacher[4].complementary_global < 0.9
    assert found.teacher[4].vote_accuracy != found.teacher[4].mean_accuracy


@on_one
def test_kinds_of_data_sets(pair):
    import torch

    images, labels = draw_data(70)
    one_hot = np.eye(NUM_CLASSES, dtype="float32")[labels]

    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return 2

        def __getitem__(self, i):
            return images[35 * i : 35 * (i + 1)], labels[35 * i : 35 * (i + 1), None]

    tensors = torch.utils.data.TensorDataset(torch.from_numpy(images), torch.from_numpy(labels))
    kinds = [
        (images, labels),
        (images, {"labels": one_hot}),
        Batches(),
        torch.utils.data.DataLoader(tensors, 35),
        ((images[i : i + 35], one_hot[i : i + 35]) for i in (0, 35)),
    ]
    first, *others = [keras_sdd.inspect_cells(pair[0], x, (2,), verbose=0) for x in kinds]
    for other in others:
        assert other.num_images == 70 and other.student == {}
        figures = [list(x.rows()[0].values())[1:] for x in (first, other)]
        np.testing.assert_allclose(*figures, rtol=1e-5)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="of TensorFlow")
def test_tensorflow_data_sets(pair):
    import tensorflow as tf

    images, labels = draw_data(16)
    batches = tf.data.Dataset.from_tensor_slices((images, {"labels": labels})).batch(8)
    found = keras_sdd.inspect_cells(pair[0], batches, (1,), verbose=0)
    assert found.num_images == 16
    with pytest.raises(ValueError, match="must end"):
        keras_sdd.inspect_cells(pair[0], batches.repeat(), (1,), verbose=0)


@on_one
def test_table(pair, capsys):
    images, labels = draw_data(8)
    batches = iter([(images, labels)])  # of unknown length
    found = keras_sdd.inspect_cells(pair[0], batches, (1, 4), pair[1])
    assert "1/Unknown" in capsys.readouterr().out
    title, header, *lines = str(found).splitlines()
    assert title.startswith("8 images")
    assert len({len(x) for x in (header, *lines)}) == 1
    assert [x.split()[:3] for x in lines] == [
        [name, str(m), str(m * m)] for name in ("teacher", "student") for m in (1, 4)
    ]
    accuracy = header.index("accuracy")
    shown = float(lines[1][accuracy : accuracy + 8])
    assert shown == pytest.approx(100 * found.teacher[4].accuracy, abs=0.051)
    assert [x["network"] for x in found.rows()] == ["teacher"] * 2 + ["student"] * 2
    alone = keras_sdd.inspect_cells(pair[0], [(images, labels)], (1,), verbose=0)
    assert "KL" in header and "KL" not in str(alone)


@on_one
def test_head_that_is_not_linear_gives_its_own_logits():
    inputs = keras.Input((8, 8, 3))
    x = layers.GlobalMaxPooling2D()(layers.Conv2D(8, 3, padding="same")(inputs))
    model = keras.Model(inputs, layers.Dense(3, "softmax")(layers.Dense(8, "relu")(x)))
    rng = np.random.default_rng(0)
    images, labels = rng.standard_normal((32, 8, 8, 3)).astype("float32"), rng.integers(0, 3, 32)
    found = keras_sdd.inspect_cells(model, (images, labels), (1, 2), verbose=0)
    probabilities = to_numpy(model(images)).astype("float64")
    assert found.teacher[1].accuracy == np.mean(probabilities.argmax(-1) == labels)
    entropy = -np.mean(np.sum(probabilities * np.log(probabilities), -1))
    assert found.teacher[1].entropy == pytest.approx(entropy, rel=1e-4)
    maps = keras.Model(inputs, model.layers[1].output)(images)
    right = 0
    for rows in (slice(0, 4), slice(4, 8)):
        for columns in (slice(0, 4), slice(4, 8)):
            vector = to_numpy(maps[:, rows, columns]).max((1, 2))
            predicted = to_numpy(model.layers[-1](model.layers[-2](vector))).argmax(-1)
            right += np.sum(predicted == labels)
    assert found.teacher[2].accuracy == right / (4 * len(labels))


@on_one
@pytest.mark.parametrize(
    "change, match",
    [
        ({"scales": (0,)}, r"scales=\(0,\)"),
        ({"student": build_cnn}, "Expected a keras.Model"),
        ({"dataset": draw_data(4)[0]}, r"Received: dataset=ndarray of shape \(4, 16, 16, 3\)"),
        ({"dataset": 3}, "Received: dataset=3"),
        ({"dataset": [draw_data(4)[0]]}, "against labels.*a batch of ndarray"),
        ({"dataset": (draw_data(4)[0], {"ids": np.arange(4)})}, "against labels"),
        ({"dataset": []}, "no images"),
        ({"dataset": (draw_data(4)[0], np.array([0, 1, 2]))}, "as many labels as images"),
        ({"dataset": (draw_data(4)[0], np.array([0, 1, -1, 2]))}, r"\[0, 4\).*Received: .*-1"),
        ({"dataset": (draw_data(4)[0], np.array([0, 1, 4, 2]))}, "leave images without one out"),
        ({"dataset": (draw_data(4)[0], np.array(["a", "b", "c", "d"]))}, "Received: .*'a'"),
    ],
)
def test_bad_input(pair, change, match):
    arguments = {"dataset": draw_data(4), "scales": (1, 2)} | change
    with pytest.raises((TypeError, ValueError), match=match):
        keras_sdd.inspect_cells(pair[0], **arguments, verbose=0)


@on_one
def test_networks_that_do_not_fit(pair):
    inputs = keras.Input((16, 16, 3))
    flat = keras.Model(inputs, layers.Dense(NUM_CLASSES)(layers.Flatten()(inputs)))
    pooled = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3)(inputs))
    other = keras.Model(inputs, layers.Dense(NUM_CLASSES + 1)(pooled))

    def unread():
        raise AssertionError("a batch was read")
        yield

    with pytest.raises(ValueError, match="Flatten"):
        keras_sdd.inspect_cells(pair[0], unread(), student=flat)
    with pytest.raises(ValueError, match="teacher 4, student 5"):
        keras_sdd.inspect_cells(pair[0], unread(), student=other)
