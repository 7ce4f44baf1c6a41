/*
 * message.h - one message on the wire: a protobuf envelope and raw tensor frames.
 *
 * Sending hands the tensor bytes to ZeroMQ without a copy; receiving keeps the frames as ZeroMQ gave
 * them.  Frames are refcounted (zmq_msg_copy), so the broker can keep a task for re-dispatch at no cost.
 */
#ifndef TY_WIRE_MESSAGE_H
#define TY_WIRE_MESSAGE_H

#include "common/base/err.h"
#include "common/math/dtype.h"
#include "tyto.pb-c.h"

#include <stdbool.h>
#include <zmq.h>

enum {
    TY_PROTOCOL_VERSION = 1,
    TY_MESSAGE_FRAMES_MAX = 128,
    TY_ENVELOPE_BYTES_MAX = 8 << 20,
};

typedef struct {
    uint8_t *identity; /* ROUTER sockets: the peer's routing id; NULL elsewhere.  Owned */
    size_t identity_len;
    Tyto__Envelope *env; /* owned; unpacked by protobuf-c, or made by ty_message_new */
    zmq_msg_t frame[TY_MESSAGE_FRAMES_MAX];
    int n_frame;
    int64_t received_unix_us, received_us; /* stamped by ty_message_recv */
} ty_message;

/* An empty envelope of this protocol version; NULL when out of memory. */
ty_message *ty_message_new(void);
void ty_message_destroy(ty_message **m);
/* A second message that shares the frames and deep-copies the envelope. */
ty_status ty_message_dup(const ty_message *m, ty_message **out, ty_err *err);

/* Appends a tensor: describes it in the envelope, checksums it, and sends `data` without a copy.
 * free_fn(data, hint) is called (on any thread) when no one needs the bytes any more, also on failure. */
ty_status ty_message_add_tensor(ty_message *m, const char *name, Tyto__DType dtype, int n_dim,
                                const int64_t *shape, void *data, size_t size,
                                void (*free_fn)(void *data, void *hint), void *hint, ty_err *err);
/* Removes all tensors and frames (a worker does it before it adds its outputs). */
void ty_message_clear_tensors(ty_message *m);
/* Tensor i: its bytes, after checking dtype x shape == byte_count == frame length and the checksum.
 * Fails: TY_EFORMAT, TY_ECHECKSUM, TY_EUNSUPPORTED (fetch_address).  Borrowed until the message dies. */
ty_status ty_message_tensor(ty_message *m, int i, const char **name, ty_tensor *t, ty_err *err);

/*
 * Receives one whole message without blocking.  router: the first frame is the routing id.
 *   TY_OK        *out is set
 *   TY_ENOTFOUND nothing is waiting (*out NULL)
 *   TY_EFORMAT / TY_EVERSION / TY_ELIMIT  a message came, was refused and is gone; with a routing id
 *                *out holds the identity and an empty envelope, so that the caller can answer with an Error.
 */
ty_status ty_message_recv(void *socket, bool router, ty_message **out, ty_err *err);
/* Stamps sent_unix_us and sends without blocking; consumes *m on success.  router: sends to
 * m->identity.  Fails: TY_EOVERLOAD (the peer takes nothing now), TY_EUNAVAILABLE (no such peer). */
ty_status ty_message_send(void *socket, bool router, ty_message **m, ty_err *err);

/* Deep setters for protobuf-c: free what was there, copy the new one. */
ty_status ty_pb_set_str(char **field, const char *value);
/* The body is taken over by the envelope (allocated with malloc, like all that protobuf-c frees). */
void ty_message_set_error(ty_message *m, ty_status st, const char *text, const char *stage);

#endif
