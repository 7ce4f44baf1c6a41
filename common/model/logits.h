/*
 * logits.h - from logits to the next token: Hugging Face's processors and warpers in their order
 * (repetition penalty, no-repeat-ngram, temperature, top-k, top-p), a counter-based draw, logprobs.
 * Pure functions over one row [V]; golden: `sampling` in golden.json.
 */
#ifndef TY_MODEL_LOGITS_H
#define TY_MODEL_LOGITS_H

#include "common/chat/sampling.h"
#include "common/base/err.h"

#include <stdint.h>

/* In place.  seen: bos and the new tokens so far (never the prompt, NOTES §8). */
void ty_logits_repetition_penalty(float *logits, int V, const int32_t *seen, int n, double penalty);
void ty_logits_no_repeat_ngram(float *logits, int V, const int32_t *seen, int n, int ngram);

/* The lowest id among the largest. */
int32_t ty_logits_argmax(const float *logits, int V);
/* log softmax of one id: logits[id] - logsumexp. */
double ty_logits_logsumexp(const float *logits, int V);

typedef struct {
    int32_t id;
    float p; /* probability, or logprob where said so */
} ty_candidate;

/* Temperature, top-k, top-p: what is left, largest first (ties by lower id), `p` the logit divided by
 * the temperature.  min_keep: so many are never removed (1; 2 in beam search).  out has room for V. */
int ty_logits_keep(const float *logits, int V, const ty_sampling *s, int min_keep,
                   ty_candidate *out);
/* Temperature, top-k, top-p, softmax: candidates with p > 0, most probable first, ties by lower id.
 * out has room for V; returns how many. */
int ty_logits_warp(const float *logits, int V, const ty_sampling *s, ty_candidate *out);
/* The n largest log-probabilities. */
int ty_logits_top(const float *logits, int V, int n, ty_candidate *out);

/* Uniform in [0,1) from (seed, position): Philox4x32-10 (Salmon et al. 2011).  `position` counts new
 * tokens, so any decoder draws the same. */
double ty_draw(uint64_t seed, uint64_t position);
/* One token: greedy for temperature 0, else a draw from ty_logits_warp.  scratch: room for V. */
int32_t ty_logits_pick(const float *logits, int V, const ty_sampling *s, uint64_t position,
                       ty_candidate *scratch);

#endif
