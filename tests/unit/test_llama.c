/* llama.c: what it refuses, and that a row's numbers do not depend on how rows are batched.  Against the
 * reference it stands in tests/golden/test_decoder.c. */
#include "tests/support/ty_test.h"

#include "services/decoder/llama.h"
#include "tests/support/process.h"
#include "tests/support/toy_llama.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { T = 41, ROWS = 64 };

typedef struct {
    ty_gguf *g;
    llama *m;
    kv_pool *kv;
    ty_pool *pool;
} net;

static ty_status open_net(net *n, const toy_llama *t, ty_compute compute, ty_err *err) {
    const char *path = test_path("%s/toy.gguf", test_temp_dir());
    toy_llama_write(t, path);
    *n = (net){0};
    ty_status st = ty_pool_create(&n->pool, 2, err);
    if (st == TY_OK) st = ty_gguf_open(&n->g, path, err);
    if (st == TY_OK)
        st = llama_create(&n->m, n->g, &(ty_run_options){.compute = compute, .pool = n->pool}, 0,
                          ROWS, ROWS, err);
    if (st != TY_OK) return st;
    const llama_dims *d = llama_get_dims(n->m);
    kv_shape s = {d->n_layer, d->n_kv_head, d->d_head, TY_F32};
    return kv_pool_create(&n->kv, &s, 16 * kv_page_bytes(&s), err);
}

static void close_net(net *n) {
    if (n->kv) assert_int_equal(kv_pool_used(n->kv), 0);
    kv_pool_destroy(&n->kv);
    llama_destroy(&n->m);
    ty_gguf_close(&n->g);
    ty_pool_destroy(&n->pool);
}

static void fill_rows(llama_row *row, int V) {
    for (int i = 0; i < T; i++) row[i] = (llama_row){.id = (i * 37 + 5) % V};
}

/* Logits of all rows, the prompt cut into chunks of `chunk`. */
static float *run(net *n, int chunk) {
    int V = llama_get_dims(n->m)->n_vocab;
    float *logits = malloc((size_t)T * (size_t)V * sizeof(float));
    llama_row row[T];
    kv_seq seq = {0};
    ty_err err = {0};
    assert_non_null(logits);
    fill_rows(row, V);
    for (int at = 0; at < T; at += chunk) {
        int k = T - at < chunk ? T - at : chunk;
        llama_span s = {.seq = &seq, .row = row + at, .n = k, .n_logits = k};
        if (llama_forward(n->m, n->kv, &s, 1, logits + (size_t)at * (size_t)V, NULL, &err) != TY_OK)
            fail_msg("%s", err.text);
    }
    kv_seq_clear(n->kv, &seq);
    return logits;
}

static void forward_gives_the_same_bits_however_a_prompt_is_cut(void **state) {
    (void)state;
    static const ty_dtype TYPE[] = {TY_F32, TY_F16, TY_BF16, TY_Q8_0, TY_Q4_0};
    for (int i = 0; i < 5; i++) {
        toy_llama t = toy_llama_default();
        t.dtype = TYPE[i];
        net n;
        ty_err err = {0};
        if (open_net(&n, &t, TY_COMPUTE_AUTO, &err) != TY_OK) fail_msg("%s", err.text);
        float *whole = run(&n, T);
        size_t bytes = (size_t)T * (size_t)llama_get_dims(n.m)->n_vocab * sizeof(float);
        for (int chunk = 1; chunk < T; chunk += 6) {
            float *cut = run(&n, chunk);
            if (memcmp(cut, whole, bytes) != 0)
                fail_msg("%s: other bits in chunks of %d", ty_dtype_name((int)TYPE[i]), chunk);
            free(cut);
        }
        free(whole);
        close_net(&n);
    }
}

