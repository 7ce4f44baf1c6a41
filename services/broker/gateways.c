/* gateways.c - the broker's side of a gateway: hello, tasks, cancels, news about its pipelines. */
#include "services/broker/state.h"

#include "common/base/clock.h"
#include "common/base/log.h"
#include "services/broker/contract.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { REQUEST_ID_MAX = 128 };

static const Tyto__GatewayHello *hello_of(const broker_gateway *g) {
    return g->hello->env->gateway_hello;
}

static broker_gateway *find_peer(broker *b, const ty_message *from) {
    broker_gateway *g;
    TAILQ_FOREACH(g, &b->gateways, next)
    if (!g->peer.lost && broker_peer_is(&g->peer, from)) break;
    return g;
}

static broker_gateway *find_name(broker *b, const char *name) {
    broker_gateway *g;
    TAILQ_FOREACH(g, &b->gateways, next)
    if (!g->peer.lost && strcmp(hello_of(g)->gateway, name) == 0) break;
    return g;
}

static void cancel_all(broker *b, const broker_gateway *g) {
    broker_task *t = TAILQ_FIRST(&b->tasks);
    while (t) {
        broker_task *after = TAILQ_NEXT(t, all);
        if (t->gw == g) broker_task_cancel(b, t);
        t = after;
    }
}

void broker_gateway_destroy(broker *b, broker_gateway *g) {
    cancel_all(b, g);
    TAILQ_REMOVE(&b->gateways, g, next);
    broker_peer_clear(&g->peer);
    ty_message_destroy(&g->hello);
    free(g);
}

void broker_gateways_reap(broker *b) {
    broker_gateway *g = TAILQ_FIRST(&b->gateways);
    while (g) {
        broker_gateway *after = TAILQ_NEXT(g, next);
        if (g->peer.lost) {
            ty_warn("gateway=%s lost reason=\"%s\"", hello_of(g)->gateway, g->peer.lost);
            broker_gateway_destroy(b, g);
        }
        g = after;
    }
}

/* ---- pipelines ---- */

/* Any worker that serves the hop; they all said the same. */
static const Tyto__Hello *contract_of(broker *b, const Tyto__Hop *hop) {
    const broker_queue *q = broker_queue_find(b, hop->stage, hop->model);
    broker_worker *w;
    if (!q) return NULL;
    TAILQ_FOREACH(w, &b->workers, next)
    if (w->q == q && !w->peer.lost) return w->hello->env->hello;
    return NULL;
}

/* Neighbours whose contracts are both known must fit. */
static ty_status check_hops(broker *b, Tyto__Hop **hops, size_t n, ty_err *err) {
    for (size_t i = 0; i + 1 < n; i++) {
        const Tyto__Hello *from = contract_of(b, hops[i]), *to = contract_of(b, hops[i + 1]);
        ty_status st = from && to ? broker_contract_fit(from, to, err) : TY_OK;
        if (st != TY_OK) return st;
    }
    return TY_OK;
}

/* How the queue's workers compute, each way once. */
static ty_status add_arithmetic(broker *b, const broker_queue *q, Tyto__StageState *s) {
    broker_worker *w;
    TAILQ_FOREACH(w, &b->workers, next) {
        if (w->q != q || w->peer.lost) continue;
        const char *text = w->hello->env->hello->arithmetic;
        size_t i = 0;
        while (i < s->n_arithmetic && strcmp(s->arithmetic[i], text) != 0) i++;
        if (i < s->n_arithmetic) continue;
        char *copy = strdup(text);
        if (!copy || ty_pb_append(&s->arithmetic, &s->n_arithmetic, copy) != TY_OK) {
            free(copy);
            return TY_ENOMEM;
        }
    }
    return TY_OK;
}

/* Sums over the queue's workers; nothing when none of them counts. */
static ty_status add_pages(broker *b, const broker_queue *q, Tyto__StageState *s) {
    const broker_worker *w;
    TAILQ_FOREACH(w, &b->workers, next) {
        if (w->q != q || w->peer.lost || !w->counts_pages) continue;
        if (!s->pages) s->pages = ty_pb_new(&tyto__pages__descriptor);
        if (!s->pages) return TY_ENOMEM;
        s->pages->used += w->pages_used;
        s->pages->cached += w->pages_cached;
        s->pages->total += w->pages_total;
    }
    return TY_OK;
}

