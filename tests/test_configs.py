"""The configs: figures of the paper, recipes, readings, the smoke form, and wrong names."""

import ast
import itertools
import pathlib
import re
import subprocess
import sys

import pytest
from backends import BACKEND
from training import config_keys

from configs import (
    ablations,
    appendix,
    cifar100,
    cub200,
    digit_scenes,
    fashion_mnist,
    garment_scenes,
    imagenet,
    methods,
    own_data,
    published,
)
from keras_sdd import data, models
from keras_sdd._checks import find_near

REPOSITORY = pathlib.Path(__file__).parents[1]

pytestmark = pytest.mark.skipif(BACKEND != "torch", reason="alike on all backends")

FILES = (cifar100, cub200, imagenet, fashion_mnist, digit_scenes, garment_scenes)
SIX = ("kd", "sd_kd", "dkd", "sd_dkd", "nkd", "sd_nkd")  # of the paper
SUMS = ("sd_kd+sp", "sd_kd+crd", "crd+wttm", "sd_dkd+reviewkd", "reviewkd+sp+sd_nkd")


def list_experiments():
    """Every argument of every config file, with its file."""
    for module in FILES:
        names = (*methods.METHODS, *SUMS)
        pairs = (f"{pair},{method}" for pair in module.PAIRS for method in names)
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
        if not smoke and config.dataset in data.DATASETS:
            spec = data.DATASETS[config.dataset]
            assert (config.num_classes, config.image_size) == (
                spec["num_classes"],
                spec["input_shape"][0],
            )
        # What is read of one config of a method is read of all: see test_examples.
        rows = list_leaves(config.terms) if "terms" in config else {}
        assert None not in rows.values(), arg  # a setting without a value
        keys.setdefault(config.method, set()).add((*config, *rows))
    assert set(keys) == {"ce", *methods.METHODS, *SUMS}
    assert all(len(kinds) == 1 for kinds in keys.values())


def list_leaves(values, prefix=""):
    if not hasattr(values, "items"):
        return {prefix: values}
    leaves = [list_leaves(value, f"{prefix}.{key}") for key, value in values.items()]
    return {key: value for part in leaves for key, value in part.items()}


def test_all_networks_of_the_zoo_can_be_trained():
    files = (*FILES, own_data)
    assert {x.get_config(name).student for x in files for name in x.NETWORKS} == set(models.MODELS)


def test_tables_are_complete():
    tables = cifar100.TABLES | cub200.TABLES | imagenet.TABLES | ablations.TABLES
    sizes = {table: len(cells) for table, cells in tables.items() if table != "labels_only"}
    assert sizes == {"1": 48, "2": 90, "3": 6, "4": 6, "5": 55, "6": 8, "7": 8, "8": 5}
    for module, arg in EXPERIMENTS:
        table = module.get_config(arg).table
        assert table == "" or arg in module.TABLES[table]
    figures = {
        name: figure
        for module in (appendix, published)
        for cells in module.TABLES.values()
        for name, figure in cells.items()
    }
    without_code = set()
    for name in figures:
        file, arg = name.split(":")
        method = arg.split(",")[-1]
        module = {"cifar100": cifar100, "imagenet": imagenet}[file]
        if "," not in arg or module.EXPERIMENTS.has_code(arg):
            module.get_config(arg)
        else:
            without_code.add(method)
        known = published.SOURCES[file].keys() | appendix.COMBINATIONS.keys()
        assert method in known | appendix.SP_ON_CELLS.keys() or "," not in arg
    assert without_code == {
        *("lskd_ctkd", "mlld_two_views", "lskd_mlld_two_views", "wkd_l", "wkd_f", "simkd")
    }


