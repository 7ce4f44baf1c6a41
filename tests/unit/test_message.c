/* message.h: tensors on the wire, refusals of what does not fit, sharing of frames. */
#include "tests/support/ty_test.h"

#include "common/wire/message.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* A ROUTER and a DEALER that are connected. */
typedef struct {
    void *ctx, *router, *dealer;
} pair;

static int setup(void **state) {
    pair *p = calloc(1, sizeof(*p));
    int zero = 0, one = 1;
    p->ctx = zmq_ctx_new();
    p->router = zmq_socket(p->ctx, ZMQ_ROUTER);
    p->dealer = zmq_socket(p->ctx, ZMQ_DEALER);
    zmq_setsockopt(p->router, ZMQ_LINGER, &zero, sizeof(zero));
    zmq_setsockopt(p->dealer, ZMQ_LINGER, &zero, sizeof(zero));
    zmq_setsockopt(p->router, ZMQ_ROUTER_MANDATORY, &one, sizeof(one));
    assert_int_equal(zmq_bind(p->router, "inproc://message"), 0);
    assert_int_equal(zmq_connect(p->dealer, "inproc://message"), 0);
    *state = p;
    return 0;
}

static int teardown(void **state) {
    pair *p = *state;
    zmq_close(p->router);
    zmq_close(p->dealer);
    zmq_ctx_term(p->ctx);
    free(p);
    return 0;
}

static ty_status forward_soon(void *router, ty_message **out, ty_err *err) {
    for (int i = 0;; i++) {
        ty_status st = ty_message_recv_to_forward(router, out, err);
        if (st != TY_ENOTFOUND || i == 1000) return st;
        usleep(1000);
    }
}

static ty_status recv_soon(void *socket, bool router, ty_message **out, ty_err *err) {
    for (int i = 0;; i++) {
        ty_status st = ty_message_recv(socket, router, out, err);
        if (st != TY_ENOTFOUND || i == 1000) return st;
        usleep(1000);
    }
}

static void free_counted(void *data, void *hint) {
    (*(int *)hint)++;
    free(data);
}

static ty_message *make_task(void) {
    ty_message *m = ty_message_new();
    assert_non_null(m);
    ty_pb_set_str(&m->env->request_id, "req-1");
    m->env->part = 3;
    m->env->generation = 2;
    ty_message_set_body(m, TYTO__ENVELOPE__BODY_TASK, ty_pb_new(&tyto__task__descriptor));
    return m;
}

static void free_bytes(void *data, void *hint) {
    (void)hint;
    free(data);
}

static void add_floats(ty_message *m, const char *name, int64_t rows, int64_t cols, float first) {
    size_t n = (size_t)(rows * cols);
    float *x = malloc(n * sizeof(*x));
    for (size_t i = 0; i < n; i++) x[i] = first + (float)i;
    ty_err err;
    assert_int_equal(ty_message_add_tensor(m, name, TYTO__DTYPE__DTYPE_F32, 2,
                                           (int64_t[]){rows, cols}, x, n * sizeof(*x), free_bytes,
                                           NULL, &err),
                     TY_OK);
}

