# SPDX-License-Identifier: BSD-3-Clause
"""Every reduced loss is the correctly rounded value of the true sum or mean.

Whatever the numbers, the threads and the processor's settings are. The sums below are of unweighted losses, -input, in
blocks of consecutive samples.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import hypothesis
import hypothesis.extra.numpy as hypothesis_numpy
import hypothesis.strategies as st
import ml_dtypes
import numpy as np
import pytest

import nll
from support import oracle
from support.constants import BLOCK_SIZE
from support.losses import assert_exact
from support.oracle import FORMATS, assert_same_bits
from support.pairs import pairwise
from support.samples import FLOAT_DTYPES, random_input

FLOAT16, BFLOAT16, FLOAT32, FLOAT64 = FLOAT_DTYPES


def column(values, dtype=np.float64) -> tuple[np.ndarray, np.ndarray]:
    """Input (N, 1) and target (N,) whose losses are -values."""
    values = np.asarray(values, dtype)
    return values[:, None], np.zeros(len(values), np.int64)


# ---- the limits up to which a block may be added in double without any rounding
#
# A block whose non-zero magnitudes lie in [2**low, 2**E), its span being E - 1 - low, is added as slices: multiples of
# g = 2**(E - 43), the rest (at most g / 2 each) as multiples of g * 2**-43 if there are three, and the last rest. Each
# slice has its own sum in double. A sum is exact while it needs at most 53 bits, in units of the last place of the
# smallest number, 2**(low - P + 1) for P significant bits. Each case fills one block so that its last slice adds up to
# an odd number of units that needs 54 bits at the first unsafe span, and 53 at the span before. So it is lost in any
# order of adding: no case can be sharper. A second block takes away all but the last units, which makes the lost one
# visible. Of products a bound of 2**(E + 1) is known only, from the factors; so their slices have units twice as large,
# and hold one power of two less.


def one_slice(precision: int, span: int) -> tuple[np.ndarray, np.ndarray]:
    """511 largest numbers and one smallest add up to just under 2**(E + 9), the most that 512 numbers can reach."""
    largest = 2 - 2.0 ** (1 - precision)
    smallest = np.ldexp(1 + 2.0 ** (1 - precision), -span)
    return np.array([largest] * 511 + [smallest]), np.array([-largest] * 511)


def pure_rests(precision: int, span: int) -> tuple[np.ndarray, np.ndarray]:
    """510 numbers just under g / 2, which stay in the rest as a whole, beside one largest and one smallest number."""
    largest = 2 - 2.0 ** (1 - precision)
    rest = np.ldexp(largest, -44)  # g / 2 is 2**-43
    smallest = np.ldexp(1 + 2.0 ** (1 - precision), -span)
    return np.array([largest] + [rest] * 510 + [smallest]), np.array([-largest] + [-rest] * 510)


def rests_above_the_smallest(half: int) -> Callable[[int, int], tuple[np.ndarray, np.ndarray]]:
    """511 numbers that leave a last rest one unit less than 2**half, half the unit of the slice before, beside a 1."""

    def blocks(precision: int, span: int) -> tuple[np.ndarray, np.ndarray]:
        number = Fraction(2) ** -span + Fraction(2) ** half - Fraction(2) ** (-span - precision + 1)
        assert Fraction(float(number)) == number
        taken_away = 2.0**-span + 2.0**half
        return np.array([1.0] + [float(number)] * 511), np.array([-1.0] + [-taken_away] * 511)

    return blocks


class Limit(NamedTuple):
    name: str
    dtype: np.dtype
    slices: int
    span: int  # the largest that is exact in every rounding mode
    first_unsafe: int  # in round to nearest
    blocks: Callable[[int, int], tuple[np.ndarray, np.ndarray]]
    headroom: int = 0  # by how many powers of two the bound that is known exceeds the least


LIMITS = [
    Limit("float32-one-slice", FLOAT32, 1, 20, 21, one_slice),
    Limit("float32-two-slices", FLOAT32, 2, 63, 65, pure_rests),
    Limit("float64-two-slices", FLOAT64, 2, 34, 36, rests_above_the_smallest(-43)),
    Limit("float64-three-slices", FLOAT64, 3, 77, 79, rests_above_the_smallest(-86)),
    Limit("bfloat16-one-slice", BFLOAT16, 1, 36, 37, one_slice),
    Limit("products-in-two-slices", FLOAT64, 2, 33, 35, rests_above_the_smallest(-42), headroom=1),
    Limit("products-in-three-slices", FLOAT64, 3, 76, 78, rests_above_the_smallest(-85), headroom=1),
]


@pytest.fixture(params=LIMITS, ids=lambda limit: limit.name)
def limit(request: pytest.FixtureRequest) -> Limit:
    return request.param


def add_in_slices(block: np.ndarray, limit: Limit) -> Fraction:
    """What the sum of a block would be if its span were not checked."""
    rest = block.astype(np.float64)
    bound = np.frexp(np.abs(rest).max())[1] + limit.headroom
    total = Fraction(0)
    for slice in range(limit.slices - 1):
        cut = np.ldexp(1.5, bound + 9 - 43 * slice)
        taken = (rest + cut) - cut
        total += Fraction(float(taken.sum()))
        rest = rest - taken
    return total + Fraction(float(rest.sum()))


def test_the_worst_cases_are_lost_at_the_first_unsafe_span(limit):
    precision = FORMATS[limit.dtype].precision
    for span in range(limit.span - 3, limit.first_unsafe + 3):
        block, _ = limit.blocks(precision, span)
        assert len(block) == BLOCK_SIZE
        exact = sum(map(Fraction, block.tolist()))
        assert (add_in_slices(block, limit) == exact) == (span < limit.first_unsafe)


@pytest.fixture(params=[1, -1], ids=["losses", "negated"])
def worst_blocks(limit: Limit, request: pytest.FixtureRequest) -> list[np.ndarray]:
    """Both blocks, one after the other, for spans around the limit."""
    precision = FORMATS[limit.dtype].precision
    spans = range(limit.span - 3, limit.first_unsafe + 4)
    return [request.param * np.concatenate(limit.blocks(precision, span)).astype(limit.dtype) for span in spans]


def test_worst_blocks(worst_blocks):
    for values in worst_blocks:
        assert_exact(*column(values, values.dtype), reduction="sum")


def test_worst_blocks_in_any_order(worst_blocks, rng):
    for values in worst_blocks:
        shuffled = np.concatenate([rng.permutation(values[:BLOCK_SIZE]), rng.permutation(values[BLOCK_SIZE:])])
        assert_exact(*column(shuffled, values.dtype), reduction="sum")


@pytest.mark.parametrize("weight", [1, 2.0**-30], ids=str)
def test_worst_blocks_of_products(worst_blocks, weight):
    for values in worst_blocks:
        assert_exact(*column(values, values.dtype), [weight], reduction="sum", dtype=np.float64)


def test_worst_blocks_as_weights(worst_blocks):
    """The total weight is an exact sum too."""
    for values in worst_blocks:
        weight, target = np.unique(values, return_inverse=True)
        assert_exact(np.zeros((len(values), len(weight)), np.float32), target, weight, reduction="sum")


def test_worst_blocks_as_means(worst_blocks):
    for values in worst_blocks:
        assert_exact(*column(values, values.dtype), reduction="mean")


# ---- wide ranges, cancellation, subnormals, many threads


def whole_range(dtype: np.dtype) -> tuple[int, int]:
    format = FORMATS[dtype]
    return format.lowest_place, format.max_exponent - 12


@pytest.mark.parametrize("reduced", ["sum", "mean"])
def test_whole_exponent_range(reduced, dtype, rng):
    assert_exact(*column(random_input(rng, 3000, dtype, whole_range(dtype)), dtype), reduction=reduced)


@pytest.mark.parametrize("span", [10, 30, 60, 80])
@pytest.mark.parametrize("end", ["bottom", "top"])
def test_narrow_ranges_at_the_ends_of_the_range(end, span, dtype, rng):
    """Where the powers of two that cut numbers into slices could leave the range of double."""
    lowest, highest = whole_range(dtype)
    span = min(span, highest - lowest)
    starts = range(lowest, min(lowest + 40, highest - span + 1), 13) if end == "bottom" else [highest - span]
    for low in starts:
        values = random_input(rng, 1000, dtype, (low, low + span))
        assert_exact(*column(values, dtype), reduction="sum")
        assert_exact(*column(values, dtype), [1 - 2.0**-53], reduction="mean")


@pytest.mark.parametrize("span", [5, 15, 20, 25, 30, 40, 55, 70, 90, 150])
def test_spans_of_every_path(span, rng):
    for dtype in (BFLOAT16, FLOAT32, FLOAT64):
        values = random_input(rng, 2000, dtype, (-span // 2, span - span // 2))
        assert_exact(*column(values, dtype), reduction="sum")


def test_subnormals(dtype, rng):
    lowest = FORMATS[dtype].lowest_place
    values = np.ldexp(rng.integers(-100, 100, 2000).astype(float), lowest)
    assert_exact(*column(values, dtype), reduction="sum")
    assert_exact(*column(values, dtype), reduction="mean")


def test_one_subnormal_survives_cancellation(dtype):
    smallest = np.ldexp(1.0, FORMATS[dtype].lowest_place)
    largest = float(np.finfo(dtype).max) if dtype != BFLOAT16 else float(ml_dtypes.finfo(dtype).max)
    loss = nll.nll_loss(*column([largest, -smallest, -largest], dtype), reduction="sum")
    assert_same_bits(loss, np.array(smallest, dtype))


@pytest.mark.parametrize("reduced", ["sum", "mean"])
def test_cancellation_to_positive_zero(reduced, dtype):
    values = [3, 1e-3, -3, -1e-3]
    assert_same_bits(nll.nll_loss(*column(values, dtype), reduction=reduced), np.zeros((), dtype))


def test_cancellation_inside_and_across_blocks(dtype, rng):
    values = random_input(rng, 1500, dtype, (-20, 8))
    values = np.concatenate([values, -rng.permutation(values), random_input(rng, 3, dtype, (-24, -20))])
    assert_exact(*column(values, dtype), reduction="sum")
    assert_exact(*column(rng.permutation(values), dtype), reduction="sum")


@pairwise(indirect=["threads"], reduced=["sum", "mean"], weighted=[False, True], threads=[1, 2, 3], dtype=FLOAT_DTYPES)
def test_cancellation_between_the_partials_of_threads(reduced, weighted, threads, dtype, rng):
    """The first half of the samples takes the second away but for a few bits far below."""
    half = random_input(rng, 35_000, dtype, (-2, 10))
    tail = random_input(rng, 1000, dtype, (-24, -20))
    values = np.concatenate([half, tail, -rng.permutation(half)])
    assert_exact(*column(values, dtype), [1 + 2.0**-52] if weighted else None, reduction=reduced)


def test_many_samples_of_every_magnitude_on_several_threads(threads, dtype, rng):
    values = random_input(rng, 35_000, dtype, whole_range(dtype))
    values = np.concatenate([values, -rng.permutation(values)[:-7]])
    assert_exact(*column(values, dtype), reduction="sum")


# ---- the ends of the range


def test_sum_overflows_to_infinity_where_its_value_does(dtype):
    largest = np.array(oracle.from_bits(FORMATS[dtype].infinity - 1, dtype))
    half_a_unit = float(largest) * 2.0 ** -FORMATS[dtype].precision
    half_a_unit = 2.0 ** np.frexp(half_a_unit)[1] / 2
    for values in ([largest, largest], [largest, half_a_unit], [-largest, -half_a_unit], [largest] * 600):
        loss = nll.nll_loss(*column([-float(v) for v in values], dtype), reduction="sum")
        assert np.isinf(loss)
        assert (loss > 0) == (values[0] > 0)
    assert_same_bits(nll.nll_loss(*column([-float(largest), -half_a_unit / 2], dtype), reduction="sum"), largest)


def test_intermediate_overflow_does_not_show(dtype):
    largest = float(oracle.from_bits(FORMATS[dtype].infinity - 1, dtype))
    values = [-largest, -largest, -largest, largest, largest]
    assert nll.nll_loss(*column(values, dtype), reduction="sum") == largest
    assert nll.nll_loss(*column([-largest, -largest], dtype)) == largest


def test_total_weight_beyond_double_is_infinite_and_its_mean_is_right():
    largest = np.finfo(np.float64).max
    assert nll.nll_loss(*column([-3.0, -3.0]), [largest], return_total_weight=True) == (3.0, np.inf)


# ---- one rounding, straight to the dtype of the result


@pytest.mark.parametrize("last_digit", [0, 1], ids=["even", "odd"])
@pytest.mark.parametrize("beside", [0, 2.0**-200, -(2.0**-200), 2.0**-70, -(2.0**-70)], ids=str)
@pytest.mark.parametrize("sign", [1, -1])
def test_sum_at_and_beside_a_tie(last_digit, beside, sign, dtype):
    """Beside a tie of the result's dtype, further away than any double can tell."""
    precision = FORMATS[dtype].precision
    values = sign * np.array([1, last_digit * 2.0 ** (1 - precision), 2.0**-precision, beside])
    assert_exact(*column(values), reduction="sum", dtype=dtype)


