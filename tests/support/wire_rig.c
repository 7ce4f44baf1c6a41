/* wire_rig.c - see wire_rig.h. */
#include "tests/support/ty_test.h"

#include "common/base/clock.h"
#include "common/base/file.h"
#include "common/wire/socket.h"
#include "tests/support/process.h"
#include "tests/support/wire_rig.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

static const char *const letters[] = {"a", "b", "c", "d"};
static const char *const tensors[] = {"t_a", "t_b", "t_c", "t_d", "t_e"};

void rig_broker_start(rig *r, const char *const *options) {
    const char *argv[32] = {test_bin("tyto-broker"), "--gateways", r->gateways, "--workers",
                            r->workers};
    for (int n = 5; options && *options && n < 31; n++) argv[n] = *options++;
    r->broker = test_spawn((char *const *)(uintptr_t)argv, test_path("%s/broker.log", r->dir));
}

void rig_start(rig *r, int hops, const char *const *broker_options) {
    rig_start_of(r, hops, NULL, NULL, broker_options);
}

void rig_start_of(rig *r, int hops, const char *const *stage, const char *const *model,
                  const char *const *broker_options) {
    *r = (rig){.dir = test_temp_dir(), .pipeline_hops = hops, .stage = stage, .model = model};
    snprintf(r->gateways, sizeof(r->gateways), "ipc://%s/g.sock", r->dir);
    snprintf(r->workers, sizeof(r->workers), "ipc://%s/w.sock", r->dir);
    rig_broker_start(r, broker_options);
    r->zmq = ty_socket_context();
    rig_reconnect(r);
}

void rig_reconnect(rig *r) {
    ty_err err;
    ty_socket_close(&r->socket, 0);
    r->incarnation = r->incarnation ? r->incarnation : (uint64_t)ty_now_unix_us();
    assert_int_equal(ty_socket_connect(r->zmq, ZMQ_DEALER, r->gateways, &(ty_socket_security){0},
                                       &r->socket, &err),
                     TY_OK);
    rig_hello(r);
}

void rig_stop(rig *r) {
    for (int i = 0; i < RIG_WORKERS_MAX; i++)
        if (r->worker[i] > 0) {
            int rc = test_stop(r->worker[i], SIGTERM, RIG_WAIT_S);
            if (rc != 0) fail_msg("worker %d ended with %d", i, rc);
        }
    ty_socket_close(&r->socket, 0);
    zmq_ctx_term(r->zmq);
    if (r->broker > 0) assert_int_equal(test_stop(r->broker, SIGTERM, RIG_WAIT_S), 0);
}

void rig_worker(rig *r, int i, const char *stage, test_toy t) {
    char name[16];
    int k = stage[0] - 'a';
    snprintf(name, sizeof(name), "%s.%d", stage, i);
    t.stage = stage;
    if (!t.worker) t.worker = name;
    if (!t.connect) t.connect = r->workers;
    if (!t.takes) t.takes = tensors[k];
    if (!t.gives) t.gives = tensors[k + 1];
    r->worker[i] = test_toy_spawn(&t, test_path("%s/%s.log", r->dir, t.worker));
}

void rig_worker_kill(rig *r, int i, int sig) {
    int rc = test_stop(r->worker[i], sig, RIG_WAIT_S);
    assert_int_equal(rc, sig == SIGTERM ? 0 : -sig);
    r->worker[i] = 0;
}

static Tyto__Hop *make_hop(const rig *r, int i) {
    char model[32];
    Tyto__Hop *h = ty_pb_new(&tyto__hop__descriptor);
    snprintf(model, sizeof(model), "model-%s", letters[i]);
    ty_pb_set_str(&h->stage, r->stage ? r->stage[i] : letters[i]);
    ty_pb_set_str(&h->model, r->model ? r->model[i] : model);
    return h;
}

/* Sends, waiting for the connection. */
void rig_send(rig *r, ty_message *m) {
    ty_err err;
    int64_t until = ty_now_us() + RIG_WAIT_S * 1000000LL;
    while (ty_message_send(r->socket, false, &m, &err) != TY_OK) {
        if (ty_now_us() > until) fail_msg("send: %s", err.text);
        zmq_poll(NULL, 0, 5);
    }
}

