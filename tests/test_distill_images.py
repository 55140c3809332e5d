"""From a folder of images to a student, its files and a page."""

import html.parser
import json
import math
import re
import types

import distill_images
import keras
import numpy as np
import pytest
from backends import BACKEND
from images import networks, report, results, runs
from images.runs import DISTILLED, LABELS, TEACHER
from keras import layers
from PIL import Image
from training.command_line import SetupError

from configs import keys, own_data

once = pytest.mark.skipif(BACKEND != "torch", reason="alike on all backends")
SIZE = 16


def build_brightness(classes=2, scale=255.0, size=SIZE):
    """A network that says the more for the last class the brighter the image."""
    pixels = keras.Input((size, size, 3))
    x = layers.Rescaling(1 / scale)(pixels)
    x = layers.Conv2D(classes, 1, name="classifier")(x)
    network = keras.Model(pixels, layers.GlobalAveragePooling2D()(x))
    kernel = np.zeros((1, 1, 3, classes), "float32")
    kernel[..., -1] = 4.0
    bias = np.zeros(classes, "float32")
    bias[0] = 6.0
    network.get_layer("classifier").set_weights([kernel, bias])
    return network


# Networks


@once
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mobilenet_v3_small", "MobileNetV3Small"),
        ("EfficientNetV2B0", "EfficientNetV2B0"),
        ("small/cnn_8_16_32", "small/cnn_8_16_32"),
        ("mine.keras", "mine.keras"),
    ],
)
def test_names(name, expected):
    assert networks.check_name(name, "student") == expected


@once
def test_near_names_are_told():
    with pytest.raises(SetupError, match="--teacher. Near:.*mobilenetv3small.*'mobilnet_v3'"):
        networks.check_name("mobilnet_v3", "teacher")
    with pytest.raises(SetupError, match="--student. Near:.*cifar100/resnet8; .*'cifar/resnet8'"):
        networks.check_name("cifar/resnet8", "student")


def build_tiny(weights, include_top, input_shape):
    """As an application of Keras: "imagenet" weights are all 1."""
    inputs = keras.Input(input_shape)
    x = layers.Conv2D(4, 1, use_bias=False)(inputs)
    body = keras.Model(inputs, layers.BatchNormalization(momentum=0.999)(x))
    if weights:
        body.layers[1].set_weights([np.ones((1, 1, 3, 4), "float32")])
    return body


@once
def test_weights_of_imagenet_are_taken_where_they_can_be_had(monkeypatch):
    calls = []

    def build(weights, **options):
        calls.append(weights)
        if weights and len(calls) == 1:
            raise Exception("URL fetch failure\non a server")
        return build_tiny(weights, **options)

    monkeypatch.setattr(keras.applications, "ResNet50", build)
    _, weights = networks.build_classifier("ResNet50", 3, SIZE)
    assert calls == ["imagenet", None] and not networks.is_pretrained(weights)
    assert weights.startswith("from scratch") and weights.endswith(": URL fetch failure")
    network, weights = networks.build_classifier("ResNet50", 3, SIZE)
    assert weights == "from ImageNet's weights" and networks.is_pretrained(weights)
    (body,) = (x for x in network.layers if isinstance(x, keras.Model))
    assert body.layers[-1].momentum == 0.9
    # Of ResNet's, a mean is taken off and red and blue change places.
    images = np.random.default_rng(0).integers(0, 256, (2, SIZE, SIZE, 3)).astype("float32")
    expected = (images - np.array([123.68, 116.779, 103.939])).sum(-1).mean((1, 2))
    pooled = keras.Model(network.input, network.get_layer("pooling").output)
    actual = pooled.predict(images, verbose=0)[:, 0] * math.sqrt(1.001)
    np.testing.assert_allclose(actual, expected, rtol=1e-4)


@once
def test_preprocessing_is_that_of_the_network_s_own_module():
    found = {
        name: networks._find_preprocessing(name)
        for name in ("MobileNetV3Small", "MobileNet", "ResNet50V2", "ResNet101", "DenseNet121")
    }
    modules = keras.applications
    assert found == {
        "MobileNetV3Small": modules.mobilenet_v3.preprocess_input,
        "MobileNet": modules.mobilenet.preprocess_input,
        "ResNet50V2": modules.resnet_v2.preprocess_input,
        "ResNet101": modules.resnet.preprocess_input,
        "DenseNet121": modules.densenet.preprocess_input,
    }


@once
@pytest.mark.parametrize(
    ("network", "message"),
    [
        (build_brightness(size=12), r"images of \(12, 12, 3\).*pass --image_size=12"),
        (build_brightness(classes=3), "tells 3 classes apart, and --images has 2 class folders"),
    ],
)
def test_files_that_do_not_fit_are_refused(network, message):
    with pytest.raises(SetupError, match=message):
        networks.load_classifier("mine.keras", 2, SIZE, lambda path: network)