@pytest.mark.parametrize("beside", [2.0**-60, 2.0**-107, 2.0**-150, 2.0**-300], ids=str)
def test_mean_beside_a_tie(beside, dtype):
    """Total weights of 2 ± beside move the quotient off the tie, down from an odd or up from an even last digit."""
    precision = FORMATS[dtype].precision
    for last_digit, extra in ((1, beside), (0, -beside)):
        values = [-1, -last_digit * 2.0 ** (1 - precision) - 2.0**-precision, 0]
        input = np.repeat(np.array(values)[:, None], 2, axis=1)
        assert_exact(input, np.array([0, 0, 1]), [1, extra], dtype=dtype)


@pytest.mark.parametrize("places", [*range(61, 68), *range(93, 100), 128, 200])
def test_mean_a_last_bit_beside_a_tie(places, dtype):
    """A quotient that ends so many binary places below its first bit."""
    precision = FORMATS[dtype].precision
    for last_digit, sign in ((0, 1), (1, -1)):
        values = [1, last_digit * 2.0 ** (1 - precision), 2.0**-precision, sign * 2.0**-places]
        assert_exact(*column([-4 * value for value in values]), dtype=dtype)


@pytest.mark.parametrize("samples", [2, 3, 4, 8])
def test_mean_between_subnormals(samples, dtype):
    """At ties, beside them, and below the smallest of all."""
    smallest = np.ldexp(1.0, FORMATS[dtype].lowest_place)
    for units in range(1, 8):
        assert_exact(*column([-units * smallest] + [0] * (samples - 1), dtype))


