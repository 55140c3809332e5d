"""The program that draws two students beside their teacher, on networks that nobody trained."""

import json
import math
import shutil

import figures
import keras
import numpy as np
import pytest
from backends import BACKEND
from drawings import numbers as pair_numbers
from drawings import run_pairs
from matplotlib.image import imread
from training.command_line import SetupError

from configs import own_data
from keras_sdd import cache, data, models

pytestmark = pytest.mark.skipif(BACKEND != "torch", reason="alike on all backends")

PAIR = "cnn_8_16_32,cnn_8_16_32"
SHAPE = (16, 16, 3)
NUM_CLASSES = 3
NUM_HELD = 12


def write_run(folder, method, dataset, teacher):
    """Write what the program reads of a finished run."""
    config = own_data.get_config(f"{PAIR},{method}")
    held = {"num_classes": NUM_CLASSES, "image_size": 16, "validation_examples": NUM_HELD}
    config.update(dataset=str(dataset), teacher_checkpoint="moved.keras", **held)
    folder.mkdir()
    (folder / "config.json").write_text(config.to_json())
    (folder / "result.json").write_text(json.dumps({"teacher": cache.digest_weights(teacher)[:12]}))
    models.build(config.student, NUM_CLASSES, SHAPE).save(folder / "last.keras")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with the runs `kd` and `sd_kd`, `teacher.keras`, which ends in a softmax."""
    folder = tmp_path_factory.mktemp("runs")
    rng = np.random.default_rng(0)
    arrays = {"x_train": rng.integers(0, 256, (40, *SHAPE), "uint8"), "y_train": np.arange(40) % 3}
    np.savez(folder / "data.npz", **arrays, x_test=arrays["x_train"], y_test=arrays["y_train"])
    keras.utils.set_random_seed(1)
    bare = models.build("small/cnn_8_16_32", NUM_CLASSES, SHAPE)
    teacher = keras.Model(bare.inputs, keras.layers.Softmax()(bare.outputs[0]))
    bare.save(folder / "bare.keras")
    teacher.save(folder / "teacher.keras")
    for method in ("kd", "sd_kd"):
        write_run(folder / method, method, folder / "data.npz", teacher)
    return folder


def read(folder, **options):
    options = {"teacher": str(folder / "teacher.keras")} | options
    return figures.read_study(folder / "kd", folder / "sd_kd", **options)


@pytest.fixture(scope="module")
def study(runs):
    """The study of both, which reads no test image."""
    splits, load = [], data.load
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "load", lambda *args, **kw: splits.append(args[1]) or load(*args, **kw))
        found = read(runs)
    assert splits == ["validation"]
    return found


def test_reads_what_networks_say(runs, study):
    held = {"validation_examples": NUM_HELD}
    images, labels = next(
        data.load(str(runs / "data.npz"), "validation", 64, **held).as_numpy_iterator()
    )
    np.testing.assert_array_equal(study.labels, labels)
    paths = {"teacher": "bare.keras", "KD": "kd/last.keras", "SD-KD": "sd_kd/last.keras"}
    for name, path in paths.items():
        network = keras.saving.load_model(runs / path, compile=False)
        outputs = study.outputs[name]
        logits = network.predict(images, verbose=0)
        np.testing.assert_allclose(outputs.logits, logits, atol=1e-5)
        dense = network.layers[-1]
        assert isinstance(dense, keras.layers.Dense)
        kernel, bias = (np.asarray(x, "float64") for x in dense.get_weights())
        np.testing.assert_allclose(outputs.embedding @ kernel + bias, logits, atol=1e-5)
        assert (outputs.classes is None) == (name == "KD")
        if name != "KD":
            assert outputs.classes.shape == (NUM_HELD, 21)
            np.testing.assert_array_equal(outputs.classes[:, 0], logits.argmax(1))
            right = outputs.classes == labels[:, None]
            np.testing.assert_array_equal(outputs.complementary, right != right[:, :1])
    raw = np.load(runs / "data.npz")["x_train"]
    shown = run_pairs.find_images(study.images, [3, 1])
    spec = data.find_spec(str(runs / "data.npz"))
    for index, image in zip([3, 1], shown, strict=True):
        assert image.dtype == "uint8" and (raw == image).all((1, 2, 3)).any()
        expected = (image / 255 - spec["mean"]) / spec["std"]
        np.testing.assert_allclose(images[index], expected, atol=1e-5)


def test_files(study, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(figures, "NUM_AMBIGUOUS", 2)  # drawing takes its time
    numbers = figures.make_figures(study, tmp_path / "made")
    for name in figures.FIGURES:
        image = imread(tmp_path / "made" / f"{name}.png")
        assert min(image.shape[:2]) > 400 and np.ptp(image[..., :3]) > 0.9
    written = json.loads((tmp_path / "made" / "figures.json").read_text())
    logits = {x: y.logits for x, y in study.outputs.items()}
    expected = {x: np.corrcoef(y.astype("float64").T) for x, y in logits.items()}
    for name in ("KD", "SD-KD"):
        difference = np.abs(expected["teacher"] - expected[name])
        mean = (difference[0, 1] + difference[0, 2] + difference[1, 2]) / 3
        assert written["correlations"][name] == pytest.approx(mean)
        right = np.mean(logits[name].argmax(1) == study.labels)
        assert written["accuracy"][name] == pytest.approx(100 * right)
    counted = written["rescued"]
    gained = written["accuracy"]["SD-KD"] - written["accuracy"]["KD"]
    assert (counted["rescued"] - counted["lost"]) / NUM_HELD == pytest.approx(gained / 100)
    complementary = study.outputs["teacher"].complementary[:, 1:].sum()
    assert written["cells"]["complementary"] == pytest.approx(complementary / (20 * NUM_HELD))
    figures.print_numbers(numbers, study.students)
    printed = capsys.readouterr().out
    assert f"{NUM_HELD} validation images" in printed
    assert f"{written['correlations']['SD-KD']:.4f}" in printed


def test_nothing_is_written_as_nan():
    assert figures._without_nan({"a": {"b": math.nan}, "c": 1.5}) == {"a": {"b": None}, "c": 1.5}


@pytest.mark.parametrize("num_classes", [2, 7])
def test_correlations(num_classes):
    rng = np.random.default_rng(0)
    logits = rng.normal(3.0, 2.0, (30, num_classes)) @ rng.normal(size=(num_classes, num_classes))
    found = pair_numbers.correlate_classes(logits.astype("float32"))
    np.testing.assert_allclose(found, np.corrcoef(logits.T), atol=1e-5)
    pairs = [found[i, j] for i in range(num_classes) for j in range(i)]
    assert pair_numbers.average_pairs(found) == pytest.approx(np.mean(pairs))
    logits[:, 0] = 2.0
    constant = pair_numbers.correlate_classes(logits)
    np.testing.assert_array_equal(constant[0], np.zeros(num_classes))


def test_separability():
    rng = np.random.default_rng(0)
    labels = np.arange(40) % 4
    x = rng.normal(size=(40, 3)) + 0.7 * labels[:, None]
    distances = np.sqrt(np.square(x[:, None] - x[None]).sum(-1))
    right, silhouettes = 0, []
    for i in range(40):
        nearest = [labels[j] for j in np.argsort(distances[i]) if j != i][:5]
        counts = [nearest.count(c) for c in nearest]
        right += nearest[counts.index(max(counts))] == labels[i]  # the first of the most frequent
        means = [distances[i, (labels == c) & (np.arange(40) != i)].mean() for c in range(4)]
        own, other = means[labels[i]], min(m for c, m in enumerate(means) if c != labels[i])
        silhouettes.append((other - own) / max(own, other))
    found = pair_numbers.measure_separability(x, labels)
    assert found["knn_accuracy"] == pytest.approx(100 * right / 40)
    assert found["silhouette"] == pytest.approx(np.mean(silhouettes))
    alone = pair_numbers.measure_separability(x, np.zeros(40, int))
    assert math.isnan(alone["silhouette"]) and alone["knn_accuracy"] == 100.0


def test_rescued_images():
    labels = np.zeros(20, int)
    plain, decoupled = np.zeros((20, 2)), np.zeros((20, 2))
    plain[:9, 1], decoupled[:9, 0] = 1.0, 1.0 + np.arange(9)  # 9 rescued, the last one most
    plain[9:12, 0], decoupled[9:12, 1] = 1.0, 1.0  # 3 lost
    plain[12:16, 1] = decoupled[12:16, 1] = 5.0  # wrong in both
    numbers, rescued = pair_numbers.compare_students(labels, plain, decoupled)
    p = 2 * sum(math.comb(12, i) for i in range(4)) / 2**12
    assert numbers == {"rescued": 9, "lost": 3, "p": pytest.approx(p)}
    assert rescued.tolist() == list(range(8, -1, -1))
    numbers, rescued = pair_numbers.compare_students(labels, plain, plain)
    assert numbers == {"rescued": 0, "lost": 0, "p": 1.0} and not rescued.size
    found = pair_numbers.find_probabilities(decoupled[:2], np.array([0, 1]))
    np.testing.assert_allclose(found, [1 / (1 + np.exp(-1)), 1 / (1 + np.exp(2))])


def test_ambiguous_images():
    labels = np.zeros(6, int)
    classes = np.array([[0, 1, 1, 0], [0, 1, 2, 0], [0, 0, 0, 0], [1, 0, 0, 0], [1, 1, 0, 0]])
    classes = np.concatenate([classes, [[0, 1, 2, 3]]])
    right = classes == 0
    complementary = right != right[:, :1]
    chosen = pair_numbers.choose_ambiguous(labels, classes, complementary, 4)
    assert chosen.tolist() == [5, 1, 3, 4]
    whole = [0, 1, 2, 5]  # without the two wrong ones
    chosen = pair_numbers.choose_ambiguous(labels[whole], classes[whole], complementary[whole], 3)
    assert chosen.tolist() == [3, 1, 0]
    assert pair_numbers.count_classes(np.array([4, 2, 2, 7, 2, 7])) == [(2, 3), (7, 2), (4, 1)]


def change(name, **changes):
    def apply(folder):
        path = folder / name
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return apply


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (shutil.rmtree, "--decoupled must be the folder of a run"),
        (lambda x: (x / "result.json").unlink(), "--decoupled is not finished"),
        (lambda x: (x / "last.keras").unlink(), "lost files.*without last.keras"),
        (lambda x: (x / "config.json").write_text("{"), "--decoupled: .* is damaged"),
        (change("config.json", method="kd"), "one of its SD form.*Received: kd in .* and kd in"),
        (change("config.json", method="sd_dkd"), "one of its SD form.*and sd_dkd in"),
        (change("config.json", seed=1), "What differs: seed: 0 and 1"),
        (change("config.json", dataset="b.npz", student="x"), "dataset: .*npz and b.npz; student"),
        (change("result.json", teacher="ab"), "the teacher's weights: .* and ab"),
    ],
)
def test_runs_that_are_no_pair(runs, tmp_path, spoil, message):
    shutil.copytree(runs, tmp_path / "runs")
    spoil(tmp_path / "runs" / "sd_kd")
    with pytest.raises(SetupError, match=message):
        read(tmp_path / "runs")


def test_other_mistakes(runs, tmp_path):
    with pytest.raises(SetupError, match="its place now as --teacher.*moved.keras' in the config"):
        read(runs, teacher=None)
    with pytest.raises(SetupError, match="no such file of the teacher.*'none.keras'$"):
        read(runs, teacher="none.keras")
    with pytest.raises(SetupError, match="not the teacher of the runs"):
        read(runs, teacher=str(runs / "kd" / "last.keras"))
    shutil.copytree(runs, tmp_path / "runs")
    both = [tmp_path / "runs" / name for name in ("kd", "sd_kd")]
    for folder in both:
        change("config.json", validation_examples=5)(folder)
    with pytest.raises(SetupError, match="more than 5 images. Received: 5 validation"):
        read(tmp_path / "runs")
    for folder in both:
        change("config.json", protocol="authors")(folder)
    with pytest.raises(SetupError, match="Pass --split=test"):
        read(tmp_path / "runs")
