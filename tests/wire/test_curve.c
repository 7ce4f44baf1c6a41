/*
 * test_curve.c - the wire over tcp: who has no key, a wrong one, or the right one of another role, gets nothing.
 *
 * The peers are ZeroMQ sockets (and one plain TCP connection) made here by hand, against a real broker.
 */
#include "tests/support/fleet_rig.h"
#include "tests/support/http_client.h"
#include "tests/support/process.h"
#include "tests/support/ty_test.h"

#include "common/base/clock.h"
#include "common/base/file.h"
#include "common/wire/message.h"
#include "common/wire/socket.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define ARG(x) ((char *)(x))

enum { WAIT_MS = 20000, SILENCE_MS = 400 };

static char keys_dir[256], dir[200], gateways[64], workers[64];
static int gateways_port, workers_port;
static pid_t broker;
static void *zmq;

static int set_up(void **state) {
    (void)state;
    snprintf(dir, sizeof(dir), "%s", test_temp_dir());
    snprintf(keys_dir, sizeof(keys_dir), "%s/keys", dir);
    test_output o = TEST_RUN(ARG(test_bin("tyto")), ARG("keys"), ARG("--out"), keys_dir);
    if (o.exit_code != 0) fail_msg("tyto keys: %s%s", o.out, o.err);
    test_output_clear(&o);
    gateways_port = test_free_port();
    workers_port = test_free_port();
    snprintf(gateways, sizeof(gateways), "tcp://127.0.0.1:%d", gateways_port);
    snprintf(workers, sizeof(workers), "tcp://127.0.0.1:%d", workers_port);
    const char *argv[] = {test_bin("tyto-broker"),
                          "--gateways",
                          gateways,
                          "--workers",
                          workers,
                          "--keys",
                          keys_dir,
                          NULL};
    broker = test_spawn((char *const *)(uintptr_t)argv, test_path("%s/broker.log", dir));
    zmq = ty_socket_context();
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    zmq_ctx_term(zmq);
    assert_int_equal(test_stop(broker, SIGTERM, 20), 0);
    return 0;
}

/* ---- a peer made by hand ---- */

typedef struct {
    void *socket, *monitor;
} peer;

static void set_key(void *s, int option, const char *key) {
    assert_int_equal(zmq_setsockopt(s, option, key, TY_KEY_TEXT), 0);
}

/* public_key NULL: no encryption at all. */
static peer peer_open(const char *endpoint, const char *public_key, const char *secret_key,
                      const char *broker_key) {
    static int n;
    peer p = {.socket = zmq_socket(zmq, ZMQ_DEALER), .monitor = zmq_socket(zmq, ZMQ_PAIR)};
    int none = 0;
    const char *address = test_path("inproc://monitor-%d", n++);
    assert_int_equal(zmq_setsockopt(p.socket, ZMQ_LINGER, &none, sizeof(none)), 0);
    if (public_key) {
        set_key(p.socket, ZMQ_CURVE_PUBLICKEY, public_key);
        set_key(p.socket, ZMQ_CURVE_SECRETKEY, secret_key);
        set_key(p.socket, ZMQ_CURVE_SERVERKEY, broker_key);
    }
    assert_int_equal(zmq_socket_monitor(p.socket, address, ZMQ_EVENT_ALL), 0);
    assert_int_equal(zmq_connect(p.monitor, address), 0);
    assert_int_equal(zmq_connect(p.socket, endpoint), 0);
    return p;
}

static void peer_close(peer *p) {
    zmq_socket_monitor(p->socket, NULL, 0);
    zmq_close(p->socket);
    zmq_close(p->monitor);
}

static peer peer_of_role(const char *endpoint, const char *role) {
    ty_keys k;
    ty_err err = {0};
    if (ty_keys_load(&k, keys_dir, role, &err) != TY_OK) fail_msg("%s", err.text);
    return peer_open(endpoint, k.public_key, k.secret_key, k.broker_key);
}

