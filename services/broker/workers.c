/* workers.c - the broker's side of a worker: hello, dispatch, results, loss. */
#include "services/broker/state.h"

#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/wire/chat_codec.h"
#include "services/broker/contract.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const Tyto__Hello *hello_of(const broker_worker *w) {
    return w->hello->env->hello;
}

/* Does the sender's key fit the worker?  A routing id is the peer's choice, so it alone tells nothing. */
static bool key_fits(const broker *b, const broker_worker *w, const ty_message *from) {
    return !b->workers_secured || strcmp(from->role, hello_of(w)->stage) == 0;
}

static broker_worker *find_peer(broker *b, const ty_message *from) {
    broker_worker *w;
    TAILQ_FOREACH(w, &b->workers, next) {
        if (w->peer.lost || !broker_peer_is(&w->peer, from)) continue;
        if (key_fits(b, w, from)) return w;
        w->peer.lost = "its connection is another peer's now";
    }
    return NULL;
}

static broker_worker *find_name(broker *b, const char *name) {
    broker_worker *w;
    TAILQ_FOREACH(w, &b->workers, next)
    if (!w->peer.lost && strcmp(hello_of(w)->worker, name) == 0) break;
    return w;
}

void broker_worker_destroy(broker *b, broker_worker *w) {
    broker_affinity_forget(b->affinity, w);
    TAILQ_REMOVE(&b->workers, w, next);
    broker_peer_clear(&w->peer);
    ty_message_destroy(&w->hello);
    free(w);
}

/* ---- loss ---- */

static void tell_redispatched(const broker_task *t, const char *stage, const char *worker) {
    Tyto__Redispatched *r = ty_pb_new(&tyto__redispatched__descriptor);
    if (r && (ty_pb_set_str(&r->stage, stage) != TY_OK ||
              ty_pb_set_str(&r->lost_worker, worker) != TY_OK)) {
        tyto__redispatched__free_unpacked(r, NULL);
        r = NULL;
    }
    ty_message *m = broker_make(TYTO__ENVELOPE__BODY_REDISPATCHED, r);
    if (m && ty_message_copy_ids(m, t->m) != TY_OK) ty_message_destroy(&m);
    broker_peer_tell(&t->gw->peer, m);
}

/* A task goes back to the front of its queue; its frames are still here. */
static void take_back(broker *b, const broker_worker *w, broker_task *t, int blame) {
    const Tyto__Hello *h = hello_of(w);
    ty_err err;
    broker_task_detach(t);
    t->m->env->attempt++;
    t->deaths += blame > 0;
    t->blame += blame;
    if (t->blame >= BROKER_BLAME_MAX) {
        char text[120];
        snprintf(text, sizeof(text), "%d workers died with this task; it is not tried again",
                 t->deaths);
        broker_task_fail(b, t, TY_EINTERNAL, text, h->stage);
        return;
    }
    ty_status st = broker_task_queue(b, t, true, false, &err);
    if (st != TY_OK) {
        broker_task_fail(b, t, st, err.text, h->stage);
        return;
    }
    ty_info("req=%s part=%u dispatched anew attempt=%u lost=%s", t->m->env->request_id,
            t->m->env->part, t->m->env->attempt, h->worker);
    tell_redispatched(t, h->stage, h->worker);
}

static bool is_suspect(const broker_task *t) {
    return t->state == TYTO__PROGRESS__STATE__BEGINS;
}

/* What a death adds to each suspect's blame: they share it.  Without suspects it is everybody's. */
static int blame_of(const broker_task *t, int n_suspect) {
    if (n_suspect == 0) return 1;
    if (!is_suspect(t)) return 0;
    return BROKER_BLAME_ALONE > n_suspect ? BROKER_BLAME_ALONE / n_suspect : 1;
}

/* Last one first, each to the front: the queue gets them in the order they had. */
static void take_back_all(broker *b, broker_worker *w, bool died) {
    broker_task *t;
    int n_suspect = 0;
    TAILQ_FOREACH(t, &w->tasks, next) n_suspect += is_suspect(t);
    while ((t = TAILQ_LAST(&w->tasks, broker_task_list)))
        take_back(b, w, t, died ? blame_of(t, n_suspect) : 0);
}

static void remove_worker(broker *b, broker_worker *w, const char *why, bool died) {
    broker_queue *q = w->q;
    w->peer.lost = why;
    if (died)
        ty_warn("worker=%s lost reason=\"%s\" tasks=%d", hello_of(w)->worker, why, w->n_task);
    else
        ty_info("worker=%s leaves reason=\"%s\" tasks=%d", hello_of(w)->worker, why, w->n_task);
    broker_queue_count(b, q);
    take_back_all(b, w, died);
    broker_worker_destroy(b, w);
}

