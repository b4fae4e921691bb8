"""Ops on Dask arrays: small graphs, nothing computed early, no warnings, a real cluster."""

import functools
import pickle
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from engine import fresh_engine

import opsgrad as og
from opsgrad.annotations import Shared
from opsgrad.conformance import Row
from opsgrad.conformance.checks import direction, sample
from opsgrad.conformance.target import to_numpy

pytest.importorskip("dask.array", reason="dask is not installed: pip install 'opsgrad[dask]'")

import dask
import dask.array as da

from opsgrad.backends import Work, _engine
from opsgrad.backends.dask import _chunks
from opsgrad.fusion import cpu

BLOCKS = 5


def in_rows(arrays: Any, row: Row) -> list[Any]:
    """Return arrays as Dask's, with the batch in five chunks, and weights in one."""
    return [
        da.from_array(array, chunks=-1 if name in ("alpha", "w", "b") else (2, *array.shape[1:]))
        for name, array in zip(row.arguments, arrays, strict=True)
    ]


def sources(*arrays: Any) -> set[str]:
    """Return the names of the layers that Dask arrays already consist of."""
    return {name for array in arrays for name in array.dask.layers}


def added(result: Any, *arrays: Any) -> tuple[int, int]:
    """Return how many layers and tasks a result adds to those of the arrays that it comes from."""
    before = sources(*arrays)
    layers = [layer for name, layer in result.dask.layers.items() if name not in before]
    return len(layers), sum(map(len, layers))


def value_and_pull(row: Row, rng: np.random.Generator) -> tuple[list[Any], Any, Any]:
    arrays = in_rows(sample(row, rng, (2 * BLOCKS, 6)), row)
    return arrays, *og.vjp(row.op, *arrays, **row.variants[0])


# -- the graph -----------------------------------------------------------------------------------


def test_a_value_is_one_layer(row: Row, rng: np.random.Generator) -> None:
    arrays, y, _ = value_and_pull(row, rng)
    assert added(y, *arrays) == (1, BLOCKS)


def test_a_gradient_is_a_layer_for_each_result(row: Row, rng: np.random.Generator) -> None:
    arrays, y, pull = value_and_pull(row, rng)
    g = da.ones_like(y)
    gradients = [one for one in pull(g) if one is not None]
    before = (*arrays, y, g)
    for gradient, name in zip(gradients, row.arguments, strict=False):
        layers, tasks = added(gradient, *before)
        if name in ("alpha", "w", "b"):  # the parts of five chunks, and a tree over them
            assert layers <= 5
            assert tasks <= 4 * BLOCKS + 4
        else:
            assert layers <= (1 if len(gradients) == 1 else 2)
            assert tasks <= layers * BLOCKS


def test_chunks_keep_their_sizes(row: Row, rng: np.random.Generator) -> None:
    arrays, y, pull = value_and_pull(row, rng)
    gradients = pull(da.ones_like(y))
    assert y.chunks[0] == (2,) * BLOCKS
    assert gradients[0].chunks == arrays[0].chunks


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_a_reduced_loss_is_a_layer_and_a_tree(reduction: str, rng: np.random.Generator) -> None:
    logits = da.from_array(rng.normal(size=(2 * BLOCKS, 6)), chunks=(2, 6))
    labels = da.from_array(rng.integers(6, size=2 * BLOCKS), chunks=2)
    op = og.softmax_cross_entropy_with_integer_labels
    loss, gradient = og.value_and_grad(op)(logits, labels, reduction=reduction)
    assert added(loss, logits, labels)[0] <= 5
    assert added(gradient, logits, labels)[0] <= 3
    assert not any("rechunk" in name for name in (*loss.dask.layers, *gradient.dask.layers))


