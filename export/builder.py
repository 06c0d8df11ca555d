"""Collects the nodes and initializers of an ONNX graph as it is written down."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper
from torch import Tensor


@dataclass(slots=True)
class GraphBuilder:
    """Collects nodes and initializers, each under its name, and names what lies between them."""

    nodes: dict[str, onnx.NodeProto] = field(default_factory=dict)
    initializers: dict[str, onnx.TensorProto] = field(default_factory=dict)

    def constant(self, name: str, value: npt.ArrayLike) -> str:
        """Add an initializer and return its name."""
        self.initializers[name] = numpy_helper.from_array(np.asarray(value, order="C"), name)
        return name

    def scalar(self, name: str, value: float) -> str:
        """Add a float32 scalar."""
        return self.constant(name, np.float32(value))

    def integer(self, value: int) -> str:
        """Add an int64 scalar, named by its value."""
        return self.constant(f"integer_{value}", np.int64(value))

    def integers(self, *values: int) -> str:
        """Add a vector of int64, as axes and shapes are, named by its values."""
        return self.constant("_".join(["integers", *map(str, values)]), np.array(values, dtype=np.int64))

    def weights(self, name: str, tensor: Tensor) -> str:
        """Add a torch tensor."""
        return self.constant(name, tensor.detach().numpy())

    def add(self, operator: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """Add a node with one output and return that output's name."""
        return self.add_many(operator, inputs, [output], **attributes)[0]

    def add_many(self, operator: str, inputs: list[str], outputs: list[str], **attributes: Any) -> list[str]:
        """Add a node and return the names of its outputs; the first is its own too."""
        self.nodes[outputs[0]] = helper.make_node(operator, inputs, outputs, name=outputs[0], **attributes)
        return outputs

    def multiply(self, rows: str, matrix: str, output: str, between: tuple[str, str, str]) -> str:
        """Multiply rows `[B, D]` by a matrix `[D, K]`, each as it would be alone, and return the product's name.

        One row would take another kernel, which sums in another order: a second row keeps a lone sequence on the kernel
        its batch mates use.

        Args:
            rows: their name.
            matrix: its name.
            output: the product's name.
            between: names for all rows twice, for the product of these, and for how many rows there are.
        """
        doubled, product, count = between
        twice = self.add("Concat", [rows, rows], doubled, axis=0)
        both = self.add("MatMul", [twice, matrix], product)
        size = self.add("Shape", [rows], count, start=0, end=1)
        return self.add("Slice", [both, self.integers(0), size, self.integers(0)], output)

    def occupied(self) -> str:
        """Return bool `[B, 1]`: true if a row's sequence is not empty."""
        filled = self.add("Greater", ["lengths", self.integer(0)], "filled")
        return self.add("Unsqueeze", [filled, self.integers(1)], "occupied")