bool broker_workers_reap(broker *b) {
    broker_worker *w = TAILQ_FIRST(&b->workers);
    bool any = false;
    while (w) {
        broker_worker *after = TAILQ_NEXT(w, next);
        any = any || w->peer.lost;
        if (w->peer.lost) remove_worker(b, w, w->peer.lost, true);
        w = after;
    }
    return any;
}

/* ---- hello ---- */

static void refuse_hello(broker *b, ty_message **m, ty_status st, const char *text) {
    ty_message *answer = broker_make_refusal(st, text);
    ty_warn("worker=%s refused status=%s text=\"%s\"", (*m)->env->hello->worker, ty_status_name(st),
            text);
    if (!answer) return;
    answer->identity = (*m)->identity;
    answer->identity_len = (*m)->identity_len;
    (*m)->identity = NULL;
    (*m)->identity_len = 0;
    if (ty_message_send(b->wk_socket, true, &answer, NULL) != TY_OK) ty_message_destroy(&answer);
}

static void welcome(broker *b, broker_worker *w) {
    Tyto__Welcome *x = ty_pb_new(&tyto__welcome__descriptor);
    if (x) {
        x->accepted = 1;
        x->heartbeat_ms = (uint32_t)b->opt.heartbeat_ms;
        x->incarnation = b->incarnation;
    }
    broker_peer_tell(&w->peer, broker_make(TYTO__ENVELOPE__BODY_WELCOME, x));
}

/* A worker's key is for one stage; a name that another stage has is not for it to take. */
static ty_status check_role(broker *b, const ty_message *m, ty_err *err) {
    const Tyto__Hello *h = m->env->hello;
    if (!b->workers_secured) return TY_OK;
    if (strcmp(m->role, h->stage) != 0)
        return ty_fail(err, TY_EAUTH, "its key is one of stage %s: it cannot serve as %.64s",
                       m->role, h->stage);
    const broker_worker *old = find_name(b, h->worker);
    if (old && strcmp(hello_of(old)->stage, h->stage) != 0)
        return ty_fail(err, TY_EAUTH, "a worker of stage %s is called %.64s", hello_of(old)->stage,
                       h->worker);
    return TY_OK;
}

/* An older self of the worker that says hello now: gone, or cut off, or (refused) the newer one. */
static ty_status replace_old(broker *b, const Tyto__Hello *h, ty_err *err) {
    broker_worker *old = find_name(b, h->worker);
    if (!old) return TY_OK;
    uint64_t had = hello_of(old)->incarnation;
    if (had > h->incarnation)
        return ty_fail(err, TY_EEXIST, "a newer worker is called %.64s", h->worker);
    if (had < h->incarnation) {
        broker_peer_tell(&old->peer, broker_make_refusal(TY_EEXIST, "a newer worker has the name"));
        remove_worker(b, old, "a newer one has its name", true);
    } else {
        /* A new connection of the same process: what was on the way on the old one may be lost. */
        remove_worker(b, old, "it connected anew", false);
    }
    return TY_OK;
}

static ty_status check_peers(broker *b, const broker_queue *q, const Tyto__Hello *h, ty_err *err) {
    broker_worker *w;
    TAILQ_FOREACH(w, &b->workers, next)
    if (w->q == q && !w->peer.lost) return broker_contract_same(hello_of(w), h, err);
    return TY_OK;
}

static ty_status add_worker(broker *b, ty_message **m, broker_worker **out, ty_err *err) {
    const Tyto__Hello *h = (*m)->env->hello;
    broker_queue *q;
    ty_status st = check_role(b, *m, err);
    if (st == TY_OK) st = broker_contract_hello(h, err);
    if (st == TY_OK) st = replace_old(b, h, err);
    if (st == TY_OK) st = broker_queue_get(b, h->stage, h->model, &q, err);
    if (st == TY_OK) st = check_peers(b, q, h, err);
    if (st != TY_OK) return st;
    broker_worker *w = calloc(1, sizeof(*w));
    if (!w) return ty_fail(err, TY_ENOMEM, "no memory for a worker");
    broker_peer_init(&w->peer, b->wk_socket, *m);
    TAILQ_INIT(&w->tasks);
    w->q = q;
    w->credits = h->credits;
    w->hello = *m;
    *m = NULL;
    TAILQ_INSERT_TAIL(&b->workers, w, next);
    broker_queue_count(b, q);
    *out = w;
    return TY_OK;
}

