"""The ablations of SD-KD on CIFAR-100: Tables 6, 7 and 8 of the paper.

    python examples/train.py --config=configs/ablations.py:6,resnet32x4,resnet8x4,consistent \\
        --config.teacher_checkpoint=runs/cifar100/resnet32x4/official-seed0/best.keras
    python examples/report_table.py --table=6

is one experiment: table, teacher, student, setting. `TABLES` lists all of a table, for a sweep.

Cost: as of a cell of configs/cifar100.py.
Results: not run. The figures below are printed ones. On small scenes, `ablations` of
configs/studies.py asks the same.
"""

from configs import cifar100, recipes

# What a setting changes in the one term of the pair's SD-KD.
SETTINGS = {
    "6": {
        "kd": {"scales": (1,)},
        "consistent": {"complementary_weight": 0.0},
        "complementary": {"consistent_weight": 0.0},
        "fusion": {},
    },
    "7": {
        "m1": {"scales": (1,)},
        "m12": {"scales": (1, 2)},
        "m14": {"scales": (1, 4)},
        "m124": {"scales": (1, 2, 4)},
    },
    "8": {
        "beta1": {"complementary_weight": 1.0},
        "beta2": {"complementary_weight": 2.0},
        "beta4": {"complementary_weight": 4.0},
        "beta6": {"complementary_weight": 6.0},
        "beta8": {"complementary_weight": 8.0},
    },
}
# top-1 accuracy in percent
TABLES = {
    "6": {
        "6,resnet32x4,resnet8x4,kd": 73.33,
        "6,resnet32x4,resnet8x4,consistent": 75.14,
        "6,resnet32x4,resnet8x4,complementary": 74.79,
        "6,resnet32x4,resnet8x4,fusion": 76.63,
        "6,resnet32x4,shufflenet_v1,kd": 74.07,
        "6,resnet32x4,shufflenet_v1,consistent": 75.88,
        "6,resnet32x4,shufflenet_v1,complementary": 75.10,
        "6,resnet32x4,shufflenet_v1,fusion": 76.30,
    },
    "7": {
        "7,resnet32x4,resnet8x4,m1": 73.33,
        "7,resnet32x4,resnet8x4,m12": 76.63,
        "7,resnet32x4,resnet8x4,m14": 76.13,
        "7,resnet32x4,resnet8x4,m124": 75.74,
        "7,resnet32x4,shufflenet_v1,m1": 74.07,
        "7,resnet32x4,shufflenet_v1,m12": 75.10,
        "7,resnet32x4,shufflenet_v1,m14": 75.84,
        "7,resnet32x4,shufflenet_v1,m124": 76.30,
    },
    "8": {
        "8,resnet32x4,shufflenet_v1,beta1": 75.62,
        "8,resnet32x4,shufflenet_v1,beta2": 76.30,
        "8,resnet32x4,shufflenet_v1,beta4": 75.99,
        "8,resnet32x4,shufflenet_v1,beta6": 76.15,
        "8,resnet32x4,shufflenet_v1,beta8": 75.78,
    },
}


def get_config(arg="", reading="official", smoke=False):
    """Return the config of a setting.

    Args:
        arg: `"TABLE,TEACHER,STUDENT,SETTING"`, a cell of `TABLES`.
        reading, smoke: as for `recipes.Experiments.get_config`.

    Raises:
        LookupError: for an unknown cell or reading, with the near ones.
    """
    cells = {cell: (table, figure) for table in TABLES for cell, figure in TABLES[table].items()}
    table, figure = cells[recipes.pick("cell of Tables 6 to 8", arg, cells, "configs/ablations.py")]
    _, teacher, student, setting = arg.split(",")
    config = cifar100.get_config(f"{teacher},{student},sd_kd", reading, smoke)
    config.update(cell=f"ablations:{arg}", table=table, paper_accuracy=figure)
    config.terms.distillation_loss.update(SETTINGS[table][setting])
    return config
