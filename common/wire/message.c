/* message.c - see message.h. */
#include "common/wire/message.h"

#include "common/base/clock.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

enum { ALIGN = 8 };

static const struct {
    Tyto__DType wire;
    ty_dtype local;
    size_t bytes;
    const char *name;
} dtypes[] = {
    {TYTO__DTYPE__DTYPE_F32, TY_F32, 4, "f32"},    {TYTO__DTYPE__DTYPE_F16, TY_F16, 2, "f16"},
    {TYTO__DTYPE__DTYPE_BF16, TY_BF16, 2, "bf16"}, {TYTO__DTYPE__DTYPE_U8, TY_U8, 1, "u8"},
    {TYTO__DTYPE__DTYPE_I32, TY_I32, 4, "i32"},
};
enum { N_DTYPE = (int)(sizeof(dtypes) / sizeof(dtypes[0])) };

static int dtype_find(Tyto__DType t) {
    for (int i = 0; i < N_DTYPE; i++)
        if (dtypes[i].wire == t) return i;
    return -1;
}

Tyto__DType ty_message_dtype(ty_dtype t) {
    for (int i = 0; i < N_DTYPE; i++)
        if (dtypes[i].local == t) return dtypes[i].wire;
    return TYTO__DTYPE__DTYPE_NONE;
}

/* ---- protobuf-c helpers ---- */

ty_status ty_pb_set_str(char **field, const char *value) {
    char *copy = (char *)protobuf_c_empty_string;
    if (value && *value) {
        copy = strdup(value);
        if (!copy) return TY_ENOMEM;
    }
    if (*field != protobuf_c_empty_string) free(*field);
    *field = copy;
    return TY_OK;
}

void *ty_pb_new(const ProtobufCMessageDescriptor *d) {
    ProtobufCMessage *p = malloc(d->sizeof_message);
    if (p) protobuf_c_message_init(d, p);
    return p;
}

ty_status ty_pb_append(void *array, size_t *n, void *item) {
    void *old;
    memcpy(&old, array, sizeof(old));
    void **grown = realloc(old, (*n + 1) * sizeof(void *));
    if (!grown) return TY_ENOMEM;
    grown[(*n)++] = item;
    memcpy(array, &grown, sizeof(grown));
    return TY_OK; // cppcheck-suppress memleak ; *array has it
}

/* ---- life ---- */

/* Without an envelope.  The frames' room, 8 KiB, is left as it is: a message with each token has none. */
static ty_message *make_empty(void) {
    ty_message *m = malloc(sizeof(*m));
    if (m) memset(m, 0, offsetof(ty_message, frame));
    return m;
}

static void drop_packed(ty_message *m) {
    if (m->is_packed) zmq_msg_close(&m->packed);
    m->is_packed = false;
}

ty_message *ty_message_new(void) {
    ty_message *m = make_empty();
    if (!m) return NULL;
    m->env = ty_pb_new(&tyto__envelope__descriptor);
    if (!m->env) {
        free(m);
        return NULL;
    }
    m->env->version = TY_PROTOCOL_VERSION;
    return m;
}

static void close_frames(ty_message *m) {
    for (int i = 0; i < m->n_frame; i++) zmq_msg_close(&m->frame[i]);
    m->n_frame = 0;
}

void ty_message_destroy(ty_message **mp) {
    ty_message *m = *mp;
    if (!m) return;
    close_frames(m);
    drop_packed(m);
    if (m->env) tyto__envelope__free_unpacked(m->env, NULL);
    free(m->identity);
    free(m);
    *mp = NULL;
}

static ty_status set_identity(ty_message *m, const void *id, size_t len) {
    uint8_t *copy = malloc(len ? len : 1);
    if (!copy) return TY_ENOMEM;
    if (len) memcpy(copy, id, len);
    free(m->identity);
    m->identity = copy;
    m->identity_len = len;
    return TY_OK;
}

static Tyto__Envelope *envelope_dup(const Tyto__Envelope *e) {
    size_t size = tyto__envelope__get_packed_size(e);
    uint8_t *bytes = malloc(size ? size : 1);
    if (!bytes) return NULL;
    tyto__envelope__pack(e, bytes);
    Tyto__Envelope *copy = tyto__envelope__unpack(NULL, size, bytes);
    free(bytes);
    return copy;
}

