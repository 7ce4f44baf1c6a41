/* api.c - the routes, and all of the API that is not chat: models, health, metrics, the page at /. */
#include "services/gateway/gateway.h"
#include "services/gateway/json_text.h"
#include "services/gateway/page.h"

#include <stdio.h>
#include <string.h>

static json_t *text(const char *s) {
    return json_text(s, strlen(s));
}

static json_t *model_json(const gateway_pipeline *p) {
    json_t *stages = json_object(), *adapter = json_null();
    for (int k = 0; k < TY_STAGE_COUNT; k++)
        if (*p->info.path[k])
            (void)json_object_set_new(stages, ty_stage_name((ty_stage_kind)k),
                                      text(p->info.model_id[k]));
    if (*p->info.adapter)
        adapter =
            json_pack("{s:o, s:o}", "name", text(p->info.adapter), "id", text(p->info.adapter_id));
    return json_pack("{s:o, s:s, s:I, s:s, s:{s:o, s:b, s:o, s:o}}", "id", text(p->info.name),
                     "object", "model", "created", (json_int_t)p->created, "owned_by", "tyto",
                     "tyto", "family", text(p->info.family), "ready", (int)p->ready, "stages",
                     stages, "adapter", adapter);
}

static void get_models(void *ctx, http_call *c) {
    const gateway *g = ctx;
    json_t *data = json_array();
    for (int i = 0; i < g->n_pipeline; i++)
        (void)json_array_append_new(data, model_json(&g->pipeline[i]));
    http_reply_json(c, 200, json_pack("{s:s, s:o}", "object", "list", "data", data));
}

static void get_model(void *ctx, http_call *c) {
    const char *name = http_call_path(c) + strlen("/v1/models/");
    const gateway_pipeline *p = gateway_find(ctx, name);
    if (p) {
        http_reply_json(c, 200, model_json(p));
        return;
    }
    api_error e;
    api_error_make(&e, 404, "model_not_found", "model",
                   "The model \"%.200s\" does not exist; GET /v1/models lists those that do", name);
    http_reply_error(c, &e);
}

static void get_healthz(void *ctx, http_call *c) {
    (void)ctx;
    http_reply_json(c, 200, json_pack("{s:s}", "status", "ok"));
}

/* For people: requests without a conversation need no store. */
static json_t *store_json(const gateway *g) {
    if (!g->redis) return json_null();
    return json_pack("{s:b, s:o}", "up", (int)ty_redis_async_up(g->redis), "reason",
                     text(ty_redis_async_reason(g->redis)));
}

static void get_readyz(void *ctx, http_call *c) {
    const gateway *g = ctx;
    bool ready = !g->draining;
    json_t *brokers = json_array(), *pipelines = json_array();
    for (int i = 0; i < g->n_link; i++)
        (void)json_array_append_new(brokers, json_pack("{s:o, s:b, s:o}", "endpoint",
                                                       text(broker_link_endpoint(g->link[i])), "up",
                                                       (int)broker_link_up(g->link[i]), "reason",
                                                       text(broker_link_reason(g->link[i]))));
    for (int i = 0; i < g->n_pipeline; i++) {
        const gateway_pipeline *p = &g->pipeline[i];
        ready = ready && p->ready;
        (void)json_array_append_new(pipelines,
                                    json_pack("{s:o, s:b, s:o}", "model", text(p->info.name),
                                              "ready", (int)p->ready, "reason", text(p->reason)));
    }
    http_reply_json(c, ready ? 200 : 503,
                    json_pack("{s:o, s:b, s:b, s:o, s:o, s:o}", "gateway", text(g->opt.name),
                              "ready", (int)ready, "draining", (int)g->draining, "brokers", brokers,
                              "models", pipelines, "store", store_json(g)));
}

/* Gauges are taken when they are asked for. */
static void set_gauges(gateway *g) {
    gateway_metrics *m = &g->metrics;
    ty_metric_set(m->in_flight, gateway_in_flight(g), NULL);
    ty_metric_set(m->store_up, g->redis && ty_redis_async_up(g->redis), NULL);
    ty_metric_reset(m->stage_workers);
    ty_metric_reset(m->stage_queued);
    ty_metric_reset(m->stage_in_flight);
    ty_metric_reset(m->stage_pages);
    for (int i = 0; i < g->n_pipeline; i++)
        ty_metric_set(m->pipeline_ready, g->pipeline[i].ready, TY_LABELS(g->pipeline[i].info.name));
    for (int i = 0; i < g->n_link; i++) {
        const Tyto__Welcome *w = broker_link_welcome(g->link[i]);
        ty_metric_set(m->broker_up, broker_link_up(g->link[i]),
                      TY_LABELS(broker_link_endpoint(g->link[i])));
        for (size_t k = 0; w && k < w->n_pipelines; k++)
            gateway_metrics_pipeline(m, broker_link_endpoint(g->link[i]), w->pipelines[k]);
    }
}

static void get_metrics(void *ctx, http_call *c) {
    gateway *g = ctx;
    ty_buf b = ty_buf_make(16 << 20);
    set_gauges(g);
    if (ty_metrics_write(g->metrics.registry, &b) == TY_OK) {
        http_reply(c, 200, "text/plain; version=0.0.4; charset=utf-8", b.data, b.len);
    } else {
        api_error e;
        api_error_set(&e, b.failed, "", "the metrics do not fit into memory", NULL);
        http_reply_error(c, &e);
    }
    ty_buf_clear(&b);
}

static void get_page(void *ctx, http_call *c) {
    (void)ctx;
    const page_file *f = page_find(http_call_path(c));
    if (f) {
        http_call_set_header(c, "Content-Security-Policy", PAGE_CONTENT_SECURITY_POLICY);
        http_call_set_header(c, "X-Content-Type-Options", "nosniff");
        http_call_set_header(c, "Cache-Control", "no-cache");
        http_reply(c, 200, f->type, (const char *)f->data, f->size);
        return;
    }
    api_error e;
    api_error_make(&e, 404, "not_found", NULL, "The page has no such file; its address is /");
    http_reply_error(c, &e);
}

const http_route gateway_routes[] = {
    {"POST", "/v1/chat/completions", false, api_chat},
    {"GET", "/v1/conversations", false, api_conversations_list},
    {"GET", "/v1/conversations/*", false, api_conversation_get},
    {"DELETE", "/v1/conversations/*", false, api_conversation_delete},
    {"POST", "/v1/conversations/*/fork", false, api_conversation_fork},
    {"POST", "/v1/files", false, api_file_create},
    {"GET", "/v1/files", false, api_files_list},
    {"GET", "/v1/files/*", false, api_file_get},
    {"DELETE", "/v1/files/*", false, api_file_delete},
    {"GET", "/v1/files/*/content", false, api_file_content},
    {"GET", "/v1/models", false, get_models},
    {"GET", "/v1/models/*", false, get_model},
    {"GET", "/healthz", true, get_healthz},
    {"GET", "/readyz", true, get_readyz},
    {"GET", "/metrics", false, get_metrics},
    {"GET", "/", true, get_page},
    {"GET", "/page/*", true, get_page},
    {"GET", "/favicon.ico", true, get_page},
    {NULL, NULL, false, NULL},
};