/* The same process on the same connection says hello again: it did not hear us for a while. */
static bool is_same(const broker_worker *w, const Tyto__Hello *h) {
    const Tyto__Hello *was = hello_of(w);
    return was->incarnation == h->incarnation && strcmp(was->worker, h->worker) == 0 &&
           strcmp(was->stage, h->stage) == 0 && strcmp(was->model, h->model) == 0;
}

static void on_hello(broker *b, broker_worker *known, ty_message **m) {
    const Tyto__Hello *h = (*m)->env->hello;
    ty_err err = {0};
    if (known && is_same(known, h)) {
        /* What was on its way when the worker gave us up, or what it dropped then. */
        if (h->holds == 0) take_back_all(b, known, false);
        known->credits = h->credits;
        welcome(b, known);
        return;
    }
    if (b->draining) {
        refuse_hello(b, m, TY_EUNAVAILABLE, "the broker is shutting down");
        return;
    }
    if (known) remove_worker(b, known, "it became another worker", false);
    broker_worker *w = NULL;
    ty_status st = add_worker(b, m, &w, &err);
    if (st != TY_OK) {
        refuse_hello(b, m, st, err.text);
        return;
    }
    h = hello_of(w);
    ty_info("worker=%s hello stage=%s model=%s pid=%u credits=%u batch_limit=%u", h->worker,
            h->stage, h->model, h->pid, h->credits, h->batch_limit);
    welcome(b, w);
}

/* ---- dispatch ---- */

static bool takes_tasks(const broker_worker *w) {
    return !w->draining && !w->peer.lost && w->credits > 0 && w->peer.n_outbox == 0;
}

/* The least loaded; or the one that has computed the longest beginning of the task's prompt, unless that is
 * much busier, for then the others answer sooner. */
static broker_worker *pick_worker(broker *b, const broker_task *t) {
    broker_worker *w, *best = NULL;
    const Tyto__Hop *hop = t->m->env->itinerary[t->m->env->hop];
    TAILQ_FOREACH(w, &b->workers, next) {
        if (w->q != t->q || !takes_tasks(w) || !broker_worker_fits(w, hop)) continue;
        if (!best || w->credits > best->credits) best = w;
    }
    broker_worker *holder = best ? broker_affinity_find(b->affinity, t) : NULL;
    bool prefer = holder && takes_tasks(holder) && broker_worker_fits(holder, hop) &&
                  holder->n_task <= best->n_task + BROKER_AFFINITY_TASKS;
    return prefer ? holder : best;
}

static void hand_over(broker_task *t, broker_worker *w) {
    broker_queue *q = t->q;
    t->waited_us = (uint64_t)(ty_now_us() - t->queued_us);
    broker_task_detach(t);
    t->q = q;
    t->owner = w;
    t->state = TYTO__PROGRESS__STATE__BEGINS;
    TAILQ_INSERT_TAIL(&w->tasks, t, next);
    w->n_task++;
    q->n_in_flight++;
    w->credits--;
}

/* False when this worker takes nothing now. */
static bool dispatch(broker *b, broker_task *t, broker_worker *w) {
    ty_err err;
    ty_status st = broker_contract_task(hello_of(w), t->m->env, &err);
    if (st != TY_OK) {
        broker_task_fail(b, t, st, err.text, hello_of(w)->stage);
        return true;
    }
    t->dispatch = b->next_dispatch++;
    t->m->env->dispatch = t->dispatch;
    st = ty_message_post(w->peer.socket, w->peer.id, w->peer.id_len, t->m, &err);
    if (st == TY_EUNAVAILABLE) w->peer.lost = "disconnected";
    if (st == TY_EUNAVAILABLE || st == TY_EOVERLOAD) return false;
    if (st != TY_OK) {
        broker_task_fail(b, t, st, err.text, hello_of(w)->stage);
        return true;
    }
    hand_over(t, w);
    broker_affinity_note(b->affinity, t, w);
    ty_debug("req=%s part=%u hop=%u attempt=%u to=%s waited_us=%llu", t->m->env->request_id,
             t->m->env->part, t->m->env->hop, t->m->env->attempt, hello_of(w)->worker,
             (unsigned long long)t->waited_us);
    return true;
}

static bool any_takes_tasks(const broker *b, const broker_queue *q) {
    const broker_worker *w;
    TAILQ_FOREACH(w, &b->workers, next)
    if (w->q == q && takes_tasks(w)) return true;
    return false;
}

/* The first task that one of the free workers may take, and that one: a task whose adapter is with busy workers
 * alone does not hold up those behind it. */
