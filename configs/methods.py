"""The methods as data: a method is the terms of its loss, and the weight of the loss on the labels.

The row of a term holds the class in `keras_sdd.terms` and its arguments, under its key in the logs;
a loss is a row too, `"name"` the class in `keras_sdd.losses`. What is in epochs here, as
`warmup_epochs`, is in steps there. What differs between experiments is a `Setting`.

A new method is one entry. `a+b` is the sum of two; see `recipes.add_methods`.
"""

import dataclasses
import typing


@dataclasses.dataclass(frozen=True)
class Setting:
    """A value that a pair decides, or its data set, or the reading, or else `default`.

    Attributes:
        name: its key in `PAIRS` and `SETTINGS` of the config files, and in `READINGS`.
        default: for where it has no value; may be another setting.
        published: the data sets for which its authors publish the default. For the others, or
            where they give it for some pairs only, it is a choice of ours, which reports mark.
    """

    name: str
    default: typing.Any = None
    published: tuple = ()


# The authors' code, which made the published numbers, and the text of the paper. What they see
# differently is of SDD: the terms of other methods are the same in both.
READINGS = {
    "official": {
        "consistency": "label",
        "reduction": "mean",
        "pooling": "nested",
        "mask_target": False,
        # Their SD-NKD takes DKD's beta and temperature for its own.
        "sd_nkd_gamma": Setting("beta"),
        "sd_nkd_temperature": Setting("temperature"),
        "warmup": Setting("warmup_of_programs"),
        "no_warmup": 0,
    },
    "paper": {
        "consistency": "global",
        "reduction": "sum",
        "pooling": "direct",
        "mask_target": True,
        "sd_nkd_gamma": 1.5,
        "sd_nkd_temperature": 1.0,
        "warmup": 30,
        "no_warmup": 30,  # it warms up in all experiments
    },
}

_SMALL = ("cifar100", "cub200")  # the data sets that the public programs have one setting for
_SCALES = Setting("scales")
_POOLING = Setting("pooling")
_TEMPERATURE = Setting("temperature")
_BETA = Setting("beta")
_PLAIN_BETA = Setting("plain_beta", _BETA)
_KD_WEIGHT = Setting("kd_weight")
_KD_LABELS = Setting("kd_label_weight")
_MASK = Setting("mask_target")
_WARMUP = Setting("warmup")
_NO_WARMUP = Setting("no_warmup")
_WARMUP_OF_PROGRAMS = Setting("warmup_of_programs")

_KD = {"name": "KD", "temperature": _TEMPERATURE}
_DKD = {"name": "DKD", "alpha": 1.0, "beta": _PLAIN_BETA, "temperature": _TEMPERATURE}
_NKD = {"name": "NKD", "gamma": 1.5, "temperature": 1.0, "mask_target": _MASK}
_SD_NKD = _NKD | {
    "gamma": Setting("sd_nkd_gamma"),
    "temperature": Setting("sd_nkd_temperature"),
}
_RLD = {
    "name": "RLD",
    "alpha": 1.0,
    "beta": Setting("rld_beta", 8.0, _SMALL),
    "temperature": _TEMPERATURE,
    "confidence_temperature": 1.0,
}
_LSKD_KD = _KD | {"temperature": Setting("lskd_kd_temperature", 2.0, ("cifar100",))}
_LSKD_DKD = _DKD | {
    "beta": Setting("lskd_dkd_beta", _PLAIN_BETA),
    "temperature": Setting("lskd_dkd_temperature", 2.0, ("cifar100",)),
}
_LSKD_NKD = _NKD | {"temperature": Setting("lskd_nkd_temperature", 2.0)}
_LSKD_RLD = _RLD | {
    "temperature": Setting("lskd_rld_temperature", 2.0),
    "confidence_temperature": Setting("lskd_rld_temperature", 2.0),
}
_DIST = {"name": "DIST", "beta": 1.0, "gamma": 1.0, "temperature": _TEMPERATURE}
_GDKD = {
    "name": "GDKD",
    "num_top": 5,
    "weights": Setting("gdkd_weights", (1.0, 1.0, 8.0)),
    "temperature": _TEMPERATURE,
}
_WSLD = {"name": "WSLD", "temperature": Setting("wsld_temperature", 4.0, _SMALL)}
_NORMKD = {"name": "NormKD", "factor": Setting("normkd_factor", 2.0, ("cifar100",))}
_MLLD = {"name": "MLLD", "temperatures": (4.0, 3.0, 5.0, 2.0, 6.0)}


