/*
 * kv.h - keys and values in pages: a pool of equal pages, and a table of pages per sequence.
 *
 * A page holds KV_PAGE positions of every layer.  Pages are refcounted: a forked sequence (a beam)
 * shares its parent's pages, and a page that others see is copied before it is written.  A page can also
 * be kept for later (prefix.h): it is one user more, and gives way when a sequence needs room.
 *
 *   page -> [n_layer][k, v][n_kv_head][KV_PAGE][d] elements of f32 or f16
 *
 * So the keys of one head in one page are a contiguous [KV_PAGE, d] tile, which is the unit that
 * attention walks (attend.h).  The pool's memory is reserved at once and touched page by page; the page
 * freed last is handed out first, so that a lightly loaded decoder stays small.
 */
#ifndef TY_DECODER_KV_H
#define TY_DECODER_KV_H

#include "common/math/dtype.h"

#include <stdbool.h>

enum { KV_PAGE = 16 };

typedef struct {
    int n_layer, n_kv_head, d; /* d: of one head */
    ty_dtype dtype;            /* TY_F32 or TY_F16 */
} kv_shape;

typedef struct kv_pool kv_pool;

/* As many pages as size_bytes hold.  Fails: TY_EINVAL (not one page fits, or dtype), TY_ENOMEM. */
ty_status kv_pool_create(kv_pool **out, const kv_shape *shape, size_t size_bytes, ty_err *err);
void kv_pool_destroy(kv_pool **p);
size_t kv_page_bytes(const kv_shape *shape);
int kv_pool_pages(const kv_pool *p);  /* all = used + cached + free */
int kv_pool_used(const kv_pool *p);   /* that at least one sequence holds */
int kv_pool_cached(const kv_pool *p); /* that are kept, and no sequence holds */
int kv_pool_free(const kv_pool *p);
const kv_shape *kv_pool_shape(const kv_pool *p);
/* Pages that n positions take. */
int kv_pages_for(int64_t n);

/* One sequence: positions [0, len) are there.  A zeroed struct is an empty sequence. */
typedef struct {
    int *page; /* indices into the pool; position p lies in page[p / KV_PAGE] */
    int n_page, cap;
    int len;
} kv_seq;

/* Makes positions [len, new_len) writable: takes pages, copies a shared last page.  `len` becomes
 * new_len.  On failure the sequence is as it was.  Fails: TY_ENOMEM (no free page, or no memory). */
ty_status kv_seq_grow(kv_pool *p, kv_seq *s, int new_len, ty_err *err);
/* *dst (cleared first) becomes a second sequence over src's pages; dst may not be src. */
ty_status kv_seq_fork(kv_pool *p, kv_seq *dst, const kv_seq *src, ty_err *err);
/* Gives the pages back and frees the table. */
void kv_seq_clear(kv_pool *p, kv_seq *s);

/* ---- kept pages: the prefix index is the only caller ---- */

/* The page gets one more user, which is no sequence; and back.  Not twice for one page. */
void kv_page_keep(kv_pool *p, int page);
void kv_page_forget(kv_pool *p, int page);
/* Kept, and no sequence holds it: forgetting it frees it. */
bool kv_page_idle(const kv_pool *p, int page);
/* Called when a sequence needs `want` pages more than are free; lets go of as many kept ones as it can. */
void kv_pool_on_short(kv_pool *p, void (*reclaim)(void *ctx, int want), void *ctx);
/* Appends a full page that is kept; s->len must be a multiple of KV_PAGE.  Fails: TY_ENOMEM. */
ty_status kv_seq_share(kv_pool *p, kv_seq *s, int page, ty_err *err);
/* Appends a copy of the first n < KV_PAGE positions of a kept page; likewise. */
ty_status kv_seq_copy(kv_pool *p, kv_seq *s, int page, int n, ty_err *err);
/* Entry i of the table becomes `page`, which is full, kept and holds the same numbers. */
void kv_seq_replace(kv_pool *p, kv_seq *s, int i, int page);

/* ---- what is in them ---- */

/* The [KV_PAGE, d] tile of a head: element 0.  v: 0 keys, 1 values. */
void *kv_tile(const kv_pool *p, int page, int layer, int head, int v);
/* Writes one position's keys and values of one layer, [n_kv_head * d] floats each, converted to the
 * pool's type.  The position must have been made writable. */
void kv_put(kv_pool *p, const kv_seq *s, int pos, int layer, const float *k, const float *v);

#endif
