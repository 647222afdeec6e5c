"""The model of a finished run as an ONNX file, for scoring without this package and without torch.

What it does: `onnx_model` writes the network, the noisy-or model or the boosted trees as a graph of standard operators,
and `disagreement` compares the file in onnxruntime with what `score` gives.

    input    features   float32[rows, inputs]   scaled and in the order of the metadata entry "features"
    output   score      float64[rows]           from 0 to 1, as the column `score` of `demos score`

What it leaves to others: features. A row's features depend on earlier rows of its customer and terminal, and a graph
has no memory; `Run.inputs` computes them. The file's metadata says what each input is and how it was scaled.

The graph repeats the arithmetic of `fl.learning.training.predict` in the same precision: float32 up to the logit, and
float64 for the sigmoid. Sums are added up in another order, so logits differ by about 1e-7 of the largest summand:
scores of a trained model agree to 1e-6, and those of one with absurdly large weights may not. Operators are those of
ONNX opset 17 (2022), so that older runtimes read the file.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.capi import onnxruntime_pybind11_state as state
from torch import nn

from fl.counts.risk_columns import RISK, RiskColumns
from fl.data.features import features
from fl.data.stream import stream_file
from fl.durable import replace_durably
from fl.errors import ExportError, NoRows
from fl.learning.kinds import Boosted
from fl.learning.model import model_hash
from fl.learning.noisy_or import LEAST, MOST, STRETCH, NoisyOr
from fl.learning.training import predict
from fl.runs.scoring import TrainedModel, inputs_of

FORMAT = "fl onnx 1"
OPSET, IR = 17, 8  # both of 2022: onnxruntime from 1.12 on reads them
TREES_DOMAIN, TREES_OPSET = "ai.onnx.ml", 3  # of 2022 too
INPUT, OUTPUT = "features", "score"
_REFUSALS = (
    *(state.Fail, state.InvalidArgument, state.InvalidGraph, state.InvalidProtobuf),
    *(state.NoModel, state.NoSuchFile, state.NotImplemented, state.RuntimeException),
)
TOLERANCE = 1e-6  # of a score: both sides round to float32 on the way, in different orders of addition


@dataclass(frozen=True)
class Agreement:
    """How far onnxruntime and `score` differ. `rows`: how many were compared; `largest`: absolute difference."""

    rows: int
    largest: float

    @property
    def close(self) -> bool:
        return self.largest <= TOLERANCE


def write_onnx(model: TrainedModel, path: Path, bank: str | None = None) -> None:
    """Write `onnx_model` to `path`, which appears whole or not at all."""
    replace_durably(path, onnx_model(model, bank).SerializeToString())


def onnx_model(model: TrainedModel, bank: str | None = None) -> onnx.ModelProto:
    """The model as an ONNX graph that the checker accepts.

    `bank`: the bank whose own layers the file gets, where banks have layers of their own. Such a file is that bank's
    alone. Raises `ExportError` for a bank that is missing, unknown or of no use, and for another kind of model.
    """
    module = _module(model, bank)
    graph = Graph()
    if isinstance(module, NoisyOr):
        _noisy_or(graph, module)
    elif isinstance(module, Boosted):
        from fl.runs.tree_onnx import log_odds_of_trees  # needs the extra `trees`

        _trees(graph, _sigmoid(graph, log_odds_of_trees(graph, module), "customer"), len(model.features), model)
    else:
        _network(graph, module)
    rows = "rows"
    made = helper.make_graph(
        graph.nodes,
        "fraud",
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, [rows, len(model.features)])],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.DOUBLE, [rows])],
        graph.constants,
    )
    opsets = [helper.make_opsetid("", OPSET)]
    if isinstance(module, Boosted):
        opsets.append(helper.make_opsetid(TREES_DOMAIN, TREES_OPSET))
    proto = helper.make_model(made, opset_imports=opsets, producer_name="fl", ir_version=IR)
    helper.set_model_props(proto, {name: json.dumps(value) for name, value in _about(model, module, bank).items()})
    onnx.checker.check_model(proto, full_check=True)
    return proto


def open_session(content: Path | bytes) -> onnxruntime.InferenceSession:
    """The file, or the bytes of one, in onnxruntime on one thread of the CPU. Raises `ExportError` for another file."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    given = content if isinstance(content, bytes) else str(content)
    try:
        session = onnxruntime.InferenceSession(given, options, providers=["CPUExecutionProvider"])
        about = session.get_modelmeta().custom_metadata_map
        said = json.loads(about.get("format", '"no format"'))
    except (*_REFUSALS, ValueError, OSError) as fault:
        raise ExportError(f"{_name(content)}: expected an ONNX file of demos export, got: {fault}") from fault
    if said != FORMAT:
        raise ExportError(f"{_name(content)}: expected format {FORMAT!r}, got {said!r}: export the run anew")
    return session


