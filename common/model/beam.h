/*
 * beam.h - beam search as transformers 4.28.1 does it (BeamSearchScorer, one batch item, one group):
 * bookkeeping only; the decoder computes the logits and copies the KV.
 *
 *   ty_beam_create; each step: fill next log-probabilities for every live beam, ty_beam_step gives for
 *   each new beam the parent and token; stop when ty_beam_done; ty_beam_best.
 */
#ifndef TY_MODEL_BEAM_H
#define TY_MODEL_BEAM_H

#include "common/chat/sampling.h"
#include "common/base/err.h"

#include <stdint.h>

typedef struct ty_beam ty_beam;

/* bos counts into lengths and into what no-repeat-ngram sees, as in the reference (NOTES §8). */
ty_status ty_beam_create(ty_beam **out, const ty_sampling *s, int V, int32_t bos, int32_t eos,
                         ty_err *err);
/* Before the first step only beam 0 is live (the others start at -1e9): one row of logits is enough. */
int ty_beam_live(const ty_beam *b); /* rows of logits wanted by the next step: 1, then num_beams */

/* logits [live, V], raw (changed in place: log_softmax, then the processors, in HF's order).  Fills
 * parent[j], token[j] for j < num_beams.  Sampling inside beam search (temperature > 0 with beams) is
 * beam-sample as in HF, with draws from (seed, position). */
ty_status ty_beam_step(ty_beam *b, float *logits, int *parent, int32_t *token, ty_err *err);
int ty_beam_done(const ty_beam *b); /* by early stopping, by scores, or by max_tokens */
/* The best hypothesis: its new tokens (bos excluded, ending eos included), borrowed; *score is the
 * length-penalised score. */
const int32_t *ty_beam_best(ty_beam *b, int *n, double *score);
void ty_beam_destroy(ty_beam **b);

#endif
