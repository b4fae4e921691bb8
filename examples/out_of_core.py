"""Train on more data than a worker may hold in memory: two processes, each on its own chunks.

    python examples/out_of_core.py [--data MB] [--memory-limit MB] [--epochs N] [--directory PATH]

The program writes a data set to disk, a file a chunk, and starts a Dask cluster of two worker
processes on this machine, each with less memory than the data set takes. Then it trains the network
of `digits.py`, A = X W1 + b1, H = relu(A), O = H W2 + b2 with softmax cross-entropy, on minibatches
of several chunks. Nothing in `loss_and_gradient` is about Dask: X is a lazy array in chunks, the
weights are NumPy arrays, and so every chunk is read, run forward and backward in one of the
workers, and only the sums of the gradients over the batch, 0.2 MB, come back.

The gradient of the first minibatch is computed on this process too, by the same function on NumPy
arrays: the two must agree up to the order in which the examples are added.
"""

import argparse
import math
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import opsgrad as og

try:
    import dask
    import dask.array as da
    from distributed import Client, LocalCluster
    from tqdm import tqdm
except ImportError as error:
    sys.exit(f"This example needs {error.name}: pip install 'opsgrad[dask,demo]'")

Array = Any
"""A Dask array or a NumPy array."""

Parameters = tuple[tuple[Array, ...], ...]
"""One tuple of arrays for each stage of the network: ((W1, b1), (), (W2, b2))."""

FEATURES, HIDDEN, CLASSES = 256, 128, 10
CENTRES = 3
"""Clouds of points that make up a class: no hyperplane parts the classes."""

EXAMPLES = 8192
"""Examples a chunk, 8 MiB."""

CHUNK_BYTES = EXAMPLES * (FEATURES * 4 + 8)
WORKERS = 2
LEARNING_RATE, MOMENTUM = 0.1, 0.9
MEGABYTE = 2**20

NETWORK = og.chain(og.dense, og.relu, og.dense)
LOSS = og.softmax_cross_entropy_with_integer_labels


class Outcome(NamedTuple):
    """What a run came to."""

    data_bytes: int
    limit_bytes: int
    peak_bytes: int
    """The most memory that a worker process has held at any time."""
    difference: float
    """Between the gradients of one step on the cluster and here, relative to the largest slope."""
    first_loss: float
    last_loss: float
    accuracy: float
    seconds: float


# -- data on disk ----------------------------------------------------------------------------------


def generate(directory: Path, count: int, seed: int) -> None:
    """Write `count` chunks of examples: points about the centres of their class."""
    centres = np.random.default_rng(seed).normal(size=(CLASSES, CENTRES, FEATURES))
    for number in tqdm(range(count), "writing data", unit="chunk"):
        rng = np.random.default_rng((seed, number))
        labels = rng.integers(CLASSES, size=EXAMPLES)
        inputs = rng.standard_normal((EXAMPLES, FEATURES), np.float32)
        inputs *= 2.0
        inputs += centres.astype(np.float32)[labels, rng.integers(CENTRES, size=EXAMPLES)]
        np.save(directory / f"inputs-{number}.npy", inputs)
        np.save(directory / f"labels-{number}.npy", labels)


def files(directory: Path, kind: str, numbers: Sequence[int]) -> list[Path]:
    """Return where the chunks of those numbers are, of "inputs" or of "labels"."""
    return [directory / f"{kind}-{number}.npy" for number in numbers]


def lazily(directory: Path, numbers: Sequence[int]) -> tuple[Array, Array]:
    """Return chunks as Dask arrays, each to be read where it is used."""
    read = dask.delayed(np.load, pure=True)

    def array(kind: str, shape: tuple[int, ...], dtype: Any) -> Array:
        chunks = [
            da.from_delayed(read(path), shape, dtype) for path in files(directory, kind, numbers)
        ]
        return da.concatenate(chunks)

    return (
        array("inputs", (EXAMPLES, FEATURES), np.float32),
        array("labels", (EXAMPLES,), np.int64),
    )