def onnx_scores(session: onnxruntime.InferenceSession, x: NDArray[np.float32]) -> NDArray[np.float64]:
    """float64[n]: scores of `x`, float32[n, inputs], by the file."""
    scores: NDArray[np.float64] = session.run([OUTPUT], {INPUT: x})[0]
    return scores


def disagreement(
    model: TrainedModel,
    session: onnxruntime.InferenceSession,
    file: Path,
    history: Path | None = None,
    bank: str | None = None,
) -> Agreement:
    """How far the file differs from `score` on the transactions in `file`; those of `bank` alone where it is named.

    Raises what `fl.runs.scoring.score_file` does, and `NoRows` where there is nothing to compare.
    """
    module, rows, largest = _module(model, bank), 0, 0.0
    for chunk in stream_file(file, model.schema, model.partition, history, at_banks=model.at_banks):
        x = inputs_of(model, chunk)
        if bank is not None:
            x = x[chunk.bank == bank]
        if len(x):
            theirs, ours = onnx_scores(session, x), predict(module, x, device=torch.device("cpu"))
            rows, largest = rows + len(x), max(largest, float(np.abs(theirs - ours).max()))
    if rows == 0:
        raise NoRows(f"{file}: expected transactions{f' of {bank}' if bank else ''} to compare scores of, got none")
    return Agreement(rows, largest)


class Graph:
    """Nodes and constants, in the order in which they are used."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def node(self, operator: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(operator, list(inputs), [output], **attributes))
        return output

    def constant(self, name: str, value: NDArray[Any]) -> str:
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def number(self, name: str, value: float) -> str:
        return self.constant(name, np.array(value, np.float32))


def _network(graph: Graph, module: nn.Module) -> None:
    """Linear layers with ReLU between them, then the sigmoid in float64. Dropout does nothing when scoring."""
    value = INPUT
    for name, layer in module.named_children():
        if isinstance(layer, nn.Linear):
            weight = graph.constant(f"{name}.weight", layer.weight.detach().numpy())
            bias = graph.constant(f"{name}.bias", layer.bias.detach().numpy())
            value = graph.node("Gemm", [value, weight, bias], f"{name}.out", transB=1)
        elif isinstance(layer, nn.ReLU):
            value = graph.node("Relu", [value], f"{name}.out")
        elif not isinstance(layer, nn.Dropout):
            raise ExportError(f"layer {name}: expected Linear, ReLU or Dropout, got {type(layer).__name__}")
    _flat(graph, _sigmoid(graph, value, "probability"))


def _noisy_or(graph: Graph, module: NoisyOr) -> None:
    """P = q + (1 - q) sigmoid(w v): `fl.learning.noisy_or`, with the last column as q and the others in v."""
    given = _last_column(graph, module.inputs)
    kept = graph.node("Slice", [INPUT, graph.constant("0", np.array([0], np.int64)), "q.at", "axis"], "kept")
    stretched = graph.node("Mul", [kept, graph.number("stretch", STRETCH)], "stretched")
    one, nothing = graph.number("one", 1.0), graph.number("nothing", 0.0)
    ones = graph.node("Add", [graph.node("Mul", [given, nothing], "zeros"), one], "ones")
    raw = graph.node("Concat", [ones, stretched], "raw", axis=1)
    length = graph.node("ReduceL2", [raw], "length", axes=[1], keepdims=1)
    room = graph.node("Div", [graph.number("bound", module.bound), length], "room")
    vectors = graph.node("Mul", [raw, graph.node("Min", [room, one], "shorter")], "vectors")
    weight = graph.constant("logistic.weight", module.logistic.weight.detach().numpy())
    customer = _sigmoid(graph, graph.node("Gemm", [vectors, weight], "logit", transB=1), "customer")
    _either(graph, given, customer)


def _trees(graph: Graph, own: str, inputs: int, model: TrainedModel) -> None:
    """p of trees, or P = q + (1 - q) p where they grew inside the noisy-or link, with the last column as q."""
    if isinstance(model.shared, RiskColumns):
        _either(graph, _last_column(graph, inputs), own)
    else:
        _flat(graph, own)


def _last_column(graph: Graph, inputs: int) -> str:
    """float32[n, 1]: the last of so many inputs."""
    for name, at in (("q.at", inputs - 1), ("q.end", inputs), ("axis", 1)):
        graph.constant(name, np.array([at], np.int64))
    return graph.node("Slice", [INPUT, "q.at", "q.end", "axis"], "q.given")


def _either(graph: Graph, given: str, customer: str) -> None:
    """P = q + (1 - q) p, of q as `given`, float32[n, 1], and p in float64."""
    q = graph.node("Clip", [given, graph.number("q.least", LEAST), graph.number("q.most", MOST)], "q")
    entity = graph.node("Cast", [q], "entity", to=TensorProto.DOUBLE)
    spared = graph.node("Sub", ["one.double", entity], "spared")
    _flat(graph, graph.node("Add", [entity, graph.node("Mul", [spared, customer], "customers")], "probability"))


def _sigmoid(graph: Graph, logit: str, name: str) -> str:
    """1 / (1 + exp(-logit)) in float64. onnxruntime's own Sigmoid gives 0 for scores below 1e-16, which are many."""
    double = graph.node("Cast", [logit], f"{name}.logit", to=TensorProto.DOUBLE)
    odds = graph.node("Exp", [graph.node("Neg", [double], f"{name}.against")], f"{name}.odds")
    whole = graph.node("Add", [odds, graph.constant("one.double", np.array(1.0))], f"{name}.whole")
    return graph.node("Reciprocal", [whole], name)


