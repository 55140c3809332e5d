"""Studies of our own: grids of methods, networks and seeds that examples/study.py runs and reports.

    python examples/study.py --config=configs/studies.py:digits

Its keys can be overridden as those of any config, for example --config.seeds=3. `own` is for data
of your own, --config.data.dataset=FILE.npz. Every arm of a study is a method of configs/methods.py;
a variant is an arm that changes something of it; it is compared with `against`, or else its method.

Cost: `digits` is 150 runs of students, 42 of tuning and one of a teacher; the `seconds` of each
student are in docs/studies/digits/results.csv.
Results: docs/studies.md, of all but `fashion_all`; that of `unlabelled` in docs/labels.md.
"""

from ml_collections import config_dict

from configs import digit_scenes, fashion_mnist, garment_scenes, keys, recipes

_METHODS = (
    *("ce", "kd", "sd_kd", "dkd", "sd_dkd", "nkd", "sd_nkd", "lskd_kd", "sd_lskd_kd"),
    *("dist", "sd_dist", "sp", "at", "sd_kd+sp", "sd_kd+crd"),
)
_SDD = "terms.distillation_loss."
# Of SD-KD: the paper's Tables 6 to 8, and what else it is made of.
_ABLATIONS = {
    "consistent only": {_SDD + "complementary_weight": 0.0},
    "complementary only": {_SDD + "consistent_weight": 0.0},
    "M={1,2}": {_SDD + "scales": (1, 2)},
    "M={1,4}": {_SDD + "scales": (1, 4)},
    "M={2}": {_SDD + "scales": (2,)},
    "M={4}": {_SDD + "scales": (4,)},
    "M={1,2,4,8}": {_SDD + "scales": (1, 2, 4, 8)},
    "beta=1": {_SDD + "complementary_weight": 1.0},
    "beta=4": {_SDD + "complementary_weight": 4.0},
    "beta=6": {_SDD + "complementary_weight": 6.0},
    "beta=8": {_SDD + "complementary_weight": 8.0},
    "global consistency": {_SDD + "consistency": "global"},
    "sum": {_SDD + "reduction": "sum"},
    "mean of scales": {_SDD + "reduction": "mean_of_scales"},
    "direct, M={1,3}": {_SDD + "pooling": "direct", _SDD + "scales": (1, 3)},
    "nested, M={1,3}": {_SDD + "scales": (1, 3)},
    "warm-up of 6 epochs": {_SDD + "warmup_epochs": 6},
    "weight x 2": {_SDD + "weight": 1.8},
    "weight x 4": {_SDD + "weight": 3.6},
}
_SCENES = ("cnn_16_32_64_64,cnn_8_16_32",)


def _use_unlabelled(count, epochs):
    """Return the arms of a study with `count` labels, and no labels of the other images."""
    milestones = tuple(round(part * epochs) for part in (0.6, 0.8, 0.95))
    few = {"num_examples": count, "epochs": epochs, "milestones": milestones}
    everything = {"num_examples": None, "labelled_examples": count}
    everything |= {"epochs": 8, "milestones": (5, 6, 7)}
    text = f", {count} labels"
    plain, kd = f"labels only{text}", f"KD on all{text}"
    return {
        plain: {"method": "ce", **few},
        kd: {"method": "kd", "against": plain, **everything},
        f"SD-KD on all{text}": {"method": "sd_kd", "against": kd, **everything},
        f"SD-KD on the labelled{text}": {"method": "sd_kd", "against": plain, **few},
    }


# What scales give on many pairs, without any tuning.
_SCALES = {
    "methods": ("kd",),
    "variants": {
        f"SD-KD, M={{{','.join(map(str, scales))}}}": {
            "method": "sd_kd",
            "against": "kd",
            _SDD + "scales": scales,
        }
        for scales in ((1, 2), (1, 4), (1, 2, 4))
    },
}
_TRIALS = 3
STUDIES = {
    "digits": {
        "experiments": "digit_scenes",
        "pairs": _SCENES,
        "methods": _METHODS,
        "seeds": 10,
        "trials": _TRIALS,
    },
    "garments": {
        "experiments": "garment_scenes",
        "pairs": _SCENES,
        "methods": _METHODS,
        "trials": _TRIALS,
    },
    "fashion": {
        "experiments": "fashion_mnist",
        "pairs": ("cnn_32_64_128_128,cnn_8_16_32", "wrn_16_2,cnn_8_16_32"),
        "methods": _METHODS,
        "trials": _TRIALS,
    },
    # On all labels: the teacher is that of `fashion`, and so are the settings, if its tuned.json is
    # copied into the folder of this study.
    "fashion_all": {
        "experiments": "fashion_mnist",
        "pairs": ("cnn_32_64_128_128,cnn_8_16_32",),
        "methods": ("ce", "kd", "sd_kd", "dkd", "sd_dkd"),
        "settings": {"num_examples": None},
    },
    "ablations": {
        "experiments": "digit_scenes",
        "pairs": _SCENES,
        "methods": ("kd", "sd_kd", "class_averaged", "class_decoupled"),
        "variants": {name: {"method": "sd_kd"} | x for name, x in _ABLATIONS.items()},
    },
    "scales_digits": {
        "experiments": "digit_scenes",
        "pairs": tuple(digit_scenes.PAIRS),
        **_SCALES,
    },
    "scales_garments": {
        "experiments": "garment_scenes",
        "pairs": tuple(garment_scenes.PAIRS)[:3],
        **_SCALES,
    },
    "scales_fashion": {
        "experiments": "fashion_mnist",
        "pairs": tuple(fashion_mnist.PAIRS)[:4],
        **_SCALES,
    },
    "unlabelled": {
        "experiments": "fashion_mnist",
        "pairs": ("cnn_32_64_128_128,cnn_8_16_32",),
        "methods": (),
        # Epochs of few images are short.
        "variants": {
            **_use_unlabelled(200, 200),
            **_use_unlabelled(500, 100),
            **_use_unlabelled(2000, 50),
        },
    },
    "own": {
        "experiments": "own_data",
        "pairs": _SCENES,
        "methods": ("ce", "kd", "sd_kd", "dkd", "sd_dkd"),
    },
}


def get_config(name=""):
    """Return the config of a study.

    Raises:
        LookupError: for an unknown study, with the near ones.
    """
    values = STUDIES[recipes.pick("study", name, STUDIES)] | {"name": name}
    defaults = keys.list_defaults(keys.STUDY)
    own = {key: x for key, x in defaults.items() if "." not in key}
    config = config_dict.ConfigDict(own | values, convert_dict=False)  # keys of variants have dots
    config.data = config_dict.ConfigDict(
        {key.removeprefix("data."): x for key, x in defaults.items() if "." in key}
    )
    return config.lock()
