/*
 * request_json.c - a chat request from OpenAI's chat-completions JSON, with the reference's names for
 * what OpenAI lacks.
 *
 * Nothing is ignored: each field that a body may hold stands in `fields` with the function that reads
 * it, or with one that refuses all but the value that means "as if it were absent".  null is absent.
 * docs/protocol.md ("Request fields") is this table in words.
 */
#include "common/chat/request.h"

#include <jansson.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    ty_chat_request *r;
    bool strict;
    bool has_messages, has_temperature, has_num_beams, has_early_stopping, has_stream_options;
    bool beams_are_stored; /* early_stopping and num_beams come from an earlier turn */
    int do_sample;         /* -1 absent */
    int64_t max_tokens;    /* -1 absent */
    const char *max_name;  /* which of its names gave it */
    char path[256];        /* of the value at hand */
    ty_err *err;
} reader;

typedef struct {
    const char *name;
    ty_status (*read)(reader *c, const json_t *v);
} field;

__attribute__((format(printf, 3, 4))) static ty_status bad(reader *c, ty_status code,
                                                           const char *fmt, ...) {
    char text[400];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    return ty_fail(c->err, code, "%s%s%s", c->path, *c->path ? " " : "", text);
}

/* Goes down one level of the path; the caller keeps the length to come back with. */
__attribute__((format(printf, 2, 3))) static size_t enter(reader *c, const char *fmt, ...) {
    size_t before = strlen(c->path);
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(c->path + before, sizeof c->path - before, fmt, ap);
    va_end(ap);
    return before;
}

/* What can be shown of a client's word, which may be long and hold anything. */
typedef struct {
    char text[49];
} shown;

static shown show(const char *word) {
    shown s = {""};
    for (size_t i = 0; i < sizeof s.text - 1 && word[i]; i++)
        s.text[i] = (unsigned char)word[i] < 0x20 || (unsigned char)word[i] > 0x7E ? '?' : word[i];
    return s;
}

static size_t enter_key(reader *c, const char *key) {
    return enter(c, "%s%s", *c->path ? "." : "", show(key).text);
}

/* Values. */

static ty_status get_number(reader *c, const json_t *v, double *out) {
    if (!json_is_number(v)) return bad(c, TY_EINVAL, "must be a number");
    *out = json_number_value(v);
    return TY_OK;
}

static ty_status get_int(reader *c, const json_t *v, int64_t *out) {
    if (json_is_integer(v)) {
        *out = json_integer_value(v);
        return TY_OK;
    }
    double x = json_is_real(v) ? json_real_value(v) : (double)NAN;
    if (!(fabs(x) <= 9007199254740992.0) || x != floor(x))
        return bad(c, TY_EINVAL, "must be a whole number");
    *out = (int64_t)x;
    return TY_OK;
}

/* An int out of an int's range is out of every field's range. */
static ty_status get_small(reader *c, const json_t *v, int *out) {
    int64_t x = 0;
    ty_status st = get_int(c, v, &x);
    if (st != TY_OK) return st;
    if (x < INT32_MIN || x > INT32_MAX)
        return bad(c, TY_EINVAL, "is out of range: %lld", (long long)x);
    *out = (int)x;
    return TY_OK;
}

static ty_status get_bool(reader *c, const json_t *v, bool *out) {
    if (!json_is_boolean(v)) return bad(c, TY_EINVAL, "must be true or false");
    *out = json_is_true(v);
    return TY_OK;
}

static ty_status get_text(reader *c, const json_t *v, char **out) {
    if (!json_is_string(v)) return bad(c, TY_EINVAL, "must be a string");
    char *copy = strdup(json_string_value(v));
    if (!copy) return bad(c, TY_ENOMEM, "out of memory");
    free(*out);
    *out = copy;
    return TY_OK;
}

/* Refused unless the value is the one that changes nothing. */
static ty_status must(reader *c, bool harmless, const char *only) {
    if (harmless) return TY_OK;
    return bad(c, TY_EUNSUPPORTED, "is not supported%s%s", *only ? ": only " : "", only);
}

static bool is_empty(const json_t *v) {
    return (json_is_array(v) && !json_array_size(v)) || (json_is_object(v) && !json_object_size(v));
}