ty_status ty_message_dup(const ty_message *m, ty_message **out, ty_err *err) {
    *out = NULL;
    ty_message *d = make_empty();
    if (!d) return ty_fail(err, TY_ENOMEM, "no memory for a message");
    d->env = envelope_dup(m->env);
    if (!d->env || (m->identity && set_identity(d, m->identity, m->identity_len) != TY_OK)) {
        ty_message_destroy(&d);
        return ty_fail(err, TY_ENOMEM, "no memory for an envelope");
    }
    for (int i = 0; i < m->n_frame; i++) {
        zmq_msg_init(&d->frame[i]);
        d->n_frame++;
        /* zmq_msg_copy wants its source writable: it turns a small message into a shared one. */
        if (zmq_msg_copy(&d->frame[i], (zmq_msg_t *)(uintptr_t)&m->frame[i]) != 0) {
            ty_message_destroy(&d);
            return ty_fail(err, TY_ENOMEM, "no memory to share a frame");
        }
    }
    d->received_us = m->received_us;
    d->received_unix_us = m->received_unix_us;
    *out = d;
    return TY_OK;
}

/* ---- body ---- */

void ty_message_set_body(ty_message *m, Tyto__Envelope__BodyCase c, void *body) {
    Tyto__Envelope *e = m->env;
    drop_packed(m);
    /* Every member of the oneof is a pointer to a message, so one free serves them all. */
    if (e->body_case != TYTO__ENVELOPE__BODY__NOT_SET)
        protobuf_c_message_free_unpacked((ProtobufCMessage *)e->hello, NULL);
    e->body_case = body ? c : TYTO__ENVELOPE__BODY__NOT_SET;
    e->hello = body;
}

void ty_message_set_error(ty_message *m, ty_status st, const char *text, const char *stage) {
    Tyto__Error *e = ty_pb_new(&tyto__error__descriptor);
    /* Out of memory: the texts stay empty, which the receiver reads as EINTERNAL. */
    if (e) {
        (void)ty_pb_set_str(&e->status, ty_status_name(st));
        (void)ty_pb_set_str(&e->text, text);
        (void)ty_pb_set_str(&e->stage, stage);
    }
    ty_message_set_body(m, TYTO__ENVELOPE__BODY_ERROR, e);
}

ty_status ty_message_copy_ids(ty_message *to, const ty_message *from) {
    Tyto__Envelope *t = to->env;
    const Tyto__Envelope *f = from->env;
    t->part = f->part;
    t->generation = f->generation;
    t->attempt = f->attempt;
    t->hop = f->hop;
    t->dispatch = f->dispatch;
    if (ty_pb_set_str(&t->request_id, f->request_id) != TY_OK ||
        ty_pb_set_str(&t->pipeline, f->pipeline) != TY_OK ||
        ty_pb_set_str(&t->conversation_id, f->conversation_id) != TY_OK)
        return TY_ENOMEM;
    return TY_OK;
}

/* ---- tensors ---- */

static void free_tensor(Tyto__Tensor *t) {
    tyto__tensor__free_unpacked(t, NULL);
}

void ty_message_clear_tensors(ty_message *m) {
    Tyto__Envelope *e = m->env;
    for (size_t i = 0; i < e->n_tensors; i++) free_tensor(e->tensors[i]);
    free(e->tensors);
    e->tensors = NULL;
    e->n_tensors = 0;
    close_frames(m);
}

/* dtype x shape in bytes; false when a dimension is out of bounds or the product overflows. */
static bool shape_bytes(size_t element, size_t n_dim, const uint64_t *shape, size_t *out) {
    size_t n = element;
    if (n_dim > TY_MAX_DIMS) return false;
    for (size_t i = 0; i < n_dim; i++) {
        if (shape[i] > INT64_MAX || __builtin_mul_overflow(n, (size_t)shape[i], &n)) return false;
    }
    *out = n;
    return true;
}

