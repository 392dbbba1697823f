# SPDX-License-Identifier: BSD-3-Clause
"""States as bytes: those of the definition, the same for any order, and refused where no data gives them."""

from __future__ import annotations

import itertools
from fractions import Fraction
from typing import Any

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

import nll
from support import states
from support.losses import CROSS_ENTROPY, NLL_LOSS
from support.pairs import pairwise
from support.samples import FLOAT_DTYPES, INTEGER_DTYPES, random_input, random_logits, random_target, random_weight
from support.states import SIZE, SUMS, changed, exact_sum, fractions_of, sealed

FUNCTIONS = {"nll": NLL_LOSS, "cross_entropy": CROSS_ENTROPY}


def state_of(loss: str, input: Any, target: Any, weight: Any = None, **choices: Any) -> np.ndarray:
    """The state of one batch."""
    accumulator = nll.LossAccumulator(loss, weight, **choices)
    accumulator.update(input, target)
    return accumulator.state


@pytest.fixture(params=["nll", "cross_entropy", "weighted-nll", "weighted-cross_entropy", "smoothed-cross_entropy"])
def batches(request: pytest.FixtureRequest, rng: np.random.Generator) -> Any:
    """(input, target, choices) of some thousand samples of any magnitudes."""
    kind, _, loss = request.param.rpartition("-")
    input = random_input(rng, (3000, 5), np.float32, (-140, 100) if loss == "nll" else (-20, 8))
    choices: dict[str, Any] = {"loss": loss}
    if kind:
        choices["weight"] = abs(random_weight(rng, 5, np.float64))
    if kind == "smoothed":
        choices["label_smoothing"] = 0.1
    return input, random_target(rng, 3000, 5, ignored=-100), choices


# ---- the definition


@pytest.mark.parametrize(
    ("data", "hash"),
    [(b"", 0xEF46DB3751D8E999), (b"a", 0xD24EC4F1A98C6E5B), (b"abc", 0x44BC2CF5AD770999)],
    ids=["nothing", "a", "abc"],
)
def test_xxh64_of_the_tests_is_right(data, hash):
    assert states.xxh64(data) == hash


@pairwise(dtype=FLOAT_DTYPES, weight_dtype=[None, *FLOAT_DTYPES, *INTEGER_DTYPES[:4]], exponents=["near", "all"])
def test_bytes_of_nll_losses(dtype, weight_dtype, exponents, rng):
    """Exact sums of the given numbers, of products and squares, as integers."""
    lowest, highest = {2: (-14, 14), 4: (-140, 120), 8: (-1000, 900)}[dtype.itemsize]
    span = (-9, 5) if exponents == "near" else (lowest, highest)
    input, target = random_input(rng, (700, 5), dtype, span), random_target(rng, 700, 5, ignored=-100)
    weight = random_weight(rng, 5, weight_dtype)
    kept = target != -100
    losses = nll.nll_loss(input, target, weight, reduction="none", dtype=np.float64)[kept]
    expected = states.state_of(
        "nll",
        [-value for value in fractions_of(input[kept, target[kept]])],
        None if weight is None else fractions_of(weight[target[kept]]),
        losses,
        dtype=dtype,
        ignored=int((~kept).sum()),
        class_weights=weight,
    )
    assert state_of("nll", input, target, weight).tobytes() == expected


@pairwise(dtype=FLOAT_DTYPES, weighted=[False, True], smoothing=[0.0, 0.1])
def test_bytes_of_cross_entropies(dtype, weighted, smoothing, rng):
    """Exact sums of the losses that `reduction="none"` gives in float64, before they are rounded to anything else."""
    input, target = random_logits(rng, (700, 5), dtype), random_target(rng, 700, 5, ignored=-100)
    weight = abs(random_weight(rng, 5, np.float64)) if weighted else None
    kept = target != -100
    choices = {"reduction": "none", "dtype": np.float64, "label_smoothing": smoothing}
    losses = nll.cross_entropy(input, target, weight, **choices)[kept]
    values = losses if smoothing else nll.cross_entropy(input, target, **choices)[kept]
    weights = fractions_of(weight[target[kept]]) if weighted else None
    expected = states.state_of(
        "cross_entropy",
        [Fraction(value) for value in values.tolist()] if smoothing and weighted else fractions_of(values),
        None if smoothing else weights,
        losses,
        dtype=np.float64,
        ignored=int((~kept).sum()),
        label_smoothing=smoothing,
        class_weights=weight,
    )
    if smoothing and weighted:  # the losses have their weights, but those are summed, too
        pairs = list(zip(fractions_of(losses), weights, strict=True))
        sums = {
            "weight": sum(weights),
            "cross": sum(loss * w for loss, w in pairs),
            "weight_square": sum(w * w for w in weights),
        }
        expected = changed(expected, weighted=1, **sums)
    choices = {"dtype": np.float64, "label_smoothing": smoothing}
    assert state_of("cross_entropy", input, target, weight, **choices).tobytes() == expected


