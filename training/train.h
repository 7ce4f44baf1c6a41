/*
 * train.h - a training run: from a checkpoint and a data set to a checkpoint or an adapter.
 *
 *     OUT/log.jsonl            a line for each step
 *     OUT/state-STEP-RANK      what a run goes on from; OUT/latest names the step
 *     OUT/model/               at the end: the model, in Hugging Face's layout (with LoRA: when `merge`)
 *     OUT/adapter/             at the end, with LoRA: the adapter, in PEFT's layout
 *     OUT/trained.safetensors  at the end, with LoRA: what trained besides
 *     PIPELINE/                at the end, when one is wanted: the model as GGUF files that serve
 */
#ifndef TRAIN_TRAIN_H
#define TRAIN_TRAIN_H

#include "orchestration/stage_types.h"
#include "common/math/matmul.h"
#include "training/recipe.h"

#include <stdint.h>

typedef struct {
    const char *model, *data, *images, *out; /* images NULL: the data file's folder */
    const char *resume_from;                 /* adapter directory to begin with, or NULL */
    recipe recipe;                           /* with the options' numbers in it */
    int64_t steps;                           /* 0: `epochs` times the data */
    double epochs;
    int micro_batch; /* samples of one pass on one rank */
    int max_length;  /* ids of a sample; 0: what the model has */
    int frozen_type; /* -1: as stored */
    int new_layers;  /* that the language model gets behind its last */
    bool is_new; /* begin with new weights: `model` needs config.json and tokenizer.model alone */
    bool recompute, merge;
    ty_products products;       /* how matrices are multiplied */
    const char *pipeline;       /* NULL: none; with one the model is merged */
    stage_types pipeline_types; /* of its files */
    uint64_t seed;
    int save_every; /* steps */
    int readers;
} train_config;

/* Goes on from OUT/latest when there is one.  SIGINT and SIGTERM end it after the step at work, saved.
 * *finished: all steps are done and the results written. */
ty_status train(const train_config *c, ty_pool *pool, bool *finished, ty_err *err);

#endif