static Tyto__Tensor *describe(const char *name, Tyto__DType dtype, int n_dim, const int64_t *shape,
                              const void *data, size_t size, int frame) {
    Tyto__Tensor *t = ty_pb_new(&tyto__tensor__descriptor);
    if (!t) return NULL;
    t->shape = malloc(((size_t)n_dim + 1) * sizeof(*t->shape));
    if (!t->shape || ty_pb_set_str(&t->name, name) != TY_OK) {
        free_tensor(t);
        return NULL;
    }
    for (int i = 0; i < n_dim; i++) t->shape[i] = (uint64_t)shape[i];
    t->n_shape = (size_t)n_dim;
    t->dtype = dtype;
    t->byte_count = size;
    t->xxh3 = XXH3_64bits(data, size);
    t->place_case = TYTO__TENSOR__PLACE_FRAME;
    t->frame = (uint32_t)frame;
    return t;
}

static ty_status check_new_tensor(const ty_message *m, const char *name, Tyto__DType dtype,
                                  int n_dim, const int64_t *shape, size_t size, ty_err *err) {
    int d = dtype_find(dtype);
    uint64_t dims[TY_MAX_DIMS];
    size_t want;
    if (d < 0) return ty_fail(err, TY_ESHAPE, "tensor %s: dtype %d does not travel", name, dtype);
    if (n_dim < 0 || n_dim > TY_MAX_DIMS)
        return ty_fail(err, TY_ESHAPE, "tensor %s: %d dimensions, at most %d", name, n_dim,
                       TY_MAX_DIMS);
    for (int i = 0; i < n_dim; i++) dims[i] = (uint64_t)shape[i];
    if (!shape_bytes(dtypes[d].bytes, (size_t)n_dim, dims, &want) || want != size)
        return ty_fail(err, TY_ESHAPE, "tensor %s: its shape and dtype %s do not make %zu bytes",
                       name, dtypes[d].name, size);
    if (m->n_frame == TY_MESSAGE_FRAMES_MAX)
        return ty_fail(err, TY_ELIMIT, "tensor %s: a message holds at most %d tensors", name,
                       TY_MESSAGE_FRAMES_MAX);
    return TY_OK;
}

ty_status ty_message_add_tensor(ty_message *m, const char *name, Tyto__DType dtype, int n_dim,
                                const int64_t *shape, void *data, size_t size,
                                void (*free_fn)(void *data, void *hint), void *hint, ty_err *err) {
    Tyto__Tensor *t = NULL;
    ty_status st = check_new_tensor(m, name, dtype, n_dim, shape, size, err);
    if (st != TY_OK) goto failed;
    t = describe(name, dtype, n_dim, shape, data, size, m->n_frame);
    st = t ? ty_pb_append(&m->env->tensors, &m->env->n_tensors, t) : TY_ENOMEM;
    if (st != TY_OK) goto out_of_memory;
    if (zmq_msg_init_data(&m->frame[m->n_frame], data, size, free_fn, hint) != 0) {
        m->env->n_tensors--;
        goto out_of_memory;
    }
    m->n_frame++;
    return TY_OK;
out_of_memory:
    if (t) free_tensor(t);
    st = ty_fail(err, TY_ENOMEM, "tensor %s: no memory to describe it", name);
failed:
    if (free_fn) free_fn(data, hint);
    return st;
}

ty_status ty_message_move_tensors(ty_message *to, ty_message *from, ty_err *err) {
    Tyto__Envelope *t = to->env, *f = from->env;
    if (to->n_frame + from->n_frame > TY_MESSAGE_FRAMES_MAX)
        return ty_fail(err, TY_ELIMIT, "a message holds at most %d tensors", TY_MESSAGE_FRAMES_MAX);
    if (f->n_tensors > 0) {
        void *grown = realloc(t->tensors, (t->n_tensors + f->n_tensors) * sizeof(*t->tensors));
        if (!grown) return ty_fail(err, TY_ENOMEM, "no memory for tensors");
        t->tensors = grown;
    }
    for (size_t i = 0; i < f->n_tensors; i++) {
        Tyto__Tensor *x = f->tensors[i];
        if (x->place_case == TYTO__TENSOR__PLACE_FRAME) x->frame += (uint32_t)to->n_frame;
        t->tensors[t->n_tensors++] = x;
    }
    f->n_tensors = 0;
    for (int i = 0; i < from->n_frame; i++) {
        zmq_msg_t *mine = &to->frame[to->n_frame++];
        zmq_msg_init(mine);
        zmq_msg_move(mine, &from->frame[i]);
    }
    close_frames(from);
    return TY_OK;
}