@pytest.mark.parametrize("samples", [3, 7, 49, 1000, 4095])
def test_mean_of_counts_that_do_not_divide(samples, dtype, rng):
    assert_exact(*column(random_input(rng, samples, dtype, (-3, 3)), dtype))


def test_mean_of_doubles_rounded_to_every_dtype(dtype, rng):
    for _ in range(50):
        input = random_input(rng, (30, 4), np.float64, (-3, 3))
        assert_exact(input, rng.integers(0, 4, 30), rng.uniform(0.1, 1, 4), dtype=dtype)


# ---- products of doubles


def test_all_bits_of_products_of_doubles():
    """(1 + e)**2 - (1 + 2 e) = e**2, 104 binary places below 1."""
    e = 2.0**-52
    input, weight = np.array([[-1 - e, 0], [0, 1 + 2 * e]]), [1 + e, 1]
    assert nll.nll_loss(input, [0, 1], weight, reduction="sum") == e * e


def test_products_below_the_smallest_double():
    """1e-200 * 1e-200 is 0 in double; the weighted mean of it is not."""
    assert nll.nll_loss(*column([-1e-200]), [1e-200]) == 1e-200
    assert nll.nll_loss(*column([-1e-200]), [1e-200], reduction="sum") == 0
    assert_exact(*column([-5e-324, -1e-310]), [5e-324])


