"""A classifier as the terms of a loss read it: logits, cells, features by name."""

import functools
import logging
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NoReturn

import keras
from keras import layers

from keras_sdd._checks import check_scales, find_near
from keras_sdd.graphs import find_calls, is_functional, lift, rebuild, structure
from keras_sdd.heads import check_classifier, class_logits, find_head, find_logits, is_exposed
from keras_sdd.stages import find_last_map, find_stages
from keras_sdd.typing import Tensor

_logger = logging.getLogger("keras_sdd")


def with_size_of(model: keras.Model, other: keras.layers.Layer) -> keras.Model:
    """A model for images of any size, for those of another model's; else as it is."""
    if not is_functional(other):  # what stands for a teacher takes no images
        return model
    shapes = [
        [b if a is None else a for a, b in zip(x.shape, y.shape, strict=True)]
        for x, y in zip(model.inputs, other.inputs, strict=True)
    ]
    if shapes == [list(x.shape) for x in model.inputs]:
        return model
    inputs = [
        keras.Input(batch_shape=shape, dtype=x.dtype, name=x._keras_history.operation.name)
        for shape, x in zip(shapes, model.inputs, strict=True)
    ]
    inputs = keras.tree.pack_sequence_as(structure(model)[0], inputs)
    return keras.Model(inputs, model(inputs), name=model.name)


