/* token_cache.c - see token_cache.h. */
#include "common/store/token_cache.h"

#include "common/base/clock.h"

#include <openssl/sha.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

enum {
    TIMEOUT_MS = 250,
    PAUSE_US = 250000,
    PAUSE_MAX_US = 8000000,
    MAGIC = 0x31435954 /* "TYC1" */
};

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
    int64_t away_until_us, pause_us; /* left alone after it did not answer */
};

ty_status ty_token_cache_create(ty_token_cache **out, const char *url, int ttl_s, ty_err *err) {
    *out = NULL;
    ty_token_cache *c = calloc(1, sizeof(*c));
    if (!c) return ty_fail(err, TY_ENOMEM, "no memory for the cache's client");
    c->ttl_s = ttl_s;
    c->pause_us = PAUSE_US;
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

bool ty_sha256_valid(const char *text) {
    return strlen(text) == TY_SHA256_HEX - 1 &&
           strspn(text, "0123456789abcdef") == TY_SHA256_HEX - 1;
}

/* Texts with their ends, so that no two lists of them are the same bytes. */
static void add_text(XXH3_state_t *s, const char *text) {
    XXH3_128bits_update(s, text ? text : "", strlen(text ? text : "") + 1);
}

void ty_token_cache_key(char key[TY_CACHE_KEY_SIZE], const char *stage, const ty_picture_key *p,
                        const ty_stage_key *steps, int n) {
    XXH3_state_t *s = XXH3_createState();
    XXH128_hash_t h = {0, 0};
    if (s && XXH3_128bits_reset(s) == XXH_OK) {
        add_text(s, p->mode);
        add_text(s, p->upright ? "upright" : "");
        for (int i = 0; i < n; i++) {
            add_text(s, steps[i].model);
            add_text(s, steps[i].arithmetic);
        }
        h = XXH3_128bits_digest(s);
    }
    XXH3_freeState(s);
    snprintf(key, TY_CACHE_KEY_SIZE, "tyto:%.20s:%.64s:%016llx%016llx", stage, p->sha256,
             (unsigned long long)h.high64, (unsigned long long)h.low64);
}

/* A value that is not exactly what was put is no hit. */
ty_status ty_token_cache_read(const redisReply *reply, ty_tensor *t, void **owned, ty_err *err) {
    header h;
    *owned = NULL;
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

/* A command, unless the server did not answer a moment ago. */
static ty_status command(ty_token_cache *c, int argc, const char *const *argv, const size_t *len,
                         redisReply **reply, ty_err *err) {
    int64_t now = ty_now_us();
    if (now < c->away_until_us) return ty_fail(err, TY_EUNAVAILABLE, "the cache is left alone");
    ty_status st = ty_redis_command(c->redis, argc, argv, len, reply, err);
    if (st == TY_OK || st == TY_EINTERNAL) { /* a refusal is an answer too */
        c->pause_us = PAUSE_US;
        return st;
    }
    c->away_until_us = ty_now_us() + c->pause_us;
    c->pause_us = 2 * c->pause_us < PAUSE_MAX_US ? 2 * c->pause_us : PAUSE_MAX_US;
    return st;
}

ty_status ty_token_cache_get(ty_token_cache *c, const char *key, ty_tensor *t, void **owned,
                             ty_err *err) {
    const char *argv[] = {"GET", key};
    size_t len[] = {3, strlen(key)};
    redisReply *reply;
    *owned = NULL;
    if (command(c, 2, argv, len, &reply, err) != TY_OK) {
        if (err) err->code = TY_EUNAVAILABLE;
        return TY_EUNAVAILABLE;
    }
    ty_status st = ty_token_cache_read(reply, t, owned, err);
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
    ty_status st = command(c, c->ttl_s > 0 ? 5 : 3, argv, len, &reply, err);
    if (st == TY_OK) freeReplyObject(reply);
    free(value);
    return st;
}
