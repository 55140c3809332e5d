"""What the program knows of several devices: whether they are set up, and for which models."""

import weakref

_started: list = []  # the `keras_sdd.distribution.Devices` of this program
_prepared: weakref.WeakSet = weakref.WeakSet()  # optimizers of the models that know of them


def note_started(devices):
    """Remember that devices are set up."""
    _started.append(devices)


def note_prepared(model):
    """Remember that a compiled model knows of them."""
    _prepared.add(model.optimizer)


def check_prepared(model):
    """Raise a RuntimeError if `model` is about to train on one of several devices by itself."""
    if any(x.num_devices > 1 for x in _started) and model.optimizer not in _prepared:
        raise RuntimeError(
            "Several devices are set up, of which this model does not know: call "
            f"devices.prepare(model) after every compile. Received: {model!r}"
        )
