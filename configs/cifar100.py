"""CIFAR-100: Tables 1 and 2 of the paper, and further pairs of its authors' code.

    python examples/train.py --config=configs/cifar100.py:resnet32x4
    python examples/train.py --config=configs/cifar100.py:resnet32x4,shufflenet_v1,sd_dkd \\
        --config.teacher_checkpoint=runs/cifar100/resnet32x4/official-seed0/best.keras
    python examples/report_table.py --table=2

The first trains a network with labels only, the second is one experiment.

Cost: 240 epochs of 45,000 images. A step of SD-KD with 64, resnet32x4 to resnet8x4, took 0.98 s on
two CPU cores with TensorFlow (docs/measurements.md); docs/methods.md has the cost of all methods.
Results: not run. The figures below are printed ones.
"""

from configs import recipes

# Top-1 accuracy in percent, as printed; methods without code here among them.
PAIRS_1 = (
    "resnet32x4,mobilenet_v2",
    "wrn_40_2,vgg8",
    "wrn_40_2,mobilenet_v2",
    "resnet50,shufflenet_v1",
)
TABLE_1 = {
    "fitnet": (65.61, 70.98, 65.12, 72.03),
    "sp": (67.52, 73.18, 66.34, 71.28),
    "crd": (69.13, 73.88, 68.89, 75.70),
    "semckd": (68.99, 73.67, 68.34, 75.56),
    "reviewkd": ("-", "-", "-", "-"),  # "it can not handle such scenarios"
    "mgd": (68.13, 73.33, 68.55, 74.99),
    "kd": (67.72, 73.97, 68.87, 75.82),
    "sd_kd": (68.84, 74.44, 69.81, 76.87),
    "dkd": (68.98, 74.13, 69.33, 77.01),
    "sd_dkd": (70.08, 74.58, 70.13, 78.11),
    "nkd": (68.81, 73.80, 68.85, 76.22),
    "sd_nkd": (69.59, 74.34, 70.04, 76.95),
}
PAIRS_2 = (
    "resnet32x4,shufflenet_v1",
    "wrn_40_2,shufflenet_v1",
    "resnet50,mobilenet_v2",
    "vgg13,mobilenet_v2",
    "resnet32x4,shufflenet_v2",
    "resnet50,vgg8",
)
TABLE_2 = {
    "fitnet": (73.54, 73.73, 63.16, 63.16, 73.54, 70.69),
    "rkd": (72.28, 72.21, 64.43, 64.43, 73.21, 71.50),
    "sp": (73.48, 74.52, 68.08, 68.08, 74.56, 73.34),
    "pkt": (74.10, 72.21, 66.52, 66.52, 74.69, 73.01),
    "crd": (75.11, 76.05, 69.11, 69.11, 75.65, 74.30),
    "wcord": (75.77, 76.32, 70.45, 69.47, 75.96, 74.86),
    "semckd": (76.31, 76.06, 68.69, 69.98, 77.02, 74.18),
    "reviewkd": (77.45, 77.14, 69.89, 70.37, 77.78, 75.34),
    "mgd": (76.22, 75.89, 68.54, 69.44, 76.65, 73.89),
    "kd": (74.07, 74.83, 67.35, 67.37, 74.45, 73.81),
    "sd_kd": (76.30, 76.65, 69.55, 68.79, 76.67, 74.89),
    "dkd": (76.45, 76.70, 70.35, 69.71, 77.07, 75.34),
    "sd_dkd": (77.30, 77.21, 71.36, 70.25, 78.05, 75.86),
    "nkd": (75.31, 75.96, 69.39, 68.72, 76.26, 74.01),
    "sd_nkd": (76.34, 76.81, 70.25, 69.50, 77.07, 74.62),
}
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

