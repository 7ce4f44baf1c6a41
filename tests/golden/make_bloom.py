"""Makes tests/golden/v1-bloom-micro: a tiny random mPLUG-Owl v1 on BLOOM (the multilingual variant's shape) and what
transformers' BLOOM computes with it.

Usage: make_bloom.py V1_MICRO_DIR OUT_DIR      (PyPI: torch, transformers, tokenizers, safetensors)

Vision is v1-micro's, file for file, so its golden visual tokens hold.  The reference's patched BLOOM applies
word_embeddings_layernorm to text embeddings before the splice and skips it in forward; stock BLOOM applies it in
forward.  So here the layer norm is applied by hand and then replaced by the identity.
The tokenizer is trained on a few sentences with BLOOM's own pre-tokenizer (tokenizer.json of bigscience/bloom).
"""
import json
import os
import shutil
import sys

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import BloomConfig, BloomForCausalLM, PreTrainedTokenizerFast

LAYERS, WIDTH, HEADS, ROWS = 2, 48, 3, 512
SEED = 6
SPLIT = " ?[^(\\s|[.,!?…。，、।۔،])]+"
SENTENCES = [
    "All human beings are born free and equal in dignity and rights. They are endowed with reason and conscience.",
    "Tous les êtres humains naissent libres et égaux en dignité et en droits. Ils sont doués de raison et de conscience.",
    "Todos los seres humanos nacen libres e iguales en dignidad y derechos, dotados como están de razón y conciencia.",
    "人人生而自由，在尊严和权利上一律平等。他们赋有理性和良心，并应以兄弟关系的精神相对待。",
    "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता प्राप्त है।",
    "يولد جميع الناس أحرارا متساوين في الكرامة والحقوق، وقد وهبوا عقلا وضميرا",
    "Tất cả mọi người sinh ra đều được tự do và bình đẳng về nhân phẩm và quyền lợi.",
    "The following is a conversation between a curious human and AI assistant. The assistant gives helpful, detailed, and "
    "polite answers to the user's questions.\nHuman: What is in the picture?\nAI: A picture of a man and the sea.",
    "def answer(question, picture=None):\n    return question + str(picture)  # why?",
]
TEXTS = SENTENCES + [
    "", " ", "  ", "a", " a", "a ", "\n", "\n\n a\n", "a  b   c", "\t tab", "don't stop!!! (now) |pipe| [x]", "...", "。。、", "¿Qué?",
    "1234567890", "x</s>y", "<s> a</s> ", "<unk><pad>", "</ s>", "owl 🦉 and 👩‍👩‍👧", "é", "e\u0301", "\u00a0nbsp\u2003em\u3000ideo",
    "\u200bzero\ufeff", "日本語のテキスト", "한국어", "\x00\x01\x7f", "\x1c\x85sep", "a" * 300, "ab" * 100 + " " + "你好" * 60, "\ufffd",
    "Human: <image>", "(a)(b) , . ! ? … ۔ ،",
]
PREAMBLE = ("The following is a conversation between a curious human and AI assistant. The assistant gives helpful, "
            "detailed, and polite answers to the user's questions.\n")
PROMPTS = {
    "text": ("Human: Bonjour, 人人生而自由。 Who are you?\nAI: ", []),
    "img1": (PREAMBLE + "Human: <image>\nHuman: What is in the picture?\nAI: ", ["photo_47.jpg"]),
    "img2": ("Human: <image>\nHuman: <image>\nHuman: ¿Qué?\nAI: ", ["photo_9.jpg", "photo_48.jpg"]),
    "long": (" ".join(SENTENCES[:7]) + "\nAI: ", []),
}
NEW_TOKENS = 32


