"""The GDN layer as a PyTorch module, timed beside libgdn's on the same GPU.

    python3 tests/bench/hf_layer.py build/bin/bench_layer [T]...

The module has the shape and the steps of Hugging Face's Qwen3.5 module without extra kernel packages: bf16 weights,
torch's linear maps and convolution, and the chunked rule in fp32 in torch operations, 64 tokens a chunk, with the
inverse of each chunk's triangular matrix found row by row. Milliseconds of forward and backward, the best of three
after one to warm up; torch by events, libgdn as bench_layer prints it. D 1024, 2048, 4096, Hk 16, Hv 16, 32, 64,
K = V = 128.
"""
import re
import subprocess
import sys

import torch
import torch.nn.functional as F
from torch import nn

CHUNK, WIDTH, HK, DIM = 64, 4, 16, 128


def unit(x):
    return x * torch.rsqrt((x * x).sum(-1, keepdim=True) + 1e-6)


def chunked_rule(q, k, v, g, beta):
    """q, k, v [B, T, H, DIM], g, beta [B, T, H]; T a multiple of CHUNK. Returns o like v."""
    dtype = v.dtype
    q, k, v = (x.transpose(1, 2).float() for x in (q, k, v))
    g, beta = (x.transpose(1, 2).float() for x in (g, beta))
    q, k = unit(q) * DIM**-0.5, unit(k)
    B, H, T, _ = q.shape
    k_beta, v_beta = k * beta[..., None], v * beta[..., None]
    q, k, v_beta, k_beta = (x.reshape(B, H, T // CHUNK, CHUNK, DIM) for x in (q, k, v_beta, k_beta))
    c = g.reshape(B, H, T // CHUNK, CHUNK).cumsum(-1)
    decay = (c[..., :, None] - c[..., None, :]).tril().exp().tril()
    inverse = -(k_beta @ k.transpose(-1, -2) * decay).tril(-1)
    for i in range(1, CHUNK):
        row, above = inverse[..., i, :i].clone(), inverse[..., :i, :i].clone()
        inverse[..., i, :i] = row + (row[..., None] * above).sum(-2)
    inverse = inverse + torch.eye(CHUNK, device=q.device)
    u, w = inverse @ v_beta, inverse @ (k_beta * c.exp()[..., None])
    state, out = torch.zeros(B, H, DIM, DIM, device=q.device), []
    for n in range(T // CHUNK):
        delta = u[:, :, n] - w[:, :, n] @ state
        scores = q[:, :, n] @ k[:, :, n].transpose(-1, -2) * decay[:, :, n]
        out.append((q[:, :, n] * c[:, :, n, :, None].exp()) @ state + scores @ delta)
        last = c[:, :, n, -1, None]
        keys = k[:, :, n] * (last - c[:, :, n]).exp()[..., None]
        state = state * last[..., None].exp() + keys.transpose(-1, -2) @ delta
    return torch.stack(out, 2).reshape(B, H, T, DIM).transpose(1, 2).to(dtype)


class GatedNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(DIM))

    def forward(self, x, z):
        y = x.float()
        y = y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + 1e-6)
        y = self.weight * y.to(x.dtype)
        return (y * F.silu(z.float())).to(x.dtype)


class Layer(nn.Module):
    def __init__(self, D, Hv):
        super().__init__()
        self.Hv, self.C = Hv, (2 * HK + Hv) * DIM
        self.in_proj_qkv = nn.Linear(D, self.C, bias=False)
        self.in_proj_z = nn.Linear(D, Hv * DIM, bias=False)
        self.in_proj_b = nn.Linear(D, Hv, bias=False)
        self.in_proj_a = nn.Linear(D, Hv, bias=False)
        self.conv1d = nn.Conv1d(self.C, self.C, WIDTH, groups=self.C, padding=WIDTH - 1, bias=False)
        self.dt_bias = nn.Parameter(torch.ones(Hv))
        self.A_log = nn.Parameter(torch.empty(Hv).uniform_(1e-3, 16).log())
        self.norm = GatedNorm()
        self.out_proj = nn.Linear(Hv * DIM, D, bias=False)

    def forward(self, x):
        B, T, _ = x.shape
        qkv = self.in_proj_qkv(x).transpose(1, 2)
        z = self.in_proj_z(x).reshape(B, T, self.Hv, DIM)
        b, a = self.in_proj_b(x), self.in_proj_a(x)
        qkv = F.silu(self.conv1d(qkv)[..., :T]).transpose(1, 2)
        q, k, v = qkv.split([HK * DIM, HK * DIM, self.Hv * DIM], -1)
        q, k = (y.reshape(B, T, HK, DIM).repeat_interleave(self.Hv // HK, 2) for y in (q, k))
        beta = b.sigmoid()
        g = -self.A_log.float().exp() * F.softplus(a.float() + self.dt_bias)
        o = chunked_rule(q, k, v.reshape(B, T, self.Hv, DIM), g, beta)
        return self.out_proj(self.norm(o, z).reshape(B, T, -1))


def time_module(T, D, Hv):
    """Milliseconds of forward and of backward."""
    torch.manual_seed(0)
    layer = Layer(D, Hv).to("cuda", torch.bfloat16)
    x = torch.randn(1, T, D, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    dout = torch.randn_like(x)
    best = None
    for turn in range(4):
        events = [torch.cuda.Event(enable_timing=True) for _ in range(3)]
        layer.zero_grad(set_to_none=True)
        x.grad = None
        events[0].record()
        out = layer(x)
        events[1].record()
        out.backward(dout)
        events[2].record()
        torch.cuda.synchronize()
        times = events[0].elapsed_time(events[1]), events[1].elapsed_time(events[2])
        del out
        if turn and (best is None or sum(times) < sum(best)):
            best = times
    return best


def main():
    print(torch.cuda.get_device_name(), "torch", torch.__version__)
    for T in [int(t) for t in sys.argv[2:]] or [8192, 32768]:
        printed = subprocess.run([sys.argv[1], "layer", str(T)], check=True, capture_output=True, text=True).stdout
        for line in printed.splitlines():
            print(line)
            found = re.search(r"T +(\d+) D +(\d+) Hv +(\d+) .* both +([0-9.]+) ms", line)
            if not found:
                continue
            D, Hv, ours = int(found[2]), int(found[3]), float(found[4])
            try:
                forward, backward = time_module(T, D, Hv)
            except torch.OutOfMemoryError:
                print("    torch: out of memory")
                torch.cuda.empty_cache()
                continue
            both = forward + backward
            print(f"    torch forward {forward:.3f} ms backward {backward:.3f} ms both {both:.3f} ms,"
                  f" {both / ours:.1f} times libgdn's", flush=True)
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
