/* gateway.c - see gateway.h. */
#include "services/gateway/gateway.h"
#include "services/gateway/turn.h"

#include "common/base/clock.h"
#include "common/base/file.h"
#include "common/base/log.h"
#include "common/model/adapter.h"
#include "common/wire/socket.h"

#include <inttypes.h>
#include <openssl/rand.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

enum {
    TICK_MS = 20,       /* while something is not as it should be */
    CALM_TICK_MS = 100, /* else at most: a wake-up costs as much as a chunk of a stream */
    IDLE_S = 75,
    WRITE_S = 60,
    MAX_BACKLOG_BYTES = 4 << 20,
    STORE_TIMEOUT_MS = 5000,
    READY_GRACE_US = 25 * 1000 * 1000, /* under the broker's own grace for a lost stage */
};

static void tick_in(gateway *g, int64_t us) {
    struct timeval t = {.tv_sec = us / 1000000, .tv_usec = us % 1000000};
    if (g->tick) (void)event_add(g->tick, &t);
}

/* Something has changed that the next tick shall see to. */
static void hurry(gateway *g) {
    if (!g->hurried) tick_in(g, TICK_MS * 1000);
    g->hurried = true;
}

/* ---- brokers ---- */

static Tyto__PipelineSpec *pipeline_spec(const ty_pipeline *p) {
    Tyto__PipelineSpec *s = ty_pb_new(&tyto__pipeline_spec__descriptor);
    if (!s || ty_pb_set_str(&s->name, p->name) != TY_OK) goto failed;
    for (int k = 0; k < TY_STAGE_COUNT; k++) {
        if (!*p->path[k]) continue;
        Tyto__Hop *h = ty_pb_new(&tyto__hop__descriptor);
        if (!h || ty_pb_append(&s->hops, &s->n_hops, h) != TY_OK) {
            free(h);
            goto failed;
        }
        if (ty_pb_set_str(&h->stage, ty_stage_name((ty_stage_kind)k)) != TY_OK ||
            ty_pb_set_str(&h->model, p->model_id[k]) != TY_OK ||
            ty_pb_set_str(&h->adapter, k == TY_STAGE_DECODER ? p->adapter_id : "") != TY_OK)
            goto failed;
    }
    return s;
failed:
    if (s) tyto__pipeline_spec__free_unpacked(s, NULL);
    return NULL;
}

static Tyto__GatewayHello *make_hello(void *ctx) {
    gateway *g = ctx;
    Tyto__GatewayHello *h = ty_pb_new(&tyto__gateway_hello__descriptor);
    if (!h || ty_pb_set_str(&h->gateway, g->opt.name) != TY_OK) goto failed;
    h->incarnation = g->incarnation;
    h->pid = (uint32_t)getpid();
    for (int i = 0; i < g->n_pipeline; i++) {
        Tyto__PipelineSpec *s = pipeline_spec(&g->pipeline[i].info);
        if (!s || ty_pb_append(&h->pipelines, &h->n_pipelines, s) != TY_OK) {
            if (s) tyto__pipeline_spec__free_unpacked(s, NULL);
            goto failed;
        }
    }
    return h;
failed:
    if (h) tyto__gateway_hello__free_unpacked(h, NULL);
    return NULL;
}

static int count_in_flight(void *ctx) {
    return gateway_in_flight(ctx);
}

static const Tyto__PipelineState *find_state(const broker_link *l, const char *name) {
    const Tyto__Welcome *w = broker_link_welcome(l);
    for (size_t i = 0; w && i < w->n_pipelines; i++)
        if (strcmp(w->pipelines[i]->name, name) == 0) return w->pipelines[i];
    return NULL;
}

