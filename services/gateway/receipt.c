/* receipt.c - see receipt.h. */
#include "services/gateway/receipt.h"

#include "common/base/clock.h"
#include "services/gateway/json_text.h"

#include <math.h>
#include <string.h>

ty_status receipt_init(receipt *r, int64_t received_us) {
    *r = (receipt){.received_us = received_us, .stages = json_array()};
    return r->stages ? TY_OK : TY_ENOMEM;
}

void receipt_clear(receipt *r) {
    json_decref(r->stages);
    r->stages = NULL;
}

/* Milliseconds with three decimals, as JSON shall show them. */
static json_t *ms(double us) {
    return json_real(round(us) / 1e3);
}

static void set(json_t *o, const char *key, json_t *value) {
    (void)json_object_set_new(o, key, value); /* out of memory: the key is missing */
}

static const char *const cache_words[] = {"off", "hit", "miss", "error"}; /* by CacheUse */

static json_t *stage_json(const Tyto__Timing *t, int picture) {
    json_t *o = json_object();
    set(o, "stage", json_text(t->stage, strlen(t->stage)));
    set(o, "worker", json_text(t->worker, strlen(t->worker)));
    if (picture >= 0) set(o, "picture", json_integer(picture));
    if (*t->adapter) set(o, "adapter", json_text(t->adapter, strlen(t->adapter)));
    set(o, "attempt", json_integer(t->attempt));
    set(o, "batch", json_integer(t->batch));
    set(o, "broker_queue_ms", ms((double)t->broker_queue_us));
    set(o, "wire_ms", ms((double)t->wire_us));
    set(o, "worker_queue_ms", ms((double)t->worker_queue_us));
    set(o, "compute_ms", ms((double)t->compute_us));
    set(o, "return_ms", ms((double)t->return_us));
    if (t->cache != TYTO__CACHE_USE__CACHE_OFF) {
        set(o, "cache", json_string(cache_words[t->cache & 3]));
        set(o, "cache_ms", ms((double)t->cache_us));
    }
    if (t->prefill_us || t->decode_us) {
        set(o, "prefill_ms", ms((double)t->prefill_us));
        set(o, "decode_ms", ms((double)t->decode_us));
        set(o, "cached_tokens", json_integer(t->cached_tokens));
        set(o, "prefill_tokens", json_integer(t->prefill_tokens));
    }
    set(o, "bytes_in", json_integer((json_int_t)t->bytes_in));
    set(o, "bytes_out", json_integer((json_int_t)t->bytes_out));
    set(o, "flops", json_real(isfinite(t->flops) ? t->flops : 0));
    return o;
}

void receipt_add(receipt *r, const ty_message *m, int picture, int sends) {
    const Tyto__Envelope *e = m->env;
    for (size_t i = 0; i < e->n_timings; i++) {
        json_t *o = stage_json(e->timings[i], picture);
        if (i + 1 == e->n_timings) {
            /* The last leg, broker to gateway, is the gateway's to measure. */
            int64_t us = m->received_unix_us - e->sent_unix_us;
            set(o, "gateway_wire_ms", ms(us > 0 ? (double)us : 0));
            set(o, "sends", json_integer(sends));
        }
        (void)json_array_append_new(r->stages, o);
    }
}

json_t *receipt_json(const receipt *r) {
    json_t *o = json_object(), *g = json_object();
    int64_t now = ty_now_us();
    set(o, "wall_ms", ms((double)(now - r->received_us)));
    if (r->first_token_us) set(o, "ttft_ms", ms((double)(r->first_token_us - r->received_us)));
    set(g, "parse_ms", ms((double)(r->parsed_us - r->received_us)));
    int64_t before = r->parsed_us;
    if (r->loaded_us) {
        set(g, "load_ms", ms((double)(r->loaded_us - before)));
        before = r->loaded_us;
    }
    if (r->pictures_us) {
        set(g, "pictures_ms", ms((double)(r->pictures_us - before)));
        before = r->pictures_us;
    }
    set(g, "decode_ms", ms((double)((r->decoded_us ? r->decoded_us : now) - before)));
    if (r->stored_us) set(g, "store_ms", ms((double)(r->stored_us - r->decoded_us)));
    set(o, "gateway", g);
    set(o, "stages", json_incref(r->stages));
    return o;
}
