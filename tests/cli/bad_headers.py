"""Headers of safetensors files that are wrong in one place each."""
import json

import safetensors_file as st
from hf_models import A_LOG, CONV, EMBED, PREFIX, model


def edited(change):
    """A safetensors file of the model with its header changed: change(header) returns a header, a text, or
    nothing if it has changed it in place; data may be given with it."""
    tensors = model("qwen3.5")
    header = st.header_of(tensors)
    data = st.data_of(header, tensors)
    result = change(header)
    if isinstance(result, tuple):
        result, data = result
    return st.pack(header if result is None else result, data)


def change(name, **fields):
    def edit(header):
        header[name].update(fields)
    return edit


def without(name, field):
    return lambda header: header[name].pop(field) and None


def renamed(old, new):
    def edit(header):
        text = json.dumps(header, separators=(",", ":"))
        assert text.count(f'"{old}"') == 1, old
        return text.replace(f'"{old}"', f'"{new}"')
    return edit


def text(old, new):
    """A change of the first `old` in the header's text."""
    def edit(header):
        whole = json.dumps(header, separators=(",", ":"))
        assert old in whole, old
        return whole.replace(old, new, 1)
    return edit


def raw(old, new):
    return lambda header: json.dumps(header, separators=(",", ":")).encode().replace(old, new, 1)


def moved(header):
    """Two tensors over the same bytes, with the size of the whole unchanged."""
    header[PREFIX.format(0) + "dt_bias"]["data_offsets"] = header[PREFIX.format(0) + "A_log"]["data_offsets"]


def gap(header):
    names = [n for n in header if n[0] != "_"]
    for name in names[5:]:
        header[name]["data_offsets"] = [x + 8 for x in header[name]["data_offsets"]]
    tensors = model("qwen3.5")
    data = st.data_of(header, tensors)
    return header, data + bytes(8)


def huge(header):
    header[A_LOG]["shape"] = [2**62, 2**62]