static void a_tied_head_is_the_embeddings(void **state) {
    (void)state;
    toy_llama t = toy_llama_default();
    t.tied = true;
    net n;
    ty_err err = {0};
    if (open_net(&n, &t, TY_COMPUTE_AUTO, &err) != TY_OK) fail_msg("%s", err.text);
    const llama_dims *d = llama_get_dims(n.m);
    ty_tensor e;
    assert_int_equal(ty_gguf_find(n.g, "token_embd.weight", &e, &err), TY_OK);
    llama_row row = {.id = 9};
    kv_seq seq = {0};
    float *logits = malloc((size_t)d->n_vocab * sizeof(float)), *hidden = malloc(3 * 32 * 4);
    llama_trace trace = {.data = hidden, .stride = 32};
    llama_span s = {.seq = &seq, .row = &row, .n = 1, .n_logits = 1};
    assert_int_equal(llama_forward(n.m, n.kv, &s, 1, logits, &trace, &err), TY_OK);
    for (int v = 0; v < d->n_vocab; v++) {
        double want = 0;
        for (int i = 0; i < 32; i++)
            want += (double)((const float *)e.data)[v * 32 + i] * (double)hidden[2 * 32 + i];
        assert_true(fabs(want - (double)logits[v]) < 1e-5);
    }
    free(logits);
    free(hidden);
    kv_seq_clear(n.kv, &seq);
    close_net(&n);
}

static void refused(const toy_llama *t, ty_status want, const char *says) {
    net n;
    ty_err err = {0};
    ty_status st = open_net(&n, t, TY_COMPUTE_AUTO, &err);
    if (st != want) fail_msg("%s: %s", ty_status_name(st), err.text);
    if (!strstr(err.text, says)) fail_msg("\"%s\" does not say \"%s\"", err.text, says);
    close_net(&n);
}

static void create_refuses_what_it_would_run_wrongly(void **state) {
    (void)state;
    toy_llama t = toy_llama_default();
    t.architecture = "qwen2";
    refused(&t, TY_EUNSUPPORTED, "qwen2");
    t = toy_llama_default();
    t.architecture =
        "mplug_owl2"; /* its 2 KV heads for 4 heads are what the reference cannot run */
    refused(&t, TY_EUNSUPPORTED, "mplug_owl2.attention.head_count_kv is 2, only 4");
    t = toy_llama_default();
    t.extra = "blk.0.vis_attn_norm.weight";
    refused(&t, TY_EUNSUPPORTED, "blk.0.vis_attn_norm.weight");
    t = toy_llama_default();
    t.extra = "blk.0.attn_q.bias";
    refused(&t, TY_EUNSUPPORTED, "blk.0.attn_q.bias");
    t = toy_llama_default();
    t.extra = "rope_freqs.weight";
    refused(&t, TY_ESHAPE, "rope_freqs.weight");
    t = toy_llama_default();
    t.n_kv_head = 3;
    refused(&t, TY_EFORMAT, "3 KV heads");
    t = toy_llama_default();
    t.short_ff = 8;
    refused(&t, TY_ESHAPE, "blk.0.ffn_down.weight");
}

static void forward_refuses_rows_that_do_not_fit(void **state) {
    (void)state;
    toy_llama t = toy_llama_default();
    net n;
    ty_err err = {0};
    llama_row row[ROWS + 1] = {{0}};
    static float logits[ROWS * 1024];
    kv_seq seq = {0};
    if (open_net(&n, &t, TY_COMPUTE_AUTO, &err) != TY_OK) fail_msg("%s", err.text);
    llama_span s = {.seq = &seq, .row = row, .n = ROWS + 1, .n_logits = 1};
    assert_int_equal(llama_forward(n.m, n.kv, &s, 1, logits, NULL, &err), TY_ECONTEXT);
    s.n = 1;
    row[0].id = llama_get_dims(n.m)->n_vocab;
    assert_int_equal(llama_forward(n.m, n.kv, &s, 1, logits, NULL, &err), TY_EINTERNAL);
    kv_seq_clear(n.kv, &seq);
    close_net(&n);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(forward_gives_the_same_bits_however_a_prompt_is_cut),
        cmocka_unit_test(a_tied_head_is_the_embeddings),
        cmocka_unit_test(create_refuses_what_it_would_run_wrongly),
        cmocka_unit_test(forward_refuses_rows_that_do_not_fit),
    };
    return cmocka_run_group_tests_name("llama", tests, NULL, NULL);
}
