"""Scenes of garments, as examples/make_scenes.py writes them: a study of our own.

    python examples/make_scenes.py --items=garments --data_dir=FOLDER --output=scenes/garments.npz
    python examples/train.py --config=configs/garment_scenes.py:cnn_16_32_64_64
    python examples/train.py --config=configs/garment_scenes.py:cnn_16_32_64_64,cnn_8_16_32,sd_kd \\
        --config.teacher_checkpoint=runs/garment_scenes/cnn_16_32_64_64/official-seed0/best.keras
    python examples/study.py --config=configs/studies.py:garments

FOLDER has the files of Fashion-MNIST. The second trains a network with labels only, the third is
one experiment, the last all of them. All but the scenes is as with digits.

Cost: the `seconds` of docs/studies/garments/results.csv, with TensorFlow on a CPU.
Results: docs/studies.md; every run so far is a line of docs/studies/garments/results.csv.
"""

import dataclasses

from configs import digit_scenes

RECIPE = digit_scenes.RECIPE | {"dataset": "scenes/garments.npz", "image_size": 64}
NETWORKS, PAIRS = digit_scenes.NETWORKS, digit_scenes.PAIRS
TABLES = {
    "garment_scenes": digit_scenes.TABLES["digit_scenes"],
    "labels_only": digit_scenes.TABLES["labels_only"],
}
EXPERIMENTS = dataclasses.replace(
    digit_scenes.EXPERIMENTS, name="garment_scenes", recipe=RECIPE, tables=TABLES
)


def get_config(arg="", reading="official", smoke=False):
    """Return the config of an experiment; see `recipes.Experiments.get_config`."""
    return EXPERIMENTS.get_config(arg, reading, smoke)