@pytest.mark.parametrize(
    ("cells", "name", "figure"),
    [
        (cifar100.TABLES["1"], "wrn_40_2,vgg8,fitnet", 70.98),
        (cifar100.TABLES["1"], "resnet50,shufflenet_v1,mgd", 74.99),
        (cifar100.TABLES["1"], "wrn_40_2,vgg8,reviewkd", "-"),
        (cifar100.TABLES["2"], "resnet50,vgg8,wcord", 74.86),
        (cifar100.TABLES["2"], "wrn_40_2,shufflenet_v1,pkt", 72.21),
        (cifar100.TABLES["2"], "resnet32x4,shufflenet_v2,reviewkd", 77.78),
        (cub200.TABLES["5"], "vgg13,mobilenet_v2,semckd", 68.23),
        (cub200.TABLES["5"], "resnet50,shufflenet_v1,mgd", 57.12),
        (cub200.TABLES["5"], "resnet32x4,mobilenet_v2,reviewkd", "-"),
        (appendix.TABLES["combinations"], "cifar100:resnet32x4,resnet8x4,sd_kd+crd", 76.94),
        (appendix.TABLES["combinations"], "cifar100:wrn_40_2,vgg8,sd_kd+sp", 74.02),
        (appendix.TABLES["sp_on_cells"], "cifar100:resnet32x4,shufflenet_v2,sdd_sp", 75.65),
    ],
)
def test_figures_of_other_methods(cells, name, figure):
    assert cells[name] == figure


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
}
WEIGHTS = {"term": "SDD", "consistent_weight": 1.0, "complementary_weight": 2.0}


def dkd(beta, temperature=4.0):
    return {"loss": {"name": "DKD", "alpha": 1.0, "beta": beta, "temperature": temperature}}


# Experiment: what holds for it, and for its terms.
RECIPES = {
    (cifar100, "resnet32x4,shufflenet_v1,sd_dkd"): (
        {**CIFAR, "dataset": "cifar100", "learning_rate": 0.01, "student_loss_weight": 1.0},
        {"distillation_loss": {**WEIGHTS, **dkd(8.0), "scales": (1, 2, 4), "weight": 1.0}},
    ),
    (cifar100, "resnet32x4,mobilenet_v2,dkd"): (
        {**CIFAR, "learning_rate": 0.01},
        {"distillation_loss": {**WEIGHTS, **dkd(6.0), "scales": (1,)}},
    ),
    (cifar100, "resnet32x4,mobilenet_v2,sd_dkd"): ({}, {"distillation_loss": dkd(8.0)}),
    (cifar100, "wrn_40_2,vgg8,sd_kd"): (
        {**CIFAR, "learning_rate": 0.05, "student_loss_weight": 0.1},
        {
            "distillation_loss": {
                **WEIGHTS,
                "scales": (1, 2, 4),
                "loss": {"name": "KD", "temperature": 4.0},
                "weight": 0.9,
            }
        },
    ),
    (cifar100, "resnet56,resnet20,sd_dkd"): (
        {},
        {"distillation_loss": {**dkd(2.0), "scales": (1, 2)}},
    ),
    (cub200, "vgg13,vgg8,sd_dkd"): (
        {**CIFAR, "dataset": "cub200_2011", "teacher": "cub200/vgg13", "learning_rate": 0.05},
        {"distillation_loss": {**WEIGHTS, **dkd(6.0), "scales": (1, 2)}},
    ),
    (cub200, "resnet50,shufflenet_v1,kd"): (
        {"learning_rate": 0.01},
        {"distillation_loss": {"scales": (1,)}},
    ),
    (imagenet, "resnet34,resnet18,sd_kd"): (
        {
            "batch_size": 512,
            "epochs": 100,
            "learning_rate": 0.2,
            "milestones": (30, 60, 90),
            "weight_decay": 1e-4,
            "student_loss_weight": 0.5,
        },
        {
            "distillation_loss": {
                "scales": (1, 2),
                "loss": {"name": "KD", "temperature": 1.0},
                "weight": 0.5,
            }
        },
    ),
    (imagenet, "resnet50,mobilenet_v1,sd_dkd"): (
        {},
        {"distillation_loss": {**dkd(2.0, 1.0), "scales": (1, 2, 4)}},
    ),
    (ablations, "6,resnet32x4,shufflenet_v1,consistent"): (
        {},
        {
            "distillation_loss": {
                "consistent_weight": 1.0,
                "complementary_weight": 0.0,
                "scales": (1, 2, 4),
            }
        },
    ),
    (ablations, "6,resnet32x4,resnet8x4,complementary"): (
        {},
        {
            "distillation_loss": {
                "consistent_weight": 0.0,
                "complementary_weight": 2.0,
                "scales": (1, 2),
            }
        },
    ),
    (ablations, "7,resnet32x4,resnet8x4,m14"): (
        {"method": "sd_kd"},
        {"distillation_loss": {"scales": (1, 4)}},
    ),
    (ablations, "8,resnet32x4,shufflenet_v1,beta6"): (
        {},
        {"distillation_loss": {"complementary_weight": 6.0, "scales": (1, 2, 4)}},
    ),
    (cifar100, "shufflenet_v2"): ({"learning_rate": 0.01, "epochs": 240, "method": "ce"}, {}),
    # Settings that their authors publish for single pairs.
    (cifar100, "vgg13,vgg8,lskd_kd"): (
        {"student_loss_weight": 0.1},
        {
            "distillation_loss": {
                "loss": {"name": "Standardized", "loss": {"name": "KD", "temperature": 3.0}},
                "weight": 9.0,
                "scales": (1,),
            }
        },
    ),
    (cifar100, "wrn_40_2,wrn_16_2,sd_lskd_dkd"): (
        {"student_loss_weight": 1.0},
        {
            "distillation_loss": {
                "loss": {"name": "Standardized", **dkd(2.0, 2.0)},
                "weight": 12.0,
                "scales": (1, 2),
                "warmup_epochs": 20,
            }
        },
    ),
    (cifar100, "resnet32x4,resnet8x4,gdkd"): (
        {},
        {
            "distillation_loss": {
                "loss": {
                    "name": "GDKD",
                    "num_top": 5,
                    "weights": (1.0, 2.0, 8.0),
                    "temperature": 4.0,
                }
            }
        },
    ),
    (cifar100, "resnet32x4,shufflenet_v2,reviewkd"): (
        {"student_loss_weight": 1.0},
        {"reviewkd_loss": {"term": "ReviewKD", "weight": 8.0, "warmup_epochs": 20}},
    ),
    (imagenet, "resnet34,resnet18,ctkd"): (
        {"student_loss_weight": 1.0},
        {"ctkd_loss": {"term": "CTKD", "ramp_epochs": 5, "weight": 1.0}},
    ),
}


