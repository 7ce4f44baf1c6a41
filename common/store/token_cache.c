/* token_cache.c - see token_cache.h. */
#include "common/store/token_cache.h"

#include <openssl/sha.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

enum { TIMEOUT_MS = 250, MAGIC = 0x31435954 /* "TYC1" */ };

/* What stands before the bytes in Redis; little-endian like everything here. */
typedef struct {
    uint32_t magic;
    int32_t dtype, n_dim, reserved;
    int64_t shape[TY_MAX_DIMS];
    uint64_t size_bytes, xxh3;
} header;

struct ty_token_cache {
    ty_redis *redis;
    int ttl_s;
};

ty_status ty_token_cache_create(ty_token_cache **out, const char *url, int ttl_s, ty_err *err) {
    *out = NULL;
    ty_token_cache *c = calloc(1, sizeof(*c));
    if (!c) return ty_fail(err, TY_ENOMEM, "no memory for the cache's client");
    c->ttl_s = ttl_s;
    ty_status st = ty_redis_create(&c->redis, url, TIMEOUT_MS, err);
    if (st == TY_OK)
        *out = c;
    else
        free(c);
    return st;
}

void ty_token_cache_destroy(ty_token_cache **c) {
    if (!*c) return;
    ty_redis_destroy(&(*c)->redis);
    free(*c);
    *c = NULL;
}

void ty_sha256_hex(const void *bytes, size_t n, char out[TY_SHA256_HEX]) {
    unsigned char digest[SHA256_DIGEST_LENGTH];
    SHA256(bytes, n, digest);
    for (int i = 0; i < SHA256_DIGEST_LENGTH; i++) snprintf(out + 2 * i, 3, "%02x", digest[i]);
}

void ty_token_cache_key(char key[TY_CACHE_KEY_SIZE], const char *stage, const char *picture_sha256,
                        const char *mode, const char *const *models, int n) {
    XXH3_state_t *s = XXH3_createState();
    XXH128_hash_t h = {0, 0};
    if (s && XXH3_128bits_reset(s) == XXH_OK) {
        XXH3_128bits_update(s, mode, strlen(mode) + 1);
        for (int i = 0; i < n; i++) XXH3_128bits_update(s, models[i], strlen(models[i]) + 1);
        h = XXH3_128bits_digest(s);
    }
    XXH3_freeState(s);
    snprintf(key, TY_CACHE_KEY_SIZE, "tyto:%s:%s:%016llx%016llx", stage, picture_sha256,
             (unsigned long long)h.high64, (unsigned long long)h.low64);
}

/* A reply's bytes as a tensor; a value that is not exactly what was put is no hit. */
static ty_status unpack(const redisReply *reply, ty_tensor *t, void **owned, ty_err *err) {
    header h;
    if (reply->type != REDIS_REPLY_STRING) return ty_fail(err, TY_ENOTFOUND, "not in the cache");
    if (reply->len < sizeof(h)) return ty_fail(err, TY_ENOTFOUND, "a cache entry is cut");
    memcpy(&h, reply->str, sizeof(h));
    const char *bytes = reply->str + sizeof(h);
    if (h.magic != MAGIC || h.n_dim < 0 || h.n_dim > TY_MAX_DIMS || !ty_dtype_get(h.dtype) ||
        h.size_bytes != reply->len - sizeof(h) || XXH3_64bits(bytes, h.size_bytes) != h.xxh3)
        return ty_fail(err, TY_ENOTFOUND, "a cache entry is damaged");
    void *copy = malloc(h.size_bytes ? h.size_bytes : 1);
    if (!copy) return ty_fail(err, TY_ENOTFOUND, "no memory for a cache entry");
    memcpy(copy, bytes, h.size_bytes);
    *t = (ty_tensor){
        .dtype = (ty_dtype)h.dtype, .n_dim = h.n_dim, .data = copy, .size_bytes = h.size_bytes};
    memcpy(t->shape, h.shape, sizeof(t->shape));
    *owned = copy;
    return TY_OK;
}

ty_status ty_token_cache_get(ty_token_cache *c, const char *key, ty_tensor *t, void **owned,
                             ty_err *err) {
    const char *argv[] = {"GET", key};
    size_t len[] = {3, strlen(key)};
    redisReply *reply;
    *owned = NULL;
    if (ty_redis_command(c->redis, 2, argv, len, &reply, err) != TY_OK) {
        if (err) err->code = TY_ENOTFOUND;
        return TY_ENOTFOUND;
    }
    ty_status st = unpack(reply, t, owned, err);
    freeReplyObject(reply);
    return st;
}

ty_status ty_token_cache_put(ty_token_cache *c, const char *key, const ty_tensor *t, ty_err *err) {
    header h = {.magic = MAGIC,
                .dtype = t->dtype,
                .n_dim = t->n_dim,
                .size_bytes = t->size_bytes,
                .xxh3 = XXH3_64bits(t->data, t->size_bytes)};
    memcpy(h.shape, t->shape, sizeof(h.shape));
    char *value = malloc(sizeof(h) + t->size_bytes);
    if (!value) return ty_fail(err, TY_ENOMEM, "no memory for a cache entry");
    memcpy(value, &h, sizeof(h));
    memcpy(value + sizeof(h), t->data, t->size_bytes);
    char ttl[16];
    snprintf(ttl, sizeof(ttl), "%d", c->ttl_s);
    const char *argv[] = {"SET", key, value, "EX", ttl};
    size_t len[] = {3, strlen(key), sizeof(h) + t->size_bytes, 2, strlen(ttl)};
    redisReply *reply;
    ty_status st = ty_redis_command(c->redis, c->ttl_s > 0 ? 5 : 3, argv, len, &reply, err);
    if (st == TY_OK) freeReplyObject(reply);
    free(value);
    return st;
}
