/* multiway.c: the order of the rows, and that a row's numbers depend on its modality and its past alone.
 * Against the reference it stands in tests/golden. */
#include "tests/support/ty_test.h"

#include "services/decoder/multiway.h"
#include "services/decoder/order.h"
#include "tests/support/process.h"
#include "tests/support/toy_llama.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { T = 43, ROWS = 128, D = 32 };

typedef struct {
    ty_gguf *g;
    llama *m;
    kv_pool *kv;
    ty_pool *pool;
    int V;
} net;

static toy_llama toy(void) {
    toy_llama t = toy_llama_default();
    t.architecture = "mplug_owl2";
    t.n_kv_head = t.n_head;
    return t;
}

static net open_net(const toy_llama *t) {
    net n = {0};
    ty_err err = {0};
    const char *path = test_path("%s/toy.gguf", test_temp_dir());
    toy_llama_write(t, path);
    ty_status st = ty_pool_create(&n.pool, 2, &err);
    if (st == TY_OK) st = ty_gguf_open(&n.g, path, &err);
    if (st == TY_OK)
        st = llama_create(&n.m, n.g, &(ty_run_options){.pool = n.pool}, 0, ROWS, ROWS, &err);
    if (st != TY_OK) fail_msg("%s", err.text);
    const llama_dims *d = llama_get_dims(n.m);
    assert_int_equal(d->d_model, D);
    assert_true(d->multiway);
    n.V = d->n_vocab;
    kv_shape s = {d->n_layer, d->n_kv_head, d->d_head, TY_F32};
    assert_int_equal(kv_pool_create(&n.kv, &s, 16 * kv_page_bytes(&s), &err), TY_OK);
    return n;
}

static void close_net(net *n) {
    assert_int_equal(kv_pool_used(n->kv), 0);
    kv_pool_destroy(&n->kv);
    llama_destroy(&n->m);
    ty_gguf_close(&n->g);
    ty_pool_destroy(&n->pool);
}

static float picture[T][D];

/* A prompt of pictures of 9 rows with text around them, the last two side by side. */
static bool is_visual(int i) {
    return (i >= 3 && i < 12) || (i >= 17 && i < 35);
}

static void fill_rows(llama_row *row, int V) {
    for (int i = 0; i < T; i++) {
        row[i] = (llama_row){.id = (i * 37 + 5) % V};
        if (is_visual(i)) row[i].visual = picture[i];
        for (int k = 0; k < D; k++) picture[i][k] = sinf((float)(i * D + k));
    }
}

static void must(ty_status st, const ty_err *err) {
    if (st != TY_OK) fail_msg("%s: %s", ty_status_name(st), err->text);
}

/* Logits of all rows, the prompt cut into chunks of `chunk`; with `beside` other rows in each batch. */
static float *run(net *n, int chunk, bool beside) {
    float *logits = malloc((size_t)T * (size_t)n->V * sizeof(float));
    float *both = malloc((size_t)(T + 1) * (size_t)n->V * sizeof(float));
    llama_row row[T], other = {.id = 7};
    kv_seq seq = {0}, other_seq = {0};
    ty_err err = {0};
    assert_true(logits && both);
    fill_rows(row, n->V);
    for (int at = 0; at < T; at += chunk) {
        int k = T - at < chunk ? T - at : chunk;
        llama_span s[2] = {{.seq = &other_seq, .row = &other, .n = 1, .n_logits = 1},
                           {.seq = &seq, .row = row + at, .n = k, .n_logits = k}};
        must(llama_forward(n->m, n->kv, beside ? s : s + 1, beside ? 2 : 1, both, NULL, &err),
             &err);
        memcpy(logits + (size_t)at * (size_t)n->V, both + (beside ? n->V : 0),
               (size_t)k * (size_t)n->V * sizeof(float));
    }
    kv_seq_clear(n->kv, &seq);
    kv_seq_clear(n->kv, &other_seq);
    free(both);
    return logits;
}

static void order_puts_text_first(void **state) {
    (void)state;
    float v[1];
    llama_row a[5] = {{.id = 1}, {.visual = v}, {.visual = v}, {.id = 2}, {.visual = v}};
    llama_row b[2] = {{.visual = v}, {.id = 3}};
    llama_span s[2] = {{.row = a, .n = 5}, {.row = b, .n = 2}};
    int order[7];
    static const int want[7] = {0, 3, 4, 1, 5, 6, 2};
    llama_run run[7];
    int n_run = 9;
    assert_int_equal(order_rows(s, 2, true, order, run, &n_run), 3);
    assert_int_equal(n_run, 0);
    assert_memory_equal(order, want, sizeof(want));
    assert_int_equal(order_rows(s, 0, true, order, run, &n_run), 0);
}

static void forward_gives_the_same_bits_however_rows_are_batched(void **state) {
    (void)state;
    static const ty_dtype TYPE[] = {TY_F32, TY_F16, TY_BF16, TY_Q8_0, TY_Q4_0};
    for (int i = 0; i < 5; i++) {
        toy_llama t = toy();
        t.dtype = TYPE[i];
        net n = open_net(&t);
        float *whole = run(&n, T, false);
        size_t bytes = (size_t)T * (size_t)n.V * sizeof(float);
        for (int chunk = 1; chunk <= T; chunk += 6) {
            float *cut = run(&n, chunk, chunk % 4 == 1);
            if (memcmp(cut, whole, bytes) != 0)
                fail_msg("%s: other bits in chunks of %d", ty_dtype_name((int)TYPE[i]), chunk);
            free(cut);
        }
        free(whole);
        close_net(&n);
    }
}

/* Row i of a text of token ids alone, and the same embeddings as visual rows: other numbers, for other
 * weights make them; hidden states come in the order of the prompt. */
static void the_same_row_is_another_as_a_picture(void **state) {
    (void)state;
    toy_llama t = toy();
    net n = open_net(&t);
    ty_err err = {0};
    ty_tensor e;
    llama_row text[4], mixed[4];
    static float logits[2][4 * 1024], hidden[2][3 * 4 * D];
    must(ty_gguf_find(n.g, "token_embd.weight", &e, &err), &err);
    for (int i = 0; i < 4; i++) {
        text[i] = mixed[i] = (llama_row){.id = 10 + i};
        if (i == 1 || i == 2) mixed[i].visual = (const float *)e.data + (10 + i) * D;
    }
    for (int k = 0; k < 2; k++) {
        kv_seq seq = {0};
        llama_trace trace = {.data = hidden[k], .stride = 4 * D};
        llama_span s = {.seq = &seq, .row = k ? mixed : text, .n = 4, .n_logits = 4};
        must(llama_forward(n.m, n.kv, &s, 1, logits[k], &trace, &err), &err);
        kv_seq_clear(n.kv, &seq);
    }
    assert_memory_equal(hidden[0], hidden[1], 4 * D * sizeof(float)); /* the embeddings */
    size_t row = (size_t)n.V * sizeof(float);
    assert_memory_equal(logits[0], logits[1], row); /* row 0 sees itself alone */
    for (int i = 1; i < 4; i++)
        assert_memory_not_equal(logits[0] + i * n.V, logits[1] + i * n.V, row);
    close_net(&n);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(order_puts_text_first),
        cmocka_unit_test(forward_gives_the_same_bits_however_rows_are_batched),
        cmocka_unit_test(the_same_row_is_another_as_a_picture),
    };
    return cmocka_run_group_tests_name("multiway", tests, NULL, NULL);
}
