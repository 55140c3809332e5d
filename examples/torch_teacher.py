"""A PyTorch teacher for a student that trains on JAX, TensorFlow or PyTorch.

    KERAS_BACKEND=jax python examples/torch_teacher.py

The teacher runs once, as a function from NumPy images to NumPy maps of logits. What it gives is
kept in a folder, and a `StoredTeacher` stands for it in the distiller.
"""

# %% Images: handwritten digits, 16 x 16, of which the teacher has 1,000 and the student the same.
import pathlib
import tempfile

import keras
import numpy as np
import torch
from sklearn import datasets

import keras_sdd

keras.utils.set_random_seed(0)
torch.manual_seed(0)
digits, labels = datasets.load_digits(return_X_y=True)
images = np.kron(digits.reshape(-1, 8, 8, 1) / 16, np.ones((1, 2, 2, 1))).astype("float32")
train, test = (images[:1000], labels[:1000]), (images[1000:], labels[1000:])

# %% A network of PyTorch: a body that gives a map, its average, and a linear classifier.
body = torch.nn.Sequential(
    *(torch.nn.Conv2d(1, 32, 3, padding=1), torch.nn.BatchNorm2d(32), torch.nn.ReLU()),
    torch.nn.MaxPool2d(2),
    *(torch.nn.Conv2d(32, 64, 3, padding=1), torch.nn.BatchNorm2d(64), torch.nn.ReLU()),
)
classifier = torch.nn.Linear(64, 10)


def to_torch(images):
    """Channels first, as PyTorch has them."""
    return torch.from_numpy(images).permute(0, 3, 1, 2)


optimizer = torch.optim.Adam([*body.parameters(), *classifier.parameters()], 3e-3)
for _ in range(20):
    for rows in torch.randperm(len(train[0])).split(50):
        logits = classifier(body(to_torch(train[0][rows.numpy()])).mean((2, 3)))
        loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(train[1])[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
body.eval()


# %% The teacher: the classifier at every position of the map. Its average are the logits.
def teacher(images):
    """Maps of logits (B, H, W, K) for images (B, H, W, C)."""
    with torch.no_grad():
        return classifier(body(to_torch(images)).permute(0, 2, 3, 1)).numpy()


right = np.mean(teacher(test[0]).mean((1, 2)).argmax(-1) == test[1])
print(f"teacher, on PyTorch: {right:.1%} of {len(test[1])} test images")

# %% The student is Keras's, and trains on whichever backend Keras has.
student = keras.Sequential(
    [
        keras.Input((16, 16, 1)),
        keras.layers.Conv2D(16, 3, strides=2, padding="same", activation="relu"),
        keras.layers.BatchNormalization(),
        keras.layers.Conv2D(32, 3, padding="same", activation="relu"),
        keras.layers.BatchNormalization(),
        keras.layers.GlobalAveragePooling2D(),
        keras.layers.Dense(10),
    ]
)
folder = pathlib.Path(tempfile.mkdtemp(), "cells")  # keep it, and the teacher need not run again
cells = keras_sdd.cache_outputs(teacher, train, folder, scales=(1, 2, 4), verbose=0)
distiller = keras_sdd.SDDDistiller(keras_sdd.StoredTeacher(folder), student, scales=(1, 2, 4))
distiller.compile(keras.optimizers.Adam(5e-3), metrics=["accuracy"], jit_compile=False)
distiller.fit(cells, epochs=20, verbose=0)
result = distiller.evaluate(*test, verbose=0, return_dict=True)
print(f"student, on {keras.backend.backend()}: {result['accuracy']:.1%}")
