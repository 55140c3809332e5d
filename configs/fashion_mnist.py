"""Fashion-MNIST: a study of our own, for two CPU cores. The paper has no figures for it.

--config=configs/fashion_mnist.py:wrn_16_2,cnn_8_16_32,sd_kd is one experiment,
--config=configs/fashion_mnist.py:cnn_8_16_32 trains a network with labels only.
A teacher sees all training images but those that are held out, a few times, every student the same
5,000: few labels are where a teacher helps. Students see them as they are, so that the teacher can
be cached.
"""

from configs import recipes

RECIPE = {
    "dataset": "fashion_mnist",
    "num_classes": 10,
    "image_size": 32,
    "validation_examples": 5000,
    "num_examples": 5000,
    "batch_size": 64,
    "epochs": 30,
    "learning_rate": 0.05,
    "milestones": (18, 24, 28),
    "weight_decay": 5e-4,
    "augment": False,
}
SETTINGS = {
    "temperature": 4.0,
    "kd_label_weight": 0.1,
    "kd_weight": 0.9,
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