/* Ready by any broker; else the reason of the last one asked. */
static void refresh_pipeline(gateway *g, gateway_pipeline *p) {
    bool was = p->ready;
    p->ready = false;
    p->status = TY_EUNAVAILABLE;
    snprintf(p->reason, sizeof(p->reason), "no broker is configured");
    for (int i = 0; i < g->n_link && !p->ready; i++) {
        const Tyto__PipelineState *s = find_state(g->link[i], p->info.name);
        if (s && s->ready && broker_link_takes(g->link[i])) {
            p->ready = true;
        } else if (s && !s->ready) {
            p->status = ty_status_from_name(s->status);
            snprintf(p->reason, sizeof(p->reason), "%.390s", s->reason);
        } else {
            snprintf(p->reason, sizeof(p->reason), "%s",
                     s                            ? "the broker is shutting down"
                     : broker_link_up(g->link[i]) ? "the broker has not spoken of it yet"
                                                  : broker_link_reason(g->link[i]));
        }
    }
    if (p->ready) {
        p->status = TY_OK;
        p->reason[0] = '\0';
        p->ready_us = ty_now_us();
    }
    if (was != p->ready)
        ty_info("pipeline=%s ready=%d%s%s", p->info.name, p->ready,
                p->ready ? "" : " reason=", p->reason);
}

/* How all workers of a stage compute, at all brokers; "" when they differ, or when there is none. */
static void refresh_arithmetic(gateway *g, gateway_pipeline *p, ty_stage_kind k) {
    const char *all = NULL;
    p->arithmetic[k][0] = '\0';
    for (int i = 0; i < g->n_link; i++) {
        const Tyto__PipelineState *s = find_state(g->link[i], p->info.name);
        for (size_t j = 0; s && j < s->n_stages; j++) {
            const Tyto__StageState *stage = s->stages[j];
            if (strcmp(stage->stage, ty_stage_name(k)) != 0) continue;
            for (size_t x = 0; x < stage->n_arithmetic; x++) {
                if (all && strcmp(all, stage->arithmetic[x]) != 0) return;
                all = stage->arithmetic[x];
            }
        }
    }
    if (all && strlen(all) < sizeof(p->arithmetic[k]))
        memcpy(p->arithmetic[k], all, strlen(all) + 1);
}

static void on_change(void *ctx, int index) {
    (void)index;
    gateway *g = ctx;
    for (int i = 0; i < g->n_pipeline; i++) {
        refresh_pipeline(g, &g->pipeline[i]);
        for (int k = TY_STAGE_PREPROCESS; k <= TY_STAGE_ABSTRACTOR; k++)
            refresh_arithmetic(g, &g->pipeline[i], (ty_stage_kind)k);
    }
    hurry(g);
}

static void on_lost(void *ctx, int index) {
    gateway *g = ctx;
    for (int i = 0; i < g->n_ask; i++) ask_link_lost(g->ask[i], index);
    hurry(g);
}

static void on_message(void *ctx, int index, ty_message **m) {
    gateway *g = ctx;
    for (int i = 0; i < g->n_ask; i++)
        if (strcmp(ask_id(g->ask[i]), (*m)->env->request_id) == 0) {
            ask_message(g->ask[i], index, m);
            return;
        }
    /* Of a request that ended meanwhile: usual after a cancel. */
}

static ty_status connect_broker(gateway *g, const char *endpoint, ty_err *err) {
    broker_link_options o = {.endpoint = endpoint,
                             .security = &g->security,
                             .index = g->n_link,
                             .ctx = g,
                             .hello = make_hello,
                             .in_flight = count_in_flight,
                             .on_message = on_message,
                             .on_change = on_change,
                             .on_lost = on_lost};
    ty_status st = broker_link_create(&g->link[g->n_link], g->zmq, g->base, &o, err);
    if (st == TY_OK) g->n_link++;
    return st;
}

static ty_status connect_brokers(gateway *g, ty_err *err) {
    ty_endpoints e;
    ty_status st = ty_endpoints_parse(&e, g->opt.connect, err);
    g->security.insecure = g->opt.insecure_tcp;
    if (st == TY_OK && g->opt.keys && *g->opt.keys) {
        st = ty_keys_load(&g->wire_keys, g->opt.keys, "gateway", err);
        g->security.keys = &g->wire_keys;
    }
    for (int i = 0; st == TY_OK && i < e.n; i++) st = connect_broker(g, e.item[i], err);
    ty_endpoints_clear(&e);
    return st;
}

/* ---- pipelines ---- */

static void take_fingerprint(gateway_pipeline *p) {
    XXH64_hash_t h = XXH3_64bits(p->info.model_id, sizeof(p->info.model_id));
    if (*p->info.adapter_id)
        h = XXH3_64bits_withSeed(p->info.adapter_id, strlen(p->info.adapter_id), h);
    snprintf(p->fingerprint, sizeof(p->fingerprint), "fp_%016" PRIx64, (uint64_t)h);
}

