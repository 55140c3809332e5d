"""Scenes of handwritten digits, as examples/make_scenes.py writes them: a study of our own.

    python examples/make_scenes.py --items=digits --output=scenes/digits.npz
    python examples/train.py --config=configs/digit_scenes.py:cnn_16_32_64_64
    python examples/train.py --config=configs/digit_scenes.py:cnn_16_32_64_64,cnn_8_16_32,sd_kd \\
        --config.teacher_checkpoint=runs/digit_scenes/cnn_16_32_64_64/official-seed0/best.keras
    python examples/study.py --config=configs/studies.py:digits

The second trains a network with labels only, the third is one experiment, the last all of them.

Cost: a run of the study trained 15 to 344 s, the median 27 s, with TensorFlow on a CPU (`seconds`
of docs/studies/digits/results.csv).
Results: docs/studies.md; every run is a line of docs/studies/digits/results.csv.
"""

from configs import recipes

RECIPE = recipes.SGD | {
    "dataset": "scenes/digits.npz",
    "num_classes": 10,
    "image_size": 32,
    "validation_examples": 1000,
    "epochs": 30,
    "milestones": (18, 24, 28),
    "augment": False,
}
SETTINGS = recipes.KD | {
    "warmup_of_programs": 3,
}
NETWORKS = {
    "cnn_16_32_64_64": {"student": "small/cnn_16_32_64_64"},
    "cnn_8_16_32": {"student": "small/cnn_8_16_32"},
    "cnn_32_64_128_128": {"student": "small/cnn_32_64_128_128"},
    "resnet8": {},
}
# The cells of scale 4 are the places of the scenes, whichever the networks.
PAIRS = {
    pair: {"scales": (1, 2, 4), "beta": 8.0}
    for pair in (
        "cnn_16_32_64_64,cnn_8_16_32",
        "cnn_32_64_128_128,cnn_8_16_32",
        "cnn_32_64_128_128,cnn_16_32_64_64",
        "resnet8,cnn_8_16_32",
        "resnet8,cnn_16_32_64_64",
    )
}
METHODS = ("kd", "sd_kd", "dkd", "sd_dkd", "nkd", "sd_nkd")
TABLES = {
    "digit_scenes": {f"{pair},{method}": None for pair in PAIRS for method in METHODS},
    "labels_only": dict.fromkeys(NETWORKS),
}
EXPERIMENTS = recipes.Experiments(
    "digit_scenes", "cifar100", RECIPE, SETTINGS, NETWORKS, PAIRS, TABLES
)


def get_config(arg="", reading="official", smoke=False):
    """Return the config of an experiment; see `recipes.Experiments.get_config`."""
    return EXPERIMENTS.get_config(arg, reading, smoke)
