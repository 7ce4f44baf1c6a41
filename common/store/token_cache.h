/*
 * token_cache.h - the output of a vision stage by what it was made from: ViT features and visual
 * tokens, kept apart, so that the first survive a swap of the abstractor and the second a swap of the LLM.
 *
 * A key binds the picture's bytes (SHA-256), how they were preprocessed, and the identity of every stage
 * model on the way, so a swapped stage never meets a stale entry.  A value is a small header (dtype, shape, XXH3 of
 * the bytes) and the tensor's raw bytes: a hit is byte for byte what the miss computed, or it is no hit.
 *
 * The cache is never in the way: a server that is away, slow or full is a miss.
 */
#ifndef TY_STORE_TOKEN_CACHE_H
#define TY_STORE_TOKEN_CACHE_H

#include "common/math/dtype.h"
#include "common/store/redis.h"

enum { TY_SHA256_HEX = 65, TY_CACHE_KEY_SIZE = 192 };

typedef struct ty_token_cache ty_token_cache;

/* url: the cache server's.  ttl_s: how long an entry that nobody reads stays; 0 = until evicted. */
ty_status ty_token_cache_create(ty_token_cache **out, const char *url, int ttl_s, ty_err *err);
void ty_token_cache_destroy(ty_token_cache **c);

/* key of `stage`'s output for a picture: models[0..n) are the identities of preprocess .. this stage. */
void ty_token_cache_key(char key[TY_CACHE_KEY_SIZE], const char *stage, const char *picture_sha256,
                        const char *mode, const char *const *models, int n);

/* TY_OK: *t and its bytes (*owned, free()).  TY_ENOTFOUND: a miss, for whatever reason (err says which). */
ty_status ty_token_cache_get(ty_token_cache *c, const char *key, ty_tensor *t, void **owned,
                             ty_err *err);
/* Stores; failure is the caller's to count, nothing else. */
ty_status ty_token_cache_put(ty_token_cache *c, const char *key, const ty_tensor *t, ty_err *err);

/* SHA-256 of bytes as 64 hex digits. */
void ty_sha256_hex(const void *bytes, size_t n, char out[TY_SHA256_HEX]);

#endif
