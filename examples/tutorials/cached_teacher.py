# %% [markdown]
# # A teacher that runs once
#
# A frozen teacher says the same of the same image in every epoch. Where images are not augmented at
# random, that can be kept. You learn to store it, to train on it with and without the teacher at
# hand, and what is refused. Takes about 20 seconds on a CPU core, imports included.

# %%
import pathlib
import tempfile
import time

import keras
import numpy as np
from keras import layers
from sklearn.datasets import load_digits

import keras_sdd

# %% [markdown]
# ## A pair
#
# Handwritten digits of 8 x 8 pixels, a teacher, and later a small student.

# %%
keras.utils.set_random_seed(0)
images, labels = load_digits(return_X_y=True)
images = images.reshape(-1, 8, 8, 1).astype("float32") / 16
train, test = (
    (images[rows], labels[rows])
    for rows in np.split(np.random.default_rng(0).permutation(len(images)), [1200])
)


def build_classifier(*widths):
    """Build convolutions, the average of the last map, and a linear classifier."""
    x = images = keras.Input((8, 8, 1))
    for i, width in enumerate(widths):
        x = layers.Conv2D(width, 3, strides=1 + i % 2, padding="same", use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))
    return keras.Model(images, layers.Dense(10)(layers.GlobalAveragePooling2D()(x)))


def compile_model(model):
    """Compile a classifier, or a distiller of one."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    jit_compile = False if keras.backend.backend() == "tensorflow" else "auto"
    model.compile(keras.optimizers.Adam(0.02), loss, metrics=["accuracy"], jit_compile=jit_compile)
    return model


teacher = compile_model(build_classifier(32, 64, 64))
teacher.fit(*train, batch_size=50, epochs=3, verbose=0)

# %% [markdown]
# ## Storing
#
# `cache_teacher` keeps what the distiller reads of the teacher, here the logits of 1 + 4 cells of
# each image, and gives back a data set that carries them. It is a pass over the images; a second
# call finds all in the folder, and one that was killed goes on. `dtype="float16"` is half of the
# space.

# %%
folder = pathlib.Path(tempfile.mkdtemp(), "cells")
distiller = compile_model(keras_sdd.SDDDistiller(teacher, build_classifier(8, 16), scales=(1, 2)))
cells = keras_sdd.cache_teacher(distiller, train, folder, batch_size=50, verbose=0)
size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
print(f"{len(train[0])} images, {size / 1024:.0f} KiB in {folder}")

# %% [markdown]
# ## Training
#
# The same distiller, with the teacher in every step and with the cells. The first epoch of each is
# not timed: the step is compiled in it. The batch size of the cells is that of `cache_teacher`.
#
# How much is saved depends on the teacher. This one is small, and yours hardly is.

# %%
seconds = {}
for name, data in {"the teacher": (*train, 50), "its cells": (cells,)}.items():
    distiller.fit(*data, verbose=0)
    start = time.perf_counter()
    distiller.fit(*data, epochs=3, verbose=0)
    seconds[name] = time.perf_counter() - start
    print(f"3 epochs with {name}: {seconds[name]:.2f} s")

# %% [markdown]
# ## Without the teacher
#
# A `StoredTeacher` stands for the teacher where only the folder is at hand. `attach` finds the
# cells of each image by its pixels, in any order, and of a part of the images. Labels are not in
# the folder. The student may use some of the scales, and any loss of logits; terms that compare
# features need the teacher.

# %%
stored = keras_sdd.StoredTeacher(folder)
student = build_classifier(8, 16)
second = compile_model(keras_sdd.SDDDistiller(stored, student, scales=stored.scales))
second.fit(stored.attach(train, batch_size=50), epochs=8, verbose=0)
accuracy = second.evaluate(*test, batch_size=600, verbose=0, return_dict=True)["accuracy"]
print(f"student of the cells: {accuracy:.1%} of the test images")

# %% [markdown]
# ## What is refused
#
# Cells of an image hold for that image. Random augmentation would show others, and what the teacher
# said would be wrong of them. So every image is checked when it is read.

# %%
mirrored = train[0][:, :, ::-1]
try:
    second.fit(stored.attach((mirrored, train[1])), verbose=0)
except ValueError as error:
    refusal = error
    print(f"refused: {refusal}")
