/* gateway_metrics.c - see gateway_metrics.h. */
#include "services/gateway/gateway_metrics.h"

static const double seconds[] = {0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25,
                                 0.5,    1,     2.5,    5,     10,   30,    60,   120};
static const double batches[] = {1, 2, 4, 8, 16, 32, 64};
enum { N_SECONDS = sizeof(seconds) / sizeof(seconds[0]), N_BATCHES = 7 };

static void make_requests(gateway_metrics *m) {
    ty_metrics *r = m->registry;
    m->requests = ty_metrics_counter(r, "tyto_gateway_requests_total",
                                     "HTTP requests by route and status code (499: the client went "
                                     "away).",
                                     "route,code");
    m->store_up =
        ty_metrics_gauge(r, "tyto_gateway_store_up", "1: the store of conversations answers", NULL);
    m->in_flight = ty_metrics_gauge(r, "tyto_gateway_requests_in_flight",
                                    "Chat requests that wait for their answer.", NULL);
    m->request_s = ty_metrics_histogram(r, "tyto_gateway_request_seconds",
                                        "From the whole request to the end of its answer.", "model",
                                        seconds, N_SECONDS);
    m->ttft_s = ty_metrics_histogram(r, "tyto_gateway_time_to_first_token_seconds",
                                     "From the whole request to the first token of its answer.",
                                     "model", seconds, N_SECONDS);
    m->prompt_tokens =
        ty_metrics_counter(r, "tyto_gateway_prompt_tokens_total",
                           "Prompt rows of finished requests, visual rows included.", "model");
    m->cached_tokens =
        ty_metrics_counter(r, "tyto_gateway_cached_tokens_total",
                           "Prompt rows that a decoder had computed before.", "model");
    m->visual_tokens = ty_metrics_counter(r, "tyto_gateway_visual_tokens_total",
                                          "Visual rows of finished requests.", "model");
    m->completion_tokens = ty_metrics_counter(r, "tyto_gateway_completion_tokens_total",
                                              "New tokens of finished requests.", "model");
    m->pictures = ty_metrics_counter(r, "tyto_gateway_pictures_total", "Pictures taken in.", NULL);
    m->resent = ty_metrics_counter(r, "tyto_gateway_resent_total",
                                   "Parts of requests that were sent again.", "stage");
    m->redispatched = ty_metrics_counter(
        r, "tyto_gateway_redispatched_total",
        "Hops that the broker gave to another worker because the first was lost.", "stage");
    m->late = ty_metrics_counter(r, "tyto_gateway_late_messages_total",
                                 "Messages of an older generation that were dropped.", NULL);
    m->slow_readers =
        ty_metrics_counter(r, "tyto_gateway_slow_readers_total",
                           "Streams that ended because the client did not read.", NULL);
}

static void make_stages(gateway_metrics *m) {
    ty_metrics *r = m->registry;
    m->stage_queue_s = ty_metrics_histogram(r, "tyto_stage_queue_seconds",
                                            "Waiting of a hop, in the broker and in the worker.",
                                            "stage,where", seconds, N_SECONDS);
    m->stage_compute_s = ty_metrics_histogram(r, "tyto_stage_compute_seconds",
                                              "Computation of a hop.", "stage", seconds, N_SECONDS);
    m->stage_wire_s = ty_metrics_histogram(r, "tyto_stage_wire_seconds",
                                           "A hop's way from the broker to the worker and back.",
                                           "stage,direction", seconds, N_SECONDS);
    m->stage_batch = ty_metrics_histogram(r, "tyto_stage_batch_size",
                                          "Tasks (decoder: rows) that were computed together.",
                                          "stage", batches, N_BATCHES);
    m->stage_attempts =
        ty_metrics_counter(r, "tyto_stage_attempts_total",
                           "Finished hops by the attempt that finished them.", "stage,attempt");
    m->stage_bytes = ty_metrics_counter(r, "tyto_stage_bytes_total",
                                        "Tensor bytes into and out of a stage.", "stage,direction");
    m->cache_lookups = ty_metrics_counter(r, "tyto_cache_lookups_total",
                                          "Questions to the cache by stage, who asked (gateway, "
                                          "worker) and result (hit, miss, error).",
                                          "stage,by,result");
    m->cache_bytes = ty_metrics_counter(r, "tyto_cache_hit_bytes_total",
                                        "Tensor bytes that the cache gave.", "stage");
}