HEADERS = [
    ("unknown dtype", change(A_LOG, dtype="F33"), A_LOG, "F33"),
    ("unknown dtype elsewhere", change(EMBED, dtype=""), EMBED, "dtype"),
    ("dtype that is not read", change(A_LOG, dtype="I32"), A_LOG, "F32, BF16 or F16", "I32"),
    ("dtype is no string", change(A_LOG, dtype=32), "a string", "'3'"),
    ("other dtype of another size", change(A_LOG, dtype="F64"), A_LOG, "F64"),
    ("no dtype", without(A_LOG, "dtype"), A_LOG, "dtype"),
    ("no shape", without(A_LOG, "shape"), A_LOG, "shape"),
    ("no data_offsets", without(A_LOG, "data_offsets"), A_LOG, "data_offsets"),
    ("one offset", change(A_LOG, data_offsets=[0]), A_LOG, "two data_offsets"),
    ("three offsets", change(A_LOG, data_offsets=[0, 16, 32]), A_LOG, "two data_offsets"),
    ("no offsets", change(A_LOG, data_offsets=[]), A_LOG, "data_offsets"),
    ("another field", change(A_LOG, strides=[1]), A_LOG, "'strides'"),
    ("a field twice", text('"shape":[4]', '"shape":[4],"shape":[4]'), "each once, found 'shape'"),
    ("offsets twice", text('"data_offsets":[0,', '"data_offsets":[0,0],"data_offsets":[0,'), "each once"),
    ("offsets backwards", change(A_LOG, data_offsets=[16, 0]), A_LOG, "[16, 0]"),
    ("offsets out of range", change(A_LOG, data_offsets=[10**9, 10**9 + 16]), A_LOG, "[1000000000, 1000000016]"),
    ("offset of 2^63", change(A_LOG, data_offsets=[2**63, 2**63 + 16]), "2^63 - 1"),
    ("offset of 2^64", change(A_LOG, data_offsets=[2**64, 2**64 + 16]), "2^63 - 1"),
    ("negative offset", change(A_LOG, data_offsets=[-16, 0]), "2^63 - 1"),
    ("offset with a point", text('"data_offsets":[0,', '"data_offsets":[0.0,'), "2^63 - 1"),
    ("offset with an exponent", text('"data_offsets":[0,', '"data_offsets":[0e0,'), "2^63 - 1"),
    ("offset with a zero before it", text('"data_offsets":[0,', '"data_offsets":[00,'), "','"),
    ("offset as text", text('"data_offsets":[0,', '"data_offsets":["0",'), "a number"),
    ("two over the same bytes", moved, "overlap"),
    ("overlap", change("model.position_ids", shape=[6], data_offsets=[0, 48]), "expected data from byte 48", "overlap"),
    ("gap", gap, "a gap"),
    ("size and shape differ", change(A_LOG, shape=[5]), A_LOG, "F32"),
    ("negative dimension", change(A_LOG, shape=[-4]), "2^63 - 1"),
    ("dimension of 2^62", huge, A_LOG),
    ("nine dimensions", change(A_LOG, shape=[4] + [1] * 8), A_LOG, "8 dimensions"),
    ("wrong rank", change(A_LOG, shape=[4, 1]), A_LOG, "[Hv] = [?], found [4, 1]"),
    ("wrong rank of conv1d", change(CONV, shape=[56, 4]), CONV, "found [56, 4]"),
    ("conv1d the other way", change(CONV, shape=[56, 4, 1]), CONV, "found [56, 4, 1]"),
    ("wrong dimensions", change(PREFIX.format(1) + "in_proj_qkv.weight", shape=[10, 56]), "in_proj_qkv", "[10, 56]"),
    ("out_proj the other way", change(PREFIX.format(1) + "out_proj.weight", shape=[24, 10]), "out_proj", "[24, 10]"),
    ("a name twice", renamed(PREFIX.format(1) + "dt_bias", A_LOG), A_LOG, "twice"),
    ("a name twice elsewhere", renamed("model.position_ids", EMBED), EMBED, "twice"),
    ("__metadata__ twice", text('{"__meta', '{"__metadata__":{},"__meta'), "one __metadata__"),
    ("metadata that are no texts", text('{"format":"pt"}', '{"format":1}'), "a string"),
    ("metadata that are no object", text('{"format":"pt"}', '"pt"'), "an object"),
    ("a bias", renamed("model.position_ids", PREFIX.format(1) + "conv1d.bias"), "conv1d.bias"),
    ("both namings", renamed("model.position_ids", PREFIX.format(1) + "in_proj_qkvz.weight"), "Qwen3-Next"),
    ("an array", lambda h: "[1, 2]", "an object"),
    ("no JSON", lambda h: "pickle", "an object", "'p'"),
    ("empty header", lambda h: "", "an object"),
    ("no tensors", lambda h: ("{}", b""), "layer 1"),
    ("no tensors but data", lambda h: "{}", "0 bytes of data"),
    ("two objects", lambda h: json.dumps(h) + "{}", "the end"),
    ("a comma too many", text('"pt"},', '"pt"},,'), "a string"),
    ("a comma at the end", lambda h: json.dumps(h)[:-1] + ",}", "a string"),
    ("no colon", text('"shape":', '"shape" '), "':'"),
    ("single quotes", lambda h: json.dumps(h).replace('"', "'"), "a string"),
    ("a comment", text("{", "{/**/"), "a string"),
    ("a control character in a name", text("embed_", "embed\n"), "the end of a string"),
    ("an escape of none", text("embed_", "embed\\x"), "after \\"),
    ("half an escape", text("embed_", "embed\\u12"), "hexadecimal"),
    ("NUL in a name", text("embed_", "embed\\u0000"), "NUL"),
    ("half a surrogate pair", text("embed_", "embed\\ud800"), "surrogate"),
    ("the other half", text("embed_", "embed\\udc00"), "surrogate"),
    ("two first halves", text("embed_", "embed\\ud800\\ud800"), "surrogate"),
    ("no UTF-8", raw(b"embed_", b"embed\xff"), "UTF-8"),
    ("a surrogate in UTF-8", raw(b"embed_", b"embed\xed\xa0\x80"), "UTF-8"),
    ("an overlong form", raw(b"embed_", b"embed\xc0\xaf"), "UTF-8"),
    ("a character cut short", raw(b'tokens.weight"', b'tokens.weight\xe2\x82"'), "UTF-8"),
    ("deep nesting", text('{"format":"pt"}', "[" * 1000), "an object"),
    ("NaN as a number", change(A_LOG, shape=[float("nan")]), "a number"),
    ("a word", text('"F32"', "null"), "a string"),
]