static ty_status load_pipeline(gateway_pipeline *p, const char *dir, ty_err *err) {
    ty_status st = ty_pipeline_load(&p->info, dir, err);
    if (st != TY_OK) return st;
    if (!*p->info.path[TY_STAGE_DECODER])
        return ty_fail(err, TY_EFORMAT, "%s: the pipeline has no decoder", dir);
    char path[TY_PIPELINE_PATH + 32];
    struct stat s;
    snprintf(path, sizeof(path), "%s/pipeline.json", dir);
    p->created = stat(path, &s) == 0 ? (int64_t)s.st_mtime : 0;
    take_fingerprint(p);
    return TY_OK;
}

/* The pipelines so far, each with the adapters that are for it. */
static ty_status load_adapter(gateway *g, const char *text, int n_base, ty_err *err) {
    ty_adapter_option o;
    ty_status st = ty_adapter_option_parse(&o, text, err);
    int base = 0;
    while (st == TY_OK && base < n_base &&
           !ty_adapter_option_is_for(&o, g->pipeline[base].info.name, n_base))
        base++;
    if (st == TY_OK && base == n_base)
        st = ty_fail(err, TY_ENOTFOUND, "--adapter %.200s: %s", text,
                     *o.model ? "no pipeline has that name"
                              : "there are several pipelines: MODEL+NAME=DIR says which");
    if (st != TY_OK) return st;
    gateway_pipeline *p = &g->pipeline[g->n_pipeline];
    *p = g->pipeline[base];
    st = ty_pipeline_adapt(&p->info, &o, err);
    if (st != TY_OK) return st;
    if (gateway_find(g, p->info.name))
        return ty_fail(err, TY_EEXIST, "two models are called %s", p->info.name);
    take_fingerprint(p);
    g->n_pipeline++;
    return TY_OK;
}

static ty_status load_pipelines(gateway *g, ty_err *err) {
    int n = g->opt.n_pipelines;
    if (n == 0) return ty_fail(err, TY_EINVAL, "no pipeline: give a directory with --pipeline");
    g->pipeline = calloc((size_t)n + (size_t)g->opt.n_adapters, sizeof(*g->pipeline));
    if (!g->pipeline) return ty_fail(err, TY_ENOMEM, "no memory for the pipelines");
    for (int i = 0; i < n; i++) {
        ty_status st = load_pipeline(&g->pipeline[i], g->opt.pipelines[i], err);
        if (st != TY_OK) return st;
        if (gateway_find(g, g->pipeline[i].info.name))
            return ty_fail(err, TY_EEXIST,
                           "two pipelines are called %s; rename one of the directories",
                           g->pipeline[i].info.name);
        g->n_pipeline++;
    }
    for (int i = 0; i < g->opt.n_adapters; i++) {
        ty_status st = load_adapter(g, g->opt.adapters[i], n, err);
        if (st != TY_OK) return st;
    }
    return TY_OK;
}

gateway_pipeline *gateway_find(gateway *g, const char *model) {
    for (int i = 0; i < g->n_pipeline; i++)
        if (strcmp(g->pipeline[i].info.name, model) == 0) return &g->pipeline[i];
    return NULL;
}

bool gateway_accepts(const gateway *g, const gateway_pipeline *p) {
    (void)g;
    return p->ready || (p->ready_us && ty_now_us() - p->ready_us < READY_GRACE_US);
}

/* ---- requests ---- */

int gateway_in_flight(const gateway *g) {
    int n = g->n_waiting;
    for (int i = 0; i < g->n_ask; i++) n += !ask_finished(g->ask[i]);
    return n;
}

static void reap(gateway *g) {
    int kept = 0;
    for (int i = 0; i < g->n_ask; i++) {
        if (ask_finished(g->ask[i]))
            ask_destroy(&g->ask[i]);
        else
            g->ask[kept++] = g->ask[i];
    }
    g->n_ask = kept;
}

/* ---- the cache ---- */

static bool look_up(void *ctx, const Tyto__Envelope *task) {
    gateway *g = ctx;
    const gateway_pipeline *p = gateway_find(g, task->pipeline);
    if (!g->lookup || !p) return false;
    const char *const arithmetic[] = {p->arithmetic[0], p->arithmetic[1], p->arithmetic[2]};
    return lookup_start(g->lookup, task, arithmetic);
}