/* The description against the frame it names.  Lengths only. */
static ty_status check_tensor(const ty_message *m, const Tyto__Tensor *t, ty_err *err) {
    int d = dtype_find(t->dtype);
    size_t want;
    if (d < 0) return ty_fail(err, TY_EFORMAT, "tensor %s: unknown dtype %d", t->name, t->dtype);
    if (t->n_shape > TY_MAX_DIMS)
        return ty_fail(err, TY_EFORMAT, "tensor %s: %zu dimensions, at most %d", t->name,
                       t->n_shape, TY_MAX_DIMS);
    if (!shape_bytes(dtypes[d].bytes, t->n_shape, t->shape, &want) || want != t->byte_count)
        return ty_fail(err, TY_EFORMAT,
                       "tensor %s: shape and dtype %s do not make its byte count %llu", t->name,
                       dtypes[d].name, (unsigned long long)t->byte_count);
    if (t->place_case != TYTO__TENSOR__PLACE_FRAME) return TY_OK;
    if (t->frame >= (uint32_t)m->n_frame)
        return ty_fail(err, TY_EFORMAT, "tensor %s: names frame %u of %d", t->name, t->frame,
                       m->n_frame);
    size_t has = zmq_msg_size(&m->frame[t->frame]);
    if (has != want)
        return ty_fail(err, TY_EFORMAT, "tensor %s: its frame has %zu bytes, want %zu", t->name,
                       has, want);
    return TY_OK;
}

/* Every frame belongs to one tensor, every tensor fits its frame. */
static ty_status check_frames(const ty_message *m, ty_err *err) {
    bool used[TY_MESSAGE_FRAMES_MAX] = {false};
    int n_used = 0;
    for (size_t i = 0; i < m->env->n_tensors; i++) {
        const Tyto__Tensor *t = m->env->tensors[i];
        ty_status st = check_tensor(m, t, err);
        if (st != TY_OK) return st;
        if (t->place_case != TYTO__TENSOR__PLACE_FRAME) continue;
        if (used[t->frame])
            return ty_fail(err, TY_EFORMAT, "tensor %s: frame %u is another tensor's too", t->name,
                           t->frame);
        used[t->frame] = true;
        n_used++;
    }
    if (n_used != m->n_frame)
        return ty_fail(err, TY_EFORMAT, "%d tensor frames behind an envelope that describes %d",
                       m->n_frame, n_used);
    return TY_OK;
}

static void free_bytes(void *data, void *hint) {
    (void)hint;
    free(data);
}

/* A small frame lies in ZeroMQ's receive buffer at any offset; floats want better. */
static ty_status align_frame(zmq_msg_t *f, ty_err *err) {
    if ((uintptr_t)zmq_msg_data(f) % ALIGN == 0) return TY_OK;
    size_t size = zmq_msg_size(f);
    void *copy = malloc(size ? size : 1);
    if (!copy) return ty_fail(err, TY_ENOMEM, "no memory to align a frame of %zu bytes", size);
    memcpy(copy, zmq_msg_data(f), size);
    zmq_msg_close(f);
    if (zmq_msg_init_data(f, copy, size, free_bytes, NULL) != 0) {
        free(copy);
        zmq_msg_init(f);
        return ty_fail(err, TY_ENOMEM, "no memory to align a frame of %zu bytes", size);
    }
    return TY_OK;
}

ty_status ty_message_tensor(ty_message *m, int i, const char **name, ty_tensor *t, ty_err *err) {
    if (i < 0 || (size_t)i >= m->env->n_tensors)
        return ty_fail(err, TY_ENOTFOUND, "no tensor %d in a message of %zu", i, m->env->n_tensors);
    const Tyto__Tensor *x = m->env->tensors[i];
    if (x->place_case == TYTO__TENSOR__PLACE_FETCH_ADDRESS)
        return ty_fail(err, TY_EUNSUPPORTED,
                       "tensor %s: a fetch address is not supported; send "
                       "the bytes as a frame",
                       x->name);
    if (x->place_case != TYTO__TENSOR__PLACE_FRAME)
        return ty_fail(err, TY_EFORMAT, "tensor %s: has no place", x->name);
    ty_status st = check_tensor(m, x, err);
    if (st != TY_OK) return st;
    zmq_msg_t *f = &m->frame[x->frame];
    st = align_frame(f, err);
    if (st != TY_OK) return st;
    if (XXH3_64bits(zmq_msg_data(f), zmq_msg_size(f)) != x->xxh3)
        return ty_fail(err, TY_ECHECKSUM, "tensor %s: its %zu bytes do not have the checksum sent",
                       x->name, zmq_msg_size(f));
    *t = (ty_tensor){.dtype = dtypes[dtype_find(x->dtype)].local,
                     .n_dim = (int)x->n_shape,
                     .data = zmq_msg_data(f),
                     .size_bytes = zmq_msg_size(f)};
    for (size_t k = 0; k < x->n_shape; k++) t->shape[k] = (int64_t)x->shape[k];
    if (name) *name = x->name;
    return TY_OK;
}

