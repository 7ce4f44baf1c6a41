/*
 * gather.h - a request's pictures from wherever they are: inside the request, in the store by their file's id, or at an
 * address.  What is not there yet is asked for, all at once; the same file once.
 */
#ifndef GATEWAY_GATHER_H
#define GATEWAY_GATHER_H

#include "common/store/picture.h"
#include "common/store/redis_async.h"
#include "common/store/token_cache.h"
#include "services/gateway/fetch.h"

typedef struct gather gather;

typedef struct {
    char param[48];             /* "messages[0].content[1]" */
    char sha256[TY_SHA256_HEX]; /* "": not known (yet) */
    char *address;              /* http(s), to be fetched; NULL: none */
    uint8_t *bytes;             /* malloc'ed; NULL: not here yet */
    size_t size;
    bool video;
    bool stored; /* the conversation has it already */
} gathered;

typedef struct {
    ty_redis_async *redis;         /* NULL: no store */
    const ty_store_policy *policy; /* borrowed */
    const char *owner;             /* copied */
    fetch *fetch;                  /* NULL: nothing is fetched */
} gather_options;

/* Once, never from inside gather_create: all are there (failed < 0), or picture `failed` is not to be had, as
 * ty_picture_get or fetch_done_fn say. */
typedef void (*gather_done_fn)(void *ctx, int failed, const ty_err *err);

/* p is borrowed until done or gather_destroy and gets its bytes.  *out NULL: all are there already, done is not called.  Fails at once, with
 * *failed, for what is missing by itself. */
ty_status gather_create(gather **out, const gather_options *opt, gathered *p, int n,
                        gather_done_fn done, void *ctx, int *failed, ty_err *err);
/* Asks for nothing more; done is not called. */
void gather_destroy(gather **g);

void gathered_clear(gathered *p);

#endif