class Network:
    """The graph of a functional classifier, for reading symbolic tensors of it.

    What is read twice is the same tensor, and `select` makes one model of all that is wanted: a
    network runs once, however many terms read it.

    Args:
        model: a built functional or Sequential classifier of one output (B, K), or of outputs
            `{"logits": (B, K), "spatial_logits": (B, H, W, K)}`.
        frozen: whether it runs in inference mode alone, as a teacher does: layers that keep
            statistics in the head, or move pixels at random, do no harm then.

    Raises:
        ValueError: if `model` is no such classifier.

    Examples:
        >>> model = keras_sdd.models.build("small/cnn_8_16_32", num_classes=4)
        >>> network = keras_sdd.Network(model)
        >>> network.logits.shape, network.embedding.shape, network.cells((1, 2)).shape
        ((None, 4), (None, 32), (None, 5, 4))
        >>> network.stages, network.feature("bn1_relu").shape
        (['bn0_relu', 'bn1_relu', 'bn2_relu'], (None, 16, 16, 16))
    """

    def __init__(self, model: keras.Model, frozen: bool = False) -> None:
        check_classifier(model)
        self.source = model
        self._frozen = frozen
        self.selection: Any = None
        self._tensors: dict[Hashable, Tensor] = {}  # what was read
        self._refusal = None  # why regions have no logits
        try:
            self._head: Any = find_head(model, frozen=frozen)
        except ValueError as error:
            self._head, self._refusal = None, error
        formats = (getattr(node.operation, "data_format", None) for _, node, _ in find_calls(model))
        self._channels_first = next(filter(None, formats), None) == "channels_first"

    @property
    def num_classes(self) -> int:
        """K."""
        return class_logits(self.source).shape[-1]

    @property
    def logits(self) -> Tensor:
        """(B, K) from the model's own pooling and dropout, without a last softmax."""
        return self._once("logits", lambda: self._head.logits if self._head else self._end[0])

    @property
    def embedding(self) -> Tensor:
        """(B, C): the pooled map, or what the classifier takes where no map is pooled.

        Raises:
            ValueError: for a model of `{"logits", "spatial_logits"}`, which does not show it.
        """
        if is_exposed(self.source):
            raise ValueError(
                "A model with outputs {'logits', 'spatial_logits'} has no embedding to read; give "
                f"the classifier as it was. Received: {self.source.name!r}"
            )
        vector = self._head.vector if self._head else self._end[1]
        if vector is None:
            raise ValueError(
                "The last layer of the model takes no vector (B, C) that could be its embedding. "
                f"Received: {self.source.name!r}"
            )
        return vector

    def cells(self, scales: Sequence[int], pooling: str = "direct") -> Tensor:
        """(B, N, K): the logits of the regions, as `keras_sdd.pool_cells` orders them.

        Regions are pooled first and classified after, N for H * W positions, by the model's own
        pooling and head. With `scales` (1,) any head will do: the one cell is the logits.

        Args:
            scales: the scales M, different positive integers.
            pooling: as for `keras_sdd.pool_cells`.

        Returns:
            Symbolic tensor (B, N, K), N the sum of m * m.

        Raises:
            ValueError: if regions have no logits, with the layer in the way and the remedy.
        """
        wanted = check_scales(scales)
        if wanted != (1,):
            self.check_places("regions")
        return self._once(("cells", wanted, pooling), lambda: self._classify(wanted, pooling))

    def check_places(self, what: str) -> None:
        """Raise a ValueError if the network moves pixels at random in training.

        Teacher and student see different places then. `what` is compared of them, for the message.

        Args:
            what: `"maps"` or `"regions"`.
        """
        if self._frozen:
            return
        for path, node, _ in find_calls(self.source):
            moves = _find_moving(node.operation)
            if moves:  # whatever `training` it was called with: that of a step overrules it
                raise ValueError(
                    f"{what.capitalize()} of teacher and student cannot be compared: in training "
                    f"the student moves pixels at random in {path!r} ({moves}), the teacher does "
                    "not. Take that layer out and augment the data set, for example "
                    "dataset.map(lambda x, y: (layer(x, training=True), y)), or use scales=(1,). "
                    f"Received: the model {self.source.name!r}"
                )

    def _tell_small(self, scales: tuple[int, ...]) -> None:
        """Say so if cells are copies of each other."""
        shape = self._head.map_shape[:2]
        finest = max(scales)
        if None in shape or min(shape) >= finest:
            return
        image = self.source.inputs[0].shape[2:] if self._channels_first else None
        image = tuple(image or self.source.inputs[0].shape[1:3])
        advice = ""
        if len(image) == 2 and None not in image:
            needed = [-(-size * finest // side) for size, side in zip(image, shape, strict=True)]
            advice = " Images of {} x {} would do.".format(*needed)
        _logger.warning(
            "The map of %r is %d x %d, so that cells of scale %d repeat its positions: they teach "
            "no more than those of smaller scales.%s",
            self.source.name,
            *shape,
            finest,
            advice,
        )

    def feature(self, layer: str | keras.layers.Layer) -> Tensor:
        """The output of a layer, also of one inside nested models; maps come as (B, H, W, C).

        Args:
            layer: its name, or the end of its path, as in `"backbone/conv1"`, where several
                layers have that name; or the layer.

        Returns:
            Symbolic tensor (B, ...).

        Raises:
            ValueError: if there is no such layer, or several, or it is called several times.
        """
        name = getattr(layer, "name", layer)
        calls = [x for x in find_calls(self.source) if f"/{x[0]}".endswith(f"/{name}")]
        if len(calls) != 1 or len(calls[0][1].outputs) != 1:
            self._refuse(name, calls)
        path, node, around = calls[0]
        return self._once(("feature", path), lambda: self._as_map(lift(node.outputs[0], around)))

    @property
    def stages(self) -> list[str]:
        """Paths of the layers that end the stages, fine to coarse, without the stem.

        Of the library's networks those of `keras_sdd.models.stages`, of KerasHub's backbones their
        pyramid outputs; of other models the last layers of every map size that everything runs
        through, so not those of a branch.
        """
        return self._stages[0]

    @property
    def preactivations(self) -> list[str]:
        """Paths of the same before their activation; where there is none, of the same layers."""
        return self._stages[1]

    @property
    def last_map(self) -> str | None:
        """Path of the layer whose map is pooled, the last one; None where there is no map."""
        return find_last_map(self.source)

    @functools.cached_property
    def _stages(self) -> tuple[list[str], list[str]]:
        return find_stages(self.source, self._channels_first)

    def select(self, outputs: dict[str, Any]) -> keras.Model:
        """Make one model of all tensors in a nested dict, on the network's inputs: `selection`.

        Args:
            outputs: symbolic tensors that were read of this network, in a nested dict.

        Returns:
            A functional model from the network's inputs to these tensors.
        """
        self.selection = rebuild(self.source, outputs, "network")
        return self.selection

    def _once(self, key: Hashable, make: Callable[[], Tensor]) -> Tensor:
        if key not in self._tensors:
            self._tensors[key] = make()
        return self._tensors[key]

    def _classify(self, scales: tuple[int, ...], pooling: str) -> Tensor:
        if scales == (1,):
            logits = self.logits
            return layers.Reshape((1, -1), dtype=logits.dtype, name="head_cells")(logits)
        if self._refusal is not None:
            raise self._refusal
        self._tell_small(scales)
        if not self._head.is_linear:
            _logger.info(
                "The head of %r is not linear in the average of a map: a cell's logits are the "
                "head's of the pooled cell, and the global ones are not their mean.",
                self.source.name,
            )
        return self._head.cells(scales, pooling)

    @functools.cached_property
    def _end(self) -> tuple[Tensor, Tensor]:
        return find_logits(self.source)

    def _as_map(self, x: Tensor) -> Tensor:
        if not self._channels_first or len(x.shape) != 4:
            return x
        name = f"feature_{len(self._tensors)}_channels_last"
        return layers.Permute((2, 3, 1), dtype=x.dtype, name=name)(x)

    def _refuse(self, name: str, calls: list[Any]) -> NoReturn:
        paths = sorted({path for path, *_ in calls})
        if not calls:
            known = sorted({path.split("/")[-1] for path, *_ in find_calls(self.source)})
            near = ", ".join(find_near(name, known)) or "none"
            fault = f"has no layer of this name. Near names: {near}; its summary() has all"
        elif len(paths) > 1:
            fault = f"has several layers of this name; give one of {', '.join(paths)}"
        elif len(calls) > 1:
            fault = "calls this layer several times; name one that is called once, next to it"
        else:
            fault = "has several outputs at this layer; name one that has one"
        raise ValueError(f"The model {self.source.name!r} {fault}. Received: {name!r}")


# Layers of Keras, and of libraries that took over their names, that move pixels at random.
_MOVING = (
    "RandomFlip", "RandomRotation", "RandomZoom", "RandomTranslation", "RandomCrop", "RandomHeight",
    "RandomWidth", "RandomShear", "RandomPerspective", "RandomElasticTransform", "RandomAffine",
    "RandomCropAndResize", "RandomResizedCrop", "CutMix", "MixUp", "Mosaic", "RandAugment",
    "AugMix", "AutoAugment", "JitteredResize",
)  # fmt: skip


def _find_moving(operation: Any) -> str | None:
    """The name of the class of a layer that moves pixels at random, also of one inside another."""
    if not isinstance(operation, layers.Layer) or is_functional(operation):
        return None
    parts = (x for part in operation._flatten_layers() for x in type(part).__mro__)
    return next((x.__name__ for x in parts if x.__name__ in _MOVING), None)