void rig_hello(rig *r) {
    ty_message *m = ty_message_new();
    Tyto__GatewayHello *h = ty_pb_new(&tyto__gateway_hello__descriptor);
    Tyto__PipelineSpec *p = ty_pb_new(&tyto__pipeline_spec__descriptor);
    for (int i = 0; i < r->pipeline_hops; i++) ty_pb_append(&p->hops, &p->n_hops, make_hop(r, i));
    ty_pb_set_str(&p->name, "toy");
    ty_pb_set_str(&h->gateway, "test-gateway");
    h->incarnation = r->incarnation;
    ty_pb_append(&h->pipelines, &h->n_pipelines, p);
    ty_message_set_body(m, TYTO__ENVELOPE__BODY_GATEWAY_HELLO, h);
    rig_send(r, m);
}

static void send_body(rig *r, Tyto__Envelope__BodyCase c, const ProtobufCMessageDescriptor *d) {
    ty_message *m = ty_message_new();
    ty_message_set_body(m, c, ty_pb_new(d));
    if (ty_message_send(r->socket, false, &m, NULL) != TY_OK) ty_message_destroy(&m);
}

static void free_bytes(void *data, void *hint) {
    (void)hint;
    free(data);
}

ty_message *rig_empty_task(const rig *r, const char *id, int part) {
    ty_message *m = ty_message_new();
    Tyto__Envelope *e = m->env;
    ty_pb_set_str(&e->request_id, id);
    ty_pb_set_str(&e->pipeline, "toy");
    e->part = (uint32_t)part;
    e->generation = 1;
    e->attempt = 1;
    e->deadline_unix_us = ty_now_unix_us() + 60000000;
    for (int i = 0; i < r->pipeline_hops; i++)
        ty_pb_append(&e->itinerary, &e->n_itinerary, make_hop(r, i));
    ty_message_set_body(m, TYTO__ENVELOPE__BODY_TASK, ty_pb_new(&tyto__task__descriptor));
    return m;
}

ty_message *rig_task(const rig *r, const char *id, int part, float value) {
    ty_message *m = rig_empty_task(r, id, part);
    ty_err err;
    float *x = calloc(4, sizeof(*x));
    x[0] = value;
    assert_int_equal(ty_message_add_tensor(m, "t_a", TYTO__DTYPE__DTYPE_F32, 2, (int64_t[]){1, 4},
                                           x, 4 * sizeof(*x), free_bytes, NULL, &err),
                     TY_OK);
    return m;
}

void rig_submit(rig *r, const char *id, int part, float value) {
    rig_send(r, rig_task(r, id, part, value));
}

void rig_cancel(rig *r, const char *id, int part) {
    ty_message *m = ty_message_new();
    ty_pb_set_str(&m->env->request_id, id);
    m->env->part = (uint32_t)part;
    ty_message_set_body(m, TYTO__ENVELOPE__BODY_CANCEL, ty_pb_new(&tyto__cancel__descriptor));
    rig_send(r, m);
}

static void keep_news(rig *r, const Tyto__Welcome *w) {
    assert_true(w->accepted);
    r->draining = w->draining;
    if (w->n_pipelines == 0) return;
    const Tyto__PipelineState *p = w->pipelines[0];
    r->ready = p->ready;
    snprintf(r->reason, sizeof(r->reason), "%s", p->reason);
    for (size_t i = 0; i < p->n_stages && i < 4; i++) {
        r->stage_workers[i] = p->stages[i]->workers;
        r->in_flight[i] = p->stages[i]->in_flight;
        r->queued[i] = p->stages[i]->queued;
    }
}

/* False when the message is one that the rig deals with itself. */
static bool is_for_test(rig *r, const ty_message *m) {
    const Tyto__Envelope *e = m->env;
    switch (e->body_case) {
    case TYTO__ENVELOPE__BODY_HEARTBEAT: return false;
    case TYTO__ENVELOPE__BODY_WELCOME: keep_news(r, e->welcome); return false;
    case TYTO__ENVELOPE__BODY_REDISPATCHED: r->n_redispatched++; return false;
    case TYTO__ENVELOPE__BODY_GOODBYE:
        r->goodbyes++;
        send_body(r, TYTO__ENVELOPE__BODY_GOODBYE, &tyto__goodbye__descriptor);
        return false;
    case TYTO__ENVELOPE__BODY_ERROR:
        /* A new broker does not know us: as a gateway does, say hello again. */
        if (*e->request_id == '\0' && strcmp(e->error->status, "EUNAVAILABLE") == 0) {
            rig_hello(r);
            return false;
        }
        return true;
    default: return true;
    }
}

