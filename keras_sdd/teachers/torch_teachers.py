"""Classifiers of PyTorch as teachers: functional Keras models around the module's own parts."""

import collections
import re
from typing import Any, NoReturn

import keras
from keras import layers

from keras_sdd._checks import check_input_shape, check_known, check_numbers, describe
from keras_sdd.regions import LinearLayer
from keras_sdd.typing import Shape, Tensor


def from_torch(
    module: Any,
    input_shape: tuple[int, int, int],
    features: str | list[str] | None = None,
    classifier: str | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
) -> keras.Model:
    """Make a teacher of a PyTorch classifier, with Keras on its PyTorch backend.

    The model that comes out is taken like any other teacher, and computes what the module computes:
    a region's logits are what the module's own layers make of its own pooling of the region. The
    forward pass says where it pools; the parts are compared with the whole. The module is shared,
    in inference mode, and not changed: neither parameters and buffers, nor `requires_grad` and
    `training`, nor device and precision, which the images follow.

    ```python
    module = torchvision.models.resnet50(weights="DEFAULT")
    teacher = keras_sdd.teachers.from_torch(
        module, (224, 224, 3), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
    )
    ```

    Args:
        module: `torch.nn.Module` that takes images (B, C, H, W) to logits (B, K), by themselves or
            as `output.logits`: of timm, torchvision, Hugging Face, or your own.
        input_shape: of an image of the data set, in Keras's data format: (H, W, C), or (C, H, W)
            where `keras.config.image_data_format()` is `"channels_first"`.
        features: name of the submodule whose output is pooled, as `named_modules()` has it; None to
            find it. Or a list of names, that one last: those before it are further layers of the
            model, for terms that compare maps, with `_` for `.`.
        classifier: name of the submodule that makes logits of that, pooled or pooling it; None to
            find it. It is then taken as one, whatever is in it.
        mean: of the channels: the module gets (images - mean) / std. None if images come as the
            module wants them. timm's `module.default_cfg` has those of images from 0 to 1.
        std: of the channels, likewise.

    Returns:
        A functional model from images (B, H, W, C) to logits (B, K), without trainable weights. It
        is not saved: neither it nor a distiller that has it can be written to a `.keras` file;
        students, and weights of distillers, can.

    Raises:
        ValueError: on another backend; if the module gives no logits, or what it does is not found
            in parts, with the submodule in the way and the remedy.

    Examples:
        >>> from torch import nn
        >>> module = nn.Sequential(
        ...     nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)
        ... )
        >>> teacher = keras_sdd.teachers.from_torch(
        ...     module, (16, 16, 3), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
        ... )
        >>> teacher.output.shape, keras_sdd.Network(teacher).cells((1, 2)).shape
        ((None, 4), (None, 5, 4))
    """
    if keras.backend.backend() != "torch":
        raise ValueError(
            "A module of PyTorch runs on Keras's PyTorch backend: set KERAS_BACKEND=torch before "
            "Keras is imported. On another one let keras_sdd.cache_outputs store what the "
            f"module gives, and train from that. Received: {keras.backend.backend()!r}"
        )
    names = [features] if isinstance(features, str) else list(features or ())
    _check_names(module, names, classifier)
    data_format, dtype = keras.config.image_data_format(), keras.config.floatx()
    shape = check_input_shape(input_shape)
    channels = shape[0 if data_format == "channels_first" else -1]
    mean = check_numbers("mean", (0.0,) * channels if mean is None else mean, channels)
    std = check_numbers("std", (1.0,) * channels if std is None else std, channels, positive=True)
    from keras_sdd._backend.torch_teacher import TorchTeacher

    teacher = TorchTeacher(module, shape, names, classifier, mean, std, data_format, dtype)
    model = _build(teacher, shape, [*names[:-1], teacher.parts.names[0]], data_format)
    teacher.check(model)
    return model


def _check_names(module: Any, features: list[str], classifier: str | None) -> None:
    """Raise a ValueError if `module` is none, or has no submodules of these names."""
    if not hasattr(module, "named_modules"):
        raise ValueError(f"Expected a torch.nn.Module. Received: {describe(module)}")
    known = {name for name, _ in module.named_modules() if name}
    listed = "dict(module.named_modules())"
    for name in features:
        check_known("submodule", "features", name, known, listed)
    if classifier is not None:
        check_known("submodule", "classifier", classifier, known, listed)