static void on_looked_up(void *ctx, const char *request_id, int part, ty_message **m,
                         Tyto__CacheUse use) {
    gateway *g = ctx;
    if (use != TYTO__CACHE_USE__CACHE_HIT) gateway_metrics_lookup(&g->metrics, use);
    for (int i = 0; i < g->n_ask; i++)
        if (strcmp(ask_id(g->ask[i]), request_id) == 0) {
            ask_looked_up(g->ask[i], part, m);
            return;
        }
    /* Of a request that was cancelled meanwhile. */
}

/* ---- asking ---- */

static ty_status add_ask(gateway *g, ask *a) {
    if (g->n_ask == g->cap_ask) {
        int cap = g->cap_ask ? 2 * g->cap_ask : 16;
        ask **p = realloc(g->ask, (size_t)cap * sizeof(*p));
        if (!p) return TY_ENOMEM;
        g->ask = p;
        g->cap_ask = cap;
    }
    g->ask[g->n_ask++] = a;
    return TY_OK;
}

ty_status gateway_ask(gateway *g, ask **out, const gateway_pipeline *p, const char *prefix,
                      const char *traceparent, ask_picture *pictures, int n_pictures,
                      Tyto__DecodeTask *decode, const ask_sink *sink, ty_err *err) {
    /* A client may use its id twice; the wire's must be one of a kind, among gateways too. */
    char id[160];
    snprintf(id, sizeof(id), "%.64s.%.24s.%" PRIx64 ".%" PRIu64, prefix, g->opt.name,
             g->incarnation, ++g->n_request);
    ask_options o = {.request_id = id,
                     .traceparent = traceparent,
                     .pipeline = &p->info,
                     .deadline_us = ty_now_us() + (int64_t)g->opt.timeout_s * 1000000,
                     .part_timeout_us = (int64_t)g->opt.part_timeout_s * 1000000,
                     .max_sends = g->opt.max_sends,
                     .sink = *sink,
                     .look_up = look_up,
                     .look_up_ctx = g};
    ask *a = NULL;
    ty_status st = ask_create(&a, &o, pictures, n_pictures, decode, err);
    if (st != TY_OK) return st;
    if (add_ask(g, a) != TY_OK) {
        ask_destroy(&a);
        return ty_fail(err, TY_ENOMEM, "no memory for another request");
    }
    *out = a;
    ask_start(a);
    return TY_OK;
}

/* ---- which broker ---- */

/* Two tries for a message's place among the brokers: those where its pipeline is ready; then any that
 * takes tasks, for what it lacks may come. */
static bool is_candidate(const broker_link *l, const char *pipeline, bool must_be_ready) {
    if (!broker_link_takes(l)) return false;
    if (!must_be_ready) return true;
    const Tyto__PipelineState *s = find_state(l, pipeline);
    return s && s->ready;
}

/* What draws a message's broker: a decode task the first beginning of its prompt, which later turns of the
 * conversation share, also when a client sends all of them anew; a picture its request. */
static uint64_t draw_of(const Tyto__Envelope *e) {
    const Tyto__DecodeTask *d = e->body_case == TYTO__ENVELOPE__BODY_TASK ? e->task->decode : NULL;
    if (d && d->n_prefix_keys > 0) return d->prefix_keys[d->n_prefix_keys - 1];
    return XXH3_64bits(e->request_id, strlen(e->request_id));
}

/* The brokers of a message, best first.  The order is drawn from it and the brokers' addresses, so that load
 * is spread, every gateway sends a conversation to the same broker, which knows what decoder holds its
 * prefix, and the loss of one moves nobody else's. */
static int rank_links(const gateway *g, const Tyto__Envelope *e, int *order) {
    uint64_t draw = draw_of(e);
    uint64_t score[TY_ENDPOINTS_MAX];
    int n = 0;
    for (int ready = 1; ready >= 0 && n == 0; ready--)
        for (int i = 0; i < g->n_link; i++) {
            if (!is_candidate(g->link[i], e->pipeline, ready)) continue;
            const char *address = broker_link_endpoint(g->link[i]);
            uint64_t s = XXH3_64bits_withSeed(address, strlen(address), draw);
            int k = n++;
            for (; k > 0 && score[k - 1] < s; k--) {
                score[k] = score[k - 1];
                order[k] = order[k - 1];
            }
            score[k] = s;
            order[k] = i;
        }
    return n;
}