static Tyto__StageState *stage_state(broker *b, const Tyto__Hop *hop) {
    Tyto__StageState *s = ty_pb_new(&tyto__stage_state__descriptor);
    if (!s) return NULL;
    if (ty_pb_set_str(&s->stage, hop->stage) != TY_OK ||
        ty_pb_set_str(&s->model, hop->model) != TY_OK) {
        tyto__stage_state__free_unpacked(s, NULL);
        return NULL;
    }
    const broker_queue *q = broker_queue_find(b, hop->stage, hop->model);
    if (!q) return s;
    s->workers = (uint32_t)q->n_worker;
    s->queued = (uint32_t)q->n;
    s->in_flight = (uint32_t)q->n_in_flight;
    if (add_arithmetic(b, q, s) == TY_OK && add_pages(b, q, s) == TY_OK) return s;
    tyto__stage_state__free_unpacked(s, NULL);
    return NULL;
}

/* Why the pipeline is not ready; TY_OK when it is. */
static ty_status pipeline_ready(broker *b, const Tyto__PipelineSpec *p, ty_err *err) {
    if (p->n_hops == 0) return ty_fail(err, TY_EINVAL, "the pipeline has no stage");
    for (size_t i = 0; i < p->n_hops; i++) {
        const broker_queue *q = broker_queue_find(b, p->hops[i]->stage, p->hops[i]->model);
        if (!q || q->n_worker == 0)
            return ty_fail(err, TY_EUNAVAILABLE, "no worker serves %.32s (model %.40s)",
                           p->hops[i]->stage, p->hops[i]->model);
        if (!broker_queue_serves(b, q, p->hops[i]))
            return ty_fail(err, TY_EUNAVAILABLE, "no %.32s has the adapter %.40s",
                           p->hops[i]->stage, p->hops[i]->adapter);
    }
    return check_hops(b, p->hops, p->n_hops, err);
}

static Tyto__PipelineState *pipeline_state(broker *b, const Tyto__PipelineSpec *p) {
    ty_err err = {0};
    Tyto__PipelineState *s = ty_pb_new(&tyto__pipeline_state__descriptor);
    if (!s) return NULL;
    ty_status why = pipeline_ready(b, p, &err);
    s->ready = why == TY_OK;
    ty_status st = ty_pb_set_str(&s->name, p->name);
    if (st == TY_OK) st = ty_pb_set_str(&s->status, s->ready ? "" : ty_status_name(why));
    if (st == TY_OK) st = ty_pb_set_str(&s->reason, s->ready ? "" : err.text);
    for (size_t i = 0; st == TY_OK && i < p->n_hops; i++) {
        Tyto__StageState *x = stage_state(b, p->hops[i]);
        st = x ? ty_pb_append(&s->stages, &s->n_stages, x) : TY_ENOMEM;
        if (st != TY_OK && x) tyto__stage_state__free_unpacked(x, NULL);
    }
    if (st == TY_OK) return s;
    tyto__pipeline_state__free_unpacked(s, NULL);
    return NULL;
}

static void tell_news(broker *b, broker_gateway *g) {
    const Tyto__GatewayHello *h = hello_of(g);
    Tyto__Welcome *w = ty_pb_new(&tyto__welcome__descriptor);
    if (!w) return;
    w->accepted = 1;
    w->heartbeat_ms = (uint32_t)b->opt.heartbeat_ms;
    w->incarnation = b->incarnation;
    w->draining = b->draining;
    for (size_t i = 0; i < h->n_pipelines; i++) {
        Tyto__PipelineState *s = pipeline_state(b, h->pipelines[i]);
        if (!s || ty_pb_append(&w->pipelines, &w->n_pipelines, s) != TY_OK) {
            if (s) tyto__pipeline_state__free_unpacked(s, NULL);
            tyto__welcome__free_unpacked(w, NULL);
            w = NULL;
            break;
        }
    }
    broker_peer_tell(&g->peer, broker_make(TYTO__ENVELOPE__BODY_WELCOME, w));
}

void broker_gateways_news(broker *b) {
    broker_gateway *g;
    TAILQ_FOREACH(g, &b->gateways, next) tell_news(b, g);
}

/* ---- hello ---- */