def test_products_above_the_largest_double():
    assert nll.nll_loss(*column([-1e200]), [1e200]) == 1e200
    assert nll.nll_loss(*column([-1e200]), [1e200], reduction="sum") == np.inf
    assert nll.nll_loss(*column([-1e200, 1e200]), [1e200], reduction="sum") == 0


@pairwise(
    reduced=["sum", "mean"],
    exponents=[(-30, 30), (-400, 400), (-1074, 1023), (-1074, -1000), (900, 1023)],
    dtype=FLOAT_DTYPES,
)
def test_products_of_every_magnitude(reduced, exponents, dtype, rng):
    lowest, highest = np.clip(exponents, *whole_range(dtype))
    input = random_input(rng, (1200, 50), dtype, (lowest, highest + 1))
    weight = random_input(rng, 50, np.float64, exponents)
    assert_exact(input, rng.integers(0, 50, 1200), weight, reduction=reduced)


def test_no_bit_of_a_product_is_lost(dtype, rng):
    """Products of the input with a double need more bits than a double has; their sum as a double shows it."""
    for _ in range(20):
        input, weight = random_input(rng, (600, 9), dtype, (-3, 3)), rng.uniform(0.5, 1, 9)
        assert_exact(input, rng.integers(0, 9, 600), weight, reduction="sum", dtype=np.float64)