static bool is_text(const json_t *v, const char *want) {
    return json_is_string(v) && strcmp(json_string_value(v), want) == 0;
}

/* Every key of an object through a table. */
static ty_status read_object(reader *c, const json_t *v, const field *table) {
    if (!json_is_object(v)) return bad(c, TY_EINVAL, "must be an object");
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)v, key, value) {
        const field *f = table;
        while (f->name && strcmp(f->name, key) != 0) f++;
        if (json_is_null(value) && f->name) continue;
        size_t level = enter_key(c, key);
        ty_status st =
            f->name ? f->read(c, value) : bad(c, TY_EUNSUPPORTED, "is not a known field");
        if (st != TY_OK) return st;
        c->path[level] = '\0';
    }
    return TY_OK;
}

/* Messages. */

static ty_status only_key(reader *c, const json_t *v, const char *name) {
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)v, key, value) {
        if (strcmp(key, name) == 0 || json_is_null(value)) continue;
        enter_key(c, key);
        return bad(c, TY_EUNSUPPORTED, "is not a known field");
    }
    return TY_OK;
}

static ty_status read_image_url(reader *c, const json_t *v) {
    size_t level = enter(c, ".image_url");
    if (!json_is_object(v)) return bad(c, TY_EINVAL, "must be an object with a url");
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)v, key, value) {
        size_t inner = enter_key(c, key);
        /* Every picture takes the same way and size, so a known detail changes nothing. */
        if (strcmp(key, "detail") == 0) {
            if (!json_is_null(value) && !is_text(value, "auto") && !is_text(value, "low") &&
                !is_text(value, "high"))
                return bad(c, TY_EINVAL, "must be auto, low or high");
        } else if (strcmp(key, "url") != 0) {
            return bad(c, TY_EUNSUPPORTED, "is not a known field");
        }
        c->path[inner] = '\0';
    }
    size_t inner = enter(c, ".url");
    const char *url = json_string_value(json_object_get(v, "url"));
    if (!url || !*url) return bad(c, TY_EINVAL, "must be a string, a data: URL of a picture");
    c->path[inner] = '\0';
    ty_status st = ty_chat_add_image(c->r, url, c->err);
    if (st == TY_OK) c->path[level] = '\0';
    return st;
}

static ty_status read_video_url(reader *c, const json_t *v) {
    size_t level = enter(c, ".video_url");
    if (!json_is_object(v)) return bad(c, TY_EINVAL, "must be an object with a url");
    ty_status st = only_key(c, v, "url");
    if (st != TY_OK) return st;
    size_t inner = enter(c, ".url");
    const char *url = json_string_value(json_object_get(v, "url"));
    if (!url || !*url) return bad(c, TY_EINVAL, "must be a string, a data: URL of a video");
    c->path[inner] = '\0';
    st = ty_chat_add_video(c->r, url, c->err);
    if (st == TY_OK) c->path[level] = '\0';
    return st;
}

/* ".image_file" or ".video_file" */
static ty_status read_file(reader *c, const char *name, bool video, const json_t *v) {
    size_t level = enter(c, "%s", name);
    if (!json_is_object(v)) return bad(c, TY_EINVAL, "must be an object with a file_id");
    ty_status st = only_key(c, v, "file_id");
    if (st != TY_OK) return st;
    const char *id = json_string_value(json_object_get(v, "file_id"));
    enter(c, ".file_id");
    if (!id || strlen(id) != 64 || strspn(id, "0123456789abcdef") != 64)
        return bad(c, TY_EINVAL, "must be an id that POST /v1/files gave: 64 hex digits");
    st = ty_chat_add_file(c->r, video, id, c->err);
    if (st == TY_OK) c->path[level] = '\0';
    return st;
}

static ty_status read_text_part(reader *c, const json_t *v) {
    size_t level = enter(c, ".text");
    if (!json_is_string(v)) return bad(c, TY_EINVAL, "must be a string");
    ty_status st = ty_chat_add_text(c->r, json_string_value(v), json_string_length(v), c->err);
    if (st == TY_OK) c->path[level] = '\0';
    return st;
}

