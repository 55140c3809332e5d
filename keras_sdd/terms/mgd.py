"""MGD: masked generative distillation, the teacher's map from a part of the student's channels."""

import keras
from keras import layers, ops

from keras_sdd._checks import check_number
from keras_sdd.networks import Network
from keras_sdd.pooling import check_size
from keras_sdd.terms.features import FeatureTerm, check_single_pair
from keras_sdd.typing import LayerPairs, Shape, Tensor


@keras.saving.register_keras_serializable(package="keras_sdd")
class MGD(FeatureTerm):
    """Squared distance of the teacher's map to one generated from the student's masked map.

    Where channels differ, a 1x1 convolution brings the student's map to the teacher's. In every
    step each channel of a sample is set to zero at random, and two 3x3 convolutions with a ReLU
    between them generate a map from the rest. All are learned with the student. A sample's value
    is the sum of squared differences over the whole map, which the weight is small for.

    It compares one pair of maps of equal size.

    Args:
        mask_ratio: probability with which a channel is set to zero, from 0 to below 1.
        seed: integer for the masks; None for other ones in every run.
        layers: one pair; by default the last map of both.
        weight: factor in the loss; the authors' for ImageNet. For CIFAR-100 theirs is 1.2e-3.
        warmup_steps: as for `FeatureTerm`.
        name: as for `FeatureTerm`.

    Raises:
        ValueError: for options that do not fit, for several pairs; when it is built, for maps of
            different or unknown size.

    Source: Yang et al., "Masked Generative Distillation" (ECCV 2022). Channels are masked, as
    by the authors' program for classification, not positions as in the paper.

    Examples:
        >>> term = keras_sdd.terms.MGD(mask_ratio=0.0, seed=1)
        >>> teacher, student = np.ones((2, 4, 4, 8)), np.ones((2, 4, 4, 6))
        >>> values = term.compare(teacher, student)
        >>> tuple(values.shape), [tuple(x.kernel.shape) for x in (term.align, term.generate1)]
        ((2,), [(1, 1, 6, 8), (3, 3, 8, 8)])
        >>> float(keras.ops.sum(term.draw_mask(2, 8)))  # nothing is masked
        16.0
    """

    def __init__(
        self,
        mask_ratio: float = 0.15,
        seed: int | None = None,
        layers: LayerPairs | None = None,
        weight: float = 7e-5,
        warmup_steps: int = 0,
        name: str = "mgd_loss",
    ) -> None:
        super().__init__(layers, weight, warmup_steps, name)
        check_single_pair("MGD", self.layers)
        self.mask_ratio = check_number("mask_ratio", mask_ratio)
        if self.mask_ratio >= 1:
            raise ValueError(f"`mask_ratio` must be below 1. Received: mask_ratio={mask_ratio!r}")
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)

    def read_student(self, network: Network) -> dict[str, Tensor]:
        network.check_places("maps")
        return super().read_student(network)

    def build(self, teacher_shapes: dict[str, Shape], student_shapes: dict[str, Shape]) -> None:
        teacher_shape, student_shape = (tuple(x["map0"]) for x in (teacher_shapes, student_shapes))
        *size, channels = check_size(teacher_shape)
        *student_size, student_channels = check_size(student_shape)
        if size != student_size:
            raise ValueError(
                "MGD needs maps of equal height and width; name another pair of layers, "
                f"layers=[(teacher's, student's)]. Received: teacher's {teacher_shape}, "
                f"student's {student_shape}"
            )
        # Uniform in +-1 / sqrt(fan in), as the public programs have it.
        initializer = keras.initializers.VarianceScaling(1 / 3, "fan_in", "uniform")
        options = {"kernel_initializer": initializer, "padding": "same", "dtype": "float32"}
        options["data_format"] = "channels_last"
        self.align = None
        if student_channels != channels:
            self.align = layers.Conv2D(channels, 1, name="align", **options)
            self.align.build(student_shape)
        self.generate1 = layers.Conv2D(channels, 3, name="generate1", **options)
        self.generate2 = layers.Conv2D(channels, 3, name="generate2", **options)
        self.generate1.build(teacher_shape)
        self.generate2.build(teacher_shape)

    def draw_mask(self, batch_size: Tensor, channels: int) -> Tensor:
        """Draw ones for the channels that are kept and zeros for the others: (B, 1, 1, C)."""
        ones = ops.ones((batch_size, 1, 1, channels), "float32")
        # Dropout, as uniform numbers cost a wait for the device on PyTorch.
        kept = keras.random.dropout(ones, self.mask_ratio, seed=self.seed_generator) > 0
        return ops.cast(kept, "float32")

    def generate(self, student_map: Tensor, mask: Tensor) -> Tensor:
        """(B, H, W, C') to the teacher's (B, H, W, C), of the channels that the mask keeps."""
        aligned = student_map if self.align is None else self.align(student_map)
        return self.generate2(ops.relu(self.generate1(aligned * mask)))

    def compare(self, teacher_map: Tensor, student_map: Tensor, mask: Tensor = None) -> Tensor:
        teacher, student = (ops.cast(x, "float32") for x in (teacher_map, student_map))
        if not self.built:
            self.build({"map0": teacher.shape}, {"map0": student.shape})
        if mask is None:
            mask = self.draw_mask(ops.shape(teacher)[0], teacher.shape[-1])
        generated = self.generate(student, ops.cast(mask, "float32"))
        return ops.sum((generated - teacher) ** 2, axis=(1, 2, 3))