static void message_carries_tensors_both_ways(void **state) {
    pair *p = *state;
    ty_err err;
    ty_message *m = make_task(), *got = NULL;
    int freed = 0;
    float *x = malloc(2 * 3 * sizeof(*x));
    for (int i = 0; i < 6; i++) x[i] = (float)i / 2;
    int64_t shape[] = {2, 3};
    static char hello[] = "hello";
    assert_int_equal(ty_message_add_tensor(m, "a", TYTO__DTYPE__DTYPE_F32, 2, shape, x, 24,
                                           free_counted, &freed, &err),
                     TY_OK);
    assert_int_equal(ty_message_add_tensor(m, "b", TYTO__DTYPE__DTYPE_U8, 1, (int64_t[]){5}, hello,
                                           5, NULL, NULL, &err),
                     TY_OK);
    assert_int_equal(ty_message_send(p->dealer, false, &m, &err), TY_OK);
    assert_null(m);
    assert_int_equal(recv_soon(p->router, true, &got, &err), TY_OK);
    assert_int_equal(got->n_frame, 2);
    assert_true(got->identity_len > 0);
    assert_true(got->env->sent_unix_us > 0 && got->received_unix_us >= got->env->sent_unix_us);
    /* And back to the same peer. */
    assert_int_equal(ty_message_send(p->router, true, &got, &err), TY_OK);
    assert_int_equal(recv_soon(p->dealer, false, &got, &err), TY_OK);
    assert_null(got->identity);
    const char *name;
    ty_tensor t;
    assert_int_equal(ty_message_tensor(got, 0, &name, &t, &err), TY_OK);
    assert_string_equal(name, "a");
    assert_int_equal(t.dtype, TY_F32);
    assert_int_equal(t.n_dim, 2);
    assert_int_equal(t.shape[1], 3);
    assert_int_equal((uintptr_t)t.data % 8, 0);
    for (int i = 0; i < 6; i++) assert_true(((const float *)t.data)[i] == (float)i / 2);
    assert_int_equal(ty_message_tensor(got, 1, NULL, &t, &err), TY_OK);
    assert_memory_equal(t.data, "hello", 5);
    assert_int_equal(ty_message_tensor(got, 2, NULL, &t, &err), TY_ENOTFOUND);
    ty_message_destroy(&got);
    assert_int_equal(freed, 1);
}

static void message_recv_says_when_nothing_waits(void **state) {
    pair *p = *state;
    ty_message *got = (void *)1;
    assert_int_equal(ty_message_recv(p->router, true, &got, NULL), TY_ENOTFOUND);
    assert_null(got);
}

static void message_add_tensor_refuses_a_wrong_size(void **state) {
    (void)state;
    ty_message *m = make_task();
    ty_err err;
    int freed = 0;
    assert_int_equal(ty_message_add_tensor(m, "x", TYTO__DTYPE__DTYPE_F32, 1, (int64_t[]){3},
                                           malloc(8), 8, free_counted, &freed, &err),
                     TY_ESHAPE);
    assert_int_equal(ty_message_add_tensor(m, "x", TYTO__DTYPE__DTYPE_F32, 2,
                                           (int64_t[]){INT64_MAX, 8}, malloc(8), 8, free_counted,
                                           &freed, &err),
                     TY_ESHAPE);
    assert_int_equal(ty_message_add_tensor(m, "x", TYTO__DTYPE__DTYPE_F32, 1, (int64_t[]){-2},
                                           malloc(8), 8, free_counted, &freed, &err),
                     TY_ESHAPE);
    assert_int_equal(freed, 3);
    assert_int_equal(m->env->n_tensors, 0);
    ty_message_destroy(&m);
}

static void message_add_tensor_stops_at_the_limit(void **state) {
    (void)state;
    ty_message *m = make_task();
    ty_err err;
    static uint8_t byte = 7;
    for (int i = 0; i < TY_MESSAGE_FRAMES_MAX; i++)
        assert_int_equal(ty_message_add_tensor(m, "x", TYTO__DTYPE__DTYPE_U8, 1, (int64_t[]){1},
                                               &byte, 1, NULL, NULL, &err),
                         TY_OK);
    assert_int_equal(ty_message_add_tensor(m, "x", TYTO__DTYPE__DTYPE_U8, 1, (int64_t[]){1}, &byte,
                                           1, NULL, NULL, &err),
                     TY_ELIMIT);
    ty_message_destroy(&m);
}

