/* arena.c - see arena.h. */
#include "common/base/arena.h"
#include "common/base/big.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { ALIGN = 64 };

typedef struct block {
    struct block *next;
    size_t size; /* usable bytes behind the header */
    size_t used;
} block;

struct ty_arena {
    block *first, *current;
    size_t block_bytes;
    size_t held;
};

/* The header takes a whole cache line, so that the bytes behind it are aligned. */
static uint8_t *block_data(block *b) {
    return (uint8_t *)b + ALIGN;
}

static size_t round_up(size_t n) {
    return (n + ALIGN - 1) & ~(size_t)(ALIGN - 1);
}

ty_arena *ty_arena_create(size_t block_bytes) {
    ty_arena *a = calloc(1, sizeof(*a));
    if (a) a->block_bytes = block_bytes ? round_up(block_bytes) : 1 << 20;
    return a;
}

static block *block_new(ty_arena *a, size_t size) {
    size_t n = size > a->block_bytes ? size : a->block_bytes;
    if (n > SIZE_MAX - ALIGN) return NULL;
    block *b = ty_big_alloc(n + ALIGN);
    if (!b) return NULL;
    *b = (block){.size = n};
    a->held += n + ALIGN;
    return b;
}

void *ty_arena_alloc(ty_arena *a, size_t size) {
    if (size > SIZE_MAX - 2 * ALIGN) return NULL;
    size_t need = size ? round_up(size) : ALIGN;
    block *b = a->current;
    /* Blocks behind the current one are empty: they were filled before the last reset. */
    while (b && b->size - b->used < need && b->next) b = b->next;
    if (!b || b->size - b->used < need) {
        block *fresh = block_new(a, need);
        if (!fresh) return NULL;
        if (b)
            b->next = fresh;
        else
            a->first = fresh;
        b = fresh;
    }
    a->current = b;
    void *p = block_data(b) + b->used;
    b->used += need;
    return p;
}

void *ty_arena_array(ty_arena *a, size_t n, size_t size) {
    if (size && n > SIZE_MAX / size) return NULL;
    return ty_arena_alloc(a, n * size);
}

char *ty_arena_strdup(ty_arena *a, const char *text) {
    size_t n = strlen(text) + 1;
    char *p = ty_arena_alloc(a, n);
    if (p) memcpy(p, text, n);
    return p;
}

void ty_arena_reset(ty_arena *a) {
    for (block *b = a->first; b; b = b->next) b->used = 0;
    a->current = a->first;
}

size_t ty_arena_bytes(const ty_arena *a) {
    return a->held;
}

void ty_arena_destroy(ty_arena **pa) {
    if (!*pa) return;
    for (block *b = (*pa)->first, *next; b; b = next) {
        next = b->next;
        free(b);
    }
    free(*pa);
    *pa = NULL;
}
