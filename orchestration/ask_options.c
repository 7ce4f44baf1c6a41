/* ask_options.c - see ask_options.h. */
#include "orchestration/ask_options.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

static void set_int(json_t *r, const ty_option *table, const char *flag, const char *key, int v) {
    if (ty_options_given(table, flag)) (void)json_object_set_new(r, key, json_integer(v));
}

static void set_real(json_t *r, const ty_option *table, const char *flag, const char *key,
                     double v) {
    if (ty_options_given(table, flag)) (void)json_object_set_new(r, key, json_real(v));
}

static int set_seed(json_t *r, const char *seed) {
    char *end;
    if (!seed) return 0;
    errno = 0;
    long long v = strtoll(seed, &end, 10);
    if (end == seed || *end || errno) {
        fprintf(stderr, "--seed: \"%s\" is not a whole number\n", seed);
        return -1;
    }
    return json_object_set_new(r, "seed", json_integer(v));
}

int ask_options_to_json(const ask_options *o, const ty_option *t, json_t *r) {
    set_int(r, t, "max-tokens", "max_tokens", o->max_tokens);
    set_real(r, t, "temperature", "temperature", o->temperature);
    set_int(r, t, "top-k", "top_k", o->top_k);
    set_real(r, t, "top-p", "top_p", o->top_p);
    set_real(r, t, "repetition-penalty", "repetition_penalty", o->repetition_penalty);
    set_int(r, t, "no-repeat-ngram-size", "no_repeat_ngram_size", o->no_repeat_ngram_size);
    set_int(r, t, "num-beams", "num_beams", o->num_beams);
    set_real(r, t, "length-penalty", "length_penalty", o->length_penalty);
    if (o->ignore_eos) (void)json_object_set_new(r, "ignore_eos", json_true());
    if (o->upright) (void)json_object_set_new(r, "upright", json_true());
    if (o->template_name) (void)json_object_set_new(r, "template", json_string(o->template_name));
    json_t *stops = json_array();
    for (int i = 0; i < o->stop.n; i++)
        (void)json_array_append_new(stops, json_string(o->stop.item[i]));
    if (o->stop.n > 0) (void)json_object_set(r, "stop", stops);
    json_decref(stops);
    return set_seed(r, o->seed);
}

json_t *ask_image_here(void *ctx, int i) {
    const bool *is_video = ctx;
    return json_pack("{s:s}", "type", is_video && is_video[i] ? "video" : "image");
}

json_t *ask_turn(const char *role, int n_image, json_t *(*image)(void *ctx, int i), void *ctx,
                 const char *text) {
    json_t *parts = json_array();
    int bad = 0;
    for (int i = 0; i < n_image; i++) bad |= json_array_append_new(parts, image(ctx, i));
    if (text)
        bad |= json_array_append_new(parts, json_pack("{s:s, s:s}", "type", "text", "text", text));
    if (bad) {
        json_decref(parts);
        return NULL;
    }
    return json_pack("{s:s, s:o}", "role", role, "content", parts);
}

ty_status ask_parse(const json_t *request, ty_chat_request *out, ty_err *err) {
    char *text = json_dumps(request, JSON_COMPACT);
    if (!text) return ty_fail(err, TY_ENOMEM, "out of memory for the request");
    char param[256] = "";
    ty_status st = ty_chat_request_parse(out, text, strlen(text), false, param, sizeof(param), err);
    free(text);
    return st;
}

ty_status ask_draw_seed(ty_chat_request *r, ty_err *err) {
    if (r->sampling.has_seed || r->sampling.temperature <= 0) return TY_OK;
    uint64_t seed;
    if (getrandom(&seed, sizeof(seed), 0) != (ssize_t)sizeof(seed))
        return ty_fail(err, TY_EIO, "getrandom: %s", strerror(errno));
    r->sampling.seed = seed >> 1; /* a JSON integer holds 63 bits */
    r->sampling.has_seed = true;
    return TY_OK;
}
