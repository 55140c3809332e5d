"""ImageNet: Tables 3 and 4 of the paper.

--config=configs/imagenet.py:resnet34,resnet18,sd_kd is one experiment,
--config=configs/imagenet.py:resnet34 trains a network with labels only.
"""

from configs import recipes

# pair, then KD, SD-KD, DKD, SD-DKD, NKD, SD-NKD; (top-1, top-5) accuracy in percent
TABLE_3 = (
    (
        "resnet34,resnet18",
        (70.66, 89.88),
        (71.44, 90.05),
        (71.70, 90.41),
        (72.02, 91.21),
        (71.96, 91.10),
        (72.33, 91.31),
    ),
)
TABLE_4 = (
    (
        "resnet50,mobilenet_v1",
        (70.50, 90.34),
        (72.24, 90.71),
        (72.05, 91.05),
        (73.08, 91.09),
        (72.58, 90.80),
        (73.12, 91.11),
    ),
)
LABELS_ONLY = {
    "resnet34": (73.31, 91.43),
    "resnet18": (69.75, 89.07),
    "resnet50": (76.16, 92.86),
    "mobilenet_v1": (68.87, 88.76),
}

RECIPE = {
    "dataset": "imagenet2012",
    "num_classes": 1000,
    "image_size": 224,
    "batch_size": 512,
    "epochs": 100,
    "learning_rate": 0.2,
    "milestones": (30, 60, 90),
    "weight_decay": 1e-4,
}
# The authors' one epoch of warm-up in stairs is none: the first epoch has the full weight.
DISTILLATION = {"temperature": 1.0, "kd_weights": (0.5, 0.5), "official_warmup_epochs": 0}
NETWORKS = {"resnet18": {}, "resnet34": {}, "resnet50": {}, "mobilenet_v1": {}}
PAIRS = {
    "resnet34,resnet18": {"scales": (1, 2), "beta": 0.5},
    "resnet50,mobilenet_v1": {"scales": (1, 2, 4), "beta": 2.0},
}
TABLES = {
    "3": recipes.name_cells(TABLE_3),
    "4": recipes.name_cells(TABLE_4),
    "labels_only": LABELS_ONLY,
}
EXPERIMENTS = recipes.Experiments(
    "imagenet", "imagenet", RECIPE, DISTILLATION, NETWORKS, PAIRS, TABLES
)


def get_config(arg="", reading="official", smoke=False):
    """Return the config of an experiment; see `recipes.Experiments.get_config`."""
    return EXPERIMENTS.get_config(arg, reading, smoke)
