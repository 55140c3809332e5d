"""What the configs share: methods, the two readings of the paper, the smoke form.

Configs are data. They import neither Keras nor a backend, so that building all of them is instant.
"""

import dataclasses

from ml_collections import config_dict

# In the order of the columns of the paper's tables.
METHODS = ("kd", "sd_kd", "dkd", "sd_dkd", "nkd", "sd_nkd")
# The authors' code, which made the published numbers, and the text of the paper.
READINGS = ("official", "paper")

# How every run goes, whatever it trains.
_RUN = {
    "seed": 0,
    "augment": True,
    "momentum": 0.9,
    "learning_rate_factor": 0.1,
    "eval_batch_size": 256,
    "steps_per_execution": 1,
    "dtype_policy": "float32",
    # "auto" is Keras's own choice, except on CPUs with TensorFlow, whose convolutions XLA slows.
    "jit_compile": "auto",
    # Kernels that give the same bits every time; GPUs have slower ones for it.
    "deterministic": False,
}
# Few images made on the spot, one training step an epoch.
_SMOKE = {
    "dataset": "synthetic",
    "num_classes": 10,
    "image_size": 32,
    "num_examples": 16,
    "batch_size": 16,
    "eval_batch_size": 16,
    "epochs": 1,
    "milestones": (1,),
}
# What the smoke form trains instead of the deep networks: the same family, few layers.
_SMALL = {
    "resnet14": "resnet8",
    "resnet20": "resnet8",
    "resnet32": "resnet8",
    "resnet44": "resnet8",
    "resnet56": "resnet8",
    "resnet110": "resnet8",
    "resnet32x4": "resnet8x4",
    "resnet34": "resnet18",
    "resnet50": "resnet18",
    "wrn_16_2": "wrn_16_1",
    "wrn_40_1": "wrn_16_1",
    "wrn_40_2": "wrn_16_1",
    "vgg11": "vgg8",
    "vgg13": "vgg8",
    "vgg16": "vgg8",
    "vgg19": "vgg8",
}