def _build(
    teacher: Any, shape: tuple[int, ...], map_names: list[str], data_format: str
) -> keras.Model:
    """The functional model."""
    parts, names = teacher.parts, _Names()
    images = keras.Input(shape, name="images", dtype=keras.config.floatx())
    kind = type(teacher.module).__name__
    if len(map_names) == 1:
        maps = TorchBody(teacher, data_format, **names.take(map_names[0]))(images)
    else:
        taken = [names.take(x) for x in map_names]
        given = TorchBody(teacher, data_format, **names.take(f"body of {kind}"))(images)
        named = [layers.Identity(**x)(y) for x, y in zip(taken[:-1], given[:-1], strict=True)]
        maps = LastOf(**taken[-1])([*named, given[-1]])
    options = names.take(parts.names[1])
    if parts.kind == "token":
        vectors = maps[:, 0]
    elif parts.kind == "own":
        vectors = TorchPooling(teacher, data_format, **options)(maps)
    else:
        vectors = _POOLINGS[parts.kind](data_format=data_format, **options)(maps)
    if parts.classify is None:
        return keras.Model(images, vectors, name=kind.lower())
    cls = TorchLinear if parts.is_linear else TorchClassifier
    logits = cls(teacher, **names.take(parts.names[2]))(vectors)
    return keras.Model(images, logits, name=kind.lower())


_POOLINGS = {"average": layers.GlobalAveragePooling2D, "maximum": layers.GlobalMaxPooling2D}


class _Names:
    """Names of layers, each different, after submodules."""

    def __init__(self) -> None:
        self._counts: collections.Counter[str] = collections.Counter()

    def take(self, name: str) -> dict[str, str]:
        """Options of a layer."""
        name = re.sub("[^A-Za-z0-9]+", "_", name).strip("_")
        self._counts[name] += 1
        count = self._counts[name]
        name = name if count == 1 else f"{name}_{count}"
        return {"name": name, "dtype": keras.config.floatx()}


class _Part(layers.Layer):
    """Base of the layers that are a part of a PyTorch classifier.

    Args:
        teacher: the `TorchTeacher`.
        **kwargs: of `keras.layers.Layer`.
    """

    def __init__(self, teacher: Any, **kwargs: Any) -> None:
        super().__init__(autocast=False, **kwargs)
        self.teacher = teacher
        self.built = True

    def get_config(self) -> NoReturn:
        raise ValueError(
            f"{self.name!r} is a part of a PyTorch module, of which Keras can write or copy "
            "nothing. Save the student, distiller.student.save(...), or the weights alone, "
            "distiller.save_weights(...), and make teacher and distiller anew by the same code"
        )

    # The module's weights are its owner's: Keras neither stores nor loads them.

    def save_own_variables(self, store: Any) -> None:
        pass

    def load_own_variables(self, store: Any) -> None:
        pass


class TorchBody(_Part):
    """Images to the map that is pooled, or to a list of maps of which it is the last one."""

    def __init__(self, teacher: Any, data_format: str, **kwargs: Any) -> None:
        super().__init__(teacher, **kwargs)
        self.data_format = data_format
        self.state = teacher.share_state()  # for counts and digests: the layer computes without

    def call(self, images: Tensor) -> Tensor:
        maps = self.teacher.find_maps(images)
        return maps if len(maps) > 1 else maps[0]

    def compute_output_shape(self, input_shape: Shape) -> Any:
        shapes = [(input_shape[0], *shape) for shape in self.teacher.map_shapes]
        return shapes if len(shapes) > 1 else shapes[0]


class TorchPooling(_Part):
    """The module's own pooling: maps to vectors."""

    def __init__(self, teacher: Any, data_format: str, **kwargs: Any) -> None:
        super().__init__(teacher, **kwargs)
        self.data_format = data_format

    def call(self, maps: Tensor) -> Tensor:
        return self.teacher.pool(maps)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        own = self.teacher.map_shapes[-1]
        if not self.teacher.parts.takes_any_size and tuple(input_shape[1:]) != own:
            raise ValueError(f"Only maps {own} are pooled. Received: {input_shape}")
        return (input_shape[0], self.teacher.num_features)


class TorchClassifier(_Part):
    """What the module makes of pooled vectors: the logits."""

    def call(self, vectors: Tensor) -> Tensor:
        return self.teacher.classify(vectors)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return (*input_shape[:-1], self.teacher.num_classes)


class TorchLinear(TorchClassifier, LinearLayer):
    """The same of a module whose classifier is one linear layer."""


class LastOf(layers.Layer):
    """The last one of a list of maps; the others are there to be read by name."""

    def call(self, maps: list[Tensor]) -> Tensor:
        return maps[-1]

    def compute_output_shape(self, input_shape: list[Shape]) -> Any:
        return input_shape[-1]