static broker_task *next_task(broker *b, const broker_queue *q, broker_worker **w) {
    broker_task *t;
    if (TAILQ_EMPTY(&q->tasks) || !any_takes_tasks(b, q)) return NULL;
    TAILQ_FOREACH(t, &q->tasks, next)
    if ((*w = pick_worker(b, t))) return t;
    return NULL;
}

void broker_dispatch(broker *b) {
    broker_queue *q;
    TAILQ_FOREACH(q, &b->queues, next) {
        broker_worker *w = NULL;
        broker_task *t;
        while ((t = next_task(b, q, &w)))
            if (!dispatch(b, t, w) && !w->peer.lost) break;
    }
}

/* ---- answers ---- */

/* The task that this dispatch number stands for, if the worker still owns it. */
static broker_task *find_task(const broker_worker *w, uint64_t dispatch_number) {
    broker_task *t;
    TAILQ_FOREACH(t, &w->tasks, next)
    if (t->dispatch == dispatch_number) break;
    return t;
}

static void grant(broker_worker *w, uint32_t credits) {
    enum { MOST = 1 << 16 };
    w->credits = credits > MOST - w->credits ? MOST : w->credits + credits;
}

/* The worker's record of the hop moves into the task, with what only the broker knows. */
static ty_status keep_timing(broker_task *t, ty_message *result) {
    Tyto__Envelope *e = result->env;
    if (e->n_timings == 0) return TY_OK;
    Tyto__Timing *x = e->timings[e->n_timings - 1];
    int64_t back = result->received_unix_us - e->sent_unix_us;
    x->broker_queue_us = t->waited_us;
    x->return_us = back > 0 ? (uint64_t)back : 0;
    ty_status st = ty_pb_append(&t->m->env->timings, &t->m->env->n_timings, x);
    if (st == TY_OK) e->n_timings--;
    return st;
}

/* The next hop's Task is the same envelope with the outputs in the place of the inputs. */
static void advance(broker *b, broker_task *t) {
    ty_err err;
    char stage[32];
    snprintf(stage, sizeof(stage), "%s", t->q->stage);
    broker_task_detach(t);
    t->m->env->hop++;
    t->m->env->attempt = t->first_attempt;
    t->deaths = t->blame = 0;
    ty_status st = broker_task_queue(b, t, false, false, &err);
    if (st != TY_OK) broker_task_fail(b, t, st, err.text, stage);
}

static void finish(broker *b, broker_task *t, ty_message *result) {
    Tyto__Result *body = result->env->result;
    result->env->result = NULL;
    result->env->body_case = TYTO__ENVELOPE__BODY__NOT_SET;
    body->credits = 0;
    ty_message_set_body(t->m, TYTO__ENVELOPE__BODY_RESULT, body);
    ty_debug("req=%s part=%u done", t->m->env->request_id, t->m->env->part);
    broker_peer_tell(&t->gw->peer, t->m);
    t->m = NULL;
    broker_task_drop(b, t);
}

static void on_result(broker *b, broker_worker *w, ty_message *m) {
    ty_err err;
    grant(w, m->env->result->credits);
    broker_task *t = find_task(w, m->env->dispatch);
    if (!t) {
        ty_debug("req=%s part=%u late result of worker=%s dropped", m->env->request_id,
                 m->env->part, hello_of(w)->worker);
        return;
    }
    ty_message_clear_tensors(t->m);
    ty_status st = keep_timing(t, m);
    if (st == TY_OK) st = ty_message_move_tensors(t->m, m, &err);
    if (st != TY_OK)
        broker_task_fail(b, t, st, "no room for the result", hello_of(w)->stage);
    else if (t->m->env->hop + 1 < t->m->env->n_itinerary)
        advance(b, t);
    else
        finish(b, t, m);
}

static void on_error(broker *b, broker_worker *w, const ty_message *m) {
    const Tyto__Error *e = m->env->error;
    grant(w, e->credits);
    broker_task *t = find_task(w, m->env->dispatch);
    if (t)
        broker_task_fail(b, t, ty_status_from_name(e->status), e->text, hello_of(w)->stage);
    else if (*m->env->request_id == '\0')
        ty_warn("worker=%s says %s: %s", hello_of(w)->worker, e->status, e->text);
}

static void on_progress(const broker_worker *w, const ty_message *m) {
    broker_task *t = find_task(w, m->env->dispatch);
    if (t) t->state = m->env->progress->state;
}

/* What goes to the gateway is forced on the worker that takes over, so that the stream goes on where it was,
 * whatever that one would have said.  The gateway has these tokens by then: its messages keep their order. */
