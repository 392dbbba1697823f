# SPDX-License-Identifier: BSD-3-Clause
"""ONNX's two losses as operators of its reference evaluator and as a backend, by the official tests and beside it."""

from __future__ import annotations

import doctest
import importlib
import io
import pkgutil
import re
import warnings
from collections.abc import Callable
from typing import Any
from unittest import mock

import ml_dtypes
import numpy as np
import pytest

pytest.importorskip("onnx", minversion="1.23")  # before, the official cases are files

import onnx
import onnx.parser
from onnx.backend.base import Backend
from onnx.backend.test import BackendTest
from onnx.backend.test.case import node
from onnx.helper import (
    make_function,
    make_graph,
    make_model,
    make_node,
    make_opsetid,
    make_tensor_value_info,
    np_dtype_to_tensor_dtype,
)
from onnx.reference import ReferenceEvaluator

import nll
import nll.onnx
from support.oracle import assert_same_bits
from support.pairs import pairwise
from support.samples import REDUCTIONS, random_input, random_logits, random_target

NLL, SCE = "NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss"
HALF, BFLOAT16, SINGLE, DOUBLE = map(np.dtype, (np.float16, ml_dtypes.bfloat16, np.float32, np.float64))
INT32, INT64 = map(np.dtype, (np.int32, np.int64))


# ---- the official tests


