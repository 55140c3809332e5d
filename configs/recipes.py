"""What the configs share: pairs with methods, the two readings of the paper, the smoke form.

Configs are data. They import neither Keras nor a backend, so that building all of them is instant.
"""

import dataclasses

from ml_collections import config_dict

from configs import keys, methods

READINGS = tuple(methods.READINGS)
# Which images the best epoch is chosen on: some that are held out of the training images, or, as
# in the authors' programs, the test images.
PROTOCOLS = ("validation", "authors")

# What training on small images has in common, in the public programs and in our own studies.
SGD = {"batch_size": 64, "learning_rate": 0.05, "weight_decay": 5e-4}
KD = {"temperature": 4.0, "kd_label_weight": 0.1, "kd_weight": 0.9}
# Few images made on the spot, one training step an epoch.
_SMOKE = {
    "dataset": "synthetic",
    "num_classes": 10,
    "image_size": 32,
    "num_examples": 16,
    "validation_examples": 16,
    "batch_size": 16,
    "eval_batch_size": 16,
    "epochs": 1,
    "milestones": (1,),
}
_SMOKE_SETTINGS = {"crd_num_negatives": 4}
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
        recipe: how networks are trained on the data set; `validation_examples` of its training
            images are held out.
        settings: values of `methods.Setting`.
        networks: network -> the settings in which training it differs from the recipe; `student`
            among them is its name in `keras_sdd.models`, for one of another family.
        pairs: `"TEACHER,STUDENT"` -> values of `methods.Setting` that are its own: the scales of
            the SD forms, beta of SD-DKD, `plain_beta` of DKD where that differs, ...
        tables: table -> cell (an argument of `get_config`) -> the paper's top-1, (top-1, top-5),
            "-" where it prints that, or None.
        refused: method -> pairs that its term does not fit.
    """

    name: str
    family: str
    recipe: dict
    settings: dict
    networks: dict
    pairs: dict
    tables: dict
    refused: dict = dataclasses.field(default_factory=dict)

    def get_config(self, arg, reading="official", smoke=False):
        """Return the config of the experiment `arg`.

        Args:
            arg: `"TEACHER,STUDENT,METHOD"`, or `"NETWORK"` to train with labels only;
                `"TEACHER,STUDENT,ce"` means `"STUDENT"`. METHOD is a key of `methods.METHODS`, or
                a sum of such, as `sd_kd+sp`.
            reading: one of `READINGS`.
            smoke: whether to give the small form, on data made on the spot.

        Raises:
            LookupError: for an unknown pair, network, method or reading, with the near ones.
        """
        pick("reading", reading, READINGS)
        words = arg.split(",")
        if words[2:] and words[2:] != ["ce"]:
            find_methods(",".join(words[2:]))
        if words[2:]:
            pick("pair", ",".join(words[:2]), self.pairs, f"configs/{self.name}.py")
        if words[2:] == ["ce"]:
            words = [words[1]]
        if len(words) == 1:
            kind = "network or TEACHER,STUDENT,METHOD"
            pick(kind, words[0], self.networks, f"configs/{self.name}.py")
            values = self._train_with_labels(words[0], reading)
        else:
            if len(words) == 2:
                raise LookupError(
                    f"Add a method, as in {arg},sd_kd, one of {', '.join(methods.METHODS)} and ce, "
                    f"or a sum, as sd_kd+sp. Received: {arg!r}"
                )
            values = self._distil(*words, reading, smoke)
        return _to_config(values, smoke)

    def has_code(self, arg):
        """Whether the experiment of a cell can be run."""
        teacher, student, method = arg.split(",")
        return all(
            part in methods.METHODS and f"{teacher},{student}" not in self.refused.get(part, ())
            for part in method.split("+")
        )

    def list_unpublished(self, arg, reading="official"):
        """Return the names of the settings of a cell for which no author gives a value."""
        teacher, student, method = arg.split(",")
        settings = self._collect_settings(teacher, student, reading)
        parts = [methods.METHODS[part] for part in find_methods(method)]
        return sorted({name for part in parts for name in find_choices(part, settings, self.name)})

    def _train_with_labels(self, network, reading):
        return {
            **keys.list_defaults(keys.EXPERIMENT),
            **self.recipe,
            "student": f"{self.family}/{network}",
            **self.networks[network],
            **self._find_figures(network),
            "cell": f"{self.name}:{network}",
            "method": "ce",
            "reading": reading,
            "global_clipnorm": 40.0 if reading == "official" else 0.0,
        }

    def _distil(self, teacher, student, method, reading, smoke):
        arg = f"{teacher},{student},{method}"
        settings = self._collect_settings(teacher, student, reading)
        return {
            **self._train_with_labels(student, reading),
            **keys.list_defaults(keys.DISTILLATION),
            **self._find_figures(arg),
            "cell": f"{self.name}:{arg}",
            "method": method,
            "teacher": self.networks[teacher].get("student", f"{self.family}/{teacher}"),
            "teacher_checkpoint": f"teachers/{self.name}/{teacher}.keras",
            **add_methods(method, settings | (_SMOKE_SETTINGS if smoke else {})),
        }

    def _collect_settings(self, teacher, student, reading):
        return methods.READINGS[reading] | self.settings | self.pairs[f"{teacher},{student}"]

    def _find_figures(self, arg):
        """Return the table that holds a cell, and the paper's accuracies for it in percent."""
        names = ("paper_accuracy", "paper_top5_accuracy")
        table = next((table for table, cells in self.tables.items() if arg in cells), "")
        figures = list_figures(self.tables[table][arg]) if table else ()
        return {"table": table} | dict(zip(names, (*figures, None, None), strict=False))