@pytest.mark.parametrize(("experiment", "expected"), RECIPES.items(), ids=lambda x: str(x)[-40:])
def test_recipes(experiment, expected):
    module, arg = experiment
    config = module.get_config(arg).to_dict()
    values, terms = expected
    assert {key: config[key] for key in values} == values
    assert config.get("terms", {}).keys() == terms.keys()
    for name, row in terms.items():
        assert {key: config["terms"][name][key] for key in row} == row


def test_sums_of_methods():
    def get(method):
        return cifar100.get_config(f"resnet32x4,resnet8x4,{method}").to_dict()

    parts, whole = [get(method) for method in ("sd_kd", "crd")], get("sd_kd+crd")
    assert whole["terms"] == parts[0]["terms"] | parts[1]["terms"]
    weights = [config["student_loss_weight"] for config in (*parts, whole)]
    assert weights == [0.1, 1.0, 1.0]  # the largest, whatever the order
    assert get("crd+sd_kd")["terms"] == whole["terms"]
    # The SDD authors' own: no warm-up of SD-DKD, and ReviewKD as it stands.
    terms = get("reviewkd+sd_dkd")["terms"]
    assert terms["reviewkd_loss"] == get("reviewkd")["terms"]["reviewkd_loss"]
    assert terms["distillation_loss"]["warmup_epochs"] == 0
    assert get("sd_dkd")["terms"]["distillation_loss"]["warmup_epochs"] == 20
    icd = get("icd")["terms"]
    assert icd["distillation_loss"] == get("sd_kd")["terms"]["distillation_loss"]
    assert icd["relation_loss"]["scales"] == (1, 2) and icd["relation_loss"]["weight"] == 8.0
    for twice in ("kd+sd_dkd", "sp+sp", "semckd+sd_kd"):
        with pytest.raises(LookupError, match=f"same name.*'{re.escape(twice)}'"):
            get(twice)
    with pytest.raises(LookupError, match="Unknown method. Near: .*crd.*'cdr'"):
        get("sd_kd+cdr")


