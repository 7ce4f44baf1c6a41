#include "services/decoder/kv.h"

#include "common/math/kernel.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

struct kv_pool {
    kv_shape shape;
    uint8_t *base; /* n_page pages, mapped, zero until touched */
    size_t page_bytes, map_bytes;
    int n_page, n_cached;
    int *refs;  /* [n_page] users of each page, keeping it is one */
    bool *kept; /* [n_page] */
    int *free_; /* stack of free pages */
    int n_free;
    void (*reclaim)(void *ctx, int want);
    void *reclaim_ctx;
};

static size_t tile_bytes(const kv_shape *s) {
    return (size_t)KV_PAGE * (size_t)s->d * (s->dtype == TY_F16 ? 2 : 4);
}

size_t kv_page_bytes(const kv_shape *s) {
    return tile_bytes(s) * (size_t)s->n_kv_head * 2 * (size_t)s->n_layer;
}

int kv_pages_for(int64_t n) {
    return (int)((n + KV_PAGE - 1) / KV_PAGE);
}

int kv_pool_pages(const kv_pool *p) {
    return p->n_page;
}

int kv_pool_used(const kv_pool *p) {
    return p->n_page - p->n_free - p->n_cached;
}

int kv_pool_cached(const kv_pool *p) {
    return p->n_cached;
}

int kv_pool_free(const kv_pool *p) {
    return p->n_free;
}

const kv_shape *kv_pool_shape(const kv_pool *p) {
    return &p->shape;
}

/* Page 0 is on top of the stack at first, so a lone sequence lies in order. */
static ty_status make_lists(kv_pool *p, ty_err *err) {
    p->refs = calloc((size_t)p->n_page, sizeof(int));
    p->kept = calloc((size_t)p->n_page, sizeof(bool));
    p->free_ = malloc((size_t)p->n_page * sizeof(int));
    if (!p->refs || !p->kept || !p->free_)
        return ty_fail(err, TY_ENOMEM, "no memory for the KV page lists");
    for (int i = 0; i < p->n_page; i++) p->free_[i] = p->n_page - 1 - i;
    p->n_free = p->n_page;
    return TY_OK;
}