/* One message of any kind, or a beat. */
static ty_message *turn(rig *r, int timeout_ms, bool *any) {
    ty_message *m = NULL;
    ty_err err;
    *any = false;
    if (ty_now_us() - r->beat_us > 200000) {
        r->beat_us = ty_now_us();
        send_body(r, TYTO__ENVELOPE__BODY_HEARTBEAT, &tyto__heartbeat__descriptor);
    }
    zmq_pollitem_t item = {.socket = r->socket, .events = ZMQ_POLLIN};
    zmq_poll(&item, 1, timeout_ms < 50 ? timeout_ms : 50);
    ty_status st = ty_message_recv(r->socket, false, &m, &err);
    if (st == TY_ENOTFOUND) return NULL;
    if (st != TY_OK) fail_msg("the gateway received: %s", err.text);
    *any = true;
    if (is_for_test(r, m)) return m;
    ty_message_destroy(&m);
    return NULL;
}

ty_message *rig_wait(rig *r, int timeout_ms) {
    int64_t until = ty_now_us() + timeout_ms * 1000LL;
    bool any;
    do {
        ty_message *m = turn(r, timeout_ms, &any);
        if (m) return m;
    } while (ty_now_us() < until);
    return NULL;
}

ty_message *rig_expect(rig *r, Tyto__Envelope__BodyCase body) {
    ty_message *m = rig_wait(r, RIG_WAIT_S * 1000);
    if (!m) fail_msg("nothing came in %d s", RIG_WAIT_S);
    if (m->env->body_case == TYTO__ENVELOPE__BODY_ERROR && body != TYTO__ENVELOPE__BODY_ERROR)
        fail_msg("an Error came: %s %s", m->env->error->status, m->env->error->text);
    assert_int_equal(m->env->body_case, body);
    return m;
}

void rig_expect_error(rig *r, ty_status want, const char *says) {
    ty_message *m = rig_expect(r, TYTO__ENVELOPE__BODY_ERROR);
    assert_string_equal(m->env->error->status, ty_status_name(want));
    if (!strstr(m->env->error->text, says))
        fail_msg("\"%s\" does not say \"%s\"", m->env->error->text, says);
    ty_message_destroy(&m);
}

/* Deals with messages for a moment; none may be for the test. */
static void idle(rig *r) {
    bool any;
    ty_message *m = turn(r, 20, &any);
    if (m) fail_msg("unexpected message, body %d", (int)m->env->body_case);
}

void rig_wait_ready(rig *r, bool ready) {
    int64_t until = ty_now_us() + RIG_WAIT_S * 1000000LL;
    while (r->ready != ready) {
        idle(r);
        if (ty_now_us() > until) fail_msg("ready is %d: %s", r->ready, r->reason);
    }
}

static void wait_count(rig *r, const uint32_t *count, uint32_t n, bool ask) {
    int64_t until = ty_now_us() + RIG_WAIT_S * 1000000LL, asked = 0;
    while (*count != n) {
        if (ask && ty_now_us() - asked > 20000) {
            asked = ty_now_us();
            send_body(r, TYTO__ENVELOPE__BODY_STATUS_QUERY, &tyto__status_query__descriptor);
        }
        idle(r);
        if (ty_now_us() > until) fail_msg("%u, want %u", *count, n);
    }
}

void rig_wait_workers(rig *r, int stage, uint32_t n) {
    wait_count(r, &r->stage_workers[stage], n, false);
}

void rig_wait_in_flight(rig *r, int stage, uint32_t n) {
    wait_count(r, &r->in_flight[stage], n, true);
}

float rig_value(ty_message *m) {
    ty_tensor t;
    ty_err err;
    if (ty_message_tensor(m, 0, NULL, &t, &err) != TY_OK) fail_msg("tensor: %s", err.text);
    assert_int_equal(t.dtype, TY_F32);
    return ((const float *)t.data)[0];
}

bool rig_log_has(const rig *r, const char *who, const char *text) {
    char *data;
    size_t size;
    if (ty_file_read(test_path("%s/%s.log", r->dir, who), 64 << 20, &data, &size, NULL) != TY_OK)
        return false;
    bool yes = strstr(data, text) != NULL;
    free(data);
    return yes;
}
