"""JAX: the teacher reads its variables from the state of the step, where they are not constants."""

import keras

TELLS_VERSIONS = False


def read_versions(variables):
    return None


def run_teacher(distiller, frozen, state, x):
    ((_, non_trainable, *_),) = state
    mapping = list(zip(distiller.non_trainable_variables, non_trainable, strict=True))
    with keras.StatelessScope(state_mapping=mapping):
        return frozen.model(x, training=False)


def batch_norm(inputs, axis, gamma, beta, epsilon):
    return None  # the compiler makes one of Keras's own


def count_replicas():
    return 1


def average_over_devices(value):
    return value  # of the whole batch already


def gather_over_devices(value):
    return value


def get_random_state():
    return {}


def set_random_state(arrays):
    """Nothing: all state is in Keras's variables."""
