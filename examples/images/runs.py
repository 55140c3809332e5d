"""Teacher, student with labels only and distilled student, trained on the same images in turn.

networks/teacher.keras, student.keras   what training starts from; both students from the same
networks/networks.json                  where their weights are from
runs/teacher, labels, distilled         runs as those of the other trainers, which go on when killed
"""

import json
import statistics
import time

import keras
import numpy as np
from training import data_sets, experiment, machine, measures, networks, records
from training.command_line import SetupError

import keras_sdd
from configs import own_data, recipes
from images import networks as image_networks

TEACHER, LABELS, DISTILLED = "teacher", "labels", "distilled"
SCALES = (1, 2, 4)
_BATCH_SIZE = 32
_RATE, _RATE_OF_PRETRAINED = 0.05, 0.01
_MILESTONES = (0.6, 0.8, 0.925)  # of the epochs


class ShowTimeLeft(keras.callbacks.Callback):
    """Print after every epoch how many are done, and about how long all runs will still take.

    Runs that have not begun are thought to be as slow as the slowest epoch that was seen.

    Args:
        name: of the run.
        done, later: epochs of the runs before and after it.
        slowest: seconds of the slowest epoch of the runs before.
    """

    def __init__(self, name, done, later, slowest=0.0):
        super().__init__()
        self.name, self.done, self.later, self.slowest = name, done, later, slowest
        self.seconds = []

    def on_epoch_begin(self, epoch, logs=None):
        self.started = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        self.seconds.append(time.perf_counter() - self.started)
        own = statistics.median(self.seconds)
        epochs = self.params["epochs"]
        left = (epochs - epoch - 1) * own + self.later * max(own, self.slowest)
        all_epochs = self.done + epochs + self.later
        print(
            f"{self.name}: epoch {epoch + 1} of {epochs}, {self.done + epoch + 1} of {all_epochs} "
            f"in all; about {format_time(left)} left",
            flush=True,
        )


def format_time(seconds):
    """Return seconds as people say them."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def setup_devices():
    """Set the devices up for all runs, before a network is built on one; return them."""
    return machine.setup_devices(own_data.get_config(next(iter(own_data.NETWORKS))))


def prepare_networks(output, teacher, student, num_classes, size):
    """Write the networks that training starts from, once.

    Args:
        output: folder of the program.
        teacher, student: names as `networks.check_name` returned them, or files. A teacher's
            file is taken as it is, of a student's the architecture.
        num_classes, size: of the images.

    Returns:
        dict of `teacher` and `student` to sentences on their weights.

    Raises:
        SetupError: as `networks.build_classifier`.
    """
    folder = output / "networks"
    written = folder / "networks.json"
    if written.exists():
        return records.read_json(written)
    folder.mkdir(exist_ok=True)
    weights = {}
    for role, name in (("teacher", teacher), ("student", student)):
        keras.utils.set_random_seed(0)
        if not name.endswith(".keras"):
            network, weights[role] = image_networks.build_classifier(name, num_classes, size)
        else:
            network, weights[role] = _read_file(name, num_classes, size), f"as in {name}"
            if role == "student":
                network = keras.models.clone_model(network)
                weights[role] = f"from scratch, built as in {name}"
        print(f"The {role}, {name}: {weights[role]}.", flush=True)
        network.save(folder / f"{role}.keras")
    records.write_json(written, weights)
    return weights


def _read_file(path, num_classes, size):
    return image_networks.load_classifier(
        path, num_classes, size, lambda file: networks.load_network(file, None, file, None)
    )


def load(path):
    """Load a network of the program's own."""
    return keras.saving.load_model(path, compile=False)


def make_configs(output, teacher, student, weights, epochs, counts):
    """Return the configs of the runs, in their order: name -> config.

    Args:
        output: folder of the program.
        teacher, student: names or files of the networks.
        weights: as of `prepare_networks`.
        epochs: of each run.
        counts: of the images, as of `arrays.prepare_images`.
    """
    recipe = own_data.RECIPE | {
        "dataset": str(output / "images.npz"),
        "validation_examples": sum(counts["validation"]),
        "num_examples": sum(counts["train"]),
        "batch_size": _BATCH_SIZE,
        "epochs": epochs,
        "milestones": tuple(sorted({max(1, round(part * epochs)) for part in _MILESTONES})),
        "augment": True,
        "raw_images": True,
        "test": False,
    }
    networks = {
        role: {"student": name, "learning_rate": _choose_rate(weights[role])}
        for role, name in (("teacher", teacher), ("student", student))
    }
    scales = _choose_scales(output)
    experiments = recipes.Experiments(
        "images",
        "",
        recipe,
        own_data.SETTINGS,
        networks,
        {"teacher,student": {"scales": scales}},
        {},
    )
    configs = {TEACHER: experiments.get_config("teacher")} if _is_trained(teacher) else {}
    configs[LABELS] = experiments.get_config("student")
    configs[DISTILLED] = experiments.get_config("teacher,student,sd_kd")
    if counts["unlabelled"]:
        configs[DISTILLED].labelled_examples = sum(counts["train"])
        configs[DISTILLED].num_examples = sum(counts["train"]) + counts["unlabelled"]
    return configs


