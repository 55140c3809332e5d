"""A term of a user: it owns a trained layer, a batch norm, dropout and a memory."""

import keras
import numpy as np
from keras import layers, ops

from keras_sdd.terms import Term

NUM_CLASSES, SIZE = 4, 16


@keras.saving.register_keras_serializable(package="tests")
class Remembering(Term):
    """Distance of projected embeddings to the teacher's and to what was last seen of their class.

    With `dropout`, entries of the projection are dropped at random.
    """

    def __init__(self, dropout=0.0, seed=2, weight=0.5, warmup_steps=0, name=None):
        super().__init__(weight, warmup_steps, name)
        self.dropout, self.seed = dropout, seed

    def read(self, network):
        return {"embedding": network.embedding}

    def build(self, teacher_shapes, student_shapes):
        (*_, size), (*_, inputs) = teacher_shapes["embedding"], student_shapes["embedding"]
        self.project = layers.Dense(size, name="project")
        self.project.build((None, inputs))
        self.norm = layers.BatchNormalization(name="norm")
        self.norm.build((None, size))
        self.drop = layers.Dropout(self.dropout, seed=self.seed)
        self.memory = self.add_weight(
            name="memory", shape=(NUM_CLASSES, size), initializer="zeros", trainable=False
        )

    def call(self, teacher, student, targets):
        projected = self.drop(self.norm(self.project(student["embedding"])))
        seen = ops.one_hot(ops.cast(targets["labels"], "int32"), NUM_CLASSES)
        gap = ops.mean((projected - teacher["embedding"]) ** 2)
        gap = gap + ops.mean((projected - ops.matmul(seen, self.memory)) ** 2)
        counts = ops.maximum(ops.sum(seen, axis=0), 1.0)[:, None]
        means = ops.matmul(ops.transpose(seen), ops.stop_gradient(projected)) / counts
        self.memory.assign(0.5 * self.memory + 0.5 * means)
        return gap


def remember(weights, teacher, student, labels):
    """Its formula before the first step, without dropout."""
    projected = student["embedding"] @ weights["project/kernel"] + weights["project/bias"]
    deviation = np.sqrt(projected.var(0) + 1e-3)
    projected = (projected - projected.mean(0)) / deviation * weights["norm/gamma"]
    projected = projected + weights["norm/beta"]
    recalled = weights["memory"][labels]
    return np.mean((projected - teacher["embedding"]) ** 2) + np.mean((projected - recalled) ** 2)