/* The router gets `m` as it stands and refuses it; what could be read of its ids is kept. */
static void refused(pair *p, ty_message *m, ty_status want, const char *says) {
    ty_err err = {0};
    ty_message *got = NULL;
    assert_int_equal(ty_message_send(p->dealer, false, &m, &err), TY_OK);
    assert_int_equal(recv_soon(p->router, true, &got, &err), want);
    if (!strstr(err.text, says)) fail_msg("\"%s\" does not say \"%s\"", err.text, says);
    assert_non_null(got);
    assert_true(got->identity_len > 0);
    assert_string_equal(got->env->request_id, "req-1");
    assert_int_equal(got->env->part, 3);
    assert_int_equal(got->env->generation, 2);
    assert_int_equal(got->env->body_case, TYTO__ENVELOPE__BODY__NOT_SET);
    assert_int_equal(got->n_frame, 0);
    /* The answer reaches the sender. */
    ty_message_set_error(got, want, err.text, "");
    assert_int_equal(ty_message_send(p->router, true, &got, &err), TY_OK);
    assert_int_equal(recv_soon(p->dealer, false, &got, &err), TY_OK);
    assert_int_equal(ty_status_from_name(got->env->error->status), want);
    ty_message_destroy(&got);
}

static void message_recv_refuses_another_version(void **state) {
    ty_message *m = make_task();
    m->env->version = 2;
    refused(*state, m, TY_EVERSION, "version 2");
}

static void message_recv_refuses_an_envelope_without_body(void **state) {
    ty_message *m = make_task();
    ty_message_set_body(m, TYTO__ENVELOPE__BODY__NOT_SET, NULL);
    refused(*state, m, TY_EFORMAT, "without a body");
}

static void message_recv_refuses_a_missing_frame(void **state) {
    ty_message *m = make_task();
    add_floats(m, "a", 2, 2, 0);
    add_floats(m, "b", 2, 2, 0);
    zmq_msg_close(&m->frame[--m->n_frame]);
    refused(*state, m, TY_EFORMAT, "names frame 1 of 1");
}

static void message_recv_refuses_a_frame_too_many(void **state) {
    ty_message *m = make_task();
    add_floats(m, "a", 2, 2, 0);
    zmq_msg_init_size(&m->frame[m->n_frame++], 3);
    refused(*state, m, TY_EFORMAT, "2 tensor frames behind an envelope that describes 1");
}

static void message_recv_refuses_a_frame_of_another_length(void **state) {
    ty_message *m = make_task();
    add_floats(m, "a", 2, 2, 0);
    zmq_msg_close(&m->frame[0]);
    zmq_msg_init_size(&m->frame[0], 15);
    refused(*state, m, TY_EFORMAT, "has 15 bytes, want 16");
}

static void message_recv_refuses_a_shape_that_is_not_its_bytes(void **state) {
    ty_message *m = make_task();
    add_floats(m, "a", 2, 2, 0);
    m->env->tensors[0]->shape[0] = UINT64_MAX;
    refused(*state, m, TY_EFORMAT, "byte count");
}

static void message_recv_refuses_a_frame_named_twice(void **state) {
    ty_message *m = make_task();
    add_floats(m, "a", 2, 2, 0);
    add_floats(m, "b", 2, 2, 0);
    m->env->tensors[1]->frame = 0;
    refused(*state, m, TY_EFORMAT, "another tensor's");
}

static void message_recv_refuses_an_unknown_dtype(void **state) {
    ty_message *m = make_task();
    add_floats(m, "a", 2, 2, 0);
    m->env->tensors[0]->dtype = (Tyto__DType)77;
    refused(*state, m, TY_EFORMAT, "dtype 77");
}

static void raw_send(pair *p, const void *bytes, size_t n, int extra_frames) {
    assert_true(zmq_send(p->dealer, bytes, n, extra_frames ? ZMQ_SNDMORE : 0) >= 0);
    for (int i = 0; i < extra_frames; i++)
        assert_true(zmq_send(p->dealer, "x", 1, i + 1 < extra_frames ? ZMQ_SNDMORE : 0) >= 0);
}

static void message_recv_refuses_bytes_that_are_no_envelope(void **state) {
    pair *p = *state;
    ty_err err;
    ty_message *got;
    raw_send(p, "\xff\xff\xff\xff garbage", 12, 2);
    assert_int_equal(recv_soon(p->router, true, &got, &err), TY_EFORMAT);
    assert_non_null(got);
    ty_message_destroy(&got);
    raw_send(p, "", 0, 0); /* an empty envelope has version 0 */
    assert_int_equal(recv_soon(p->router, true, &got, &err), TY_EVERSION);
    ty_message_destroy(&got);
}

