"""Ordinary LLaMA files against llama.cpp: GGUFs that the `gguf` package writes (shared K/V heads, each rope
scaling, a tied head), and the same quantised by llama.cpp, must give llama.cpp's greedy tokens here.

Usage: check_llama_gguf.py BIN_DIR DECODER_GGUF     (DECODER_GGUF: only its vocabulary is used)

A quantised file is compared twice: computed in f32 on both sides, which shows that every block is read as llama.cpp
reads it, and as each program does by default, where both round activations in their own way.  Where llama.cpp's two
best logits are closer than such differences, the rest of an answer proves nothing: a comparison ends there.
"""
import ctypes
import json
import os
import subprocess
import sys
import tempfile

import gguf
import llama_cpp
import numpy as np
from safetensors.numpy import load_file

LAYERS, WIDTH, HEADS, KV_HEADS, FFN, CONTEXT = 2, 256, 8, 2, 512, 256
PROMPT = "The owl is a bird of the night. What does it see from the tree"
TOKENS, MIN_TOKENS = 32, 8


def vocabulary(path):
    fields = gguf.GGUFReader(path).fields
    get = lambda name: fields["tokenizer.ggml." + name]
    tokens = [bytes(get("tokens").parts[i]) for i in get("tokens").data]
    scores = [float(get("scores").parts[i][0]) for i in get("scores").data]
    types = [int(get("token_type").parts[i][0]) for i in get("token_type").data]
    return tokens, scores, types


