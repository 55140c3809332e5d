"""FitNet: a map of the teacher as a hint."""

from typing import Any

import keras
from keras import layers, ops

from keras_sdd.networks import Network
from keras_sdd.normalization import BatchNorm
from keras_sdd.terms.features import FeatureTerm, check_single_pair, match_stages
from keras_sdd.typing import LayerPairs, Shape, Tensor


@keras.saving.register_keras_serializable(package="keras_sdd")
class FitNet(FeatureTerm):
    """Squared distance between a map of the teacher and a regression of a map of the student.

    The regressor is a convolution, batch norm and ReLU, learned with the student. The convolution
    brings the student's map to the teacher's size: 3x3 of stride 2 where it is twice as large,
    transposed 4x4 of stride 2 where it is half as large, else one without padding whose kernel
    takes off what is too much. A sample's value is the mean over its map.

    It compares one pair; further hints are terms of their own, with weights of their own.

    Args:
        layers: one pair; by default the ends of the second stages.
        weight: factor in the loss; that of the public programs.
        warmup_steps: as for `FeatureTerm`.
        name: as for `FeatureTerm`.

    Raises:
        ValueError: for several pairs; when it is built, for maps that no regressor fits.

    Source: Romero et al., "FitNets: Hints for Thin Deep Nets" (ICLR 2015), eq. 3; in one stage,
    with the joint loss of the public programs that compare with it.

    Examples:
        >>> term = keras_sdd.terms.FitNet(layers=[("conv3", "conv2")])
        >>> teacher, student = np.ones((2, 4, 4, 8)), np.ones((2, 8, 8, 6))
        >>> values = term.compare(teacher, student)
        >>> tuple(values.shape), tuple(term.conv.kernel.shape)  # 3x3 of stride 2, to 8 channels
        ((2,), (3, 3, 6, 8))
    """

    def __init__(
        self,
        layers: LayerPairs | None = None,
        weight: float = 100.0,
        warmup_steps: int = 0,
        name: str = "fitnet_loss",
    ) -> None:
        super().__init__(layers, weight, warmup_steps, name)
        check_single_pair("FitNet", self.layers)

    def choose_pairs(self, teacher: Network, student: Network) -> LayerPairs:
        return match_stages(teacher, student)[:2][-1:]

    def read_student(self, network: Network) -> dict[str, Tensor]:
        network.check_places("maps")
        return super().read_student(network)

    def build(self, teacher_shapes: dict[str, Shape], student_shapes: dict[str, Shape]) -> None:
        teacher_shape, student_shape = teacher_shapes["map0"], student_shapes["map0"]
        kind, padding, options = choose_convolution(teacher_shape, student_shape)
        common = {"data_format": "channels_last", "dtype": "float32"}
        # Uniform in +-1 / sqrt(fan in), as the public programs have it.
        initializer = keras.initializers.VarianceScaling(1 / 3, "fan_in", "uniform")
        self.pad = layers.ZeroPadding2D(padding, **common)
        self.conv = kind(
            teacher_shape[-1], kernel_initializer=initializer, name="conv", **options, **common
        )
        self.bn = BatchNorm(momentum=0.9, epsilon=1e-5, dtype="float32", name="bn")
        self.conv.build(self.pad.compute_output_shape(student_shape))
        self.bn.build((None, *teacher_shape[1:]))

    def regress(self, student_map: Tensor) -> Tensor:
        """(B, H', W', C') to the teacher's (B, H, W, C), as in training."""
        return ops.relu(self.bn(self.conv(self.pad(student_map)), training=True))

    def compare(self, teacher_map: Tensor, student_map: Tensor) -> Tensor:
        teacher_map, student_map = (ops.cast(x, "float32") for x in (teacher_map, student_map))
        if not self.built:
            self.build({"map0": teacher_map.shape}, {"map0": student_map.shape})
        return ops.mean((self.regress(student_map) - teacher_map) ** 2, axis=(1, 2, 3))


def choose_convolution(
    teacher_shape: Shape, student_shape: Shape
) -> tuple[type, int, dict[str, Any]]:
    """Choose what takes the student's map to the size of the teacher's: layer, padding, options."""
    shapes = (tuple(teacher_shape), tuple(student_shape))
    if all(len(shape) == 4 and None not in shape[1:] for shape in shapes):
        (height, width), (student_height, student_width) = (shape[1:3] for shape in shapes)
        if (student_height, student_width) == (2 * height, 2 * width):
            return layers.Conv2D, 1, {"kernel_size": 3, "strides": 2}
        if (height, width) == (2 * student_height, 2 * student_width):
            return layers.Conv2DTranspose, 0, {"kernel_size": 4, "strides": 2, "padding": "same"}
        if student_height >= height and student_width >= width:
            kernel_size = (1 + student_height - height, 1 + student_width - width)
            return layers.Conv2D, 0, {"kernel_size": kernel_size}
    raise ValueError(
        "FitNet needs maps (B, H, W, C) of known size, the student's as large as the teacher's, "
        "larger, or half as large; name another pair of layers. Received: teacher's "
        f"{shapes[0]}, student's {shapes[1]}"
    )
