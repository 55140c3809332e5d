"""The tables of the paper's appendix: SDD beside feature methods, and SP on cells without a head.

    python examples/report_table.py --table=combinations
    python examples/report_table.py --table=sp_on_cells

Their experiments are those of configs/cifar100.py; the tables have no numbers there.

Cost: as of a cell of configs/cifar100.py.
Results: not run. The figures below are printed ones. On scenes, sums were run: SD-KD + SP and
SD-KD + CRD in docs/studies.md.
"""

from configs import recipes

# Top-1 accuracy in percent, as printed. Some are other figures than those of Tables 2 and 6.
COMBINATION_PAIRS = ("wrn_40_2,vgg8", "resnet32x4,shufflenet_v1", "resnet32x4,resnet8x4")
COMBINATIONS = {
    "sp": (73.18, 73.48, 72.94),
    "crd": (73.88, 75.11, 75.51),
    "sd_kd": (74.44, 76.30, 75.63),
    "sd_kd+sp": (74.02, 75.87, 76.33),
    "sd_kd+crd": (74.82, 76.89, 76.94),
}
SP_PAIRS = ("resnet32x4,resnet8x4", "resnet32x4,shufflenet_v2")
SP_ON_CELLS = {
    "sp": (72.94, 74.45),
    "sdd_sp": (74.37, 75.65),
    "sd_dkd": (76.63, 78.05),
}
TABLES = {
    "combinations": recipes.name_cells(COMBINATION_PAIRS, COMBINATIONS, "cifar100"),
    "sp_on_cells": recipes.name_cells(SP_PAIRS, SP_ON_CELLS, "cifar100"),
}