def _is_trained(teacher):
    """Whether the teacher has to be trained first."""
    return not teacher.endswith(".keras")


def _choose_rate(weights):
    return _RATE_OF_PRETRAINED if image_networks.is_pretrained(weights) else _RATE


def _choose_scales(output):
    """The scales whose cells are no finer than the maps of both networks."""
    sides = []
    for role in ("teacher", "student"):
        network = load(output / "networks" / f"{role}.keras")
        try:
            maps = keras_sdd.expose_spatial_logits(network).output["spatial_logits"]
        except ValueError as error:  # the library says what is in the way
            raise SetupError(f"The {role} has no regions to distil. {error}") from error
        sides.append(maps.shape[1])
    scales = tuple(m for m in SCALES if m <= min(sides))
    if scales == (1,):
        print(
            "The networks end in maps of one position: no region is smaller than the image, so "
            "that this is plain distillation. A larger --image_size gives regions."
        )
    return scales


def find_networks(output, configs):
    """Return the files of the trained networks: name -> path, the teacher's first."""
    files = {name: output / "runs" / name / "best.keras" for name in configs}
    return {TEACHER: output / "networks" / "teacher.keras"} | files


def check_teacher(path, config, classes):
    """Raise a SetupError if a teacher knows no more of the validation images than chance."""
    images = data_sets.load_split(
        config, "validation", validation_examples=config.validation_examples
    )
    labels, logits = measures.predict_all(
        {TEACHER: measures.make_predictor(load(path), False)}, images
    )
    right = float(np.mean(np.argmax(logits[TEACHER], axis=-1) == labels))
    chance = float(np.bincount(labels).max() / len(labels))  # who always says the same
    print(f"The teacher is right in {right:.1%} of {len(labels)} validation images.", flush=True)
    if right > chance + (chance * (1.0 - chance) / len(labels)) ** 0.5:
        return
    raise SetupError(
        f"The teacher is right in {right:.1%} of the validation images, which is chance: nothing "
        f"can be learned from it. It must take raw pixels of 0 to 255 and give the classes in the "
        f"order of their folders: {', '.join(classes)}. If it was trained on scaled pixels, put "
        "the scale into it, for example of 0 to 1:\n"
        "  network = keras.saving.load_model(FILE)\n"
        "  pixels = keras.Input(network.input_shape[1:])\n"
        "  outputs = network(keras.layers.Rescaling(1 / 255)(pixels))\n"
        '  keras.Model(pixels, outputs).save("teacher.keras")'
    )


def train_all(output, configs, devices, classes):
    """Do the runs that are not finished; return the files of `find_networks`."""
    files = find_networks(output, configs)
    if TEACHER not in configs:
        check_teacher(files[TEACHER], configs[LABELS], classes)
    names, slowest = list(configs), 0.0
    for i, name in enumerate(names):
        done = sum(configs[x].epochs for x in names[:i])
        later = sum(configs[x].epochs for x in names[i + 1 :])
        clock = ShowTimeLeft(name, done, later, slowest)
        workdir = output / "runs" / name
        build = _make_builder(output, configs[name], name, files[TEACHER])
        result = experiment.run(configs[name], workdir, devices, build, [clock])
        print(f"{name}: {result['best_validation_accuracy']:.2f} % of the validation images")
        slowest = max(slowest, *(row["seconds"] for row in records.read_log(workdir)))
    return files


def _make_builder(output, config, name, teacher):
    """The function that `experiment.run` builds with."""

    def build_model(image_shape, *counts):
        role = "teacher" if name == TEACHER else "student"
        network = load(output / "networks" / f"{role}.keras")
        if name != DISTILLED:
            return network, network
        return networks.build_distiller(config, load(teacher), network, *counts), network

    return build_model


def describe_runs(output, configs):
    """Return the results of the runs and what they ran on, for the page."""
    folders = {name: output / "runs" / name for name in configs}
    return {
        "results": {name: records.read_json(x / "result.json") for name, x in folders.items()},
        "versions": records.read_json(folders[DISTILLED] / "versions.json"),
        "settings": {name: json.loads(config.to_json()) for name, config in configs.items()},
    }