/* The next event of the connection; 0 after WAIT_MS. */
static int next_event(peer *p) {
    uint16_t event = 0;
    zmq_msg_t m;
    zmq_pollitem_t item = {.socket = p->monitor, .events = ZMQ_POLLIN};
    if (zmq_poll(&item, 1, WAIT_MS) <= 0) return 0;
    zmq_msg_init(&m);
    assert_true(zmq_msg_recv(&m, p->monitor, 0) >= 6);
    memcpy(&event, zmq_msg_data(&m), sizeof(event));
    zmq_msg_close(&m);
    zmq_msg_init(&m); /* the address */
    zmq_msg_recv(&m, p->monitor, 0);
    zmq_msg_close(&m);
    return event;
}

/* True: the broker let it in. */
static bool handshake(peer *p) {
    for (;;) {
        switch (next_event(p)) {
        case ZMQ_EVENT_HANDSHAKE_SUCCEEDED: return true;
        case ZMQ_EVENT_HANDSHAKE_FAILED_AUTH:
        case ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL:
        case ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL:
        case ZMQ_EVENT_DISCONNECTED: return false;
        case 0: fail_msg("nothing happened to the connection"); return false;
        default: break;
        }
    }
}

/* What comes back; NULL after ms. */
static ty_message *answer(const peer *p, int ms) {
    ty_message *m = NULL;
    zmq_pollitem_t item = {.socket = p->socket, .events = ZMQ_POLLIN};
    if (zmq_poll(&item, 1, ms) <= 0) return NULL;
    ty_err err = {0};
    if (ty_message_recv(p->socket, false, &m, &err) != TY_OK) fail_msg("%s", err.text);
    return m;
}

static void say_gateway_hello(const peer *p) {
    ty_message *m = ty_message_new();
    Tyto__GatewayHello *h = ty_pb_new(&tyto__gateway_hello__descriptor);
    ty_pb_set_str(&h->gateway, "by-hand");
    ty_message_set_body(m, TYTO__ENVELOPE__BODY_GATEWAY_HELLO, h);
    if (ty_message_send(p->socket, false, &m, NULL) != TY_OK) ty_message_destroy(&m);
}

static void say_worker_hello(const peer *p, const char *stage, const char *name) {
    ty_message *m = ty_message_new();
    Tyto__Hello *h = ty_pb_new(&tyto__hello__descriptor);
    ty_pb_set_str(&h->stage, stage);
    ty_pb_set_str(&h->model, "0123");
    ty_pb_set_str(&h->worker, name);
    h->incarnation = (uint64_t)ty_now_unix_us();
    h->credits = h->batch_limit = 1;
    ty_message_set_body(m, TYTO__ENVELOPE__BODY_HELLO, h);
    if (ty_message_send(p->socket, false, &m, NULL) != TY_OK) ty_message_destroy(&m);
}

static void is_not_let_in(peer p, const char *who) {
    say_gateway_hello(&p);
    say_worker_hello(&p, "vit", "vit.by-hand");
    if (handshake(&p)) fail_msg("%s was let in", who);
    ty_message *m = answer(&p, SILENCE_MS);
    if (m) fail_msg("%s got a message, body %d", who, (int)m->env->body_case);
    peer_close(&p);
}

/* accepted, or refused with that status. */
static void is_answered(const peer *p, bool accepted, ty_status status) {
    ty_message *m = answer(p, WAIT_MS);
    assert_non_null(m);
    assert_int_equal(m->env->body_case, TYTO__ENVELOPE__BODY_WELCOME);
    if (m->env->welcome->accepted != accepted)
        fail_msg("accepted is %d: %s", m->env->welcome->accepted,
                 m->env->welcome->error ? m->env->welcome->error->text : "");
    if (!accepted) assert_string_equal(m->env->welcome->error->status, ty_status_name(status));
    ty_message_destroy(&m);
}

/* ---- the tests ---- */