static ty_status only_keys(reader *c, const json_t *v, const char *payload) {
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)v, key, value) {
        if (strcmp(key, "type") == 0 || strcmp(key, payload) == 0 || json_is_null(value)) continue;
        enter_key(c, key);
        return bad(c, TY_EUNSUPPORTED, "does not belong to a part of this type");
    }
    return TY_OK;
}

static ty_status read_part(reader *c, const json_t *v) {
    if (!json_is_object(v)) return bad(c, TY_EINVAL, "must be an object with a type");
    const char *type = json_string_value(json_object_get(v, "type"));
    ty_status st = TY_OK;
    if (type && strcmp(type, "text") == 0) {
        st = only_keys(c, v, "text");
        return st == TY_OK ? read_text_part(c, json_object_get(v, "text")) : st;
    }
    if (type && strcmp(type, "image_url") == 0) {
        st = only_keys(c, v, "image_url");
        return st == TY_OK ? read_image_url(c, json_object_get(v, "image_url")) : st;
    }
    if (type && strcmp(type, "video_url") == 0) {
        st = only_keys(c, v, "video_url");
        return st == TY_OK ? read_video_url(c, json_object_get(v, "video_url")) : st;
    }
    if (type && strcmp(type, "image_file") == 0 && c->strict) {
        st = only_keys(c, v, "image_file");
        return st == TY_OK ? read_file(c, ".image_file", false, json_object_get(v, "image_file"))
                           : st;
    }
    if (type && strcmp(type, "video_file") == 0 && c->strict) {
        st = only_keys(c, v, "video_file");
        return st == TY_OK ? read_file(c, ".video_file", true, json_object_get(v, "video_file"))
                           : st;
    }
    bool video = type && strcmp(type, "video") == 0;
    if (type && (video || strcmp(type, "image") == 0) && !c->strict) {
        st = only_keys(c, v, "");
        return st == TY_OK ? (video ? ty_chat_add_video : ty_chat_add_image)(c->r, NULL, c->err)
                           : st;
    }
    enter(c, ".type");
    if (!type) return bad(c, TY_EINVAL, "must be \"text\" or \"image_url\"");
    return bad(c, TY_EUNSUPPORTED,
               "is \"%s\"; supported are \"text\", \"image_url\" and \"video_url\"%s",
               show(type).text, c->strict ? ", \"image_file\" and \"video_file\"" : "");
}

static ty_status read_content(reader *c, const json_t *v) {
    size_t level = enter(c, ".content");
    if (json_is_string(v)) {
        ty_status st = ty_chat_add_text(c->r, json_string_value(v), json_string_length(v), c->err);
        if (st == TY_OK) c->path[level] = '\0';
        return st;
    }
    if (!json_is_array(v) || !json_array_size(v))
        return bad(c, TY_EINVAL, "must be a string, or an array of at least one part");
    for (size_t i = 0; i < json_array_size(v); i++) {
        size_t inner = enter(c, "[%zu]", i);
        ty_status st = read_part(c, json_array_get(v, i));
        if (st != TY_OK) return st;
        c->path[inner] = '\0';
    }
    c->path[level] = '\0';
    return TY_OK;
}

static ty_status read_role(reader *c, const json_t *v, ty_role *role) {
    size_t level = enter(c, ".role");
    const char *name = json_string_value(v);
    if (!name) return bad(c, TY_EINVAL, "must be \"system\", \"user\" or \"assistant\"");
    if (strcmp(name, "system") == 0 || strcmp(name, "developer") == 0)
        *role = TY_ROLE_SYSTEM;
    else if (strcmp(name, "user") == 0)
        *role = TY_ROLE_USER;
    else if (strcmp(name, "assistant") == 0)
        *role = TY_ROLE_ASSISTANT;
    else
        return bad(c, TY_EUNSUPPORTED,
                   "is \"%s\"; supported are system, developer, user and assistant",
                   show(name).text);
    c->path[level] = '\0';
    return TY_OK;
}

/* A reply that a client sends back may carry empty fields of OpenAI's answer. */
static ty_status message_keys(reader *c, const json_t *v) {
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)v, key, value) {
        if (strcmp(key, "role") == 0 || strcmp(key, "content") == 0) continue;
        if (json_is_null(value) || is_empty(value)) continue;
        enter_key(c, key);
        return bad(c, TY_EUNSUPPORTED, "is not supported in a message");
    }
    return TY_OK;
}

