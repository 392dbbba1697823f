# SPDX-License-Identifier: BSD-3-Clause
"""The package as such: bound choices, version, what was built, docstrings, types."""

from __future__ import annotations

import copy
import doctest
import importlib.metadata
import importlib.resources
import inspect
import os
import pickle
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nll
from support.losses import CROSS_ENTROPY, NLL_LOSS
from support.oracle import assert_same_bits
from support.samples import random_input, random_target, random_weight

VALUE_AND_GRAD = [nll.nll_loss_value_and_grad, nll.cross_entropy_value_and_grad]
FUNCTIONS = [nll.nll_loss, nll.nll_loss_backward, nll.cross_entropy, nll.cross_entropy_backward, *VALUE_AND_GRAD]
FUNCTIONS += [nll.log_softmax]
LOSS_OBJECTS = [nll.NLLLoss, nll.CrossEntropyLoss]
STATES = [nll.LossAccumulator, nll.merge]
CALLABLES = [*FUNCTIONS, *LOSS_OBJECTS, *STATES]
THREADS = [nll.get_num_threads, nll.set_num_threads, nll.num_threads]
PACKAGE = [nll.get_include, nll.get_cmake_dir, nll.build_info]


# ---- NLLLoss, CrossEntropyLoss


LOSSES = [NLL_LOSS, CROSS_ENTROPY]
CHOICES: list[dict[str, Any]] = [
    {},
    {"reduction": "sum"},
    {"reduction": "none"},
    {"weight": np.array([0.5, 2, 1])},
    {"ignore_index": None, "empty": "zero"},
    {"axis": -1, "index_base": 1, "ignore_index": 2},
]
SMOOTHED: list[dict[str, Any]] = [{"label_smoothing": 0.1}, {"label_smoothing": 1, "weight": np.array([0.5, 2, 1])}]
EVERY_CHOICE = [(loss, choices) for loss in LOSSES for choices in CHOICES]
EVERY_CHOICE += [(CROSS_ENTROPY, choices) for choices in SMOOTHED]
every_loss = pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.bound.__name__)
every_choice = pytest.mark.parametrize(
    ("loss", "choices"),
    [pytest.param(*one, id=f"{one[0].bound.__name__}-{','.join(one[1]) or 'defaults'}") for one in EVERY_CHOICE],
)


@pytest.fixture
def arrays(choices, rng) -> tuple[np.ndarray, np.ndarray]:
    base = choices.get("index_base", 0)
    return random_input(rng, (20, 3), np.float32), random_target(rng, 20, 3) + base


@every_choice
def test_loss_object_is_the_function_with_its_choices(loss, choices, arrays):
    assert_same_bits(loss.bound(**choices)(*arrays), loss.value(*arrays, **choices))


@every_choice
def test_backward_of_the_loss_object(loss, choices, arrays, rng):
    grad_output = rng.normal(size=20) if choices.get("reduction") == "none" else 0.3
    out = np.empty_like(arrays[0])
    expected = loss.backward(grad_output, *arrays, **choices)
    loss_fn = loss.bound(**choices)
    assert_same_bits(loss_fn.backward(grad_output, *arrays), expected)
    assert loss_fn.backward(grad_output, *arrays, out=out) is out
    assert_same_bits(out, expected)


@every_choice
def test_value_and_grad_of_the_loss_object(loss, choices, arrays):
    loss_fn, out = loss.bound(**choices), np.empty_like(arrays[0])
    if choices.get("reduction") == "none":
        with pytest.raises(ValueError, match="reduction"):
            loss_fn.value_and_grad(*arrays)
        return
    value, gradient = loss_fn.value_and_grad(*arrays, out=out)
    expected = loss.value_and_grad(*arrays, **choices)
    assert gradient is out
    assert_same_bits(value, expected[0])
    assert_same_bits(gradient, expected[1])


@pytest.mark.parametrize("choices", [{}, {"label_smoothing": 0.1}], ids=["defaults", "smoothed"])
def test_cross_entropy_object_in_place(choices, arrays):
    logits = arrays[0].copy()
    expected = nll.cross_entropy_value_and_grad(*arrays, **choices)
    value, gradient = nll.CrossEntropyLoss(**choices).value_and_grad(logits, arrays[1], out=logits)
    assert gradient is logits
    assert_same_bits(value, expected[0])
    assert_same_bits(logits, expected[1])


@every_loss
def test_loss_object_has_the_keywords_of_the_function(loss, rng):
    input, target = random_input(rng, (20, 3), np.float32), random_target(rng, 20, 3)
    loss_fn = loss.bound(dtype=np.float64, return_total_weight=True)
    value, total_weight = loss_fn(input, target)
    assert value.dtype == np.float64
    assert total_weight == 20
    function, bound = (inspect.signature(f).parameters for f in (loss.value, loss.bound))
    assert bound.keys() == function.keys() - {"input", "target"}
    for name, parameter in bound.items():
        assert parameter.default == function[name].default
        assert parameter.kind == function[name].kind


