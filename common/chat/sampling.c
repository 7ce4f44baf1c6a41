/* sampling.c - see sampling.h.  The ranges stand here once, for JSON, command line and wire. */
#include "common/chat/sampling.h"

#include <math.h>
#include <stddef.h>

void ty_sampling_default(ty_sampling *s) {
    *s = (ty_sampling){
        .max_tokens = 256,
        .top_p = 1,
        .repetition_penalty = 1,
        .num_beams = 1,
        .length_penalty = 1,
    };
}

typedef struct {
    const char *field;
    double value, min, max;
} range;

static ty_status check_ranges(const ty_sampling *s, const char **field, ty_err *err) {
    const range all[] = {
        {"max_tokens", s->max_tokens, 0, 1 << 20},
        {"temperature", s->temperature, 0, 100},
        {"top_k", s->top_k, 0, INT32_MAX},
        {"top_p", s->top_p, 0, 1},
        {"repetition_penalty", s->repetition_penalty, 0.01, 100},
        {"no_repeat_ngram_size", s->no_repeat_ngram_size, 0, 1 << 20},
        {"num_beams", s->num_beams, 1, TY_BEAMS_MAX},
        {"length_penalty", s->length_penalty, -100, 100},
        {"top_logprobs", s->top_logprobs, 0, TY_LOGPROBS_MAX},
        {"stop", s->n_stop, 0, TY_STOP_MAX},
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        const range *r = &all[i];
        *field = r->field;
        if (!isfinite(r->value) || r->value < r->min || r->value > r->max)
            return ty_fail(err, TY_EINVAL, "%s is %g, want %g to %g", r->field, r->value, r->min,
                           r->max);
    }
    return TY_OK;
}

ty_status ty_sampling_check(const ty_sampling *s, const char **field, ty_err *err) {
    const char *unused;
    if (!field) field = &unused;
    ty_status st = check_ranges(s, field, err);
    if (st != TY_OK) return st;
    *field = "top_logprobs";
    if (s->top_logprobs && !s->logprobs)
        return ty_fail(err, TY_EINVAL, "top_logprobs wants logprobs: true");
    *field = "logprobs";
    if (s->logprobs && s->num_beams > 1)
        return ty_fail(err, TY_EUNSUPPORTED, "logprobs are not supported with num_beams > 1");
    *field = "stop";
    for (int i = 0; i < s->n_stop; i++)
        if (!s->stop[i][0]) return ty_fail(err, TY_EINVAL, "stop[%d] is empty", i);
    *field = NULL;
    return TY_OK;
}