/* ---- receiving ---- */

static ty_status recv_part(void *socket, zmq_msg_t *part, ty_err *err) {
    zmq_msg_init(part);
    int rc;
    do rc = zmq_msg_recv(part, socket, ZMQ_DONTWAIT);
    while (rc < 0 && errno == EINTR);
    if (rc >= 0) return TY_OK;
    int why = errno;
    zmq_msg_close(part);
    if (why == EAGAIN) return TY_ENOTFOUND; /* usual: no text is made for it */
    return ty_fail(err, TY_EIO, "receive: %s", zmq_strerror(why));
}

/* Reads the parts behind `part` and drops those that do not fit; the count of all of them. */
static int recv_frames(void *socket, ty_message *m, bool more) {
    int n = 0;
    while (more) {
        zmq_msg_t part;
        if (recv_part(socket, &part, NULL) != TY_OK) break; /* cannot be: parts come together */
        more = zmq_msg_more(&part);
        n++;
        if (m->n_frame < TY_MESSAGE_FRAMES_MAX) {
            zmq_msg_t *f = &m->frame[m->n_frame++];
            zmq_msg_init(f);
            zmq_msg_move(f, &part);
        }
        zmq_msg_close(&part);
    }
    return n;
}

static ty_status open_envelope(ty_message *m, zmq_msg_t *part, ty_err *err) {
    size_t size = zmq_msg_size(part);
    if (size > TY_ENVELOPE_BYTES_MAX)
        return ty_fail(err, TY_ELIMIT, "an envelope of %zu bytes, at most %d", size,
                       TY_ENVELOPE_BYTES_MAX);
    Tyto__Envelope *e = tyto__envelope__unpack(NULL, size, zmq_msg_data(part));
    if (!e) return ty_fail(err, TY_EFORMAT, "a frame of %zu bytes is no envelope", size);
    tyto__envelope__free_unpacked(m->env, NULL);
    m->env = e;
    if (e->version != TY_PROTOCOL_VERSION)
        return ty_fail(err, TY_EVERSION, "protocol version %u, this side speaks %d", e->version,
                       TY_PROTOCOL_VERSION);
    return TY_OK;
}

/* ---- an envelope's fields, as protobuf writes them ---- */

typedef struct {
    const uint8_t *at, *end;
} reader;

static bool read_varint(reader *r, uint64_t *out) {
    *out = 0;
    for (int shift = 0; shift < 64 && r->at < r->end; shift += 7) {
        uint8_t b = *r->at++;
        *out |= (uint64_t)(b & 0x7f) << shift;
        if (b < 0x80) return true;
    }
    return false;
}

/* One field: its number; its value (a varint, 4 or 8 bytes), or its bytes.  False: none is whole. */
static bool read_field(reader *r, uint32_t *number, uint64_t *value, reader *bytes) {
    enum { VARINT = 0, EIGHT = 1, BYTES = 2, FOUR = 5 };
    uint64_t key, n = 0;
    *bytes = (reader){0};
    if (!read_varint(r, &key) || key >> 3 == 0 || key >> 3 > INT32_MAX) return false;
    *number = (uint32_t)(key >> 3);
    switch (key & 7) {
    case VARINT: return read_varint(r, value);
    case EIGHT: n = 8; break;
    case FOUR: n = 4; break;
    case BYTES:
        if (!read_varint(r, &n)) return false;
        break;
    default: return false;
    }
    if (n > (uint64_t)(r->end - r->at)) return false;
    *bytes = (reader){r->at, r->at + n};
    r->at += n;
    if ((key & 7) == EIGHT)
        memcpy(value, bytes->at, 8); /* little-endian, as all that Tyto runs on */
    return true;
}

