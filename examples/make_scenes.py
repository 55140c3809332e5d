"""Write scenes, whose regions have other classes than the whole, as a data set of one's own.

    python examples/make_scenes.py --items=digits --output=scenes/digits.npz
    python examples/make_scenes.py --items=garments --data_dir=/usr/share/datasets/fashion-mnist \\
        --output=scenes/garments.npz

No item of a training scene is in a test scene. The file holds x_train, y_train, x_test and y_test;
configs/digit_scenes.py and configs/garment_scenes.py train on it.
"""

import pathlib
import sys

import numpy as np
from absl import app, flags
from scenes import garments
from scenes.digits import compose_scenes, split_digits

from keras_sdd.data.fashion_mnist import read_folder

NUM_SCENES = {"digits": (3000, 2000), "garments": (5000, 5000)}


def compose_digits(num_train, num_test):
    """Return scenes of digits as bytes: a dict of the splits to (images, labels)."""
    digits = split_digits()
    images, labels = (
        np.concatenate(parts) for parts in zip(digits["train"], digits["validation"], strict=True)
    )
    composed = {
        "train": compose_scenes(images, labels, num_train, seed=0),
        "test": compose_scenes(*digits["test"], num_test, seed=2),
    }
    # Noise goes beyond black and white.
    return {
        split: (np.clip(127.5 * (scenes + 0.5), 0, 255).round().astype("uint8"), labels)
        for split, (scenes, labels) in composed.items()
    }


def compose_garments(folder, num_train, num_test):
    """Return scenes of garments, in the same form."""
    counts = {"train": num_train, "test": num_test}
    return {
        split: garments.compose_scenes(*read_folder(folder, split), count, seed)
        for seed, (split, count) in enumerate(counts.items())
    }


def main(argv):
    """Compose and write."""
    if argv[1:]:
        raise app.UsageError(f"Expected flags only, --name=value. Received: {' '.join(argv[1:])}")
    values = flags.FLAGS
    counts = NUM_SCENES[values.items]
    try:
        if values.items == "digits":
            splits = compose_digits(*counts)
        else:
            splits = compose_garments(values.data_dir, *counts)
    except (FileNotFoundError, ValueError) as error:
        sys.exit(f"error: {error}")
    path = pathlib.Path(values.output or f"scenes/{values.items}.npz")
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {
        f"{x}_{split}": part
        for split, xy in splits.items()
        for x, part in zip("xy", xy, strict=True)
    }
    np.savez_compressed(path, **arrays)
    print(f"{path}: {counts[0]:,} scenes for training and {counts[1]:,} for the test")


def define_flags():
    """Define the flags of the program."""
    flags.DEFINE_enum("items", "digits", list(NUM_SCENES), "What the scenes show.")
    flags.DEFINE_string(
        "data_dir", "/usr/share/datasets/fashion-mnist", "Folder of the files of Fashion-MNIST."
    )
    flags.DEFINE_string("output", None, "File; by default scenes/ITEMS.npz.")


if __name__ == "__main__":
    define_flags()
    app.run(main)