def test_a_training_step_stays_small(rng: np.random.Generator) -> None:
    x = da.from_array(rng.normal(size=(2 * BLOCKS, 6)), chunks=(2, 6))
    labels = da.from_array(rng.integers(3, size=2 * BLOCKS), chunks=2)
    net = og.chain(og.dense, og.relu, og.dense)
    params = ((rng.normal(size=(6, 4)), np.zeros(4)), (), (rng.normal(size=(4, 3)), np.zeros(3)))
    logits, pull = og.vjp(net, x, params)
    op = og.softmax_cross_entropy_with_integer_labels
    loss, dlogits = og.value_and_grad(op)(logits, labels, reduction="mean")
    wanted = [loss, *(array for stage in pull(dlogits)[1] for array in stage)]
    layers = sources(*wanted)
    assert len(layers) <= 38  # 101 if every function of the array API is a layer
    assert len({task for one in wanted for task in one.dask.to_dict()}) <= 26 * BLOCKS


@pytest.mark.parametrize("name", ["softmax", "log_softmax", "logsumexp", "relumax", "l2_norm"])
def test_a_split_axis_is_not_put_together(name: str, rng: np.random.Generator) -> None:
    x = rng.normal(size=(4, 12))
    split = da.from_array(x, chunks=(2, 3))
    y, pull = og.vjp(getattr(og, name), split)
    gradient = pull(da.ones_like(y))[0]
    assert added(y, split)[0] <= 11
    assert not any("rechunk" in layer for layer in gradient.dask.layers)
    assert gradient.chunks == split.chunks
    right, back = og.vjp(getattr(og, name), x)
    np.testing.assert_allclose(y.compute(), right, rtol=1e-14)
    expected = back(np.ones_like(right))[0]
    np.testing.assert_allclose(gradient.compute(), expected, rtol=1e-13, atol=1e-15)


# -- lazy ------------------------------------------------------------------------------------------


def test_nothing_is_computed_before_it_is_asked_for() -> None:
    def fail() -> Any:
        raise RuntimeError("read")

    chunk = da.from_delayed(dask.delayed(fail)(), (4, 6), float)
    labels = da.from_delayed(dask.delayed(fail)(), (4,), int)
    op = og.softmax_cross_entropy_with_integer_labels
    loss, gradient = og.value_and_grad(op)(chunk, labels, reduction="mean")
    split = chunk.rechunk((4, 3))
    for result in (loss, gradient, og.softmax(split), og.dense(split, np.ones((6, 2)))):
        with pytest.raises(RuntimeError, match="read"):
            result.compute()


@pytest.mark.parametrize("chunks", [(3, -1), (3, 2)], ids=["rows", "split"])
def test_infinities_and_nan_warn_nowhere(chunks: Any, row: Row, rng: np.random.Generator) -> None:
    first, *others = sample(row, rng, (6, 4))
    first = np.array(first)
    first[0], first[1], first[2, :2] = np.inf, -np.inf, np.nan
    arrays = [da.from_array(first, chunks=chunks), *map(da.from_array, others)]
    with warnings.catch_warnings(), np.errstate(all="warn"):
        warnings.simplefilter("error")
        y, pull = og.vjp(row.op, *arrays, **row.variants[0])
        wanted = [y, *(one for one in pull(da.ones_like(y)) if one is not None)]
        dask.compute(*wanted, scheduler="threads")
        if row.has_reduction:
            loss, back = og.vjp(row.op, *arrays, reduction="mean", **row.variants[0])
            dask.compute(loss, back(1.0)[0], scheduler="threads")


# -- shapes and sizes ------------------------------------------------------------------------------


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize(
    "op",
    [og.softmax_cross_entropy_with_integer_labels, og.softmax_cross_entropy, og.squared_error],
    ids=["labels", "targets", "elementwise"],
)
def test_chunks_of_unknown_size(op: Any, reduction: str, rng: np.random.Generator) -> None:
    x, classes = rng.normal(size=(6, 2)), np.array([0, 1, 0, 1, 1, 0])
    other = classes if "labels" in str(op.signature) else rng.random((6, 2))
    chosen = np.array([True, False, True, True, False, False])  # nothing of the last chunk
    some = [da.from_array(a, chunks=2)[da.from_array(chosen, chunks=2)] for a in (x, other)]
    got, pull = og.vjp(op, *some, reduction=reduction)
    right, back = og.vjp(op, x[chosen], other[chosen], reduction=reduction)
    np.testing.assert_allclose(got.compute(), right, rtol=1e-14)
    gradient = pull(da.ones_like(got))[0]
    np.testing.assert_allclose(gradient.compute(), back(np.ones_like(right))[0], rtol=1e-14)