def eagerly(directory: Path, numbers: Sequence[int]) -> tuple[Array, Array]:
    """Return chunks as NumPy arrays in this process."""
    inputs, labels = (
        np.concatenate([np.load(path) for path in files(directory, kind, numbers)])
        for kind in ("inputs", "labels")
    )
    return inputs, labels


# -- the network -----------------------------------------------------------------------------------


def initial_parameters(seed: int) -> Parameters:
    """Draw weights that keep the spread of what passes through; the biases are zero."""
    rng = np.random.default_rng(seed)

    def dense(inputs: int, outputs: int, gain: float) -> tuple[Array, Array]:
        weights = rng.normal(0.0, gain / math.sqrt(inputs), (inputs, outputs))
        return weights.astype(np.float32), np.zeros(outputs, np.float32)

    return dense(FEATURES, HIDDEN, math.sqrt(2.0)), (), dense(HIDDEN, CLASSES, 1.0)


def loss_and_gradient(
    parameters: Parameters, inputs: Array, labels: Array
) -> tuple[Array, Parameters]:
    """Return the mean loss over a batch, and its gradient by every parameter: backpropagation."""
    logits, pull = og.vjp(NETWORK, inputs, parameters)
    loss, dlogits = og.value_and_grad(LOSS)(logits, labels, reduction="mean")
    _, dparameters = pull(dlogits)
    return loss, dparameters


def combine(function: Any, *parameters: Parameters) -> Parameters:
    """Apply `function` to the arrays in the same place of each of `parameters`."""
    return tuple(
        tuple(function(*arrays) for arrays in zip(*stages, strict=True))
        for stages in zip(*parameters, strict=True)
    )


def accuracy(parameters: Parameters, inputs: Array, labels: Array) -> float:
    """Return the share of examples whose largest logit is that of the true class."""
    hits = da.argmax(NETWORK(inputs, parameters), axis=-1) == labels
    return float(hits.mean().compute())


# -- on the cluster --------------------------------------------------------------------------------


def peak_memory() -> int:
    """Return the most memory that this process has held, in bytes."""
    status = Path("/proc/self/status")
    if status.exists():  # elsewhere than on Linux, the figure below is of this process alone
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def gradient_difference(directory: Path, parameters: Parameters, numbers: Sequence[int]) -> float:
    """Return how far the cluster's gradient of a batch is from that of this process.

    In each array the largest deviation is divided by the largest slope.
    """
    _, there = dask.compute(*[loss_and_gradient(parameters, *lazily(directory, numbers))])[0]
    _, here = loss_and_gradient(parameters, *eagerly(directory, numbers))
    differences = combine(lambda a, b: np.max(np.abs(a - b)) / np.max(np.abs(b)), there, here)
    return float(max(one for stage in differences for one in stage))


def train(
    directory: Path, batches: Sequence[Sequence[int]], settings: argparse.Namespace
) -> tuple[Parameters, list[float]]:
    """Descend along the gradient of one batch of chunks after the other; return the losses too."""
    parameters = initial_parameters(settings.seed)
    velocity = combine(np.zeros_like, parameters)
    losses: list[float] = []
    rng = np.random.default_rng(settings.seed)
    order = [i for _ in range(settings.epochs) for i in rng.permutation(len(batches))]
    progress = tqdm(order, "training", unit="step")
    for place in progress:
        step = loss_and_gradient(parameters, *lazily(directory, batches[place]))
        loss, gradient = dask.compute(step)[0]
        velocity = combine(lambda v, g: MOMENTUM * v - LEARNING_RATE * g, velocity, gradient)
        parameters = combine(lambda p, v: p + v, parameters, velocity)
        losses.append(float(loss))
        progress.set_postfix(loss=f"{losses[-1]:.4f}")
    return parameters, losses


