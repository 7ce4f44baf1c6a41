/*
 * token_cache.h - the output of a vision stage by what it was made from: ViT features and visual
 * tokens, kept apart, so that the first survive a swap of the abstractor and the second a swap of the LLM.
 *
 * A key binds the picture's bytes (SHA-256), how they were preprocessed, and the identity of every stage
 * model on the way, so a swapped stage never meets a stale entry.  A value is a small header (dtype, shape, XXH3 of
 * the bytes) and the tensor's raw bytes: a hit is byte for byte what the miss computed, or it is no hit.
 *
 * The cache is never in the way: a server that is away, slow or full is a miss.  One that did not answer is left
 * alone for a while, longer each time, so that its time limit is not paid again and again.
 */
#ifndef TY_STORE_TOKEN_CACHE_H
#define TY_STORE_TOKEN_CACHE_H

#include "common/math/dtype.h"
#include "common/store/redis.h"

#include <stdbool.h>

enum { TY_SHA256_HEX = 65, TY_CACHE_KEY_SIZE = 192 };

typedef struct ty_token_cache ty_token_cache;

/* url: the cache server's.  ttl_s: how long an entry that nobody reads stays; 0 = until evicted. */
ty_status ty_token_cache_create(ty_token_cache **out, const char *url, int ttl_s, ty_err *err);
void ty_token_cache_destroy(ty_token_cache **c);

/* A picture as a cache knows it. */
typedef struct {
    const char *sha256; /* of the file's bytes, 64 hex digits */
    const char *mode;   /* of preprocessing; "" = the model's */
    bool upright;
} ty_picture_key;

/* What a stage's output depends on beside its input: the identity of its model, and how it computes. */
typedef struct {
    const char *model, *arithmetic;
} ty_stage_key;

/* The key of `stage`'s output for a picture: steps[0..n) are preprocess .. this stage. */
void ty_token_cache_key(char key[TY_CACHE_KEY_SIZE], const char *stage, const ty_picture_key *p,
                        const ty_stage_key *steps, int n);

/* TY_OK: *t and its bytes (*owned, free()).  TY_ENOTFOUND: a miss.  TY_EUNAVAILABLE: a miss too, since the server
 * is away, slow or refuses. */
ty_status ty_token_cache_get(ty_token_cache *c, const char *key, ty_tensor *t, void **owned,
                             ty_err *err);
/* The same from a reply to GET that somebody else waited for. */
ty_status ty_token_cache_read(const redisReply *reply, ty_tensor *t, void **owned, ty_err *err);
/* Stores; failure is the caller's to count, nothing else. */
ty_status ty_token_cache_put(ty_token_cache *c, const char *key, const ty_tensor *t, ty_err *err);

/* 64 lower-case hex digits? */
bool ty_sha256_valid(const char *text);
/* SHA-256 of bytes as 64 hex digits. */
void ty_sha256_hex(const void *bytes, size_t n, char out[TY_SHA256_HEX]);

#endif