@pytest.mark.parametrize("special", [np.nan, np.inf, -np.inf], ids=str)
@pytest.mark.parametrize("weight", [None, [1.0, 2.0], [0.0, 2.0], [np.inf, 1.0], [np.nan, 1.0]], ids=str)
def test_bytes_of_specials(special, weight):
    """They stay outside of the sums: what else was added is not lost."""
    input, target = np.array([[special, 0.5], [-1.5, 2.5]]), np.array([0, 1])
    weights = None if weight is None else fractions_of(np.array(weight))
    losses = nll.nll_loss(input, target, weight, reduction="none")
    expected = states.state_of(
        "nll",
        [-float(special), Fraction(-5, 2)],
        weights,
        losses,
        dtype=np.float64,
        class_weights=weight,
    )
    assert state_of("nll", input, target, weight).tobytes() == expected


@pytest.mark.parametrize("dtype", [np.float16, np.int8, np.uint64, np.float64])
def test_digest_is_of_numbers_not_of_dtypes(dtype):
    weight = np.array([1, 0, 3], dtype)
    state = nll.LossAccumulator("nll", weight).state
    assert states.field(state, "weights") == 3
    assert states.field(state, "weight_digest") == states.digest([1.0, 0.0, 3.0])
    assert (nll.LossAccumulator("nll", weight[::-1]).state != state).any()


def test_digest_knows_no_sign_of_zero_and_one_nan():
    ours = nll.LossAccumulator("nll", [-0.0, np.nan]).state
    other_nan = np.array([0x8000000000000000, 0xFFF0000000000001], np.uint64).view(np.float64)
    assert (nll.LossAccumulator("nll", other_nan).state == ours).all()
    assert states.field(ours, "weight_digest") == states.digest([0.0, np.nan])


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 7, 8, 13, 1000])
def test_digest_of_any_number_of_weights(count, rng):
    weight = rng.normal(size=count)
    assert states.field(nll.LossAccumulator("nll", weight).state, "weight_digest") == states.digest(weight)


def test_size():
    assert nll.LossAccumulator.state_size == SIZE
    state = nll.LossAccumulator("nll").state
    assert state.shape == (SIZE,)
    assert state.dtype == np.uint8
    assert state.flags.writeable
    assert state.flags.owndata


# ---- order


def test_bytes_do_not_depend_on_batches_order_or_threads(batches, rng):
    input, target, choices = batches
    expected = state_of(input=input, target=target, **choices)
    for round in range(6):
        order = rng.permutation(len(target))
        cuts = np.sort(rng.integers(0, len(target), 20))
        total = nll.LossAccumulator(**choices)
        parts = []
        with nll.num_threads(1 + round % 3):
            for part in np.split(order, cuts):
                total.update(input[part], target[part])
                parts.append(state_of(input=input[part], target=target[part], **choices))
        assert (total.state == expected).all()
        assert (nll.merge(np.stack(parts)) == expected).all()
        halves = [nll.merge(parts[:7]), nll.merge(parts[7:])]
        assert (nll.merge(halves[::-1]) == expected).all()


def test_bytes_do_not_depend_on_the_layout(layout, rng):
    shape = (3, 5, 4, 2)
    input, target = layout(random_logits(rng, shape, np.float32)), layout(random_target(rng, (3, 4, 2), 5))
    for loss in FUNCTIONS:
        expected = state_of(loss, np.ascontiguousarray(input), np.ascontiguousarray(target))
        assert (state_of(loss, input, target) == expected).all()


