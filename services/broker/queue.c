/* queue.c - tasks and their queues, one per (stage, model): by priority, then arrival. */
#include "services/broker/state.h"

#include "common/base/clock.h"
#include "common/base/log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- queues ---- */

broker_queue *broker_queue_find(broker *b, const char *stage, const char *model) {
    broker_queue *q;
    TAILQ_FOREACH(q, &b->queues, next)
    if (strcmp(q->stage, stage) == 0 && strcmp(q->model, model) == 0) break;
    return q;
}

static void queue_destroy(broker *b, broker_queue *q) {
    TAILQ_REMOVE(&b->queues, q, next);
    b->n_queue--;
    free(q->stage);
    free(q->model);
    free(q);
}

static bool queue_is_used(broker *b, const broker_queue *q) {
    broker_worker *w;
    broker_task *t;
    TAILQ_FOREACH(w, &b->workers, next)
    if (w->q == q) return true;
    TAILQ_FOREACH(t, &b->tasks, all)
    if (t->q == q) return true;
    return false;
}

/* Models come and go; their queues go when room is needed. */
static bool make_room(broker *b) {
    broker_queue *q;
    if (b->n_queue < BROKER_QUEUES_MAX) return true;
    TAILQ_FOREACH(q, &b->queues, next)
    if (!queue_is_used(b, q)) break;
    if (q) queue_destroy(b, q);
    return q != NULL;
}

ty_status broker_queue_get(broker *b, const char *stage, const char *model, broker_queue **out,
                           ty_err *err) {
    *out = broker_queue_find(b, stage, model);
    if (*out) return TY_OK;
    if (!make_room(b))
        return ty_fail(err, TY_EOVERLOAD, "more than %d stages and models", BROKER_QUEUES_MAX);
    broker_queue *q = calloc(1, sizeof(*q));
    char *s = strdup(stage), *m = strdup(model);
    if (!q || !s || !m) {
        free(q);
        free(s);
        free(m);
        return ty_fail(err, TY_ENOMEM, "no memory for a queue");
    }
    q->stage = s;
    q->model = m;
    q->alone_since_us = ty_now_us();
    TAILQ_INIT(&q->tasks);
    TAILQ_INSERT_TAIL(&b->queues, q, next);
    b->n_queue++;
    *out = q;
    return TY_OK;
}

bool broker_worker_fits(const broker_worker *w, const Tyto__Hop *hop) {
    const Tyto__Hello *h = w->hello->env->hello;
    if (!*hop->adapter) return true;
    for (size_t i = 0; i < h->n_adapters; i++)
        if (strcmp(h->adapters[i], hop->adapter) == 0) return true;
    return false;
}

bool broker_queue_serves(const broker *b, const broker_queue *q, const Tyto__Hop *hop) {
    const broker_worker *w;
    TAILQ_FOREACH(w, &b->workers, next)
    if (w->q == q && !w->draining && !w->peer.lost && broker_worker_fits(w, hop)) return true;
    return false;
}

void broker_queue_count(broker *b, broker_queue *q) {
    broker_worker *w;
    int n = 0;
    TAILQ_FOREACH(w, &b->workers, next)
    if (w->q == q && !w->draining && !w->peer.lost) n++;
    if (n == 0 && q->n_worker > 0) q->alone_since_us = ty_now_us();
    if (n > 0) q->had_worker = true;
    q->n_worker = n;
    b->news = true;
}

void broker_queues_destroy(broker *b) {
    /* NOLINTNEXTLINE(clang-analyzer-unix.Malloc): it loses sight of what a TAILQ holds */
    for (broker_queue *q; (q = TAILQ_FIRST(&b->queues));) queue_destroy(b, q);
}

/* ---- tasks ---- */

ty_status broker_task_create(broker *b, broker_gateway *gw, ty_message **m, broker_task **out,
                             ty_err *err) {
    broker_task *t = calloc(1, sizeof(*t));
    if (!t) return ty_fail(err, TY_ENOMEM, "no memory for a task");
    t->gw = gw;
    t->m = *m;
    *m = NULL;
    if (t->m->env->attempt == 0) t->m->env->attempt = 1;
    t->first_attempt = t->m->env->attempt;
    TAILQ_INSERT_TAIL(&b->tasks, t, all);
    b->n_task++;
    *out = t;
    return TY_OK;
}

static void insert_behind(broker_queue *q, broker_task *t) {
    broker_task *x;
    uint32_t priority = t->m->env->priority;
    TAILQ_FOREACH_REVERSE(x, &q->tasks, broker_task_list, next)
    if (x->m->env->priority <= priority) break;
    if (x)
        TAILQ_INSERT_AFTER(&q->tasks, x, t, next);
    else
        TAILQ_INSERT_HEAD(&q->tasks, t, next);
}

static void insert_before(broker_queue *q, broker_task *t) {
    broker_task *x;
    TAILQ_FOREACH(x, &q->tasks, next)
    if (x->m->env->priority >= t->m->env->priority) break;
    if (x)
        TAILQ_INSERT_BEFORE(x, t, next);
    else
        TAILQ_INSERT_TAIL(&q->tasks, t, next);
}

