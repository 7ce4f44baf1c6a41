/* peer.c - one connection of the broker: what is sent at once, what waits. */
#include "services/broker/state.h"

#include "common/base/clock.h"
#include "common/base/log.h"

#include <stdlib.h>
#include <string.h>

typedef struct broker_waiting {
    STAILQ_ENTRY(broker_waiting) next;
    ty_message *m;
} broker_waiting;

void broker_peer_init(broker_peer *p, void *socket, const ty_message *from) {
    *p = (broker_peer){.socket = socket, .id_len = from->identity_len, .heard_us = ty_now_us()};
    memcpy(p->id, from->identity, from->identity_len);
    STAILQ_INIT(&p->outbox);
}

static void drop_first(broker_peer *p) {
    broker_waiting *x = STAILQ_FIRST(&p->outbox);
    STAILQ_REMOVE_HEAD(&p->outbox, next);
    p->n_outbox--;
    ty_message_destroy(&x->m);
    free(x);
}

void broker_peer_clear(broker_peer *p) {
    while (!STAILQ_EMPTY(&p->outbox)) drop_first(p);
}

bool broker_peer_is(const broker_peer *p, const ty_message *from) {
    return p->id_len == from->identity_len && memcmp(p->id, from->identity, p->id_len) == 0;
}

/* TY_OK, TY_EOVERLOAD (keep it), or the peer is marked lost. */
static ty_status try_send(broker_peer *p, ty_message *m) {
    ty_err err;
    ty_status st = ty_message_post(p->socket, p->id, p->id_len, m, &err);
    if (st == TY_EUNAVAILABLE) {
        p->lost = "disconnected";
    } else if (st != TY_OK && st != TY_EOVERLOAD) {
        ty_error("req=%s is not sent: %s", m->env->request_id, err.text);
        st = TY_OK; /* it would fail again */
    }
    return st;
}

static void keep(broker_peer *p, ty_message *m) {
    broker_waiting *x = p->n_outbox < BROKER_OUTBOX_MAX ? malloc(sizeof(*x)) : NULL;
    if (!x) {
        p->lost = "does not read";
        ty_message_destroy(&m);
        return;
    }
    x->m = m;
    STAILQ_INSERT_TAIL(&p->outbox, x, next);
    p->n_outbox++;
}

void broker_peer_tell(broker_peer *p, ty_message *m) {
    if (!m) {
        ty_error("out of memory: a message is not sent");
        return;
    }
    broker_peer_flush(p);
    if (p->lost || (p->n_outbox == 0 && try_send(p, m) != TY_EOVERLOAD))
        ty_message_destroy(&m);
    else
        keep(p, m);
}

void broker_peer_flush(broker_peer *p) {
    while (!p->lost && !STAILQ_EMPTY(&p->outbox)) {
        if (try_send(p, STAILQ_FIRST(&p->outbox)->m) != TY_OK) return;
        drop_first(p);
    }
}

ty_message *broker_make(Tyto__Envelope__BodyCase c, void *body) {
    ty_message *m = body ? ty_message_new() : NULL;
    if (m)
        ty_message_set_body(m, c, body);
    else if (body)
        protobuf_c_message_free_unpacked(body, NULL);
    return m;
}

void broker_refuse(void *socket, ty_message **m, ty_status st, const char *text) {
    ty_message_clear_tensors(*m);
    ty_message_set_error(*m, st, text, "");
    /* A peer that is gone or full gets no second chance: it was wrong to begin with. */
    if (ty_message_send(socket, true, m, NULL) != TY_OK) ty_message_destroy(m);
}

ty_message *broker_make_refusal(ty_status st, const char *text) {
    Tyto__Welcome *w = ty_pb_new(&tyto__welcome__descriptor);
    Tyto__Error *e = ty_pb_new(&tyto__error__descriptor);
    if (w && e) {
        w->error = e;
        (void)ty_pb_set_str(&e->status, ty_status_name(st));
        (void)ty_pb_set_str(&e->text, text);
    } else if (e) {
        tyto__error__free_unpacked(e, NULL);
    }
    return broker_make(TYTO__ENVELOPE__BODY_WELCOME, w);
}