static void on_chunk(broker *b, const broker_worker *w, ty_message **m) {
    broker_task *t = find_task(w, (*m)->env->dispatch);
    if (!t || (*m)->n_frame > 0) return;
    ty_err err = {0};
    Tyto__DecodeTask *d = t->m->env->task->decode;
    ty_status st = d ? ty_chat_codec_force(d, (*m)->env->chunk, &err) : TY_OK;
    if (st != TY_OK) {
        broker_task_tell_cancel(t);
        broker_task_fail(b, t, st == TY_EFORMAT ? TY_EIO : st, err.text, hello_of(w)->stage);
        b->changed = true;
        return;
    }
    t->state = TYTO__PROGRESS__STATE__MOVES;
    t->deaths = t->blame = 0;
    broker_peer_tell(&t->gw->peer, *m);
    *m = NULL;
    b->changed = b->changed || t->gw->peer.lost;
}

static void withdraw(broker_worker *w, uint32_t credits) {
    w->credits = w->credits > credits ? w->credits - credits : 0;
}

static void on_credit(broker *b, broker_worker *w, const Tyto__Credit *c) {
    if (c->change >= 0)
        grant(w, (uint32_t)c->change);
    else
        withdraw(w, 0U - (uint32_t)c->change);
    if (!c->leaving) return;
    w->credits = 0;
    w->draining = true;
    ty_info("worker=%s drains", hello_of(w)->worker);
    broker_queue_count(b, w->q);
}

static void on_heartbeat(broker_worker *w, const Tyto__Heartbeat *h) {
    w->counts_pages = h->pages != NULL;
    if (!h->pages) return;
    w->pages_used = h->pages->used;
    w->pages_cached = h->pages->cached;
    w->pages_total = h->pages->total;
}

/* The worker leaves and has not begun it. */
static void on_handed_back(broker *b, broker_worker *w, const ty_message *m) {
    broker_task *t = find_task(w, m->env->dispatch);
    if (t) take_back(b, w, t, 0);
}

static void on_stranger(broker *b, ty_message **m) {
    if ((*m)->env->body_case == TYTO__ENVELOPE__BODY_GOODBYE) return;
    broker_refuse(b->wk_socket, m, TY_EUNAVAILABLE,
                  "say hello first: this broker does not know you");
}

void broker_worker_message(broker *b, ty_message **m) {
    broker_worker *w = find_peer(b, *m);
    if (w) w->peer.heard_us = ty_now_us();
    Tyto__Envelope__BodyCase c = (*m)->env->body_case;
    b->changed = b->changed || !w || c != TYTO__ENVELOPE__BODY_CHUNK;
    if (c == TYTO__ENVELOPE__BODY_HELLO) {
        on_hello(b, w, m);
        return;
    }
    if (!w) {
        on_stranger(b, m);
        return;
    }
    switch (c) {
    case TYTO__ENVELOPE__BODY_HEARTBEAT: on_heartbeat(w, (*m)->env->heartbeat); break;
    case TYTO__ENVELOPE__BODY_RESULT: on_result(b, w, *m); break;
    case TYTO__ENVELOPE__BODY_ERROR: on_error(b, w, *m); break;
    case TYTO__ENVELOPE__BODY_CHUNK: on_chunk(b, w, m); break;
    case TYTO__ENVELOPE__BODY_CREDIT: on_credit(b, w, (*m)->env->credit); break;
    case TYTO__ENVELOPE__BODY_PROGRESS: on_progress(w, *m); break;
    case TYTO__ENVELOPE__BODY_HANDED_BACK: on_handed_back(b, w, *m); break;
    case TYTO__ENVELOPE__BODY_GOODBYE: remove_worker(b, w, "goodbye", false); break;
    default:
        ty_warn("worker=%s sent what no worker sends, body=%d", hello_of(w)->worker, (int)c);
        broker_refuse(b->wk_socket, m, TY_EFORMAT, "a worker does not send this kind of message");
    }
}

void broker_worker_bad_message(broker *b, ty_message **m, const ty_err *why) {
    broker_worker *w = find_peer(b, *m);
    broker_task *t = w ? find_task(w, (*m)->env->dispatch) : NULL;
    b->changed = true;
    /* A broken answer is still an answer: its client hears of it at once, not at the deadline. */
    if (t) {
        grant(w, 1);
        broker_task_fail(b, t, why->code, why->text, hello_of(w)->stage);
    }
    broker_refuse(b->wk_socket, m, why->code, why->text);
}