def official_tests() -> dict[str, Callable[[], None]]:
    """ONNX's node tests of the two losses by their names, each a call that raises AssertionError.

    They are made from the modules of these operators: those of all operators take half a minute. Left out are those
    for other devices, and the `_expanded` ones, in which other operators stand for the loss.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for module in pkgutil.iter_modules(node.__path__, f"{node.__name__}."):
            if re.search(r"\.(negativeloglikelihoodloss|softmaxcrossentropy(loss)?)$", module.name.replace("_", "")):
                importlib.import_module(module.name)
        cases = {"node": node._NodeTestCases}
        with mock.patch("onnx.backend.test.runner.load_model_tests", lambda kind: cases.get(kind, [])):
            tests = BackendTest(nll.onnx.Backend, __name__).test_cases["OnnxBackendNodeModelTest"]
    names = [name for name in vars(tests) if re.fullmatch(r"test_(nllloss|sce)_(?!.*_expanded).*_cpu", name)]
    return {name: getattr(tests(name), name) for name in names}


OFFICIAL = official_tests()


@pytest.mark.parametrize("name", OFFICIAL)
def test_official(name):
    OFFICIAL[name]()


@pytest.mark.parametrize(("family", "count"), [("nllloss", 18), ("sce", 34)])
def test_there_are_as_many_official_tests_as_of_onnx_1_23(family, count):
    assert sum(name.startswith(f"test_{family}_") for name in OFFICIAL) >= count


@pytest.mark.parametrize("name", OFFICIAL)
def test_official_test_notices_a_wrong_loss(name, monkeypatch):
    """One that is too large by a hundredth: so it is the loss of nll that the test compares."""
    for function in ("nll_loss", "cross_entropy"):
        exact = getattr(nll, function)
        monkeypatch.setattr(nll.onnx, function, lambda *a, exact=exact, **k: np.float32(1.01) * exact(*a, **k))
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        OFFICIAL[name]()


# ---- the operators


def loss_model(
    operator: str,
    opset: int,
    *,
    rank: int = 2,
    dtype: np.dtype[Any] = SINGLE,
    target_dtype: np.dtype[Any] = INT64,
    weight_dtype: np.dtype[Any] | None = None,
    outputs: tuple[str, ...] = ("loss",),
    **attributes: Any,
) -> onnx.ModelProto:
    """One loss of an input of this rank, whose extents are left open."""
    loss_rank = rank - 1 if attributes.get("reduction") == "none" else 0
    inputs = {"input": (dtype, rank), "target": (target_dtype, rank - 1)}
    if weight_dtype is not None:
        inputs["weight"] = weight_dtype, 1
    results = {name: (dtype, ranked) for name, ranked in zip(outputs, (loss_rank, rank), strict=False) if name}
    infos = [
        [make_tensor_value_info(name, np_dtype_to_tensor_dtype(t), [None] * n) for name, (t, n) in tensors.items()]
        for tensors in (inputs, results)
    ]
    graph = make_graph([make_node(operator, list(inputs), list(outputs), **attributes)], "loss", *infos)
    return make_model(graph, opset_imports=[make_opsetid("", opset)], ir_version=8)


def evaluate(model: onnx.ModelProto, *arrays: Any) -> list[np.ndarray]:
    """The model's outputs by ONNX's reference evaluator with the operators of nll."""
    names = [info.name for info in model.graph.input]
    return ReferenceEvaluator(model, new_ops=nll.onnx.OPERATORS).run(None, dict(zip(names, arrays, strict=True)))


def stock(model: onnx.ModelProto, *arrays: Any) -> list[np.ndarray]:
    """The same by the evaluator alone."""
    names = [info.name for info in model.graph.input]
    return ReferenceEvaluator(model).run(None, dict(zip(names, arrays, strict=True)))


VERSIONS = [(NLL, opset, dtype) for opset in (12, 13, 22) for dtype in (HALF, SINGLE, DOUBLE)]
VERSIONS += [(SCE, opset, dtype) for opset in (12, 13, 22) for dtype in (HALF, SINGLE, DOUBLE)]
VERSIONS += [(NLL, 22, BFLOAT16), (SCE, 13, BFLOAT16), (SCE, 22, BFLOAT16)]


@pairwise(
    version=VERSIONS,
    target_dtype=[INT32, INT64],
    weighted=[False, True],
    ignore_index=[None, 1, -2, 255],
    reduction=REDUCTIONS,
    shape=[(6, 5), (3, 5, 4), (2, 5, 3, 2), (2, 5, 1, 2, 1, 3, 1)],
)
class TestEveryVersion:
    @pytest.fixture
    def arrays(self, version, target_dtype, weighted, ignore_index, shape, rng) -> list[np.ndarray]:
        """Input, target and perhaps weight, such that no losses cancel."""
        operator, _, dtype = version
        input = random_logits(rng, shape, dtype) if operator == SCE else -abs(random_input(rng, shape, dtype, (-8, 4)))
        target = random_target(rng, (shape[0], *shape[2:]), shape[1], target_dtype, ignored=ignore_index)
        return [input, target] + [rng.uniform(0.5, 2, shape[1]).astype(dtype)] * weighted

    @pytest.fixture
    def choices(self, ignore_index, reduction) -> dict[str, Any]:
        return {"reduction": reduction} | ({} if ignore_index is None else {"ignore_index": ignore_index})

    @pytest.fixture
    def model(self, version, target_dtype, weighted, choices, shape) -> onnx.ModelProto:
        operator, opset, dtype = version
        types = {"dtype": dtype, "target_dtype": target_dtype, "weight_dtype": dtype if weighted else None}
        model = loss_model(operator, opset, rank=len(shape), **types, **choices)
        onnx.checker.check_model(model, full_check=True)
        return model

    def test_has_the_bits_of_the_function(self, version, model, arrays, choices):
        (loss,) = evaluate(model, *arrays)
        function = nll.nll_loss if version[0] == NLL else nll.cross_entropy
        assert isinstance(loss, np.ndarray)
        assert_same_bits(loss, function(*arrays, **({"ignore_index": None} | choices)))

    def test_agrees_with_the_reference_in_double(self, version, model, arrays):
        (loss,) = evaluate(model, *arrays)
        (expected,) = stock(model, *[array if array.dtype.kind == "i" else array.astype(float) for array in arrays])
        one_rounding = float(ml_dtypes.finfo(version[2]).eps)
        np.testing.assert_allclose(loss.astype(float), expected, rtol=max(one_rounding, 1e-12))


class TestRules:
    """What ONNX says and nll's functions do not."""

    input = -np.arange(1.0, 13).reshape(4, 3).astype(np.float32)

    @pytest.mark.parametrize("operator", [NLL, SCE])
    def test_nothing_is_ignored_by_default(self, operator):
        with pytest.raises(IndexError, match=r"target\[2\] is -100, outside \[0, 3\)"):
            evaluate(loss_model(operator, 13), self.input, np.array([0, 1, -100, 1]))

    def test_mean_over_the_samples_that_are_kept(self):
        """The reference: 5.25, if the ignored label is -1."""
        (loss,) = evaluate(loss_model(NLL, 13, ignore_index=-1), self.input, np.array([0, -1, 2, 1]))
        assert loss == 7

    @pytest.mark.parametrize("operator", [NLL, SCE])
    def test_one_sample_without_a_batch_is_refused(self, operator):
        with pytest.raises(ValueError, match=r"has shape \(3,\); ONNX's is \(N, C\) or \(N, C, d1"):
            evaluate(loss_model(operator, 13), self.input[0], np.array(1))

    @pytest.mark.parametrize(("operator", "opset"), [(NLL, 12), (NLL, 13), (NLL, 21), (SCE, 12)])
    def test_bfloat16_before_its_version_is_refused(self, operator, opset):
        wrong = evaluate_error(loss_model(operator, opset), self.input.astype(BFLOAT16), np.array([0, 1, 2, 0]))
        assert re.search(r"has dtype bfloat16; in \w+ 1[23] it must be float16, float32 or float64", wrong)

    @pytest.mark.parametrize("target_dtype", ["uint8", "int16", "uint64"])
    def test_other_targets_are_refused(self, target_dtype):
        wrong = evaluate_error(loss_model(NLL, 22), self.input, np.array([0, 1, 2, 0], target_dtype))
        assert f"target has dtype {target_dtype}; in {NLL} 22 it must be int32 or int64" in wrong

    @pytest.mark.parametrize("operator", [NLL, SCE])
    def test_weight_of_another_type_is_refused(self, operator):
        model = loss_model(operator, 13, weight_dtype=SINGLE)
        wrong = evaluate_error(model, self.input, np.array([0, 1, 2, 0]), np.ones(3))
        assert re.search(r"weights? has dtype float64, but \w+ has float32", wrong)

    @pytest.mark.parametrize("operator", [NLL, SCE])
    def test_unknown_reduction_is_refused(self, operator):
        """The reference reduces nothing, ONNX Runtime sums."""
        with pytest.raises(ValueError, match="reduction is 'avg'"):
            evaluate(loss_model(operator, 13, reduction="avg"), self.input, np.array([0, 1, 2, 0]))

    @pytest.mark.parametrize("operator", [NLL, SCE])
    def test_before_the_first_version_there_is_no_such_operator(self, operator):
        with pytest.raises(Exception, match=f"No schema registered for '{operator}'"):
            evaluate(loss_model(operator, 11), self.input, np.array([0, 1, 2, 0]))


