#include "services/decoder/answer.h"

#include "common/base/utf8.h"

#include <stdlib.h>
#include <string.h>

enum { ANSWER_BYTES_MAX = 64 << 20 };

struct answer {
    const ty_tokenizer *tokenizer;
    const ty_sampling *s;
    ty_detok *detok;
    ty_buf text;
    size_t searched; /* text before it was searched for stop strings */
    size_t sent;     /* text before it was handed out */
    bool stopped;
};

ty_status answer_create(answer **out, const ty_tokenizer *t, const ty_sampling *s, ty_err *err) {
    *out = NULL;
    answer *a = calloc(1, sizeof(*a));
    if (!a) return ty_fail(err, TY_ENOMEM, "no memory for an answer");
    a->tokenizer = t;
    a->s = s;
    a->text = ty_buf_make(ANSWER_BYTES_MAX);
    ty_status st = ty_detok_create(&a->detok, t, err);
    if (st != TY_OK) {
        answer_destroy(&a);
        return st;
    }
    *out = a;
    return TY_OK;
}

void answer_destroy(answer **a) {
    if (!*a) return;
    ty_detok_destroy(&(*a)->detok);
    ty_buf_clear(&(*a)->text);
    free(*a);
    *a = NULL;
}

/* A NUL (byte token 0) cannot travel in a string: it becomes U+FFFD here, so that every way out shows
 * the same text. */
static ty_status replace_nul(answer *a, size_t from) {
    if (a->text.len == from || !memchr(a->text.data + from, '\0', a->text.len - from)) return TY_OK;
    ty_buf tail = ty_buf_make(ANSWER_BYTES_MAX);
    for (size_t i = from; i < a->text.len; i++) {
        if (a->text.data[i])
            (void)ty_buf_append(&tail, a->text.data + i, 1);
        else
            (void)ty_buf_puts(&tail, TY_UTF8_REPLACEMENT);
    }
    a->text.len = from;
    ty_status st = tail.failed;
    if (st == TY_OK) st = ty_buf_append(&a->text, tail.data, tail.len);
    ty_buf_clear(&tail);
    return st;
}

/* Cuts the text before the first stop string that the new text completes. */
static void find_stop(answer *a) {
    if (a->text.len == a->searched) return;
    size_t best = a->text.len;
    for (int i = 0; i < a->s->n_stop; i++) {
        size_t n = strlen(a->s->stop[i]);
        if (n == 0) continue;
        size_t from = a->searched > n - 1 ? a->searched - (n - 1) : 0;
        const char *hit = memmem(a->text.data + from, a->text.len - from, a->s->stop[i], n);
        if (hit && (size_t)(hit - a->text.data) < best) best = (size_t)(hit - a->text.data);
    }
    a->searched = a->text.len;
    if (best == a->text.len) return;
    a->stopped = true;
    a->text.len = best;
    a->text.data[best] = '\0';
}

/* Bytes at the end that could be the beginning of a stop string. */
static size_t held_back(const answer *a) {
    size_t most = 0;
    for (int i = 0; i < a->s->n_stop; i++) {
        size_t n = strlen(a->s->stop[i]);
        for (size_t k = n > 0 ? n - 1 : 0; k > most; k--)
            if (k <= a->text.len && memcmp(a->text.data + a->text.len - k, a->s->stop[i], k) == 0)
                most = k;
    }
    return most;
}

static void hand_out(answer *a, size_t hold, const char **text, size_t *len) {
    size_t end = a->text.len - hold;
    if (end < a->sent) end = a->sent;
    *text = a->text.data ? a->text.data + a->sent : "";
    *len = end - a->sent;
    a->sent = end;
}

ty_status answer_push(answer *a, int32_t id, const char **text, size_t *len) {
    *text = "";
    *len = 0;
    if (a->stopped) return TY_OK;
    ty_status st = TY_OK;
    size_t before = a->text.len;
    if (id >= 0 && id < ty_tokenizer_size(a->tokenizer)) st = ty_detok_push(a->detok, id, &a->text);
    if (st == TY_OK) st = replace_nul(a, before);
    if (st != TY_OK) return st;
    find_stop(a);
    hand_out(a, a->stopped ? 0 : held_back(a), text, len);
    return TY_OK;
}

ty_status answer_finish(answer *a, const char **text, size_t *len) {
    if (!a->stopped) {
        ty_status st = ty_detok_flush(a->detok, &a->text);
        if (st != TY_OK) return st;
        find_stop(a);
    }
    hand_out(a, 0, text, len);
    return TY_OK;
}

bool answer_stopped(const answer *a) {
    return a->stopped;
}

const char *answer_text(const answer *a, size_t *len) {
    *len = a->sent;
    return a->text.data ? a->text.data : "";
}
