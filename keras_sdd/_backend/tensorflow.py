"""TensorFlow: the training step opens its gradient tape after the teacher has run."""

import tensorflow as tf

TELLS_VERSIONS = False


def read_versions(variables):
    return None


def run_teacher(distiller, frozen, state, x):
    return tf.nest.map_structure(tf.stop_gradient, frozen.model(x, training=False))


def batch_norm(inputs, axis, gamma, beta, epsilon):
    if len(inputs.shape) != 4 or axis not in (-1, 3):  # CPUs have it for channels last alone
        return None
    outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
        x=inputs, scale=gamma, offset=beta, mean=[], variance=[], epsilon=epsilon
    )
    return outputs, mean, variance


def count_replicas():
    return tf.distribute.get_strategy().num_replicas_in_sync


def average_over_devices(value):
    replica = tf.distribute.get_replica_context()
    if replica is None or replica.num_replicas_in_sync == 1:
        return value
    return replica.all_reduce("MEAN", value)


def gather_over_devices(value):
    replica = tf.distribute.get_replica_context()
    if replica is None or replica.num_replicas_in_sync == 1:
        return value
    return replica.all_gather(value, axis=0)


def get_random_state():
    return {}


def set_random_state(arrays):
    """Nothing: all state is in Keras's variables."""