static void keys_are_secret_files_and_never_overwritten(void **state) {
    (void)state;
    struct stat s;
    assert_int_equal(stat(keys_dir, &s), 0);
    assert_int_equal(s.st_mode & 0777, 0700);
    for (int i = 0; i < TY_KEY_ROLES; i++) {
        assert_int_equal(stat(test_path("%s/%s.key", keys_dir, ty_key_role[i]), &s), 0);
        assert_int_equal(s.st_mode & 0777, 0600);
        assert_int_equal(stat(test_path("%s/%s.pub", keys_dir, ty_key_role[i]), &s), 0);
    }
    test_output o = TEST_RUN(ARG(test_bin("tyto")), ARG("keys"), ARG("--out"), keys_dir);
    assert_int_equal(o.exit_code, 1);
    assert_non_null(strstr(o.err, "is there already"));
    test_output_clear(&o);
    /* A secret that others can read is not used. */
    const char *secret = test_path("%s/vit.key", keys_dir);
    ty_keys k;
    ty_err err = {0};
    assert_int_equal(chmod(secret, 0644), 0);
    assert_int_equal(ty_keys_load(&k, keys_dir, "vit", &err), TY_EAUTH);
    assert_non_null(strstr(err.text, "chmod 600"));
    assert_int_equal(chmod(secret, 0600), 0);
    assert_int_equal(ty_keys_load(&k, keys_dir, "vit", &err), TY_OK);
    assert_int_equal(ty_keys_load(&k, test_path("%s/nowhere", dir), "vit", &err), TY_ENOTFOUND);
    assert_non_null(strstr(err.text, "tyto keys"));
    /* Nor is one that is no key. */
    const char *broken = test_path("%s/broken", dir);
    assert_int_equal(mkdir(broken, 0700), 0);
    const char *path = test_path("%s/vit.key", broken);
    assert_int_equal(ty_file_write_atomic(path, "not a key\n", 10, &err), TY_OK);
    assert_int_equal(chmod(path, 0600), 0);
    assert_int_equal(ty_keys_load(&k, broken, "vit", &err), TY_EFORMAT);
}

static void peer_of_the_right_role_is_served(void **state) {
    (void)state;
    peer g = peer_of_role(gateways, "gateway"), w = peer_of_role(workers, "vit");
    say_gateway_hello(&g);
    say_worker_hello(&w, "vit", "vit.7");
    assert_true(handshake(&g));
    assert_true(handshake(&w));
    is_answered(&g, true, TY_OK);
    is_answered(&w, true, TY_OK);
    peer_close(&g);
    peer_close(&w);
}

static void peer_without_a_key_gets_nothing(void **state) {
    (void)state;
    is_not_let_in(peer_open(gateways, NULL, NULL, NULL), "a gateway without a key");
    is_not_let_in(peer_open(workers, NULL, NULL, NULL), "a worker without a key");
}

/* ZeroMQ's greeting is the same for everybody; nothing follows it. */
static void plain_tcp_gets_a_greeting_at_most(void **state) {
    (void)state;
    static const char *const said[] = {"", "GET / HTTP/1.1\r\nHost: x\r\n\r\n",
                                       "\xff\0\0\0\0\0\0\0\1\x7f\3\0NULL"};
    for (int port = 0; port < 2; port++)
        for (int i = 0; i < 3; i++) {
            int fd = test_http_connect(port ? gateways_port : workers_port);
            struct timeval t = {.tv_usec = SILENCE_MS * 1000};
            assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof(t)), 0);
            test_http_write(fd, said[i], i < 2 ? strlen(said[i]) : 16);
            char got[512];
            size_t n = 0;
            for (ssize_t k; (k = read(fd, got + n, sizeof(got) - n)) > 0;) n += (size_t)k;
            if (n > 64) fail_msg("%zu bytes came", n);
            close(fd);
        }
}

