# %% [markdown]
# # A PyTorch teacher
#
# The teacher is a PyTorch module, the student a Keras model, on any backend. You learn both ways:
# on Keras's PyTorch backend the module runs in every step, on the others what it says is stored
# first. PyTorch has to be installed, whichever backend trains. Takes about 20 seconds on a CPU
# core, imports included.

# %%
import pathlib
import tempfile

import keras
import numpy as np
import torch
from keras import layers
from sklearn.datasets import load_digits

import keras_sdd

# %% [markdown]
# ## The module
#
# Yours comes from timm, torchvision or a file of yours; this one is trained on the spot, on
# handwritten digits of 8 x 8 pixels. It averages a map and classifies it, as most do.

# %%
keras.utils.set_random_seed(0)
torch.manual_seed(0)
images, labels = load_digits(return_X_y=True)
images = images.reshape(-1, 8, 8, 1).astype("float32") / 16
train, test = (
    (images[rows], labels[rows])
    for rows in np.split(np.random.default_rng(0).permutation(len(images)), [1200])
)

body = torch.nn.Sequential(
    *(torch.nn.Conv2d(1, 16, 3, padding=1), torch.nn.BatchNorm2d(16), torch.nn.ReLU()),
    *(torch.nn.Conv2d(16, 32, 3, 2, padding=1), torch.nn.BatchNorm2d(32), torch.nn.ReLU()),
)
classifier = torch.nn.Linear(32, 10)
module = torch.nn.Sequential(body, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), classifier)

optimizer = torch.optim.Adam(module.parameters(), 0.02)
x, y = torch.from_numpy(train[0]).permute(0, 3, 1, 2), torch.from_numpy(train[1])
for _ in range(6):
    for rows in torch.randperm(len(x)).split(50):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(module(x[rows]), y[rows]).backward()
        optimizer.step()
module.eval()

# %% [markdown]
# ## The module in every step
#
# `from_torch` makes a Keras model of a module. Images come as the student gets them, channels last;
# `mean=` and `std=` normalize them for the module. It needs Keras's PyTorch backend.
#
# ## Its logits in a folder
#
# On another backend the module is a function of NumPy images, which runs once. It should give a map
# of logits, the classifier at every position of the last map, from which the library makes the
# cells. (The average of the map are the logits of the whole image, as pooling and classifier are
# linear.) A function that gives logits (B, K) alone will do for plain distillation, `scales=(1,)`.
# An ONNX file or another framework is just such a function.
#
# `cache_outputs` gives back the data set with the cells; a `StoredTeacher` stands for the teacher.


# %%
def compute_maps(images):
    """Maps of logits (B, H, W, K), NumPy, for NumPy images (B, H, W, C)."""
    with torch.no_grad():
        maps = body(torch.from_numpy(images).permute(0, 3, 1, 2))
        return classifier(maps.permute(0, 2, 3, 1)).numpy()


if keras.backend.backend() == "torch":
    data = (*train, 50)  # images, labels, batch size
    teacher = keras_sdd.teachers.from_torch(module, input_shape=(8, 8, 1))
else:
    folder = pathlib.Path(tempfile.mkdtemp(), "cells")
    data = (keras_sdd.cache_outputs(compute_maps, train, folder, batch_size=50, verbose=0),)
    teacher = keras_sdd.StoredTeacher(folder)

# %% [markdown]
# ## The student
#
# From here on all is as with a teacher of Keras. What `inspect_cells` and terms on features need is
# the module itself, so these work on the PyTorch backend alone. Save the student: a `.keras` file
# cannot hold a module.

# %%
student = keras.Sequential(
    [
        keras.Input((8, 8, 1)),
        layers.Conv2D(8, 3, padding="same", activation="relu"),
        layers.BatchNormalization(momentum=0.9),
        layers.Conv2D(16, 3, strides=2, padding="same", activation="relu"),
        layers.BatchNormalization(momentum=0.9),
        layers.GlobalAveragePooling2D(),
        layers.Dense(10),
    ]
)
distiller = keras_sdd.SDDDistiller(teacher, student, scales=(1, 2))
distiller.compile(
    keras.optimizers.Adam(0.02),
    keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    metrics=["accuracy"],
    jit_compile=False if keras.backend.backend() == "tensorflow" else "auto",
)
distiller.fit(*data, epochs=5, verbose=0)
right = compute_maps(test[0]).mean((1, 2)).argmax(-1) == test[1]
print(f"teacher, on PyTorch: {np.mean(right):.1%} of the test images")
accuracy = distiller.evaluate(*test, batch_size=600, verbose=0, return_dict=True)["accuracy"]
print(f"student, on {keras.backend.backend()}: {accuracy:.1%}")
student.save(pathlib.Path(tempfile.mkdtemp(), "student.keras"))