def find_methods(name):
    """Return the parts of a method's name, `a+b` or `a`.

    Raises:
        LookupError: for an unknown one, with the near ones.
    """
    parts = name.split("+")
    return [pick("method", part, methods.METHODS, "configs/methods.py") for part in parts]


def add_methods(name, settings):
    """Return `terms` and `student_loss_weight` of a method, or of a sum of methods.

    A sum has the terms of its parts with the weights that they have there, and the labels weigh as
    where they weigh most: feature methods, and the sums that authors publish, have them at 1, and
    their terms' weights are meant beside that. KD alone has 0.1 and 0.9.

    Raises:
        LookupError: for an unknown method, and for parts with terms of the same name.
    """
    parts = find_methods(name)
    rows = [resolve(methods.METHODS[part], settings) for part in parts]
    terms: dict = {}
    for row in rows:
        shared = terms.keys() & row["terms"].keys()
        if shared:
            raise LookupError(
                f"Methods are added that have a term of the same name each, {shared.pop()}; terms "
                f"are logged by name. Received: {name!r}"
            )
        terms |= row["terms"]
    for term, changes in methods.SUMS.get(frozenset(parts), {}).items():
        terms[term] = terms[term] | resolve(changes, settings)
    return {"student_loss_weight": max(row["label_weight"] for row in rows), "terms": terms}


def resolve(value, settings):
    """Return a row with the values of its settings in their place."""
    if isinstance(value, methods.Setting):
        return resolve(settings.get(value.name, value.default), settings)
    if isinstance(value, dict):
        return {key: resolve(x, settings) for key, x in value.items()}
    return tuple(resolve(x, settings) for x in value) if isinstance(value, tuple) else value


def find_choices(value, settings, data_set):
    """Yield the names of a row's settings whose value for a data set is a choice of ours."""
    if isinstance(value, methods.Setting):
        given = value.name in settings or isinstance(value.default, methods.Setting)
        if given:
            yield from find_choices(settings.get(value.name, value.default), settings, data_set)
        elif data_set not in value.published:
            yield value.name
    elif isinstance(value, (dict, tuple)):
        for x in value.values() if isinstance(value, dict) else value:
            yield from find_choices(x, settings, data_set)


def list_figures(figure):
    """Return a table's figure as a tuple: of top-1, of top-1 and top-5, or of nothing."""
    if figure is None or figure == "-":
        return ()
    return figure if isinstance(figure, tuple) else (figure,)


def name_cells(pairs, rows, file=""):
    """Return cell -> accuracy from a table's pairs, and its rows, method -> accuracies of pairs."""
    prefix = f"{file}:" if file else ""
    return {
        f"{prefix}{pair},{method}": accuracy
        for method, accuracies in rows.items()
        for pair, accuracy in zip(pairs, accuracies, strict=True)
    }


def pick(kind, received, known, listed_in=None):
    """Return `received` if it is one of `known`, all of which are in `listed_in`.

    Raises:
        LookupError: otherwise, with the near ones.
    """
    if received in known:
        return received
    from keras_sdd._checks import find_near  # brings Keras, which only an error may do

    near = find_near(received, known, cutoff=0.5)  # names of networks share many letters
    near = "; ".join(near) or "none"
    where = f" All: {listed_in}." if listed_in else ""
    raise LookupError(f"Unknown {kind}. Near: {near}.{where} Received: {received!r}")


def _to_config(values, smoke):
    values["smoke"] = smoke
    if smoke:
        values |= _SMOKE
        for role in ("teacher", "student"):
            if role in values:
                family, name = values[role].split("/")
                values[role] = f"{family}/{_SMALL.get(name, name)}"
        if "teacher_checkpoint" in values:
            values["teacher_checkpoint"] = ""  # a teacher of random weights
    for name in values:
        kind = keys.KEYS[name].kind
        if kind:  # typed, so that flags can set what is None
            reference = config_dict.placeholder(kind)
            reference.set(values[name])
            values[name] = reference
    return config_dict.ConfigDict(values).lock()
