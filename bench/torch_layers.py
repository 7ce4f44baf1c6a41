"""What bench_train times, in PyTorch: float32, the same shapes, threads and gradients.

    python bench/torch_layers.py [--threads N] [--pictures 4] [--samples 2] [--length 256] [--owlets 8] [--runs 8]
        [--only vit|llm|owlet]

Prints the best wall time of a forward and backward, and the processor time of that run, for on a shared machine the
two tell different things; "best_ms" is for bench_train, which runs this with --python.  Attention is
scaled_dot_product_attention, PyTorch's own choice of kernel.
"""
import argparse
import json
import time

import torch
import torch.nn.functional as F


class VitLayer(torch.nn.Module):
    def __init__(self, c, f, heads):
        super().__init__()
        n, self.heads = torch.nn, heads
        self.norm1, self.norm2 = n.LayerNorm(c, eps=1e-6), n.LayerNorm(c, eps=1e-6)
        self.qkv, self.dense, self.fc1, self.fc2 = n.Linear(c, 3 * c), n.Linear(c, c), n.Linear(c, f), n.Linear(f, c)

    def forward(self, x):
        b, t, c = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(b, t, self.heads, 3, c // self.heads).permute(3, 0, 2, 1, 4)
        x = x + self.dense(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, t, c))
        h = self.fc1(self.norm2(x))
        return x + self.fc2(h * torch.sigmoid(1.702 * h))


class Vit(torch.nn.Module):
    """Patch embedding, positions, pre-norm, layers, post-norm."""

    def __init__(self, c=1024, f=4096, heads=16, layers=1, side=224, patch=14):
        super().__init__()
        n, tokens = torch.nn, (side // patch) ** 2 + 1
        self.patch = n.Conv2d(3, c, patch, stride=patch, bias=False)
        self.cls, self.pos = n.Parameter(torch.zeros(1, 1, c)), n.Parameter(torch.zeros(1, tokens, c))
        self.pre, self.post = n.LayerNorm(c, eps=1e-6), n.LayerNorm(c, eps=1e-6)
        self.layers = n.Sequential(*(VitLayer(c, f, heads) for _ in range(layers)))

    def forward(self, pixels):
        x = self.patch(pixels).flatten(2).transpose(1, 2)
        return self.post(self.layers(self.pre(torch.cat([self.cls.expand(x.shape[0], -1, -1), x], 1) + self.pos)))


class AbstractorLayer(torch.nn.Module):
    def __init__(self, c, f, heads):
        super().__init__()
        n, self.heads = torch.nn, heads
        self.norm1, self.normk, self.norm2, self.ffn_ln = n.LayerNorm(c), n.LayerNorm(c), n.LayerNorm(c), n.LayerNorm(f)
        self.q, self.k, self.v, self.o = (n.Linear(c, c) for _ in range(4))
        self.w1, self.w3, self.w2 = n.Linear(c, f), n.Linear(c, f), n.Linear(f, c)

    def forward(self, x, image):
        x = self.norm1(x)
        b, t, c = x.shape
        kv = torch.cat([x, self.normk(image)], 1)
        split = lambda y: y.view(b, -1, self.heads, c // self.heads).transpose(1, 2)
        y = F.scaled_dot_product_attention(split(self.q(x)), split(self.k(kv)), split(self.v(kv)))
        x = x + self.o(y.transpose(1, 2).reshape(b, t, c))
        z = self.norm2(x)
        return x + self.w2(self.ffn_ln(F.silu(self.w1(z)) * self.w3(z)))


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


class Owlet(torch.nn.Module):
    """The whole model of a v1 configuration: pictures and text to the loss."""

    def __init__(self, config):
        super().__init__()
        v, a, t, n = config["vision_config"], config["visual_abstractor_config"], config["text_config"], torch.nn
        width = t["hidden_size"]
        self.vit = Vit(v["hidden_size"], v["intermediate_size"], v["num_attention_heads"], v["num_hidden_layers"],
                       v["image_size"], v["patch_size"])
        self.query = n.Parameter(torch.randn(1, config["num_query_tokens"], a["hidden_size"]))
        self.abstractor = n.ModuleList(AbstractorLayer(a["hidden_size"], a["intermediate_size"], a["num_attention_heads"])
                                       for _ in range(a["num_hidden_layers"]))
        self.fc, self.eos = n.Linear(a["hidden_size"], width), n.Parameter(torch.zeros(1, 1, width))
        self.embed = n.Embedding(t["vocab_size"], width)
        self.layers = n.Sequential(*(LlamaLayer(width, t["intermediate_size"], t["num_attention_heads"],
                                                t["max_position_embeddings"]) for _ in range(t["num_hidden_layers"])))
        self.norm, self.head = n.Parameter(torch.ones(width)), n.Linear(width, t["vocab_size"], bias=False)

    def forward(self, pixels, ids, targets):
        """ids [b, n] stand behind the picture; the last `targets` of them are learnt."""
        b, image = pixels.shape[0], self.vit(pixels)
        x = self.query.expand(b, -1, -1)
        for layer in self.abstractor:
            x = layer(x, image)
        x = torch.cat([self.fc(x), self.eos.expand(b, -1, -1), self.embed(ids)], 1)
        x = self.layers(x)[:, -targets - 1:-1]
        x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.norm
        return F.cross_entropy(self.head(x).flatten(0, 1), ids[:, -targets:].flatten())


def measure(name, model, inputs, units, runs):
    grad, best = torch.ones_like(model(*inputs)), (1e9, 0)
    for _ in range(runs + 1):
        model.zero_grad(set_to_none=False)
        wall, cpu = time.perf_counter(), time.process_time()
        model(*inputs).backward(grad)
        best = min(best, (time.perf_counter() - wall, time.process_time() - cpu))
    print(f"{name}: {best[0] * 1e3:.1f} ms wall, {best[1] * 1e3:.1f} ms processor, {units / best[0]:.2f} samples/s")
    print(f"best_ms {best[0] * 1e3:.3f}", flush=True)


def main():
    p = argparse.ArgumentParser()
    for name, default in (("threads", 2), ("pictures", 4), ("samples", 2), ("length", 256), ("owlets", 8), ("runs", 8)):
        p.add_argument("--" + name, type=int, default=default)
    p.add_argument("--owlet", default="training/owlet/base")
    p.add_argument("--only", choices=("vit", "llm", "owlet"))
    o = p.parse_args()
    torch.set_num_threads(o.threads)
    torch.manual_seed(1)
    print(f"PyTorch {torch.__version__}, {o.threads} threads")
    if o.only in (None, "vit"):
        measure("ViT-L/14 layer", Vit(), [torch.randn(o.pictures, 3, 224, 224)], o.pictures, o.runs)
    if o.only in (None, "llm"):
        x = torch.randn(o.samples, o.length, 4096, requires_grad=True)
        measure("7B LLaMA layer", LlamaLayer(), [x], o.samples, o.runs)
    if o.only in (None, "owlet"):
        with open(o.owlet + "/config.json") as f:
            config = json.load(f)
        side, words = config["vision_config"]["image_size"], config["text_config"]["vocab_size"]
        inputs = [torch.randn(o.owlets, 3, side, side), torch.randint(words, (o.owlets, 64)), 32]
        measure("owlet", Owlet(config), inputs, o.owlets, o.runs)


main()
