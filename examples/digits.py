"""Train two networks on handwritten digits with explicit backward passes and no framework.

    python examples/digits.py [--backend numpy|torch|jax|dask] [--epochs N] [--seed S]

Both networks have one hidden layer. For a batch of n images, the rows of X, the forward pass is

    A = X W1 + b1        pre-activations
    H = f(A)             hidden units, f = sigmoid or rect (relu)
    O = H W2 + b2        logits
    L = 1/n Σ -ln softmax(O) at the true class

and the backward pass walks the same stages in reverse, with one-hot rows Y for the true classes:

    dO  = (softmax(O) - Y) / n      softmax and cross-entropy
    dW2 = Hᵀ dO,   db2 = Σ_rows dO  second dense layer
    dA  = (dO W2ᵀ) ⊙ f'(A)          through the weights, then through f
    dW1 = Xᵀ dA,   db1 = Σ_rows dA  first dense layer

opsgrad has the rule of each stage; `loss_and_gradient` below puts them together in three lines.
Before training, the gradient of every parameter is checked against central differences. Afterwards
the second network is read out once more through relumax, which makes most classes exactly 0.
"""

import argparse
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import opsgrad as og

try:
    from plots import Curve, Example, draw
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split
    from tqdm import tqdm
except ImportError as error:
    sys.exit(f"This example needs {error.name}: pip install 'opsgrad[demo]'")

Array = Any
"""An array of the backend in use, or of NumPy."""

Op = Any
"""An op of opsgrad, or a chain of ops."""

Parameters = tuple[tuple[Array, ...], ...]
"""One tuple of arrays for each stage of the network: ((W1, b1), (), (W2, b2))."""

PIXELS, HIDDEN, CLASSES = 64, 128, 10
MOMENTUM = 0.9

ODDS = 100
RELUMAX_B = math.log(ODDS)
"""relumax cuts off the classes whose logit lies b or more below the largest one. Softmax gives such
a class at most e^-b times the winner's probability, so b = ln 100 reads: a class that is less than
a hundredth as likely as the winner is ruled out."""


class Digits(NamedTuple):
    """Images (n, 64) with pixels in [0, 1], and labels (n,) from 0 to 9."""

    images: Array
    labels: Array


@dataclass(frozen=True)
class Network:
    """A chain of ops with a loss on top, and how to start and train it."""

    name: str
    layers: Op
    loss: Op
    one_hot: bool
    gain: float
    learning_rate: float


# The gain keeps the spread of the hidden units about that of the inputs: the slope of the sigmoid
# is at most 1/4, and relu lets half of its inputs through.
SIGMOID = Network(
    name="sigmoid, one-hot targets",
    layers=og.chain(og.dense, og.sigmoid, og.dense),
    loss=og.softmax_cross_entropy,
    one_hot=True,
    gain=4.0,
    learning_rate=0.5,
)
RECT = Network(
    name="rect, integer labels",
    layers=og.chain(og.dense, og.relu, og.dense),
    loss=og.softmax_cross_entropy_with_integer_labels,
    one_hot=False,
    gain=math.sqrt(2.0),
    learning_rate=0.15,
)


@dataclass
class Run:
    """A trained network, and how it got there: one entry for each epoch in each list."""

    network: Network
    backend: str
    parameters: Parameters
    losses: list[float] = field(default_factory=list)
    accuracies: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def logits(self, images: Array) -> Array:
        """Return the network's output for NumPy images, as a NumPy array."""
        images = to_backend(images, self.backend)
        return og.to_numpy(self.network.layers(images, self.parameters))

    def parameter_count(self) -> int:
        """Return the number of single weights and biases."""
        return sum(math.prod(array.shape) for stage in self.parameters for array in stage)


# -- data and arrays -------------------------------------------------------------------------------


def load(seed: int) -> tuple[Digits, Digits]:
    """Return a training and a test set, three to one, with every digit in proportion."""
    digits = load_digits()
    images = (digits.data / 16.0).astype(np.float32)
    train_images, test_images, train_labels, test_labels = train_test_split(
        images, digits.target, test_size=0.25, stratify=digits.target, random_state=seed
    )
    return Digits(train_images, train_labels), Digits(test_images, test_labels)