def evaluate_error(model: onnx.ModelProto, *arrays: Any) -> str:
    """Why the operator refuses these types. The evaluator puts a sentence of its own in front."""
    with pytest.raises(TypeError) as caught:
        evaluate(model, *arrays)
    return str(caught.value.__cause__)


class TestBothOutputs:
    @pytest.fixture(params=[HALF, BFLOAT16, SINGLE, DOUBLE], ids=str)
    def arrays(self, request, rng) -> list[np.ndarray]:
        shape, dtype = (4, 7, 3), request.param
        weight = rng.uniform(0.5, 2, shape[1]).astype(dtype)
        return [random_logits(rng, shape, dtype), random_target(rng, (4, 3), 7, ignored=-1), weight]

    @pytest.fixture
    def model(self, arrays) -> Any:
        """model(outputs) of the logits' dtype."""

        def make(*outputs: str) -> onnx.ModelProto:
            dtype = arrays[0].dtype
            return loss_model(SCE, 13, dtype=dtype, weight_dtype=dtype, ignore_index=-1, outputs=outputs)

        return make

    def test_second_one_is_the_log_softmax(self, model, arrays):
        _, log_prob = evaluate(model("loss", "log_prob"), *arrays)
        assert_same_bits(log_prob, nll.log_softmax(arrays[0]))

    def test_first_one_is_the_loss_of_the_second(self, model, arrays):
        loss, log_prob = evaluate(model("loss", "log_prob"), *arrays)
        assert_same_bits(loss, nll.nll_loss(log_prob, *arrays[1:], ignore_index=-1))

    @pytest.mark.parametrize("outputs", [("loss",), ("loss", "")], ids=["absent", "empty"])
    def test_second_one_may_be_left_out(self, model, arrays, outputs, monkeypatch):
        """Then it is not computed, and the loss is that of the logits."""
        monkeypatch.setattr(nll.onnx, "log_softmax", None)
        (loss,) = evaluate(model(*outputs), *arrays)
        assert_same_bits(loss, nll.cross_entropy(*arrays, ignore_index=-1))

    def test_confident_prediction_is_not_zero(self):
        """The reference: 0."""
        input, target = np.array([[20, 0, 0]], np.float32), np.array([0])
        for outputs in ("loss",), ("loss", "log_prob"):
            loss = evaluate(loss_model(SCE, 13, outputs=outputs), input, target)[0]
            assert f"{loss:.6e}" == "4.122307e-09"


