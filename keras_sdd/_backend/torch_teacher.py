"""PyTorch: the parts of a classifier on Keras's tensors: its layouts, device and precision."""

import logging

import keras
import torch

from keras_sdd._backend.torch_modules import find_grid, find_logits, frozen, list_state, move_like
from keras_sdd._backend.torch_parts import find_parts
from keras_sdd._backend.torch_steps import MOST_BEFORE, are_close

_logger = logging.getLogger("keras_sdd")


class TorchTeacher:
    """A PyTorch classifier in parts, as functions of Keras's tensors. It changes nothing of it.

    Args:
        module: `torch.nn.Module`.
        image_shape: (H, W, C) or (C, H, W), as `data_format` says.
        features, classifier: of `find_parts`.
        mean, std: one number a channel.
        data_format: of images and maps.
        dtype: of what the parts give.

    Attributes:
        parts: `Parts`.
        map_shapes: of the maps that the body gives, without the batch axis; of a class token's
            that of all tokens (T, C).
        num_features: length of the pooled vector.
        num_classes: K.
    """

    def __init__(self, module, image_shape, features, classifier, mean, std, data_format, dtype):
        self.module = module
        self._channels_first = data_format == "channels_first"
        channels, *size = image_shape if self._channels_first else (image_shape[2], *image_shape)
        self._size = size[:2]
        self._mean, self._std = mean, std
        self._dtype = getattr(torch, dtype)
        self.parts = find_parts(module, (channels, *self._size), features, classifier)
        self.map_shapes = [tuple(x.shape[1:]) for x in self._give_maps(self.parts.maps)]
        _tell_device(module)
        self.num_features = self.parts.vector[0].numel()
        self.num_classes = self.parts.logits.shape[1]

    def share_state(self):
        """Parameters and buffers as Keras variables in the same memory, where devices are one."""
        return [
            keras.Variable(
                x.detach(),
                trainable=False,
                dtype=keras.backend.standardize_dtype(x.dtype),
                name=name.replace(".", "_"),
            )
            for name, x in list_state(self.module)
            if not x.dtype.is_complex
        ]

    def check(self, model):
        """Raise a ValueError if a Keras model of the parts does not give the module's logits."""
        shape = (2, *model.inputs[0].shape[1:])
        images = torch.rand(shape, generator=torch.Generator().manual_seed(0))
        images = keras.ops.convert_to_tensor(images)
        with frozen(self.module):
            wanted = find_logits(self.module(self._scale(images)))
            if are_close(model(images).to(wanted), wanted, 1e-4):
                return
        map_name, pooling, classifier = self.parts.names
        raise ValueError(
            f"The parts of {type(self.module).__name__} give other logits than the whole: "
            f"something between {map_name!r}, {pooling!r} and {classifier!r} is not what it seems. "
            "Name the submodules by features=... and classifier=..., or let "
            "keras_sdd.cache_outputs store what it gives"
        )

    def find_maps(self, images):
        """Images to the list of maps."""
        with frozen(self.module):
            maps = self.parts.body(self._scale(images))
            return [self._give(y, images) for y in self._give_maps(maps)]

    def pool(self, maps):
        """A map of any size to vectors (B, C')."""
        x = maps if self._channels_first else maps.permute(0, 3, 1, 2)
        if self.parts.layouts[-1] != "channels_first":
            x = x.permute(0, 2, 3, 1)
        if self.parts.layouts[-1] == "tokens":
            x = x.flatten(1, 2)
        with frozen(self.module):
            vectors = self.parts.pool(move_like(self.module, x))
            return self._give(vectors.flatten(1), maps)

    def classify(self, vectors):
        """(..., C') to (..., K)."""
        x = vectors.reshape(-1, *self.parts.vector.shape[1:])
        with frozen(self.module):
            logits = self._give(self.parts.classify(move_like(self.module, x)), vectors)
        return logits.reshape(*vectors.shape[:-1], -1)

    def _scale(self, images):
        """Images as the module takes them."""
        x = images if self._channels_first else images.permute(0, 3, 1, 2)
        mean, std = (x.new_tensor(v).reshape(-1, 1, 1) for v in (self._mean, self._std))
        return move_like(self.module, (x - mean) / std)

    def _give(self, x, like):
        return x.to(like.device, self._dtype)

    def _give_maps(self, maps):
        last = len(maps) - 1
        layouts = self.parts.layouts
        return [
            self._give_map(x, layout, i == last)
            for i, (x, layout) in enumerate(zip(maps, layouts, strict=True))
        ]

    def _give_map(self, x, layout, is_last):
        """What the module has as a map, in Keras's data format."""
        if layout == "tokens":
            if is_last and self.parts.kind == "token":
                return x
            given = range(MOST_BEFORE + 1) if not is_last else [self.parts.num_before]
            grids = [(n, find_grid(x.shape[1] - n, self._size)) for n in given]
            before, grid = next((y for y in grids if y[1]), (0, None))
            if grid is None:
                return x
            x = x[:, before:].unflatten(1, grid)
        elif layout == "channels_first":
            x = x.permute(0, 2, 3, 1)
        return x.permute(0, 3, 1, 2) if self._channels_first else x


def _tell_device(module):
    """Say so if a module computes elsewhere than Keras."""
    devices = {x.device.type for _, x in list_state(module)}
    here = keras.ops.zeros(()).device.type
    if devices - {here}:
        _logger.warning(
            "%s is on %s and Keras computes on %s: move it, module.to(%r), before it is made a "
            "teacher.",
            type(module).__name__, ", ".join(sorted(devices)), here, here,
        )  # fmt: skip