def to_backend(array: Array, backend: str) -> Array:
    """Bring a NumPy array to the backend of that name."""
    return og.backends()[backend].asarray(array)


def settle(values: Any, backend: str) -> Any:
    """Compute what Dask has put off so far; otherwise its graph would grow with every step."""
    if backend != "dask":
        return values
    import dask

    return dask.persist(values)[0]


def map_parameters(function: Callable[..., Array], *parameters: Parameters) -> Parameters:
    """Apply `function` to the arrays in the same place of each of `parameters`."""
    return tuple(
        tuple(function(*arrays) for arrays in zip(*stages, strict=True))
        for stages in zip(*parameters, strict=True)
    )


# -- the network -----------------------------------------------------------------------------------


def initial_parameters(network: Network, rng: np.random.Generator) -> Parameters:
    """Draw the weights with standard deviation gain / sqrt(inputs); the biases are zero."""

    def dense(inputs: int, outputs: int, gain: float) -> tuple[Array, Array]:
        weights = rng.normal(0.0, gain / math.sqrt(inputs), (inputs, outputs))
        return weights, np.zeros(outputs)

    return dense(PIXELS, HIDDEN, network.gain), (), dense(HIDDEN, CLASSES, 1.0)


def targets_of(network: Network, labels: Array, like: Array) -> Array:
    """Return the labels as the network's loss wants them: as one-hot rows like `like`, or as is."""
    return np.eye(CLASSES, dtype=like.dtype)[labels] if network.one_hot else labels


def loss_and_gradient(
    network: Network, parameters: Parameters, images: Array, targets: Array
) -> tuple[Array, Parameters]:
    """Return the mean loss over a batch, and its gradient by every parameter: backpropagation."""
    logits, pull = og.vjp(network.layers, images, parameters)
    loss, dlogits = og.value_and_grad(network.loss)(logits, targets, reduction="mean")
    _, dparameters = pull(dlogits)
    return loss, dparameters


def accuracy(scores: Array, labels: Array) -> float:
    """Return the share of examples whose largest score is that of the true class."""
    return float(np.mean(np.argmax(scores, axis=-1) == labels))


# -- gradient check --------------------------------------------------------------------------------


def has_float64(backend: str) -> bool:
    """Whether the backend keeps float64 as it is (JAX does so only after jax_enable_x64)."""
    try:
        return "float64" in str(to_backend(np.zeros(1), backend).dtype)
    except og.OpsgradError:
        return False


def central_differences(
    loss: Callable[[], float], parameters: Parameters, step: float = 1e-5
) -> Parameters:
    """Return (L(p + step) - L(p - step)) / (2 step) for each single number p in `parameters`."""

    def differentiate(array: Array) -> Array:
        slopes = np.empty_like(array)
        numbers = tqdm(np.ndenumerate(array), "central differences", array.size, leave=False)
        for index, value in numbers:
            array[index] = value + step
            above = loss()
            array[index] = value - step
            below = loss()
            array[index] = value
            slopes[index] = (above - below) / (2 * step)
        return slopes

    return map_parameters(differentiate, parameters)


def gradient_error(network: Network, backend: str) -> float:
    """Return the largest error of the parameter gradient, in relation to central differences.

    In each array the largest deviation is divided by the largest slope. The gradient is the
    backend's own; the differences take 19,220 forward passes, which are quickest on NumPy.
    """
    # Fixed numbers, whatever the seed of the run: with a relu's input within `step` of 0, the
    # differences would straddle the kink and be wrong themselves.
    parameters = initial_parameters(network, np.random.default_rng(0))
    digits = load_digits()
    images = digits.data[:8] / 16.0
    targets = targets_of(network, digits.target[:8], like=images)

    def loss() -> float:
        return float(network.loss(network.layers(images, parameters), targets, reduction="mean"))

    def deviation(gradient: Array, slopes: Array) -> Array:
        return np.max(np.abs(og.to_numpy(gradient) - slopes)) / np.max(np.abs(slopes))

    _, gradient = loss_and_gradient(
        network,
        map_parameters(lambda array: to_backend(array, backend), parameters),
        to_backend(images, backend),
        to_backend(targets, backend),
    )
    errors = map_parameters(deviation, gradient, central_differences(loss, parameters))
    return float(max(error for stage in errors for error in stage))


