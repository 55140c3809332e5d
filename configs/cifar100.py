"""CIFAR-100: Tables 1 and 2 of the paper, and further pairs of its authors' code.

--config=configs/cifar100.py:resnet32x4,shufflenet_v1,sd_dkd is one experiment,
--config=configs/cifar100.py:resnet32x4 trains a network with labels only.
"""

from configs import recipes

# pair, then KD, SD-KD, DKD, SD-DKD, NKD, SD-NKD; top-1 accuracy in percent
TABLE_1 = (
    ("resnet32x4,mobilenet_v2", 67.72, 68.84, 68.98, 70.08, 68.81, 69.59),
    ("wrn_40_2,vgg8", 73.97, 74.44, 74.13, 74.58, 73.80, 74.34),
    ("wrn_40_2,mobilenet_v2", 68.87, 69.81, 69.33, 70.13, 68.85, 70.04),
    ("resnet50,shufflenet_v1", 75.82, 76.87, 77.01, 78.11, 76.22, 76.95),
)
TABLE_2 = (
    ("resnet32x4,shufflenet_v1", 74.07, 76.30, 76.45, 77.30, 75.31, 76.34),
    ("wrn_40_2,shufflenet_v1", 74.83, 76.65, 76.70, 77.21, 75.96, 76.81),
    ("resnet50,mobilenet_v2", 67.35, 69.55, 70.35, 71.36, 69.39, 70.25),
    ("vgg13,mobilenet_v2", 67.37, 68.79, 69.71, 70.25, 68.72, 69.50),
    ("resnet32x4,shufflenet_v2", 74.45, 76.67, 77.07, 78.05, 76.26, 77.07),
    ("resnet50,vgg8", 73.81, 74.89, 75.34, 75.86, 74.01, 74.62),
)
LABELS_ONLY = {
    "resnet32x4": 79.42,
    "wrn_40_2": 75.61,
    "resnet50": 79.34,
    "vgg13": 74.64,
    "mobilenet_v2": 64.6,
    "vgg8": 70.36,
    "shufflenet_v1": 70.50,
    "shufflenet_v2": 71.82,
}

RECIPE = {
    "dataset": "cifar100",
    "num_classes": 100,
    "image_size": 32,
    "batch_size": 64,
    "epochs": 240,
    "learning_rate": 0.05,
    "milestones": (150, 180, 210),
    "weight_decay": 5e-4,
}
DISTILLATION = {"temperature": 4.0, "kd_weights": (0.1, 0.9), "official_warmup_epochs": 20}
NETWORKS = {
    "resnet8": {},
    "resnet14": {},
    "resnet20": {},
    "resnet32": {},
    "resnet44": {},
    "resnet56": {},
    "resnet110": {},
    "resnet8x4": {},
    "resnet32x4": {},
    "resnet18": {},
    "resnet50": {},
    "wrn_16_1": {},
    "wrn_16_2": {},
    "wrn_40_1": {},
    "wrn_40_2": {},
    "vgg8": {},
    "vgg11": {},
    "vgg13": {},
    "vgg16": {},
    "vgg19": {},
    "mobilenet_v2": {"learning_rate": 0.01},
    "shufflenet_v1": {"learning_rate": 0.01},
    "shufflenet_v2": {"learning_rate": 0.01},
}
PAIRS = {
    "resnet32x4,mobilenet_v2": {"scales": (1, 2, 4), "beta": 8.0, "plain_beta": 6.0},
    "wrn_40_2,vgg8": {"scales": (1, 2, 4), "beta": 8.0},
    "wrn_40_2,mobilenet_v2": {"scales": (1, 2, 4), "beta": 6.0},
    "resnet50,shufflenet_v1": {"scales": (1, 2, 4), "beta": 8.0},
    "resnet32x4,shufflenet_v1": {"scales": (1, 2, 4), "beta": 8.0},
    "wrn_40_2,shufflenet_v1": {"scales": (1, 2, 4), "beta": 8.0},
    "resnet50,mobilenet_v2": {"scales": (1, 2, 4), "beta": 8.0},
    "vgg13,mobilenet_v2": {"scales": (1, 2, 4), "beta": 6.0},
    "resnet32x4,shufflenet_v2": {"scales": (1, 2, 4), "beta": 8.0},
    "resnet50,vgg8": {"scales": (1, 2, 4), "beta": 8.0},
    # Without figures in Tables 1 and 2.
    "vgg13,shufflenet_v1": {"scales": (1, 2, 4), "beta": 6.0},
    "vgg13,wrn_16_2": {"scales": (1, 2, 4), "beta": 6.0},
    "resnet32x4,vgg8": {"scales": (1, 2, 4), "beta": 6.0},  # the authors have plain DKD only
    "resnet32x4,resnet8x4": {"scales": (1, 2), "beta": 8.0},
    "resnet56,resnet20": {"scales": (1, 2), "beta": 2.0},
    "resnet110,resnet32": {"scales": (1, 2), "beta": 2.0},
    "vgg13,vgg8": {"scales": (1, 2), "beta": 6.0},
    "wrn_40_2,wrn_16_2": {"scales": (1, 2), "beta": 6.0},
    "wrn_40_2,wrn_40_1": {"scales": (1, 2), "beta": 6.0},
}
TABLES = {
    "1": recipes.name_cells(TABLE_1),
    "2": recipes.name_cells(TABLE_2),
    "labels_only": LABELS_ONLY,
}
EXPERIMENTS = recipes.Experiments(
    "cifar100", "cifar100", RECIPE, DISTILLATION, NETWORKS, PAIRS, TABLES
)


def get_config(arg="", reading="official", smoke=False):
    """Return the config of an experiment; see `recipes.Experiments.get_config`."""
    return EXPERIMENTS.get_config(arg, reading, smoke)
