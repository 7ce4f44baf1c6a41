/* api.c - the routes, and all of the API that is not chat: models, health, metrics, the page at /. */
#include "services/gateway/gateway.h"
#include "services/gateway/json_text.h"

#include "common/base/options.h"

#include <stdio.h>
#include <string.h>

static json_t *text(const char *s) {
    return json_text(s, strlen(s));
}

static json_t *model_json(const gateway_pipeline *p) {
    json_t *stages = json_object();
    for (int k = 0; k < TY_STAGE_COUNT; k++)
        if (*p->info.path[k])
            (void)json_object_set_new(stages, ty_stage_name((ty_stage_kind)k),
                                      text(p->info.model_id[k]));
    return json_pack("{s:o, s:s, s:I, s:s, s:{s:o, s:b, s:o}}", "id", text(p->info.name), "object",
                     "model", "created", (json_int_t)p->created, "owned_by", "tyto", "tyto",
                     "family", text(p->info.family), "ready", (int)p->ready, "stages", stages);
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
                    json_pack("{s:b, s:b, s:o, s:o}", "ready", (int)ready, "draining",
                              (int)g->draining, "brokers", brokers, "models", pipelines));
}

/* Gauges are taken when they are asked for. */
static void set_gauges(gateway *g) {
    gateway_metrics *m = &g->metrics;
    ty_metric_set(m->in_flight, gateway_in_flight(g), NULL);
    ty_metric_reset(m->stage_workers);
    ty_metric_reset(m->stage_queued);
    ty_metric_reset(m->stage_in_flight);
    for (int i = 0; i < g->n_pipeline; i++)
        ty_metric_set(m->pipeline_ready, g->pipeline[i].ready, TY_LABELS(g->pipeline[i].info.name));
    for (int i = 0; i < g->n_link; i++) {
        const Tyto__Welcome *w = broker_link_welcome(g->link[i]);
        ty_metric_set(m->broker_up, broker_link_up(g->link[i]),
                      TY_LABELS(broker_link_endpoint(g->link[i])));
        for (size_t k = 0; w && k < w->n_pipelines; k++)
            gateway_metrics_pipeline(m, w->pipelines[k]);
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
    static const char page[] =
        "<!doctype html>\n<html lang=\"en\"><head><meta "
        "charset=\"utf-8\"><title>Tyto</title></head>\n"
        "<body><h1>Tyto " TYTO_VERSION "</h1>\n"
        "<p>This server answers questions about pictures. Its API is OpenAI's chat "
        "completions:</p>\n"
        "<ul><li><code>POST /v1/chat/completions</code></li>\n"
        "<li><a href=\"/v1/models\"><code>GET /v1/models</code></a></li>\n"
        "<li><a href=\"/healthz\"><code>GET /healthz</code></a>, "
        "<a href=\"/readyz\"><code>GET /readyz</code></a>, "
        "<a href=\"/metrics\"><code>GET /metrics</code></a></li></ul>\n</body></html>\n";
    http_reply(c, 200, "text/html; charset=utf-8", page, sizeof(page) - 1);
}

const http_route gateway_routes[] = {
    {"POST", "/v1/chat/completions", false, api_chat},
    {"GET", "/v1/models", false, get_models},
    {"GET", "/v1/models/*", false, get_model},
    {"GET", "/healthz", true, get_healthz},
    {"GET", "/readyz", true, get_readyz},
    {"GET", "/metrics", false, get_metrics},
    {"GET", "/", true, get_page},
    {NULL, NULL, false, NULL},
};
