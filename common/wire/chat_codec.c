/* chat_codec.c - see chat_codec.h. */
#include "common/wire/chat_codec.h"

#include "common/wire/message.h"

#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static ty_status no_memory(ty_err *err) {
    return ty_fail(err, TY_ENOMEM, "no memory for a decode task");
}

/* ---- sampling ---- */

static ty_status encode_stops(const ty_sampling *s, Tyto__Sampling *out) {
    for (int i = 0; i < s->n_stop; i++) {
        char *copy = strndup(s->stop[i], TY_STOP_BYTES);
        if (!copy) return TY_ENOMEM;
        ty_status st = ty_pb_append(&out->stop, &out->n_stop, copy);
        if (st != TY_OK) {
            free(copy);
            return st;
        }
    }
    return TY_OK;
}

ty_status ty_chat_codec_encode_sampling(const ty_sampling *s, Tyto__Sampling **out, ty_err *err) {
    *out = NULL;
    if (s->max_tokens < 0 || s->top_k < 0 || s->no_repeat_ngram_size < 0 || s->num_beams < 0 ||
        s->top_logprobs < 0 || s->n_stop < 0 || s->n_stop > TY_STOP_MAX)
        return ty_fail(err, TY_EINVAL, "sampling: a count is negative or over its limit");
    Tyto__Sampling *x = ty_pb_new(&tyto__sampling__descriptor);
    if (!x) return no_memory(err);
    x->max_tokens = (uint32_t)s->max_tokens;
    x->temperature = s->temperature;
    x->top_k = (uint32_t)s->top_k;
    x->top_p = s->top_p;
    x->repetition_penalty = s->repetition_penalty;
    x->no_repeat_ngram_size = (uint32_t)s->no_repeat_ngram_size;
    x->num_beams = (uint32_t)s->num_beams;
    x->length_penalty = s->length_penalty;
    x->early_stopping = s->early_stopping;
    x->seed = s->seed;
    x->logprobs = s->logprobs;
    x->top_logprobs = (uint32_t)s->top_logprobs;
    x->ignore_eos = s->ignore_eos;
    if (encode_stops(s, x) != TY_OK) {
        tyto__sampling__free_unpacked(x, NULL);
        return no_memory(err);
    }
    *out = x;
    return TY_OK;
}

static ty_status check_sampling(const Tyto__Sampling *s, ty_err *err) {
    const struct {
        const char *name;
        double value, min, max;
    } ranges[] = {
        {"max_tokens", s->max_tokens, 0, INT_MAX},
        {"temperature", s->temperature, 0, 1e6},
        {"top_k", s->top_k, 0, INT_MAX},
        {"top_p", s->top_p, 0, 1},
        {"repetition_penalty", s->repetition_penalty, 1e-6, 1e6},
        {"no_repeat_ngram_size", s->no_repeat_ngram_size, 0, INT_MAX},
        {"num_beams", s->num_beams, 1, TY_BEAMS_MAX},
        {"length_penalty", s->length_penalty, -1e6, 1e6},
        {"top_logprobs", s->top_logprobs, 0, TY_LOGPROBS_MAX},
        {"number of stop strings", (double)s->n_stop, 0, TY_STOP_MAX},
    };
    for (size_t i = 0; i < sizeof(ranges) / sizeof(ranges[0]); i++) {
        double v = ranges[i].value;
        /* Written so that a NaN fails too. */
        if (!(v >= ranges[i].min && v <= ranges[i].max))
            return ty_fail(err, TY_EINVAL, "sampling: %s is %g, want %g to %g", ranges[i].name, v,
                           ranges[i].min, ranges[i].max);
    }
    for (size_t i = 0; i < s->n_stop; i++)
        if (strlen(s->stop[i]) >= TY_STOP_BYTES)
            return ty_fail(err, TY_EINVAL, "sampling: a stop string of %zu bytes, at most %d",
                           strlen(s->stop[i]), TY_STOP_BYTES - 1);
    return TY_OK;
}

ty_status ty_chat_codec_decode_sampling(const Tyto__Sampling *s, ty_sampling *out, ty_err *err) {
    ty_status st = check_sampling(s, err);
    if (st != TY_OK) return st;
    *out = (ty_sampling){
        .max_tokens = (int)s->max_tokens,
        .temperature = s->temperature,
        .top_k = (int)s->top_k,
        .top_p = s->top_p,
        .repetition_penalty = s->repetition_penalty,
        .no_repeat_ngram_size = (int)s->no_repeat_ngram_size,
        .num_beams = (int)s->num_beams,
        .length_penalty = s->length_penalty,
        .early_stopping = s->early_stopping,
        .seed = s->seed,
        .has_seed = true,
        .logprobs = s->logprobs,
        .top_logprobs = (int)s->top_logprobs,
        .ignore_eos = s->ignore_eos,
        .n_stop = (int)s->n_stop,
    };
    for (size_t i = 0; i < s->n_stop; i++) memcpy(out->stop[i], s->stop[i], strlen(s->stop[i]) + 1);
    return TY_OK;
}

/* ---- turns ---- */

static Tyto__Part *encode_part(const ty_part *p) {
    Tyto__Part *x = ty_pb_new(&tyto__part__descriptor);
    if (!x) return NULL;
    if (p->is_video) {
        x->kind_case = TYTO__PART__KIND_VIDEO;
        x->video = 1;
        return x;
    }
    if (p->is_image) {
        x->kind_case = TYTO__PART__KIND_IMAGE;
        x->image = 1;
        return x;
    }
    /* A member of a oneof is always owned, the empty string too. */
    x->text = strdup(p->text ? p->text : "");
    if (!x->text) {
        free(x);
        return NULL;
    }
    x->kind_case = TYTO__PART__KIND_TEXT;
    return x;
}

