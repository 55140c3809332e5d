"""Folders of images: what is read as what, what is left out, what is refused."""

import os
import re
import resource

import numpy as np
import pytest
from backends import BACKEND
from images import arrays as image_arrays
from images import decoding
from images import folder as image_folder
from PIL import Image
from training.command_line import SetupError

pytestmark = pytest.mark.skipif(BACKEND != "torch", reason="alike on all backends")
SIZE = 8


def write_images(folder, number, seed, suffix="png"):
    """Write that many images of noise, no two alike."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    for i in range(number):
        pixels = random.integers(0, 256, (10, 12, 3)).astype("uint8")
        Image.fromarray(pixels).save(folder / f"{i}.{suffix}")


@pytest.fixture
def folder(tmp_path):
    """Two classes of six images whose files have the same names."""
    for seed, name in enumerate(("cat", "dog")):
        write_images(tmp_path / "photos" / name, 6, seed)
    return tmp_path / "photos"


@pytest.fixture
def output(tmp_path):
    (tmp_path / "output").mkdir()
    return tmp_path / "output"


def prepare(folder, output, size=SIZE):
    return image_arrays.prepare_images(folder, output, size)


# What is read


RED, GREY = (200, 10, 30), (77, 77, 77)


def make_palette():
    image = Image.new("P", (9, 9), 1)
    image.putpalette([1, 2, 3, *RED])
    return image


KINDS = {
    "rgb.png": (Image.new("RGB", (30, 9), RED), RED),
    "photo.jpg": (Image.new("RGB", (300, 200), GREY), GREY),
    "grey.png": (Image.new("L", (9, 9), 77), GREY),
    "sixteen.png": (Image.fromarray(np.full((9, 9), 77 * 257, "uint16")), GREY),
    "palette.png": (make_palette(), RED),
    "ink.tif": (Image.new("CMYK", (9, 9), (0, 0, 0, 255)), (0, 0, 0)),
    "clear.png": (Image.new("RGBA", (9, 9), (*RED, 0)), (255, 255, 255)),
    "opaque.png": (Image.new("RGBA", (9, 9), (*RED, 255)), RED),
    "half.png": (Image.new("LA", (9, 9), (0, 51)), (204, 204, 204)),
    "tiny.bmp": (Image.new("1", (1, 1), 1), (255, 255, 255)),
}


@pytest.mark.parametrize("name", KINDS)
def test_images_of_any_kind_become_rgb(name, tmp_path):
    image, colour = KINDS[name]
    image.save(tmp_path / name)
    pixels = decoding.decode_image(tmp_path / name, SIZE)
    assert pixels.shape == (SIZE, SIZE, 3) and pixels.dtype == np.uint8
    np.testing.assert_allclose(pixels.astype(int), np.broadcast_to(colour, pixels.shape), atol=1)


def test_the_centre_is_kept_and_the_camera_obeyed(tmp_path):
    pixels = np.zeros((4, 12, 3), "uint8")
    pixels[:, :4], pixels[:, 8:] = 255, 255  # white on both sides of a black centre
    pixels[:2, 4:8, 0] = 200  # whose upper half is red
    image = Image.fromarray(pixels)
    image.save(tmp_path / "a.png")
    found = decoding.decode_image(tmp_path / "a.png", 4)
    np.testing.assert_array_equal(found, pixels[:, 4:8])
    turned = Image.Exif()
    turned[0x0112] = 6  # the camera was held so that the right of the picture is its top
    image.save(tmp_path / "b.png", exif=turned)
    found = decoding.decode_image(tmp_path / "b.png", 4)
    np.testing.assert_array_equal(found, np.rot90(pixels[:, 4:8], -1))


def test_arrays_hold_the_images_of_the_classes(folder, output):
    write_images(folder / "unlabeled", 3, 9)
    found = prepare(folder, output)
    assert found["classes"] == ["cat", "dog"] and not found["left_out"]
    parts = {"train": [4, 4], "validation": [1, 1], "test": [1, 1], "unlabelled": 3}
    assert found["counts"] == parts
    with np.load(output / "images.npz") as arrays:
        shapes = {name: arrays[name].shape for name in arrays.files}
        assert shapes["x_train"] == (11, SIZE, SIZE, 3) and shapes["y_validation"] == (2,)
        seen = {0: set(), 1: set(), None: set()}
        for split in ("train", "validation", "test"):
            for i, (x, y) in enumerate(
                zip(arrays[f"x_{split}"], arrays[f"y_{split}"], strict=True)
            ):
                seen[None if split == "train" and i >= 8 else int(y)].add(x.tobytes())
    for key, name in ((0, "cat"), (1, "dog"), (None, "unlabeled")):
        files = (folder / name).iterdir()
        assert seen[key] == {decoding.decode_image(x, SIZE).tobytes() for x in files}


def test_a_folder_is_read_once_and_split_alike(folder, output, tmp_path, monkeypatch):
    first = prepare(folder, output)
    (tmp_path / "again").mkdir()
    prepare(folder, tmp_path / "again")
    with np.load(output / "images.npz") as a, np.load(tmp_path / "again/images.npz") as b:
        assert all(np.array_equal(a[x], b[x]) for x in a.files)
    monkeypatch.setattr(decoding, "decode_images", None)
    assert prepare(folder, output) == first


def test_a_folder_that_changes_is_refused(folder, output):
    prepare(folder, output)
    with pytest.raises(SetupError, match="begun with --image_size=8; pass that"):
        prepare(folder, output, 9)
    write_images(folder / "cat", 1, 5, "bmp")
    (folder / "dog/3.png").unlink()
    with pytest.raises(SetupError, match="have changed.*Changed: 2 files, as cat/0.bmp, dog/3.png"):
        prepare(folder, output)
    (output / "images.json").unlink()
    assert prepare(folder, output)["counts"]["train"] == [5, 3]


# What is left out


def test_broken_files_are_named_and_left_out(folder, output, monkeypatch):
    (folder / "cat/letter.jpg").write_text("a text")
    whole = (folder / "dog/0.png").read_bytes()
    (folder / "dog/cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "dog/none.jpg").write_bytes(b"")
    Image.new("F", (9, 9)).save(folder / "dog/float.tif")
    (folder / "cat/link.png").symlink_to(folder / "nowhere.png")
    (folder / "cat/.DS_Store").write_text("hidden files are no images")
    write_images(folder / "cat", 1, 7, "bmp")
    opened = Image.open
    monkeypatch.setattr(  # whoever runs the tests may be allowed to read all
        Image, "open", lambda path: opened(path) if path.suffix != ".bmp" else forbid()
    )
    found = prepare(folder, output)
    assert found["left_out"] == {
        "cat/letter.jpg": "not an image",
        "cat/0.bmp": "no permission to read it",
        "cat/link.png": found["left_out"]["cat/link.png"],
        "dog/cut.png": found["left_out"]["dog/cut.png"],
        "dog/none.jpg": "not an image",
        "dog/float.tif": "its pixels are in floating point; save it with 8 bits",
    }
    assert found["left_out"]["dog/cut.png"].startswith("damaged: ")
    assert "No such file" in found["left_out"]["cat/link.png"]
    assert found["counts"]["train"] == [4, 4]


def forbid():
    raise PermissionError(13, "Permission denied")


def test_copies_are_left_out_of_training(folder, output):
    write_images(folder / "test/cat", 1, 0)  # as cat/0.png
    write_images(folder / "test/dog", 1, 8)
    write_images(folder / "unlabeled", 2, 1)  # as dog/0.png and dog/1.png
    (folder / "dog/2.png").write_bytes((folder / "cat/2.png").read_bytes())
    (folder / "cat/again.png").write_bytes((folder / "cat/3.png").read_bytes())
    found = prepare(folder, output)
    assert found["left_out"] == {
        "cat/0.png": "the same picture as test/cat/0.png",
        "cat/2.png": "the same picture as dog/2.png, of another class",
        "dog/2.png": "the same picture as cat/2.png, of another class",
        "cat/again.png": "the same picture as cat/3.png",
        "unlabeled/0.png": "the same picture as dog/0.png",
        "unlabeled/1.png": "the same picture as dog/1.png",
    }
    parts = {"train": [3, 4], "validation": [1, 1], "test": [1, 1], "unlabelled": 0}
    assert found["counts"] == parts


def test_what_a_person_should_know_is_noted(folder, output):
    write_images(folder / "Cat", 30, 3)
    write_images(folder / "test/dog", 2, 4)
    (folder / "dog/more").mkdir()
    (folder / "readme.txt").write_text("about the photos")
    notes = " ".join(prepare(folder, output)["notes"])
    for words in (
        "1 files lie beside the class folders",
        "1 folders within dog/ are not read",
        "names differ in case alone: Cat, cat.",
        "Cat has 30 images, cat 6",
        "test/ has no image of Cat, cat:",
    ):
        assert words in notes


# What is refused


def empty(folder):
    (folder / "bird").mkdir()


def keep_one_class(folder):
    (folder / "dog").rename(folder / "unlabeled")


def wrap(folder):
    (folder / "train").mkdir()
    (folder / "cat").rename(folder / "train/cat")
    (folder / "test").mkdir()


def break_all(folder):
    for path in (folder / "cat").iterdir():
        path.write_text("a text")


def test_too_much(folder):
    write_images(folder / "test/bird", 1, 0)


def empty_test(folder):
    (folder / "test/cat").mkdir(parents=True)


def break_test(folder):
    empty_test(folder)
    (folder / "test/cat/0.png").write_text("a text")


test_too_much.__test__ = False
REFUSED = {
    empty: "A class needs 3 images or more.*the test. Put .*Received: bird 0$",
    keep_one_class: "two classes or more.*Received: cat$",
    wrap: r"train has folders in it and no images.*pass --images=\S+/train if.*Received: cat$",
    break_all: "needs 3 images or more.*Received: cat 0\nLeft out:\n  cat/0.png: not an image\n",
    test_too_much: "test must hold folders with the names of the classes, cat, dog. Received: bird",
    empty_test: "No image of test/ can be used. Put .* or remove test/",
    break_test: "No image of test/ can be used. Put .* or remove test/",
}


@pytest.mark.parametrize("change", REFUSED, ids=lambda x: x.__name__)
def test_useless_folders_are_refused(change, folder, output):
    change(folder)
    with pytest.raises(SetupError) as caught:
        prepare(folder, output)
    assert re.search(REFUSED[change], str(caught.value), re.DOTALL), caught.value
    assert not list(output.iterdir())


def test_folders_that_cannot_be_read_are_refused(folder, output, monkeypatch):
    with pytest.raises(SetupError, match="no such folder. Received: .*none"):
        prepare(folder / "none", output)
    with pytest.raises(SetupError, match="Expected a folder of images. Received: .*0.png"):
        prepare(folder / "cat/0.png", output)
    scan = os.scandir
    monkeypatch.setattr(os, "scandir", lambda x: scan(x) if x != folder / "dog" else forbid())
    with pytest.raises(SetupError, match=r"chmod u\+rx \S+/dog"):
        prepare(folder, output)


def test_a_full_disk_leaves_nothing_behind(folder, output):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2048, limits[1]))
    try:
        with pytest.raises(SetupError, match="cannot be written; they need 0.0 MiB. Make room"):
            prepare(folder, output)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(output.iterdir())
    assert prepare(folder, output)["counts"]["train"] == [4, 4]


def test_images_beyond_the_memory_are_refused():
    number = 10**9
    with pytest.raises(SetupError, match="held in memory") as caught:
        image_arrays.check_memory(number, 224)
    fits = int(re.search(r"--image_size=(\d+) or less", str(caught.value))[1])
    image_arrays.check_memory(number, fits)
    with pytest.raises(SetupError):
        image_arrays.check_memory(number, fits + 1)


def test_every_class_is_in_every_part():
    entries = [
        image_folder.Entry(f"{label}/{i}", image_folder.TRAIN_PART, label)
        for label, number in enumerate((3, 10, 40))
        for i in range(number)
    ]
    split = image_folder.split_entries(image_folder.Listing(["a", "b", "c"], entries, {}, []))
    labels = np.array([x.label for x in entries])
    counts = {name: np.bincount(labels[x], minlength=3).tolist() for name, x in split.items()}
    assert counts["train"] == [1, 6, 28]
    assert counts["validation"] == counts["test"] == [1, 2, 6]
    together = np.concatenate([split[x] for x in ("train", "validation", "test")])
    assert sorted(together) == list(range(53))
