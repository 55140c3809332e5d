"""ImageNet: Tables 3 and 4 of the paper.

    python examples/train.py --config=configs/imagenet.py:resnet34
    python examples/train.py --config=configs/imagenet.py:resnet34,resnet18,sd_kd \\
        --config.teacher_checkpoint=runs/imagenet/resnet34/official-seed0/best.keras
    python examples/report_table.py --table=3

The first trains a network with labels only, the second is one experiment.

Cost: 100 epochs in batches of 512; not run. Two busy CPU cores prepare 190 images per CPU second
(BUILD_NOTES.md, Data).
Results: not run. The figures below are printed ones.
"""

from configs import recipes

# (top-1, top-5) accuracy in percent, as printed.
PAIRS_3 = ("resnet34,resnet18",)
TABLE_3 = {
    "kd": ((70.66, 89.88),),
    "sd_kd": ((71.44, 90.05),),
    "dkd": ((71.70, 90.41),),
    "sd_dkd": ((72.02, 91.21),),
    "nkd": ((71.96, 91.10),),
    "sd_nkd": ((72.33, 91.31),),
}
PAIRS_4 = ("resnet50,mobilenet_v1",)
TABLE_4 = {
    "kd": ((70.50, 90.34),),
    "sd_kd": ((72.24, 90.71),),
    "dkd": ((72.05, 91.05),),
    "sd_dkd": ((73.08, 91.09),),
    "nkd": ((72.58, 90.80),),
    "sd_nkd": ((73.12, 91.11),),
}
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
    "validation_examples": 50_000,
    "batch_size": 512,
    "epochs": 100,
    "learning_rate": 0.2,
    "milestones": (30, 60, 90),
    "weight_decay": 1e-4,
}
SETTINGS = {
    "temperature": 1.0,
    "kd_label_weight": 0.5,
    "kd_weight": 0.5,
    # The authors' one epoch of warm-up in stairs is none: the first epoch has the full weight.
    "warmup_of_programs": 0,
    "lskd_kd_label_weight": 1.0,
    "normkd_factor": 1.0,
    "reviewkd_preactivations": True,
    "wsld_temperature": 2.0,
    "wsld_weight": 2.5,
    "mgd_weight": 7e-5,
    "semckd_weight": 50.0,
    "ctkd_label_weight": 1.0,
    "ctkd_weight": 1.0,
    "ctkd_ramp_epochs": 5,
}
NETWORKS = {"resnet18": {}, "resnet34": {}, "resnet50": {}, "mobilenet_v1": {}}
PAIRS = {
    "resnet34,resnet18": {
        "scales": (1, 2),
        "beta": 0.5,
        "rld_beta": 0.5,
        "gdkd_weights": (0.5, 1.0, 1.0),
        "lskd_kd_temperature": 2.0,
        "lskd_kd_weight": 9.0,
        "reviewkd_weight": 1.0,
    },
    "resnet50,mobilenet_v1": {
        "scales": (1, 2, 4),
        "beta": 2.0,
        "rld_beta": 2.0,
        "gdkd_weights": (0.5, 2.0, 2.0),
        "reviewkd_weight": 8.0,
    },
}
TABLES = {
    "3": recipes.name_cells(PAIRS_3, TABLE_3),
    "4": recipes.name_cells(PAIRS_4, TABLE_4),
    "labels_only": LABELS_ONLY,
}
EXPERIMENTS = recipes.Experiments("imagenet", "imagenet", RECIPE, SETTINGS, NETWORKS, PAIRS, TABLES)


def get_config(arg="", reading="official", smoke=False):
    """Return the config of an experiment; see `recipes.Experiments.get_config`."""
    return EXPERIMENTS.get_config(arg, reading, smoke)
