"""Train what a config says: a network with labels only, or a student by a teacher.

    python examples/train.py --config=configs/cifar100.py:resnet32x4
    python examples/train.py --config=configs/cifar100.py:resnet32x4,shufflenet_v1,sd_dkd \\
        --config.teacher_checkpoint=resnet32x4.pth

The first is what `train_teacher.py` does, the second `distill.py`; each of these takes configs of
its kind alone. The method is one of configs/methods.py, or a sum of them, as `sd_kd+sp`, and the
teacher a `.keras` file, as the first command and `convert_checkpoint.py` write them, or a PyTorch
checkpoint of the original network.

The folder of the run, `--workdir`, then holds the network as `last.keras` and `best.keras`, the log
and the result. The same command goes on with a run that was killed. `--config.reading=paper`
follows the paper's text where its authors' code differs, `--config.smoke` is a small form on data
made on the spot, and `--config.KEY=value` changes any setting, as
`--config.terms.distillation_loss.weight=0.5`; with --help and a --config, all its keys are listed.
`--distribute` trains on all devices; on PyTorch, start the program with torchrun.
"""

from absl import flags
from training import command_line, experiment


def main(config):
    """Train and report."""
    workdir = command_line.choose_workdir(config)
    result = experiment.train(config, workdir, flags.FLAGS.distribute)
    experiment.report(result, workdir)


if __name__ == "__main__":
    command_line.define_flags()
    command_line.launch(main)