def run_on_cluster(directory: Path, count: int, settings: argparse.Namespace) -> Outcome:
    """Check the gradient, train on all chunks but the last batch of them, test on that one."""
    size = settings.batch
    batches = [range(start, min(start + size, count)) for start in range(0, count, size)]
    start = time.perf_counter()
    cluster = LocalCluster(
        n_workers=WORKERS,
        threads_per_worker=1,
        processes=True,
        memory_limit=settings.memory_limit * MEGABYTE,
        dashboard_address=":0",  # no fixed port: another cluster may have it
    )
    with cluster, Client(cluster) as client:
        difference = gradient_difference(directory, initial_parameters(settings.seed), batches[0])
        parameters, losses = train(directory, batches[:-1], settings)
        right = accuracy(parameters, *lazily(directory, batches[-1]))
        peak = max(client.run(peak_memory).values())
    return Outcome(
        data_bytes=count * CHUNK_BYTES,
        limit_bytes=settings.memory_limit * MEGABYTE,
        peak_bytes=peak,
        difference=difference,
        first_loss=losses[0],
        last_loss=float(np.mean(losses[1 - len(batches) :])),
        accuracy=right,
        seconds=time.perf_counter() - start,
    )


# -- the program -----------------------------------------------------------------------------------


def print_table(outcome: Outcome) -> None:
    """Print what the run came to."""
    rows = {
        "data on disk": f"{outcome.data_bytes / MEGABYTE:.0f} MB",
        "memory limit of a worker": f"{outcome.limit_bytes / MEGABYTE:.0f} MB",
        "peak memory of a worker": f"{outcome.peak_bytes / MEGABYTE:.0f} MB",
        "loss of the first batch": f"{outcome.first_loss:.4f}",
        "mean loss of the last epoch": f"{outcome.last_loss:.4f}",
        "accuracy on unseen data": f"{outcome.accuracy:.2%}",
        "time with the cluster": f"{outcome.seconds:.1f} s",
    }
    print()
    for name, value in rows.items():
        print(f"{name:<30}{value:>12}")
    print(
        f"\nLargest difference between the gradients of a batch on the cluster and on NumPy: "
        f"{outcome.difference:.1e}\nof the largest slope of its array (float32 has 1.2e-07)."
    )


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=int, default=768, help="size of the data set in MB (768)")
    parser.add_argument(
        "--memory-limit", type=int, default=512, help="of each of the two workers in MB (512)"
    )
    parser.add_argument("--epochs", type=int, default=2, help="passes over the data set (2)")
    parser.add_argument("--batch", type=int, default=4, help="chunks of 8 MB a step (4)")
    parser.add_argument("--seed", type=int, default=0, help="of data, weights and order (0)")
    parser.add_argument(
        "--directory", type=Path, help="where to keep the data; without it, they are deleted"
    )
    settings = parser.parse_args(arguments)
    if min(settings.epochs, settings.batch) < 1 or settings.seed < 0:
        parser.error("--epochs and --batch must be at least 1, --seed at least 0")
    if settings.memory_limit < 384:
        # At 80 % of its limit a worker takes no more work until it holds less: of 256 MB, Python,
        # NumPy, Dask and one batch had taken so much, and both workers waited for ever.
        parser.error("--memory-limit: Python, NumPy and Dask alone take up to 200 MB; allow 384")
    if settings.batch * CHUNK_BYTES * 2 > settings.data * MEGABYTE:
        parser.error("--batch: the data must make two batches, one to train on and one to test on")
    if settings.data <= settings.memory_limit:
        parser.error("--data must exceed --memory-limit: that is what this example is about")
    if settings.directory is not None and not settings.directory.is_dir():
        parser.error(f"--directory: there is no directory {settings.directory}")
    return settings


def main(arguments: Sequence[str] | None = None) -> Outcome:
    """Write the data, train on the cluster, and report."""
    settings = parse(arguments)
    count = math.ceil(settings.data * MEGABYTE / CHUNK_BYTES)
    with tempfile.TemporaryDirectory() as scratch:
        directory = settings.directory or Path(scratch)
        generate(directory, count, settings.seed)
        outcome = run_on_cluster(directory, count, settings)
    print_table(outcome)
    return outcome


if __name__ == "__main__":
    main()
