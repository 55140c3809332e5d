"""Evaluate a saved teacher or student on the test images of a config's data set.

python examples/evaluate.py --config=configs/cifar100.py:resnet32x4 --checkpoint=resnet32x4.pth
"""

import keras
from absl import flags
from training import command_line, data_sets, experiment, machine, networks

import keras_sdd


def evaluate(config, checkpoint):
    """Return loss, top-1 and top-5 accuracy of a saved network as a dict."""
    machine.setup_devices(config)
    test_data = data_sets.load_test_data(config)
    shape = test_data.element_spec[0].shape[1:]
    network = networks.load_network(checkpoint, config, config.student, shape)
    network.compile(
        loss=keras_sdd.losses.CrossEntropy(),
        metrics=experiment.make_metrics(network),
        jit_compile=machine.choose_jit_compile(config),
    )
    return network.evaluate(test_data, return_dict=True, verbose=0)


def main(config):
    """Evaluate and report."""
    checkpoint = flags.FLAGS.checkpoint
    if not checkpoint:
        raise command_line.SetupError("Pass the file to evaluate as --checkpoint.")
    results = evaluate(config, checkpoint)
    print(
        f"{checkpoint}: top-1 {100 * results['accuracy']:.2f} %, top-5 "
        f"{100 * results['top5_accuracy']:.2f} %, loss {results['loss']:.4f}, on the "
        f"{keras.backend.backend()} backend"
    )


if __name__ == "__main__":
    command_line.define_flags()
    flags.DEFINE_string(
        "checkpoint", None, "The .keras file, or PyTorch checkpoint of the student of --config."
    )
    command_line.launch(main)
