"""PEFT (PyPI) loads an adapter that the trainer wrote, and adds what import --adapter adds.

    check_peft.py CHECKPOINT ADAPTER MERGED     MERGED: the model that `tyto-train --merge` wrote
The model class is not needed: linear layers under the checkpoint's names are enough for PEFT.
"""
import sys

import torch
from peft import PeftModel
from safetensors.torch import load_file


def main(checkpoint, adapter, merged):
    weights = torch.load(checkpoint + "/pytorch_model.bin", map_location="cpu", weights_only=True)
    root = torch.nn.Module()
    for name, w in weights.items():
        if w.dim() != 2 or "_proj." not in name or "abstractor" in name:
            continue
        module, parts = root, name.split(".")[:-1]
        for part in parts[:-1]:
            if not hasattr(module, part):
                module.add_module(part, torch.nn.Module())
            module = getattr(module, part)
        linear = torch.nn.Linear(w.shape[1], w.shape[0], bias=False)
        linear.weight.data = w.float().clone()
        module.add_module(parts[-1], linear)
    model = PeftModel.from_pretrained(root, adapter)
    loaded = [n for n, _ in model.named_parameters() if "lora_" in n]
    model = model.merge_and_unload()
    ours, worst, changed = load_file(merged + "/model.safetensors"), 0.0, 0
    for name, w in model.state_dict().items():
        changed += int((w - weights[name].float()).abs().max() > 0)
        worst = max(worst, (w - ours[name].float()).abs().max().item())
    print(f"{len(loaded)} adapter matrices loaded, {changed} layers changed, differs by at most {worst:.2g}")
    assert loaded and changed and worst < 1e-6


main(*sys.argv[1:])