static void peer_with_an_unknown_key_gets_nothing(void **state) {
    (void)state;
    char public_key[TY_KEY_TEXT], secret_key[TY_KEY_TEXT];
    ty_keys k;
    ty_err err;
    assert_int_equal(zmq_curve_keypair(public_key, secret_key), 0);
    assert_int_equal(ty_keys_load(&k, keys_dir, "gateway", &err), TY_OK);
    is_not_let_in(peer_open(gateways, public_key, secret_key, k.broker_key), "an unknown gateway");
    is_not_let_in(peer_open(workers, public_key, secret_key, k.broker_key), "an unknown worker");
}

/* The right role's public key is no secret: without the secret one it opens nothing. */
static void peer_with_a_borrowed_public_key_gets_nothing(void **state) {
    (void)state;
    char public_key[TY_KEY_TEXT], secret_key[TY_KEY_TEXT];
    ty_keys k;
    ty_err err;
    assert_int_equal(zmq_curve_keypair(public_key, secret_key), 0);
    assert_int_equal(ty_keys_load(&k, keys_dir, "gateway", &err), TY_OK);
    peer p = peer_open(gateways, k.public_key, secret_key, k.broker_key);
    say_gateway_hello(&p);
    /* The broker cannot read its first words, and drops them. */
    assert_null(answer(&p, SILENCE_MS));
    peer_close(&p);
}

static void key_of_another_side_gets_nothing(void **state) {
    (void)state;
    is_not_let_in(peer_of_role(gateways, "vit"), "a vit worker among the gateways");
    is_not_let_in(peer_of_role(gateways, "decoder"), "a decoder among the gateways");
    is_not_let_in(peer_of_role(workers, "gateway"), "a gateway among the workers");
    is_not_let_in(peer_of_role(workers, "broker"), "a broker among the workers");
}

static void stage_key_serves_its_stage_alone(void **state) {
    (void)state;
    peer d = peer_of_role(workers, "decoder"), v = peer_of_role(workers, "vit");
    say_worker_hello(&d, "decoder", "decoder.0");
    is_answered(&d, true, TY_OK);
    say_worker_hello(&v, "decoder", "decoder.1"); /* as another stage */
    is_answered(&v, false, TY_EAUTH);
    say_worker_hello(&v, "vit", "decoder.0"); /* by another's name */
    is_answered(&v, false, TY_EAUTH);
    say_worker_hello(&v, "vit", "vit.0");
    is_answered(&v, true, TY_OK);
    peer_close(&v);
    peer_close(&d);
}

static void *open_with_id(const char *role) {
    ty_keys k;
    ty_err err;
    int none = 0;
    assert_int_equal(ty_keys_load(&k, keys_dir, role, &err), TY_OK);
    void *s = zmq_socket(zmq, ZMQ_DEALER);
    zmq_setsockopt(s, ZMQ_LINGER, &none, sizeof(none));
    zmq_setsockopt(s, ZMQ_ROUTING_ID, "mine", 4);
    set_key(s, ZMQ_CURVE_PUBLICKEY, k.public_key);
    set_key(s, ZMQ_CURVE_SECRETKEY, k.secret_key);
    set_key(s, ZMQ_CURVE_SERVERKEY, k.broker_key);
    assert_int_equal(zmq_connect(s, workers), 0);
    return s;
}

static void say_heartbeat(const peer *p) {
    ty_message *m = ty_message_new();
    ty_message_set_body(m, TYTO__ENVELOPE__BODY_HEARTBEAT, ty_pb_new(&tyto__heartbeat__descriptor));
    if (ty_message_send(p->socket, false, &m, NULL) != TY_OK) ty_message_destroy(&m);
}