def check_gradient(network: Network, backend: str, tolerance: float = 1e-7) -> None:
    """Print how far the network's gradient is from central differences; stop if it is too far."""
    possible = has_float64(backend)
    error = gradient_error(network, backend if possible else "numpy")
    where = backend if possible else f"on NumPy, because {backend} has no float64 here"
    print(f"gradient check: {network.name:<24} max relative error {error:.1e} (float64, {where})")
    if not error <= tolerance:
        sys.exit(
            f"The gradient check failed: the gradient of the network '{network.name}' differs from "
            f"central differences by {error:.1e}, more than {tolerance:.0e}. Not training."
        )


# -- training --------------------------------------------------------------------------------------


def batches(count: int, batch_size: int, rng: np.random.Generator) -> Iterator[Array]:
    """Yield the indices of `count` examples in random order, `batch_size` at a time."""
    order = rng.permutation(count)
    for start in range(0, count, batch_size):
        yield order[start : start + batch_size]


def descend(
    network: Network, parameters: Parameters, velocity: Parameters, images: Array, targets: Array
) -> tuple[Array, Parameters, Parameters]:
    """Take one step of gradient descent with momentum; return the loss before it, and the rest."""
    loss, gradient = loss_and_gradient(network, parameters, images, targets)
    velocity = map_parameters(
        lambda v, g: MOMENTUM * v - network.learning_rate * g, velocity, gradient
    )
    parameters = map_parameters(lambda p, v: p + v, parameters, velocity)
    return loss, parameters, velocity


def train(
    network: Network, train_set: Digits, test_set: Digits, settings: argparse.Namespace
) -> Run:
    """Train on minibatches in float32, and measure the test accuracy after each epoch."""
    backend, count = settings.backend, len(train_set.labels)
    rng = np.random.default_rng(settings.seed)
    targets = targets_of(network, train_set.labels, like=train_set.images)
    parameters = map_parameters(
        lambda array: to_backend(array.astype(np.float32), backend),
        initial_parameters(network, rng),
    )
    velocity = map_parameters(lambda array: 0.0 * array, parameters)
    run = Run(network, backend, parameters)

    bar = "{desc} |{bar:24}| {n}/{total} epochs{postfix}"
    progress = tqdm(range(settings.epochs), desc=f"{network.name:<24}", bar_format=bar)
    for _ in progress:
        start, total = time.perf_counter(), 0.0
        for batch in batches(count, settings.batch_size, rng):
            images = to_backend(train_set.images[batch], backend)
            step = descend(
                network, parameters, velocity, images, to_backend(targets[batch], backend)
            )
            loss, parameters, velocity = settle(step, backend)
            total = total + loss * len(batch)
        run.losses.append(float(total) / count)
        run.seconds.append(time.perf_counter() - start)
        run.parameters = parameters
        run.accuracies.append(accuracy(run.logits(test_set.images), test_set.labels))
        progress.set_postfix_str(
            f"loss {run.losses[-1]:.4f}, test accuracy {run.accuracies[-1]:.2%}", refresh=False
        )
    return run


# -- relumax ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ReadOut:
    """The class probabilities of a trained network for the test images, by softmax and relumax."""

    softmax: Array
    relumax: Array


def read_out(run: Run, images: Array) -> ReadOut:
    """Turn the logits into probabilities in two ways.

    relumax comes after training only: its exact zeros would make the cross-entropy infinite.
    """
    logits = to_backend(run.logits(images), run.backend)
    return ReadOut(
        softmax=og.to_numpy(og.softmax(logits)),
        relumax=og.to_numpy(og.relumax(logits, b=RELUMAX_B)),
    )


def describe_relumax(probabilities: ReadOut, labels: Array) -> str:
    """Say how many classes relumax rules out, and how often the true one is among them."""
    zero = probabilities.relumax == 0.0
    true_kept = probabilities.relumax[np.arange(len(labels)), labels] > 0.0
    return (
        f"relumax with b = ln {ODDS} = {RELUMAX_B:.2f}: probability exactly 0 for "
        f"{np.mean(np.sum(zero, axis=-1)):.2f} of the {CLASSES} classes (mean per image).\n"
        f"{np.mean(np.sum(~zero, axis=-1) == 1):.1%} of the images keep one class alone; "
        f"the true class is kept in {np.mean(true_kept):.1%}.\n"
        f"Softmax gives exactly 0 to {np.mean(np.sum(probabilities.softmax == 0.0, axis=-1)):.2f}."
    )


