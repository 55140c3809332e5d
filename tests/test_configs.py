"""The configs: figures of the paper, recipes, readings, the smoke form, and wrong names."""

import itertools
import pathlib
import subprocess
import sys

import pytest

from keras_sdd import data, models

REPOSITORY = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(REPOSITORY))

from configs import ablations, cifar100, cub200, fashion_mnist, imagenet, recipes  # noqa: E402

FILES = (cifar100, cub200, imagenet, fashion_mnist)
METHODS = ("kd", "sd_kd", "dkd", "sd_dkd", "nkd", "sd_nkd")


def list_experiments():
    """Every argument of every config file, with its file."""
    for module in FILES:
        pairs = (f"{pair},{method}" for pair in module.PAIRS for method in METHODS)
        yield from ((module, arg) for arg in (*module.NETWORKS, *pairs))
    yield from ((ablations, arg) for cells in ablations.TABLES.values() for arg in cells)


EXPERIMENTS = list(list_experiments())


@pytest.mark.parametrize("reading", ["official", "paper"])
@pytest.mark.parametrize("smoke", [False, True])
def test_all_build(reading, smoke):
    keys = {}
    for module, arg in EXPERIMENTS:
        config = module.get_config(arg, reading, smoke)
        assert config.is_locked and config.smoke is smoke and config.reading == reading
        assert config.cell == f"{module.__name__.split('.')[1]}:{arg}"
        assert config.student in models.MODELS
        assert config.get("teacher", config.student) in models.MODELS
        spec = data.DATASETS[config.dataset]
        if not smoke:
            assert (config.num_classes, config.image_size) == (
                spec["num_classes"],
                spec["input_shape"][0],
            )
        # What is read of one config of a loss is read of all: see test_examples.
        loss = config.distillation_loss if "distillation_loss" in config else {}
        keys.setdefault(config.method.removeprefix("sd_"), set()).add((*config, *loss))
    assert sorted(keys) == ["ce", "dkd", "kd", "nkd"]
    assert all(len(kinds) == 1 for kinds in keys.values())


def test_all_networks_of_the_zoo_can_be_trained():
    named = {f"{x.EXPERIMENTS.family}/{name}" for x in FILES for name in x.NETWORKS}
    assert named == set(models.MODELS)


def test_tables_are_complete():
    tables = cifar100.TABLES | cub200.TABLES | imagenet.TABLES | ablations.TABLES
    sizes = {table: len(cells) for table, cells in tables.items() if table != "labels_only"}
    assert sizes == {"1": 24, "2": 36, "3": 6, "4": 6, "5": 30, "6": 8, "7": 8, "8": 5}
    for module, arg in EXPERIMENTS:
        table = module.get_config(arg).table
        assert table == "" or arg in module.TABLES[table]


@pytest.mark.parametrize(
    ("module", "arg", "table", "top1", "top5"),
    [
        (cifar100, "resnet32x4,mobilenet_v2,kd", "1", 67.72, None),
        (cifar100, "resnet32x4,mobilenet_v2,sd_nkd", "1", 69.59, None),
        (cifar100, "wrn_40_2,vgg8,sd_kd", "1", 74.44, None),
        (cifar100, "wrn_40_2,mobilenet_v2,dkd", "1", 69.33, None),
        (cifar100, "resnet50,shufflenet_v1,sd_dkd", "1", 78.11, None),
        (cifar100, "resnet32x4,shufflenet_v1,sd_kd", "2", 76.30, None),
        (cifar100, "wrn_40_2,shufflenet_v1,nkd", "2", 75.96, None),
        (cifar100, "resnet50,mobilenet_v2,sd_dkd", "2", 71.36, None),
        (cifar100, "vgg13,mobilenet_v2,kd", "2", 67.37, None),
        (cifar100, "resnet32x4,shufflenet_v2,sd_dkd", "2", 78.05, None),
        (cifar100, "resnet50,vgg8,sd_nkd", "2", 74.62, None),
        (cifar100, "resnet32x4", "labels_only", 79.42, None),
        (cifar100, "resnet32x4,resnet8x4,sd_kd", "", None, None),
        (imagenet, "resnet34,resnet18,sd_dkd", "3", 72.02, 91.21),
        (imagenet, "resnet34,resnet18,kd", "3", 70.66, 89.88),
        (imagenet, "resnet50,mobilenet_v1,sd_nkd", "4", 73.12, 91.11),
        (imagenet, "resnet50", "labels_only", 76.16, 92.86),
        (cub200, "resnet32x4,mobilenet_v2,sd_dkd", "5", 62.97, None),
        (cub200, "vgg13,vgg8,kd", "5", 64.18, None),
        (cub200, "vgg13,mobilenet_v2,sd_nkd", "5", 64.63, None),
        (cub200, "resnet50,shufflenet_v1,nkd", "5", 59.11, None),
        (ablations, "6,resnet32x4,resnet8x4,complementary", "6", 74.79, None),
        (ablations, "7,resnet32x4,shufflenet_v1,m14", "7", 75.84, None),
        (ablations, "8,resnet32x4,shufflenet_v1,beta6", "8", 76.15, None),
        (fashion_mnist, "wrn_16_2,resnet8,sd_kd", "fashion_mnist", None, None),
    ],
)
def test_figures_of_the_paper(module, arg, table, top1, top5):
    config = module.get_config(arg)
    figures = (config.table, config.paper_accuracy, config.paper_top5_accuracy)
    assert figures == (table, top1, top5)