def test_settings_that_nobody_publishes_are_named():
    def find(module, arg):
        return module.EXPERIMENTS.list_unpublished(arg)

    for module in FILES:
        assert not any(find(module, f"{pair},{x}") for pair in module.PAIRS for x in SIX)
    assert find(cifar100, "resnet32x4,resnet8x4,reviewkd+sp") == []
    assert find(cifar100, "resnet50,vgg8,reviewkd+sp") == ["reviewkd_weight"]
    assert find(cifar100, "vgg13,vgg8,ttm") == [] and find(imagenet, "resnet34,resnet18,dist") == []
    assert find(cifar100, "vgg13,mobilenet_v2,ttm") == ["ttm_weight"]
    assert find(fashion_mnist, "vgg8,resnet8,sd_kd+sp") == ["sp_weight"]


def test_experiments_that_cannot_be_run():
    for module in FILES:
        refused = module.EXPERIMENTS.refused
        assert refused.keys() <= methods.METHODS.keys()
        assert {pair for pairs in refused.values() for pair in pairs} <= module.PAIRS.keys()
    has_code = cifar100.EXPERIMENTS.has_code
    assert has_code("wrn_40_2,vgg8,sp+sd_kd") and not has_code("wrn_40_2,vgg8,sp+mgd")
    assert has_code("vgg13,vgg8,mgd") and not has_code("vgg13,vgg8,wcord")


def test_pairs_of_one_family_have_two_scales():
    families = ("cnn", "resnet", "wrn", "vgg", "mobilenet", "shufflenet")
    for module in (cifar100, cub200, imagenet, fashion_mnist):
        for pair, values in module.PAIRS.items():
            teacher, student = (
                next(family for family in families if name.startswith(family))
                for name in pair.split(",")
            )
            assert values["scales"] == ((1, 2) if teacher == student else (1, 2, 4)), pair


OFFICIAL = {"consistency": "label", "reduction": "mean", "pooling": "nested"}
PAPER = {
    "consistency": "global",
    "reduction": "sum",
    "pooling": "direct",
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
        (cifar100, f"{CIFAR_PAIR},sd_rld", {"warmup_epochs": 20}, {}),
        (
            cifar100,
            f"{CIFAR_PAIR},nkd",
            {"warmup_epochs": 20, "loss": PLAIN_NKD | KEPT},
            {"loss": PLAIN_NKD | MASKED},
        ),
        (
            cifar100,
            f"{CIFAR_PAIR},sd_nkd",
            {"warmup_epochs": 20, "loss": NKD | {"gamma": 6.0, "temperature": 4.0}},
            {"loss": PLAIN_NKD | MASKED},
        ),
        (imagenet, f"{IMAGENET_PAIR},sd_dkd", {"warmup_epochs": 0}, {}),
        (
            imagenet,
            f"{IMAGENET_PAIR},sd_nkd",
            {"loss": NKD | {"gamma": 0.5, "temperature": 1.0}},
            {"loss": PLAIN_NKD | MASKED},
        ),
    ],
)
def test_readings(module, arg, official, paper):
    for reading, expected in {"official": OFFICIAL | official, "paper": PAPER | paper}.items():
        config = module.get_config(arg, reading).to_dict()
        row = config["terms"]["distillation_loss"]
        assert {key: row[key] for key in expected} == expected
        assert config["global_clipnorm"] == (40.0 if reading == "official" else 0.0)
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
        (cifar100, "", "All: configs/cifar100.py"),
        (cifar100, "resnet32x4,shufflenet_v1,sd_kd+ps", "sp"),
        (cub200, "vgg13,vgg18,kd", "vgg13,vgg8"),
        (imagenet, "resnet34,resnet81,kd", "resnet34,resnet18"),
        (ablations, "6,resnet32x4,resnet8x4,fused", "6,resnet32x4,resnet8x4,fusion"),
    ],
)
def test_unknown_names_bring_near_ones(module, arg, near):
    with pytest.raises(LookupError) as error:
        module.get_config(arg)
    message, received = str(error.value).split("Received: ")
    assert near in message and received.strip("'") in arg, error.value


