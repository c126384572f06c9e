"""Small networks in ONNX form whose answer is known: out = scale * in + shift per channel, then larger."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

# The oldest that still has all that is used here: what any supported onnxruntime reads.
OPSET, IR_VERSION = 17, 8


def write_network(
    path: Path,
    side_px: int,
    scale: Sequence[float] = (1.0, 1.0, 1.0),
    shift: Sequence[float] = (0.0, 0.0, 0.0),
    *,
    batch: int | str = 1,
    shape: Sequence[int | str] = (),
    factor: int = 1,
    made: Sequence[int] = (),
    is_half: bool = False,
    has_fidelity: bool = False,
) -> None:
    """Writes the file; what is not said is of the form [1, 3, side_px, side_px] float32.

    Args:
        path: of the file.
        side_px: of input and output.
        scale: of the channels.
        shift: of the channels.
        batch: first dimension of the input; a name leaves it open.
        shape: of the input instead, which the network then gives back as it is.
        factor: the output is so much larger.
        made: shape of the output instead.
        is_half: float16.
        has_fidelity: a second input.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    kind, dtype = (TensorProto.FLOAT16, np.float16) if is_half else (TensorProto.FLOAT, np.float32)

    def constant(name: str, values: Sequence[float]) -> onnx.TensorProto:
        return numpy_helper.from_array(np.array(values, dtype).reshape(3, 1, 1), name)

    nodes = [
        helper.make_node("Mul", ["input", "scale"], ["scaled"]),
        helper.make_node("Add", ["scaled", "shift"], ["moved"]),
        helper.make_node("Resize", ["moved", "", "sizes"], ["resized"], mode="nearest"),
        helper.make_node("Reshape", ["resized", "made"], ["output"]),
    ]
    if shape:
        nodes = [helper.make_node("Identity", ["input"], ["output"])]
    inputs = [helper.make_tensor_value_info("input", kind, shape or (batch, 3, side_px, side_px))]
    if has_fidelity:
        inputs.append(helper.make_tensor_value_info("fidelity", kind, (1,)))
    sizes = numpy_helper.from_array(np.array([1, 1, factor, factor], np.float32), "sizes")
    reshaped = numpy_helper.from_array(np.array(made or [0, 0, 0, 0], np.int64), "made")  # 0: as it is
    constants = [] if shape else [constant("scale", scale), constant("shift", shift), sizes, reshaped]
    output = helper.make_tensor_value_info("output", kind, None)
    graph = helper.make_graph(nodes, "known", inputs, [output], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    path.write_bytes(model.SerializeToString())
