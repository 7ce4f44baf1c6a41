/*
 * arena.h - memory that is freed all at once: one arena per request or per call, reset after it.
 *
 * Blocks are kept over ty_arena_reset, so that a warmed-up arena allocates nothing.  Every block
 * handed out is aligned to 64 bytes (a cache line, a zmm register) and is not zeroed.
 */
#ifndef TY_BASE_ARENA_H
#define TY_BASE_ARENA_H

#include <stddef.h>

typedef struct ty_arena ty_arena;

/* NULL when out of memory.  block_bytes: size of the blocks taken from the system; 0 = 1 MiB. */
ty_arena *ty_arena_create(size_t block_bytes);
/* NULL when out of memory; size 0 gives a valid pointer. */
void *ty_arena_alloc(ty_arena *a, size_t size);
/* n elements of `size` bytes; NULL on overflow too. */
void *ty_arena_array(ty_arena *a, size_t n, size_t size);
char *ty_arena_strdup(ty_arena *a, const char *text);
void ty_arena_reset(ty_arena *a);
size_t ty_arena_bytes(const ty_arena *a); /* held from the system */
void ty_arena_destroy(ty_arena **a);

#endif
