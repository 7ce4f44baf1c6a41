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
#include "common/wire/keys.h"
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
    Tyto__Envelope *env;         /* owned; unpacked by protobuf-c, or made by ty_message_new */
    char role[TY_KEY_ROLE_TEXT]; /* ROUTER sockets with keys: the peer's role; "" elsewhere */
    /* An envelope that goes on as it came: `env` has of it what its reader needs (ty_message_recv_to_forward). */
    bool is_packed;
    zmq_msg_t packed;
    int n_frame;
    int64_t received_unix_us, received_us; /* stamped by ty_message_recv */
    zmq_msg_t frame[TY_MESSAGE_FRAMES_MAX];
} ty_message;

/* An empty envelope of this protocol version; NULL when out of memory. */
ty_message *ty_message_new(void);
void ty_message_destroy(ty_message **m);
/* A second message that shares the frames and deep-copies the envelope. */
ty_status ty_message_dup(const ty_message *m, ty_message **out, ty_err *err);

/* Appends a tensor: describes it in the envelope, checksums it, and sends `data` without a copy.
 * free_fn(data, hint) is called (on any thread) when no one needs the bytes any more, also on failure;
 * NULL = the bytes outlive every message.  Fails: TY_ESHAPE (dtype x shape is not `size`), TY_ELIMIT,
 * TY_ENOMEM. */
ty_status ty_message_add_tensor(ty_message *m, const char *name, Tyto__DType dtype, int n_dim,
                                const int64_t *shape, void *data, size_t size,
                                void (*free_fn)(void *data, void *hint), void *hint, ty_err *err);
/* Removes all tensors and frames (a worker does it before it adds its outputs). */
void ty_message_clear_tensors(ty_message *m);
/* Gives all tensors and frames of `from` to `to`, behind those it has: the broker makes the next hop's
 * Task with it.  On failure both keep what they had. */
ty_status ty_message_move_tensors(ty_message *to, ty_message *from, ty_err *err);
/* Tensor i: its bytes (aligned to 8), after checking dtype x shape == byte_count == frame length and the
 * checksum.  Fails: TY_ENOTFOUND (no tensor i), TY_EFORMAT, TY_ECHECKSUM, TY_EUNSUPPORTED
 * (fetch_address).  Borrowed until the message dies or its tensors are cleared. */
ty_status ty_message_tensor(ty_message *m, int i, const char **name, ty_tensor *t, ty_err *err);

/*
 * Receives one whole message without blocking.  router: the first frame is the routing id.  Frames are
 * checked against the envelope (number, lengths), not yet against their checksums.
 *   TY_OK        *out is set, with a body
 *   TY_ENOTFOUND nothing is waiting (*out NULL, *err as it was)
 *   TY_EFORMAT / TY_EVERSION / TY_ELIMIT  a message came, was refused and is gone; *out holds the
 *                identity and an envelope with no body and no tensors (request_id, part, generation,
 *                attempt, hop, dispatch as far as they could be read), so that the caller can answer
 *                with an Error.  Destroy it.
 *   TY_EIO, TY_ENOMEM  the socket failed, or memory ran out (*out NULL)
 */
ty_status ty_message_recv(void *socket, bool router, ty_message **out, ty_err *err);
/* The same from a ROUTER, for who hands on what it reads: of an envelope with a Chunk and without tensors, which comes
 * with every token, only `dispatch` and the Chunk are unpacked, and sending the message sends the envelope as it
 * came (its sent_unix_us too), until its body is set anew. */
ty_status ty_message_recv_to_forward(void *router, ty_message **out, ty_err *err);
/* Stamps sent_unix_us and sends without blocking; consumes *m on success.  router: sends to
 * m->identity.  Fails: TY_EOVERLOAD (the peer takes nothing now), TY_EUNAVAILABLE (no such peer). */
ty_status ty_message_send(void *socket, bool router, ty_message **m, ty_err *err);
/* The same to a ROUTER's peer `identity` (NULL: the socket is no ROUTER), and m stays the caller's: the
 * broker keeps a task until its hop is acknowledged. */
ty_status ty_message_post(void *socket, const void *identity, size_t identity_len, ty_message *m,
                          ty_err *err);

/* Deep setters for protobuf-c: free what was there, copy the new one. */
ty_status ty_pb_set_str(char **field, const char *value);
/* An empty protobuf-c message of that descriptor, on the heap; NULL when out of memory:
 *     Tyto__Hello *h = ty_pb_new(&tyto__hello__descriptor); */
void *ty_pb_new(const ProtobufCMessageDescriptor *d);
/* Appends an item to a repeated field of messages or strings: ty_pb_append(&e->tensors, &e->n_tensors, t).
 * The item is taken over on success. */
ty_status ty_pb_append(void *array, size_t *n, void *item);

/* Copies what tells which task a message is about: request_id, part, generation, attempt, hop, dispatch,
 * pipeline, conversation_id. */
ty_status ty_message_copy_ids(ty_message *to, const ty_message *from);
/* Frees the body that is there and takes over `body` (of the type that `c` names). */
void ty_message_set_body(ty_message *m, Tyto__Envelope__BodyCase c, void *body);
/* Puts an Error body; texts are copied, NULL = "". */
void ty_message_set_error(ty_message *m, ty_status st, const char *text, const char *stage);

/* The wire's name of an element type (DTYPE_NONE: it does not travel). */
Tyto__DType ty_message_dtype(ty_dtype t);

#endif