static ty_status read_message(reader *c, const json_t *v) {
    ty_role role = TY_ROLE_USER;
    if (!json_is_object(v)) return bad(c, TY_EINVAL, "must be an object");
    ty_status st = message_keys(c, v);
    if (st == TY_OK) st = read_role(c, json_object_get(v, "role"), &role);
    if (st == TY_OK) st = ty_chat_add_turn(c->r, role, c->err);
    if (st == TY_OK) st = read_content(c, json_object_get(v, "content"));
    return st;
}

static ty_status read_messages(reader *c, const json_t *v) {
    if (!json_is_array(v) || !json_array_size(v))
        return bad(c, TY_EINVAL, "must be an array of at least one message");
    c->has_messages = true;
    for (size_t i = 0; i < json_array_size(v); i++) {
        size_t level = enter(c, "[%zu]", i);
        ty_status st = read_message(c, json_array_get(v, i));
        if (st != TY_OK) return st;
        c->path[level] = '\0';
    }
    return TY_OK;
}

static ty_status read_prompt(reader *c, const json_t *v) {
    if (c->strict) return bad(c, TY_EUNSUPPORTED, "is not supported here: send messages");
    return get_text(c, v, &c->r->prompt);
}

static ty_status read_conversation(reader *c, const json_t *v) {
    if (!c->strict) return bad(c, TY_EUNSUPPORTED, "is not supported here: send all messages");
    ty_status st = get_text(c, v, &c->r->conversation);
    if (st == TY_OK && !*c->r->conversation)
        return bad(c, TY_EINVAL, "must be \"new\" or a conversation's id");
    return st;
}

static ty_status read_template(reader *c, const json_t *v) {
    ty_status st = get_text(c, v, &c->r->template_name);
    if (st == TY_OK && !ty_chat_template_known(c->r->template_name))
        return bad(c, TY_EUNSUPPORTED, "is \"%s\"; known are \"readme\" and \"serve\"",
                   show(c->r->template_name).text);
    return st;
}

/* Sampling.  The ranges are ty_sampling_check's. */

static ty_status read_model(reader *c, const json_t *v) {
    return get_text(c, v, &c->r->model);
}
static ty_status read_temperature(reader *c, const json_t *v) {
    c->has_temperature = true;
    ty_status st = get_number(c, v, &c->r->sampling.temperature);
    if (st == TY_OK && c->r->sampling.temperature > 2)
        return bad(c, TY_EINVAL, "is %g, want 0 to 2", c->r->sampling.temperature);
    return st;
}
static ty_status read_top_k(reader *c, const json_t *v) {
    return get_small(c, v, &c->r->sampling.top_k);
}
static ty_status read_top_p(reader *c, const json_t *v) {
    return get_number(c, v, &c->r->sampling.top_p);
}
static ty_status read_repetition_penalty(reader *c, const json_t *v) {
    return get_number(c, v, &c->r->sampling.repetition_penalty);
}
static ty_status read_no_repeat_ngram_size(reader *c, const json_t *v) {
    return get_small(c, v, &c->r->sampling.no_repeat_ngram_size);
}
static ty_status read_num_beams(reader *c, const json_t *v) {
    c->has_num_beams = true;
    return get_small(c, v, &c->r->sampling.num_beams);
}
static ty_status read_length_penalty(reader *c, const json_t *v) {
    return get_number(c, v, &c->r->sampling.length_penalty);
}
static ty_status read_early_stopping(reader *c, const json_t *v) {
    c->has_early_stopping = true;
    return get_bool(c, v, &c->r->sampling.early_stopping);
}
static ty_status read_ignore_eos(reader *c, const json_t *v) {
    return get_bool(c, v, &c->r->sampling.ignore_eos);
}
static ty_status read_upright(reader *c, const json_t *v) {
    return get_bool(c, v, &c->r->upright);
}
static ty_status read_logprobs(reader *c, const json_t *v) {
    return get_bool(c, v, &c->r->sampling.logprobs);
}
static ty_status read_top_logprobs(reader *c, const json_t *v) {
    return get_small(c, v, &c->r->sampling.top_logprobs);
}