def test_largest_products_of_their_exponents(dtype, rng):
    """Just below 2 times just below 2: the most that a bound by the factors' exponents must allow for."""
    for _ in range(20):
        input = (2 - rng.uniform(2.0**-10, 2.0**-6, (512, 9))).astype(dtype)
        assert_exact(input, rng.integers(0, 9, 512), 2 - rng.uniform(0, 2.0**-6, 9), reduction="sum", dtype=np.float64)


def test_products_that_cancel(rng):
    values, weight = random_input(rng, 600, np.float64, (-3, 3)), rng.uniform(0.5, 1, 1)
    values = np.concatenate([values, -rng.permutation(values), [2.0**-60]])
    assert_exact(*column(values), weight, reduction="sum")


# ---- anything


@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(data=st.data())
@pytest.mark.parametrize("dtype", FLOAT_DTYPES, ids=str)
@pytest.mark.parametrize("weighted", [False, True], ids=["unweighted", "weighted"])
def test_any_bits(dtype, weighted, data):
    """NaN, infinities, subnormals, zeros of both signs and all the rest, in more than one block."""

    def draw(element_dtype: np.dtype, size: int) -> np.ndarray:
        bits = FORMATS[element_dtype].bits_dtype
        return data.draw(hypothesis_numpy.arrays(bits, size)).view(element_dtype)

    size = data.draw(st.integers(0, 40))
    input = np.tile(draw(dtype, size)[:, None], (data.draw(st.integers(1, 30)), 1))
    weight = draw(data.draw(st.sampled_from(FLOAT_DTYPES)), 1) if weighted else None
    for reduction in ("none", "sum", "mean"):
        assert_exact(input, np.zeros(len(input), np.int8), weight, reduction=reduction)


@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(data=st.data())
@pytest.mark.parametrize("dtype", FLOAT_DTYPES, ids=str)
@pytest.mark.parametrize("reduced", ["sum", "mean"])
def test_any_finite_numbers_rounded_to_any_dtype(reduced, dtype, data):
    finite = st.floats(allow_nan=False, allow_infinity=False)
    input = np.array(data.draw(st.lists(st.tuples(finite, finite), min_size=1)))
    target = np.array(data.draw(st.lists(st.integers(0, 1), min_size=len(input), max_size=len(input))))
    weight = data.draw(st.tuples(finite, finite))
    assert_exact(input, target, weight, reduction=reduced, dtype=dtype)


# ---- the processor's settings in the calling thread


def test_worst_blocks_in_every_rounding_mode(limit, rounding_mode):
    precision = FORMATS[limit.dtype].precision
    spans = range(limit.span - 2, limit.first_unsafe + 2)
    cases = [column(np.concatenate(limit.blocks(precision, span)), limit.dtype) for span in spans]
    expected = [oracle.nll_loss(*case, reduction="sum").loss for case in cases]
    with rounding_mode:
        actual = [nll.nll_loss(*case, reduction="sum") for case in cases]
    for loss, exact in zip(actual, expected, strict=True):
        assert_same_bits(loss, exact)