static void refuse_hello(broker *b, ty_message **m, ty_status st, const char *text) {
    ty_message *answer = broker_make_refusal(st, text);
    ty_warn("gateway=%s refused status=%s text=\"%s\"", (*m)->env->gateway_hello->gateway,
            ty_status_name(st), text);
    if (!answer) return;
    answer->identity = (*m)->identity;
    answer->identity_len = (*m)->identity_len;
    (*m)->identity = NULL;
    (*m)->identity_len = 0;
    if (ty_message_send(b->gw_socket, true, &answer, NULL) != TY_OK) ty_message_destroy(&answer);
}

/* A gateway says hello by a new connection when it has given us up: it sends elsewhere, or anew, what it had
 * here.  A restarted one has forgotten it. */
static ty_status adopt(broker *b, const ty_message *m, broker_gateway **g, ty_err *err) {
    const Tyto__GatewayHello *h = m->env->gateway_hello;
    broker_gateway *old = find_name(b, h->gateway);
    if (!old) return TY_OK;
    uint64_t had = hello_of(old)->incarnation;
    if (had > h->incarnation)
        return ty_fail(err, TY_EEXIST, "a newer gateway is called %.64s", h->gateway);
    if (had < h->incarnation) {
        ty_info("gateway=%s restarted", h->gateway);
        broker_gateway_destroy(b, old);
        return TY_OK;
    }
    cancel_all(b, old);
    broker_peer_clear(&old->peer);
    broker_peer_init(&old->peer, b->gw_socket, m);
    *g = old;
    return TY_OK;
}

static ty_status add_gateway(broker *b, ty_message *m, broker_gateway **out, ty_err *err) {
    broker_gateway *g = calloc(1, sizeof(*g));
    if (!g) return ty_fail(err, TY_ENOMEM, "no memory for a gateway");
    broker_peer_init(&g->peer, b->gw_socket, m);
    TAILQ_INSERT_TAIL(&b->gateways, g, next);
    *out = g;
    return TY_OK;
}

static void on_hello(broker *b, broker_gateway *g, ty_message **m) {
    const Tyto__GatewayHello *h = (*m)->env->gateway_hello;
    ty_err err = {0};
    ty_status st = TY_OK;
    if (!*h->gateway)
        st = ty_fail(&err, TY_EINVAL, "hello: the gateway has no name");
    else if (b->draining)
        st = ty_fail(&err, TY_EUNAVAILABLE, "the broker is shutting down");
    if (st == TY_OK && !g) st = adopt(b, *m, &g, &err);
    if (st == TY_OK && !g) st = add_gateway(b, *m, &g, &err);
    if (st != TY_OK) {
        refuse_hello(b, m, st, err.text);
        return;
    }
    ty_info("gateway=%s hello pid=%u pipelines=%zu", h->gateway, h->pid, h->n_pipelines);
    ty_message_destroy(&g->hello);
    g->hello = *m;
    *m = NULL;
    tell_news(b, g);
}

/* ---- tasks ---- */

static ty_status check_envelope(const Tyto__Envelope *e, ty_err *err) {
    size_t len = strlen(e->request_id);
    if (len == 0 || len > REQUEST_ID_MAX)
        return ty_fail(err, TY_EINVAL, "task: a request id of %zu bytes, want 1 to %d", len,
                       REQUEST_ID_MAX);
    if (e->n_itinerary == 0 || e->n_itinerary > BROKER_HOPS_MAX)
        return ty_fail(err, TY_EINVAL, "task: an itinerary of %zu hops, want 1 to %d",
                       e->n_itinerary, BROKER_HOPS_MAX);
    if (e->hop >= e->n_itinerary)
        return ty_fail(err, TY_EINVAL, "task: hop %u of an itinerary of %zu", e->hop,
                       e->n_itinerary);
    for (size_t i = 0; i < e->n_itinerary; i++)
        if (!*e->itinerary[i]->stage || !*e->itinerary[i]->model)
            return ty_fail(err, TY_EINVAL, "task: hop %zu names no stage or no model", i);
    return TY_OK;
}

static ty_status check_fit(broker *b, const broker_gateway *g, const Tyto__Envelope *e,
                           ty_err *err) {
    const Tyto__GatewayHello *h = hello_of(g);
    for (size_t i = 0; *e->pipeline && i < h->n_pipelines; i++)
        if (strcmp(h->pipelines[i]->name, e->pipeline) == 0)
            return check_hops(b, h->pipelines[i]->hops, h->pipelines[i]->n_hops, err);
    return check_hops(b, e->itinerary, e->n_itinerary, err);
}