@pytest.mark.parametrize(
    "twin", [copy.copy, copy.deepcopy, lambda f: pickle.loads(pickle.dumps(f))], ids=["copy", "deepcopy", "pickle"]
)
@every_choice
def test_loss_object_can_be_copied_and_pickled(loss, choices, twin, arrays):
    assert_same_bits(twin(loss.bound(**choices))(*arrays), loss.value(*arrays, **choices))


@every_loss
def test_repr_of_the_loss_object_tells_its_choices(loss):
    text = repr(loss.bound([1.0, 2.0], reduction="sum", ignore_index=None))
    assert text.startswith(f"{loss.bound.__name__}(")
    assert "weight" in text
    assert "reduction='sum'" in text
    assert "ignore_index=None" in text


def test_repr_tells_label_smoothing():
    assert "label_smoothing=0.25" in repr(nll.CrossEntropyLoss(label_smoothing=0.25))


@every_loss
def test_loss_object_keeps_no_state(loss, rng):
    loss_fn = loss.bound(random_weight(rng, 3, np.float64))
    input, target = random_input(rng, (20, 3), np.float32), random_target(rng, 20, 3)
    before = pickle.dumps(loss_fn)
    first = loss_fn(input, target)
    loss_fn.value_and_grad(input, target)
    with pytest.raises(IndexError):
        loss_fn(input, target + 3)
    assert pickle.dumps(loss_fn) == before
    assert_same_bits(loss_fn(input, target), first)


# ---- signatures, version, build


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__)
def test_choices_are_given_by_keyword(function):
    positional = {"input", "target", "weight", "grad_output"}
    for name, parameter in inspect.signature(function).parameters.items():
        by_keyword = name not in positional or (name == "grad_output" and function in VALUE_AND_GRAD)
        assert (parameter.kind is parameter.KEYWORD_ONLY) == by_keyword


@every_loss
def test_defaults(loss):
    parameters = inspect.signature(loss.value).parameters
    defaults = {name: p.default for name, p in parameters.items() if p.default is not p.empty}
    smoothing = {"label_smoothing": 0.0} if loss is CROSS_ENTROPY else {}
    assert defaults == smoothing | {
        "weight": None,
        "ignore_index": -100,
        "reduction": "mean",
        "axis": 1,
        "index_base": 0,
        "empty": "nan",
        "dtype": None,
        "return_total_weight": False,
    }


def test_version():
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*", nll.__version__)
    assert importlib.metadata.version("nll") == nll.__version__
    assert nll.build_info()["version"] == nll.__version__


def test_build_info():
    info = nll.build_info()
    assert isinstance(info, dict)
    assert {"version", "compiler", "instruction_set", "openmp"} <= info.keys()
    assert info["instruction_set"] in ("x86-64", "x86-64-v3", "x86-64-v4", "native")


def test_headers_and_cmake_package_are_there():
    assert Path(nll.get_include(), "nll", "nll.hpp").is_file()
    assert list(Path(nll.get_cmake_dir()).glob("nll*onfig.cmake"))


def test_public_names():
    """Each is documented, and nothing else is offered."""
    public = {f.__name__ for f in CALLABLES + THREADS + PACKAGE} | {"__version__"}
    assert set(nll.__all__) == public
    offered = {name for name in dir(nll) if not name.startswith("_")}
    assert {name for name in offered if not inspect.ismodule(getattr(nll, name))} == public - {"__version__"}


def test_importing_needs_numpy_only(run_python):
    """bfloat16 is recognised without ml_dtypes, and no framework is imported."""
    run_python("""
import sys
import nll
loaded = {"ml_dtypes", "torch", "jax", "onnx", "scipy", "sklearn", "dask"} & set(sys.modules)
assert not loaded, loaded
""")


# ---- docstrings


@pytest.mark.parametrize("documented", CALLABLES + THREADS + PACKAGE, ids=lambda f: f.__name__)
def test_docstring_has_numpydoc_sections(documented):
    text = inspect.getdoc(documented)
    assert text is not None
    sections = re.findall(r"^(\w[\w ]*)\n-{3,}$", text, re.MULTILINE)
    takes = {n: p for n, p in inspect.signature(documented).parameters.items() if n != "self"}
    if takes:
        assert "Parameters" in sections
    for name in takes:
        assert re.search(rf"^(\w+, )*{name}\b.*", text.partition("Parameters\n---")[2], re.MULTILINE), name
    if documented in CALLABLES:
        assert "Examples" in sections
        assert "Raises" in sections or documented in [*LOSS_OBJECTS, nll.LossAccumulator]
    if documented in FUNCTIONS:
        assert "Returns" in sections