/* A part that is sent again goes to the next one: what failed here may succeed there. */
static ty_status send_to_any(gateway *g, int *link, ty_message **m, ty_err *err) {
    int order[TY_ENDPOINTS_MAX], n = rank_links(g, (*m)->env, order);
    uint32_t first = (*m)->env->generation > 0 ? (*m)->env->generation - 1 : 0;
    ty_status st = TY_OK;
    if (n == 0)
        return ty_fail(err, TY_EUNAVAILABLE, "%s",
                       broker_link_up(g->link[0]) ? "the broker is shutting down"
                                                  : broker_link_reason(g->link[0]));
    for (int i = 0; i < n; i++) {
        *link = order[(first + (uint32_t)i) % (uint32_t)n];
        st = broker_link_send(g->link[*link], m, err);
        if (st == TY_OK) break;
    }
    return st;
}

ty_status gateway_send(void *ctx, int *link, ty_message **m, ty_err *err) {
    gateway *g = *(gateway *const *)ctx;
    ty_status st =
        *link >= 0 ? broker_link_send(g->link[*link], m, err) : send_to_any(g, link, m, err);
    if (st != TY_OK) hurry(g);
    return st;
}

void gateway_event(void *ctx, ask_event what, const char *stage) {
    gateway *g = *(gateway *const *)ctx;
    if (what == ASK_RESENT) hurry(g);
    if (what == ASK_RESENT) ty_metric_add(g->metrics.resent, 1, TY_LABELS(stage));
    if (what == ASK_REDISPATCHED) ty_metric_add(g->metrics.redispatched, 1, TY_LABELS(stage));
    if (what == ASK_LATE) ty_metric_add(g->metrics.late, 1, NULL);
}

/* ---- loop ---- */

static void tick_store(gateway *g) {
    ty_redis_async_tick(g->redis);
    if (!g->released && ty_redis_async_up(g->redis))
        g->released = turn_release(g->redis, g->opt.name, g->life, NULL) == TY_OK;
}

/* When the next tick is wanted at the latest. */
static int64_t next_tick_us(const gateway *g, int64_t now) {
    int64_t soon = now + TICK_MS * 1000, due = now + CALM_TICK_MS * 1000;
    if (g->draining || (g->redis && !ty_redis_async_up(g->redis))) due = soon;
    for (int i = 0; i < g->n_link; i++) {
        int64_t at = broker_link_due_us(g->link[i]);
        if (at < due) due = at;
    }
    for (int i = 0; i < g->n_ask; i++) {
        int64_t at = ask_due_us(g->ask[i]);
        if (at < due) due = at;
    }
    return due < soon ? soon : due;
}

static void on_tick(evutil_socket_t fd, short what, void *arg) {
    (void)fd, (void)what;
    gateway *g = arg;
    g->hurried = false;
    for (int i = 0; i < g->n_link; i++) broker_link_tick(g->link[i]);
    for (int i = 0; i < g->n_ask; i++) ask_tick(g->ask[i]);
    if (g->redis) tick_store(g);
    if (g->lookup) lookup_tick(g->lookup);
    reap(g);
    for (int i = 0; i < g->n_pipeline; i++)
        if (g->pipeline[i].ready) g->pipeline[i].ready_us = ty_now_us();
    int64_t now = ty_now_us();
    if (!g->hurried) tick_in(g, next_tick_us(g, now) - now);
    if (!g->draining) return;
    if (http_server_active(g->http) == 0 || ty_now_us() > g->drain_until_us)
        event_base_loopbreak(g->base);
}

static void on_signal(evutil_socket_t sig, short what, void *arg) {
    (void)what;
    gateway *g = arg;
    if (g->draining) { /* the second one means it */
        event_base_loopbreak(g->base);
        return;
    }
    ty_info("signal=%d drains in_flight=%d", (int)sig, gateway_in_flight(g));
    g->draining = true;
    g->drain_until_us = ty_now_us() + (int64_t)g->opt.drain_s * 1000000;
    http_server_drain(g->http);
    hurry(g);
}