static void message_recv_refuses_too_many_frames_and_reads_on(void **state) {
    pair *p = *state;
    ty_err err;
    ty_message *got, *m = make_task();
    size_t n = tyto__envelope__get_packed_size(m->env);
    uint8_t *bytes = malloc(n);
    tyto__envelope__pack(m->env, bytes);
    raw_send(p, bytes, n, TY_MESSAGE_FRAMES_MAX + 5);
    free(bytes);
    assert_int_equal(recv_soon(p->router, true, &got, &err), TY_ELIMIT);
    ty_message_destroy(&got);
    assert_int_equal(ty_message_send(p->dealer, false, &m, &err), TY_OK);
    assert_int_equal(recv_soon(p->router, true, &got, &err), TY_OK);
    ty_message_destroy(&got);
}

static void message_recv_refuses_a_cut_envelope(void **state) {
    pair *p = *state;
    ty_message *m = make_task(), *got;
    add_floats(m, "pixel_values", 2, 2, 0);
    size_t n = tyto__envelope__get_packed_size(m->env);
    uint8_t *bytes = malloc(n);
    tyto__envelope__pack(m->env, bytes);
    /* Cut anywhere: a refusal or, at a field's border, a message whose frames do not fit; never a crash. */
    for (size_t cut = 1; cut < n; cut++) {
        raw_send(p, bytes, cut, 1);
        ty_status st = recv_soon(p->router, true, &got, NULL);
        assert_true(st == TY_EFORMAT || st == TY_EVERSION);
        ty_message_destroy(&got);
    }
    free(bytes);
    ty_message_destroy(&m);
}

static void message_recv_survives_flipped_bits(void **state) {
    pair *p = *state;
    ty_message *m = make_task(), *got;
    add_floats(m, "pixel_values", 2, 2, 0);
    size_t n = tyto__envelope__get_packed_size(m->env);
    uint8_t *bytes = malloc(n);
    uint32_t seed = 12345;
    for (int round = 0; round < 2000; round++) {
        tyto__envelope__pack(m->env, bytes);
        for (int k = 0; k < 3; k++) {
            seed = seed * 1664525u + 1013904223u;
            bytes[(seed >> 8) % n] ^= (uint8_t)(1u << (seed >> 29));
        }
        raw_send(p, bytes, n, 1);
        ty_status st = recv_soon(p->router, true, &got, NULL);
        assert_true(st == TY_OK || st == TY_EFORMAT || st == TY_EVERSION || st == TY_ELIMIT);
        ty_message_destroy(&got);
    }
    free(bytes);
    ty_message_destroy(&m);
}

static void message_tensor_notices_changed_bytes(void **state) {
    (void)state;
    ty_message *m = make_task();
    ty_tensor t;
    ty_err err;
    add_floats(m, "pixel_values", 8, 8, 1);
    assert_int_equal(ty_message_tensor(m, 0, NULL, &t, &err), TY_OK);
    ((uint8_t *)zmq_msg_data(&m->frame[0]))[17] ^= 1;
    assert_int_equal(ty_message_tensor(m, 0, NULL, &t, &err), TY_ECHECKSUM);
    assert_non_null(strstr(err.text, "pixel_values"));
    ty_message_destroy(&m);
}

static void message_tensor_refuses_a_fetch_address(void **state) {
    (void)state;
    ty_message *m = make_task();
    ty_tensor t;
    ty_err err;
    add_floats(m, "x", 1, 1, 1);
    Tyto__Tensor *x = m->env->tensors[0];
    x->place_case = TYTO__TENSOR__PLACE_FETCH_ADDRESS;
    x->fetch_address = strdup("tcp://elsewhere");
    assert_int_equal(ty_message_tensor(m, 0, NULL, &t, &err), TY_EUNSUPPORTED);
    ty_message_destroy(&m);
}