IN_A_BRANCH = """
<ir_version: 8, opset_import: ["": 13]>
graph (bool flag, float[N, C] logits, int64[N] target) => (float loss) {
    loss = If (flag) <
        then_branch = summed () => (float sum) {
            sum = SoftmaxCrossEntropyLoss <reduction = "sum"> (logits, target)
        },
        else_branch = averaged () => (float mean) {
            mean = SoftmaxCrossEntropyLoss (logits, target)
        }
    >
}
"""


@pytest.fixture
def confident() -> dict[str, np.ndarray]:
    """Logits whose loss shows who computes it: by the reference it is 0."""
    return {"logits": np.array([[20, 0, 0], [20, 0, 0]], np.float32), "target": np.array([0, 0])}


@pytest.mark.parametrize(("flag", "expected"), [(True, "8.244615e-09"), (False, "4.122307e-09")], ids=["then", "else"])
def test_operators_reach_into_branches(flag, expected, confident):
    model = onnx.parser.parse_model(IN_A_BRANCH)
    evaluator = ReferenceEvaluator(model, new_ops=nll.onnx.OPERATORS)
    assert f"{evaluator.run(None, confident | {'flag': np.array(flag)})[0]:.6e}" == expected


@pytest.mark.parametrize("operator", [NLL, SCE])
def test_weight_may_be_an_empty_name(operator, rng):
    model = loss_model(operator, 13)
    input, target = random_logits(rng, (5, 3), SINGLE), random_target(rng, 5, 3)
    expected = evaluate(model, input, target)
    model.graph.node[0].input.append("")
    assert_same_bits(evaluate(model, input, target), expected)


# ---- the backend