static void on_finish(void *ctx, const char *route, int status, int64_t us) {
    (void)us;
    gateway *g = ctx;
    char code[12];
    snprintf(code, sizeof(code), "%d", status);
    ty_metric_add(g->metrics.requests, 1, TY_LABELS(route, code));
}

/* "host:port", "[v6]:port" */
static ty_status parse_listen(const char *text, char *host, size_t size, int *port, ty_err *err) {
    const char *colon = strrchr(text, ':');
    char *end = NULL;
    long n = colon ? strtol(colon + 1, &end, 10) : -1;
    if (!colon || end == colon + 1 || *end || n < 0 || n > 65535)
        return ty_fail(err, TY_EINVAL, "--listen %s: want HOST:PORT, as 127.0.0.1:8080", text);
    size_t len = (size_t)(colon - text);
    if (len >= 2 && text[0] == '[' && text[len - 1] == ']') {
        text++;
        len -= 2;
    }
    if (len == 0 || len >= size)
        return ty_fail(err, TY_EINVAL, "--listen: want HOST:PORT, as 127.0.0.1:8080");
    memcpy(host, text, len);
    host[len] = '\0';
    *port = (int)n;
    return TY_OK;
}

static bool is_loopback(const char *host) {
    return strncmp(host, "127.", 4) == 0 || strcmp(host, "::1") == 0 ||
           strcmp(host, "localhost") == 0;
}

static ty_status listen_http(gateway *g, ty_err *err) {
    char host[256];
    int port = 0;
    ty_status st = parse_listen(g->opt.listen, host, sizeof(host), &port, err);
    if (st != TY_OK) return st;
    http_options o = {.host = host,
                      .port = port,
                      .share_port = g->opt.share_port,
                      .max_connections = g->opt.max_connections,
                      .max_body_bytes = (size_t)g->opt.max_body_mb << 20,
                      .max_backlog_bytes = MAX_BACKLOG_BYTES,
                      .idle_s = IDLE_S,
                      .write_s = WRITE_S,
                      .auth = g->auth,
                      .routes = gateway_routes,
                      .ctx = g,
                      .on_finish = on_finish};
    st = http_server_create(&g->http, g->base, &o, err);
    if (st != TY_OK) return st;
    if (!is_loopback(host) && !auth_has_keys(g->auth))
        ty_warn("listens on %s, which others can reach, WITHOUT API keys: anybody may use it; "
                "give --api-key-file, or --listen 127.0.0.1:PORT",
                host);
    if (auth_plain_keys(g->auth) > 0)
        ty_warn("%s holds %d keys as they stand; `tyto keys --api` stores digests instead",
                g->opt.api_key_file, auth_plain_keys(g->auth));
    ty_info("listen=%s port=%d keys=%d", host, http_server_port(g->http), auth_has_keys(g->auth));
    return TY_OK;
}

static ty_status write_port(const gateway *g, ty_err *err) {
    char text[16];
    if (!g->opt.port_file || !*g->opt.port_file) return TY_OK;
    int n = snprintf(text, sizeof(text), "%d\n", http_server_port(g->http));
    return ty_file_write_atomic(g->opt.port_file, text, (size_t)n, err);
}

static ty_status connect_store(gateway *g, ty_err *err) {
    const gateway_options *o = &g->opt;
    snprintf(g->life, sizeof(g->life), "%" PRIx64 "-", g->incarnation);
    if (!o->redis_url || !*o->redis_url || strcmp(o->redis_url, "none") == 0) return TY_OK;
    g->store_policy = (ty_store_policy){.ttl_s = o->conversation_ttl_s,
                                        .owner_max_bytes = (int64_t)o->owner_max_mb << 20,
                                        .owner_max_count = o->owner_max_conversations};
    ty_status st = ty_redis_async_create(&g->redis, g->base, o->redis_url, STORE_TIMEOUT_MS, err);
    if (st != TY_OK) ty_err_context(err, "--redis-url");
    return st;
}

static ty_status connect_cache(gateway *g, ty_err *err) {
    const char *url = g->opt.cache_url;
    if (!url || !*url || strcmp(url, "none") == 0) return TY_OK;
    ty_status st = lookup_create(&g->lookup, g->base, url, g->opt.name, on_looked_up, g, err);
    if (st != TY_OK) ty_err_context(err, "--cache-url");
    return st;
}

