# SPDX-License-Identifier: BSD-3-Clause
"""Add up a loss with Spark, whose executors get batches of Arrow, or with Ray, whose workers get arrays.

Both give one row with a state for each partition or batch: bytes, a binary column. ``python spark_and_ray.py spark``
and ``python spark_and_ray.py ray`` run it here, where they are installed.
"""

import os
import sys

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


def with_spark(rows):
    from pyspark.sql import SparkSession

    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    spark = SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false").getOrCreate()
    frame = spark.createDataFrame(rows, "logits array<float>, label int").repartition(3)
    states = frame.select("logits", "label").mapInArrow(states_of, "state binary")
    return merged([row.state for row in states.collect()])


def with_ray(rows):
    import ray

    ray.init(num_cpus=2, include_dashboard=False)
    dataset = ray.data.from_items([{"logits": np.float32(logits), "label": label} for logits, label in rows])
    states = dataset.map_batches(state_of, batch_format="numpy", batch_size=20)
    return merged([row["state"] for row in states.take_all()])


def main(engine):
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(50, 5)).astype(np.float32), rng.integers(0, 5, 50)
    total = {"spark": with_spark, "ray": with_ray}[engine](list(zip(logits.tolist(), labels.tolist(), strict=True)))
    assert total.compute() == nll.cross_entropy(logits, labels)
    print(f"{total.compute():.7f} ± {total.standard_error:.7f} over {total.count} samples")


if __name__ == "__main__":
    main(sys.argv[1])
