/* gather.c - see gather.h. */
#include "services/gateway/gather.h"

#include <stdlib.h>
#include <string.h>

/* One thing asked for: the first picture that needs it; later ones with the same id get a copy. */
typedef struct {
    gather *owner;
    int picture;
    ty_redis_sent *sent;
    fetch_job *job;
} want;

struct gather {
    gather_options opt;
    char *holder; /* the owner's name */
    gathered *p;
    int n;
    want *want; /* one a picture; idle ones have no owner */
    int open;   /* wants under way */
    gather_done_fn done;
    void *ctx;
};

void gathered_clear(gathered *p) {
    free(p->address);
    free(p->bytes);
    *p = (gathered){0};
}

/* An earlier picture of the same file, or -1. */
static int same_before(const gathered *p, int i) {
    for (int j = 0; j < i; j++)
        if (*p[i].sha256 && strcmp(p[j].sha256, p[i].sha256) == 0) return j;
    return -1;
}

static ty_status set_bytes(gathered *p, const void *bytes, size_t size, ty_err *err) {
    p->bytes = malloc(size ? size : 1);
    if (!p->bytes) return ty_fail(err, TY_ENOMEM, "no memory for a picture of %zu bytes", size);
    memcpy(p->bytes, bytes, size);
    p->size = size;
    return TY_OK;
}

static ty_status copy_twins(gather *g, ty_err *err) {
    for (int i = 0; i < g->n; i++) {
        int j = same_before(g->p, i);
        if (g->p[i].bytes || j < 0 || !g->p[j].bytes) continue;
        ty_status st = set_bytes(&g->p[i], g->p[j].bytes, g->p[j].size, err);
        if (st != TY_OK) return st;
    }
    return TY_OK;
}

/* One more is there, or not to be had. */
static void settle(gather *g, int picture, ty_status st, ty_err *err) {
    int failed = picture;
    g->open--;
    if (st == TY_OK && g->open > 0) return;
    if (st == TY_OK && copy_twins(g, err) == TY_OK) failed = -1;
    g->done(g->ctx, failed, err); /* the owner destroys us */
}

static void on_file(void *ctx, const redisReply *r, const ty_err *lost) {
    want *w = ctx;
    gather *g = w->owner;
    ty_err err = {0};
    const char *bytes = NULL;
    size_t size = 0;
    w->sent = NULL;
    ty_status st = r ? ty_picture_read(r, &bytes, &size, &err) : (err = *lost, lost->code);
    if (st == TY_OK && r) st = set_bytes(&g->p[w->picture], bytes, size, &err);
    settle(g, w->picture, st, &err);
}

static void on_fetched(void *ctx, ty_status st, uint8_t *bytes, size_t size, const ty_err *lost) {
    want *w = ctx;
    ty_err err = *lost;
    w->job = NULL;
    gathered *p = &w->owner->p[w->picture];
    if (st == TY_OK) {
        p->bytes = bytes;
        p->size = size;
        ty_sha256_hex(bytes, size, p->sha256);
    }
    settle(w->owner, w->picture, st, &err);
}

static ty_status ask_address(gather *g, int i, ty_err *err) {
    want *w = &g->want[i];
    *w = (want){.owner = g, .picture = i};
    ty_status st = fetch_start(g->opt.fetch, g->p[i].address, on_fetched, w, &w->job, err);
    if (st == TY_OK) g->open++;
    return st;
}

static ty_status ask_store(gather *g, int i, ty_err *err) {
    want *w = &g->want[i];
    ty_store_command c;
    if (!g->opt.redis)
        return ty_fail(err, TY_ENOTFOUND, "this server keeps no files: it runs without a store");
    ty_status st = ty_picture_get(&c, g->holder, g->p[i].sha256, g->opt.policy, err);
    if (st != TY_OK) return st;
    *w = (want){.owner = g, .picture = i};
    st = ty_redis_async_send(g->opt.redis, &c, on_file, w, &w->sent, err);
    ty_store_command_clear(&c);
    if (st == TY_OK) g->open++;
    return st;
}

ty_status gather_create(gather **out, const gather_options *opt, gathered *p, int n,
                        gather_done_fn done, void *ctx, int *failed, ty_err *err) {
    *out = NULL;
    *failed = -1;
    gather *g = calloc(1, sizeof(*g));
    if (!g) return ty_fail(err, TY_ENOMEM, "no memory for the pictures");
    *g = (gather){.opt = *opt, .p = p, .n = n, .done = done, .ctx = ctx};
    g->holder = strdup(opt->owner);
    g->want = calloc((size_t)n + 1, sizeof(*g->want));
    ty_status st = TY_OK;
    if (!g->holder || !g->want) st = ty_fail(err, TY_ENOMEM, "no memory for the pictures");
    for (int i = 0; i < n && st == TY_OK; i++) {
        if (p[i].bytes || same_before(p, i) >= 0) continue;
        st = p[i].address ? ask_address(g, i, err) : ask_store(g, i, err);
        if (st != TY_OK) *failed = i;
    }
    if (st == TY_OK && g->open > 0) {
        *out = g;
        return TY_OK;
    }
    if (st == TY_OK) st = copy_twins(g, err);
    gather_destroy(&g);
    return st;
}

void gather_destroy(gather **gp) {
    if (!gp || !*gp) return;
    gather *g = *gp;
    for (int i = 0; g->want && i < g->n; i++) {
        ty_redis_sent_forget(&g->want[i].sent);
        fetch_forget(&g->want[i].job);
    }
    free(g->want);
    free(g->holder);
    free(g);
    *gp = NULL;
}