static ty_status read_seed(reader *c, const json_t *v) {
    int64_t seed = 0;
    ty_status st = get_int(c, v, &seed);
    c->r->sampling.seed = (uint64_t)seed;
    c->r->sampling.has_seed = true;
    return st;
}

static ty_status read_do_sample(reader *c, const json_t *v) {
    bool yes = false;
    ty_status st = get_bool(c, v, &yes);
    c->do_sample = yes;
    return st;
}

static ty_status read_max(reader *c, const json_t *v, const char *name) {
    int64_t n = 0;
    ty_status st = get_int(c, v, &n);
    if (st != TY_OK) return st;
    if (n < (c->strict ? 1 : 0) || n > 1 << 20)
        return bad(c, TY_EINVAL, "is %lld, want %d to %d", (long long)n, c->strict ? 1 : 0,
                   1 << 20);
    if (c->max_tokens >= 0 && c->max_tokens != n)
        return bad(c, TY_EINVAL, "is %lld, but %s is %lld: they mean the same", (long long)n,
                   c->max_name, (long long)c->max_tokens);
    c->max_tokens = n;
    c->max_name = name;
    c->r->sampling.max_tokens = (int)n;
    return TY_OK;
}
static ty_status read_max_tokens(reader *c, const json_t *v) {
    return read_max(c, v, "max_tokens");
}
static ty_status read_max_completion_tokens(reader *c, const json_t *v) {
    return read_max(c, v, "max_completion_tokens");
}
static ty_status read_max_new_tokens(reader *c, const json_t *v) {
    return read_max(c, v, "max_new_tokens");
}

static ty_status add_stop(reader *c, const json_t *v) {
    ty_sampling *s = &c->r->sampling;
    if (!json_is_string(v)) return bad(c, TY_EINVAL, "must be a string");
    if (!json_string_length(v)) return bad(c, TY_EINVAL, "is empty");
    if (s->n_stop == TY_STOP_MAX) return bad(c, TY_EINVAL, "is more than %d strings", TY_STOP_MAX);
    if (json_string_length(v) >= TY_STOP_BYTES)
        return bad(c, TY_ELIMIT, "is longer than %d bytes", TY_STOP_BYTES - 1);
    memcpy(s->stop[s->n_stop++], json_string_value(v), json_string_length(v) + 1);
    return TY_OK;
}

static ty_status read_stop(reader *c, const json_t *v) {
    c->r->sampling.n_stop = 0;
    if (json_is_string(v)) return add_stop(c, v);
    if (!json_is_array(v)) return bad(c, TY_EINVAL, "must be a string or an array of strings");
    if (json_array_size(v) > TY_STOP_MAX)
        return bad(c, TY_EINVAL, "has %zu strings, at most %d are allowed", json_array_size(v),
                   TY_STOP_MAX);
    for (size_t i = 0; i < json_array_size(v); i++) {
        size_t level = enter(c, "[%zu]", i);
        ty_status st = add_stop(c, json_array_get(v, i));
        if (st != TY_OK) return st;
        c->path[level] = '\0';
    }
    return TY_OK;
}

/* The stream. */

static ty_status read_stream(reader *c, const json_t *v) {
    return get_bool(c, v, &c->r->stream);
}
static ty_status read_include_usage(reader *c, const json_t *v) {
    return get_bool(c, v, &c->r->include_usage);
}
static ty_status read_stream_options(reader *c, const json_t *v) {
    static const field table[] = {{"include_usage", read_include_usage}, {NULL, NULL}};
    c->has_stream_options = true;
    return read_object(c, v, table);
}

/* Fields with one harmless value. */

