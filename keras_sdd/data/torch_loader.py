"""A PyTorch `DataLoader` with stored outputs of a teacher. Imported where a loader is given."""

import keras
import torch


def to_numpy(batch):
    return keras.tree.map_structure(
        lambda x: x.numpy(force=True) if torch.is_tensor(x) else x, batch
    )


class CompletedLoader(torch.utils.data.DataLoader):
    """Reads another loader, with its own workers and order, and completes its batches.

    Args:
        loader: the other one.
        batches: a pass over its batches in NumPy, each time it is asked for.
        outputs: `keras_sdd.data.batches.StoredOutputs`.
    """

    def __init__(self, loader, batches, outputs):
        super().__init__(loader.dataset, batch_size=loader.batch_size)  # for who asks for these
        self._batches, self._outputs = batches, outputs

    def __len__(self):
        return self._outputs.views * self._batches.count

    def __iter__(self):
        for view in range(self._outputs.views):
            for batch in self._batches:
                yield keras.tree.map_structure(torch.as_tensor, self._outputs.complete(batch, view))
