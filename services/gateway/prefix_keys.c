#include "services/gateway/prefix_keys.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

/* The beginnings met so far: the shortest, and the last few in a ring. */
typedef struct {
    uint64_t hash, first, ring[PREFIX_KEYS_MAX - 1];
    size_t n; /* all of them */
} chain;

static void mix(chain *c, char kind, const void *data, size_t len) {
    c->hash = XXH3_64bits_withSeed(data, len, c->hash + (unsigned char)kind);
}

static void mark(chain *c) {
    if (c->n == 0) c->first = c->hash;
    c->ring[c->n++ % (PREFIX_KEYS_MAX - 1)] = c->hash;
}

static void add_picture(chain *c, const char *const *sha256, int n_pictures, int *i) {
    const char *name = *i < n_pictures ? sha256[*i] : "";
    mix(c, 'p', name, strlen(name));
    mark(c);
    (*i)++;
}

static void add_turn(chain *c, const Tyto__Turn *t, const char *const *sha256, int n_pictures,
                     int *picture) {
    mix(c, 'r', t->role, strlen(t->role));
    for (size_t i = 0; i < t->n_parts; i++) {
        const Tyto__Part *p = t->parts[i];
        if (p->kind_case == TYTO__PART__KIND_TEXT)
            mix(c, 't', p->text, strlen(p->text));
        else
            add_picture(c, sha256, n_pictures, picture);
    }
    /* Many conversations share a system turn: it is no reason to crowd on one decoder. */
    if (strcmp(t->role, "system") != 0) mark(c);
}

/* Longest first; the shortest stands at the end. */
static ty_status store(const chain *c, Tyto__DecodeTask *d, ty_err *err) {
    size_t in_ring = c->n < PREFIX_KEYS_MAX - 1 ? c->n : PREFIX_KEYS_MAX - 1;
    size_t n = in_ring + (c->n > in_ring);
    uint64_t *key = malloc((n ? n : 1) * sizeof(*key));
    if (!key) return ty_fail(err, TY_ENOMEM, "no memory for the prompt's names");
    for (size_t i = 0; i < in_ring; i++) key[i] = c->ring[(c->n - 1 - i) % (PREFIX_KEYS_MAX - 1)];
    if (n > in_ring) key[in_ring] = c->first;
    free(d->prefix_keys);
    d->prefix_keys = key;
    d->n_prefix_keys = n;
    return TY_OK;
}

ty_status prefix_keys_set(Tyto__DecodeTask *d, const ty_pipeline *p, const char *const *sha256,
                          int n_pictures, ty_err *err) {
    chain c = {0};
    int picture = 0;
    for (int k = 0; k < TY_STAGE_COUNT; k++) mix(&c, 'm', p->model_id[k], strlen(p->model_id[k]));
    mix(&c, 'a', p->adapter_id, strlen(p->adapter_id));
    mix(&c, 'f', d->template_, strlen(d->template_));
    for (size_t i = 0; i < d->n_turns; i++) add_turn(&c, d->turns[i], sha256, n_pictures, &picture);
    if (d->n_turns == 0) {
        mix(&c, 't', d->prompt, strlen(d->prompt));
        mark(&c);
        while (picture < n_pictures) add_picture(&c, sha256, n_pictures, &picture);
    }
    return store(&c, d, err);
}
