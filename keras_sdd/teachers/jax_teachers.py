"""Functions of JAX as teachers: functional Keras models around them."""

from collections.abc import Callable
from typing import Any, NoReturn

import keras
import numpy as np
from keras import layers

from keras_sdd._checks import check_input_shape
from keras_sdd.typing import Tensor


def from_jax(
    function: Callable[[Any, Any], Any],
    params: Any,
    input_shape: tuple[int, int, int],
    classifier: tuple[Any, Any] | None = None,
) -> keras.Model:
    """Make a teacher of a JAX function, on Keras's JAX backend, or on TensorFlow.

    The parameters become weights of the model that do not train. On TensorFlow, JAX translates the
    function (`keras.layers.JaxLayer`).

    ```python
    # Flax: a module whose method `features` gives the map that it pools.
    dense = variables["params"]["Dense_0"]
    teacher = keras_sdd.teachers.from_jax(
        lambda params, images: module.apply(params, images, train=False, method="features"),
        variables,
        (224, 224, 3),
        classifier=(dense["kernel"], dense["bias"]),
    )
    # Equinox: its modules take one image, channels first.
    params, static = equinox.partition(equinox.nn.inference_mode(network), equinox.is_array)

    def find_map(params, images):
        features = equinox.combine(params, static).features
        return jax.vmap(features)(images.transpose(0, 3, 1, 2)).transpose(0, 2, 3, 1)

    teacher = keras_sdd.teachers.from_jax(
        find_map, params, (224, 224, 3), classifier=(network.fc.weight.T, network.fc.bias)
    )
    ```

    Args:
        function: takes `params` and images (B, H, W, C), as the data set has them, to the map that
            is pooled, (B, H, W, C). It computes what the network does in inference, normalization
            of the images included.
        params: nested arrays, as JAX has them.
        input_shape: of an image of the data set.
        classifier: what makes logits of the average of that map: `(kernel, bias)`, arrays (C, K)
            and (K,), bias perhaps None; or `(function, params)` of vectors (B, C) to logits (B, K).
            None if the map is one of logits (B, H, W, K), and their average the logits.

    Returns:
        A functional model from images to logits (B, K), without trainable weights. Neither it nor a
        distiller that has it can be written to a `.keras` file; students, and weights, can.

    Raises:
        ValueError: on PyTorch; if the function or the classifier do not give what they should.

    Examples:
        >>> params = {"kernel": np.ones((3, 8), "float32")}
        >>> teacher = keras_sdd.teachers.from_jax(
        ...     lambda params, images: images @ params["kernel"],  # the map (B, 16, 16, 8)
        ...     params,
        ...     input_shape=(16, 16, 3),
        ...     classifier=(np.full((8, 4), 0.5), np.zeros(4)),
        ... )
        >>> float(teacher(np.ones((1, 16, 16, 3), "float32"))[0, 0])  # 8 * 3 * 0.5
        12.0
        >>> keras_sdd.Network(teacher).cells((1, 2)).shape
        (None, 5, 4)
    """
    if keras.backend.backend() == "torch":
        raise ValueError(
            "A function of JAX runs on Keras's JAX backend, or on TensorFlow: set "
            "KERAS_BACKEND=jax before Keras is imported. On PyTorch let "
            "keras_sdd.cache_outputs store what the function gives, and train from that. "
            "Received: 'torch'"
        )
    dtype = keras.config.floatx()
    images = keras.Input(check_input_shape(input_shape), name="images", dtype=dtype)
    maps = JaxPart(function, params, name="features", dtype=dtype)(images)
    if len(getattr(maps, "shape", ())) != 4:
        raise ValueError(
            "`function` must give a map (B, H, W, C), which the model pools. Received: "
            f"{getattr(maps, 'shape', maps)}"
        )
    pooling = layers.GlobalAveragePooling2D(
        data_format="channels_last", name="pooling", dtype=dtype
    )
    logits = pooling(maps)
    if classifier is not None:
        logits = _classify(logits, classifier, dtype)
    return keras.Model(images, logits, name="jax_teacher")


def _classify(vectors: Tensor, classifier: tuple[Any, Any], dtype: str) -> Tensor:
    first, second = classifier
    options = {"name": "classifier", "dtype": dtype}
    if callable(first):
        logits = JaxPart(first, second, **options)(vectors)
        if len(getattr(logits, "shape", ())) != 2:
            raise ValueError(
                "The function of `classifier` must give logits (B, K) of vectors (B, C). Received: "
                f"{getattr(logits, 'shape', logits)}"
            )
        return logits
    kernel, bias = np.asarray(first), None if second is None else np.asarray(second)
    count = vectors.shape[-1]
    if (
        kernel.ndim != 2
        or kernel.shape[0] != count
        or (bias is not None and bias.shape != kernel.shape[1:])
    ):
        raise ValueError(
            f"`classifier` must be a kernel ({count}, K) and a bias (K,) or None, or a function "
            f"and its parameters. Received: arrays of shapes {kernel.shape} and "
            f"{None if bias is None else bias.shape}"
        )
    dense = layers.Dense(kernel.shape[1], use_bias=bias is not None, trainable=False, **options)
    logits = dense(vectors)
    dense.set_weights([x for x in (kernel, bias) if x is not None])
    return logits


class JaxPart(layers.JaxLayer):
    """A JAX function of frozen parameters and a tensor."""

    def __init__(self, function: Callable[[Any, Any], Any], params: Any, **kwargs: Any) -> None:
        super().__init__(lambda params, inputs: function(params, inputs), params=params, **kwargs)
        self.trainable = False

    def get_config(self) -> NoReturn:
        raise ValueError(
            f"{self.name!r} is a function of JAX, of which Keras can write or copy nothing. Save "
            "the student, distiller.student.save(...), or the weights alone, "
            "distiller.save_weights(...), and make teacher and distiller anew by the same code"
        )