RECIPE = recipes.SGD | {
    "dataset": "cifar100",
    "num_classes": 100,
    "image_size": 32,
    "validation_examples": 5000,
    "epochs": 240,
    "milestones": (150, 180, 210),
}
SETTINGS = recipes.KD | {
    "warmup_of_programs": 20,
    "icd_weight": 8.0,
    "icd_dkd_weight": 8.0,
    "icd_nkd_weight": 2.0,
}
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
# Scales and beta of the SDD authors; of other methods what their authors give for single pairs.
PAIRS = {
    "resnet32x4,mobilenet_v2": {"scales": (1, 2, 4), "beta": 8.0, "plain_beta": 6.0},
    "wrn_40_2,vgg8": {"scales": (1, 2, 4), "beta": 8.0, "gdkd_weights": (1.0, 2.0, 6.0)},
    "wrn_40_2,mobilenet_v2": {
        "scales": (1, 2, 4),
        "beta": 6.0,
        "gdkd_weights": (1.0, 2.0, 6.0),
        "lskd_kd_temperature": 3.0,
    },
    "resnet50,shufflenet_v1": {"scales": (1, 2, 4), "beta": 8.0},
    "resnet32x4,shufflenet_v1": {
        "scales": (1, 2, 4),
        "beta": 8.0,
        "gdkd_weights": (1.0, 1.0, 8.0),
        "reviewkd_weight": 5.0,
    },
    "wrn_40_2,shufflenet_v1": {
        "scales": (1, 2, 4),
        "beta": 8.0,
        "gdkd_weights": (1.0, 2.0, 6.0),
        "reviewkd_weight": 5.0,
    },
    "resnet50,mobilenet_v2": {
        "scales": (1, 2, 4),
        "beta": 8.0,
        "gdkd_weights": (1.0, 1.0, 8.0),
        "lskd_kd_temperature": 3.0,
        "lskd_kd_weight": 1.0,
        "lskd_dkd_weight": 15.0,
        "lskd_dkd_beta": 2.0,
    },
    "vgg13,mobilenet_v2": {
        "scales": (1, 2, 4),
        "beta": 6.0,
        "gdkd_weights": (1.0, 1.0, 6.0),
        "lskd_kd_temperature": 3.0,
    },
    "resnet32x4,shufflenet_v2": {
        "scales": (1, 2, 4),
        "beta": 8.0,
        "gdkd_weights": (1.0, 1.0, 8.0),
        "lskd_dkd_weight": 9.0,
        "lskd_dkd_beta": 8.0,
        "reviewkd_weight": 8.0,
    },
    "resnet50,vgg8": {"scales": (1, 2, 4), "beta": 8.0},
    # Without figures in Tables 1 and 2.
    "vgg13,shufflenet_v1": {"scales": (1, 2, 4), "beta": 6.0, "gdkd_weights": (1.0, 1.0, 6.0)},
    "vgg13,wrn_16_2": {"scales": (1, 2, 4), "beta": 6.0, "gdkd_weights": (1.0, 1.0, 6.0)},
    "resnet32x4,vgg8": {"scales": (1, 2, 4), "beta": 6.0},  # the authors have plain DKD only
    "resnet32x4,resnet8x4": {
        "scales": (1, 2),
        "beta": 8.0,
        "gdkd_weights": (1.0, 2.0, 8.0),
        "lskd_dkd_weight": 9.0,
        "lskd_dkd_beta": 8.0,
        "reviewkd_weight": 5.0,
    },
    "resnet56,resnet20": {
        "scales": (1, 2),
        "beta": 2.0,
        "gdkd_weights": (1.0, 1.0, 1.0),
        "reviewkd_weight": 0.6,
    },
    "resnet110,resnet32": {
        "scales": (1, 2),
        "beta": 2.0,
        "gdkd_weights": (1.0, 1.0, 1.0),
        "lskd_dkd_weight": 15.0,
        "lskd_dkd_beta": 2.0,
        "reviewkd_weight": 1.0,
    },
    "vgg13,vgg8": {
        "scales": (1, 2),
        "beta": 6.0,
        "gdkd_weights": (1.0, 1.0, 6.0),
        "lskd_kd_temperature": 3.0,
        "lskd_dkd_weight": 15.0,
        "lskd_dkd_beta": 2.0,
        "ttm_weight": 45.0,
        "wttm_weight": 4.0,  # beside CRD
    },
    "wrn_40_2,wrn_16_2": {
        "scales": (1, 2),
        "beta": 6.0,
        "gdkd_weights": (1.0, 2.0, 6.0),
        "lskd_dkd_weight": 12.0,
        "lskd_dkd_beta": 2.0,
        "reviewkd_weight": 5.0,
    },
    "wrn_40_2,wrn_40_1": {
        "scales": (1, 2),
        "beta": 6.0,
        "gdkd_weights": (1.0, 2.0, 6.0),
        "lskd_dkd_weight": 12.0,
        "lskd_dkd_beta": 2.0,
        "reviewkd_weight": 5.0,
    },
}
TABLES = {
    "1": recipes.name_cells(PAIRS_1, TABLE_1),
    "2": recipes.name_cells(PAIRS_2, TABLE_2),
    "labels_only": LABELS_ONLY,
}
# MGD compares maps of equal size, which the last ones of these are not. The paper has figures for
# most of them, and no word on how.
REFUSED = {
    "mgd": (
        "resnet32x4,mobilenet_v2",
        "wrn_40_2,vgg8",
        "wrn_40_2,mobilenet_v2",
        "resnet32x4,shufflenet_v1",
        "wrn_40_2,shufflenet_v1",
        "resnet50,mobilenet_v2",
        "vgg13,mobilenet_v2",
        "resnet32x4,shufflenet_v2",
        "vgg13,wrn_16_2",
        "resnet32x4,vgg8",
    )
}
EXPERIMENTS = recipes.Experiments(
    "cifar100", "cifar100", RECIPE, SETTINGS, NETWORKS, PAIRS, TABLES, REFUSED
)


def get_config(arg="", reading="official", smoke=False):
    """Return the config of an experiment; see `recipes.Experiments.get_config`."""
    return EXPERIMENTS.get_config(arg, reading, smoke)
