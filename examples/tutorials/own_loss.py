# %% [markdown]
# # A loss of your own
#
# You learn to write a loss, to get its scale-decoupled form, to add a term that compares something
# else than logits, and to save both. Takes about 20 seconds.

# %%
import tempfile

import keras
import numpy as np
from keras import layers, ops
from sklearn.datasets import load_digits

import keras_sdd

# %% [markdown]
# ## The loss
#
# `call` gets labels (...) and logits (..., K) and gives a value for each position, (...). Written
# with `keras.ops`, it runs on every backend. Arguments of `__init__` are kept as attributes of the
# same name. Registered, the class is found when a saved distiller is loaded.
#
# Try it with arrays. `ScaleDecoupled` is its form for cells (B, N, K), the first the whole image:
# those of which the teacher is wrong where it is right of the image, or vice versa, count twice.


# %%
@keras.saving.register_keras_serializable()
class JensenShannon(keras_sdd.losses.LogitLoss):
    """Divergence of teacher and student from the mean of both, at a temperature."""

    def __init__(self, temperature=4.0):
        self.temperature = temperature

    def call(self, labels, teacher_logits, student_logits):
        teacher = ops.log_softmax(teacher_logits / self.temperature)
        student = ops.log_softmax(student_logits / self.temperature)
        middle = ops.logaddexp(teacher, student) - np.log(2.0)
        divergences = ops.exp(teacher) * (teacher - middle) + ops.exp(student) * (student - middle)
        return self.temperature**2 * ops.sum(divergences, axis=-1) / 2


logits = 10 * np.eye(3, dtype="float32")[None]  # an image of three cells that see classes 0, 1, 2
loss = JensenShannon(temperature=1.0)
decoupled = keras_sdd.losses.ScaleDecoupled(loss, complementary_weight=2.0)
per_cell = ops.convert_to_numpy(loss([[0, 0, 0]], logits, np.zeros_like(logits)))
per_image = ops.convert_to_numpy(decoupled([0], logits, np.zeros_like(logits)))
print(f"cells {per_cell.round(3)}, image {per_image.round(3)}: (1 + 2 + 2) / 3 of a cell")

# %% [markdown]
# ## The term
#
# A term compares something else. `read` says what it reads of both networks, `build` makes what it
# learns, `call` gives a value for each image. Its layer is trained with the student, and left out.


# %%
@keras.saving.register_keras_serializable()
class EmbeddingDistance(keras_sdd.terms.Term):
    """Squared distance between the teacher's embedding and a projection of the student's."""

    def read(self, network):
        return {"embedding": network.embedding}

    def build(self, teacher_shapes, student_shapes):
        self.project = layers.Dense(teacher_shapes["embedding"][-1])
        self.project.build(student_shapes["embedding"])

    def call(self, teacher, student, targets):
        gap = self.project(student["embedding"]) - teacher["embedding"]
        return ops.mean(gap**2, axis=-1)


# %% [markdown]
# ## Training
#
# The logs have each part of the loss, weighted. Choose the weights on validation images.

# %%
keras.utils.set_random_seed(0)
images, labels = load_digits(return_X_y=True)
images = images.reshape(-1, 8, 8, 1).astype("float32") / 16
train, validation = (images[:800], labels[:800]), (images[800:1300], labels[800:1300])


def build_classifier(*widths):
    x = images = keras.Input((8, 8, 1))
    for width in widths:
        x = layers.Conv2D(width, 3, strides=2, padding="same", use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))
    return keras.Model(images, layers.Dense(10)(layers.GlobalAveragePooling2D()(x)))


def fit(model):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    jit_compile = False if keras.backend.backend() == "tensorflow" else "auto"
    model.compile(keras.optimizers.Adam(0.02), loss, metrics=["accuracy"], jit_compile=jit_compile)
    return model.fit(*train, batch_size=50, epochs=8, verbose=0).history


teacher, student = build_classifier(32, 64), build_classifier(8, 16)
fit(teacher)
loss, term = JensenShannon(temperature=4.0), EmbeddingDistance(weight=0.5)
distiller = keras_sdd.SDDDistiller(teacher, student, loss, scales=(1, 2), feature_losses=[term])
logs = fit(distiller)
for name in ("student_loss", "distillation_loss", "embedding_distance_loss"):
    print(f"{name}: {logs[name][0]:.3f} in the first epoch, {logs[name][-1]:.3f} in the last")

# %% [markdown]
# ## Saving
#
# `distiller.student.save` saves the student alone; here all is saved, to go on training later.

# %%
path = f"{tempfile.mkdtemp()}/distiller.keras"
distiller.save(path)
loaded = keras.saving.load_model(path)
accuracy = loaded.evaluate(*validation, batch_size=500, verbose=0, return_dict=True)["accuracy"]
print(f"loaded, with {loaded.scale_decoupled_loss.loss}: {accuracy:.1%} of the validation images")