def _standardize(loss):
    return {"name": "Standardized", "loss": loss}


# Methods that compare logits: loss, its weight, its warm-up, the weight of the labels. LSKD's
# factor is on top of T^2, and on all parts of a loss.
_LOGITS = {
    "kd": (_KD, _KD_WEIGHT, _NO_WARMUP, _KD_LABELS),
    "dkd": (_DKD, 1.0, _WARMUP, 1.0),
    "nkd": (_NKD, 1.0, _WARMUP, 1.0),
    "lskd_kd": (
        _standardize(_LSKD_KD),
        Setting("lskd_kd_weight", 9.0, ("cifar100",)),
        _NO_WARMUP,
        Setting("lskd_kd_label_weight", _KD_LABELS),
    ),
    "lskd_dkd": (_standardize(_LSKD_DKD), Setting("lskd_dkd_weight", 9.0), _WARMUP, 1.0),
    "lskd_nkd": (_standardize(_LSKD_NKD), Setting("lskd_nkd_weight", 9.0), _WARMUP, 1.0),
    "lskd_rld": (_standardize(_LSKD_RLD), Setting("lskd_rld_weight", 9.0), _WARMUP, 1.0),
    "dist": (_DIST, Setting("dist_weight", 2.0, (*_SMALL, "imagenet")), _NO_WARMUP, 1.0),
    "ttm": ({"name": "TTM", "power": 0.1}, Setting("ttm_weight", 45.0), _NO_WARMUP, 1.0),
    "wttm": ({"name": "WTTM", "power": 0.2}, Setting("wttm_weight", 4.0), _NO_WARMUP, 1.0),
    "rld": (_RLD, 1.0, _WARMUP, 1.0),
    "gdkd": (_GDKD, 1.0, _WARMUP, 1.0),
    "wsld": (_WSLD, Setting("wsld_weight", 2.25, _SMALL), _NO_WARMUP, 1.0),
    "normkd": (_NORMKD, _KD_WEIGHT, _NO_WARMUP, _KD_LABELS),
    "ctkd": (
        _KD | {"temperature": 1.0},
        Setting("ctkd_weight", _KD_WEIGHT),
        _NO_WARMUP,
        Setting("ctkd_label_weight", _KD_LABELS),
    ),
    # A teacher that is never wrong, alone.
    "swap": ({"name": "Swapped", "loss": _KD}, 1.0, _NO_WARMUP, 0.0),
    # One view of each image; the published figures are those of two. The weight of the programs is
    # 0.9, and their masks take about half of it.
    "mlld": (_MLLD, Setting("mlld_weight", 0.45), _NO_WARMUP, 0.1),
}
# The losses whose authors' SD form is not the plain one's.
_SD_LOSSES = {"dkd": _DKD | {"beta": _BETA}, "nkd": _SD_NKD}


def _compare_logits(loss, weight, warmup, label_weight, scales=(1,)):
    """The method of a loss between logits; with the pair's scales, its SD form."""
    row = {
        "term": "SDD",
        "loss": loss,
        "scales": scales,
        "consistent_weight": 1.0,
        "complementary_weight": 2.0,
        "consistency": Setting("consistency"),
        "pooling": _POOLING,
        "reduction": Setting("reduction"),
        "weight": weight,
        "warmup_epochs": warmup,
    }
    return {"label_weight": label_weight, "terms": {"distillation_loss": row}}


def _learn_temperature(method):
    """CTKD, whose temperature is learned; the loss is that at a temperature of 1."""
    changes = {"term": "CTKD", "ramp_epochs": Setting("ctkd_ramp_epochs", 10, _SMALL)}
    return method | {"terms": {"ctkd_loss": method["terms"]["distillation_loss"] | changes}}


def _add_term(method, name, row):
    return method | {"terms": method["terms"] | {name: row}}


METHODS = {name: _compare_logits(*row) for name, row in _LOGITS.items()}
METHODS |= {
    f"sd_{name}": _compare_logits(_SD_LOSSES.get(name, loss), *others, scales=_SCALES)
    for name, (loss, *others) in _LOGITS.items()
}
METHODS |= {name: _learn_temperature(METHODS[name]) for name in ("ctkd", "sd_ctkd")}


