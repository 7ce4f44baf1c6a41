/* lift.c - see lift.h. */
#include "services/gateway/lift.h"

#include "common/base/buf.h"

#include <openssl/rand.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The closing quote of the string whose first byte is p; NULL when there is none before end. */
static const char *string_end(const char *p, const char *end) {
    for (const char *q = p; (q = memchr(q, '"', (size_t)(end - q))); q++) {
        size_t slashes = 0;
        while (q - slashes > p && q[-1 - (ptrdiff_t)slashes] == '\\') slashes++;
        if (slashes % 2 == 0) return q;
    }
    return NULL;
}

static bool is_liftable(const char *p, size_t len) {
    return len >= LIFT_MIN_BYTES && memcmp(p, "data:", 5) == 0 && !memchr(p, '\\', len);
}

static ty_status draw_secret(lift *l, ty_err *err) {
    unsigned char r[16];
    if (RAND_bytes(r, sizeof(r)) != 1)
        return ty_fail(err, TY_EINTERNAL, "the system gives no random numbers");
    for (size_t i = 0; i < sizeof(r); i++) snprintf(l->secret + 2 * i, 3, "%02x", r[i]);
    return TY_OK;
}

/* Everything up to the string, then a name in its place. */
static ty_status lift_one(lift *l, ty_buf *out, const char *from, const char *p, size_t len,
                          ty_err *err) {
    if (l->n == 0) {
        ty_status st = draw_secret(l, err);
        if (st != TY_OK) return st;
    }
    ty_buf_append(out, from, (size_t)(p - from));
    ty_buf_printf(out, "lifted:%s:%d", l->secret, l->n);
    l->url[l->n++] = (lift_url){p, len};
    return out->failed == TY_OK ? TY_OK : ty_fail(err, out->failed, "no memory for the request");
}

ty_status lift_init(lift *l, const char *body, size_t len, ty_err *err) {
    const char *end = body + len, *from = body, *p = body;
    ty_buf out = ty_buf_make(len + LIFT_MAX * LIFT_NAME_BYTES);
    ty_status st = TY_OK;
    *l = (lift){.json = body, .len = len};
    while (st == TY_OK && l->n < LIFT_MAX && (p = memchr(p, '"', (size_t)(end - p)))) {
        const char *q = string_end(++p, end);
        if (!q) break;
        if (is_liftable(p, (size_t)(q - p))) {
            st = lift_one(l, &out, from, p, (size_t)(q - p), err);
            from = q;
        }
        p = q + 1;
    }
    if (st == TY_OK && l->n > 0 && ty_buf_append(&out, from, (size_t)(end - from)) != TY_OK)
        st = ty_fail(err, TY_ENOMEM, "no memory for the request");
    if (st != TY_OK || l->n == 0) {
        ty_buf_clear(&out);
        return st;
    }
    l->len = out.len;
    l->json = l->own = ty_buf_take(&out);
    return TY_OK;
}

void lift_clear(lift *l) {
    free(l->own);
    l->own = NULL;
    l->json = NULL;
    l->n = 0;
}

lift_url lift_find(const lift *l, const char *text) {
    char name[LIFT_NAME_BYTES];
    for (int i = 0; i < l->n; i++) {
        snprintf(name, sizeof(name), "lifted:%s:%d", l->secret, i);
        if (strcmp(name, text) == 0) return l->url[i];
    }
    return (lift_url){text, strlen(text)};
}
