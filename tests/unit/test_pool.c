/* pool.h: every task exactly once, under jobs that follow each other closely and after sleep. */
#include "tests/support/ty_test.h"

#include "common/math/pool.h"

#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

typedef struct {
    atomic_int seen[1000];
    atomic_int bad_member;
    int size;
} counts;

static void count(void *ctx, int task, int member) {
    counts *c = ctx;
    atomic_fetch_add(&c->seen[task], 1);
    if (member < 0 || member >= c->size) atomic_store(&c->bad_member, 1);
}

static void run_and_check(ty_pool *p, int n) {
    static counts c;
    memset(&c, 0, sizeof c);
    c.size = ty_pool_size(p);
    ty_pool_run(p, n, count, &c);
    for (int i = 0; i < 1000; i++) assert_int_equal(atomic_load(&c.seen[i]), i < n ? 1 : 0);
    assert_int_equal(atomic_load(&c.bad_member), 0);
}

static void pool_runs_each_task_once(void **state) {
    (void)state;
    const int sizes[] = {1, 2, 3, 8};
    for (int s = 0; s < 4; s++) {
        ty_pool *p = NULL;
        assert_int_equal(ty_pool_create(&p, sizes[s], NULL), TY_OK);
        assert_int_equal(ty_pool_size(p), sizes[s]);
        for (int n = 0; n < 20; n++) run_and_check(p, n);
        run_and_check(p, 1000);
        ty_pool_destroy(&p);
        assert_null(p);
    }
}

static void pool_survives_many_short_jobs(void **state) {
    (void)state;
    ty_pool *p = NULL;
    assert_int_equal(ty_pool_create(&p, 4, NULL), TY_OK);
    for (int i = 0; i < 3000; i++) run_and_check(p, 2 + i % 7);
    ty_pool_destroy(&p);
}

static void pool_wakes_after_sleep(void **state) {
    (void)state;
    ty_pool *p = NULL;
    assert_int_equal(ty_pool_create(&p, 3, NULL), TY_OK);
    for (int i = 0; i < 5; i++) {
        usleep(3000);
        run_and_check(p, 50);
    }
    ty_pool_destroy(&p);
}

static void pool_absent_means_the_caller_alone(void **state) {
    (void)state;
    run_and_check(NULL, 13);
    assert_int_equal(ty_pool_size(NULL), 1);
    ty_pool *none = NULL;
    ty_pool_destroy(&none);
}

static void pool_refuses_silly_sizes(void **state) {
    (void)state;
    ty_pool *p = NULL;
    ty_err e = {0};
    assert_int_equal(ty_pool_create(&p, -1, &e), TY_EINVAL);
    assert_null(p);
    assert_int_equal(ty_pool_create(&p, 0, &e), TY_OK);
    assert_true(ty_pool_size(p) >= 1);
    ty_pool_destroy(&p);
}

static void pool_scratch_grows_and_stays(void **state) {
    (void)state;
    ty_pool *p = NULL;
    assert_int_equal(ty_pool_create(&p, 1, NULL), TY_OK);
    char *a = ty_pool_scratch(p, 0, 100);
    assert_non_null(a);
    assert_int_equal((uintptr_t)a % 64, 0);
    assert_ptr_equal(ty_pool_scratch(p, 0, 4096), a);
    char *b = ty_pool_scratch(p, 1, 1);
    assert_ptr_not_equal(a, b);
    char *c = ty_pool_scratch(p, 0, 100000);
    assert_non_null(c);
    memset(c, 1, 100000);
    assert_null(ty_pool_scratch(p, 0, SIZE_MAX));
    ty_pool_destroy(&p);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pool_runs_each_task_once),
        cmocka_unit_test(pool_survives_many_short_jobs),
        cmocka_unit_test(pool_wakes_after_sleep),
        cmocka_unit_test(pool_absent_means_the_caller_alone),
        cmocka_unit_test(pool_refuses_silly_sizes),
        cmocka_unit_test(pool_scratch_grows_and_stays),
    };
    return cmocka_run_group_tests_name("pool", tests, NULL, NULL);
}
