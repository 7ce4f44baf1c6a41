/*
 * lookup.h - asks the cache for a picture's visual tokens before anything of it is sent: a picture of an earlier
 * turn then costs one question to Redis, and neither preprocessing nor ViT.
 *
 * The key is the abstractor's own (common/store/token_cache.h): the picture's hash, the models of the itinerary, and
 * the arithmetic of their workers, as the brokers say; where the workers of a stage compute differently there is no
 * such key, and the question is not asked.  Nobody waits long: a server that is away is not asked, one that is slow is
 * given up after LOOKUP_TIMEOUT_MS.
 */
#ifndef GATEWAY_LOOKUP_H
#define GATEWAY_LOOKUP_H

#include "common/wire/message.h"

#include <event2/event.h>

enum { LOOKUP_TIMEOUT_MS = 250, LOOKUP_HOPS_MAX = 3 };

typedef struct lookup lookup;

/* The answer about one part: *tokens is a message with the tensor and a record of the lookup, which fn may take; NULL:
 * not known, and `use` says whether it was missed or the server failed. */
typedef void (*lookup_fn)(void *ctx, const char *request_id, int part, ty_message **tokens,
                          Tyto__CacheUse use);

/* gateway: the name in the record.  Fails: TY_EINVAL (the URL), TY_ENOMEM.  A server that is away is no failure. */
ty_status lookup_create(lookup **out, struct event_base *base, const char *url, const char *gateway,
                        lookup_fn fn, void *ctx, ty_err *err);
void lookup_destroy(lookup **l);
/* A few times a second. */
void lookup_tick(lookup *l);
/* arithmetic: of each hop of the task's itinerary, which ends with the abstractor.  True: fn will be called. */
bool lookup_start(lookup *l, const Tyto__Envelope *task, const char *const *arithmetic);

#endif
