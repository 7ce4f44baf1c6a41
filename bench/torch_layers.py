"""The two layers of bench_train in PyTorch: float32, the same shapes, threads and gradients.

    python bench/torch_layers.py [--threads N] [--pictures 4] [--samples 2] [--length 256] [--runs 8]

Prints the best wall time of a forward and backward, and the processor time of that run, for on a shared machine the
two tell different things.  Attention is scaled_dot_product_attention, PyTorch's own choice of kernel.
"""
import argparse
import time

import torch
import torch.nn.functional as F


class VitLayer(torch.nn.Module):
    """Patch embedding, positions, pre-norm, one layer, post-norm: vit_forward with one layer."""

    def __init__(self, c=1024, f=4096, heads=16, tokens=257):
        super().__init__()
        n, norm = torch.nn, lambda: torch.nn.LayerNorm(c, eps=1e-6)
        self.heads, self.patch = heads, n.Conv2d(3, c, 14, stride=14, bias=False)
        self.cls, self.pos = n.Parameter(torch.zeros(1, 1, c)), n.Parameter(torch.zeros(1, tokens, c))
        self.pre, self.norm1, self.norm2, self.post = norm(), norm(), norm(), norm()
        self.qkv, self.dense, self.fc1, self.fc2 = n.Linear(c, 3 * c), n.Linear(c, c), n.Linear(c, f), n.Linear(f, c)

    def forward(self, pixels):
        x = self.patch(pixels).flatten(2).transpose(1, 2)
        x = self.pre(torch.cat([self.cls.expand(x.shape[0], -1, -1), x], 1) + self.pos)
        b, t, c = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(b, t, self.heads, 3, c // self.heads).permute(3, 0, 2, 1, 4)
        x = x + self.dense(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, t, c))
        h = self.fc1(self.norm2(x))
        return self.post(x + self.fc2(h * torch.sigmoid(1.702 * h)))


class LlamaLayer(torch.nn.Module):
    def __init__(self, c=4096, f=11008, heads=32, length=2048):
        super().__init__()
        linear = lambda o, i: torch.nn.Linear(i, o, bias=False)
        self.heads, d = heads, c // heads
        self.q, self.k, self.v, self.o = (linear(c, c) for _ in range(4))
        self.gate, self.up, self.down = linear(f, c), linear(f, c), linear(c, f)
        self.w1, self.w2 = torch.nn.Parameter(torch.ones(c)), torch.nn.Parameter(torch.ones(c))
        angle = torch.arange(length)[:, None] / 10000 ** (torch.arange(0, d, 2) / d)[None]
        self.register_buffer("cos", torch.cat([angle.cos(), angle.cos()], 1))
        self.register_buffer("sin", torch.cat([angle.sin(), angle.sin()], 1))

    def norm(self, x, w):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * w

    def turn(self, x):
        a, b = x.chunk(2, -1)
        t = x.shape[2]
        return x * self.cos[:t] + torch.cat([-b, a], -1) * self.sin[:t]

    def forward(self, x):
        b, t, c = x.shape
        n = self.norm(x, self.w1)
        split = lambda y: y.view(b, t, self.heads, -1).transpose(1, 2)
        q, k, v = self.turn(split(self.q(n))), self.turn(split(self.k(n))), split(self.v(n))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(b, t, c)
        x = x + self.o(y)
        n = self.norm(x, self.w2)
        return x + self.down(F.silu(self.gate(n)) * self.up(n))


def measure(name, model, x, units, runs):
    grad, best = torch.randn_like(model(x)), (1e9, 0)
    for _ in range(runs + 1):
        model.zero_grad(set_to_none=False)
        wall, cpu = time.perf_counter(), time.process_time()
        model(x).backward(grad)
        best = min(best, (time.perf_counter() - wall, time.process_time() - cpu))
    print(f"{name}: {best[0] * 1e3:.1f} ms wall, {best[1] * 1e3:.1f} ms processor, {units / best[0]:.2f} samples/s", flush=True)


def main():
    p = argparse.ArgumentParser()
    for name, default in (("threads", 2), ("pictures", 4), ("samples", 2), ("length", 256), ("runs", 8)):
        p.add_argument("--" + name, type=int, default=default)
    o = p.parse_args()
    torch.set_num_threads(o.threads)
    torch.manual_seed(1)
    print(f"PyTorch {torch.__version__}, {o.threads} threads")
    measure("ViT-L/14 layer", VitLayer(), torch.randn(o.pictures, 3, 224, 224), o.pictures, o.runs)
    x = torch.randn(o.samples, o.length, 4096, requires_grad=True)
    measure("7B LLaMA layer", LlamaLayer(), x, o.samples, o.runs)


main()