ty_status broker_task_queue(broker *b, broker_task *t, bool front, bool limited, ty_err *err) {
    const Tyto__Hop *hop = t->m->env->itinerary[t->m->env->hop];
    broker_queue *q;
    ty_status st = broker_queue_get(b, hop->stage, hop->model, &q, err);
    if (st != TY_OK) return st;
    if (limited && q->n >= b->opt.queue_limit)
        return ty_fail(err, TY_EOVERLOAD, "%d tasks wait for %s already; try again later", q->n,
                       q->stage);
    t->q = q;
    t->queued_us = ty_now_us();
    if (front)
        insert_before(q, t);
    else
        insert_behind(q, t);
    q->n++;
    return TY_OK;
}

void broker_task_detach(broker_task *t) {
    if (!t->q) return;
    if (t->owner) {
        TAILQ_REMOVE(&t->owner->tasks, t, next);
        t->owner->n_task--;
        t->q->n_in_flight--;
    } else {
        TAILQ_REMOVE(&t->q->tasks, t, next);
        t->q->n--;
    }
    t->owner = NULL;
    t->q = NULL;
}

void broker_task_drop(broker *b, broker_task *t) {
    broker_task_detach(t);
    TAILQ_REMOVE(&b->tasks, t, all);
    b->n_task--;
    ty_message_destroy(&t->m);
    free(t);
}

void broker_task_fail(broker *b, broker_task *t, ty_status st, const char *text,
                      const char *stage) {
    const Tyto__Envelope *e = t->m->env;
    ty_info("req=%s part=%u generation=%u failed status=%s stage=%s text=\"%s\"", e->request_id,
            e->part, e->generation, ty_status_name(st), stage, text);
    ty_message_clear_tensors(t->m);
    ty_message_set_error(t->m, st, text, stage);
    broker_peer_tell(&t->gw->peer, t->m);
    t->m = NULL;
    broker_task_drop(b, t);
}

/* A worker's credit for it comes back with its answer, which nobody waits for. */
void broker_task_tell_cancel(broker_task *t) {
    ty_message *m = broker_make(TYTO__ENVELOPE__BODY_CANCEL, ty_pb_new(&tyto__cancel__descriptor));
    if (m && ty_message_copy_ids(m, t->m) != TY_OK) ty_message_destroy(&m);
    if (m) m->env->dispatch = t->dispatch;
    broker_peer_tell(&t->owner->peer, m);
}

void broker_task_cancel(broker *b, broker_task *t) {
    if (t->owner) broker_task_tell_cancel(t);
    broker_task_drop(b, t);
}

broker_task *broker_task_find(broker *b, const broker_gateway *gw, const char *request_id,
                              uint32_t part) {
    broker_task *t;
    TAILQ_FOREACH(t, &b->tasks, all)
    if (t->gw == gw && t->m->env->part == part && strcmp(t->m->env->request_id, request_id) == 0)
        break;
    return t;
}

void broker_tasks_hand_back(broker *b) {
    broker_task *t = TAILQ_FIRST(&b->tasks);
    while (t) {
        broker_task *after = TAILQ_NEXT(t, all);
        if (!t->owner) broker_task_fail(b, t, TY_EUNAVAILABLE, "the broker is shutting down", "");
        t = after;
    }
}

/* ---- the clock ---- */

static const Tyto__Hop *hop_of(const broker_task *t) {
    return t->m->env->itinerary[t->m->env->hop];
}

static bool nobody_serves(const broker *b, const broker_task *t, int64_t now_us) {
    const broker_queue *q = t->q;
    if (t->owner || broker_queue_serves(b, q, hop_of(t))) return false;
    int grace_ms = q->had_worker ? b->opt.lost_grace_ms : b->opt.grace_ms;
    bool alone = q->n_worker == 0; /* else others are here, which lack its adapter */
    int64_t since = alone && q->alone_since_us > t->queued_us ? q->alone_since_us : t->queued_us;
    return now_us - since > (int64_t)grace_ms * 1000;
}

static void fail_late(broker *b, broker_task *t) {
    char text[160], stage[32];
    snprintf(stage, sizeof(stage), "%s", t->q->stage);
    snprintf(text, sizeof(text), "the deadline passed while it %s",
             t->owner ? "was computed" : "waited in the queue");
    if (t->owner) broker_task_tell_cancel(t);
    broker_task_fail(b, t, TY_ETIMEOUT, text, stage);
}

static void fail_unserved(broker *b, broker_task *t) {
    char text[200], stage[32];
    snprintf(stage, sizeof(stage), "%s", t->q->stage);
    const char *adapter = hop_of(t)->adapter;
    snprintf(text, sizeof(text), "no worker serves %.32s (model %.40s%s%.40s)%s", t->q->stage,
             t->q->model, *adapter ? ", adapter " : "", adapter,
             t->q->had_worker && !t->q->n_worker ? " any more" : "");
    broker_task_fail(b, t, TY_EUNAVAILABLE, text, stage);
}

int64_t broker_tasks_expire(broker *b, int64_t now_us) {
    int64_t now_unix = ty_now_unix_us(), first = 0;
    broker_task *t = TAILQ_FIRST(&b->tasks);
    while (t) {
        broker_task *after = TAILQ_NEXT(t, all);
        int64_t deadline = t->m->env->deadline_unix_us;
        if (deadline && now_unix >= deadline)
            fail_late(b, t);
        else if (nobody_serves(b, t, now_us))
            fail_unserved(b, t);
        else if (deadline && (!first || deadline < first))
            first = deadline;
        t = after;
    }
    return first;
}