def make_tokenizer():
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(SPLIT), behavior="isolated", invert=False),
        pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=False),
    ])
    t.decoder = decoders.ByteLevel(add_prefix_space=True, trim_offsets=True, use_regex=False)
    trainer = trainers.BpeTrainer(vocab_size=ROWS - 12, min_frequency=2, show_progress=False,
                                  special_tokens=["<unk>", "<s>", "</s>", "<pad>"],
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    t.train_from_iterator(SENTENCES, trainer)
    return t


def exact(t):
    """Rounded so that bf16 holds it exactly."""
    return t.to(torch.bfloat16).to(torch.float32)


def make_text_model():
    torch.manual_seed(SEED)
    config = BloomConfig(vocab_size=ROWS, hidden_size=WIDTH, n_layer=LAYERS, n_head=HEADS, layer_norm_epsilon=1e-5,
                         hidden_dropout=0.0, attention_dropout=0.0, bos_token_id=1, eos_token_id=2, pad_token_id=3)
    model = BloomForCausalLM(config).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "layernorm" in name or "ln_f" in name:
                p.copy_(exact((1.0 if name.endswith("weight") else 0.0) + 0.2 * torch.randn_like(p)))
            elif name.endswith("bias"):
                p.copy_(exact(0.1 * torch.randn_like(p)))
            else:
                gain = 1.0 if "word_embeddings" in name else 3.0
                p.copy_(exact(torch.randn_like(p) * gain / p.shape[1] ** 0.5))
    return config, model


def prompt_ids(tokenizer, text, rows):
    """The reference's processor: bos once, every chunk tokenised by itself, `rows` times -1 for a picture."""
    ids = [1]
    for i, chunk in enumerate(text.split("<image>")):
        if i:
            ids += [-1] * rows
        ids += tokenizer(chunk, add_special_tokens=False).input_ids
    return ids


class Reference:
    def __init__(self, model):
        self.model = model
        self.norm = model.transformer.word_embeddings_layernorm
        model.transformer.word_embeddings_layernorm = torch.nn.Identity()

    def embed(self, ids, pictures):
        ids = torch.tensor(ids)
        x = self.norm(self.model.transformer.word_embeddings(ids.clamp(min=0)))
        if pictures:
            x[ids < 0] = torch.cat(pictures)
        return x

    def run(self, x):
        return self.model(inputs_embeds=x[None], output_hidden_states=True)

    def greedy(self, x):
        ids, margins = [], []
        while len(ids) < NEW_TOKENS and (not ids or ids[-1] != 2):
            logits = self.run(x).logits[0, -1]
            best = torch.topk(logits, 2)
            ids.append(int(best.indices[0]))
            margins.append(float(best.values[0] - best.values[1]))
            x = torch.cat([x, self.embed([ids[-1]], [])])
        return ids, margins


def main(micro, out):
    torch.set_num_threads(1)
    os.makedirs(out, exist_ok=True)
    fast = make_tokenizer()
    fast.save(os.path.join(out, "tokenizer.json"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=fast, unk_token="<unk>", bos_token="<s>", eos_token="</s>",
                                        pad_token="<pad>", clean_up_tokenization_spaces=False)
    config, model = make_text_model()
    tensors = {"language_model." + k: v.contiguous().to(torch.bfloat16) for k, v in model.state_dict().items()
               if k != "lm_head.weight"}
    tensors["language_model.lm_head.weight"] = model.lm_head.weight.detach().clone().to(torch.bfloat16)
    vision = torch.load(os.path.join(micro, "pytorch_model.bin"), weights_only=True)
    tensors |= {k: v.contiguous() for k, v in vision.items() if not k.startswith("language_model.")}
    save_file(tensors, os.path.join(out, "model.safetensors"), metadata={"format": "pt"})
    owl = json.load(open(os.path.join(micro, "config.json")))
    text = {k: v for k, v in config.to_dict().items() if k in (
        "vocab_size", "hidden_size", "n_layer", "n_head", "layer_norm_epsilon", "bos_token_id", "eos_token_id",
        "pad_token_id", "apply_residual_connection_post_layernorm")}
    owl["text_config"] = {"model_type": "bloom", "seq_length": 512, **text}
    json.dump(owl, open(os.path.join(out, "config.json"), "w"), indent=1)
    shutil.copyfile(os.path.join(micro, "preprocessor_config.json"), os.path.join(out, "preprocessor_config.json"))

    pictures = load_file(os.path.join(micro, "golden.safetensors"))
    golden, kept = {"prompts": {}}, {}
    ref = Reference(model)
    with torch.no_grad():
        for name, (prompt, files) in PROMPTS.items():
            visual = [pictures[f"img/{f}/visual_tokens"] for f in files]
            for f, v in zip(files, visual):
                kept[f"img/{f}/visual_tokens"] = v
            ids = prompt_ids(tokenizer, prompt, 4)
            x = ref.embed(ids, visual)
            r = ref.run(x)
            greedy, margins = ref.greedy(x)
            golden["prompts"][name] = {
                "text": prompt, "images": files, "greedy_ids": greedy, "greedy_min_margin": min(margins),
                "greedy_text": tokenizer.decode(greedy, skip_special_tokens=True)}
            t = {"input_ids": torch.tensor(ids), "logits_last": r.logits[0, -1]}
            if name in ("text", "img1"):
                t |= {"logits": r.logits[0], "inputs_embeds": x}
                t |= {f"hidden{i}": h[0] for i, h in enumerate(r.hidden_states)}
            kept |= {f"prompt/{name}/{k}": v.contiguous().clone() for k, v in t.items()}
    vectors = [
        {"text": s, "ids": (i := tokenizer(s, add_special_tokens=False).input_ids),
         "raw_ids": tokenizer(s, add_special_tokens=False, split_special_tokens=True).input_ids,
         "decoded": tokenizer.decode(i, skip_special_tokens=True)} for s in TEXTS]
    json.dump(vectors, open(os.path.join(out, "tokenizer_vectors.json"), "w"), indent=1)
    save_file(kept, os.path.join(out, "golden.safetensors"))
    json.dump(golden, open(os.path.join(out, "golden.json"), "w"), indent=1)
    for name, p in golden["prompts"].items():
        print(name, "margin", p["greedy_min_margin"], p["greedy_ids"])


main(*sys.argv[1:])
