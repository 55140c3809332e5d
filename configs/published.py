"""What authors publish of each method, whose figures of others are not always the SDD paper's.

    python examples/report_table.py --table=published

The experiments are those of configs/cifar100.py and configs/imagenet.py.

Cost: as of a cell of these.
Results: not run. The figures below are those of the programs' READMEs.
"""

from configs import recipes

# Top-1 accuracy in percent, of the READMEs of the programs named, means of several runs. They do
# not weigh alike: KD stands beside SemCKD and SimKD, and beside no other feature method.
PAIRS = (
    "resnet32x4,resnet8x4",
    "vgg13,vgg8",
    "wrn_40_2,wrn_16_2",
    "resnet32x4,shufflenet_v1",
    "resnet32x4,shufflenet_v2",
    "resnet50,mobilenet_v2",
)
STUDENTS = {
    "cifar100:resnet8x4": 72.50,
    "cifar100:vgg8": 70.36,
    "cifar100:wrn_16_2": 73.26,
    "cifar100:shufflenet_v1": 70.50,
    "cifar100:shufflenet_v2": 71.82,
    "cifar100:mobilenet_v2": 64.60,
}
CIFAR100 = {
    "kd": (73.33, 72.98, 74.92, 74.07, 74.45, 67.35),
    "fitnet": (73.50, 71.02, 73.58, 73.59, 73.54, 63.16),
    "at": (73.44, 71.43, 74.08, 71.73, 72.73, 58.58),
    "sp": (72.94, 72.68, 73.83, 73.48, 74.56, 68.08),
    "rkd": (71.90, 71.48, 73.35, 72.28, 73.21, 64.43),
    "pkt": (73.64, 72.88, 74.54, 74.10, 74.69, 66.52),
    "crd": (75.51, 73.94, 75.48, 75.11, 75.65, 69.11),
    "dkd": (76.32, 74.68, 76.23, 76.45, 77.07, 70.35),
    "dist": (76.31, "-", "-", 76.34, 77.35, 68.66),
    "lskd_kd": (76.62, 74.36, 76.11, "-", 75.56, 69.02),
    "lskd_dkd": (77.01, 74.81, 76.39, "-", 77.37, 70.45),
    "ctkd": (73.39, 73.52, 75.45, "-", 75.37, 68.67),
    "lskd_ctkd": (76.67, 74.47, 76.08, "-", 76.18, 69.36),
    "mlld_two_views": (77.08, 75.18, 76.63, "-", 78.44, 71.04),
    "lskd_mlld_two_views": (78.28, 75.22, 76.95, "-", 78.76, 71.19),
    "ttm": (76.17, 74.33, 76.23, 74.18, 76.57, 69.24),
    "wttm": (76.06, 74.44, 76.37, 74.37, 76.55, 69.59),
    "crd+wttm": (76.65, 74.71, 76.61, 75.82, 77.04, 70.84),
    "wkd_l": (76.53, "-", "-", "-", "-", "-"),
    "wkd_f": (76.77, "-", "-", "-", "-", "-"),
    "semckd": (76.23, "-", "-", "-", "-", "-"),
    "simkd": (78.08, "-", "-", "-", "-", "-"),
}
IMAGENET_PAIRS = ("resnet34,resnet18", "resnet50,mobilenet_v1")
IMAGENET = {
    "kd": (70.66, 70.50),
    "crd": (71.17, 71.37),
    "reviewkd": (71.61, 72.56),
    "dkd": (71.70, 72.05),
    "mgd": (71.69, 72.49),
    "nkd": (71.96, 72.58),
    "wsld": (72.04, 71.52),
    "dist": (72.07, 73.24),
    "wttm": (72.19, 73.09),
    "wkd_l": (72.49, 73.17),
    "ctkd": (71.32, "-"),
}
TABLES = {
    "published": STUDENTS
    | recipes.name_cells(PAIRS, CIFAR100, "cifar100")
    | recipes.name_cells(IMAGENET_PAIRS, IMAGENET, "imagenet")
}
# The program whose README has a method's figures on CIFAR-100, and on ImageNet; "" is a network.
SOURCES = {
    "cifar100": {
        **dict.fromkeys(("", "kd", "fitnet", "at", "sp", "rkd", "pkt", "crd"), "RepDistiller"),
        "dkd": "mdistiller",
        "dist": "DIST_KD",
        **dict.fromkeys(("lskd_kd", "lskd_dkd", "ctkd", "lskd_ctkd"), "LSKD"),
        **dict.fromkeys(("mlld_two_views", "lskd_mlld_two_views"), "LSKD"),
        **dict.fromkeys(("ttm", "wttm", "crd+wttm"), "TTM"),
        **dict.fromkeys(("wkd_l", "wkd_f"), "WKD"),
        **dict.fromkeys(("semckd", "simkd"), "SimKD"),
    },
    "imagenet": {
        **dict.fromkeys(("kd", "crd", "reviewkd", "dkd", "nkd", "dist", "wttm"), "TTM"),
        **dict.fromkeys(("mgd", "wsld"), "cls_KD"),
        "wkd_l": "WKD",
        "ctkd": "CTKD",
    },
}