class TestBackend:
    input, target = np.array([[-0.5, -1], [-0.25, -2]], np.float32), np.array([0, 1])

    def test_is_one_of_onnx(self):
        assert issubclass(nll.onnx.Backend, Backend)

    def test_prepared_model_runs_again_and_again(self):
        prepared = nll.onnx.Backend.prepare(loss_model(NLL, 13))
        for factor in 1, 2, 4:
            assert prepared.run([factor * self.input, self.target]) == (1.25 * factor,)

    def test_runs_a_model_at_once(self):
        assert nll.onnx.Backend.run_model(loss_model(NLL, 13), [self.input, self.target]) == (1.25,)

    def test_takes_inputs_by_name(self):
        feeds = {"target": self.target, "input": self.input}
        assert nll.onnx.Backend.run_model(loss_model(NLL, 13), feeds) == (1.25,)

    @pytest.mark.parametrize("kind", ["bytes", "str", "path"])
    def test_takes_models_as_the_checker_does(self, kind, tmp_path):
        model, path = loss_model(NLL, 13), tmp_path / "model.onnx"
        onnx.save(model, path)
        given = {"bytes": model.SerializeToString(), "str": str(path), "path": path}[kind]
        assert nll.onnx.Backend.run_model(given, [self.input, self.target]) == (1.25,)

    @pytest.mark.parametrize("opset", [None, 12, 13, 22])
    def test_runs_a_node(self, opset):
        node = make_node(SCE, ["logits", "target", ""], ["loss", "log_prob"], reduction="none")
        loss, log_prob = nll.onnx.Backend.run_node(node, [self.input, self.target], opset_version=opset)
        assert_same_bits(log_prob, nll.log_softmax(self.input))
        assert_same_bits(loss, nll.nll_loss(log_prob, self.target, reduction="none"))

    def test_node_may_leave_an_output_out(self):
        node = make_node(SCE, ["logits", "target"], ["loss", ""])
        (loss,) = nll.onnx.Backend.run_node(node, [self.input, self.target])
        assert_same_bits(loss, nll.cross_entropy(self.input, self.target))

    def test_runs_a_node_of_the_newest_version(self):
        node = make_node(NLL, ["input", "target"], ["loss"])
        (loss,) = nll.onnx.Backend.run_node(node, [self.input.astype(BFLOAT16), self.target])
        assert_same_bits(loss, np.array(1.25, BFLOAT16))

    def test_initializer_is_a_default(self):
        model = loss_model(NLL, 13, weight_dtype=SINGLE)
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([1, 3], np.float32), "weight"))
        prepared = nll.onnx.Backend.prepare(model)
        assert prepared.run([self.input, self.target]) == (1.625,)
        other = {"input": self.input, "target": self.target, "weight": np.array([3, 1], np.float32)}
        assert prepared.run(other) == (0.875,)

    @pytest.mark.parametrize(
        "wrong",
        [[input], [input, target, target], input, {"input": input}, {"input": input, "target": target, "mask": target}],
        ids=["too-few", "too-many", "an-array", "a-name-missing", "a-name-unknown"],
    )
    def test_inputs_are_those_of_the_graph(self, wrong):
        with pytest.raises(ValueError, match=r"inputs.*; the graph takes \['input', 'target'\]"):
            nll.onnx.Backend.run_model(loss_model(NLL, 13), wrong)

    @pytest.mark.parametrize(
        ("device", "supported"), [("CPU", True), ("CPU:0", True), ("CUDA", False), ("CUDA:1", False), ("NPU", False)]
    )
    def test_device_is_the_cpu(self, device, supported):
        assert nll.onnx.Backend.supports_device(device) == supported
        node, model = make_node(NLL, ["input", "target"], ["loss"]), loss_model(NLL, 13)
        for run, what in (nll.onnx.Backend.run_node, node), (nll.onnx.Backend.run_model, model):
            if supported:
                assert run(what, [self.input, self.target], device=device) == (1.25,)
            else:
                with pytest.raises(ValueError, match=f"device is '{device}'"):
                    run(what, [self.input, self.target], device=device)

    def test_invalid_model_is_refused(self):
        with pytest.raises(onnx.checker.ValidationError):
            nll.onnx.Backend.prepare(loss_model(NLL, 13, smoothing=0.1))

    def test_invalid_node_is_refused(self):
        with pytest.raises(onnx.checker.ValidationError):
            nll.onnx.Backend.run_node(make_node(NLL, ["input"], ["loss"]), [self.input])

    def test_operators_reach_into_functions_of_the_model(self, confident):
        model = loss_model(SCE, 13)
        model.graph.node[0].domain = "own"
        inner = make_node(SCE, ["a", "b"], ["c"])
        model.functions.append(make_function("own", SCE, ["a", "b"], ["c"], [inner], [make_opsetid("", 13)]))
        model.opset_import.append(make_opsetid("own", 1))
        assert stock(model, *confident.values())[0] == 0
        (loss,) = nll.onnx.Backend.run_model(model, list(confident.values()))
        assert f"{loss:.6e}" == "4.122307e-09"