CIFAR = {
    "batch_size": 64,
    "epochs": 240,
    "milestones": (150, 180, 210),
    "weight_decay": 5e-4,
    "momentum": 0.9,
    "consistent_weight": 1.0,
    "complementary_weight": 2.0,
}
RECIPES = {
    (cifar100, "resnet32x4,shufflenet_v1,sd_dkd"): {
        **CIFAR,
        "dataset": "cifar100",
        "learning_rate": 0.01,
        "scales": (1, 2, 4),
        "distillation_loss": {"name": "DKD", "alpha": 1.0, "beta": 8.0, "temperature": 4.0},
        "student_loss_weight": 1.0,
        "distillation_weight": 1.0,
    },
    (cifar100, "resnet32x4,mobilenet_v2,dkd"): {
        **CIFAR,
        "learning_rate": 0.01,
        "scales": (1,),
        "distillation_loss": {"name": "DKD", "alpha": 1.0, "beta": 6.0, "temperature": 4.0},
    },
    (cifar100, "resnet32x4,mobilenet_v2,sd_dkd"): {
        "distillation_loss": {"name": "DKD", "alpha": 1.0, "beta": 8.0, "temperature": 4.0},
    },
    (cifar100, "wrn_40_2,vgg8,sd_kd"): {
        **CIFAR,
        "learning_rate": 0.05,
        "scales": (1, 2, 4),
        "distillation_loss": {"name": "KD", "temperature": 4.0},
        "student_loss_weight": 0.1,
        "distillation_weight": 0.9,
    },
    (cifar100, "resnet56,resnet20,sd_dkd"): {
        "scales": (1, 2),
        "distillation_loss": {"name": "DKD", "alpha": 1.0, "beta": 2.0, "temperature": 4.0},
    },
    (cub200, "vgg13,vgg8,sd_dkd"): {
        **CIFAR,
        "dataset": "cub200_2011",
        "teacher": "cub200/vgg13",
        "learning_rate": 0.05,
        "scales": (1, 2),
        "distillation_loss": {"name": "DKD", "alpha": 1.0, "beta": 6.0, "temperature": 4.0},
    },
    (cub200, "resnet50,shufflenet_v1,kd"): {"learning_rate": 0.01, "scales": (1,)},
    (imagenet, "resnet34,resnet18,sd_kd"): {
        "batch_size": 512,
        "epochs": 100,
        "learning_rate": 0.2,
        "milestones": (30, 60, 90),
        "weight_decay": 1e-4,
        "scales": (1, 2),
        "distillation_loss": {"name": "KD", "temperature": 1.0},
        "student_loss_weight": 0.5,
        "distillation_weight": 0.5,
    },
    (imagenet, "resnet50,mobilenet_v1,sd_dkd"): {
        "scales": (1, 2, 4),
        "distillation_loss": {"name": "DKD", "alpha": 1.0, "beta": 2.0, "temperature": 1.0},
    },
    (ablations, "6,resnet32x4,shufflenet_v1,consistent"): {
        "consistent_weight": 1.0,
        "complementary_weight": 0.0,
        "scales": (1, 2, 4),
    },
    (ablations, "6,resnet32x4,resnet8x4,complementary"): {
        "consistent_weight": 0.0,
        "complementary_weight": 2.0,
        "scales": (1, 2),
    },
    (ablations, "7,resnet32x4,resnet8x4,m14"): {"scales": (1, 4), "method": "sd_kd"},
    (ablations, "8,resnet32x4,shufflenet_v1,beta6"): {
        "complementary_weight": 6.0,
        "scales": (1, 2, 4),
    },
    (cifar100, "shufflenet_v2"): {"learning_rate": 0.01, "epochs": 240, "method": "ce"},
}


@pytest.mark.parametrize(("experiment", "expected"), RECIPES.items(), ids=lambda x: str(x)[-40:])
def test_recipes(experiment, expected):
    module, arg = experiment
    config = module.get_config(arg).to_dict()
    assert {key: config[key] for key in expected} == expected


def test_pairs_of_one_family_have_two_scales():
    families = ("resnet", "wrn", "vgg", "mobilenet", "shufflenet")
    for module in FILES:
        for pair, values in module.PAIRS.items():
            teacher, student = (
                next(family for family in families if name.startswith(family))
                for name in pair.split(",")
            )
            assert values["scales"] == ((1, 2) if teacher == student else (1, 2, 4)), pair