@dataclasses.dataclass(frozen=True)
class Experiments:
    """The experiments of one config file.

    Attributes:
        name: of the config file, without `.py`.
        family: of the networks, the first part of their names in `keras_sdd.models`.
        recipe: settings of the data set and the optimizer.
        distillation: temperature of KD and DKD, weights of labels and KD, warm-up of the authors.
        networks: network -> the settings in which training it differs from the recipe.
        pairs: `"TEACHER,STUDENT"` -> scales of the SD forms, beta of SD-DKD, `plain_beta` of DKD
            where that differs.
        tables: table -> cell (an argument of `get_config`) -> the paper's top-1, or (top-1, top-5).
    """

    name: str
    family: str
    recipe: dict
    distillation: dict
    networks: dict
    pairs: dict
    tables: dict

    def get_config(self, arg, reading="official", smoke=False):
        """Return the config of the experiment `arg`.

        Args:
            arg: `"TEACHER,STUDENT,METHOD"`, or `"NETWORK"` to train with labels only;
                `"TEACHER,STUDENT,ce"` means `"STUDENT"`.
            reading: one of `READINGS`.
            smoke: whether to give the form that runs in seconds, on data made on the spot.

        Raises:
            LookupError: for an unknown pair, network, method or reading, with the near ones.
        """
        pick("reading", reading, READINGS)
        words = arg.split(",")
        if words[2:]:
            pick("method", ",".join(words[2:]), (*METHODS, "ce"))
            pick("pair", ",".join(words[:2]), self.pairs)
        if words[2:] == ["ce"]:
            words = [words[1]]
        if len(words) == 1:
            pick("network or TEACHER,STUDENT,METHOD", words[0], self.networks)
            values = self._train_with_labels(words[0], reading)
        else:
            if len(words) == 2:
                raise LookupError(
                    f"Add a method, as in {arg},sd_kd, one of: {', '.join((*METHODS, 'ce'))}. "
                    f"Received: {arg!r}"
                )
            values = self._distil(*words, reading)
        return _to_config(values, smoke)

    def _train_with_labels(self, network, reading):
        figures = {"table": "", "paper_accuracy": None, "paper_top5_accuracy": None}
        return {
            **_RUN,
            **self.recipe,
            **self.networks[network],
            **figures,
            **self._find_figures(network),
            "cell": f"{self.name}:{network}",
            "method": "ce",
            "reading": reading,
            "student": f"{self.family}/{network}",
            "global_clipnorm": 40.0 if reading == "official" else 0.0,
        }

    def _distil(self, teacher, student, method, reading):
        pair = self.pairs[f"{teacher},{student}"]
        decoupled = method.startswith("sd_")
        arg = f"{teacher},{student},{method}"
        return {
            **self._train_with_labels(student, reading),
            "table": "",
            "paper_accuracy": None,
            "paper_top5_accuracy": None,
            **self._find_figures(arg),
            "cell": f"{self.name}:{arg}",
            "method": method,
            "teacher": f"{self.family}/{teacher}",
            "teacher_checkpoint": f"teachers/{self.name}/{teacher}.keras",
            "fold_teacher": True,
            "teacher_dtype": None,
            # Folder for the teacher's cells: they are computed once. Needs augment=False.
            "teacher_cache": None,
            "scales": pair["scales"] if decoupled else (1,),
            "consistent_weight": 1.0,
            "complementary_weight": 2.0,
            **self._choose_loss(method, pair, reading),
            **self._read(method, reading),
        }

    def _choose_loss(self, method, pair, reading):
        """Return the loss of a method and its weights."""
        base = method.removeprefix("sd_")
        temperature = self.distillation["temperature"]
        beta = pair["beta"] if base != method else pair.get("plain_beta", pair["beta"])
        weights = self.distillation["kd_weights"] if base == "kd" else (1.0, 1.0)
        # The authors' SD-NKD takes DKD's beta and temperature for its own.
        own = reading == "paper" or method == "nkd"
        loss = {
            "kd": {"name": "KD", "temperature": temperature},
            "dkd": {"name": "DKD", "alpha": 1.0, "beta": beta, "temperature": temperature},
            "nkd": {
                "name": "NKD",
                "gamma": 1.5 if own else beta,
                "temperature": 1.0 if own else temperature,
                "mask_target": reading == "paper",
            },
        }[base]
        names = ("student_loss_weight", "distillation_weight")
        return {"distillation_loss": loss, **dict(zip(names, weights, strict=True))}

    def _read(self, method, reading):
        """Return what the paper's text and its authors' code see differently for all methods."""
        if reading == "paper":
            loss = {"consistency": "global", "reduction": "sum", "pooling": "direct"}
            return {**loss, "warmup_epochs": 30}
        warmup = 0 if method in ("kd", "sd_kd") else self.distillation["official_warmup_epochs"]
        loss = {"consistency": "label", "reduction": "mean", "pooling": "nested"}
        return {**loss, "warmup_epochs": warmup}

    def _find_figures(self, arg):
        """Return the table that holds a cell, and the paper's accuracies for it in percent."""
        for table, cells in self.tables.items():
            if arg in cells:
                figures = cells[arg] if isinstance(cells[arg], tuple) else (cells[arg],)
                names = ("paper_accuracy", "paper_top5_accuracy")
                return {"table": table, **dict(zip(names, figures, strict=False))}
        return {}


def name_cells(rows):
    """Return cell -> accuracy from a table's rows (pair, accuracy of each of `METHODS`)."""
    return {
        f"{pair},{method}": accuracy
        for pair, *accuracies in rows
        for method, accuracy in zip(METHODS, accuracies, strict=True)
    }


def pick(kind, received, known):
    """Return `received` if it is one of `known`.

    Raises:
        LookupError: otherwise, with the near ones.
    """
    if received in known:
        return received
    from keras_sdd._checks import find_near  # brings Keras, which only an error may do

    near = find_near(received, known, cutoff=0.5)  # names of networks share many letters
    raise LookupError(f"Unknown {kind}. Near: {'; '.join(near)}. Received: {received!r}")


def _to_config(values, smoke):
    values = {"num_examples": None, "data_dir": None, "smoke": smoke, **values}
    if smoke:
        values |= _SMOKE
        for role in ("teacher", "student"):
            if role in values:
                family, name = values[role].split("/")
                values[role] = f"{family}/{_SMALL.get(name, name)}"
        if "teacher_checkpoint" in values:
            values["teacher_checkpoint"] = ""  # a teacher of random weights
    optional = {"num_examples": int, "data_dir": str, "teacher_dtype": str, "teacher_cache": str}
    optional |= {"paper_accuracy": float, "paper_top5_accuracy": float}
    for key in optional.keys() & values.keys():  # typed, so that flags can set them
        kind = optional[key]
        reference = config_dict.placeholder(kind)
        reference.set(values[key])
        values[key] = reference
    return config_dict.ConfigDict(values).lock()