static ty_status only_one(reader *c, const json_t *v) {
    return must(c, json_is_number(v) && json_number_value(v) == 1, "1");
}
static ty_status only_zero(reader *c, const json_t *v) {
    return must(c, json_is_number(v) && json_number_value(v) == 0, "0");
}
static ty_status only_false(reader *c, const json_t *v) {
    return must(c, json_is_false(v), "false");
}
static ty_status only_empty(reader *c, const json_t *v) {
    return must(c, is_empty(v), "an empty one");
}
static ty_status only_none(reader *c, const json_t *v) {
    return must(c, is_text(v, "none"), "\"none\"");
}
static ty_status only_auto(reader *c, const json_t *v) {
    return must(c, is_text(v, "auto") || is_text(v, "default"), "\"auto\" and \"default\"");
}
static ty_status only_absent(reader *c, const json_t *v) {
    (void)v;
    return must(c, false, "");
}
static ty_status only_text_format(reader *c, const json_t *v) {
    return must(c, json_object_size(v) == 1 && is_text(json_object_get(v, "type"), "text"),
                "{\"type\": \"text\"}");
}
static ty_status only_text_modality(reader *c, const json_t *v) {
    return must(c, json_array_size(v) == 1 && is_text(json_array_get(v, 0), "text"), "[\"text\"]");
}
/* Labels for the caller's own books: nothing here depends on them. */
static ty_status label(reader *c, const json_t *v) {
    return json_is_string(v) ? TY_OK : bad(c, TY_EINVAL, "must be a string");
}
static ty_status labels(reader *c, const json_t *v) {
    return json_is_object(v) ? TY_OK : bad(c, TY_EINVAL, "must be an object");
}

static const field fields[] = {
    {"model", read_model},
    {"messages", read_messages},
    {"prompt", read_prompt},
    {"conversation", read_conversation},
    {"template", read_template},
    {"max_tokens", read_max_tokens},
    {"max_completion_tokens", read_max_completion_tokens},
    {"max_new_tokens", read_max_new_tokens},
    {"temperature", read_temperature},
    {"do_sample", read_do_sample},
    {"top_k", read_top_k},
    {"top_p", read_top_p},
    {"repetition_penalty", read_repetition_penalty},
    {"no_repeat_ngram_size", read_no_repeat_ngram_size},
    {"num_beams", read_num_beams},
    {"length_penalty", read_length_penalty},
    {"early_stopping", read_early_stopping},
    {"seed", read_seed},
    {"stop", read_stop},
    {"ignore_eos", read_ignore_eos},
    {"upright", read_upright},
    {"logprobs", read_logprobs},
    {"top_logprobs", read_top_logprobs},
    {"stream", read_stream},
    {"stream_options", read_stream_options},
    {"n", only_one},
    {"best_of", only_one},
    {"frequency_penalty", only_zero},
    {"presence_penalty", only_zero},
    {"store", only_false},
    {"logit_bias", only_empty},
    {"tools", only_empty},
    {"functions", only_empty},
    {"tool_choice", only_none},
    {"function_call", only_none},
    {"response_format", only_text_format},
    {"modalities", only_text_modality},
    {"service_tier", only_auto},
    {"user", label},
    {"safety_identifier", label},
    {"prompt_cache_key", label},
    {"metadata", labels},
    {"audio", only_absent},
    {"parallel_tool_calls", only_absent},
    {"prediction", only_absent},
    {"reasoning_effort", only_absent},
    {"verbosity", only_absent},
    {"web_search_options", only_absent},
    {NULL, NULL},
};

/* What the fields say together. */

/* do_sample is the reference's switch: false is greedy whatever the temperature. */
static ty_status settle_sampling(reader *c) {
    ty_sampling *s = &c->r->sampling;
    const char *wrong = NULL;
    ty_status st = ty_sampling_check(s, &wrong, c->err);
    if (st != TY_OK) {
        c->path[0] = '\0';
        enter(c, "%s", wrong && strcmp(wrong, "max_tokens") != 0 ? wrong : c->max_name);
        return st;
    }
    if (c->do_sample == 1 && c->has_temperature && s->temperature <= 0) {
        enter(c, "temperature");
        return bad(c, TY_EINVAL, "is 0, but do_sample is true");
    }
    if (c->do_sample == 1 && !c->has_temperature && s->temperature <= 0) s->temperature = 1;
    if (c->do_sample == 0) s->temperature = 0;
    bool kept = c->beams_are_stored && !c->has_num_beams;
    if (!c->has_early_stopping && !kept) s->early_stopping = s->num_beams > 1;
    return TY_OK;
}

