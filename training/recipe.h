/*
 * recipe.h - what is trained and with which numbers: one line per stage of the two papers and their
 * released scripts.  Every number can be overridden by an option.
 */
#ifndef TRAIN_RECIPE_H
#define TRAIN_RECIPE_H

#include "training/adamw.h"

typedef enum { SCHEDULE_CONSTANT, SCHEDULE_LINEAR, SCHEDULE_COSINE } schedule_kind;

/* What the records say (sample.h), and who learns it. */
typedef enum {
    LESSON_TALK,  /* texts, with pictures or without: the whole model */
    LESSON_CELLS, /* what is in each patch: the ViT alone, under a head that is thrown away */
    LESSON_ROWS,  /* what each visual row says: ViT and abstractor, towards the LLM's embeddings */
} owl_lesson;

typedef struct {
    const char *name, *about;
    int version;        /* of the model: 1, 2, 0 = a plain LLaMA; -1 = any */
    const char *trains; /* extended expression over checkpoint names; "" = nothing but LoRA */
    int lora_rank;      /* 0: no LoRA */
    double lora_alpha, lora_dropout;
    const char *lora_target;
    adamw optimizer;
    double lr, clip;
    schedule_kind schedule;
    int warmup_steps;
    double warmup_ratio; /* of all steps, when warmup_steps is 0 */
    int batch;           /* samples of an optimizer step */
    bool augment;        /* v1's random crop and mirror */
    owl_lesson lesson;
} recipe;

/* NULL: no such recipe. */
const recipe *recipe_find(const char *name);
/* The i-th, NULL past the end. */
const recipe *recipe_at(int i);

/* The factor on the learning rate for update `step`, from 0, of `total`: warm-up from 0 in `warmup` steps,
 * then constant, linear to 0, or half a cosine to 0, as transformers' schedules. */
double schedule_factor(schedule_kind kind, int64_t step, int64_t warmup, int64_t total);

#endif
