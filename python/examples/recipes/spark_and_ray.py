# SPDX-License-Identifier: BSD-3-Clause
"""Add up a loss with Spark, whose executors get batches of Arrow, and with Ray, whose workers get arrays.

Both give one row with a state for each partition or batch: bytes, a binary column. ::

    states = frame.select("logits", "label").mapInArrow(states_of, "state binary")      # of a Spark DataFrame
    total = merged([row.state for row in states.collect()])

    states = dataset.map_batches(state_of, batch_format="numpy")                        # of a Ray Dataset
    total = merged([row["state"] for row in states.take_all()])

    print(total.compute(), total.standard_error)
"""

import numpy as np

import nll


def states_of(batches):
    """One state for all batches of a partition. They have a column of lists, `logits`, and one of integers, `label`."""
    import pyarrow as pa

    total = nll.LossAccumulator("cross_entropy")
    for batch in batches:
        logits, labels = batch.column("logits"), batch.column("label")
        total.update(logits.flatten().to_numpy().reshape(len(labels), -1), labels.to_numpy())
    yield pa.RecordBatch.from_pydict({"state": pa.array([total.to_bytes()], pa.binary())})


def state_of(batch):
    """One state for a batch of arrays."""
    total = nll.LossAccumulator("cross_entropy")
    total.update(batch["logits"], batch["label"])
    return {"state": np.array([total.to_bytes()], object)}


def merged(states):
    """The accumulator of all."""
    return nll.LossAccumulator.from_bytes(nll.merge(states))
