#include "training/recipe.h"

#include <math.h>
#include <stddef.h>
#include <string.h>

#define HF(decay)                                                                                  \
    { ADAMW_HF, 0.9, 0.999, 1e-8, decay }
#define TORCH(beta2, decay)                                                                        \
    { ADAMW_TORCH, 0.9, beta2, 1e-8, decay }

/* Where the released scripts have numbers, they are these (docs/training.md); the papers' stages without
 * a script have the papers' learning rate and schedule. */
static const recipe RECIPES[] = {
    {"v1-stage1",
     "mPLUG-Owl stage 1: ViT and abstractor, LLM frozen",
     1,
     "^(vision_model\\.|abstractor\\.|query_tokens)",
     0,
     0,
     NULL,
     {ADAMW_TORCH, 0.9, 0.98, 1e-6, 0.1},
     1e-4,
     1.0,
     SCHEDULE_COSINE,
     0,
     0.04,
     32,
     true},
    {"v1-stage2", "mPLUG-Owl stage 2 as released: LoRA on q and v", 1, "", 8, 32,
     ".*language_model.*\\.(q_proj|v_proj)", HF(1e-4), 2e-5, 1.0, SCHEDULE_LINEAR, 50, 0, 32, true},
    {"v1-stage2-paper", "mPLUG-Owl stage 2 as in the paper: LoRA and the abstractor", 1,
     "^(abstractor\\.|query_tokens)", 8, 32, ".*language_model.*\\.(q_proj|v_proj)", HF(1e-4), 2e-5,
     1.0, SCHEDULE_LINEAR, 50, 0, 32, true},
    {"v1-full", "the released script without LoRA: the language model alone", 1,
     "^language_model\\.", 0, 0, NULL, HF(1e-4), 1e-5, 1.0, SCHEDULE_LINEAR, 50, 0, 32, true},
    {"v2-pretrain", "mPLUG-Owl2 pre-training: ViT, abstractor, the visual copies of the LLM", 2,
     "(vision_model\\.|visual_abstractor\\.|\\.multiway\\.1\\.)", 0, 0, NULL, TORCH(0.98, 0.05),
     1e-4, 1.0, SCHEDULE_COSINE, 0, 0.03, 32, false},
    {"v2-finetune", "mPLUG-Owl2 instruction tuning: abstractor and LLM, ViT frozen", 2,
     "^(lm_head\\.|model\\.(layers|embed_tokens|norm|visual_abstractor)\\.)", 0, 0, NULL,
     TORCH(0.999, 0), 2e-5, 1.0, SCHEDULE_COSINE, 0, 0.03, 16, false},
    {"v2-lora", "mPLUG-Owl2 instruction tuning with LoRA, and the abstractor", 2,
     "visual_abstractor\\.", 128, 256, "model\\.layers\\..*", TORCH(0.999, 0), 1e-4, 1.0,
     SCHEDULE_COSINE, 0, 0.03, 16, false},
    {"all", "every parameter, of any model", -1, ".", 0, 0, NULL, TORCH(0.95, 0.1), 3e-4, 1.0,
     SCHEDULE_COSINE, 0, 0.02, 32, false},
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