static ty_status check_task(broker *b, const broker_gateway *g, const Tyto__Envelope *e,
                            ty_err *err) {
    if (b->draining) return ty_fail(err, TY_EUNAVAILABLE, "the broker is shutting down");
    ty_status st = check_envelope(e, err);
    if (st != TY_OK) return st;
    if (e->deadline_unix_us && ty_now_unix_us() >= e->deadline_unix_us)
        return ty_fail(err, TY_ETIMEOUT, "the deadline passed before the task came");
    return check_fit(b, g, e, err);
}

/* An earlier send of the same part.  True when the new one is to be taken. */
static bool supersede(broker *b, const broker_gateway *g, const Tyto__Envelope *e) {
    broker_task *old = broker_task_find(b, g, e->request_id, e->part);
    if (!old) return true;
    if (old->m->env->generation >= e->generation) {
        ty_warn("req=%s part=%u generation=%u is here already", e->request_id, e->part,
                e->generation);
        return false;
    }
    ty_info("req=%s part=%u generation=%u takes the place of %u", e->request_id, e->part,
            e->generation, old->m->env->generation);
    broker_task_cancel(b, old);
    return true;
}

static void on_task(broker *b, broker_gateway *g, ty_message **m) {
    ty_err err = {0};
    broker_task *t = NULL;
    ty_status st = check_task(b, g, (*m)->env, &err);
    if (st == TY_OK && !supersede(b, g, (*m)->env)) return;
    if (st == TY_OK) st = broker_task_create(b, g, m, &t, &err);
    if (st == TY_OK) st = broker_task_queue(b, t, false, true, &err);
    if (st == TY_OK) return;
    if (t) {
        broker_task_fail(b, t, st, err.text, "");
        return;
    }
    ty_info("req=%s part=%u refused status=%s text=\"%s\"", (*m)->env->request_id, (*m)->env->part,
            ty_status_name(st), err.text);
    broker_refuse(b->gw_socket, m, st, err.text);
}

/* Cancels what the gateway has sent of the part up to that generation (0 = all). */
static void on_cancel(broker *b, const broker_gateway *g, const Tyto__Envelope *e) {
    broker_task *t = broker_task_find(b, g, e->request_id, e->part);
    if (!t || (e->generation && t->m->env->generation > e->generation)) return;
    ty_info("req=%s part=%u cancelled %s", e->request_id, e->part,
            t->owner ? "in flight" : "in the queue");
    broker_task_cancel(b, t);
}

static void on_stranger(broker *b, ty_message **m) {
    if ((*m)->env->body_case == TYTO__ENVELOPE__BODY_GOODBYE) return;
    broker_refuse(b->gw_socket, m, TY_EUNAVAILABLE,
                  "say hello first: this broker does not know you");
}

void broker_gateway_message(broker *b, ty_message **m) {
    broker_gateway *g = find_peer(b, *m);
    if (g) g->peer.heard_us = ty_now_us();
    Tyto__Envelope__BodyCase c = (*m)->env->body_case;
    b->changed = true;
    if (c == TYTO__ENVELOPE__BODY_GATEWAY_HELLO) {
        on_hello(b, g, m);
        return;
    }
    if (!g) {
        on_stranger(b, m);
        return;
    }
    switch (c) {
    case TYTO__ENVELOPE__BODY_HEARTBEAT: break;
    case TYTO__ENVELOPE__BODY_TASK: on_task(b, g, m); break;
    case TYTO__ENVELOPE__BODY_CANCEL: on_cancel(b, g, (*m)->env); break;
    case TYTO__ENVELOPE__BODY_STATUS_QUERY: tell_news(b, g); break;
    case TYTO__ENVELOPE__BODY_GOODBYE:
        ty_info("gateway=%s leaves", hello_of(g)->gateway);
        broker_gateway_destroy(b, g);
        break;
    default:
        ty_warn("gateway=%s sent what no gateway sends, body=%d", hello_of(g)->gateway, (int)c);
        broker_refuse(b->gw_socket, m, TY_EFORMAT, "a gateway does not send this kind of message");
    }
}