@once
def test_files_for_images_of_any_size_get_this_one():
    network = build_brightness(size=None)
    found = networks.load_classifier("mine.keras", 2, SIZE, lambda path: network)
    assert found.input_shape == (None, SIZE, SIZE, 3)
    images = np.full((1, SIZE, SIZE, 3), 255.0)
    expected = [[6.0, 12.0]]  # 3 channels of weight 4
    np.testing.assert_allclose(found.predict(images, verbose=0), expected, rtol=1e-5)


# Runs


def write_arrays(folder):
    """Dark images of class 0, bright ones of class 1."""
    labels = np.arange(12) % 2
    random = np.random.default_rng(0)
    images = random.integers(0, 90, (12, SIZE, SIZE, 3)) + 150 * labels[:, None, None, None]
    parts = {"train": 6, "validation": 4, "test": 2}
    arrays, start = {}, 0
    for name, number in parts.items():
        own = slice(start, start := start + number)
        arrays |= {f"x_{name}": images[own].astype("uint8"), f"y_{name}": labels[own]}
    np.savez(folder / "images.npz", **arrays)


@once
def test_a_teacher_at_chance_is_refused_and_the_remedy_helps(tmp_path, capsys):
    write_arrays(tmp_path)
    config = own_data.get_config("cnn_8_16_32")
    with config.unlocked():
        config.update(dataset=str(tmp_path / "images.npz"), validation_examples=4, raw_images=True)
    path = tmp_path / "teacher.keras"
    build_brightness().save(path)
    runs.check_teacher(path, config, ["dark", "bright"])
    assert "right in 100.0% of 4 validation images" in capsys.readouterr().out
    build_brightness(scale=1.0).save(path)  # for it all images are bright
    with pytest.raises(
        SetupError, match="50.0% of.*order of their folders: dark, bright"
    ) as caught:
        runs.check_teacher(path, config, ["dark", "bright"])
    code = str(caught.value).split("of 0 to 1:\n")[1].replace("\n  ", "\n").strip()
    code = code.replace("teacher.keras", str(path)).replace("FILE", repr(str(path)))
    exec(code, {"keras": keras})
    runs.check_teacher(path, config, ["dark", "bright"])


@once
def test_the_time_left_counts_all_runs(monkeypatch, capsys):
    moments = iter([0, 10, 10, 30, 30, 40])
    clock = types.SimpleNamespace(perf_counter=lambda: next(moments))
    monkeypatch.setattr(runs, "time", clock)
    callback = runs.ShowTimeLeft("labels", 2, 40, slowest=60.0)
    callback.set_params({"epochs": 4})
    for epoch in range(3):
        callback.on_epoch_begin(epoch)
        callback.on_epoch_end(epoch)
    lines = capsys.readouterr().out.splitlines()
    # Of 10, 20 and 10 seconds; what comes later is as slow as what was before.
    assert lines[1] == "labels: epoch 2 of 4, 4 of 46 in all; about 40 min left"
    assert lines[2] == "labels: epoch 3 of 4, 5 of 46 in all; about 40 min left"


@once
def test_runs_have_the_students_in_common(tmp_path):
    for role in ("teacher", "student"):
        (tmp_path / "networks").mkdir(exist_ok=True)
        build_brightness().save(tmp_path / "networks" / f"{role}.keras")
    counts = {"train": [5, 4], "validation": [2, 2], "test": [1, 1], "unlabelled": 7}
    weights = {"teacher": "from ImageNet's weights", "student": "from scratch"}
    args = ("EfficientNetV2B0", "MobileNetV3Small", weights, 40, counts)
    configs = runs.make_configs(tmp_path, *args)
    assert list(configs) == [TEACHER, LABELS, DISTILLED]
    labels, distilled = configs[LABELS], configs[DISTILLED]
    assert set(distilled) == {*keys.EXPERIMENT, *keys.DISTILLATION, *keys.FOLDERS}
    differing = {x for x in labels if labels[x] != distilled[x]}
    assert differing <= {"cell", "method", "table", "num_examples", "student_loss_weight"}
    assert labels.num_examples == distilled.labelled_examples == 9
    assert distilled.num_examples == 16 and not labels.test and not distilled.test
    assert (configs[TEACHER].learning_rate, labels.learning_rate) == (0.01, 0.05)
    configs = runs.make_configs(tmp_path, "mine.keras", *args[1:])
    assert list(configs) == [LABELS, DISTILLED]


# Results


@once
def test_interval_and_comparison_are_those_of_the_books():
    n, k, z = 80, 60, 1.959963984540054
    centre = (k + z * z / 2) / (n + z * z)
    half = z / (n + z * z) * math.sqrt(k * (n - k) / n + z * z / 4)
    expected = (100 * (centre - half), 100 * (centre + half))
    np.testing.assert_allclose(results.find_interval(k, n), expected)
    labels = np.zeros(20, int)
    first, second = np.zeros((2, 20, 2))
    first[:9], second[:2] = (0, 1), (0, 1)  # wrong
    first[2], second[2] = (1, 0), (0, 1)
    found = results.compare_students(labels, first, second)
    assert (found["only_first"], found["only_second"]) == (1, 6)
    # Of 7 images on which they differ, 6 or 7 on one side, by throws of a coin.
    assert found["p"] == pytest.approx(2 * (math.comb(7, 6) + math.comb(7, 7)) / 2**7)
    assert results.compare_students(labels, first, first)["p"] == 1.0


