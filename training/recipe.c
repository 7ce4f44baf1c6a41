#include "training/recipe.h"

#include <math.h>
#include <stddef.h>
#include <string.h>

/* transformers.AdamW and torch.optim.AdamW, with the numbers that v1's and v2's scripts give them. */
#define HF                                                                                         \
    { ADAMW_HF, 0.9, 0.999, 1e-8, 1e-4 }
#define TORCH                                                                                      \
    { ADAMW_TORCH, 0.9, 0.999, 1e-8, 0 }

/* Where the released scripts have numbers, they are these (docs/training.md); the stages without a script have
 * numbers chosen here. */
static const recipe RECIPES[] = {
    {.name = "vit-cells",
     .about = "a new ViT, before stage 1: what is where, from labelled cells of pictures",
     .version = -1,
     .trains = "(^|\\.)vision_model\\.",
     .optimizer = {ADAMW_TORCH, 0.9, 0.98, 1e-6, 0.05},
     .lr = 1e-3,
     .clip = 1,
     .schedule = SCHEDULE_COSINE,
     .warmup_ratio = 0.04,
     .batch = 32,
     .lesson = LESSON_CELLS},
    {.name = "abstractor-rows",
     .about = "a new abstractor, before stage 1: each visual row the LLM's embedding of a piece",
     .version = -1,
     .trains = "(abstractor\\.|query_tokens)",
     .optimizer = {ADAMW_TORCH, 0.9, 0.98, 1e-6, 0.05},
     .lr = 1e-3,
     .clip = 1,
     .schedule = SCHEDULE_COSINE,
     .warmup_ratio = 0.04,
     .batch = 32,
     .lesson = LESSON_ROWS},
    {.name = "v1-stage1",
     .about = "mPLUG-Owl stage 1: ViT and abstractor, LLM frozen",
     .version = 1,
     .trains = "^(vision_model\\.|abstractor\\.|query_tokens)",
     .optimizer = {ADAMW_TORCH, 0.9, 0.98, 1e-6, 0.1},
     .lr = 1e-4,
     .clip = 1,
     .schedule = SCHEDULE_COSINE,
     .warmup_ratio = 0.04,
     .batch = 32,
     .augment = true},
    {.name = "v1-stage2",
     .about = "mPLUG-Owl stage 2 as released: LoRA on q and v",
     .version = 1,
     .trains = "",
     .lora_rank = 8,
     .lora_alpha = 32,
     .lora_dropout = 0.05,
     .lora_target = ".*language_model.*\\.(q_proj|v_proj)",
     .optimizer = HF,
     .lr = 2e-5,
     .clip = 1,
     .schedule = SCHEDULE_LINEAR,
     .warmup_steps = 50,
     .batch = 32,
     .augment = true},
    {.name = "v1-stage2-paper",
     .about = "mPLUG-Owl stage 2 as in the paper: LoRA and the abstractor",
     .version = 1,
     .trains = "^(abstractor\\.|query_tokens)",
     .lora_rank = 8,
     .lora_alpha = 32,
     .lora_dropout = 0.05,
     .lora_target = ".*language_model.*\\.(q_proj|v_proj)",
     .optimizer = HF,
     .lr = 2e-5,
     .clip = 1,
     .schedule = SCHEDULE_LINEAR,
     .warmup_steps = 50,
     .batch = 32,
     .augment = true},
    {.name = "v1-full",
     .about = "the released script without LoRA: the language model alone",
     .version = 1,
     .trains = "^language_model\\.",
     .optimizer = HF,
     .lr = 1e-5,
     .clip = 1,
     .schedule = SCHEDULE_LINEAR,
     .warmup_steps = 50,
     .batch = 32,
     .augment = true},
    {.name = "v2-pretrain",
     .about = "mPLUG-Owl2 pre-training: ViT, abstractor, the visual copies of the LLM",
     .version = 2,
     .trains = "(vision_model\\.|visual_abstractor\\.|\\.multiway\\.1\\.)",
     .optimizer = {ADAMW_TORCH, 0.9, 0.98, 1e-6, 0.05},
     .lr = 1e-4,
     .clip = 1,
     .schedule = SCHEDULE_COSINE,
     .warmup_ratio = 0.03,
     .batch = 32},
    {.name = "v2-finetune",
     .about = "mPLUG-Owl2 instruction tuning: abstractor and LLM, ViT frozen",
     .version = 2,
     .trains = "^(lm_head\\.|model\\.(layers|embed_tokens|norm|visual_abstractor)\\.)",
     .optimizer = TORCH,
     .lr = 2e-5,
     .clip = 1,
     .schedule = SCHEDULE_COSINE,
     .warmup_ratio = 0.03,
     .batch = 16},
    {.name = "v2-lora",
     .about = "mPLUG-Owl2 instruction tuning with LoRA, and the abstractor",
     .version = 2,
     .trains = "visual_abstractor\\.",
     .lora_rank = 128,
     .lora_alpha = 256,
     .lora_dropout = 0.05,
     /* the linear layers by name: PEFT takes the expression too, and refuses one that matches their containers */
     .lora_target = "model\\.layers\\..*((q|o|gate|up|down)_proj|(k|v)_proj\\.multiway\\.[01])",
     .optimizer = TORCH,
     .lr = 1e-4,
     .clip = 1,
     .schedule = SCHEDULE_COSINE,
     .warmup_ratio = 0.03,
     .batch = 16},
    {.name = "all",
     .about = "every parameter, of any model",
     .version = -1,
     .trains = ".",
     .optimizer = {ADAMW_TORCH, 0.9, 0.95, 1e-8, 0.1},
     .lr = 3e-4,
     .clip = 1,
     .schedule = SCHEDULE_COSINE,
     .warmup_ratio = 0.02,
     .batch = 32},
};

const recipe *recipe_at(int i) {
    return i >= 0 && (size_t)i < sizeof RECIPES / sizeof *RECIPES ? &RECIPES[i] : NULL;
}

const recipe *recipe_find(const char *name) {
    for (int i = 0; recipe_at(i); i++)
        if (strcmp(recipe_at(i)->name, name) == 0) return recipe_at(i);
    return NULL;
}

double schedule_factor(schedule_kind kind, int64_t step, int64_t warmup, int64_t total) {
    if (step < warmup) return (double)step / (double)(warmup > 1 ? warmup : 1);
    int64_t rest = total - warmup > 1 ? total - warmup : 1;
    double done = (double)(step - warmup) / (double)rest;
    if (kind == SCHEDULE_LINEAR) return done < 1 ? 1 - done : 0;
    if (kind == SCHEDULE_COSINE) return done < 1 ? 0.5 * (1 + cos(3.141592653589793 * done)) : 0;
    return 1;
}