KEYS = list(config_keys.flatten(cifar100.get_config("vgg13,vgg8,sd_nkd")))


@pytest.mark.parametrize(
    ("received", "near"),
    [
        ("lr", ["learning_rate", "learning_rate_factor"]),
        ("wd", ["weight_decay"]),
        ("bs", ["batch_size", "eval_batch_size"]),
        ("gama", ["terms.distillation_loss.loss.gamma"]),
        ("terms.kd.loss.gamma", ["terms.distillation_loss.loss.gamma"]),
        ("num_ex", ["num_examples"]),
        ("momentun", ["momentum"]),
        ("qqq", []),
    ],
)
def test_near_names_are_near(received, near):
    assert len(KEYS) > 40
    found = find_near(received, KEYS, cutoff=0.5)
    assert found[: len(near)] == near and len(found) <= 5
    assert near or not found


def test_pointers_lead_to_all_names():
    with pytest.raises(LookupError, match="Near: none. All: configs/methods.py. Received: 'xyz'"):
        cifar100.get_config("vgg13,vgg8,xyz")
    with pytest.raises(LookupError, match="Near: official; paper. Received: ''"):
        cifar100.get_config("vgg8", reading="")
    with pytest.raises(ValueError, match="Near names: none; all are in keras_sdd.models.MODELS"):
        models.build("zzz")


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
from configs import ablations, appendix, cifar100, cub200, fashion_mnist, imagenet, published
cifar100.get_config("vgg13,vgg8,kd")
print(sorted({"keras", "keras_sdd", "tensorflow", "jax", "torch", "numpy"} & set(sys.modules)))
"""
    found = subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "[]"


def test_every_file_says_its_command_cost_and_results():
    """Files with experiments or studies do; a CSV file or page that is named is there."""
    for path in (REPOSITORY / "configs").glob("*.py"):
        text = ast.get_docstring(ast.parse(path.read_text()))
        if path.stem in ("keys", "methods", "recipes"):
            continue
        assert re.search(r"^    python examples/\w+\.py --", text, re.MULTILINE), path
        assert re.search(r"^Cost: ", text, re.MULTILINE), path
        assert re.search(r"^Results: ", text, re.MULTILINE), path
        for name in re.findall(r"docs/[\w/]+\.(?:csv|md)|examples/\w+\.py", text):
            assert (REPOSITORY / name).is_file(), name


def test_networks_of_the_tables_are_those_of_the_zoo():
    names = itertools.chain(*(module.TABLES.get("labels_only", ()) for module in FILES))
    assert set(names) <= {name.split("/")[1] for name in models.MODELS}


def test_names_of_terms_can_be_given_as_flags():
    for method in methods.METHODS.values():
        assert all(name.isidentifier() for name in method["terms"])


def test_the_page_of_methods_has_them_all():
    """Every method, and every loss and term there is, by name; files that exist."""
    page = (REPOSITORY / "docs" / "methods.md").read_text()
    for name in methods.METHODS:
        assert f"`{name}`" in page or f"`{name.removeprefix('sd_')}`" in page, name
    named = set(re.findall(r"(?<=, )(?:losses|terms)/\w+\.py", page))
    assert all((REPOSITORY / "keras_sdd" / path).is_file() for path in named)
    folders = ("losses", "terms")
    files = {f"{x}/{y.name}" for x in folders for y in (REPOSITORY / "keras_sdd" / x).glob("*.py")}
    shared = {
        *("losses/__init__.py", "losses/base.py", "losses/labels.py", "losses/cross_entropy.py"),
        *("losses/scale_decoupled.py", "losses/sum.py"),
        *("losses/batch_relation.py", "losses/class_relation.py"),
        *("terms/__init__.py", "terms/base.py", "terms/features.py", "terms/lengths.py"),
        "terms/sdd.py",
    }
    assert files - named == shared