def test_bytes_do_not_depend_on_instruction_sets(run_python):
    """Of logits, on processors that have a fused multiply-add."""
    program = """
import hashlib
import numpy as np
import nll
rng = np.random.default_rng(0)
input, target = rng.normal(size=(2000, 40)).astype(np.float32), rng.integers(0, 40, 2000)
for loss in "nll", "cross_entropy":
    for weight in None, np.linspace(0.1, 3, 40):
        total = nll.LossAccumulator(loss, weight)
        total.update(input, target)
        print(loss, hashlib.sha256(total.to_bytes()).hexdigest())
"""
    own = nll.build_info()["instruction_set"]
    if not own.startswith("x86-64-v"):
        pytest.skip("kernels are of one instruction set here")
    ours = run_python(program).stdout.splitlines()
    others = ["x86-64"] if own == "x86-64-v3" else ["x86-64", "x86-64-v3"]
    compared = 0
    for other in others:
        try:
            theirs = run_python(program, NLL_INSTRUCTION_SET=other).stdout.splitlines()
        except AssertionError as error:
            if "this machine runs" not in str(error):
                raise
            continue  # built without it
        compared += 1
        fused = other != "x86-64"
        assert [line for line in theirs if fused or line.startswith("nll ")] == [
            line for line in ours if fused or line.startswith("nll ")
        ]
    if not compared:
        pytest.skip("kernels are of one instruction set here")


@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(st.data())
def test_merging_is_associative_and_commutative(data):
    numbers = st.floats(width=32, allow_nan=True, allow_infinity=True)
    rows = data.draw(st.lists(numbers, min_size=3, max_size=12))
    weight = data.draw(st.one_of(st.none(), st.lists(st.floats(), min_size=2, max_size=2)))
    target = data.draw(st.lists(st.sampled_from([0, 1, -100]), min_size=len(rows), max_size=len(rows)))
    input = np.stack([np.array(rows, np.float32), np.array(rows[::-1], np.float32)], 1)
    parts = [state_of("nll", input[i : i + 1], target[i : i + 1], weight) for i in range(len(rows))]
    order = data.draw(st.permutations(range(len(rows))))
    cut = data.draw(st.integers(1, len(rows) - 1))
    expected = state_of("nll", input, target, weight)
    assert (nll.merge([parts[i] for i in order]) == expected).all()
    ends = [nll.merge([parts[i] for i in half]) for half in (order[:cut], order[cut:])]
    assert (nll.merge(ends) == expected).all()


# ---- nll.merge


def parts_of(count: int, **choices: Any) -> list[np.ndarray]:
    return [state_of("nll", [[-1.0 - i, -2.0]], [0], **choices) for i in range(count)]


@pytest.mark.parametrize(
    "given",
    [
        np.stack,
        list,
        tuple,
        lambda parts: [part.tobytes() for part in parts],
        lambda parts: [bytearray(part) for part in parts],
        lambda parts: [memoryview(part) for part in parts],
        lambda parts: np.stack(parts, -1).T,
        lambda parts: np.stack([part for part in parts for _ in range(2)])[::2],
    ],
    ids=["array", "list", "tuple", "bytes", "bytearrays", "memoryviews", "transposed", "strided"],
)
def test_states_may_be_given_as(given):
    parts = parts_of(4)
    merged = nll.merge(given(parts))
    assert merged.dtype == np.uint8
    assert merged.shape == (SIZE,)
    assert (merged == state_of("nll", [[-1.0], [-2.0], [-3.0], [-4.0]], [0] * 4)).all()


def test_states_may_be_tensors(torch):
    parts = [torch.from_numpy(part) for part in parts_of(3)]
    expected = nll.merge(parts_of(3))
    assert (nll.merge(torch.stack(parts)) == expected).all()
    assert (nll.merge(parts) == expected).all()


def test_states_of_groups_merge_group_by_group():
    stacked = np.stack(parts_of(6)).reshape(3, 2, SIZE)
    merged = nll.merge(stacked)
    assert merged.shape == (2, SIZE)
    for group in range(2):
        assert (merged[group] == nll.merge(stacked[:, group])).all()
    assert nll.merge(stacked[:, :, None]).shape == (2, 1, SIZE)
    assert nll.merge(stacked[:, :0]).shape == (0, SIZE)


def test_one_state_merges_to_itself():
    (part,) = parts_of(1)
    assert (nll.merge([part]) == part).all()


