"""comm_model.py: a model, not a measurement: milliseconds of communication of a training step over P GPUs, from the
sizes of the library's messages and speeds of links: of NVLink as tests/bench/messages.c measured it between two H100,
of InfiniBand as published. A message takes LATENCY + bytes / bandwidth; nothing overlaps. Prints a table for
dist/README.md, and the model beside what was measured.

The model: 24 layers, D 1024, Hk 16, Hv 16, K = V = 128, convolution of 4, SwiGLU of 2048, bf16, a vocabulary of
32,768; a sequence shared by all P ranks.

    states     4 Hv K V bytes a layer and boundary, each way. Where heads do not forget, or whatever they do on a device,
               P - 1 hops follow one another (dist/README.md)
    halo       e (W - 1) (2 Hk K + Hv V) bytes a layer and boundary, each way: all boundaries at once
    gradients  4 bytes a parameter, in rings: 2 (P - 1) / P of them pass each GPU, in 2 (P - 1) steps; between nodes each of
               a node's GPUs has a link of its own, and there is a ring for each
"""

LAYERS, D, HK, HV, K, V, W, MLP, VOCABULARY = 24, 1024, 16, 16, 128, 128, 4, 2048, 32768
ELEMENT = 2  # bf16
GPUS_PER_NODE = 8
# bytes a second, one way, and seconds a message
NVLINK = (330e9, 12e-6)  # NVLink 4, NCCL 2.28.9: fits what is below; 450 GB/s one way is published
NDR = (50e9, 15e-6)  # InfiniBand NDR: 400 Gb/s a GPU as published; the latency is an assumption
# bin/bench_messages, two H100 80GB over NVLink (NV18), 2026-11-25: bytes and seconds
MESSAGES = ((8, 9.1e-6), (24576, 10.7e-6), (1 << 20, 16.2e-6), (1 << 21, 20.7e-6), (1 << 26, 214.4e-6))
SUMS = ((8, 6.9e-6), (1 << 20, 13.7e-6), (1 << 26, 263.0e-6), (438 << 22, 5475.1e-6))


def message(link, size):
    bandwidth, latency = link
    return latency + size / bandwidth


def ring(link, size, ranks):
    return 2 * (ranks - 1) * message(link, size / ranks)


def parameters():
    key, value = HK * K, HV * V
    layer = D * (2 * key + 2 * value + 2 * HV) + (2 * key + value) * W + 2 * HV + V + D * value
    return LAYERS * (layer + 3 * D * MLP + 2 * D) + VOCABULARY * D + D


def row(ranks):
    inside = min(ranks, GPUS_PER_NODE)
    hops_between = (ranks - 1) // GPUS_PER_NODE  # between nodes
    hops_inside = ranks - 1 - hops_between
    slowest = NVLINK if ranks <= GPUS_PER_NODE else NDR
    rings = NVLINK if ranks <= GPUS_PER_NODE else (min(NVLINK[0], GPUS_PER_NODE * NDR[0]), NDR[1])
    state, halo = 4 * HV * K * V, ELEMENT * (W - 1) * (2 * HK * K + HV * V)
    states = 2 * LAYERS * (hops_inside * message(NVLINK, state) + hops_between * message(NDR, state))
    halos = 2 * LAYERS * message(slowest, halo)
    gradients = ring(rings, 4 * parameters(), ranks)
    nodes = f"{ranks // inside} x {inside}"
    return f"| {ranks} | {nodes} | {1e3 * states:.2f} | {1e3 * halos:.2f} | {1e3 * gradients:.2f} | {1e3 * (states + halos + gradients):.2f} |"


print("| GPUs | nodes x GPUs | states | halo | gradients | all, ms a step |")
print("|---|---|---|---|---|---|")
for p in (2, 4, 8, 16, 32, 64):
    print(row(p))
print(f"\n{parameters() / 1e6:.0f} million parameters; a state {4 * HV * K * V} bytes, a halo {ELEMENT * (W - 1) * (2 * HK * K + HV * V)}")
print("\n| two GPUs, us | bytes | model | measured |")
print("|---|---|---|---|")
for size, seconds in MESSAGES:
    print(f"| message | {size:,} | {1e6 * message(NVLINK, size):.1f} | {1e6 * seconds:.1f} |")
for size, seconds in SUMS:
    print(f"| sum | {size:,} | {1e6 * ring(NVLINK, size, 2):.1f} | {1e6 * seconds:.1f} |")
