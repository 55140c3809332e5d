"""Scenes of garments, as examples/make_scenes.py writes them: a study of our own.

--config=configs/garment_scenes.py:cnn_16_32_64_64,cnn_8_16_32,sd_kd is one experiment,
--config=configs/garment_scenes.py:cnn_8_16_32 trains a network with labels only.
All but the scenes is as with digits.
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