def documented_objects() -> list[doctest.DocTest]:
    find = doctest.DocTestFinder(exclude_empty=True).find
    tests = find(nll, module=nll) + [
        test for f in CALLABLES + THREADS + PACKAGE for test in find(f, f"nll.{f.__name__}", module=False)
    ]
    return [test for test in tests if test.examples]


@pytest.mark.parametrize("example", documented_objects(), ids=lambda test: test.name)
def test_examples_in_docstrings(example):
    example.globs.update(nll=nll, np=np)
    results = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(example)
    assert results.attempted > 0
    assert results.failed == 0


# ---- types


def test_package_is_marked_as_typed():
    assert importlib.resources.files("nll").joinpath("py.typed").is_file()


def run_mypy(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """mypy as a user would run it, who finds nll where Python does."""
    root = str(Path(nll.__file__).parents[1])
    environment = os.environ | ({"MYPYPATH": root} if "site-packages" not in root else {})
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


BRIDGES = {"nll.dask": "dask"}  # modules that need another package


def test_stubs_agree_with_the_runtime(tmp_path):
    pytest.importorskip("mypy")
    absent = tmp_path / "absent"
    absent.write_text("\n".join(name for name, package in BRIDGES.items() if find_spec(package) is None))
    done = run_mypy(tmp_path, "mypy.stubtest", "nll", f"--allowlist={absent}", "--ignore-unused-allowlist")
    assert done.returncode == 0, done.stdout + done.stderr


WELL_TYPED = """
import numpy as np
import nll

input = np.zeros((4, 3), np.float32)
target = np.zeros(4, np.int64)
weight = np.ones(3)

print(nll.nll_loss(input, target), nll.nll_loss([[0.0, 1.0]], [0]))
print(nll.nll_loss(input, target, weight, ignore_index=None, reduction="sum", axis=-1, index_base=1, empty="zero"))
loss, total_weight = nll.nll_loss(input, target, dtype=np.float64, return_total_weight=True)
gradient: np.ndarray = nll.nll_loss_backward(1.0, input, target, out=np.zeros_like(input))
value, gradient = nll.nll_loss_value_and_grad(input, target)
value, total_weight, gradient = nll.nll_loss_value_and_grad(input, target, return_total_weight=True)
loss_fn = nll.NLLLoss(weight, reduction="mean")
print(loss_fn(input, target), loss_fn.backward(1.0, input, target), loss_fn.value_and_grad(input, target))
print(nll.cross_entropy(input, target, weight, label_smoothing=0.1, dtype=np.float64))
gradient = nll.cross_entropy_backward(1.0, input, target, out=input)
value, gradient = nll.cross_entropy_value_and_grad(input, target, label_smoothing=0.1, out=input)
gradient = nll.log_softmax(input, axis=-1, out=input)
print(nll.CrossEntropyLoss(weight, label_smoothing=0.1).value_and_grad(input, target, out=input))
count: int = nll.get_num_threads()
nll.set_num_threads(count)
with nll.num_threads(2):
    pass
version: str = nll.__version__
include: str = nll.get_include()
"""
ILL_TYPED = {
    "reduction": "nll.nll_loss(input, target, reduction=None)",
    "ignore_index": "nll.nll_loss(input, target, ignore_index=1.5)",
    "keyword": "nll.nll_loss(input, target, size_average=True)",
    "positional": "nll.nll_loss(input, target, None, -100)",
    "target": "nll.nll_loss(input)",
    "threads": 'nll.set_num_threads("2")',
    "label_smoothing": 'nll.cross_entropy(input, target, label_smoothing="0.1")',
    "no-smoothing": "nll.nll_loss(input, target, label_smoothing=0.1)",
    "bound-keyword": "nll.CrossEntropyLoss(size_average=True)",
}


def test_types_for_users(tmp_path):
    """A strict checker accepts what is right, and each of these faults is found."""
    pytest.importorskip("mypy")
    good, bad = tmp_path / "good.py", tmp_path / "bad.py"
    good.write_text(WELL_TYPED)
    lines = ["import numpy as np", "import nll", "input, target = np.zeros((4, 3)), np.zeros(4, np.int64)"]
    bad.write_text("\n".join(lines + list(ILL_TYPED.values())))
    done = run_mypy(tmp_path, "mypy", "--strict", "good.py", "bad.py")
    assert "good.py" not in done.stdout, done.stdout + done.stderr
    found = {int(line) for line in re.findall(r"^bad\.py:(\d+): error", done.stdout, re.MULTILINE)}
    assert found == {len(lines) + 1 + i for i in range(len(ILL_TYPED))}, done.stdout + done.stderr