FLUSHED = """
import ctypes, sys
import numpy as np, nll
from support import oracle
from support.samples import FLOAT_DTYPES, random_input

rng = np.random.default_rng(0)
cases = []
for dtype in FLOAT_DTYPES:
    lowest = oracle.FORMATS[dtype].lowest_place
    for samples in (300, 10_000):
        input = random_input(rng, (samples, 2), dtype, (lowest, lowest + 20))
        target = rng.integers(0, 2, samples)
        grad_output = float(np.ldexp(0.7, max(lowest, -1000)))
        for weight in (None, [0.3, 2.0**-30], [5e-324, 1e-310]):
            cases.append((grad_output, input, target, weight))
REDUCTIONS = "none", "sum", "mean"


def results(losses, gradients):
    for grad_output, *arrays in cases:
        for reduction in REDUCTIONS:
            yield losses(*arrays, reduction=reduction, return_total_weight=True)
        yield gradients(grad_output, *arrays, reduction="sum")
        yield gradients(grad_output, *arrays)


def exact_losses(*arrays, return_total_weight, **keywords):
    return oracle.nll_loss(*arrays, **keywords)


expected = list(results(exact_losses, oracle.nll_loss_backward))
tiny = np.float64(sys.float_info.min)
assert tiny / 2 > 0
ctypes.CDLL(LIBRARY)
assert tiny / 2 == 0, "subnormals are not flushed: the test would show nothing"
for threads in (1, 3):
    with nll.num_threads(threads):
        actual = list(results(nll.nll_loss, nll.nll_loss_backward))
    assert tiny / 2 == 0, "the caller's setting is gone"
    for got, want in zip(actual, expected, strict=True):
        got, want = (got, want) if isinstance(got, tuple) else ((got,), (want,))
        for g, w in zip(got, want, strict=True):
            assert np.asarray(g).tobytes() == np.asarray(w).tobytes(), (g, w)
"""


def test_flushing_of_subnormals_in_the_caller_has_no_effect_and_stays(tmp_path: Path, run_python):
    """Loading a library that was linked with -ffast-math makes the thread flush subnormals to zero, in and out."""
    compiler = shutil.which("gcc") or shutil.which("g++")
    if compiler is None or platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip("needs GCC on x86, where -ffast-math sets flush-to-zero at load")
    source, library = tmp_path / "fast.c", tmp_path / "fast.so"
    source.write_text("int nothing(void) { return 0; }\n")
    subprocess.run([compiler, "-shared", "-fPIC", "-ffast-math", source, "-o", library], check=True)
    run_python(FLUSHED.replace("LIBRARY", repr(str(library))))


# ---- kernels for every instruction set

EVERY_PATH = """
import sys
import numpy as np, nll
from support import oracle
from support.losses import assert_exact
from support.samples import FLOAT_DTYPES, random_input, random_target
from test_exactness import LIMITS, FORMATS, column, whole_range

assert nll.build_info()["instruction_set"] == INSTRUCTION_SET
rng = np.random.default_rng(0)
for limit in LIMITS:
    for span in range(limit.span - 3, limit.first_unsafe + 3):
        values = np.concatenate(limit.blocks(FORMATS[limit.dtype].precision, span))
        assert_exact(*column(values, limit.dtype), reduction="sum")
        assert_exact(*column(values, limit.dtype), [1.0], reduction="sum", dtype=np.float64)
for dtype in FLOAT_DTYPES:
    for exponents in ((-3, 3), (-24, 8), whole_range(dtype)):
        for shape in ((1100, 3), (13, 5, 99)):
            input = random_input(rng, shape, dtype, exponents)
            target = random_target(rng, (shape[0], *shape[2:]), shape[1], np.int16, ignored=-100)
            for weight in (None, rng.uniform(0.1, 1, shape[1]), rng.uniform(0.1, 1, shape[1]).astype(np.float32)):
                for reduction in ("none", "sum", "mean"):
                    assert_exact(input, target, weight, reduction=reduction)
                gradient = nll.nll_loss_backward(0.3, input, target, weight)
                oracle.assert_same_bits(gradient, oracle.nll_loss_backward(0.3, input, target, weight))
"""
INSTRUCTION_SETS = ["x86-64", "x86-64-v3", "x86-64-v4"]


@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)
def test_every_instruction_set_gives_the_same_bits(instruction_set, run_python):
    best = nll.build_info()["instruction_set"]
    if best not in INSTRUCTION_SETS or INSTRUCTION_SETS.index(instruction_set) > INSTRUCTION_SETS.index(best):
        pytest.skip(f"this build and machine run {best}")
    run_python(EVERY_PATH.replace("INSTRUCTION_SET", repr(instruction_set)), NLL_INSTRUCTION_SET=instruction_set)


def test_unknown_instruction_set(run_python):
    run_python(
        """
try:
    import nll
    nll.nll_loss([0.0], 0)
except ValueError as error:
    assert "NLL_INSTRUCTION_SET" in str(error) and "x86-65" in str(error), error
else:
    raise SystemExit("accepted")
""",
        NLL_INSTRUCTION_SET="x86-65",
    )