@once
def test_confusions_are_counted_by_row():
    logits = np.eye(3)[[0, 1, 1, 2, 0]]
    counts = results.count_confusions(np.array([0, 0, 1, 1, 2]), logits)
    np.testing.assert_array_equal(counts, [[1, 1, 0], [0, 1, 1], [1, 0, 0]])


def make_found(plain, distilled, teacher, p):
    figures = {TEACHER: (teacher, 1000), LABELS: (plain, 10), DISTILLED: (distilled, 10)}
    return {
        "numbers": {x: {"accuracy": y, "parameters": n} for x, (y, n) in figures.items()},
        "comparison": {"only_first": 3 * (p < 1), "only_second": 4 * (p < 1), "p": p},
        "confusions": np.array([[74, 0], [25, 1]]),
    }


@once
@pytest.mark.parametrize(
    ("figures", "words"),
    [
        ((70, 75, 80, 0.01), ["5.0 points better", "seldom part them", "100.0 times"]),
        ((75, 70, 80, 0.6), ["5.0 points worse", "could be chance"]),
        ((75, 75, 70, 1.0), ["made no difference", "same images", "The teacher is no better"]),
        ((70, 74, 80, 0.6), ["4.0 points better", "has learned nothing yet"]),
    ],
)
def test_the_page_says_what_came_out(figures, words):
    text = " ".join(report.make_summary(make_found(*figures)))
    assert all(x in text for x in words)
    assert ("learned nothing" in text) == (figures[1] <= 74)


# The program


class Page(html.parser.HTMLParser):
    """What a page is made of: tags, sources and text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.sources, self.text, self.open = set(), [], "", []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.sources += [y for x, y in attrs if x in ("src", "href")]
        if tag not in ("img", "meta"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def make_flags(tmp_path, **changes):
    values = {
        "images": str(tmp_path / "photos"),
        "output": str(tmp_path / "output"),
        "teacher": str(tmp_path / "teacher.keras"),
        "student": "small/cnn_8_16_32",
        "export": ["litert"],
        "int8": False,
        "image_size": SIZE,
        "epochs": 1,
    }
    return types.SimpleNamespace(**values | changes)


@once
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"export": ["tflite"]}, "Formats are litert, onnx.*Received: tflite"),
        ({"teacher": "none.keras"}, "no such file. Received: 'none.keras'"),
    ],
)
def test_flags_that_cannot_be_are_told(changes, message, tmp_path):
    build_brightness().save(tmp_path / "teacher.keras")
    with pytest.raises(SetupError, match=message):
        distill_images.check_flags(make_flags(tmp_path, **changes))


@pytest.mark.skipif(BACKEND != "tensorflow", reason="files for devices are written on TensorFlow")
def test_a_folder_becomes_a_student_its_files_and_a_page(tmp_path, capsys, monkeypatch):
    random = np.random.default_rng(0)
    for label, name in enumerate(("<dark>", "bright")):
        folder = tmp_path / "photos" / name
        folder.mkdir(parents=True)
        for i in range(8):
            pixels = random.integers(0, 90, (SIZE, SIZE + i, 3)) + 150 * label
            Image.fromarray(pixels.astype("uint8")).save(folder / f"{i}.png")
    (tmp_path / "photos/bright/letter.jpg").write_text("a text")
    build_brightness().save(tmp_path / "teacher.keras")
    output = tmp_path / "output"
    output.mkdir()
    distill_images.distill_images(make_flags(tmp_path), "the command")
    student = keras.saving.load_model(output / "student.keras")
    assert (
        student.count_params()
        == keras.models.load_model(output / "networks/student.keras").count_params()
    )
    assert (output / "exported/labels.txt").read_text() == "<dark>\nbright\n"
    rows = json.loads((output / "exported/export.json").read_text())
    assert [x["format"] for x in rows] == ["keras", "litert"]
    assert rows[1]["difference"] < 1e-3 and (output / "exported/student.tflite").is_file()
    page = Page((output / "report.html").read_text())
    assert not page.open and "script" not in page.tags
    assert page.sources and all(x.startswith("data:image/png;base64,") for x in page.sources)
    role = "student: small/cnn_8_16_32, from scratch"
    for words in ("<dark>", "letter.jpg: not an image", "the command", "student.tflite", role):
        assert words in page.text
    accuracy = re.search(r"teacher(\d+\.\d)", page.text)[1]
    assert float(accuracy) == 100.0 and "is right in 100.0 %" in page.text
    assert "bright/letter.jpg: not an image" in capsys.readouterr().out
    with pytest.raises(SetupError, match="other settings.*--epochs=1, now 2. Pass those again"):
        distill_images.distill_images(make_flags(tmp_path, epochs=2), "the command")
    monkeypatch.setattr(distill_images, "_examine", None)  # comes next
    with pytest.raises(TypeError):
        distill_images.distill_images(make_flags(tmp_path), "the command")
    assert capsys.readouterr().out.count("holds a finished run") == 2
