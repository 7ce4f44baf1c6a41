/*
 * ask.h - the life of one request over the wire: its pictures out and their visual tokens back, then the
 * decode task out and its tokens back.  Knows neither HTTP nor sockets.
 *
 * Part i < n_pictures is picture i on the itinerary preprocess -> vit -> abstractor; part n_pictures is the
 * decode task, sent when all visual tokens are there.  The same picture twice is sent once.
 *
 * A picture may be looked up in a cache first (ask_options.look_up); one whose visual tokens are found is not sent at
 * all.
 *
 * A part that does not come back is sent again with generation + 1 and attempt = the highest seen + 1: when
 * its broker was lost, when it failed for a transient cause, when nothing was heard of it for
 * part_timeout_us; at most max_sends times without a new token, and never after the deadline.  What comes
 * from an older generation is dropped.  A decode task that is sent again forces the tokens that the sink has
 * on its decoder (the broker does the same when it dispatches anew), and the indices in chunks
 * show a gap; so the sink sees each token once, whoever computes it.  Beams start over: they give no token
 * before the end.
 *
 * The owner calls ask_tick now and then, and destroys the ask when ask_finished says so (not from
 * inside a sink function).  One thread.
 */
#ifndef GATEWAY_ASK_H
#define GATEWAY_ASK_H

#include "common/model/pipeline.h"
#include "common/wire/message.h"

typedef struct ask ask;

typedef enum {
    ASK_RESENT,       /* a part goes out again */
    ASK_LATE,         /* a message of an older generation was dropped */
    ASK_REDISPATCHED, /* the broker gave a hop to another worker */
} ask_event;

typedef struct {
    void *ctx;
    /* Hands a message to broker *link, or, with *link < 0, to one that is up (and says which).
     * Consumes *m on success.  TY_EUNAVAILABLE, TY_EOVERLOAD: tried again later. */
    ty_status (*send)(void *ctx, int *link, ty_message **m, ty_err *err);
    /* A part is complete: its last message (timings, stamps), after `sends` sends. */
    void (*on_part)(void *ctx, int part, const ty_message *m, int sends);
    /* Tokens in order, each index once.  more: the next one is here already. */
    void (*on_token)(void *ctx, const Tyto__TokenInfo *t, bool more);
    /* Exactly one of the two, last. */
    void (*on_done)(void *ctx, const Tyto__DecodeResult *r);
    /* stage "": the broker or the gateway; picture < 0: not about one. */
    void (*on_fail)(void *ctx, ty_status st, const char *stage, const char *text, int picture);
    void (*on_event)(void *ctx, ask_event what, const char *stage);
} ask_sink;

typedef struct {
    const char *request_id;      /* unique among all gateways; copied, as all texts */
    const char *traceparent;     /* may be NULL */
    const ty_pipeline *pipeline; /* borrowed for the call */
    int64_t deadline_us;         /* ty_now_us() */
    int64_t part_timeout_us;
    int max_sends;
    ask_sink sink;
    /* Asks a cache for the visual tokens that this picture's task would give; true: ask_looked_up will be called.
     * NULL: there is none. */
    bool (*look_up)(void *ctx, const Tyto__Envelope *task);
    void *look_up_ctx;
} ask_options;

typedef struct {
    uint8_t *bytes; /* malloc'ed file */
    size_t size;
    const char *sha256; /* of the bytes; NULL or "": not known yet */
    bool upright;       /* to be turned as its EXIF orientation says */
    bool video;         /* the file is one */
} ask_picture;

/* Takes the pictures' bytes and the decode task over, also on failure.  Sends nothing yet.  Fails:
 * TY_ENOMEM, TY_EUNSUPPORTED (pictures for a pipeline without vision, videos for one that sees none), TY_ELIMIT. */
ty_status ask_create(ask **out, const ask_options *opt, ask_picture *pictures, int n_pictures,
                     Tyto__DecodeTask *decode, ty_err *err);
void ask_start(ask *a);
/* A message from broker `link` for this request; takes it over. */
void ask_message(ask *a, int link, ty_message **m);
/* The visual tokens of picture `part` (taken over), or *m NULL: it goes its way. */
void ask_looked_up(ask *a, int part, ty_message **m);
void ask_tick(ask *a);
/* Monotonic: before then ask_tick has nothing to do, unless something comes in between. */
int64_t ask_due_us(const ask *a);
/* Broker `link` is gone: what it had is sent again. */
void ask_link_lost(ask *a, int link);
/* Nobody wants the answer: cancels every open part; no sink function is called any more. */
void ask_cancel(ask *a);
bool ask_finished(const ask *a);
const char *ask_id(const ask *a);
void ask_destroy(ask **a);

#endif
