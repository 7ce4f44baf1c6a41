/* attend.c against attention written out in double precision; and bit for bit against itself with the
 * same rows cut and mixed in other ways. */
#include "tests/support/ty_test.h"

#include "services/decoder/attend.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { N_HEAD = 6, D = 20, LEN = 53, LAYERS = 2, LAYER = 1 };

static const float SLOPE[N_HEAD] = {0.5f, 0.25f, 0.0625f, 0.01f, 0.7f, 0.1f};

typedef struct {
    int n_kv;
    const float *slope; /* NULL: no ALiBi */
    kv_pool *kv;
    kv_seq seq;
    float q[LEN][N_HEAD * D], k[LEN][N_HEAD * D], v[LEN][N_HEAD * D];
    attend_scratch *scratch;
    ty_pool *pool;
} world;

static float noise(unsigned *r) {
    *r = *r * 1664525u + 1013904223u;
    return (float)(*r >> 8) / (float)(1 << 23) - 1.0f;
}

static world *make(int n_kv, ty_dtype t, int threads) {
    world *w = calloc(1, sizeof(*w));
    unsigned r = 3;
    kv_shape s = {.n_layer = LAYERS, .n_kv_head = n_kv, .d = D, .dtype = t};
    w->n_kv = n_kv;
    assert_int_equal(kv_pool_create(&w->kv, &s, kv_page_bytes(&s) * 8, NULL), TY_OK);
    assert_int_equal(ty_pool_create(&w->pool, threads, NULL), TY_OK);
    assert_int_equal(attend_scratch_create(&w->scratch, N_HEAD, n_kv, LEN, w->pool, NULL), TY_OK);
    assert_int_equal(kv_seq_grow(w->kv, &w->seq, LEN, NULL), TY_OK);
    for (int i = 0; i < LEN; i++) {
        for (int c = 0; c < N_HEAD * D; c++) w->q[i][c] = 3 * noise(&r);
        for (int c = 0; c < n_kv * D; c++) {
            w->k[i][c] = noise(&r);
            w->v[i][c] = noise(&r);
        }
        kv_put(w->kv, &w->seq, i, LAYER, w->k[i], w->v[i]);
    }
    return w;
}

static void destroy(world *w) {
    kv_seq_clear(w->kv, &w->seq);
    kv_pool_destroy(&w->kv);
    attend_scratch_destroy(&w->scratch);
    ty_pool_destroy(&w->pool);
    free(w);
}

/* Rows [first, first + n) of the sequence, in blocks of at most `block`. */
static void run(world *w, int first, int n, int block, float out[LEN][N_HEAD * D]) {
    attend_block b[LEN];
    int nb = 0;
    for (int i = 0; i < n; i += block)
        b[nb++] = (attend_block){
            .seq = &w->seq, .row = i, .n_row = n - i < block ? n - i : block, .pos = first + i};
    attend(w->pool,
           &(attend_args){.kv = w->kv,
                          .layer = LAYER,
                          .n_head = N_HEAD,
                          .block = b,
                          .n_block = nb,
                          .q = w->q[first],
                          .ldq = N_HEAD * D,
                          .ctx = out[first],
                          .ldo = N_HEAD * D,
                          .slope = w->slope},
           w->scratch);
}

static double truth(const world *w, int pos, int h, int c) {
    int g = h / (N_HEAD / w->n_kv);
    double sum = 0, acc = 0;
    for (int j = 0; j <= pos; j++) {
        double s = 0;
        for (int i = 0; i < D; i++) s += (double)w->q[pos][h * D + i] * (double)w->k[j][g * D + i];
        double bias = w->slope ? (double)w->slope[h] * (j - pos) : 0;
        double e = exp(s / sqrt(D) + bias);
        sum += e;
        acc += e * (double)w->v[j][g * D + c];
    }
    return acc / sum;
}

static float whole[LEN][N_HEAD * D], cut[LEN][N_HEAD * D];

static void attend_is_causal_softmax(void **state) {
    (void)state;
    for (int n_kv = 1; n_kv <= N_HEAD; n_kv += n_kv)
        for (int way = 0; way < 4 && N_HEAD % n_kv == 0; way++) {
            int t = way % 2;
            world *w = make(n_kv, t ? TY_F16 : TY_F32, 2);
            if (way > 1) w->slope = SLOPE;
            run(w, 0, LEN, ATTEND_ROWS, whole);
            for (int pos = 0; pos < LEN; pos++)
                for (int c = 0; c < N_HEAD * D; c++) {
                    double d = fabs((double)whole[pos][c] - truth(w, pos, c / D, c % D));
                    if (!(d < (t ? 2e-3 : 2e-6)))
                        fail_msg("kv heads %d, %s, pos %d: %g", n_kv, t ? "f16" : "f32", pos, d);
                }
            destroy(w);
        }
}

static void attend_gives_the_same_bits_however_rows_are_cut(void **state) {
    (void)state;
    for (int n_kv = 2; n_kv <= N_HEAD; n_kv += 4) {
        world *w = make(n_kv, TY_F32, 2);
        if (n_kv == 2) w->slope = SLOPE;
        run(w, 0, LEN, ATTEND_ROWS, whole);
        for (int block = 1; block <= ATTEND_ROWS; block += 3)
            for (int first = 0; first < LEN; first += 13) {
                memset(cut, 0, sizeof(cut));
                run(w, first, LEN - first, block, cut);
                assert_memory_equal(cut[first], whole[first],
                                    sizeof(whole[0]) * (size_t)(LEN - first));
            }
        destroy(w);
    }
}

/* A forked sequence in other pages, other sequences in the same call: the same bits. */
static void attend_gives_the_same_bits_beside_other_sequences(void **state) {
    (void)state;
    world *w = make(3, TY_F32, 2);
    run(w, 0, LEN, ATTEND_ROWS, whole);
    attend_block b[3] = {{.seq = &w->seq, .row = 0, .n_row = 1, .pos = LEN - 1},
                         {.seq = &w->seq, .row = 1, .n_row = 2, .pos = 7},
                         {.seq = &w->seq, .row = 3, .n_row = 1, .pos = 20}};
    int pos[4] = {LEN - 1, 7, 8, 20};
    float q[4][N_HEAD * D], out[4][N_HEAD * D];
    for (int i = 0; i < 4; i++) memcpy(q[i], w->q[pos[i]], sizeof(q[i]));
    attend(w->pool,
           &(attend_args){.kv = w->kv,
                          .layer = LAYER,
                          .n_head = N_HEAD,
                          .block = b,
                          .n_block = 3,
                          .q = q[0],
                          .ldq = N_HEAD * D,
                          .ctx = out[0],
                          .ldo = N_HEAD * D},
           w->scratch);
    for (int i = 0; i < 4; i++) assert_memory_equal(out[i], whole[pos[i]], sizeof(out[i]));
    destroy(w);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(attend_is_causal_softmax),
        cmocka_unit_test(attend_gives_the_same_bits_however_rows_are_cut),
        cmocka_unit_test(attend_gives_the_same_bits_beside_other_sequences),
    };
    return cmocka_run_group_tests_name("attend", tests, NULL, NULL);
}