static void message_dup_shares_the_frames(void **state) {
    (void)state;
    ty_message *m = make_task(), *d = NULL;
    ty_err err;
    add_floats(m, "x", 100, 100, 1);
    const void *bytes = zmq_msg_data(&m->frame[0]);
    assert_int_equal(ty_message_dup(m, &d, &err), TY_OK);
    assert_ptr_equal(zmq_msg_data(&d->frame[0]), bytes);
    assert_ptr_not_equal(d->env, m->env);
    ty_message_destroy(&m);
    ty_tensor t;
    assert_int_equal(ty_message_tensor(d, 0, NULL, &t, &err), TY_OK);
    assert_string_equal(d->env->request_id, "req-1");
    ty_message_destroy(&d);
}

static void message_move_tensors_appends_and_empties(void **state) {
    (void)state;
    ty_message *to = make_task(), *from = make_task();
    ty_err err;
    ty_tensor t;
    const char *name;
    add_floats(to, "a", 2, 2, 1);
    add_floats(from, "b", 2, 2, 5);
    add_floats(from, "c", 2, 2, 9);
    assert_int_equal(ty_message_move_tensors(to, from, &err), TY_OK);
    assert_int_equal(from->env->n_tensors, 0);
    assert_int_equal(from->n_frame, 0);
    assert_int_equal(to->n_frame, 3);
    assert_int_equal(ty_message_tensor(to, 2, &name, &t, &err), TY_OK);
    assert_string_equal(name, "c");
    assert_true(((const float *)t.data)[0] == 9.0F);
    ty_message_destroy(&to);
    ty_message_destroy(&from);
}

static ty_message *make_chunk(void) {
    ty_message *m = make_task();
    Tyto__Chunk *c = ty_pb_new(&tyto__chunk__descriptor);
    for (int i = 0; i < 2; i++) {
        Tyto__TokenInfo *t = ty_pb_new(&tyto__token_info__descriptor);
        t->id = 300 + i;
        ty_pb_set_str(&t->text, "word");
        assert_int_equal(ty_pb_append(&c->tokens, &c->n_tokens, t), TY_OK);
    }
    c->first = 7;
    m->env->dispatch = UINT64_C(0x8000000000000123);
    ty_message_set_body(m, TYTO__ENVELOPE__BODY_CHUNK, c);
    return m;
}

/* What is forwarded is what came, though only its chunk was read; with another body it is that one. */
static void message_forwards_chunks_as_they_came(void **state) {
    pair *p = *state;
    ty_message *m = NULL, *got = NULL;
    ty_err err;
    for (int answer = 0; answer < 2; answer++) {
        m = make_chunk();
        assert_int_equal(ty_message_send(p->dealer, false, &m, &err), TY_OK);
        assert_int_equal(forward_soon(p->router, &m, &err), TY_OK);
        assert_true(m->is_packed && m->env->body_case == TYTO__ENVELOPE__BODY_CHUNK);
        assert_true(m->env->dispatch == UINT64_C(0x8000000000000123) && m->env->chunk->first == 7);
        assert_int_equal(m->env->chunk->n_tokens, 2);
        assert_int_equal(m->env->chunk->tokens[1]->id, 301);
        if (answer) ty_message_set_error(m, TY_EIO, "no", "");
        assert_int_equal(ty_message_post(p->router, m->identity, m->identity_len, m, &err), TY_OK);
        ty_message_destroy(&m);
        assert_int_equal(recv_soon(p->dealer, false, &got, &err), TY_OK);
        if (answer) {
            assert_int_equal(got->env->body_case, TYTO__ENVELOPE__BODY_ERROR);
        } else {
            assert_string_equal(got->env->request_id, "req-1");
            assert_true(got->env->part == 3 && got->env->generation == 2);
            assert_string_equal(got->env->chunk->tokens[0]->text, "word");
            assert_true(got->env->sent_unix_us > 0);
        }
        ty_message_destroy(&got);
    }
}

static void send_raw(pair *p, const void *bytes, size_t n) {
    assert_int_equal(zmq_send(p->dealer, bytes, n, 0), (int)n);
}

