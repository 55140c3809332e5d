"""The terms of a loss, made from the rows of a config; a new loss or term needs no change here.

A row names a class and its arguments. `"term"` is a class in `keras_sdd.terms`; a loss is a row of
its own, whose `"name"` is a class in `keras_sdd.losses`, and may hold other losses. What ends in
`_epochs`, as `warmup_epochs`, becomes `_steps`.
"""

import inspect

from configs import recipes
from keras_sdd import losses, terms


def build_terms(config, steps_per_epoch, num_samples):
    """Build the terms of a config, named as its rows, for an epoch of that many samples.

    Raises:
        LookupError: for an unknown class or argument, with the near ones.
    """
    # What a term may ask of an experiment.
    known = {"num_samples": num_samples, "batch_size": config.batch_size}
    rows = config.terms.to_dict()
    return [_build_term(name, row, known, steps_per_epoch) for name, row in rows.items()]


def need_ids(config):
    """Whether a term of a config tells the images of the data set from each other."""
    if config.method == "ce":
        return False
    kinds = [_find(terms, "term", row["term"]) for row in config.terms.to_dict().values()]
    return any(kind.needs_ids for kind in kinds)


def build_loss(row):
    """Build a loss from its row, and those within it; what is no row is returned as it is."""
    if isinstance(row, dict):
        arguments = {key: build_loss(value) for key, value in row.items() if key != "name"}
        return _build(_find(losses, "loss", row["name"]), arguments)
    return tuple(map(build_loss, row)) if isinstance(row, (list, tuple)) else row


def _build_term(name, row, known, steps_per_epoch):
    kind = _find(terms, "term", row["term"])
    arguments = {key: build_loss(value) for key, value in row.items() if key != "term"}
    known = {key: known[key] for key in known.keys() & inspect.signature(kind).parameters}
    return _build(kind, known | {"name": name} | arguments, steps_per_epoch)


def _build(kind, arguments, steps_per_epoch=1):
    """Call a class with arguments that are named as in a row."""
    parameters = {x.replace("_steps", "_epochs"): x for x in inspect.signature(kind).parameters}
    named = {}
    for key, value in arguments.items():
        recipes.pick(f"argument of {kind.__name__}", key, parameters, "its signature")
        named[parameters[key]] = value * steps_per_epoch if key.endswith("_epochs") else value
    return kind(**named)


def _find(module, role, name):
    return getattr(module, recipes.pick(role, name, module.__all__, module.__name__))
