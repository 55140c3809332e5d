"""TensorFlow: a strategy from the first call on; Keras's trainer runs its steps under it."""

import os

import keras
import tensorflow as tf

from keras_sdd._backend import bind, list_statistics


def start(timeout):
    if tf.distribute.has_strategy():
        raise RuntimeError("A tf.distribute strategy is set already. Call initialize() once.")
    if "TF_CONFIG" not in os.environ:
        strategy, workers = _mirror(), {}
    else:
        strategy, workers = _start_workers(timeout)
    tf.distribute.experimental_set_strategy(strategy)
    return {"num_devices": strategy.num_replicas_in_sync, "splits_batches": True} | workers


def _mirror():
    kind = "GPU" if tf.config.list_logical_devices("GPU") else "CPU"
    return tf.distribute.MirroredStrategy(
        [device.name for device in tf.config.list_logical_devices(kind)]
    )


def _start_workers(timeout):
    options = tf.distribute.experimental.CommunicationOptions(timeout_seconds=timeout)
    try:
        resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
        cluster = resolver.cluster_spec().as_dict()
        kinds = ("chief", "worker")
        tasks = [(kind, i) for kind in kinds for i in range(len(cluster.get(kind, ())))]
        rank = tasks.index((resolver.task_type, resolver.task_id))
    except ValueError as error:
        raise RuntimeError(
            "TF_CONFIG does not say which workers there are and which of them this is; see "
            f"tf.distribute.MultiWorkerMirroredStrategy. Received: {os.environ['TF_CONFIG']!r}"
        ) from error
    strategy = tf.distribute.MultiWorkerMirroredStrategy(resolver, options)
    return strategy, {"num_processes": len(tasks), "rank": rank}


def leave():
    """Let every process compute alone from now on."""
    strategy = tf.distribute.get_strategy()
    strategy.reduce("SUM", strategy.run(lambda: tf.constant(1.0)), axis=None)  # all have come
    tf.distribute.experimental_set_strategy(None)


def prepare(model):
    """Put right what Keras's trainer and optimizers leave undone under a strategy.

    Methods of this one model and its optimizer are replaced. Keras 3.15 keeps moving statistics
    of its own for every replica, and clips and checks the gradients of each before it sums them.
    """
    strategy = model.distribute_strategy
    _average_statistics(model, strategy)
    _sum_gradients(model.optimizer)
    if isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        _fit_under_workers(model, strategy)


def _average_statistics(model, strategy):
    """Average moving statistics over replicas whenever the results of an epoch are read."""
    variables = [v.value for v in list_statistics(model)]
    get_result = bind(model, "get_metrics_result")

    def average():
        values = [tf.identity(variable) for variable in variables]
        means = tf.distribute.get_replica_context().all_reduce("MEAN", values)
        for variable, mean in zip(variables, means, strict=True):
            variable.assign(mean)

    @tf.function
    def average_all():
        strategy.run(average)

    def get_metrics_result():
        if variables and tf.executing_eagerly() and tf.distribute.in_cross_replica_context():
            average_all()  # elsewhere a replica's step reads its own results
        return get_result()

    model.get_metrics_result = get_metrics_result


def _sum_gradients(optimizer):
    """Sum gradients over replicas before they are clipped and looked through for infinities."""
    apply = bind(optimizer, "apply")
    inner = getattr(optimizer, "inner_optimizer", optimizer)

    def apply_sums(grads, trainable_variables=None):
        known = [x for x in grads if x is not None]
        sums = iter(tf.distribute.get_replica_context().all_reduce("SUM", known))
        return apply([None if x is None else next(sums) for x in grads], trainable_variables)

    optimizer.apply = apply_sums
    inner._all_reduce_sum_gradients = lambda grads_and_variables: grads_and_variables


def _fit_under_workers(model, strategy):
    """Let `fit` and `evaluate` run under several workers.

    Keras's take a mean over the first axis of what a step logs, which scalars do not have, and
    build from the first batch, which they do not take for a distributed one.
    """

    def with_axis(name):
        step = bind(model, name)

        def run(data):
            return keras.tree.map_structure(lambda x: tf.reshape(x, (1,)), step(data))

        return run

    def build(iterator=None, data_batch=None):
        if iterator is not None:
            _, _, batches = next(iter(iterator))
            data_batch = keras.tree.map_structure(
                lambda x: strategy.experimental_local_results(x)[0], next(batches)
            )
        with strategy.scope():
            model._symbolic_build(data_batch=data_batch)

    model.train_step, model.test_step = with_axis("train_step"), with_axis("test_step")
    model._maybe_symbolic_build = build
