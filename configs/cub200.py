"""CUB-200-2011: Table 5 of the paper.

--config=configs/cub200.py:vgg13,vgg8,sd_kd is one experiment,
--config=configs/cub200.py:vgg13 trains a network with labels only.
"""

from configs import recipes

# pair, then KD, SD-KD, DKD, SD-DKD, NKD, SD-NKD; top-1 accuracy in percent
TABLE_5 = (
    ("resnet32x4,mobilenet_v2", 56.09, 60.51, 59.94, 62.97, 59.81, 62.69),
    ("resnet32x4,shufflenet_v1", 61.68, 65.46, 64.51, 65.58, 64.0, 65.50),
    ("vgg13,mobilenet_v2", 53.98, 59.80, 58.45, 64.86, 58.40, 64.63),
    ("vgg13,vgg8", 64.18, 67.32, 67.20, 68.67, 67.16, 68.37),
    ("resnet50,shufflenet_v1", 57.21, 60.56, 59.21, 60.66, 59.11, 60.42),
)
LABELS_ONLY = {
    "resnet32x4": 66.17,
    "vgg13": 70.19,
    "resnet50": 60.01,
    "mobilenet_v2": 40.23,
    "shufflenet_v1": 37.28,
    "vgg8": 46.32,
}

RECIPE = {
    "dataset": "cub200_2011",
    "num_classes": 200,
    "image_size": 224,
    "batch_size": 64,
    "epochs": 240,
    "learning_rate": 0.05,
    "milestones": (150, 180, 210),
    "weight_decay": 5e-4,
}
DISTILLATION = {"temperature": 4.0, "kd_weights": (0.1, 0.9), "official_warmup_epochs": 20}
NETWORKS = {
    "resnet8x4": {},
    "resnet32x4": {},
    "resnet18": {},
    "resnet50": {},
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
    "resnet32x4,mobilenet_v2": {"scales": (1, 2, 4), "beta": 8.0},
    "resnet32x4,shufflenet_v1": {"scales": (1, 2, 4), "beta": 8.0},
    "vgg13,mobilenet_v2": {"scales": (1, 2, 4), "beta": 6.0},
    "vgg13,vgg8": {"scales": (1, 2), "beta": 6.0},
    "resnet50,shufflenet_v1": {"scales": (1, 2, 4), "beta": 8.0},
}
TABLES = {"5": recipes.name_cells(TABLE_5), "labels_only": LABELS_ONLY}
EXPERIMENTS = recipes.Experiments("cub200", "cub200", RECIPE, DISTILLATION, NETWORKS, PAIRS, TABLES)


def get_config(arg="", reading="official", smoke=False):
    """Return the config of an experiment; see `recipes.Experiments.get_config`."""
    return EXPERIMENTS.get_config(arg, reading, smoke)