static void make_states(gateway_metrics *m) {
    ty_metrics *r = m->registry;
    m->broker_up =
        ty_metrics_gauge(r, "tyto_gateway_broker_up", "1 when the broker answers.", "endpoint");
    m->pipeline_ready =
        ty_metrics_gauge(r, "tyto_gateway_pipeline_ready",
                         "1 when every stage of the pipeline has a worker.", "model");
    m->stage_workers = ty_metrics_gauge(
        r, "tyto_stage_workers", "Workers of a stage, as each broker says.", "model,stage,broker");
    m->stage_queued = ty_metrics_gauge(r, "tyto_stage_queued", "Tasks that wait in a broker.",
                                       "model,stage,broker");
    m->stage_in_flight = ty_metrics_gauge(r, "tyto_stage_in_flight",
                                          "Tasks that are with the workers.", "model,stage,broker");
    m->stage_pages = ty_metrics_gauge(r, "tyto_stage_pages",
                                      "Pages of memory (decoder: of keys and values) by their use: "
                                      "used, cached, or total.",
                                      "model,stage,broker,use");
}

ty_status gateway_metrics_init(gateway_metrics *m) {
    *m = (gateway_metrics){.registry = ty_metrics_create()};
    if (!m->registry) return TY_ENOMEM;
    make_requests(m);
    make_stages(m);
    make_states(m);
    return m->stage_pages ? TY_OK : TY_ENOMEM;
}

void gateway_metrics_clear(gateway_metrics *m) {
    ty_metrics_destroy(&m->registry);
}

static void count_lookup(gateway_metrics *m, const char *stage, const char *by,
                         Tyto__CacheUse use) {
    static const char *const words[] = {"", "hit", "miss", "error"};
    ty_metric_add(m->cache_lookups, 1, TY_LABELS(stage, by, words[use & 3]));
}

void gateway_metrics_lookup(gateway_metrics *m, Tyto__CacheUse use) {
    count_lookup(m, "abstractor", "gateway", use);
}

static void part_hop(gateway_metrics *m, const Tyto__Timing *t) {
    bool made = t->batch > 0; /* by a worker, not found by the gateway */
    if (t->cache != TYTO__CACHE_USE__CACHE_OFF)
        count_lookup(m, t->stage, made ? "worker" : "gateway", t->cache);
    if (t->cache == TYTO__CACHE_USE__CACHE_HIT)
        ty_metric_add(m->cache_bytes, (double)t->bytes_out, TY_LABELS(t->stage));
    if (!made) return;
    ty_metric_observe(m->stage_queue_s, (double)t->broker_queue_us / 1e6,
                      TY_LABELS(t->stage, "broker"));
    ty_metric_observe(m->stage_queue_s, (double)t->worker_queue_us / 1e6,
                      TY_LABELS(t->stage, "worker"));
    ty_metric_observe(m->stage_compute_s, (double)t->compute_us / 1e6, TY_LABELS(t->stage));
    ty_metric_observe(m->stage_wire_s, (double)t->wire_us / 1e6, TY_LABELS(t->stage, "to_worker"));
    ty_metric_observe(m->stage_wire_s, (double)t->return_us / 1e6,
                      TY_LABELS(t->stage, "to_broker"));
    ty_metric_observe(m->stage_batch, t->batch, TY_LABELS(t->stage));
    ty_metric_add(m->stage_attempts, 1,
                  TY_LABELS(t->stage, t->attempt <= 1   ? "1"
                                      : t->attempt == 2 ? "2"
                                                        : "3+"));
    ty_metric_add(m->stage_bytes, (double)t->bytes_in, TY_LABELS(t->stage, "in"));
    ty_metric_add(m->stage_bytes, (double)t->bytes_out, TY_LABELS(t->stage, "out"));
}

void gateway_metrics_part(gateway_metrics *m, const Tyto__Envelope *e) {
    for (size_t i = 0; i < e->n_timings; i++) part_hop(m, e->timings[i]);
}

void gateway_metrics_pipeline(gateway_metrics *m, const char *broker,
                              const Tyto__PipelineState *p) {
    for (size_t i = 0; i < p->n_stages; i++) {
        const Tyto__StageState *s = p->stages[i];
        const char *const labels[] = {p->name, s->stage, broker};
        ty_metric_set(m->stage_workers, s->workers, labels);
        ty_metric_set(m->stage_queued, s->queued, labels);
        ty_metric_set(m->stage_in_flight, s->in_flight, labels);
        if (!s->pages) continue;
        ty_metric_set(m->stage_pages, s->pages->used, TY_LABELS(p->name, s->stage, broker, "used"));
        ty_metric_set(m->stage_pages, s->pages->cached,
                      TY_LABELS(p->name, s->stage, broker, "cached"));
        ty_metric_set(m->stage_pages, s->pages->total,
                      TY_LABELS(p->name, s->stage, broker, "total"));
    }
}