/* A routing id can be chosen: who takes over a dead peer's does not become that peer. */
static void key_counts_not_the_connection_id(void **state) {
    (void)state;
    peer d = {.socket = open_with_id("decoder")};
    say_worker_hello(&d, "decoder", "decoder.5");
    is_answered(&d, true, TY_OK);
    zmq_close(d.socket); /* the broker still counts on it for a while */
    ty_message *m = NULL;
    /* While the old connection is being taken down, ZeroMQ does not take another of that id. */
    for (int64_t until = ty_now_us() + WAIT_MS * 1000LL; !m && ty_now_us() < until;) {
        peer v = {.socket = open_with_id("vit")};
        say_heartbeat(&v);
        m = answer(&v, SILENCE_MS);
        zmq_close(v.socket);
    }
    assert_non_null(m);
    assert_int_equal(m->env->body_case, TYTO__ENVELOPE__BODY_ERROR);
    assert_string_equal(m->env->error->status, "EUNAVAILABLE"); /* a stranger */
    ty_message_destroy(&m);
}

static void broker_without_keys_stays_on_this_machine(void **state) {
    (void)state;
    const char *at = test_path("tcp://0.0.0.0:%d", test_free_port());
    const char *here = test_path("tcp://127.0.0.1:%d", test_free_port());
    test_output o = TEST_RUN(ARG(test_bin("tyto-broker")), ARG("--gateways"), ARG(here),
                             ARG("--workers"), ARG(at));
    assert_int_equal(o.exit_code, 2);
    assert_non_null(strstr(o.err, "--insecure-tcp"));
    assert_non_null(strstr(o.err, "tyto keys"));
    test_output_clear(&o);
    const char *argv[] = {test_bin("tyto-broker"), "--gateways", here, "--workers", at,
                          "--insecure-tcp",        NULL};
    const char *log = test_path("%s/insecure.log", dir);
    pid_t pid = test_spawn((char *const *)(uintptr_t)argv, log);
    peer p = peer_open(here, NULL, NULL, NULL);
    say_gateway_hello(&p);
    is_answered(&p, true, TY_OK);
    peer_close(&p);
    assert_int_equal(test_stop(pid, SIGTERM, 20), 0);
}

static void whole_service_works_over_tcp_with_keys(void **state) {
    (void)state;
    const char *const options[] = {"--keys", keys_dir, NULL};
    fleet_rig f;
    fleet_rig_start(&f, &(fleet_rig_options){.pipeline = test_import("v1-micro", "v1-micro", NULL),
                                             .brokers = 2,
                                             .gateways = 1,
                                             .workers = {1, 1, 1, 1},
                                             .tcp = true,
                                             .broker_options = options,
                                             .gateway_options = options,
                                             .worker_options = options});
    char *body =
        test_request("v1-micro", "What is this?",
                     test_path("%s/images/photo_47.jpg", test_golden_dir()), "\"max_tokens\": 8");
    test_question q[4] = {{.body = body}, {.body = body}, {.body = body}, {.body = body}};
    test_ask_all(&f.api[0], q, 4);
    for (int i = 0; i < 4; i++) {
        if (q[i].status != 200) fleet_rig_fail(&f, q[i].raw);
        assert_string_equal(q[i].text, q[0].text);
    }
    for (int i = 3; i >= 0; i--) test_question_clear(&q[i]);
    free(body);
    fleet_rig_stop(&f);
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(keys_are_secret_files_and_never_overwritten),
        cmocka_unit_test(peer_of_the_right_role_is_served),
        cmocka_unit_test(peer_without_a_key_gets_nothing),
        cmocka_unit_test(plain_tcp_gets_a_greeting_at_most),
        cmocka_unit_test(peer_with_an_unknown_key_gets_nothing),
        cmocka_unit_test(peer_with_a_borrowed_public_key_gets_nothing),
        cmocka_unit_test(key_of_another_side_gets_nothing),
        cmocka_unit_test(stage_key_serves_its_stage_alone),
        cmocka_unit_test(key_counts_not_the_connection_id),
        cmocka_unit_test(broker_without_keys_stays_on_this_machine),
        cmocka_unit_test(whole_service_works_over_tcp_with_keys),
    };
    if (argc == 2) cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests_name("curve", tests, set_up, tear_down);
}