static ty_status start_fetch(gateway *g, ty_err *err) {
    if (!g->opt.image_hosts || !*g->opt.image_hosts) return TY_OK;
    fetch_options o = {.hosts = g->opt.image_hosts,
                       .allow_private = g->opt.image_private,
                       .max_bytes = GATEWAY_PICTURE_MAX_BYTES,
                       .timeout_ms = g->opt.image_timeout_s * 1000};
    ty_status st = fetch_create(&g->fetch, g->base, &o, err);
    if (st != TY_OK) ty_err_context(err, "--image-hosts");
    return st;
}

static ty_status make_events(gateway *g, ty_err *err) {
    g->tick = event_new(g->base, -1, 0, on_tick, g);
    g->sigterm = evsignal_new(g->base, SIGTERM, on_signal, g);
    g->sigint = evsignal_new(g->base, SIGINT, on_signal, g);
    if (!g->tick || !g->sigterm || !g->sigint || event_add(g->sigterm, NULL) != 0 ||
        event_add(g->sigint, NULL) != 0)
        return ty_fail(err, TY_ENOMEM, "no memory for the event loop");
    hurry(g);
    return TY_OK;
}

/* What libevent has to say goes where all else goes. */
static void on_libevent_log(int severity, const char *text) {
    ty_log(severity == EVENT_LOG_DEBUG ? TY_LOG_DEBUG
           : severity == EVENT_LOG_MSG ? TY_LOG_INFO
           : severity == EVENT_LOG_ERR ? TY_LOG_ERROR
                                       : TY_LOG_WARN,
           "libevent: %s", text);
}

ty_status gateway_create(gateway **out, const gateway_options *opt, ty_err *err) {
    *out = NULL;
    gateway *g = calloc(1, sizeof(*g));
    if (!g) return ty_fail(err, TY_ENOMEM, "no memory for the gateway");
    g->opt = *opt;
    event_set_log_callback(on_libevent_log);
    g->incarnation = (uint64_t)ty_now_unix_us();
    g->base = event_base_new();
    g->zmq = ty_socket_context();
    ty_status st = TY_OK;
    if (!g->base || !g->zmq || gateway_metrics_init(&g->metrics) != TY_OK)
        st = ty_fail(err, TY_ENOMEM, "no memory for the gateway");
    if (st == TY_OK) st = load_pipelines(g, err);
    if (st == TY_OK) st = auth_create(&g->auth, opt->api_key_file, err);
    if (st == TY_OK) st = make_events(g, err);
    if (st == TY_OK) st = connect_brokers(g, err);
    if (st == TY_OK) st = connect_store(g, err);
    if (st == TY_OK) st = start_fetch(g, err);
    if (st == TY_OK) st = connect_cache(g, err);
    if (st == TY_OK) st = listen_http(g, err);
    if (st == TY_OK) st = write_port(g, err);
    if (st != TY_OK) {
        gateway_destroy(&g);
        return st;
    }
    on_change(g, 0);
    *out = g;
    return TY_OK;
}

ty_status gateway_run(gateway *g, ty_err *err) {
    if (event_base_dispatch(g->base) < 0) return ty_fail(err, TY_EIO, "the event loop failed");
    ty_info("ends in_flight=%d", gateway_in_flight(g));
    return TY_OK;
}

void gateway_destroy(gateway **gp) {
    if (!gp || !*gp) return;
    gateway *g = *gp;
    http_server_destroy(
        &g->http); /* the clients that are left go away: their requests are cancelled */
    reap(g);
    for (int i = 0; i < g->n_ask; i++) ask_destroy(&g->ask[i]);
    free(g->ask);
    ty_redis_async_destroy(&g->redis);
    fetch_destroy(&g->fetch);
    lookup_destroy(&g->lookup);
    for (int i = 0; i < g->n_link; i++) broker_link_destroy(&g->link[i]);
    ty_keys_clear(&g->wire_keys);
    if (g->tick) event_free(g->tick);
    if (g->sigterm) event_free(g->sigterm);
    if (g->sigint) event_free(g->sigint);
    if (g->base) event_base_free(g->base);
    if (g->zmq) zmq_ctx_term(g->zmq);
    auth_destroy(&g->auth);
    gateway_metrics_clear(&g->metrics);
    free(g->pipeline);
    free(g);
    *gp = NULL;
}