def _flat(graph: Graph, column: str) -> None:
    """float64[n] from float64[n, 1], as the graph's output."""
    graph.node("Reshape", [column, graph.constant("flat", np.array([-1], np.int64))], OUTPUT)


def _module(model: TrainedModel, bank: str | None) -> nn.Module:
    if model.home is not None:
        raise ExportError("a model of a bank that scores at home is fitted to its history each time: export the run's")
    if not model.own:
        if bank is not None:
            raise ExportError(f"bank {bank!r}: expected no bank, because all banks of this run have the same model")
        return model.module
    if bank is None or bank not in model.own:
        raise ExportError(
            f"this run's banks have layers of their own: expected one of {', '.join(model.own)}, got "
            f"{'no bank' if bank is None else repr(bank)}"
        )
    return model.own[bank]


def _about(model: TrainedModel, module: nn.Module, bank: str | None) -> dict[str, Any]:
    """The metadata: every entry is JSON. Nothing in it is a statistic of rows beyond what the run's model file has."""
    return {
        "format": FORMAT,
        "kind": "noisy-or" if isinstance(module, NoisyOr) else "trees" if isinstance(module, Boosted) else "mlp",
        "features": [_described(model, name) for name in model.features],
        "bound": model.schema.bound,
        "threshold": model.threshold,
        "model_hash": model_hash(module),
        "schema": model.schema.source,
        "schema_sha256": model.schema.sha256,
        "bank": bank,
    }


def _described(model: TrainedModel, name: str) -> dict[str, Any]:
    """How an input is made of a raw value: clip((transform(raw) - center) / scale, +-bound)."""
    for feature in features(model.schema):
        if feature.name == name:
            about = {"transform": feature.transform, "center": feature.center, "scale": feature.scale}
            return {"name": name, **about}
    if name == RISK and isinstance(model.shared, RiskColumns):
        return {"name": name, "from": "released counts", "as": model.shared.scale}
    return {"name": name, "from": "released counts"}


def _name(content: Path | bytes) -> str:
    return "these bytes" if isinstance(content, bytes) else str(content)
