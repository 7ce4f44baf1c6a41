/* gateway_metrics.h - what the gateway counts, by the names that stand in services/gateway/README.md. */
#ifndef GATEWAY_METRICS_H
#define GATEWAY_METRICS_H

#include "common/watch/metrics.h"
#include "common/wire/message.h"

typedef struct {
    ty_metrics *registry;
    ty_metric *requests, *in_flight, *request_s, *ttft_s, *prompt_tokens, *visual_tokens,
        *cached_tokens, *completion_tokens, *pictures, *resent, *redispatched, *late, *slow_readers;
    ty_metric *stage_queue_s, *stage_compute_s, *stage_wire_s, *stage_batch, *stage_attempts,
        *stage_bytes, *cache_lookups, *cache_bytes;
    ty_metric *store_up, *broker_up, *pipeline_ready, *stage_workers, *stage_queued,
        *stage_in_flight, *stage_pages;
} gateway_metrics;

ty_status gateway_metrics_init(gateway_metrics *m); /* TY_ENOMEM */
void gateway_metrics_clear(gateway_metrics *m);
/* The hops of a finished part. */
void gateway_metrics_part(gateway_metrics *m, const Tyto__Envelope *e);
/* A question of the gateway's own to the cache that found nothing: miss or error. */
void gateway_metrics_lookup(gateway_metrics *m, Tyto__CacheUse use);
/* A broker's word on a pipeline; broker: its endpoint. */
void gateway_metrics_pipeline(gateway_metrics *m, const char *broker, const Tyto__PipelineState *p);

#endif