static ty_status map_pages(kv_pool *p, ty_err *err) {
    p->map_bytes = p->page_bytes * (size_t)p->n_page;
    void *m = mmap(NULL, p->map_bytes, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (m == MAP_FAILED)
        return ty_fail(err, TY_ENOMEM, "cannot reserve %zu MiB for the KV cache",
                       p->map_bytes >> 20);
    p->base = m;
    (void)madvise(m, p->map_bytes, MADV_HUGEPAGE); /* only a hint */
    return TY_OK;
}

ty_status kv_pool_create(kv_pool **out, const kv_shape *shape, size_t size_bytes, ty_err *err) {
    *out = NULL;
    if (shape->dtype != TY_F32 && shape->dtype != TY_F16)
        return ty_fail(err, TY_EINVAL, "the KV cache can be f32 or f16, not %s",
                       ty_dtype_name((int)shape->dtype));
    size_t page = kv_page_bytes(shape);
    size_t n = size_bytes / page;
    if (n < 1)
        return ty_fail(err, TY_EINVAL,
                       "%zu bytes for the KV cache do not hold one page of %zu bytes", size_bytes,
                       page);
    kv_pool *p = calloc(1, sizeof(*p));
    if (!p) return ty_fail(err, TY_ENOMEM, "no memory for the KV cache");
    p->shape = *shape;
    p->page_bytes = page;
    p->n_page = n > (1 << 28) ? 1 << 28 : (int)n;
    ty_status st = make_lists(p, err);
    if (st == TY_OK) st = map_pages(p, err);
    if (st != TY_OK) {
        kv_pool_destroy(&p);
        return st;
    }
    *out = p;
    return TY_OK;
}

void kv_pool_destroy(kv_pool **pp) {
    kv_pool *p = *pp;
    if (!p) return;
    if (p->base) munmap(p->base, p->map_bytes);
    free(p->refs);
    free(p->kept);
    free(p->free_);
    free(p);
    *pp = NULL;
}

/* ---- users ---- */

bool kv_page_idle(const kv_pool *p, int page) {
    return p->kept[page] && p->refs[page] == 1;
}

void kv_pool_on_short(kv_pool *p, void (*reclaim)(void *ctx, int want), void *ctx) {
    p->reclaim = reclaim;
    p->reclaim_ctx = ctx;
}

/* Tries to have n free pages. */
static bool have_free(kv_pool *p, int n) {
    if (n > p->n_free && p->reclaim) p->reclaim(p->reclaim_ctx, n - p->n_free);
    return n <= p->n_free;
}

/* There must be a free one. */
static int take_page(kv_pool *p) {
    int page = p->free_[--p->n_free];
    p->refs[page] = 1;
    return page;
}

static void add_user(kv_pool *p, int page) {
    p->n_cached -= kv_page_idle(p, page);
    p->refs[page]++;
}

static void drop_page(kv_pool *p, int page) {
    if (--p->refs[page] > 0) {
        p->n_cached += kv_page_idle(p, page);
        return;
    }
    p->free_[p->n_free++] = page;
}

void kv_page_keep(kv_pool *p, int page) {
    p->refs[page]++;
    p->kept[page] = true;
}

void kv_page_forget(kv_pool *p, int page) {
    p->n_cached -= kv_page_idle(p, page);
    p->kept[page] = false;
    drop_page(p, page);
}

/* ---- tiles ---- */

static uint8_t *page_base(const kv_pool *p, int page) {
    return p->base + (size_t)page * p->page_bytes;
}

void *kv_tile(const kv_pool *p, int page, int layer, int head, int v) {
    size_t index = ((size_t)layer * 2 + (size_t)v) * (size_t)p->shape.n_kv_head + (size_t)head;
    return page_base(p, page) + index * tile_bytes(&p->shape);
}

/* Copies the first n positions of every tile: what lies behind them was never written. */
static void copy_positions(const kv_pool *p, int dst, int src, int n) {
    size_t tile = tile_bytes(&p->shape), used = tile / KV_PAGE * (size_t)n;
    size_t n_tile = p->page_bytes / tile;
    for (size_t i = 0; i < n_tile; i++)
        memcpy(page_base(p, dst) + i * tile, page_base(p, src) + i * tile, used);
}

static ty_status table_room(kv_seq *s, int n, ty_err *err) {
    if (n <= s->cap) return TY_OK;
    int cap = s->cap ? s->cap * 2 : 8;
    if (cap < n) cap = n;
    int *page = realloc(s->page, (size_t)cap * sizeof(int));
    if (!page) return ty_fail(err, TY_ENOMEM, "no memory for a page table");
    s->page = page;
    s->cap = cap;
    return TY_OK;
}

/* The page that position `len` falls into is written next: it must have one user only. */
static int last_is_shared(const kv_pool *p, const kv_seq *s) {
    return s->len % KV_PAGE != 0 && p->refs[s->page[s->len / KV_PAGE]] > 1;
}

ty_status kv_seq_grow(kv_pool *p, kv_seq *s, int new_len, ty_err *err) {
    if (new_len <= s->len) return TY_OK;
    int want = kv_pages_for(new_len), copy = last_is_shared(p, s);
    if (!have_free(p, want - s->n_page + copy))
        return ty_fail(err, TY_ENOMEM, "the KV cache is full: %d pages wanted, %d of %d free",
                       want - s->n_page + copy, p->n_free, p->n_page);
    ty_status st = table_room(s, want, err);
    if (st != TY_OK) return st;
    if (copy) {
        int last = s->len / KV_PAGE, own = take_page(p);
        copy_positions(p, own, s->page[last], s->len % KV_PAGE);
        drop_page(p, s->page[last]);
        s->page[last] = own;
    }
    while (s->n_page < want) s->page[s->n_page++] = take_page(p);
    s->len = new_len;
    return TY_OK;
}

ty_status kv_seq_fork(kv_pool *p, kv_seq *dst, const kv_seq *src, ty_err *err) {
    kv_seq copy = {0};
    ty_status st = table_room(&copy, src->n_page, err);
    if (st != TY_OK) return st;
    for (int i = 0; i < src->n_page; i++) {
        copy.page[i] = src->page[i];
        add_user(p, src->page[i]);
    }
    copy.n_page = src->n_page;
    copy.len = src->len;
    kv_seq_clear(p, dst);
    *dst = copy;
    return TY_OK;
}

void kv_seq_clear(kv_pool *p, kv_seq *s) {
    for (int i = 0; i < s->n_page; i++) drop_page(p, s->page[i]);
    free(s->page);
    *s = (kv_seq){0};
}

/* ---- kept pages in a sequence ---- */

ty_status kv_seq_share(kv_pool *p, kv_seq *s, int page, ty_err *err) {
    ty_status st = table_room(s, s->n_page + 1, err);
    if (st != TY_OK) return st;
    add_user(p, page);
    s->page[s->n_page++] = page;
    s->len += KV_PAGE;
    return TY_OK;
}

ty_status kv_seq_copy(kv_pool *p, kv_seq *s, int page, int n, ty_err *err) {
    ty_status st = table_room(s, s->n_page + 1, err);
    if (st != TY_OK) return st;
    add_user(p, page); /* so that it is not the one that gives way */
    bool room = have_free(p, 1);
    if (room) {
        int own = take_page(p);
        copy_positions(p, own, page, n);
        s->page[s->n_page++] = own;
        s->len += n;
    }
    drop_page(p, page);
    return room ? TY_OK : ty_fail(err, TY_ENOMEM, "no free KV page for a copy");
}

void kv_seq_replace(kv_pool *p, kv_seq *s, int i, int page) {
    add_user(p, page);
    drop_page(p, s->page[i]);
    s->page[i] = page;
}

/* ---- rows in ---- */

static void put_row(const kv_pool *p, void *tile, int slot, const float *x) {
    size_t d = (size_t)p->shape.d;
    if (p->shape.dtype == TY_F32) {
        memcpy((float *)tile + (size_t)slot * d, x, d * sizeof(float));
        return;
    }
    ty_kernels_get()->narrow_f16(x, p->shape.d, (uint16_t *)tile + (size_t)slot * d);
}

void kv_put(kv_pool *p, const kv_seq *s, int pos, int layer, const float *k, const float *v) {
    int page = s->page[pos / KV_PAGE], slot = pos % KV_PAGE;
    for (int h = 0; h < p->shape.n_kv_head; h++) {
        put_row(p, kv_tile(p, page, layer, h, 0), slot, k + (size_t)h * (size_t)p->shape.d);
        put_row(p, kv_tile(p, page, layer, h, 1), slot, v + (size_t)h * (size_t)p->shape.d);
    }
}
