"""SD-KD trains students, and with teachers, whose heads are not linear."""

import keras
import library_classifiers
import numpy as np
import pytest
from backends import BACKEND
from keras import layers
from libraries import keras_hub_classifiers
from library_classifiers import randomize

from heads.assertions import to_numpy
from keras_sdd import SDDDistiller, expose_spatial_logits


def draw(size, num_classes, count=4):
    rng = np.random.default_rng(0)
    images = rng.uniform(0.0, 255.0, (count, size, size, 3)).astype("float32")
    return images, np.arange(count) % num_classes


def build_cnn(size, num_classes):
    return keras.Sequential(
        [
            keras.Input((size, size, 3)),
            layers.Rescaling(1 / 255),
            layers.Conv2D(8, 3, strides=2, padding="same", activation="relu"),
            layers.Conv2D(8, 3, strides=2, padding="same", activation="relu"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(num_classes),
        ]
    )


def train(teacher, student, images, labels):
    """Train an epoch of two steps; return the paths of weights that stay as they were.

    None should: no bias of these students comes right before a batch norm, which would take it out.
    """
    distiller = SDDDistiller(teacher, student, scales=(1, 2, 4))
    distiller.compile(keras.optimizers.SGD(0.1), jit_compile=BACKEND == "jax")
    fixed = [to_numpy(v) for v in teacher.weights]
    before = [to_numpy(v) for v in student.trainable_weights]
    history = distiller.fit(images, labels, batch_size=2, verbose=0).history
    assert np.isfinite([history[x] for x in ("loss", "student_loss", "distillation_loss")]).all()
    assert history["distillation_loss"][0] > 0
    for old, variable in zip(fixed, teacher.weights, strict=True):
        np.testing.assert_array_equal(to_numpy(variable), old, err_msg=variable.path)
    predictions = distiller.student.predict(images, verbose=0)
    assert predictions.shape == (len(images), student.output_shape[-1])
    assert np.isfinite(predictions).all()
    pairs = zip(before, student.trainable_weights, strict=True)
    return {v.path for old, v in pairs if (to_numpy(v) == old).all()}


@pytest.mark.skipif(BACKEND == "jax", reason="compiles for a quarter of a minute")
def test_mobile_net_v3_learns_of_conv_next():
    options = {"weights": None, "input_shape": (64, 64, 3), "classes": 5}
    teacher = randomize(keras.applications.ConvNeXtTiny(**options))
    student = keras.applications.MobileNetV3Small(**options)
    assert train(teacher, student, *draw(64, 5)) == set()


@pytest.mark.parametrize("size", [32, None])
def test_models_for_any_size_take_that_of_the_others(size):
    """Of the student, or, where that says none either, of the images."""
    name, variant = "MobileNetImageClassifier", "image_shape=(None, None, 3)"
    teacher = randomize(keras_hub_classifiers.build(name, variant))
    student = build_cnn(size, keras_hub_classifiers.NUM_CLASSES)
    assert train(teacher, student, *draw(32, keras_hub_classifiers.NUM_CLASSES)) == set()


@pytest.mark.parametrize("pooling", ["token", "gap"])
def test_a_network_learns_of_the_patches_of_a_transformer(pooling):
    build = library_classifiers.vision_transformer(pooling, use_class_token=True)
    teacher = expose_spatial_logits(randomize(build(None)), patch_tokens=True)
    student = build_cnn(16, library_classifiers.NUM_CLASSES)
    assert train(teacher, student, *draw(16, library_classifiers.NUM_CLASSES)) == set()
