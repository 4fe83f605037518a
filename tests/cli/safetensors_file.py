"""Writes safetensors files after the published format, with numpy alone: 8 bytes of length, a JSON header padded with
spaces to a multiple of 8, the data. bf16, which numpy lacks, is given as the type Bf16 of uint16 bits."""
import json

import numpy as np

NAMES = {"float32": "F32", "float16": "F16", "float64": "F64", "int64": "I64", "uint8": "U8"}
ORDER = ["F64", "I64", "F32", "BF16", "F16", "U8"]


class Bf16(np.ndarray):
    """Bits."""


def to_bf16(values):
    """Rounded to nearest even; finite values."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32).astype(np.uint64)
    return ((bits + 0x7fff + (bits >> 16 & 1)) >> 16).astype(np.uint16).view(Bf16)


def to_float(values):
    if isinstance(values, Bf16):
        return (np.asarray(values).astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32)


def type_name(values):
    return "BF16" if isinstance(values, Bf16) else NAMES[values.dtype.name]


def header_of(tensors):
    """The header as a dict, in the order of the format's own library: larger types first, then by name."""
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name in sorted(tensors, key=lambda n: (ORDER.index(type_name(tensors[n])), n)):
        size = tensors[name].nbytes
        header[name] = {"dtype": type_name(tensors[name]), "shape": list(tensors[name].shape),
                        "data_offsets": [end, end + size]}
        end += size
    return header


def data_of(header, tensors):
    return b"".join(np.ascontiguousarray(tensors[n]).tobytes() for n in header if n in tensors)


def pack(header, data):
    """header: a dict, or text."""
    text = header if isinstance(header, (str, bytes)) else json.dumps(header, separators=(",", ":"))
    raw = text.encode() if isinstance(text, str) else text
    raw += b" " * (-len(raw) % 8)
    return len(raw).to_bytes(8, "little") + raw + data


def write(path, tensors):
    header = header_of(tensors)
    path.write_bytes(pack(header, data_of(header, tensors)))


def read(path):
    """Tensors as float32 and names of types."""
    raw = path.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    out = {}
    types = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16}
    for name, about in json.loads(raw[8:8 + size]).items():
        if name != "__metadata__":
            begin, end = about["data_offsets"]
            values = np.frombuffer(raw[8 + size:][begin:end], types[about["dtype"]]).reshape(about["shape"])
            out[name] = (to_float(values.view(Bf16) if about["dtype"] == "BF16" else values), about["dtype"])
    return out
