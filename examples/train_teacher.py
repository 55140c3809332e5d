"""Train a network of the library with labels only.

    python examples/train_teacher.py --config=configs/cifar100.py:resnet32x4

The folder of the run, `--workdir`, then holds `last.keras`, `best.keras`, the log and the result.
The same command goes on with a run that was killed. `--config.smoke` is a small form on data made
on the spot; `--config.KEY=value` changes any setting; `--distribute` trains on all devices (on
PyTorch, start the program with torchrun).
"""

from absl import flags
from training import command_line, experiment, machine


def train_teacher(config, workdir, distribute=False):
    """Train the network of a config and return the result of the run."""
    devices = machine.setup_devices(config, distribute)

    def build_model(image_shape, *_):
        network = experiment.build_network(config, config.student, image_shape)
        return network, network

    return experiment.train(config, workdir, devices, build_model)


def main(config):
    """Train and report."""
    if config.method != "ce":
        raise command_line.SetupError(
            "This trains with labels only, as in --config=configs/cifar100.py:resnet32x4; for "
            f"distillation there is examples/distill.py. Received: {config.cell}"
        )
    workdir = command_line.choose_workdir(config)
    result = train_teacher(config, workdir, flags.FLAGS.distribute)
    experiment.report(result, workdir)


if __name__ == "__main__":
    command_line.define_flags()
    command_line.launch(main)
