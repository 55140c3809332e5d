"""CUB-200-2011: Table 5 of the paper.

    python examples/train.py --config=configs/cub200.py:vgg13
    python examples/train.py --config=configs/cub200.py:vgg13,vgg8,sd_kd \\
        --config.teacher_checkpoint=runs/cub200/vgg13/official-seed0/best.keras
    python examples/report_table.py --table=5

The first trains a network with labels only, the second is one experiment.

Cost: 240 epochs of 224 x 224 images; not run.
Results: not run. The figures below are printed ones.
"""

from configs import recipes

# Top-1 accuracy in percent, as printed.
PAIRS_5 = (
    "resnet32x4,mobilenet_v2",
    "resnet32x4,shufflenet_v1",
    "vgg13,mobilenet_v2",
    "vgg13,vgg8",
    "resnet50,shufflenet_v1",
)
TABLE_5 = {
    "sp": (48.49, 61.83, 44.28, 54.78, 55.31),
    "crd": (57.45, 62.28, 56.45, 66.10, 57.45),
    "semckd": (56.89, 63.78, 68.23, 66.54, 57.20),
    "reviewkd": ("-", 64.12, 58.66, 67.10, "-"),
    "mgd": ("-", "-", "-", 66.89, 57.12),
    "kd": (56.09, 61.68, 53.98, 64.18, 57.21),
    "sd_kd": (60.51, 65.46, 59.80, 67.32, 60.56),
    "dkd": (59.94, 64.51, 58.45, 67.20, 59.21),
    "sd_dkd": (62.97, 65.58, 64.86, 68.67, 60.66),
    "nkd": (59.81, 64.0, 58.40, 67.16, 59.11),
    "sd_nkd": (62.69, 65.50, 64.63, 68.37, 60.42),
}
LABELS_ONLY = {
    "resnet32x4": 66.17,
    "vgg13": 70.19,
    "resnet50": 60.01,
    "mobilenet_v2": 40.23,
    "shufflenet_v1": 37.28,
    "vgg8": 46.32,
}

RECIPE = recipes.SGD | {
    "dataset": "cub200_2011",
    "num_classes": 200,
    "image_size": 224,
    "validation_examples": 600,
    "epochs": 240,
    "milestones": (150, 180, 210),
}
SETTINGS = recipes.KD | {
    "warmup_of_programs": 20,
    "icd_weight": 2.0,
    "icd_dkd_weight": 2.0,
    "icd_nkd_weight": 2.0,
}
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
    "vgg13,mobilenet_v2": {"scales": (1, 2, 4), "beta": 6.0, "icd_weight": 8.0},
    "vgg13,vgg8": {"scales": (1, 2), "beta": 6.0},
    "resnet50,shufflenet_v1": {"scales": (1, 2, 4), "beta": 8.0},
}
TABLES = {"5": recipes.name_cells(PAIRS_5, TABLE_5), "labels_only": LABELS_ONLY}
# MGD compares maps of equal size, which the last ones of these are not.
REFUSED = {
    "mgd": ("resnet32x4,mobilenet_v2", "resnet32x4,shufflenet_v1", "vgg13,mobilenet_v2"),
}
EXPERIMENTS = recipes.Experiments(
    "cub200", "cub200", RECIPE, SETTINGS, NETWORKS, PAIRS, TABLES, REFUSED
)


def get_config(arg="", reading="official", smoke=False):
    """Return the config of an experiment; see `recipes.Experiments.get_config`."""
    return EXPERIMENTS.get_config(arg, reading, smoke)