# ---- a graph from elsewhere


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray]:
    """Images of handwritten digits and what they show; every tenth is unknown, -1."""
    images, target = pytest.importorskip("sklearn.datasets").load_digits(return_X_y=True)
    target[::10] = -1
    return (images[:500] / 16).astype(np.float32), target[:500].astype(np.int64)


@pytest.fixture(scope="module", params=[NLL, SCE])
def last(request) -> str:
    """The operator that a graph ends in."""
    return request.param


@pytest.fixture(scope="module")
def classifier(last, digits) -> Any:
    """Two layers and the loss, trained by PyTorch."""
    torch = pytest.importorskip("torch")

    class Classifier(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10))
            self.weight = torch.linspace(0.5, 2, 10)

        def forward(self, images: Any, target: Any) -> Any:
            logits = self.layers(images)
            if last == SCE:
                return torch.nn.functional.cross_entropy(logits, target, self.weight, ignore_index=-1)
            log_prob = torch.log(torch.softmax(logits, 1))  # of log_softmax the exporter makes the other operator
            return torch.nn.functional.nll_loss(log_prob, target, self.weight, ignore_index=-1)

    torch.manual_seed(0)
    classifier, data = Classifier(), [torch.from_numpy(array) for array in digits]
    for _ in range(40):
        classifier.zero_grad()
        classifier(*data).backward()
        with torch.no_grad():
            for parameter in classifier.parameters():
                parameter -= 0.5 * parameter.grad
    return classifier


@pytest.fixture(scope="module")
def exported(classifier, digits) -> onnx.ModelProto:
    """The classifier as PyTorch exports it."""
    import torch

    data, file, names = tuple(map(torch.from_numpy, digits)), io.BytesIO(), ["images", "target"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the newer exporter needs one more package, and takes losses apart
        axes = {name: {0: "N"} for name in names}
        torch.onnx.export(classifier, data, file, dynamo=False, input_names=names, dynamic_axes=axes)
    return onnx.load_from_string(file.getvalue())


class TestExportedClassifier:
    """A graph of PyTorch's exporter that ends in the loss."""

    def test_ends_in_the_loss(self, exported, last):
        onnx.checker.check_model(exported, full_check=True)
        assert exported.graph.node[-1].op_type == last

    def test_loss_is_that_of_the_reference(self, exported, digits):
        (loss,), (expected,) = evaluate(exported, *digits), stock(exported, *digits)
        assert loss.dtype == expected.dtype
        assert loss == pytest.approx(expected, rel=1e-5)

    def test_loss_is_that_of_pytorch(self, exported, digits, classifier):
        import torch

        (loss,) = nll.onnx.Backend.run_model(exported, list(digits))
        assert loss == pytest.approx(classifier(*map(torch.from_numpy, digits)).item(), rel=1e-5)


# ---- the module


@pytest.mark.parametrize(
    "example", doctest.DocTestFinder(exclude_empty=True).find(nll.onnx), ids=lambda test: test.name
)
def test_examples_in_docstrings(example):
    assert doctest.DocTestRunner().run(example).failed == 0


def test_without_onnx_it_says_what_to_install(run_python):
    run_python("""
import sys
sys.modules["onnx"] = None
import nll
try:
    import nll.onnx
except ModuleNotFoundError as error:
    assert str(error) == 'nll.onnx needs onnx: python -m pip install "nll[onnx]"', error
""")


def test_what_is_missing_for_onnx_itself_is_not_hidden(run_python):
    run_python("""
import sys
sys.modules["google.protobuf"] = None
try:
    import nll.onnx
except ModuleNotFoundError as error:
    assert "protobuf" in str(error) and "pip" not in str(error), error
""")