/* A chunk's envelope into the message, packed; *part is taken over then.  False: it is another one, or there is something
 * in it that open_envelope shall judge. */
static bool open_chunk(ty_message *m, zmq_msg_t *part) {
    enum { VERSION = 1, TENSORS = 15, DISPATCH = 16, CHUNK = 25, BODY_FIRST = 20 };
    reader r = {zmq_msg_data(part), NULL}, bytes, chunk = {0};
    uint32_t number;
    uint64_t value = 0, version = 0, dispatch = 0;
    r.end = r.at + zmq_msg_size(part);
    while (r.at < r.end) {
        if (!read_field(&r, &number, &value, &bytes)) return false;
        if (number == TENSORS || (number >= BODY_FIRST && number != CHUNK)) return false;
        if (number == VERSION) version = value;
        if (number == DISPATCH) dispatch = value;
        if (number != CHUNK) continue;
        if (chunk.at) return false; /* protobuf would merge the two */
        chunk = bytes;
    }
    if (version != TY_PROTOCOL_VERSION || !chunk.at) return false;
    Tyto__Chunk *c = tyto__chunk__unpack(NULL, (size_t)(chunk.end - chunk.at), chunk.at);
    if (!c) return false;
    ty_message_set_body(m, TYTO__ENVELOPE__BODY_CHUNK, c);
    m->env->dispatch = dispatch;
    zmq_msg_init(&m->packed);
    zmq_msg_move(&m->packed, part);
    return m->is_packed = true;
}

static ty_status check_received(const ty_message *m, int n_parts, ty_err *err) {
    if (n_parts > TY_MESSAGE_FRAMES_MAX)
        return ty_fail(err, TY_ELIMIT, "%d frames behind an envelope, at most %d", n_parts,
                       TY_MESSAGE_FRAMES_MAX);
    if (m->env->body_case == TYTO__ENVELOPE__BODY__NOT_SET)
        return ty_fail(err, TY_EFORMAT, "an envelope without a body of protocol version %d",
                       TY_PROTOCOL_VERSION);
    return check_frames(m, err);
}

/* Leaves of a refused message what an answer needs. */
static ty_status strip(ty_message *m) {
    ty_message *bare = ty_message_new();
    if (!bare || ty_message_copy_ids(bare, m) != TY_OK) {
        ty_message_destroy(&bare);
        return TY_ENOMEM;
    }
    close_frames(m);
    Tyto__Envelope *e = m->env;
    m->env = bare->env;
    bare->env = e;
    ty_message_destroy(&bare);
    return TY_OK;
}

static ty_status recv_rest(void *socket, bool router, bool forward, ty_message *m, zmq_msg_t *part,
                           ty_err *err) {
    bool more = zmq_msg_more(part);
    if (router) {
        if (set_identity(m, zmq_msg_data(part), zmq_msg_size(part)) != TY_OK) {
            recv_frames(socket, m, more);
            return ty_fail(err, TY_ENOMEM, "no memory for a routing id");
        }
        if (!more) return ty_fail(err, TY_EFORMAT, "a message without a frame");
        zmq_msg_close(part);
        ty_status st = recv_part(socket, part, err);
        if (st != TY_OK) {
            zmq_msg_init(part); /* the caller closes it */
            return ty_fail(err, TY_EFORMAT, "a message without a frame");
        }
        more = zmq_msg_more(part);
        /* The peer's frames have it always, the routing id only sometimes. */
        const char *role = zmq_msg_gets(part, "User-Id");
        if (role) snprintf(m->role, sizeof(m->role), "%s", role);
    }
    if (forward && !more && open_chunk(m, part)) return TY_OK;
    ty_status st = open_envelope(m, part, err);
    int n = recv_frames(socket, m, more);
    return st == TY_OK ? check_received(m, n, err) : st;
}