@pytest.mark.parametrize(
    "chunks",
    [((2, 3), (3, 2), 2), ((5, 2), (3, 2), 2), ((5, 3), (1, 1), 1), ((1, 1), (2, 1), 1)],
    ids=["batch", "inner", "weights", "everything"],
)
def test_dense_in_any_chunks(chunks: Any, rng: np.random.Generator) -> None:
    arrays = rng.normal(size=(5, 3)), rng.normal(size=(3, 2)), rng.normal(size=2)
    right, back = og.vjp(og.dense, *arrays)
    g = rng.normal(size=(5, 2))
    y, pull = og.vjp(og.dense, *map(da.from_array, arrays, chunks))
    np.testing.assert_allclose(y.compute(), right, rtol=1e-13)
    for got, expected in zip(pull(g), back(g), strict=True):
        np.testing.assert_allclose(got.compute(), expected, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("shape", [(), (1,), (3,), (4, 1), (4, 3), (1, 3)])
def test_prelu_sums_the_gradient_of_alpha_to_its_shape(
    shape: tuple[int, ...], rng: np.random.Generator
) -> None:
    x, alpha, g = rng.normal(size=(4, 3)), rng.random(shape), rng.normal(size=(4, 3))
    expected = og.vjp(og.prelu, x, alpha)[1](g)
    got = og.vjp(og.prelu, da.from_array(x, chunks=2), da.from_array(alpha))[1](g)
    for one, right in zip(got, expected, strict=True):
        assert one.shape == right.shape
        np.testing.assert_allclose(one.compute(), right, rtol=1e-14)


# -- ops of one's own ------------------------------------------------------------------------------


@og.op
def mirrored(xp: Any, x: Any, w: Shared, /, *, axis: int = -1) -> Any:
    """Return the sum along `axis` of the mirrored x, weighted: `flip` is no function of phases."""
    return xp.sum(xp.flip(x, axis=axis) * w, axis=axis, keepdims=True)


@mirrored.vjp_rule(keeps=("x", "w"))
def _(xp: Any, x: Any, w: Any, g: Any, /, *, axis: int) -> tuple[Any, Any]:
    return g * xp.flip(w, axis=0), xp.sum(g * xp.flip(x, axis=axis), axis=0)


@pytest.mark.parametrize("chunks", [(2, 4), (2, 3), (6, 2)])
def test_an_op_of_ones_own_runs_in_any_chunks(chunks: Any, rng: np.random.Generator) -> None:
    x, w, g = rng.normal(size=(6, 4)), rng.random(4), rng.normal(size=(6, 1))
    right, back = og.vjp(mirrored, x, w)
    y, pull = og.vjp(mirrored, da.from_array(x, chunks=chunks), w)
    np.testing.assert_allclose(y.compute(), right, rtol=1e-14)
    for got, expected in zip(pull(g), back(g), strict=True):
        np.testing.assert_allclose(got.compute(), expected, rtol=1e-13)


def test_a_choice_says_what_runs() -> None:
    choice = og.which_backend(og.softmax, da.ones((4, 6), chunks=2))
    assert choice.backend == "dask"
    assert "a layer of tasks" in choice.engines["value"]
    assert "trees" in choice.engines["vjp"]


# -- chunks in the CPU engine ----------------------------------------------------------------------

needs_llvmlite = pytest.mark.skipif(
    _engine.why_unavailable() is not None, reason="llvmlite is not installed"
)


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Compile for chunks of any size, with nothing compiled before; list what the kernels took."""
    fresh_engine(monkeypatch, 1)
    calls: list[Any] = []
    call = cpu.Fused.__call__

    def spy(self: Any, *arrays: Any) -> Any:
        out = call(self, *arrays)
        if out is not None:
            calls.append(arrays)
        return out

    monkeypatch.setattr(cpu.Fused, "__call__", spy)
    return calls


@needs_llvmlite
@pytest.mark.parametrize("scheduler", ["synchronous", "threads"])
def test_chunks_give_what_numpy_arrays_do(
    row: Row, rng: np.random.Generator, scheduler: str, taken: list[Any]
) -> None:
    arrays = sample(row, rng, (2 * BLOCKS, 6))
    lazy = in_rows(arrays, row)
    right, back = og.vjp(row.op, *arrays, **row.variants[0])
    g = direction(rng, right)
    expected = [right, *(one for one in back(g) if one is not None)]
    kernels = len(taken)
    y, pull = og.vjp(row.op, *lazy, **row.variants[0])
    gradients = pull(da.from_array(g, chunks=(2, *g.shape[1:])))
    got = dask.compute(y, *(one for one in gradients if one is not None), scheduler=scheduler)
    shared = [name in ("alpha", "w", "b") for name in row.arguments if name != "labels"]
    for one, other, summed in zip(got, expected, [False, *shared], strict=True):
        if summed or row.name == "dense":
            np.testing.assert_allclose(one, other, rtol=1e-14)
        else:
            np.testing.assert_array_equal(one, other, strict=True)
    assert len(taken) - kernels == (0 if row.name == "dense" else BLOCKS * kernels)


@needs_llvmlite
def test_small_chunks_run_as_written_until_a_large_one_comes(
    taken: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_engine, "FROM", 50)
    x = np.zeros((20, 6))
    small, large = da.from_array(x, chunks=(5, 6)), da.from_array(x, chunks=(10, 6))
    og.softmax(small).compute()  # more than 50 entries in all, 30 in each
    assert not taken
    og.softmax(large).compute()
    og.softmax(small).compute()
    assert len(taken) == 2 + 4


@needs_llvmlite
@pytest.mark.parametrize("kind", ["another data type", "another byte order", "a subclass"])
def test_chunks_that_are_not_what_they_should_be_run_as_written(
    kind: str, rng: np.random.Generator, taken: list[Any]
) -> None:
    x = rng.normal(size=(4, 6))
    chunk = {
        "another data type": x.astype(np.float32),
        "another byte order": x.astype(">f8"),
        "a subclass": x.view(np.recarray),
    }[kind]
    lazy = da.from_delayed(dask.delayed(lambda: chunk)(), x.shape, np.float64)
    np.testing.assert_allclose(og.softmax(lazy).compute(), og.softmax(x), rtol=1e-6)
    assert len(taken) == 1, "the kernel took more than the NumPy array"


@needs_llvmlite
def test_a_task_pickles_without_its_kernel(taken: list[Any]) -> None:
    x = np.ones((2, 6))
    work = Work(
        op="softmax",
        role="value",
        function=og.softmax.body,
        names=("x",),
        parameters={"axis": -1},
        dtype=x.dtype,
        elementwise=False,
        rowwise=True,
        arguments=og.softmax.signature.arguments,
    )
    block = _chunks.Block(work, (True,), single=True)
    before = pickle.dumps(block)
    block(x)
    assert taken
    assert pickle.dumps(block) == before
    assert len(before) < 700
    again = pickle.loads(before)
    assert again == block
    assert again.work.function is og.softmax.body


@needs_llvmlite
def test_a_choice_says_what_the_chunks_run_by(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = og.which_backend(og.sigmoid, da.ones((4, 6))).engines["value"]
    assert engine.startswith("a layer of tasks, each the NumPy backend on chunks that belong ")
    assert "a compiled loop from " in engine
    engine = og.which_backend(og.dense, da.ones((4, 6)), np.ones((6, 2))).engines["value"]
    assert "because no kernel can be made of it: it calls matmul" in engine
    monkeypatch.setattr(_engine, "why_unavailable", lambda: "llvmlite is not installed")
    engine = og.which_backend(og.sigmoid, da.ones((4, 6))).engines["value"]
    assert engine.endswith("as it is written, because llvmlite is not installed")


# -- other processes -------------------------------------------------------------------------------


def recipes(op: Any) -> list[_chunks.Recipe]:
    return [
        _chunks.Recipe(op.__name__, role, op.whole(role).function)
        for role in ("value", "vjp", "jvp")
    ]


def test_bodies_and_rules_pickle_as_names(row: Row) -> None:
    for recipe in recipes(row.op):
        pickled = pickle.dumps(recipe)
        assert len(pickled) < 200
        assert pickle.loads(pickled).function is recipe.function


def test_an_op_that_has_no_name_elsewhere_pickles_by_value() -> None:
    @og.op
    def twice(xp: Any, x: Any, /) -> Any:
        return x + x

    @twice.derivative
    def _(xp: Any, x: Any, /) -> Any:
        return xp.full_like(x, 2.0)

    copies = {
        role: pickle.loads(pickle.dumps(_chunks.Recipe("twice", role, function)))
        for role, function in {"value": twice.body, "vjp": twice.rule("vjp").function}.items()
    }
    assert copies["value"].function(np, np.ones(2)).tolist() == [2.0, 2.0]
    assert copies["vjp"].function(np, np.ones(2), np.ones(2))[0].tolist() == [2.0, 2.0]


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    distributed = pytest.importorskip(
        "distributed", reason="distributed is not installed: pip install 'opsgrad[dask]'"
    )
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0"
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


NAMES = ["softmax", "relumax", "logsumexp", "l2_norm", "sigmoid"]


@pytest.mark.parametrize("chunks", [(8, -1), (8, 5)], ids=["rows", "split"])
def test_two_processes_agree_with_this_one(
    client: Any, chunks: Any, rng: np.random.Generator
) -> None:
    x, labels = rng.normal(size=(64, 10)), rng.integers(10, size=64)
    x[3], x[40, 2] = np.inf, np.nan
    ops = [getattr(og, name) for name in NAMES]
    cases = [(op, (x,), {}) for op in ops] + [
        (functools.partial(og.nll_loss, reduction="sum"), (x, labels), {}),
        (og.softmax_cross_entropy_with_integer_labels, (x, labels), {"reduction": "mean"}),
    ]
    lazy = da.from_array(x, chunks=chunks), da.from_array(labels, chunks=8)
    wanted, right = [], []
    for op, arrays, params in cases:
        for place, into in ((lazy, wanted), (arrays, right)):
            y, pull = og.vjp(op, *place[: len(arrays)], **params)
            into.append((y, pull(y)[0]))
    got = client.compute(wanted, sync=True)
    for one, expected in zip(got, right, strict=True):
        for a, b in zip(one, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-13, atol=1e-15)


def test_an_op_made_here_runs_there(client: Any) -> None:
    @og.op
    def thrice(xp: Any, x: Any, /) -> Any:
        return 3.0 * x

    @thrice.derivative
    def _(xp: Any, x: Any, /) -> Any:
        return xp.full_like(x, 3.0)

    y, pull = og.vjp(thrice, da.ones((4, 2), chunks=1))
    value, gradient = client.compute([y, pull(y)[0]], sync=True)
    assert (value == 3.0).all()
    assert (gradient == 9.0).all()


@needs_llvmlite
def test_workers_make_kernels_of_their_own(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fresh_engine(monkeypatch)

    def kernels() -> list[str]:
        from opsgrad.backends import _engine

        return [key[0].__module__ for key in _engine._known if key[1][0][2] == 0.375]

    def known() -> int:
        return sum(map(len, client.run(kernels).values()))

    assert known() == 0
    x = da.from_array(np.zeros((4, 1 << 14)), chunks=(1, -1))
    y, pull = og.vjp(og.leaky_relu, x, negative_slope=0.375)
    client.compute([y, pull(y)[0]], sync=True)
    assert 2 <= known() <= 4  # value and gradient, in one worker or two
    assert not _engine._known


def test_workers_say_nothing_about_infinities(client: Any) -> None:
    x = da.from_array(np.array([[np.inf, -np.inf], [0.0, np.nan]]), chunks=1)

    def strictly(dask_worker: Any) -> None:
        np.seterr(all="raise")

    client.run(strictly)
    try:
        assert np.isnan(to_numpy(og.softmax(x))).any()
        assert og.softmax_cross_entropy(x, x, reduction="mean").compute() is not None
    finally:
        client.run(lambda: np.seterr(all="warn"))