static ty_status settle_turns(reader *c) {
    if (c->has_messages && c->r->prompt) {
        enter(c, "prompt");
        return bad(c, TY_EINVAL, "and messages exclude each other");
    }
    if (c->r->prompt && *c->r->template_name) {
        enter(c, "template");
        return bad(c, TY_EINVAL, "goes with messages: a prompt is taken as it stands");
    }
    if (!c->has_messages && !c->r->prompt) {
        enter(c, "messages");
        return bad(c, TY_EINVAL, c->strict ? "is missing" : "is missing, and so is prompt");
    }
    int turn = -1;
    ty_status st = ty_chat_request_check(c->r, &turn, c->err);
    if (st == TY_OK) return st;
    if (turn >= 0 && turn < c->r->n_stored) {
        enter(c, "conversation");
    } else {
        enter(c, "messages");
        if (turn >= 0) enter(c, "[%d].content", turn - c->r->n_stored);
    }
    ty_err_context(c->err, "%s", c->path);
    return st;
}

static ty_status settle(reader *c) {
    bool goes_on = *c->r->conversation && strcmp(c->r->conversation, "new") != 0;
    if (c->strict && !*c->r->model && !goes_on) {
        enter(c, "model");
        return bad(c, TY_EINVAL, "is missing: name one of those that GET /v1/models lists");
    }
    if (c->has_stream_options && !c->r->stream) {
        enter(c, "stream_options");
        return bad(c, TY_EINVAL, "needs stream: true");
    }
    ty_status st = settle_turns(c);
    return st == TY_OK ? settle_sampling(c) : st;
}

/* What the conversation brings: afterwards the reader is as before the first field, but its values are others. */
static ty_status read_stored(reader *c, const json_t *turns, const json_t *params) {
    ty_status st = params ? read_object(c, params, fields) : TY_OK;
    c->beams_are_stored = c->has_num_beams && c->has_early_stopping;
    c->has_temperature = c->has_num_beams = c->has_early_stopping = false;
    c->max_tokens = -1;
    for (size_t i = 0; st == TY_OK && i < json_array_size(turns); i++) {
        const json_t *t = json_array_get(turns, i);
        ty_role role = TY_ROLE_USER;
        st = read_role(c, json_object_get(t, "role"), &role);
        if (st == TY_OK) st = ty_chat_add_turn(c->r, role, c->err);
        if (st == TY_OK) st = read_content(c, json_object_get(t, "content"));
    }
    c->r->n_stored = c->r->n_turn;
    if (st != TY_OK) snprintf(c->path, sizeof c->path, "conversation");
    return st;
}

static ty_status parse(reader *c, const char *json, size_t len, const json_t *turns,
                       const json_t *params) {
    json_error_t where;
    c->max_name = "max_tokens";
    c->do_sample = -1;
    c->max_tokens = -1;
    ty_status st = read_stored(c, turns, params);
    if (st != TY_OK) return st;
    json_t *body = json_loadb(json, len, JSON_REJECT_DUPLICATES, &where);
    if (!body)
        st = ty_fail(c->err, TY_EFORMAT, "the body is not valid JSON: line %d column %d: %s",
                     where.line, where.column, where.text);
    else if (!json_is_object(body))
        st = ty_fail(c->err, TY_EFORMAT, "the body must be a JSON object");
    if (st == TY_OK) st = read_object(c, body, fields);
    if (st == TY_OK) st = settle(c);
    json_decref(body);
    return st;
}

static ty_status parse_into(reader *c, const char *json, size_t len, const json_t *turns,
                            const json_t *params, char *param, size_t param_size) {
    if (param_size) param[0] = '\0';
    ty_status st = ty_chat_request_init(c->r);
    if (st != TY_OK) return ty_fail(c->err, st, "out of memory");
    st = parse(c, json, len, turns, params);
    if (st == TY_OK) return st;
    if (param_size) snprintf(param, param_size, "%s", c->path);
    ty_chat_request_clear(c->r);
    return st;
}

ty_status ty_chat_request_parse(ty_chat_request *out, const char *json, size_t len, bool strict,
                                char *param, size_t param_size, ty_err *err) {
    reader c = {.r = out, .strict = strict, .err = err};
    return parse_into(&c, json, len, NULL, NULL, param, param_size);
}

ty_status ty_chat_request_parse_turn(ty_chat_request *out, const char *json, size_t len,
                                     const json_t *turns, const json_t *params, char *param,
                                     size_t param_size, ty_err *err) {
    reader c = {.r = out, .strict = true, .err = err};
    return parse_into(&c, json, len, turns, params, param, param_size);
}
