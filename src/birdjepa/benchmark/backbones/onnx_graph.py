"""Tensors inside an ONNX model that it does not export, made outputs of it: without the package onnx, and in memory.

A model is a protobuf message, and two messages one behind the other are read as one whose lists are joined. So a model
followed by a message that holds nothing but more outputs is the model with these outputs.

Source: the encoding of protobuf (tags, varints, lengths) and the field numbers of onnx.proto.
"""

from collections.abc import Iterator, Sequence

_GRAPH = 7
"""ModelProto.graph"""
_NODE, _OUTPUT = 1, 12
"""GraphProto.node, GraphProto.output"""
_NODE_OUTPUT = 2
"""NodeProto.output"""
_NAME = 1
"""ValueInfoProto.name"""
_LENGTH = 2
"""Wire type of whatever has a length: messages, text."""


def tensors(model: bytes) -> list[str]:
    """Names of all that the model's nodes compute, in the nodes' order.

    Raises:
      ValueError: if it is no model.
    """
    found = []
    view = memoryview(model)
    for graph in _fields(view, _GRAPH):
        for node in _fields(graph, _NODE):
            found += [bytes(name).decode("utf-8", "replace") for name in _fields(node, _NODE_OUTPUT)]
    return [name for name in found if name]


def with_outputs(model: bytes, names: Sequence[str]) -> bytes:
    """The model with further tensors as outputs, behind those that it has."""
    outputs = b"".join(_field(_OUTPUT, _field(_NAME, name.encode())) for name in names)
    return model + _field(_GRAPH, outputs)


def _field(number: int, value: bytes) -> bytes:
    return _varint(number << 3 | _LENGTH) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*found, value])


def _fields(message: memoryview, wanted: int) -> Iterator[memoryview]:
    """The values of one field that has lengths, in their order."""
    at = 0
    while at < len(message):
        tag, at = _read_varint(message, at)
        number, kind = tag >> 3, tag & 7
        if kind == _LENGTH:
            length, at = _read_varint(message, at)
            if at + length > len(message):
                raise ValueError("is no ONNX model, or the end of it is missing")
            if number == wanted:
                yield message[at : at + length]
            at += length
        elif kind == 0:
            _, at = _read_varint(message, at)
        elif kind in (1, 5):
            at += 8 if kind == 1 else 4
        else:
            raise ValueError("is no ONNX model")


def _read_varint(message: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(message):
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
    raise ValueError("is no ONNX model, or the end of it is missing")