def write(path, words, tied=False, scaling=None, factors=None):
    rng = np.random.default_rng(3)
    tokens, scores, types = words
    w = gguf.GGUFWriter(path, "llama")
    w.add_context_length(CONTEXT)
    w.add_embedding_length(WIDTH)
    w.add_block_count(LAYERS)
    w.add_feed_forward_length(FFN)
    w.add_head_count(HEADS)
    w.add_head_count_kv(KV_HEADS)
    w.add_layer_norm_rms_eps(1e-5)
    w.add_rope_dimension_count(WIDTH // HEADS)
    w.add_rope_freq_base(10000.0)
    if scaling:
        kind, factor, trained = scaling
        w.add_rope_scaling_type(gguf.RopeScalingType(kind))
        w.add_rope_scaling_factor(factor)
        if trained:
            w.add_rope_scaling_orig_ctx_len(trained)
    w.add_tokenizer_model("llama")
    w.add_token_list(tokens)
    w.add_token_scores(scores)
    w.add_token_types(types)
    w.add_bos_token_id(1)
    w.add_eos_token_id(2)
    w.add_add_bos_token(True)

    def matrix(name, rows, cols, gain=1.7):
        w.add_tensor(name, (rng.standard_normal((rows, cols)) * gain / cols**0.5).astype(np.float32))

    def norm(name):
        w.add_tensor(name, (1 + 0.1 * rng.standard_normal(WIDTH)).astype(np.float32))

    matrix("token_embd.weight", len(tokens), WIDTH, 8)
    for i in range(LAYERS):
        kv = WIDTH // HEADS * KV_HEADS
        norm(f"blk.{i}.attn_norm.weight")
        matrix(f"blk.{i}.attn_q.weight", WIDTH, WIDTH, 3)
        matrix(f"blk.{i}.attn_k.weight", kv, WIDTH, 3)
        matrix(f"blk.{i}.attn_v.weight", kv, WIDTH)
        matrix(f"blk.{i}.attn_output.weight", WIDTH, WIDTH)
        norm(f"blk.{i}.ffn_norm.weight")
        matrix(f"blk.{i}.ffn_gate.weight", FFN, WIDTH)
        matrix(f"blk.{i}.ffn_up.weight", FFN, WIDTH)
        matrix(f"blk.{i}.ffn_down.weight", WIDTH, FFN)
    norm("output_norm.weight")
    if not tied:
        matrix("output.weight", len(tokens), WIDTH, 4)
    if factors is not None:
        w.add_tensor("rope_freqs.weight", np.asarray(factors, np.float32))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def quantise(src, dst, kind):
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = kind
    params.nthread = 2
    params.allow_requantize = True
    rc = llama_cpp.llama_model_quantize(src.encode(), dst.encode(), ctypes.byref(params))
    assert rc == 0, f"llama.cpp cannot quantise {src}"


def theirs(path):
    """Prompt ids, greedy tokens, and the gap between the two best logits at each."""
    llm = llama_cpp.Llama(path, n_ctx=CONTEXT, n_batch=CONTEXT, logits_all=True, verbose=False, n_threads=2,
                          type_k=llama_cpp.GGML_TYPE_F32, type_v=llama_cpp.GGML_TYPE_F32)
    ids = llm.tokenize(PROMPT.encode(), add_bos=True, special=False)
    llm.eval(ids)
    first = np.array(llm.scores[: len(ids)])
    tokens, gaps = [], []
    logits = first[-1]
    while len(tokens) < TOKENS:
        best = np.sort(logits)[-2:]
        tokens.append(int(np.argmax(logits)))
        gaps.append(float(best[1] - best[0]))
        llm.eval(tokens[-1:])
        logits = np.array(llm.scores[llm.n_tokens - 1])
    return ids, tokens, gaps, first


def ours(binary, path, folder, compute):
    request, out = os.path.join(folder, "request.json"), os.path.join(folder, "o.safetensors")
    json.dump({"prompt": PROMPT, "max_tokens": TOKENS, "ignore_eos": True}, open(request, "w"))
    subprocess.run([binary, "--model", path, "--in", request, "--logits", "all", "--out", out, "--compute", compute],
                   check=True, stdout=subprocess.DEVNULL)
    return load_file(out)


def compare(name, binary, path, folder, limit, reference=None, compute="auto"):
    """Ours of `path` against llama.cpp's of `reference` (absent: the same file)."""
    ids, want, gaps, logits = theirs(reference or path)
    got = ours(binary, path, folder, compute)
    assert list(got["input_ids"]) == list(ids), f"{name}: other prompt ids"
    rms = float(np.sqrt(np.mean((got["logits"] - logits) ** 2)) / np.sqrt(np.mean(logits**2)))
    noise = 6 * rms * float(np.std(logits))
    sure = next((i for i, gap in enumerate(gaps) if gap < noise), len(want))
    equal = next((i for i, (a, b) in enumerate(zip(got["generated_ids"], want)) if a != b), len(want))
    print(f"{name:15} logits differ by {rms:.2e} of their size, {equal} of {len(want)} tokens equal, {sure} are sure")
    assert rms < limit, f"{name}: the logits are others (limit {limit})"
    assert equal >= min(sure, len(want)), f"{name}: want {want}, got {list(got['generated_ids'])}"
    return sure


def main(bin_dir, decoder):
    binary = os.path.join(bin_dir, "tyto-decoder")
    words = vocabulary(decoder)
    half = WIDTH // HEADS // 2
    factors = [1.0] * (half // 2) + [8.0] * (half - half // 2)
    plain = {
        "grouped heads": {},
        "tied head": dict(tied=True),
        "rope linear": dict(scaling=("linear", 4.0, None)),
        "rope yarn": dict(scaling=("yarn", 4.0, 64)),
        "rope llama3": dict(factors=factors),
    }
    EXACT, ROUNDED = 1e-4, 0.25
    kinds = dict(q8_0=7, q4_0=2, q4_1=3, q5_0=8, q5_1=9, q2_k=10, q3_k_m=12, q4_k_m=15, q5_k_m=17, q6_k=18)
    with tempfile.TemporaryDirectory() as folder:
        for name, options in plain.items():
            path = os.path.join(folder, "model.gguf")
            write(path, words, **options)
            sure = compare(name, binary, path, folder, EXACT)
            assert sure >= MIN_TOKENS, f"{name}: the answer is too uncertain to prove anything"
        write(path, words)
        for name, kind in kinds.items():
            small = os.path.join(folder, name + ".gguf")
            quantise(path, small, kind)
            wide = os.path.join(folder, "wide.gguf")
            quantise(small, wide, 0)
            sure = compare(name + " f32", binary, small, folder, EXACT, wide, "f32")
            assert sure >= MIN_TOKENS, f"{name}: the answer is too uncertain to prove anything"
            compare(name, binary, small, folder, ROUNDED)
    print("ok")


if __name__ == "__main__":
    main(*sys.argv[1:])
