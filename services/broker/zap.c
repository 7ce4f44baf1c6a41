/* zap.c - see zap.h. */
#include "services/broker/zap.h"

#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/wire/keys.h"

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <zmq.h>

enum {
    KEY_BYTES = 32,
    FRAMES = 7, /* version, request id, domain, address, identity, mechanism, credentials */
    LOG_US = 1000000,
};

typedef struct {
    uint8_t bytes[KEY_BYTES];
    const char *role; /* of ty_key_role */
} known_key;

struct broker_zap {
    void *socket;
    known_key *key;
    int n_key, cap_key;
    int64_t refused_log_us;
    int n_refused;
};

static ty_status add_key(void *ctx, const char *role, const char *text, ty_err *err) {
    broker_zap *z = ctx;
    uint8_t bytes[KEY_BYTES];
    if (!zmq_z85_decode(bytes, text)) return ty_fail(err, TY_EFORMAT, "%s.pub: no key", role);
    for (int i = 0; i < z->n_key; i++)
        if (memcmp(z->key[i].bytes, bytes, KEY_BYTES) == 0)
            return ty_fail(err, TY_EFORMAT, "%s.pub and %s.pub hold the same key", z->key[i].role,
                           role);
    if (z->n_key == z->cap_key) {
        int cap = z->cap_key ? 2 * z->cap_key : 8;
        known_key *p = realloc(z->key, (size_t)cap * sizeof(*p));
        if (!p) return ty_fail(err, TY_ENOMEM, "no memory for the keys");
        z->key = p;
        z->cap_key = cap;
    }
    known_key *k = &z->key[z->n_key++];
    k->role = role;
    memcpy(k->bytes, bytes, KEY_BYTES);
    return TY_OK;
}

static ty_status bind_address(broker_zap *z, void *zmq, ty_err *err) {
    int none = 0;
    z->socket = zmq_socket(zmq, ZMQ_REP);
    if (z->socket && zmq_setsockopt(z->socket, ZMQ_LINGER, &none, sizeof(none)) == 0 &&
        zmq_bind(z->socket, "inproc://zeromq.zap.01") == 0)
        return TY_OK;
    return ty_fail(err, TY_EIO, "the address of the authentication: %s", zmq_strerror(errno));
}

ty_status broker_zap_create(broker_zap **out, void *zmq, const char *keys_dir, ty_err *err) {
    *out = NULL;
    broker_zap *z = calloc(1, sizeof(*z));
    if (!z) return ty_fail(err, TY_ENOMEM, "no memory for the keys");
    ty_status st = TY_OK;
    for (int i = 1; i < TY_KEY_ROLES && st == TY_OK; i++) { /* brokers do not connect to brokers */
        int before = z->n_key;
        st = ty_keys_each_public(keys_dir, ty_key_role[i], add_key, z, err);
        if (st == TY_OK && z->n_key == before)
            ty_warn("keys: %s/%s.pub has none: nobody can connect as %s", keys_dir, ty_key_role[i],
                    ty_key_role[i]);
    }
    if (st == TY_OK) st = bind_address(z, zmq, err);
    if (st != TY_OK)
        broker_zap_destroy(&z);
    else
        *out = z;
    return st;
}

void *broker_zap_socket(const broker_zap *z) {
    return z->socket;
}

/* ---- answering ---- */

typedef struct {
    zmq_msg_t frame[FRAMES];
    int n;
} request;

/* False: nothing waits.  More frames than a request has are read and counted, not kept. */
static bool receive(broker_zap *z, request *r) {
    r->n = 0;
    for (bool more = true; more;) {
        zmq_msg_t part;
        zmq_msg_init(&part);
        if (zmq_msg_recv(&part, z->socket, ZMQ_DONTWAIT) < 0) {
            zmq_msg_close(&part);
            return false;
        }
        more = zmq_msg_more(&part);
        if (r->n < FRAMES)
            r->frame[r->n] = part;
        else
            zmq_msg_close(&part);
        r->n++;
    }
    return true;
}

static void clear(request *r) {
    for (int i = 0; i < r->n && i < FRAMES; i++) zmq_msg_close(&r->frame[i]);
}

static bool frame_is(request *r, int i, const char *text) {
    return zmq_msg_size(&r->frame[i]) == strlen(text) &&
           memcmp(zmq_msg_data(&r->frame[i]), text, strlen(text)) == 0;
}

/* The role of the key in that request; NULL: it opens nothing here. */
static const char *role_of(const broker_zap *z, request *r) {
    if (r->n != FRAMES || !frame_is(r, 0, "1.0") || !frame_is(r, 5, "CURVE")) return NULL;
    if (zmq_msg_size(&r->frame[6]) != KEY_BYTES) return NULL;
    bool gateways = frame_is(r, 2, BROKER_ZAP_GATEWAYS);
    if (!gateways && !frame_is(r, 2, BROKER_ZAP_WORKERS)) return NULL;
    for (int i = 0; i < z->n_key; i++)
        if (memcmp(z->key[i].bytes, zmq_msg_data(&r->frame[6]), KEY_BYTES) == 0)
            return gateways == (strcmp(z->key[i].role, "gateway") == 0) ? z->key[i].role : NULL;
    return NULL;
}

static void log_refused(broker_zap *z, request *r) {
    int64_t now = ty_now_us();
    z->n_refused++;
    if (z->refused_log_us && now - z->refused_log_us < LOG_US) return;
    if (r->n > 3)
        ty_warn("refused=%d a peer at %.*s: its key does not open the side of the %.*s",
                z->n_refused, (int)zmq_msg_size(&r->frame[3]), (char *)zmq_msg_data(&r->frame[3]),
                (int)zmq_msg_size(&r->frame[2]), (char *)zmq_msg_data(&r->frame[2]));
    z->refused_log_us = now;
    z->n_refused = 0;
}

static void reply(broker_zap *z, request *r, const char *role) {
    const char *status = role ? "200" : "400", *text = role ? "OK" : "this key opens nothing here";
    const char *user = role ? role : "";
    bool ok = zmq_send(z->socket, "1.0", 3, ZMQ_SNDMORE) >= 0;
    if (r->n > 1)
        ok = ok && zmq_send(z->socket, zmq_msg_data(&r->frame[1]), zmq_msg_size(&r->frame[1]),
                            ZMQ_SNDMORE) >= 0;
    else
        ok = ok && zmq_send(z->socket, "", 0, ZMQ_SNDMORE) >= 0;
    ok = ok && zmq_send(z->socket, status, 3, ZMQ_SNDMORE) >= 0 &&
         zmq_send(z->socket, text, strlen(text), ZMQ_SNDMORE) >= 0 &&
         zmq_send(z->socket, user, strlen(user), ZMQ_SNDMORE) >= 0 &&
         zmq_send(z->socket, "", 0, 0) >= 0;
    if (!ok) ty_error("a handshake is not answered: %s", zmq_strerror(errno));
}

void broker_zap_answer(broker_zap *z) {
    for (request r; receive(z, &r); clear(&r)) {
        const char *role = role_of(z, &r);
        if (!role) log_refused(z, &r);
        reply(z, &r, role);
    }
}

void broker_zap_destroy(broker_zap **z) {
    if (!z || !*z) return;
    if ((*z)->socket) zmq_close((*z)->socket);
    free((*z)->key);
    free(*z);
    *z = NULL;
}
