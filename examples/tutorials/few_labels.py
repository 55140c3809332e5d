# %% [markdown]
# # Few labels
#
# Images are easy to get, labels are not. What a teacher says of images without a label is something
# to learn from: you learn to mark such images, what then counts for them and what does not, and
# what that is worth here. Takes about 20 seconds on a CPU core, imports included.

# %%
import keras
import numpy as np
from keras import layers
from sklearn.datasets import load_digits

import keras_sdd

# %% [markdown]
# ## Data
#
# Handwritten digits of 8 x 8 pixels. The teacher comes from elsewhere: it saw 500 digits that the
# student never sees. Of the student's 700, 30 have a label, three of each class. The others are
# marked with -1, any number that is no class.

# %%
images, labels = load_digits(return_X_y=True)
images = images.reshape(-1, 8, 8, 1).astype("float32") / 16
elsewhere, own, test = (
    (images[rows], labels[rows])
    for rows in np.split(np.random.default_rng(0).permutation(len(images)), [500, 1200])
)
labelled = np.concatenate([np.flatnonzero(own[1] == digit)[:3] for digit in range(10)])
repeated = np.resize(labelled, len(own[1]))  # the same 30, for as many steps as with all images
few = own[0][repeated], own[1][repeated]
marked = np.full_like(own[1], -1)
marked[labelled] = own[1][labelled]
print(f"{len(marked)} images, {np.sum(marked >= 0)} of them with a label")


def build_classifier(*widths):
    """Build convolutions, the average of the last map, and a linear classifier."""
    x = images = keras.Input((8, 8, 1))
    for i, width in enumerate(widths):
        x = layers.Conv2D(width, 3, strides=1 + i % 2, padding="same", use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))
    return keras.Model(images, layers.Dense(10)(layers.GlobalAveragePooling2D()(x)))


def fit(model, x, y=None):
    """Train a classifier, or a distiller of one."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    jit_compile = False if keras.backend.backend() == "tensorflow" else "auto"
    model.compile(keras.optimizers.Adam(0.02), loss, metrics=["accuracy"], jit_compile=jit_compile)
    model.fit(x, y, batch_size=50, epochs=8, verbose=0)


keras.utils.set_random_seed(0)
teacher = build_classifier(16, 32)
fit(teacher, *elsewhere)

# %% [markdown]
# ## Training
#
# Four students from the same initial weights: from the labels alone; with the teacher on the same
# 30 images; with it on all, where `ignore_class=-1` says which label is none; and without any
# label.
#
# An image without a label has no part in the loss on the labels, its mean, and the metrics (so
# `accuracy` of the logs is that of the 30). Its cells are compared with the teacher's like all
# others; where a term asks for a label, the teacher's class stands in. `fit(x)` needs no labels.
#
# The loss on the labels is then a mean over the two or three of a batch that have one, and noisy:
# give it a small `student_loss_weight`.

# %%
students = {
    "labels of 30 images": (few, None),
    "30 images, with a teacher": (few, {}),
    "all images, with a teacher": (
        (own[0], marked),
        {"ignore_class": -1, "student_loss_weight": 0.1},
    ),
    "all images, no labels": (own[:1], {}),
}
models = {}
for name, (data, options) in students.items():
    keras.utils.set_random_seed(1)
    models[name] = build_classifier(8, 16)
    if options is not None:
        models[name] = keras_sdd.SDDDistiller(teacher, models[name], scales=(1, 2), **options)
    fit(models[name], *data)

# %% [markdown]
# ## Test
#
# The small weight above was found by looking at these very images, so the figures are an
# illustration, no evidence. What you choose, choose on labelled images that are in neither set.
#
# What more images bring depends on the teacher being right about them: its mistakes are learned as
# well. One seed shows a direction and no more; `configs/studies.py:unlabelled` is a study over
# seeds for `examples/study.py`.

# %%
accuracies = {
    name: np.mean(model.predict(test[0], batch_size=600, verbose=0).argmax(-1) == test[1])
    for name, model in {"the teacher": teacher, **models}.items()
}
for name, accuracy in accuracies.items():
    print(f"{name}: {accuracy:.1%} of the test images")
