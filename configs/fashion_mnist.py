"""Fashion-MNIST: a study of our own, for two CPU cores. The paper has no figures for it.

    python examples/train.py --config=configs/fashion_mnist.py:wrn_16_2
    python examples/train.py --config=configs/fashion_mnist.py:wrn_16_2,cnn_8_16_32,sd_kd \\
        --config.teacher_checkpoint=runs/fashion_mnist/wrn_16_2/official-seed0/best.keras
    python examples/study.py --config=configs/studies.py:fashion

The first trains a network with labels only, the second is one experiment, the third all of them.
A teacher sees all training images but those that are held out, a few times, every student the same
5,000: few labels are where a teacher helps. Students see them as they are, so that the teacher can
be cached.

Cost: 30 epochs of 5,000 images; the seconds of each run are in docs/studies/fashion/results.csv.
Results: of two pairs, tuned, and of four with three sets of scales, docs/studies.md.
"""

from configs import recipes

RECIPE = recipes.SGD | {
    "dataset": "fashion_mnist",
    "num_classes": 10,
    "image_size": 32,
    "validation_examples": 5000,
    "num_examples": 5000,
    "epochs": 30,
    "milestones": (18, 24, 28),
    "augment": False,
}
SETTINGS = recipes.KD | {
    "warmup_of_programs": 3,
}
_TEACHER = {"num_examples": None, "epochs": 4, "milestones": (3,), "augment": True}
_SLOW = {"learning_rate": 0.01}
NETWORKS = {
    "resnet8x4": _TEACHER,
    "vgg8": _TEACHER,
    "wrn_16_2": _TEACHER,
    "cnn_32_64_128_128": _TEACHER
    | {"student": "small/cnn_32_64_128_128", "epochs": 6, "milestones": (4, 5)},
    "resnet8": {},
    "wrn_16_1": {},
    "mobilenet_v2": _SLOW,
    "shufflenet_v1": _SLOW,
    "shufflenet_v2": _SLOW,
    "cnn_8_16_32": {"student": "small/cnn_8_16_32"},
    "cnn_16_32_64_64": {"student": "small/cnn_16_32_64_64"},
}
_ALIKE = {"scales": (1, 2), "beta": 8.0}
_SETTINGS = {"scales": (1, 2, 4), "beta": 8.0}
PAIRS = {
    "cnn_32_64_128_128,cnn_8_16_32": _ALIKE,
    "cnn_32_64_128_128,cnn_16_32_64_64": _ALIKE,
    "wrn_16_2,cnn_8_16_32": _SETTINGS,
    "wrn_16_2,cnn_16_32_64_64": _SETTINGS,
    "wrn_16_2,resnet8": _SETTINGS,
    "vgg8,resnet8": _SETTINGS,
    "resnet8x4,wrn_16_1": _SETTINGS,
    "resnet8x4,mobilenet_v2": _SETTINGS,
    "resnet8x4,shufflenet_v1": _SETTINGS,
}
METHODS = ("kd", "sd_kd", "dkd", "sd_dkd", "nkd", "sd_nkd")
TABLES = {
    "fashion_mnist": {f"{pair},{method}": None for pair in PAIRS for method in METHODS},
    "labels_only": dict.fromkeys(NETWORKS),
}
EXPERIMENTS = recipes.Experiments(
    "fashion_mnist", "cifar100", RECIPE, SETTINGS, NETWORKS, PAIRS, TABLES
)


def get_config(arg="", reading="official", smoke=False):
    """Return the config of an experiment; see `recipes.Experiments.get_config`."""
    return EXPERIMENTS.get_config(arg, reading, smoke)
