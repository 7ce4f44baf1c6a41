/*
 * sample.h - a record of the reference's training data, tokenised and masked as the reference does
 * (docs/training.md).
 *
 *   v1  {"image": [paths], "text": "...Human: <image>\nHuman: ...\nAI: ...", "task_type": "..."}, one a line
 *   v2  [{"id": "...", "image": "path", "conversations": [{"from": "human"|"gpt", "value": "..."}]}]
 *   text alone  {"text": "..."} for a plain LLaMA: every token is learnt
 *   cells  {"image": "path", "cells": ["0000.1...", ...]} for a ViT alone: what is in each patch, row by row, a text for
 *          each thing that can be said of one; letters '0' to 'o' are classes 0 to 63, '.' is not learnt
 *   rows   {"image": "path", "rows": [" cat", " red", "4", ...]} for a new abstractor: what each visual row says, the row
 *          behind the queries included; each one piece of the tokenizer, with its space
 */
#ifndef TRAIN_SAMPLE_H
#define TRAIN_SAMPLE_H

#include "common/model/tokenizer.h"
#include "training/recipe.h"

#include <jansson.h>

enum { SAMPLE_PICTURES = 16, SAMPLE_CLASSES = 64 };

typedef struct {
    int32_t *id,
        *label; /* [n]: OWL_IGNORE where nothing is learnt.  Of cells and rows: no ids; of cells text by text */
    int n, n_target;
    int n_picture;
    char *picture[SAMPLE_PICTURES]; /* paths as the record has them */
} sample;

typedef struct {
    const ty_tokenizer *tokenizer;
    int version;     /* owl.h's */
    int visual_rows; /* Q + 1 */
    int max_length;  /* ids; longer samples are cut */
    owl_lesson lesson;
    int cells; /* patches of a picture */
} sample_rules;

/* Fails: TY_EFORMAT (says which field is wrong), TY_ENOMEM.  A sample with nothing to learn is no
 * failure: n_target is 0. */
ty_status sample_make(sample *s, const sample_rules *rules, const json_t *record, ty_err *err);
void sample_clear(sample *s);

#endif
