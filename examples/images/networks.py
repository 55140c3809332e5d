"""Networks for photos, by name: whatever a network expects of pixels is done inside it.

All of them take raw RGB of 0 to 255, so that files on devices and programs that read them need to
know nothing of means and scales.
"""

import inspect
import warnings

import keras
from keras import layers
from training.command_line import SetupError

from configs import recipes
from keras_sdd import models

_MOMENTUM = 0.9  # of batch norms: those of keras.applications are for ten thousands of steps


def list_applications():
    """Return the names of the classifiers of keras.applications."""
    return [name for name, _ in inspect.getmembers(keras.applications, inspect.isfunction)]


def check_name(name, flag):
    """Return a network's name as its own library writes it.

    Args:
        name: of keras.applications, in any case and with underscores or not, or of
            `keras_sdd.models`, with a slash; or a `.keras` file, which is returned as it is.
        flag: that gave it.

    Raises:
        SetupError: for an unknown one, with the near ones.
    """
    if name.endswith(".keras"):
        return name
    known = {_simplify(x): x for x in list_applications()}
    try:
        if "/" in name:
            return recipes.pick(f"network for --{flag}", name, models.MODELS)
        if _simplify(name) not in known:
            recipes.pick(f"network for --{flag}", name, [x.lower() for x in list_applications()])
    except LookupError as error:
        raise SetupError(
            f"{error}. Names are those of keras.applications, as mobilenet_v3_small, those of "
            "keras_sdd.models, as cifar100/resnet8, or .keras files."
        ) from error
    return known[_simplify(name)]


def _simplify(name):
    return name.replace("_", "").lower()


def build_classifier(name, num_classes, image_size):
    """Build a network of raw pixels, with ImageNet's weights where they can be had.

    Args:
        name: as `check_name` returned it, no file.
        num_classes: of the head, which is new.
        image_size: height and width.

    Returns:
        The network, and a sentence that says which weights it starts from.

    Raises:
        SetupError: if there is no such network for images of this size.
    """
    inputs = keras.Input((image_size, image_size, 3), name="pixels")
    if "/" in name:
        scaled = layers.Rescaling(1 / 127.5, -1.0)(inputs)
        network = models.build(name, num_classes, inputs.shape[1:])
        return _finish(inputs, network(scaled), name), "from scratch"
    try:
        body, weights = _build_body(name, tuple(inputs.shape[1:]))
    except ValueError as error:
        raise SetupError(
            f"{name} cannot be built for images of {image_size} pixels; give another --image_size. "
            f"{error}"
        ) from error
    features = body(_find_preprocessing(name)(inputs))
    if len(features.shape) == 4:
        features = layers.GlobalAveragePooling2D(name="pooling")(features)
    outputs = layers.Dense(num_classes, name="logits")(features)
    return _finish(inputs, outputs, name), weights


def _finish(inputs, outputs, name):
    return keras.Model(inputs, outputs, name=name.replace("/", "_").lower())


def _build_body(name, image_shape):
    build = getattr(keras.applications, name)
    options = {"include_top": False, "input_shape": image_shape}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the weights are those of 224 pixels: they fit others
            body, weights = build(weights="imagenet", **options), "from ImageNet's weights"
    except Exception as error:  # of the network, of a server, of a file: whatever it is
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        body = build(weights=None, **options)
        weights = f"from scratch, as ImageNet's weights cannot be had: {reason}"
    for layer in body.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.momentum = _MOMENTUM
    return body, weights


def _find_preprocessing(name):
    """The function of the module of keras.applications that a network belongs to."""
    modules = dict(inspect.getmembers(keras.applications, inspect.ismodule))
    own = [x for x in modules if hasattr(modules[x], name) and x != "imagenet_utils"]
    # Keras 3.15 does not list MobileNetV3 in its own module.
    own = own or [x for x in modules if _simplify(name).startswith(_simplify(x))]
    return modules[max(own, key=len)].preprocess_input


def is_pretrained(weights):
    """Whether the sentence of `build_classifier` says so."""
    return weights.startswith("from ImageNet")


def load_classifier(path, num_classes, image_size, load):
    """Load a `.keras` file and check that it takes these images.

    Args:
        path: of the file.
        num_classes, image_size: what it must have.
        load: function from the path to the network.

    Returns:
        The network; one for images of any size with this size.

    Raises:
        SetupError: if it takes other images, or tells other classes apart.
    """
    network = load(path)
    expected, received = (None, image_size, image_size, 3), network.input_shape
    fits = len(received) == 4 and all(
        x in (None, y) for x, y in zip(received, expected, strict=True)
    )
    if not fits:
        square = len(received) == 4 and received[1] == received[2] and received[3] == 3
        remedy = f"pass --image_size={received[1]}" if square else "take one of square RGB images"
        raise SetupError(f"{path} takes images of {received[1:]}, not {expected[1:]}; {remedy}.")
    if network.output_shape[-1] != num_classes:
        raise SetupError(
            f"{path} tells {network.output_shape[-1]} classes apart, and --images has "
            f"{num_classes} class folders."
        )
    if None in received[1:]:
        pixels = keras.Input(expected[1:], name="pixels")
        network = keras.Model(pixels, network(pixels))
    return network
