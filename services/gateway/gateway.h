/*
 * gateway.h - the gateway process: HTTP on one side, brokers on the other, the requests in flight
 * between them, all in one libevent loop and one thread.
 *
 * The API files (api.c, api_chat.c) work on this struct; what they may use is commented as theirs.
 */
#ifndef GATEWAY_H
#define GATEWAY_H

#include "common/wire/endpoints.h"
#include "services/gateway/ask.h"
#include "services/gateway/auth.h"
#include "services/gateway/broker_link.h"
#include "services/gateway/fetch.h"
#include "services/gateway/gateway_metrics.h"
#include "services/gateway/http.h"
#include "services/gateway/lookup.h"
#include "common/store/redis_async.h"

enum { GATEWAY_PICTURE_MAX_BYTES = 64 << 20 };

typedef struct {
    const char *name;      /* "gateway.0", stable over restarts */
    const char *listen;    /* "127.0.0.1:8080", "[::1]:0" */
    bool share_port;       /* with other gateways */
    const char *port_file; /* NULL, or where the bound port is written */
    const char *connect;   /* brokers' gateway endpoints, with commas between */
    const char *keys;      /* directory of the keys for tcp endpoints; NULL or "" = none */
    bool insecure_tcp;     /* without keys: tcp beyond this machine all the same */
    const char *const *pipelines;
    int n_pipelines;
    const char *const *adapters; /* "[MODEL+]NAME=DIR" each */
    int n_adapters;
    const char *api_key_file;
    const char *cache_url; /* Redis that has the vision stages' outputs; "" or NULL = none */
    int timeout_s;         /* of a request */
    int part_timeout_s;    /* of one part, before it is sent again */
    int max_sends;         /* of one part */
    int max_body_mb;
    int max_connections;
    int max_in_flight;
    int drain_s;
    const char *redis_url;   /* the store of conversations; NULL, "", "none": there is none */
    const char *image_hosts; /* whose pictures are fetched; NULL or "": nobody's */
    bool image_private;      /* at addresses that are not public, too */
    int image_timeout_s;
    int conversation_ttl_s, owner_max_mb, owner_max_conversations;
} gateway_options;

typedef struct {
    ty_pipeline info;
    int64_t created; /* pipeline.json's time, for the API */
    char fingerprint[24];
    bool ready;
    int64_t ready_us; /* when it was ready last; 0 = never */
    ty_status status; /* why it is not ready */
    char reason[400]; /* the same as a sentence */
    /* Of preprocess, vit, abstractor; "" where its workers do not agree. */
    char arithmetic[LOOKUP_HOPS_MAX][160];
} gateway_pipeline;

typedef struct {
    gateway_options opt;
    struct event_base *base;
    struct event *tick, *sigterm, *sigint;
    bool hurried; /* the next tick comes soon */
    void *zmq;
    auth *auth;
    http_server *http;
    ty_redis_async *redis; /* NULL: no conversations */
    fetch *fetch;          /* NULL: no pictures from addresses */
    ty_store_policy store_policy;
    ty_keys wire_keys;
    ty_socket_security security;
    bool released; /* what a former life of this gateway held in the store */
    char life[24]; /* the incarnation, in leases */
    broker_link *link[TY_ENDPOINTS_MAX];
    int n_link;
    lookup *lookup; /* NULL: no cache */
    gateway_pipeline *pipeline;
    int n_pipeline;
    ask **ask; /* in flight, and finished ones until the next reaping */
    int n_ask, cap_ask;
    int n_waiting; /* requests in flight that have no ask: they wait for the store or a picture */
    bool draining;
    int64_t drain_until_us;
    uint64_t incarnation, n_request;
    gateway_metrics metrics;
} gateway;

/* Loads pipelines and keys, binds, connects.  Fails: as ty_pipeline_load, auth_create, http_server_create. */
ty_status gateway_create(gateway **out, const gateway_options *opt, ty_err *err);
/* Serves until SIGTERM or SIGINT, then drains. */
ty_status gateway_run(gateway *g, ty_err *err);
void gateway_destroy(gateway **g);

/* For the API files. */

gateway_pipeline *gateway_find(gateway *g, const char *model); /* NULL: unknown */
/* May a request for it be sent?  Ready, or ready so lately that the broker still holds tasks for it. */
bool gateway_accepts(const gateway *g, const gateway_pipeline *p);
int gateway_in_flight(const gateway *g);
/* Creates the request on the wire, and starts it: sink functions may run before it returns.  *out is
 * borrowed: valid until the sink's on_done, on_fail, or ask_cancel.  Takes pictures and decode over, also
 * on failure.  prefix: the HTTP request's id. */
ty_status gateway_ask(gateway *g, ask **out, const gateway_pipeline *p, const char *prefix,
                      const char *traceparent, ask_picture *pictures, int n_pictures,
                      Tyto__DecodeTask *decode, const ask_sink *sink, ty_err *err);
/* The sink's send and on_event, the same for all: ctx must begin with a `gateway *`. */
ty_status gateway_send(void *ctx, int *link, ty_message **m, ty_err *err);
void gateway_event(void *ctx, ask_event what, const char *stage);

/* The API (api.c). */
extern const http_route gateway_routes[];
void api_chat(void *ctx, http_call *c); /* api_chat.c */
/* api_conversations.c */
void api_conversations_list(void *ctx, http_call *c);
void api_conversation_get(void *ctx, http_call *c);
void api_conversation_delete(void *ctx, http_call *c);
void api_conversation_fork(void *ctx, http_call *c);
/* api_files.c */
void api_file_create(void *ctx, http_call *c);
void api_files_list(void *ctx, http_call *c);
void api_file_get(void *ctx, http_call *c);
void api_file_delete(void *ctx, http_call *c);
void api_file_content(void *ctx, http_call *c);

#endif