OFFICIAL = {
    "consistency": "label",
    "reduction": "mean",
    "pooling": "nested",
    "global_clipnorm": 40.0,
}
PAPER = {
    "consistency": "global",
    "reduction": "sum",
    "pooling": "direct",
    "global_clipnorm": 0.0,
    "warmup_epochs": 30,
}
PLAIN_NKD = {"name": "NKD", "gamma": 1.5, "temperature": 1.0}
NKD = {"name": "NKD", "mask_target": False}
CIFAR_PAIR, IMAGENET_PAIR = "vgg13,mobilenet_v2", "resnet34,resnet18"
KEPT, MASKED = {"mask_target": False}, {"mask_target": True}


@pytest.mark.parametrize(
    ("module", "arg", "official", "paper"),
    [
        (cifar100, f"{CIFAR_PAIR},kd", {"warmup_epochs": 0}, {}),
        (cifar100, f"{CIFAR_PAIR},sd_kd", {"warmup_epochs": 0}, {}),
        (cifar100, f"{CIFAR_PAIR},sd_dkd", {"warmup_epochs": 20}, {}),
        (
            cifar100,
            f"{CIFAR_PAIR},nkd",
            {"warmup_epochs": 20, "distillation_loss": PLAIN_NKD | KEPT},
            {"distillation_loss": PLAIN_NKD | MASKED},
        ),
        (
            cifar100,
            f"{CIFAR_PAIR},sd_nkd",
            {"warmup_epochs": 20, "distillation_loss": NKD | {"gamma": 6.0, "temperature": 4.0}},
            {"distillation_loss": PLAIN_NKD | MASKED},
        ),
        (imagenet, f"{IMAGENET_PAIR},sd_dkd", {"warmup_epochs": 0}, {}),
        (
            imagenet,
            f"{IMAGENET_PAIR},sd_nkd",
            {"distillation_loss": NKD | {"gamma": 0.5, "temperature": 1.0}},
            {"distillation_loss": PLAIN_NKD | MASKED},
        ),
    ],
)
def test_readings(module, arg, official, paper):
    for reading, expected in {"official": OFFICIAL | official, "paper": PAPER | paper}.items():
        config = module.get_config(arg, reading).to_dict()
        assert {key: config[key] for key in expected} == expected
    assert module.get_config(arg) == module.get_config(arg, "official")


def test_smoke_form_is_small():
    for module, arg in EXPERIMENTS:
        config = module.get_config(arg, smoke=True)
        assert config.dataset == "synthetic" and config.epochs == 1
        assert config.num_examples <= config.batch_size <= 16 and config.image_size <= 32
        assert config.get("teacher_checkpoint", "") == ""


def test_labels_only_arm_of_a_pair_is_its_student():
    arm = cifar100.get_config("vgg13,mobilenet_v2,ce")
    assert arm == cifar100.get_config("mobilenet_v2") and "teacher" not in arm


@pytest.mark.parametrize(
    ("module", "arg", "near"),
    [
        (cifar100, "resnet32x4,shuflenet_v1,sd_kd", "resnet32x4,shufflenet_v1"),
        (cifar100, "resnet32x4,shufflenet_v1,sd_ddk", "sd_dkd"),
        (cifar100, "resnet32x4,shufflenet_v1,sd_dkd,paper", "sd_dkd"),
        (cifar100, "resnet32x4,shufflenet_v1", "resnet32x4,shufflenet_v1,sd_kd"),
        (cifar100, "resnet23x4", "resnet32x4"),
        (cifar100, "", "resnet32x4"),
        (cub200, "vgg13,vgg18,kd", "vgg13,vgg8"),
        (imagenet, "resnet34,resnet81,kd", "resnet34,resnet18"),
        (ablations, "6,resnet32x4,resnet8x4,fused", "6,resnet32x4,resnet8x4,fusion"),
    ],
)
def test_unknown_names_bring_near_ones(module, arg, near):
    with pytest.raises(LookupError) as error:
        module.get_config(arg)
    message, received = str(error.value).split("Received: ")
    assert near in message and received.strip("'") in arg


def test_unknown_reading_and_key():
    with pytest.raises(LookupError, match="Near: official.*'oficial'"):
        cifar100.get_config("vgg8", reading="oficial")
    config = cifar100.get_config("vgg13,vgg8,kd")
    with pytest.raises(AttributeError, match="epochs"):
        config.epoch = 3
    with pytest.raises(TypeError):
        config.epochs = "three"


def test_configs_know_neither_keras_nor_a_backend():
    program = """
import sys
from configs import ablations, cifar100, cub200, fashion_mnist, imagenet, recipes
cifar100.get_config("vgg13,vgg8,kd")
print(sorted({"keras", "keras_sdd", "tensorflow", "jax", "torch", "numpy"} & set(sys.modules)))
"""
    found = subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "[]"


def test_methods_are_those_of_the_tables():
    assert recipes.METHODS == METHODS
    names = itertools.chain(*(module.TABLES.get("labels_only", ()) for module in FILES))
    assert set(names) <= {name.split("/")[1] for name in models.MODELS}
