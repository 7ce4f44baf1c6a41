/* buf.c - see buf.h. */
#include "common/base/buf.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

ty_buf ty_buf_make(size_t max) {
    return (ty_buf){.max = max};
}

static ty_status fail(ty_buf *b, ty_status s) {
    if (b->failed == TY_OK) b->failed = s;
    return s;
}

static ty_status reserve(ty_buf *b, size_t more) {
    if (more > b->max - b->len) return fail(b, TY_ELIMIT);
    size_t need = b->len + more + 1;
    if (need <= b->cap) return TY_OK;
    size_t cap = b->cap ? b->cap : 64;
    while (cap < need) cap *= 2;
    char *p = realloc(b->data, cap);
    if (!p) return fail(b, TY_ENOMEM);
    b->data = p;
    b->cap = cap;
    return TY_OK;
}

ty_status ty_buf_append(ty_buf *b, const void *bytes, size_t n) {
    ty_status st = reserve(b, n);
    if (st != TY_OK) return st;
    if (n) memcpy(b->data + b->len, bytes, n);
    b->len += n;
    b->data[b->len] = '\0';
    return TY_OK;
}

ty_status ty_buf_puts(ty_buf *b, const char *text) {
    return ty_buf_append(b, text, strlen(text));
}

ty_status ty_buf_printf(ty_buf *b, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    if (n < 0) return fail(b, TY_EINVAL);
    ty_status st = reserve(b, (size_t)n);
    if (st != TY_OK) return st;
    va_start(ap, fmt);
    vsnprintf(b->data + b->len, (size_t)n + 1, fmt, ap);
    va_end(ap);
    b->len += (size_t)n;
    return TY_OK;
}

char *ty_buf_take(ty_buf *b) {
    char *p = b->data ? b->data : calloc(1, 1);
    *b = ty_buf_make(b->max);
    return p;
}

void ty_buf_reset(ty_buf *b) {
    b->len = 0;
    b->failed = TY_OK;
    if (b->data) b->data[0] = '\0';
}

void ty_buf_clear(ty_buf *b) {
    free(b->data);
    *b = ty_buf_make(b->max);
}