static ty_status encode_turn(const ty_turn *t, Tyto__Turn *x) {
    ty_status st = ty_pb_set_str(&x->role, ty_role_name(t->role));
    for (int i = 0; st == TY_OK && i < t->n_part; i++) {
        Tyto__Part *p = encode_part(&t->part[i]);
        if (!p) return TY_ENOMEM;
        st = ty_pb_append(&x->parts, &x->n_parts, p);
        if (st != TY_OK) tyto__part__free_unpacked(p, NULL);
    }
    return st;
}

static ty_status encode_turns(const ty_chat_request *r, Tyto__DecodeTask *d) {
    for (int i = 0; i < r->n_turn; i++) {
        Tyto__Turn *x = ty_pb_new(&tyto__turn__descriptor);
        if (!x) return TY_ENOMEM;
        ty_status st = encode_turn(&r->turn[i], x);
        if (st == TY_OK) st = ty_pb_append(&d->turns, &d->n_turns, x);
        if (st != TY_OK) {
            tyto__turn__free_unpacked(x, NULL);
            return st;
        }
    }
    return TY_OK;
}

ty_status ty_chat_codec_encode(const ty_chat_request *r, Tyto__DecodeTask **out, ty_err *err) {
    *out = NULL;
    Tyto__DecodeTask *d = ty_pb_new(&tyto__decode_task__descriptor);
    if (!d) return no_memory(err);
    ty_status st = ty_chat_codec_encode_sampling(&r->sampling, &d->sampling, err);
    if (st != TY_OK) goto failed;
    st = r->prompt ? ty_pb_set_str(&d->prompt, r->prompt) : encode_turns(r, d);
    if (st == TY_OK) st = ty_pb_set_str(&d->template_, r->template_name);
    if (st != TY_OK) {
        no_memory(err);
        goto failed;
    }
    *out = d;
    return TY_OK;
failed:
    tyto__decode_task__free_unpacked(d, NULL);
    return st;
}

static ty_status decode_role(const char *name, ty_role *out, ty_err *err) {
    for (int r = TY_ROLE_SYSTEM; r <= TY_ROLE_ASSISTANT; r++)
        if (strcmp(name, ty_role_name((ty_role)r)) == 0) {
            *out = (ty_role)r;
            return TY_OK;
        }
    return ty_fail(err, TY_EINVAL, "decode task: role \"%.32s\" is none of system, user, assistant",
                   name);
}

static ty_status decode_part(const Tyto__Part *p, ty_chat_request *out, ty_err *err) {
    switch (p->kind_case) {
    case TYTO__PART__KIND_TEXT: return ty_chat_add_text(out, p->text, strlen(p->text), err);
    case TYTO__PART__KIND_IMAGE: return ty_chat_add_image(out, NULL, err);
    case TYTO__PART__KIND_VIDEO: return ty_chat_add_video(out, NULL, err);
    default: return ty_fail(err, TY_EINVAL, "decode task: a part is neither text, image nor video");
    }
}

static ty_status decode_turns(const Tyto__DecodeTask *t, ty_chat_request *out, ty_err *err) {
    if (t->n_turns > TY_CHAT_TURNS_MAX)
        return ty_fail(err, TY_ELIMIT, "decode task: %zu turns, at most %d", t->n_turns,
                       TY_CHAT_TURNS_MAX);
    for (size_t i = 0; i < t->n_turns; i++) {
        ty_role role = TY_ROLE_USER;
        ty_status st = decode_role(t->turns[i]->role, &role, err);
        if (st == TY_OK) st = ty_chat_add_turn(out, role, err);
        for (size_t k = 0; st == TY_OK && k < t->turns[i]->n_parts; k++)
            st = decode_part(t->turns[i]->parts[k], out, err);
        if (st != TY_OK) return st;
    }
    return TY_OK;
}

static ty_status replace(char **field, const char *value, ty_err *err) {
    char *copy = strdup(value);
    if (!copy) return no_memory(err);
    free(*field);
    *field = copy;
    return TY_OK;
}

ty_status ty_chat_codec_decode(const Tyto__DecodeTask *t, ty_chat_request *out, ty_err *err) {
    ty_status st = ty_chat_request_init(out);
    if (st != TY_OK) return no_memory(err);
    if (t->sampling) st = ty_chat_codec_decode_sampling(t->sampling, &out->sampling, err);
    if (st == TY_OK && *t->template_) st = replace(&out->template_name, t->template_, err);
    if (st == TY_OK) {
        st = t->n_turns > 0 ? decode_turns(t, out, err) : replace(&out->prompt, t->prompt, err);
    }
    if (st == TY_OK && ty_chat_request_images(out) > TY_CHAT_IMAGES_MAX)
        st = ty_fail(err, TY_ELIMIT, "decode task: %d pictures, at most %d",
                     ty_chat_request_images(out), TY_CHAT_IMAGES_MAX);
    if (st != TY_OK) ty_chat_request_clear(out);
    return st;
}

/* ---- tokens that are there already ---- */

ty_status ty_chat_codec_force(Tyto__DecodeTask *t, const Tyto__Chunk *c, ty_err *err) {
    size_t had = t->n_forced, end = (size_t)c->first + c->n_tokens;
    if (c->first > had)
        return ty_fail(err, TY_EFORMAT, "tokens %zu to %zu of the answer were lost", had,
                       (size_t)c->first - 1);
    if (end <= had) return TY_OK;
    int32_t *grown = realloc(t->forced, end * sizeof(*grown));
    if (!grown) return no_memory(err);
    t->forced = grown;
    for (size_t i = had; i < end; i++) grown[i] = c->tokens[i - c->first]->id;
    t->n_forced = end;
    return TY_OK;
}
