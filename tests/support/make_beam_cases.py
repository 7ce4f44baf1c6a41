"""Writes tests/unit/data/beam_cases.json: what transformers' own beam search (4.28.1, with torch) finds
on a small made-up language model, for test_beam.c.

    pip install transformers==4.28.1 torch==2.5.1 'numpy<2'
    python tests/support/make_beam_cases.py tests/unit/data/beam_cases.json

The model's logits depend on the last token and on the length alone: logits[(length - 1) % 3][last].
"""
import itertools
import json
import sys

import torch
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

BOS, EOS = 1, 2


class Config(PretrainedConfig):
    model_type = "made-up"


class Model(PreTrainedModel):
    config_class = Config

    def __init__(self, table):
        super().__init__(Config(vocab_size=table.shape[-1], bos_token_id=BOS, eos_token_id=EOS, pad_token_id=0))
        self.table = torch.nn.Parameter(table)

    def forward(self, input_ids, **kwargs):
        row = self.table[(input_ids.shape[1] - 1) % 3][input_ids[:, -1]]
        return CausalLMOutputWithPast(logits=row[:, None, :])

    def prepare_inputs_for_generation(self, input_ids, **kwargs):
        return {"input_ids": input_ids}

    @staticmethod
    def _reorder_cache(past, beam_idx):
        return past

    def can_generate(self):
        return True


def run(model, p):
    out = model.generate(
        torch.tensor([[BOS]]), max_length=1 + p["max_tokens"], do_sample=False, num_beams=p["num_beams"],
        length_penalty=p["length_penalty"], early_stopping=p["early_stopping"],
        no_repeat_ngram_size=p["no_repeat_ngram_size"], repetition_penalty=p["repetition_penalty"],
        return_dict_in_generate=True, output_scores=True, use_cache=False)
    return out.sequences[0, 1:].tolist(), out.sequences_scores[0].item()


def main(path):
    models = []
    for seed, vocab, eos_bonus in ((1, 11, 0.0), (2, 11, 1.5), (3, 40, 1.0), (4, 7, 0.5)):
        g = torch.Generator().manual_seed(seed)
        table = torch.round(torch.randn(3, vocab, vocab, generator=g) * 2 * 64) / 64
        table[:, :, EOS] += eos_bonus
        model, cases = Model(table).eval(), []
        grid = itertools.product((2, 3, 5), (1.0, 0.0, 2.0, -1.0), (True, False), (0, 2), (1.0, 1.3), (1, 9, 24))
        for beams, penalty, early, ngram, repetition, new in grid:
            if 2 * beams > vocab * beams or (vocab < 2 * beams + 2):
                continue
            p = dict(num_beams=beams, length_penalty=penalty, early_stopping=early, no_repeat_ngram_size=ngram,
                     repetition_penalty=repetition, max_tokens=new)
            ids, score = run(model, p)
            cases.append(p | {"ids": ids, "score": round(score, 6)})
        models.append({"vocab": vocab, "logits": table.tolist(), "cases": cases})
    with open(path, "w") as f:
        json.dump({"bos": BOS, "eos": EOS, "models": models}, f, separators=(",", ":"))
        f.write("\n")
    print(sum(len(m["cases"]) for m in models), "cases")


main(sys.argv[1])