def _average_classes(merge):
    loss = {"name": "ClassAveraged", "loss": _KD, "merge": merge}
    row = {
        "term": "SDD",
        "loss": loss,
        "scales": (4,),
        "pooling": _POOLING,
        "weight": _KD_WEIGHT,
        "warmup_epochs": _NO_WARMUP,
    }
    return {"label_weight": _KD_LABELS, "terms": {"distillation_loss": row}}


# KD of what the finest cells show, each class that the teacher sees with one vote: as one vector,
# or class by class. What SD-KD has beyond the second is of the scale.
METHODS |= {
    "class_averaged": _average_classes(merge=True),
    "class_decoupled": _average_classes(merge=False),
}

_MGD_WEIGHT = Setting("mgd_weight", 1.2e-3, ("cifar100",))
_FEATURES = {
    "fitnet": {"term": "FitNet", "weight": Setting("fitnet_weight", 100.0, _SMALL)},
    "at": {"term": "AT", "power": 2.0, "weight": Setting("at_weight", 1000.0, _SMALL)},
    "sp": {"term": "SP", "weight": Setting("sp_weight", 3000.0, _SMALL)},
    "rkd": {
        "term": "RKD",
        "distance_weight": 25.0,
        "angle_weight": 50.0,
        "weight": Setting("rkd_weight", 1.0, _SMALL),
    },
    "pkt": {"term": "PKT", "weight": Setting("pkt_weight", 30000.0, _SMALL)},
    "crd": {
        "term": "CRD",
        "num_negatives": Setting("crd_num_negatives", 16384, (*_SMALL, "imagenet")),
        "temperature": 0.07,
        "momentum": 0.5,
        "weight": Setting("crd_weight", 0.8, _SMALL),
    },
    "reviewkd": {
        "term": "ReviewKD",
        "preactivations": Setting("reviewkd_preactivations", False, _SMALL),
        "weight": Setting("reviewkd_weight", 1.0),
        "warmup_epochs": _WARMUP_OF_PROGRAMS,
    },
    "mgd": {"term": "MGD", "mask_ratio": 0.15, "weight": _MGD_WEIGHT},
    # SP on the cells of the maps; the paper's appendix gives no weight.
    "sdd_sp": {
        "term": "SDDSP",
        "scales": _SCALES,
        "pooling": _POOLING,
        "weight": Setting("sdd_sp_weight", 3000.0),
    },
    "semckd": {"term": "SemCKD", "weight": Setting("semckd_weight", 400.0, _SMALL)},
}
METHODS |= {
    name: {"label_weight": 1.0, "terms": {f"{name}_loss": {"warmup_epochs": 0} | row}}
    for name, row in _FEATURES.items()
}
# Its figures are with KD beside it, which has a weight of 1 there.
METHODS["semckd"] = _add_term(
    METHODS["semckd"],
    "distillation_loss",
    _compare_logits(_KD | {"temperature": 4.0}, 1.0, 0, 1.0)["terms"]["distillation_loss"],
)


def _relate_cells(weight):
    return {
        "term": "SDD",
        "loss": {"name": "CellRelation", "scales": _SCALES},
        "scales": _SCALES,
        "pooling": _POOLING,
        "weight": weight,
        "warmup_epochs": 0,
    }


# iCD: an SD form, and beside it the relation between the cells, whose weight its authors choose
# for each; 2 is their program's default.
METHODS |= {
    name: _add_term(METHODS[base], "relation_loss", _relate_cells(Setting(f"{name}_weight", 2.0)))
    for name, base in (("icd", "sd_kd"), ("icd_dkd", "sd_dkd"), ("icd_nkd", "sd_nkd"))
}

# What authors have otherwise in a sum than in its parts. The SDD authors' one combination takes
# ReviewKD's term as it stands, and SD-DKD with one beta for all pairs, from the first step on.
SUMS = {
    frozenset({"sd_dkd", "reviewkd"}): {
        "distillation_loss": {
            "loss": {"name": "DKD", "alpha": 1.0, "beta": 8.0, "temperature": 4.0},
            "warmup_epochs": 0,
        }
    }
}
