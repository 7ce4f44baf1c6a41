/*
 * buf.h - a growing byte buffer with an upper limit, so that no input can grow one without end.
 *
 *     ty_buf b = ty_buf_make(1 << 20);
 *     if (ty_buf_printf(&b, "%d", 7) != TY_OK) ...   // TY_ELIMIT or TY_ENOMEM
 *     use(b.data, b.len);                            // always NUL-terminated behind len
 *     ty_buf_clear(&b);
 *
 * After a failure the buffer keeps what it had.  `failed` remembers the first failure, so that a
 * run of appends can be checked once at the end.
 */
#ifndef TY_BASE_BUF_H
#define TY_BASE_BUF_H

#include "common/base/err.h"

#include <stddef.h>

typedef struct {
    char *data; /* NUL-terminated; NULL while nothing was appended */
    size_t len;
    size_t cap;
    size_t max; /* most bytes it may hold */
    ty_status failed;
} ty_buf;

ty_buf ty_buf_make(size_t max);
ty_status ty_buf_append(ty_buf *b, const void *bytes, size_t n);
ty_status ty_buf_puts(ty_buf *b, const char *text);
__attribute__((format(printf, 2, 3))) ty_status ty_buf_printf(ty_buf *b, const char *fmt, ...);
/* Hands the bytes over (free() them); the buffer is empty again.  "" instead of NULL. */
char *ty_buf_take(ty_buf *b);
void ty_buf_reset(ty_buf *b); /* len 0, keeps the memory */
void ty_buf_clear(ty_buf *b); /* frees; usable again */

#endif
