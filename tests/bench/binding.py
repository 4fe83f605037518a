"""libgdn's operator for the benchmarks that compare it with others: one problem, torch's memory."""

import ctypes
import sys

import torch

BACKENDS = {"cpu": 2, "cuda": 3}
DTYPES = {torch.float32: 0, torch.bfloat16: 1}
SAVE_STATES, SAVE_INVERSE = 1 << 1, 1 << 2
TENSORS = (
    "q k v g beta cu_seqlens initial_state o final_state saved do dht "
    "dq dk dv dg dbeta dh0 workspace"
).split()
# Each output has the shape and dtype of an input, and is there if that is.
OUTPUTS = dict(
    o="v", final_state="initial_state", dq="q", dk="k", dv="v", dg="g", dbeta="beta",
    dh0="initial_state",
)


class Config(ctypes.Structure):
    _fields_ = [
        ("size", ctypes.c_size_t),
        ("backend", ctypes.c_int),
        ("device", ctypes.c_int32),
        ("threads", ctypes.c_int32),
    ]


class Problem(ctypes.Structure):
    _fields_ = [
        ("size", ctypes.c_size_t),
        ("dtype", ctypes.c_int),
        ("flags", ctypes.c_uint32),
        ("T", ctypes.c_int64),
        ("N", ctypes.c_int64),
        ("Hk", ctypes.c_int32),
        ("Hv", ctypes.c_int32),
        ("K", ctypes.c_int32),
        ("V", ctypes.c_int32),
        ("scale", ctypes.c_double),
        ("decay_threshold", ctypes.c_double),
        ("strides", ctypes.c_int64 * 8),
    ]


class Tensors(ctypes.Structure):
    _fields_ = (
        [("size", ctypes.c_size_t)]
        + [(name, ctypes.c_void_p) for name in TENSORS]
        + [("workspace_size", ctypes.c_size_t)]
    )


class Sizes(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_size_t)
        for name in "size forward_workspace backward_workspace segment_workspace saved".split()
    ]


class Gdn:
    """gdn_forward and gdn_backward of one problem. inputs: by their names in TENSORS, q, k [T, Hk, K],
    v, do [T, Hv, V], g, beta [T, Hv], where the backend computes."""

    def __init__(self, library, backend, inputs, flags=0, threads=0):
        self.lib = ctypes.CDLL(library)
        self.lib.gdn_last_error.restype = ctypes.c_char_p
        self.lib.gdn_build_features.restype = ctypes.c_char_p
        self.context = ctypes.c_void_p()
        config = Config(ctypes.sizeof(Config), BACKENDS[backend], 0, threads)
        self.check(self.lib.gdn_context_create(ctypes.byref(self.context), ctypes.byref(config)))
        q, v = inputs["q"], inputs["v"]
        sequences = len(inputs["cu_seqlens"]) - 1 if "cu_seqlens" in inputs else 1
        self.problem = Problem(
            ctypes.sizeof(Problem), DTYPES[q.dtype], flags, q.shape[0], sequences, q.shape[1],
            v.shape[1], q.shape[2], v.shape[2],
        )
        sizes = Sizes(ctypes.sizeof(Sizes))
        self.check(
            self.lib.gdn_problem_sizes(
                self.context, ctypes.byref(self.problem), ctypes.byref(sizes)
            )
        )
        self.memory = dict(inputs)
        for name, like in OUTPUTS.items():
            if like in inputs:
                self.memory[name] = torch.full_like(inputs[like], float("nan"))
        self.tensors = Tensors(ctypes.sizeof(Tensors))
        for name, tensor in self.memory.items():
            setattr(self.tensors, name, tensor.data_ptr())
        workspace = max(sizes.forward_workspace, sizes.backward_workspace)
        self.buffers = [
            torch.zeros(size + 256, dtype=torch.uint8, device=q.device)
            for size in (workspace, sizes.saved)
        ]
        at = [(b.data_ptr() + 255) // 256 * 256 for b in self.buffers]
        self.tensors.workspace, self.tensors.saved = at
        self.tensors.workspace_size = workspace

    def check(self, status):
        if status:
            sys.exit(f"libgdn: {self.lib.gdn_last_error().decode()}")

    def call(self, name, stream=None):
        function = getattr(self.lib, name)
        self.check(
            function(
                self.context, ctypes.byref(self.problem), ctypes.byref(self.tensors),
                ctypes.c_void_p(stream),
            )
        )

    def forward(self, stream=None):
        self.call("gdn_forward", stream)

    def backward(self, stream=None):
        self.call("gdn_backward", stream)

    def results(self):
        return {name: self.memory[name] for name in OUTPUTS if name in self.memory}
