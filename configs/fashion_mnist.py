"""Fashion-MNIST: a study of our own, for two CPU cores. The paper has no figures for it.

--config=configs/fashion_mnist.py:wrn_16_2,resnet8,sd_kd is one experiment,
--config=configs/fashion_mnist.py:resnet8 trains a network with labels only.
The networks are those of CIFAR-100. A teacher sees all 60,000 training images a few times, every
student the same 4,000, the first ones: few labels are where a teacher helps.
"""

from configs import recipes

RECIPE = {
    "dataset": "fashion_mnist",
    "num_classes": 10,
    "image_size": 32,
    "num_examples": 4000,
    "batch_size": 64,
    "epochs": 8,
    "learning_rate": 0.05,
    "milestones": (5, 7),
    "weight_decay": 5e-4,
}
SETTINGS = {
    "train_examples": 60_000,
    "temperature": 4.0,
    "kd_label_weight": 0.1,
    "kd_weight": 0.9,
    "warmup_of_programs": 1,
}
_TEACHER = {"num_examples": None, "epochs": 4, "milestones": (3,)}
NETWORKS = {
    "resnet8x4": _TEACHER,
    "vgg8": _TEACHER,
    "wrn_16_2": _TEACHER,
    "resnet8": {},
    "wrn_16_1": {},
    "mobilenet_v2": {"learning_rate": 0.01},
    "shufflenet_v1": {"learning_rate": 0.01},
    "shufflenet_v2": {"learning_rate": 0.01},
}
PAIRS = {
    "wrn_16_2,resnet8": {"scales": (1, 2, 4), "beta": 8.0},
    "vgg8,resnet8": {"scales": (1, 2, 4), "beta": 8.0},
    "resnet8x4,wrn_16_1": {"scales": (1, 2, 4), "beta": 8.0},
    "resnet8x4,mobilenet_v2": {"scales": (1, 2, 4), "beta": 8.0},
    "resnet8x4,shufflenet_v1": {"scales": (1, 2, 4), "beta": 8.0},
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
