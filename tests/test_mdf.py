# SPDX-License-Identifier: BSD-3-Clause
"""The loss as a function of ModECI MDF, whose graphs are evaluated by its own execution engine."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("modeci_mdf")

import modeci_mdf.functions.onnx as mdf_functions
from modeci_mdf.execution_engine import EvaluableGraph
from modeci_mdf.mdf import Edge, Graph, InputPort, Node, OutputPort, Parameter

import nll.onnx
from support.samples import random_logits, random_target

STOCK = mdf_functions.negativeloglikelihoodloss
OURS = nll.onnx.negativeloglikelihoodloss
WITHIN = {"rtol": 2e-6}  # MDF's own computes in float32


@pytest.fixture
def put_in(monkeypatch) -> None:
    """The function takes the place of MDF's."""
    monkeypatch.setattr(mdf_functions, "negativeloglikelihoodloss", OURS)


class TestFunction:
    """Called as MDF's function may be called."""

    input = -np.arange(1.0, 13).reshape(4, 3).astype(np.float32)
    target, weight = np.array([0, 2, 2, 1]), np.array([1, 2, 4], np.float32)

    @pytest.mark.parametrize("choices", [{}, {"ignore_index": 2}, {"reduction": "sum"}, {"reduction": "none"}], ids=str)
    @pytest.mark.parametrize("weighted", [False, True], ids=["unweighted", "weighted"])
    def test_by_position(self, weighted, choices):
        arrays = [self.input, self.target, self.weight][: 2 + weighted]
        loss, expected = OURS(*arrays, **choices), STOCK(*arrays, **choices)
        assert loss.dtype == expected.dtype
        np.testing.assert_allclose(loss, expected, rtol=1e-6)

    @pytest.mark.parametrize("choices", [{}, {"ignore_index": 2, "reduction": "sum"}], ids=str)
    def test_by_name(self, choices):
        arrays = {"weight": self.weight, "target": self.target, "input": self.input}
        np.testing.assert_allclose(OURS(**arrays, **choices), STOCK(**arrays, **choices), rtol=1e-6)

    def test_lists(self):
        arrays = [[[-0.5, -1.0], [-0.25, -2.0]], [0, 1]]
        assert OURS(*arrays) == STOCK(*arrays) == 1.25

    @pytest.mark.parametrize("target_dtype", [np.int32, np.int64])
    def test_targets_of_both_widths(self, target_dtype):
        target = self.target.astype(target_dtype)
        np.testing.assert_allclose(OURS(self.input, target), STOCK(self.input, target), rtol=1e-6)

    def test_images(self, rng):
        input, target = -rng.random((2, 5, 3, 4), np.float32), random_target(rng, (2, 3, 4), 5)
        np.testing.assert_allclose(OURS(input, target), STOCK(input, target), rtol=1e-6)

    def test_nothing_is_ignored_by_default(self):
        with pytest.raises(IndexError, match="is -100, outside"):
            OURS(self.input, [0, -100, 2, 1])

    def test_unknown_attribute_is_refused(self):
        with pytest.raises(TypeError, match="smoothing"):
            OURS(self.input, self.target, smoothing=0.1)


# ---- graphs


def classifier(**choices: Any) -> Graph:
    """Two nodes: log-probabilities of logits, and their loss, whose function gets `choices` besides its inputs."""
    graph = Graph(id="classifier")
    softmax = Node(id="softmax")
    softmax.input_ports.append(InputPort(id="logits"))
    softmax.parameters.append(
        Parameter(id="log_softmax", function="onnx::LogSoftmax", args={"input": "logits", "axis": 1})
    )
    softmax.output_ports.append(OutputPort(id="log_prob", value="log_softmax"))
    loss = Node(id="loss")
    loss.input_ports += [InputPort(id="log_prob"), InputPort(id="labels")]
    loss.parameters.append(Parameter(id="class_weight", value=[1.0, 2.0, 4.0]))
    arguments = {"input": "log_prob", "target": "labels"} | choices
    loss.parameters.append(Parameter(id="nll", function="onnx::NegativeLogLikelihoodLoss", args=arguments))
    loss.output_ports.append(OutputPort(id="value", value="nll"))
    graph.nodes += [softmax, loss]
    edge = {"sender": "softmax", "sender_port": "log_prob", "receiver": "loss", "receiver_port": "log_prob"}
    graph.edges.append(Edge(id="log_prob", **edge))
    return graph


def evaluate(graph: Graph, **arrays: np.ndarray) -> Any:
    engine = EvaluableGraph(graph)
    engine.evaluate(initializer=arrays)
    return engine.enodes["loss"].evaluable_outputs["value"].curr_value


CHOICES: list[dict[str, Any]] = [
    {},
    {"weight": "class_weight"},
    {"ignore_index": 1},
    {"ignore_index": -1},
    {"weight": "class_weight", "ignore_index": 1},
    {"reduction": "numpy.str_('sum')"},
    {"reduction": "numpy.str_('none')"},
    {"weight": "class_weight", "reduction": "numpy.str_('none')", "ignore_index": 1},
]


class TestGraph:
    @pytest.fixture
    def arrays(self, rng) -> dict[str, np.ndarray]:
        return {"logits": random_logits(rng, (6, 3), np.float64), "labels": random_target(rng, 6, 3)}

    @pytest.mark.parametrize("choices", CHOICES, ids=str)
    def test_value_is_that_of_the_stock_function(self, choices, arrays, request):
        expected = evaluate(classifier(**choices), **arrays)
        request.getfixturevalue("put_in")
        loss = evaluate(classifier(**choices), **arrays)
        assert loss.dtype == expected.dtype
        assert loss.shape == expected.shape
        np.testing.assert_allclose(loss, expected, **WITHIN)

    def test_engine_calls_what_was_put_in(self, arrays, monkeypatch):
        called = []
        monkeypatch.setattr(
            mdf_functions, "negativeloglikelihoodloss", lambda **given: called.append(sorted(given)) or OURS(**given)
        )
        evaluate(classifier(weight="class_weight", ignore_index=1), **arrays)
        assert called == [["ignore_index", "input", "target", "weight"]]

    @pytest.mark.usefixtures("put_in")
    def test_label_out_of_range_is_named(self, arrays):
        """MDF's: a message of ONNX Runtime without position, and no error at all for -1."""
        with pytest.raises(IndexError, match=r"target\[1\] is -1, outside \[0, 3\)"):
            evaluate(classifier(), **arrays | {"labels": np.array([0, -1, 2, 1, 0, 2])})

    def test_model_may_come_from_a_file(self, arrays, tmp_path, request):
        from modeci_mdf.mdf import Model
        from modeci_mdf.utils import load_mdf

        model = Model(id="model")
        model.graphs.append(classifier(weight="class_weight"))
        file = model.to_json_file(str(tmp_path / "model.json"))
        expected = evaluate(load_mdf(file).graphs[0], **arrays)
        request.getfixturevalue("put_in")
        np.testing.assert_allclose(evaluate(load_mdf(file).graphs[0], **arrays), expected, **WITHIN)