/* Other messages, and chunks that are not as they should be, are received as ever. */
static void message_to_forward_is_judged_as_any_other(void **state) {
    pair *p = *state;
    ty_message *m = make_task(), *got = NULL;
    ty_err err;
    uint8_t packed[256];
    add_floats(m, "a", 2, 2, 1);
    assert_int_equal(ty_message_send(p->dealer, false, &m, &err), TY_OK);
    assert_int_equal(forward_soon(p->router, &got, &err), TY_OK);
    assert_true(!got->is_packed && got->n_frame == 1);
    ty_message_destroy(&got);
    m = make_chunk();
    size_t n = tyto__envelope__pack(m->env, packed);
    for (size_t cut = 1; cut < n; cut++) {
        send_raw(p, packed, cut);
        ty_status want = recv_soon(p->router, true, &got, &err);
        ty_message_destroy(&got);
        send_raw(p, packed, cut);
        assert_int_equal(forward_soon(p->router, &got, &err), want);
        assert_true(want == TY_OK || got->env->body_case == TYTO__ENVELOPE__BODY__NOT_SET);
        ty_message_destroy(&got);
    }
    m->env->version = 9;
    n = tyto__envelope__pack(m->env, packed);
    send_raw(p, packed, n);
    assert_int_equal(forward_soon(p->router, &got, &err), TY_EVERSION);
    ty_message_destroy(&got);
    ty_message_destroy(&m);
}

static void message_post_keeps_the_message(void **state) {
    pair *p = *state;
    ty_message *m = make_task(), *got;
    ty_err err;
    add_floats(m, "a", 2, 2, 1);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(ty_message_post(p->dealer, NULL, 0, m, &err), TY_OK);
        assert_int_equal(recv_soon(p->router, true, &got, &err), TY_OK);
        assert_int_equal(got->n_frame, 1);
        ty_message_destroy(&got);
    }
    ty_message_destroy(&m);
}

static void message_send_to_no_one_is_unavailable(void **state) {
    pair *p = *state;
    ty_message *m = make_task();
    ty_err err;
    m->identity = (uint8_t *)strdup("nobody");
    m->identity_len = 6;
    assert_int_equal(ty_message_send(p->router, true, &m, &err), TY_EUNAVAILABLE);
    assert_non_null(m);
    ty_message_destroy(&m);
}

#define with_sockets(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        with_sockets(message_carries_tensors_both_ways),
        with_sockets(message_recv_says_when_nothing_waits),
        cmocka_unit_test(message_add_tensor_refuses_a_wrong_size),
        cmocka_unit_test(message_add_tensor_stops_at_the_limit),
        with_sockets(message_recv_refuses_another_version),
        with_sockets(message_recv_refuses_an_envelope_without_body),
        with_sockets(message_recv_refuses_a_missing_frame),
        with_sockets(message_recv_refuses_a_frame_too_many),
        with_sockets(message_recv_refuses_a_frame_of_another_length),
        with_sockets(message_recv_refuses_a_shape_that_is_not_its_bytes),
        with_sockets(message_recv_refuses_a_frame_named_twice),
        with_sockets(message_recv_refuses_an_unknown_dtype),
        with_sockets(message_recv_refuses_bytes_that_are_no_envelope),
        with_sockets(message_recv_refuses_too_many_frames_and_reads_on),
        with_sockets(message_recv_refuses_a_cut_envelope),
        with_sockets(message_recv_survives_flipped_bits),
        cmocka_unit_test(message_tensor_notices_changed_bytes),
        cmocka_unit_test(message_tensor_refuses_a_fetch_address),
        cmocka_unit_test(message_dup_shares_the_frames),
        cmocka_unit_test(message_move_tensors_appends_and_empties),
        with_sockets(message_forwards_chunks_as_they_came),
        with_sockets(message_to_forward_is_judged_as_any_other),
        with_sockets(message_post_keeps_the_message),
        with_sockets(message_send_to_no_one_is_unavailable),
    };
    return cmocka_run_group_tests_name("message", tests, NULL, NULL);
}