def test_arguments_are_only_read():
    stacked = np.stack(parts_of(3))
    before = stacked.copy()
    stacked.flags.writeable = False
    nll.merge(stacked)
    assert (stacked == before).all()


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (lambda p: [], ValueError, "there is no state to merge"),
        (lambda p: np.stack(p)[:0], ValueError, "there is no state to merge"),
        (lambda p: p[0], ValueError, r"states has shape \(2784,\); it must be \(k, ..., 2784\)"),
        (lambda p: np.stack(p)[:, :-1], ValueError, r"states has shape \(3, 2783\)"),
        (lambda p: [p[0], p[1][:-1]], ValueError, r"states\[1\] has shape \(2783,\), but states\[0\] has \(2784,\)"),
        (lambda p: [part[:-1] for part in p], ValueError, r"states has shape \(3, 2783\)"),
        (lambda p: np.stack(p).astype(np.int8), TypeError, "states has dtype int8; a state is of bytes, or of uint8"),
        (lambda p: [p[0], "state"], TypeError, r"states\[1\] has dtype <U5"),
        (lambda p: None, TypeError, "states has dtype object"),
        (lambda p: [p[0], p[1], p[2] ^ 1], ValueError, r"states\[2\]: these bytes are no state"),
    ],
    ids=["list-of-none", "none", "one-row", "cut", "one-cut", "all-cut", "signed", "word", "nothing", "other-bytes"],
)
def test_what_is_no_states(given, error, message):
    with pytest.raises(error, match=message):
        nll.merge(given(parts_of(3)))


@pytest.mark.parametrize(
    ("one", "other", "message"),
    [
        ({"loss": "nll"}, {"loss": "cross_entropy"}, "the loss is cross_entropy, not nll_loss"),
        (
            {"loss": "cross_entropy"},
            {"loss": "cross_entropy", "label_smoothing": 0.1},
            "label_smoothing is 0.1, not 0",
        ),
        ({"loss": "nll"}, {"loss": "nll", "weight": [1, 2]}, "class weights are of 2 classes, not none"),
        ({"loss": "nll", "weight": [1]}, {"loss": "nll"}, "class weights are none, not of 1 class"),
        (
            {"loss": "nll", "weight": [1, 2]},
            {"loss": "nll", "weight": [1, 3]},
            "class weights are of 2 classes, but other numbers",
        ),
    ],
    ids=["loss", "label_smoothing", "weights", "no-weights", "other-weights"],
)
def test_kinds_do_not_mix(one, other, message):
    rows = [nll.LossAccumulator(**one).state, nll.LossAccumulator(**other).state]
    with pytest.raises(ValueError, match=rf"^states\[1\]: its kind is not that of states\[0\]: {message}$"):
        nll.merge(rows)


# ---- bytes that are no state


@pytest.fixture(scope="module", params=["nll", "weighted", "smoothed"])
def sound(request: pytest.FixtureRequest) -> bytes:
    """The bytes of a state."""
    rng = np.random.default_rng(3)
    input, target = -abs(rng.normal(size=(50, 3))), random_target(rng, 50, 3, ignored=-100)
    return {
        "nll": lambda: state_of("nll", input, target),
        "weighted": lambda: state_of("nll", input, target, [0.5, 1, -2]),
        "smoothed": lambda: state_of("cross_entropy", input, target, [0.5, 1, 2], label_smoothing=0.1),
    }[request.param]().tobytes()


def refused(data: Any) -> str:
    with pytest.raises(ValueError, match="state") as caught:
        nll.LossAccumulator.from_bytes(data)
    assert type(caught.value) is ValueError
    return str(caught.value)


def test_every_flipped_bit_is_seen(sound):
    data = bytearray(sound)
    for place, bit in itertools.product(range(SIZE), range(8)):
        data[place] ^= 1 << bit
        message = refused(data)
        data[place] ^= 1 << bit
        assert "no state" in message or "version" in message or "damaged" in message
    nll.LossAccumulator.from_bytes(data)


def test_every_other_length_is_refused(sound):
    for size in [*range(SIZE), *range(SIZE + 1, SIZE + 9)]:
        assert refused((sound + sound)[:size]) == f"data: a state has 2784 bytes, not {size}"
    assert "as 2 states have" in refused(sound + sound)


def test_swapped_words_are_seen(sound):
    """Such as those of another byte order, or of a file that was written in pieces."""
    words = np.frombuffer(sound, np.uint64)
    assert "no state" in refused(words.byteswap().tobytes())
    for i in range(len(words) - 1):
        swapped = words.copy()
        swapped[[i, i + 1]] = swapped[[i + 1, i]]
        if (swapped != words).any():
            refused(swapped.tobytes())


