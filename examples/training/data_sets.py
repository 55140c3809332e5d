"""The data sets of an experiment."""

from configs import recipes
from keras_sdd import data
from training import term_rows
from training.command_line import SetupError


def load_data(config):
    """Return the data sets for training and for choosing the best epoch.

    No image of the test set is among them, unless the config's protocol is the authors'.
    """
    options = {"augment": config.augment, "num_examples": config.num_examples}
    options["labelled_examples"] = config.get("labelled_examples")
    try:
        options["with_ids"] = has_cache(config) or term_rows.need_ids(config)
        if recipes.pick("protocol", config.protocol, recipes.PROTOCOLS) == "authors":
            return load_split(config, "train", **options), load_test_data(config)
        held = {name: config[name] for name in ("validation_examples", "validation_seed")}
        return load_split(config, "train", **options, **held), load_split(
            config, "validation", **held
        )
    except LookupError as error:
        raise SetupError(error) from error


def load_test_data(config):
    """Return the data set of the test images."""
    return load_split(config, "test", num_examples=config.num_examples if config.smoke else None)


def load_images(config, split, dtype="float32"):
    """Return the images of a split as they are tested, without augmentation; uint8 are raw."""
    held = ("validation_examples", "validation_seed") if split != "test" else ()
    options = {"dtype": dtype} | {name: config[name] for name in held}
    if split == "train" or (config.smoke and split == "test"):
        options["num_examples"] = config.num_examples
    return load_split(config, split, augment=False, shuffle=False, **options)


def load_split(config, split, **options):
    """Return a split of the data set of a config; `options` are of `keras_sdd.data.load`."""
    batch_size = config.batch_size if split == "train" else config.eval_batch_size
    names = ("seed", "num_classes", "image_size", "data_dir")
    # A config has the key only where networks hold their own normalization.
    raw = {"dtype": "uint8"} if config.get("raw_images") else {}
    try:
        options = raw | options | {name: config[name] for name in names}
        return data.load(config.dataset, split, batch_size, **options)
    except (OSError, ImportError, ValueError) as error:
        raise SetupError(error) from error


def has_cache(config):
    """Whether the teacher's cells are computed once and kept."""
    return config.method != "ce" and bool(config.teacher_cache)
