"""Convert a PyTorch checkpoint of one of the library's networks to a `.keras` file.

    python examples/convert_checkpoint.py --model=cifar100/resnet32x4 \\
        --checkpoint=resnet32x4.pth --output=resnet32x4.keras
"""

import keras
from absl import app, flags

from keras_sdd import converters, models

_MODEL = flags.DEFINE_string("model", None, "Network, for example cifar100/resnet32x4.")
_CHECKPOINT = flags.DEFINE_string("checkpoint", None, "The .pth file to read.")
_OUTPUT = flags.DEFINE_string("output", None, "The .keras file to write.")
_NUM_CLASSES = flags.DEFINE_integer(
    "num_classes", None, "Number of logits; by default that of the network's data set."
)
_IMAGE_SIZE = flags.DEFINE_integer(
    "image_size", None, "Height and width of the RGB images; by default the data set's."
)
_DATA_FORMAT = flags.DEFINE_enum(
    "data_format", None, ["channels_last", "channels_first"], "By default the Keras setting."
)
flags.mark_flags_as_required(["model", "checkpoint", "output"])


def convert_checkpoint(name, checkpoint, output, num_classes, image_size, data_format):
    """Read `checkpoint` into the network `name` and save it as `output`."""
    data_format = data_format or keras.config.image_data_format()
    shape = None
    if image_size is not None:
        shape = (image_size, image_size, 3)
        if data_format == "channels_first":
            shape = (3, image_size, image_size)
    model = models.build(name, num_classes, shape, data_format)
    converters.load_torch_state_dict(model, checkpoint)
    model.save(output)
    return model


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments: {argv[1:]}")
    model = convert_checkpoint(
        _MODEL.value,
        _CHECKPOINT.value,
        _OUTPUT.value,
        _NUM_CLASSES.value,
        _IMAGE_SIZE.value,
        _DATA_FORMAT.value,
    )
    print(f"{_OUTPUT.value}: {model.name}, {model.count_params():,} weights, moving ones included")


if __name__ == "__main__":
    app.run(main)
