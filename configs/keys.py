"""The keys of configs: what each says, and its value unless a config file has another.

`python examples/list_keys.py` prints all of them, and --help of the programs those of a --config.
"""

import dataclasses
import typing

OF_THE_FILE = object()  # no default: every config file has a value of its own


@dataclasses.dataclass(frozen=True)
class Key:
    """A key of configs.

    Attributes:
        text: what it says.
        default: its value where a config file has none, or `OF_THE_FILE`.
        kind: the type of its values where it may be None too, so that flags can set it.
    """

    text: str
    default: typing.Any = OF_THE_FILE
    kind: type | None = None


WHAT = {
    "cell": Key("Name of the experiment, FILE:ARGUMENT of `get_config`."),
    "method": Key("A method of configs/methods.py, a sum of such, or `ce`, labels only."),
    "reading": Key("`official`, the authors' code, or `paper`, the text where it differs."),
    "smoke": Key("Whether this is the small form, on data made on the spot.", False),
    "table": Key("The table that has the cell, or nothing."),
    "paper_accuracy": Key("Top-1 accuracy that the table has, in percent.", None, float),
    "paper_top5_accuracy": Key("Top-5 accuracy that the table has, in percent.", None, float),
}
DATA = {
    "dataset": Key("A name of `keras_sdd.data.load`, or an `.npz` file of your own."),
    "data_dir": Key("Folder of the prepared data sets; None for TFDS's own.", None, str),
    "num_classes": Key("Classes; None for what the file has.", kind=int),
    "image_size": Key("Height and width of the images; None for those of the file.", kind=int),
    "num_examples": Key("Training images to use, the first ones; None for all.", None, int),
    "validation_examples": Key("Training images that are held out to choose the best epoch."),
    "validation_seed": Key("Seed that chooses the images that are held out.", 0),
    "protocol": Key(
        "`validation`, or `authors`: the best epoch is chosen on test images.", "validation"
    ),
    "test": Key("Whether test images are read, once, at the end; tuning leaves them alone.", True),
    "augment": Key("Whether training images are cropped and flipped at random.", True),
}
TRAINING = {
    "student": Key(
        "The network to train, of `keras_sdd.models`, or a `.keras` file for its architecture."
    ),
    "seed": Key("Seed of weights, order and augmentation.", 0),
    "epochs": Key("Passes over the training images."),
    "batch_size": Key("Images of a step, on all devices together."),
    "eval_batch_size": Key("Images of a batch in evaluation.", 256),
    "learning_rate": Key("Learning rate of SGD in the first epoch."),
    "milestones": Key("Epochs after which the learning rate falls."),
    "learning_rate_factor": Key("What each milestone multiplies the learning rate by.", 0.1),
    "momentum": Key("Momentum of SGD.", 0.9),
    "weight_decay": Key("Factor of the weights that are added to the gradient."),
    "global_clipnorm": Key("Norm to which all gradients together are clipped; 0 for none."),
    "save_epochs": Key("Epochs from one state to the next, of which a killed run goes on.", 1),
}
MACHINE = {
    "dtype_policy": Key("Keras's policy of precision, as `mixed_bfloat16`.", "float32"),
    "jit_compile": Key(
        "`true`, `false`, or `auto`: Keras's choice, but `false` where XLA slows convolutions.",
        "auto",
    ),
    "steps_per_execution": Key("Steps of one call of the compiled function.", 1),
    "deterministic": Key(
        "Whether kernels give the same bits every time; those of GPUs are slower.",
        False,
    ),
}
DISTILLATION = {
    "teacher": Key("Name of the teacher's network in `keras_sdd.models`."),
    "teacher_checkpoint": Key("The teacher's `.keras` file, or the original's PyTorch checkpoint."),
    "fold_teacher": Key("Whether the teacher's batch norms become part of its convolutions.", True),
    "teacher_dtype": Key("What the teacher computes in, as `bfloat16`; or None.", None, str),
    "teacher_cache": Key(
        "Folder of the teacher's cells, computed once; needs augment=False.", None, str
    ),
    "labelled_examples": Key(
        "Training images whose label is used, the first ones; None for all.", None, int
    ),
    "student_loss_weight": Key("Weight of the loss on the labels."),
    "terms": Key("Rows of the other terms of the loss, by their names in the logs."),
}
# Only in configs that a program makes, so that the others stay those of earlier runs.
FOLDERS = {"raw_images": Key("Whether networks take images as bytes, and normalize them.")}
STUDY = {
    "name": Key("Name of the study."),
    "experiments": Key("Config file of its runs, without `.py`."),
    "pairs": Key("TEACHER,STUDENT of that file, each with runs of its own."),
    "methods": Key("The arms: methods of configs/methods.py, sums of such, and `ce`."),
    "variants": Key(
        "Further arms: name -> `method`, changed keys, and `against`, by default the method.",
        {},
    ),
    "seeds": Key("Runs of every arm.", 5),
    "teachers": Key(
        "Files of teachers, one for all pairs or for each; empty for those that it trains.",
        (),
    ),
    "trials": Key("Trials to tune the weights of an arm in, on validation images; 0 for none.", 0),
    "settings": Key("Changed keys of the configs of students.", {}),
    "data.dataset": Key(
        "The key `dataset` of teachers and students; empty for the config file's.", ""
    ),
    "data.data_dir": Key("The key `data_dir`, likewise.", ""),
    "data.validation_examples": Key(
        "The key `validation_examples`, likewise; 0 for the file's.", 0
    ),
}
GROUPS = {
    "What the experiment is": WHAT,
    "Data": DATA,
    "Training": TRAINING,
    "What computes": MACHINE,
    "Distillation": DISTILLATION,
    "Folders of images, examples/distill_images.py": FOLDERS,
    "Studies, configs/studies.py": STUDY,
}
EXPERIMENT = WHAT | DATA | TRAINING | MACHINE
KEYS = EXPERIMENT | DISTILLATION | FOLDERS | STUDY
# Of the row of a term, and of that of a loss within it; all others are arguments of the class.
OF_ROWS = {
    "term": "A class in `keras_sdd.terms`.",
    "name": "A class in `keras_sdd.losses`.",
    "weight": "Weight of the term in the loss.",
    "warmup_epochs": "Epochs in which the weight grows to that from 0.",
}


def list_defaults(keys):
    """Return the defaults of those keys that have one."""
    return {name: x.default for name, x in keys.items() if x.default is not OF_THE_FILE}


def explain(config):
    """Return what the keys of a config say: key -> (value, text), terms argument by argument."""
    found: dict = {}
    for name, key in KEYS.items():
        value = config
        for part in name.split("."):
            value = value.get(part, OF_THE_FILE) if hasattr(value, "get") else OF_THE_FILE
        if value is OF_THE_FILE:
            continue
        found |= _explain_row(name, value) if name == "terms" else {name: (value, key.text)}
    return found


def _explain_row(place, row):
    """Return the same of a term, of all terms, or of a loss."""
    kind = f"terms.{row['term']}" if "term" in row else f"losses.{row.get('name')}"
    found: dict = {}
    for name, value in row.items():
        key = f"{place}.{name}"
        if hasattr(value, "items"):
            found |= _explain_row(key, value)
        else:
            found[key] = value, OF_ROWS.get(name, f"Argument of `keras_sdd.{kind}`.")
    return found
