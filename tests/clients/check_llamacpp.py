"""llama.cpp reads a decoder.gguf of ours and gives the golden's greedy tokens for its text-only prompt.

Usage: check_llamacpp.py DECODER_GGUF GOLDEN_JSON
"""
import json
import sys

import llama_cpp


def main(gguf, golden):
    prompts = json.load(open(golden))["prompts"]
    llm = llama_cpp.Llama(gguf, n_ctx=512, logits_all=False, verbose=False, n_threads=2)
    for name, prompt in prompts.items():
        if prompt["images"]:
            continue
        ids = llm.tokenize(prompt["text"].encode(), add_bos=True, special=False)
        want = prompt["greedy_ids"]
        got = []
        for token in llm.generate(ids, temp=0.0, top_k=1, repeat_penalty=1.0):
            got.append(token)
            if len(got) == len(want):
                break
        print(name, "want", want)
        print(name, "got ", got)
        assert got == want, "llama.cpp continues otherwise"
    print("ok")


if __name__ == "__main__":
    main(*sys.argv[1:])
