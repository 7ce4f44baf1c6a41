#include "services/decoder/prefix.h"

#include <openssl/sha.h>
#include <stdlib.h>
#include <string.h>

enum { NONE = -1, ROOT = -2 }; /* the root of tree i: ROOT - i */

/* Node i is the node of page i; lists are linked by page numbers. */
typedef struct {
    prefix_key key[KV_PAGE];
    int n;                           /* rows; 0: no node */
    int parent, child, before, next; /* first child; siblings */
    int newer, older;                /* by last use */
} node;

struct prefix_index {
    kv_pool *pool;
    node *node; /* [all pages of the pool] */
    int max_pages, n_pages;
    int *top; /* [n_tree] first node below each root */
    int newest, oldest;
};

/* ---- keys ---- */

prefix_key prefix_key_token(int32_t id) {
    return (prefix_key){0, (uint32_t)id};
}

void prefix_key_picture(const float *data, int rows, int width, prefix_key *key) {
    union {
        unsigned char bytes[SHA256_DIGEST_LENGTH];
        uint64_t word[SHA256_DIGEST_LENGTH / 8];
    } d;
    SHA256((const unsigned char *)data, (size_t)rows * (size_t)width * sizeof(float), d.bytes);
    for (int r = 0; r < rows; r++)
        key[r] = (prefix_key){d.word[0] | (uint64_t)1 << 63, d.word[1] + (uint64_t)r};
}

/* Leading rows that are equal. */
static int common(const prefix_key *a, const prefix_key *b, int n) {
    int i = 0;
    while (i < n && a[i].hi == b[i].hi && a[i].lo == b[i].lo) i++;
    return i;
}

/* ---- create, destroy ---- */

static void reclaim(void *ctx, int want);

ty_status prefix_create(prefix_index **out, kv_pool *pool, int n_tree, int max_pages, ty_err *err) {
    int all = kv_pool_pages(pool);
    *out = NULL;
    prefix_index *x = calloc(1, sizeof(*x));
    if (x) x->node = calloc((size_t)all, sizeof(*x->node)); /* touched as it is used */
    if (x) x->top = malloc((size_t)n_tree * sizeof(*x->top));
    if (!x || !x->node || !x->top) {
        if (x) free(x->node);
        free(x);
        return ty_fail(err, TY_ENOMEM, "no memory for the index of %d KV pages", all);
    }
    x->pool = pool;
    x->max_pages = max_pages;
    x->newest = x->oldest = NONE;
    for (int i = 0; i < n_tree; i++) x->top[i] = NONE;
    kv_pool_on_short(pool, reclaim, x);
    *out = x;
    return TY_OK;
}

void prefix_destroy(prefix_index **xx) {
    prefix_index *x = *xx;
    if (!x) return;
    kv_pool_on_short(x->pool, NULL, NULL);
    for (int i = x->newest; i != NONE; i = x->node[i].older) kv_page_forget(x->pool, i);
    free(x->node);
    free(x->top);
    free(x);
    *xx = NULL;
}

int prefix_pages(const prefix_index *x) {
    return x->n_pages;
}

/* ---- the lists ---- */

static int *first_below(prefix_index *x, int parent) {
    return parent <= ROOT ? &x->top[ROOT - parent] : &x->node[parent].child;
}

static void unlink_use(prefix_index *x, int i) {
    const node *v = &x->node[i];
    *(v->newer == NONE ? &x->newest : &x->node[v->newer].older) = v->older;
    *(v->older == NONE ? &x->oldest : &x->node[v->older].newer) = v->newer;
}

static void link_newest(prefix_index *x, int i) {
    node *v = &x->node[i];
    v->newer = NONE;
    v->older = x->newest;
    *(x->newest == NONE ? &x->oldest : &x->node[x->newest].newer) = i;
    x->newest = i;
}

/* The whole path was used; ends first, so that a node is always older than the one above it. */
static void touch(prefix_index *x, int i) {
    for (; i >= 0; i = x->node[i].parent) {
        unlink_use(x, i);
        link_newest(x, i);
    }
}