def examples_of(probabilities: ReadOut, digits: Digits) -> list[Example]:
    """Pick the surest test image, the two closest calls, and the closest one that went wrong."""
    softmax, relumax = probabilities.softmax, probabilities.relumax
    ordered = np.sort(softmax, axis=-1)
    closest_first = np.argsort(ordered[:, -1] - ordered[:, -2], kind="stable")
    read = np.argmax(softmax, axis=-1)
    right = [i for i in closest_first if read[i] == digits.labels[i]]
    wrong = [i for i in closest_first if read[i] != digits.labels[i]]
    return [
        Example(digits.images[i], digits.labels[i], softmax=softmax[i], relumax=relumax[i])
        for i in (*right[-1:], *right[1::-1], *wrong[:1])
    ]


# -- the program -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """A line of the final table."""

    network: str
    parameters: int
    accuracy: float
    milliseconds: float | None
    backend: str


def row_of(run: Run) -> Row:
    """Sum up a run; the median leaves out the compilation in the first epoch of some backends."""
    milliseconds = 1e3 * float(np.median(run.seconds))
    return Row(
        run.network.name, run.parameter_count(), run.accuracies[-1], milliseconds, run.backend
    )


def print_table(rows: Sequence[Row]) -> None:
    """Print the networks, one a line."""
    print(f"\n{'network':<26}{'parameters':>12}{'test accuracy':>16}{'ms an epoch':>14}  backend")
    for row in rows:
        milliseconds = "-" if row.milliseconds is None else f"{row.milliseconds:.1f}"
        print(
            f"{row.network:<26}{row.parameters:>12,}{row.accuracy:>16.2%}{milliseconds:>14}"
            f"  {row.backend}"
        )


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backend", default="numpy", help="numpy, torch, jax, dask, ... (numpy)")
    parser.add_argument(
        "--epochs",
        type=int,
        default=40,
        help="passes over the training set (40); take fewer for dask, which needs seconds for each",
    )
    parser.add_argument("--batch-size", type=int, default=32, help="images a step (32)")
    parser.add_argument("--seed", type=int, default=0, help="of split, weights and batches (0)")
    parser.add_argument("--output", type=Path, default=Path("digits.png"), help="(digits.png)")
    settings = parser.parse_args(arguments)
    if min(settings.epochs, settings.batch_size) < 1 or settings.seed < 0:
        parser.error("--epochs and --batch-size must be at least 1, --seed at least 0")
    if not settings.output.parent.is_dir():
        parser.error(f"--output: there is no directory {settings.output.parent}")
    try:
        with og.use_backend(settings.backend):
            pass
    except og.OpsgradError as error:
        parser.error(str(error))
    return settings


def main(arguments: Sequence[str] | None = None) -> list[Row]:
    """Check the gradients, train, read out, and report; return the rows of the final table."""
    settings = parse(arguments)
    train_set, test_set = load(settings.seed)
    for network in (SIGMOID, RECT):
        check_gradient(network, settings.backend)
    sigmoid, rect = (train(net, train_set, test_set, settings) for net in (SIGMOID, RECT))

    probabilities = read_out(rect, test_set.images)
    rows = [row_of(sigmoid), row_of(rect)]
    sparse = accuracy(probabilities.relumax, test_set.labels)
    rows.append(
        replace(rows[1], network="  the same, by relumax", accuracy=sparse, milliseconds=None)
    )
    print("\n" + describe_relumax(probabilities, test_set.labels))
    print_table(rows)

    curves = [Curve(run.network.name, run.losses, run.accuracies) for run in (sigmoid, rect)]
    draw(settings.output, curves, examples_of(probabilities, test_set), ODDS)
    print(f"\nfigure: {settings.output}")
    return rows


if __name__ == "__main__":
    main()
