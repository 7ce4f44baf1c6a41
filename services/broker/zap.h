/*
 * zap.h - who may connect: ZeroMQ's authentication protocol (ZAP, rfc.zeromq.org/spec/27), answered in the
 * broker's loop.  libzmq asks for each CURVE handshake; the answer is the role of the peer's public key, which
 * then stands in ty_message.role of all that the peer sends.
 */
#ifndef BROKER_ZAP_H
#define BROKER_ZAP_H

#include "common/base/err.h"

/* The domains of the two sockets: a gateway's key opens the first alone, a stage's the second. */
#define BROKER_ZAP_GATEWAYS "gateways"
#define BROKER_ZAP_WORKERS  "workers"

typedef struct broker_zap broker_zap;

/* Reads every ROLE.pub of the directory and binds ZAP's address in the context; before the sockets that it
 * guards are bound.  Fails: TY_EFORMAT, TY_EIO, TY_ENOMEM. */
ty_status broker_zap_create(broker_zap **out, void *zmq, const char *keys_dir, ty_err *err);
void *broker_zap_socket(const broker_zap *z); /* to be polled; borrowed */
/* Answers what waits. */
void broker_zap_answer(broker_zap *z);
void broker_zap_destroy(broker_zap **z);

#endif
