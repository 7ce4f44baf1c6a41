/*
 * sampling.h - the generation parameters of a request, by OpenAI's and the reference's names.  Plain
 * data: the gateway reads it from JSON, the wire carries it, the decoder obeys it.
 */
#ifndef TY_CHAT_SAMPLING_H
#define TY_CHAT_SAMPLING_H

#include "common/base/err.h"

#include <stdbool.h>
#include <stdint.h>

enum { TY_STOP_MAX = 4, TY_STOP_BYTES = 256, TY_BEAMS_MAX = 16, TY_LOGPROBS_MAX = 20 };

typedef struct {
    int max_tokens;            /* new tokens; 0 = none (scores only) */
    double temperature;        /* 0 = greedy */
    int top_k;                 /* 0 = off */
    double top_p;              /* 1 = off */
    double repetition_penalty; /* 1 = off; sees the new tokens and bos only (NOTES §8) */
    int no_repeat_ngram_size;  /* 0 = off; the same scope */
    int num_beams;             /* 1 = no beam search */
    double length_penalty;     /* beam score = sum of logprobs / length^this */
    bool early_stopping;       /* default: true when num_beams > 1 */
    uint64_t seed;             /* with the position it gives the draw */
    bool has_seed;             /* false: the gateway draws one, so that retries repeat it */
    bool logprobs;
    int top_logprobs; /* 0..TY_LOGPROBS_MAX alternatives per token */
    bool ignore_eos;  /* load tests: go on to max_tokens */
    int n_stop;
    /* NUL-terminated UTF-8; there is room for one more, the prompt template's own */
    char stop[TY_STOP_MAX + 1][TY_STOP_BYTES];
} ty_sampling;

/* Greedy, one beam, max_tokens 256, everything else off. */
void ty_sampling_default(ty_sampling *s);
/* Are all values in range and do they go together?  TY_EINVAL or TY_EUNSUPPORTED; *field (may be NULL)
 * is then the name of the one that is wrong, as a request spells it. */
ty_status ty_sampling_check(const ty_sampling *s, const char **field, ty_err *err);

#endif