static void add_node(prefix_index *x, int parent, int page, const prefix_key *key, int n) {
    node *v = &x->node[page];
    int *first = first_below(x, parent);
    memcpy(v->key, key, (size_t)n * sizeof(*key));
    v->n = n;
    v->parent = parent;
    v->child = v->before = NONE;
    v->next = *first;
    if (*first != NONE) x->node[*first].before = page;
    *first = page;
    link_newest(x, page);
    kv_page_keep(x->pool, page);
    x->n_pages++;
}

/* A node without children. */
static void remove_node(prefix_index *x, int i) {
    node *v = &x->node[i];
    *(v->before == NONE ? first_below(x, v->parent) : &x->node[v->before].next) = v->next;
    if (v->next != NONE) x->node[v->next].before = v->before;
    unlink_use(x, i);
    v->n = 0;
    x->n_pages--;
    kv_page_forget(x->pool, i);
}

/* Frees the page that was used longest ago, among those that no sequence holds. */
static bool evict(prefix_index *x) {
    int i = x->oldest;
    while (i != NONE && (x->node[i].child != NONE || !kv_page_idle(x->pool, i)))
        i = x->node[i].newer;
    if (i == NONE) return false;
    remove_node(x, i);
    return true;
}

static void reclaim(void *ctx, int want) {
    while (want-- > 0 && evict(ctx))
        ;
}

/* ---- finding ---- */

/* The child that has most of its rows in common with key[n]; *rows of them. */
static int best_child(prefix_index *x, int parent, const prefix_key *key, int n, int *rows) {
    int best = NONE;
    *rows = 0;
    for (int i = *first_below(x, parent); i != NONE; i = x->node[i].next) {
        int most = x->node[i].n < n ? x->node[i].n : n;
        int m = common(x->node[i].key, key, most);
        if (m <= *rows) continue;
        *rows = m;
        best = i;
        if (m == KV_PAGE) break;
    }
    return best;
}

int prefix_match(prefix_index *x, int tree, const prefix_key *key, int n, kv_seq *s) {
    int at = ROOT - tree, rows = 0;
    for (;;) {
        int i = best_child(x, at, key + s->len, n - s->len, &rows);
        if (i == NONE) break;
        if (rows < KV_PAGE) {
            touch(x, i);
            (void)kv_seq_copy(x->pool, s, i, rows, NULL);
            return s->len;
        }
        if (kv_seq_share(x->pool, s, i, NULL) != TY_OK) break;
        at = i;
    }
    touch(x, at);
    return s->len;
}

/* ---- inserting ---- */

static bool has_room(prefix_index *x) {
    return x->n_pages < x->max_pages || (x->max_pages > 0 && evict(x));
}

/* One page of s below `at`.  Returns its node, NONE when nothing was or can be added. */
static int insert_page(prefix_index *x, int at, const prefix_key *key, int n, kv_seq *s, int i) {
    int rows, known = best_child(x, at, key, n, &rows);
    if (known != NONE && rows == n) {
        /* A part of a page is not worth an exchange: s ends with it. */
        if (n == KV_PAGE && s->page[i] != known) kv_seq_replace(x->pool, s, i, known);
        return known;
    }
    if (x->node[s->page[i]].n > 0) return NONE; /* in the index already, by another way */
    if (known != NONE && rows == x->node[known].n)
        remove_node(x, known); /* the beginning of ours: a leaf, and no longer needed */
    if (!has_room(x)) return NONE;
    add_node(x, at, s->page[i], key, n);
    return s->page[i];
}

void prefix_insert(prefix_index *x, int tree, const prefix_key *key, int n, kv_seq *s) {
    int at = ROOT - tree;
    for (int done = 0; done < n; done += KV_PAGE) {
        int rows = n - done < KV_PAGE ? n - done : KV_PAGE;
        int i = insert_page(x, at, key + done, rows, s, done / KV_PAGE);
        if (i == NONE) break;
        at = i;
    }
    touch(x, at);
}