static ty_status receive(void *socket, bool router, bool forward, ty_message **out, ty_err *err) {
    zmq_msg_t part;
    *out = NULL;
    ty_status st = recv_part(socket, &part, err);
    if (st != TY_OK) return st;
    ty_message *m = ty_message_new();
    if (!m) {
        for (bool more = zmq_msg_more(&part); more; more = zmq_msg_more(&part)) {
            zmq_msg_close(&part);
            if (recv_part(socket, &part, NULL) != TY_OK) zmq_msg_init(&part);
        }
        zmq_msg_close(&part);
        return ty_fail(err, TY_ENOMEM, "no memory for a message");
    }
    m->received_us = ty_now_us();
    m->received_unix_us = ty_now_unix_us();
    st = recv_rest(socket, router, forward, m, &part, err);
    zmq_msg_close(&part);
    if (st == TY_ENOMEM || (st != TY_OK && strip(m) != TY_OK)) {
        ty_message_destroy(&m);
        return ty_fail(err, TY_ENOMEM, "no memory for a message");
    }
    *out = m;
    return st;
}

ty_status ty_message_recv(void *socket, bool router, ty_message **out, ty_err *err) {
    return receive(socket, router, false, out, err);
}

ty_status ty_message_recv_to_forward(void *router, ty_message **out, ty_err *err) {
    return receive(router, true, true, out, err);
}

/* ---- sending ---- */

static ty_status send_part(void *socket, zmq_msg_t *part, bool more, ty_err *err) {
    int rc;
    do rc = zmq_msg_send(part, socket, ZMQ_DONTWAIT | (more ? ZMQ_SNDMORE : 0));
    while (rc < 0 && errno == EINTR);
    if (rc >= 0) return TY_OK;
    int why = errno;
    zmq_msg_close(part);
    if (why == EAGAIN) return ty_fail(err, TY_EOVERLOAD, "the peer takes nothing now");
    if (why == EHOSTUNREACH) return ty_fail(err, TY_EUNAVAILABLE, "the peer is gone");
    return ty_fail(err, TY_EIO, "send: %s", zmq_strerror(why));
}

static ty_status send_bytes(void *socket, const void *bytes, size_t n, ty_err *err) {
    zmq_msg_t part;
    if (zmq_msg_init_size(&part, n) != 0) return ty_fail(err, TY_ENOMEM, "no memory to send");
    if (n) memcpy(zmq_msg_data(&part), bytes, n);
    return send_part(socket, &part, true, err);
}

static ty_status pack_envelope(const Tyto__Envelope *e, zmq_msg_t *part, ty_err *err) {
    size_t size = tyto__envelope__get_packed_size(e);
    if (size > TY_ENVELOPE_BYTES_MAX)
        return ty_fail(err, TY_ELIMIT, "an envelope of %zu bytes, at most %d", size,
                       TY_ENVELOPE_BYTES_MAX);
    if (zmq_msg_init_size(part, size) != 0) return ty_fail(err, TY_ENOMEM, "no memory to send");
    tyto__envelope__pack(e, zmq_msg_data(part));
    return TY_OK;
}

static ty_status make_head(ty_message *m, zmq_msg_t *head, ty_err *err) {
    if (!m->is_packed) {
        m->env->sent_unix_us = ty_now_unix_us();
        return pack_envelope(m->env, head, err);
    }
    zmq_msg_init(head);
    if (zmq_msg_copy(head, &m->packed) == 0) return TY_OK;
    return ty_fail(err, TY_ENOMEM, "no memory to send");
}

ty_status ty_message_post(void *socket, const void *identity, size_t identity_len, ty_message *m,
                          ty_err *err) {
    zmq_msg_t head;
    ty_status st = make_head(m, &head, err);
    if (st != TY_OK) return st;
    if (identity) {
        st = send_bytes(socket, identity, identity_len, err);
        if (st != TY_OK) {
            zmq_msg_close(&head);
            return st;
        }
    }
    st = send_part(socket, &head, m->n_frame > 0, err);
    for (int i = 0; st == TY_OK && i < m->n_frame; i++) {
        zmq_msg_t part;
        zmq_msg_init(&part);
        zmq_msg_copy(&part, &m->frame[i]);
        st = send_part(socket, &part, i + 1 < m->n_frame, err);
    }
    return st;
}

ty_status ty_message_send(void *socket, bool router, ty_message **m, ty_err *err) {
    ty_status st =
        ty_message_post(socket, router ? (*m)->identity : NULL, (*m)->identity_len, *m, err);
    if (st == TY_OK) ty_message_destroy(m);
    return st;
}
