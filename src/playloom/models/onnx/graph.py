"""Builder of ONNX graphs whose weights stay in safetensors files (`onnx` package)."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import ArrayLike
from onnx import TensorProto, helper, numpy_helper

OPSET = 24  # operator set of the graphs; onnxruntime 1.24 and later run it
CONTRIB = "com.microsoft"  # domain of onnxruntime's own operators
_IR_VERSION = 11
_BLOCK = 256  # most weights that share a scale
_LEAST_BLOCK = 16  # of the operator
_INT8_PRODUCTS = 4  # onnxruntime's number for products of 8-bit activations, rounded by row and block
_DTYPES = {"F32": TensorProto.FLOAT, "F16": TensorProto.FLOAT16, "BF16": TensorProto.BFLOAT16}
_KINDS = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64, "uint8": TensorProto.UINT8}


class Graph:
    """One graph. Values are names; `op` adds an operator. Weights are float32, whatever the file has."""

    def __init__(self, weights: Path, *, int8: bool = False) -> None:
        """Start an empty graph; `weights` is a safetensors file, in whose folder the graph will lie.

        `int8`: products have weights of 8 bits, rounded in blocks when the graph is loaded.
        """
        self.weights, self._int8 = weights, int8
        with weights.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            self.entries: dict[str, Any] = json.loads(file.read(size))
        self._start = 8 + size
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, onnx.TensorProto] = {}
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._cast: dict[str, str] = {}

    def op(self, kind: str, *inputs: str, out: str | None = None, **attributes: Any) -> str:
        """Add an operator with one output; returns its name."""
        return self.ops(kind, *inputs, out=[out or f"{kind.lower()}_{len(self._nodes)}"], **attributes)[0]

    def ops(self, kind: str, *inputs: str, out: Sequence[str], **attributes: Any) -> Sequence[str]:
        """Add an operator with several outputs; returns their names."""
        self._nodes.append(helper.make_node(kind, inputs, out, **attributes))
        return out

    def split(self, value: str, sizes: Sequence[int], axis: int = -1) -> Sequence[str]:
        """Split a value along an axis."""
        names = [f"split_{len(self._nodes)}_{part}" for part in range(len(sizes))]
        return self.ops("Split", value, self.constant(sizes), out=names, axis=axis)

    def reshape(self, value: str, *shape: int) -> str:
        """Reshape a value: 0 keeps an axis, -1 is what remains."""
        return self.op("Reshape", value, self.constant(shape))

    def constant(self, values: ArrayLike) -> str:
        """Add a constant; Python floats become float32."""
        array = np.asarray(values)
        if array.dtype == np.float64 and not isinstance(values, np.ndarray):
            array = array.astype(np.float32)
        key = f"{array.dtype} {array.shape} {array.tobytes().hex()}"
        if key not in self._constants:
            self._constants[key] = numpy_helper.from_array(array, f"constant_{len(self._constants)}")
        return self._constants[key].name

    def weight(self, name: str) -> str:
        """Return a tensor of the weights file, as float32."""
        if name not in self._cast:
            entry = self.entries[name]
            begin, end = entry["data_offsets"]
            tensor = TensorProto(name=name, data_type=_DTYPES[entry["dtype"]], dims=entry["shape"])
            tensor.data_location = TensorProto.EXTERNAL
            place = {"location": self.weights.name, "offset": self._start + begin, "length": end - begin}
            for key, value in place.items():
                tensor.external_data.add(key=key, value=str(value))
            self._constants[name] = tensor
            self._cast[name] = name
            if tensor.data_type != TensorProto.FLOAT:
                self._cast[name] = self.op("Cast", name, to=TensorProto.FLOAT)
        return self._cast[name]

    def linear(self, value: str, name: str) -> str:
        """Apply the linear layer `name` to the rows of a matrix."""
        return self.product(value, [f"{name}.weight"], bias=self.weight(f"{name}.bias"))

    def product(self, value: str, names: Sequence[str], *, bias: str = "", added: str = "") -> str:
        """Multiply the rows of a matrix by the transposed weights, one below the other; add a bias, or a matrix."""
        weight = self.weight(names[0])
        if len(names) > 1:
            weight = self.op("Concat", *map(self.weight, names), axis=0)
        shapes = [self.entries[name]["shape"] for name in names]
        outputs, inputs = sum(shape[0] for shape in shapes), shapes[0][1]
        block = math.gcd(inputs, _BLOCK)
        if not self._int8 or block < _LEAST_BLOCK:
            return self.op("Gemm", value, weight, bias or added, transB=1)
        blocks = self.reshape(weight, outputs, inputs // block, block)
        largest = self.op("ReduceMax", self.op("Abs", blocks), self.constant([2]), keepdims=1)
        scale = self.op("Div", largest, self.constant(127.0))
        bytes_ = self.op("Add", self.op("Round", self.op("Div", blocks, scale)), self.constant(128.0))
        bytes_ = self.op("Cast", bytes_, to=TensorProto.UINT8)
        sizes = {"K": inputs, "N": outputs, "bits": 8, "block_size": block, "accuracy_level": _INT8_PRODUCTS}
        scale = self.reshape(scale, outputs, -1)
        found = self.op("MatMulNBits", value, bytes_, scale, "", "", bias, domain=CONTRIB, **sizes)
        return self.op("Add", found, added) if added else found

    def layer_norm(self, value: str, name: str) -> str:
        """Apply the layer normalisation `name` to the last axis."""
        weights = self.weight(f"{name}.weight"), self.weight(f"{name}.bias")
        return self.op("LayerNormalization", value, *weights, axis=-1, epsilon=1e-5)

    def input(self, name: str, dtype: str, *shape: int | str) -> str:
        """Declare an input; a text in the shape names a free axis."""
        self._inputs.append(helper.make_tensor_value_info(name, _KINDS[dtype], shape))
        return name

    def output(self, name: str, dtype: str, *shape: int | str) -> None:
        """Declare the value `name` as an output."""
        self._outputs.append(helper.make_tensor_value_info(name, _KINDS[dtype], shape))

    def signature(self) -> dict[str, dict[str, Any]]:
        """Return dtype and shape of each input and output, for the description."""
        names = {int(number): name for name, number in _KINDS.items()}
        found: dict[str, dict[str, Any]] = {}
        for kind, values in (("inputs", self._inputs), ("outputs", self._outputs)):
            types = {value.name: value.type.tensor_type for value in values}
            found[kind] = {
                name: [names[one.elem_type], *(axis.dim_param or axis.dim_value for axis in one.shape.dim)]
                for name, one in types.items()
            }
        return found

    def save(self, path: Path) -> None:
        """Write the graph beside its weights."""
        graph = helper.make_graph(self._nodes, path.stem, self._inputs, self._outputs, [*self._constants.values()])
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(CONTRIB, 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION, producer_name="playloom")
        path.write_bytes(model.SerializeToString())