@pytest.mark.parametrize("data", [bytes(SIZE), b"\xff" * SIZE, sealed(bytes(SIZE)), b"", b"nll"], ids=len)
def test_what_was_never_a_state(data):
    refused(data)


def accepted_or_refused(data: bytes) -> bool:
    """Bytes are refused, or those of a state that has sense: it is written as it was read, and merges."""
    try:
        state = nll.LossAccumulator.from_bytes(data)
    except ValueError:
        return False
    assert state.to_bytes() == data
    if max(state.count, state.ignored) > 2**60:
        return True  # so many that few of them merge
    both = state + state
    assert both.count == 2 * state.count
    assert nll.merge([both.state, data]).tobytes() == (state + both).to_bytes()
    for accumulator in (state, both):
        assert isinstance(float(accumulator.compute()), float)
        assert not accumulator.standard_error < 0
        assert not accumulator.perplexity < 0
        assert accumulator.count >= 0
    return True


@hypothesis.settings(max_examples=400, deadline=None)
@hypothesis.given(
    st.lists(st.tuples(st.integers(0, SIZE - 9), st.binary(min_size=1, max_size=40)), min_size=1, max_size=4)
)
def test_any_bytes_with_a_checksum_that_fits(sound, changes):
    data = bytearray(sound)
    for first, new in changes:
        data[first : first + len(new)] = new
    accepted_or_refused(sealed(data[:SIZE]))


@hypothesis.settings(max_examples=400, deadline=None)
@hypothesis.given(
    name=st.sampled_from([*SUMS, "count", "ignored", "dtypes", "weighted", "specials", "has_weights"]),
    integer=st.integers(-(2**40), 2**40),
    exponent=st.integers(-2176, 2100),
)
def test_any_field_with_a_checksum_that_fits(sound, name, integer, exponent):
    if name in SUMS:
        value = Fraction(integer) * Fraction(2) ** exponent
        hypothesis.assume((value * 2**2176).denominator == 1)
    else:
        value = abs(integer) % {"count": 2**40, "ignored": 2**40, "specials": 2**16}.get(name, 256)
    accepted_or_refused(changed(sound, **{name: value}))


def test_ends_of_what_sums_can_be():
    """Up to the largest that so many samples can add up to, and down to the last bit of a product."""
    one = state_of("nll", [[-1.0]], [0], [1.0]).tobytes()
    largest = Fraction(2) ** 2048 - Fraction(1, 2**2148)
    assert accepted_or_refused(changed(one, loss=largest))
    assert accepted_or_refused(changed(one, loss=-largest))
    assert accepted_or_refused(changed(one, loss=Fraction(1, 2**2148)))
    assert accepted_or_refused(changed(one, weight=Fraction(2) ** 1024 - Fraction(1, 2**1074)))
    assert not accepted_or_refused(changed(one, loss=largest + Fraction(1, 2**2148)))
    assert not accepted_or_refused(changed(one, loss=Fraction(1, 2**2149)))
    assert not accepted_or_refused(changed(one, weight=Fraction(2) ** 1024))
    assert not accepted_or_refused(changed(one, weight=Fraction(1, 2**1075)))
    assert not accepted_or_refused(changed(one, square=Fraction(-1)))
    assert accepted_or_refused(changed(one, loss=largest, count=2, weight=Fraction(2), weight_square=Fraction(2)))


def test_counts_have_an_end(sound):
    data = changed(sound, ignored=2**62)
    full = nll.LossAccumulator.from_bytes(data)
    with pytest.raises(ValueError, match="more than 2\\^62 samples together"):
        full.merge(full)
    assert full.to_bytes() == data
    refused(changed(sound, ignored=2**62 + 1))


def test_sums_can_be_read_with_integers(rng):
    """What the documentation says of the bytes suffices to read them."""
    input = random_input(rng, (100, 1), np.float64)
    state = state_of("nll", input, np.zeros(100, int))
    assert exact_sum(state, "loss") == -sum(map(Fraction, input.ravel().tolist()))
    assert exact_sum(state, "square") == sum(Fraction(x) ** 2 for x in input.ravel().tolist())
    assert states.field(state, "checksum") == states.xxh64(state.tobytes()[:-8])
