"""Fashion-MNIST: a study of our own, small enough for a CPU. The paper has no figures for it.

--config=configs/fashion_mnist.py:wrn_16_2,resnet8,sd_kd is one experiment,
--config=configs/fashion_mnist.py:resnet8 trains a network with labels only.
The networks are those of CIFAR-100; --config.num_examples=10000 is a fixed subset.
"""

from configs import recipes

RECIPE = {
    "dataset": "fashion_mnist",
    "num_classes": 10,
    "image_size": 32,
    "batch_size": 64,
    "epochs": 30,
    "learning_rate": 0.05,
    "milestones": (18, 23, 27),
    "weight_decay": 5e-4,
}
DISTILLATION = {"temperature": 4.0, "kd_weights": (0.1, 0.9), "official_warmup_epochs": 3}
NETWORKS = {
    "resnet8": {},
    "resnet20": {},
    "resnet8x4": {},
    "wrn_16_1": {},
    "wrn_16_2": {},
    "vgg8": {},
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
TABLES = {
    "fashion_mnist": {f"{pair},{method}": None for pair in PAIRS for method in recipes.METHODS},
    "labels_only": dict.fromkeys(NETWORKS),
}
EXPERIMENTS = recipes.Experiments(
    "fashion_mnist", "cifar100", RECIPE, DISTILLATION, NETWORKS, PAIRS, TABLES
)


def get_config(arg="", reading="official", smoke=False):
    """Return the config of an experiment; see `recipes.Experiments.get_config`."""
    return EXPERIMENTS.get_config(arg, reading, smoke)
