# %% [markdown]
# # Distil your own model
#
# A trained classifier teaches a small one. You learn what parts of images look like to it, how to
# train a student, choose the weight of the distillation, test and save. Takes about 20 seconds.

# %%
import tempfile

import keras
import numpy as np
from keras import layers
from sklearn.datasets import load_digits

import keras_sdd

# %% [markdown]
# ## Data
#
# Scenes of four handwritten digits. The label is the one that is there twice, so half of the
# quarters show another class. The three sets share no digit.

# %%
keras.utils.set_random_seed(0)
random = np.random.default_rng(0)
digits, classes = load_digits(return_X_y=True)
digits = digits.reshape(-1, 8, 8).astype("float32") / 16


def compose_scenes(rows, count):
    """Make scenes (count, 16, 16, 1) of the digits in these rows, and labels (count,)."""
    scenes, labels = np.zeros((count, 16, 16, 1), "float32"), np.zeros(count, "int32")
    for i in range(count):
        labels[i], *others = random.permutation(10)[:3]
        shown = random.permutation([labels[i], labels[i], *others])
        a, b, c, d = (digits[random.choice(rows[classes[rows] == x])] for x in shown)
        scenes[i, ..., 0] = np.block([[a, b], [c, d]])
    return scenes, labels


rows = np.split(random.permutation(len(digits)), [900, 1300])
train, validation, test = map(compose_scenes, rows, (1500, 500, 1000))

# %% [markdown]
# ## The teacher
#
# Yours comes from `keras.saving.load_model("teacher.keras")`, and has to pool a map. These networks
# end with logits, so the loss is told `from_logits=True`. (A teacher may end with a softmax.)
#
# On a CPU with TensorFlow, `jit_compile=False` is faster for small convolutions than Keras's
# default. On JAX keep the default: False compiles nothing there.


# %%
def build_classifier(*widths):
    """Build convolutions, the average of the last map, and a linear classifier."""
    x = images = keras.Input((16, 16, 1))
    for width in widths:
        x = layers.Conv2D(width, 3, strides=2, padding="same", use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))
    return keras.Model(images, layers.Dense(10)(layers.GlobalAveragePooling2D()(x)))


def fit(model):
    """Train a classifier, or a distiller of one."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    jit_compile = False if keras.backend.backend() == "tensorflow" else "auto"
    model.compile(keras.optimizers.Adam(0.02), loss, metrics=["accuracy"], jit_compile=jit_compile)
    model.fit(*train, batch_size=100, epochs=10, verbose=0)


teacher = build_classifier(32, 64)
fit(teacher)

# %% [markdown]
# ## What regions look like to it
#
# Which layer is the head need not be said: it is what follows the pooling, here the Dense layer. It
# gives logits at every position of the map. A model without such a head is refused.
#
# Read the row of scale 2: half of the cells are complementary (right where the whole scene is
# wrong, or wrong where it is right), and the class that most cells predict ("votes") is right more
# often than that of the whole scene ("accuracy" of scale 1).

# %%
print(keras_sdd.expose_spatial_logits(teacher).output["spatial_logits"].shape)
print(keras_sdd.inspect_cells(teacher, validation, scales=(1, 2), verbose=0))

# %% [markdown]
# ## Students
#
# A distiller is a Keras model. Its loss is that on the labels plus `distillation_weight` times the
# distillation: try some weights, choose on validation scenes. Weight 0 stands for labels alone.

# %%
students, accuracies = {}, {}
for weight in (0, 1, 4):
    keras.utils.set_random_seed(1)  # the same initial weights for all
    student = model = build_classifier(8, 16)
    if weight:
        model = keras_sdd.SDDDistiller(teacher, student, scales=(1, 2), distillation_weight=weight)
    fit(model)
    logs = model.evaluate(*validation, batch_size=500, verbose=0, return_dict=True)
    students[weight], accuracies[weight] = student, logs["accuracy"]
    print(f"student, weight {weight}: {logs['accuracy']:.1%} of the validation scenes")

# %% [markdown]
# ## Test and save
#
# The test scenes are read once, at the end. To load the file, Keras is enough. One seed proves
# nothing: `examples/study.py` compares methods over seeds, with tuned weights; plain KD
# (`scales=(1,)`) was often as good (docs/studies.md).

# %%
best = max(accuracies, key=accuracies.get)
path = f"{tempfile.mkdtemp()}/student.keras"
students[best].save(path)
student = keras.saving.load_model(path)
test_accuracy = np.mean(student.predict(test[0], verbose=0).argmax(-1) == test[1])
print(f"student, weight {best}: {test_accuracy:.1%} of the test scenes, saved as {path}")
