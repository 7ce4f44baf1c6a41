/* A worker's places among its brokers: nobody starves, idle credits are lent, loads that are equal come to
 * equal parts.  The brokers are simulated: each fills the credits that it has, as far as it has tasks. */
#include "tests/support/ty_test.h"

#include "common/wire/credit.h"

#include <stdlib.h>
#include <string.h>

enum { N_MAX = 4 };

typedef struct {
    ty_credit c[N_MAX];
    uint32_t credits[N_MAX]; /* as the broker counts them */
    uint32_t waiting[N_MAX]; /* its queue */
    int n;
    uint32_t places;
} sim;

static void balance(sim *s) {
    int32_t change[N_MAX];
    ty_credit_balance(s->c, s->n, s->places, change);
    for (int i = 0; i < s->n; i++) {
        int64_t now = (int64_t)s->credits[i] + change[i];
        s->credits[i] = now > 0 ? (uint32_t)now : 0;
    }
}

static void join(sim *s, int i) {
    ty_credit_begin(s->c, s->n, i, s->places);
    s->credits[i] = s->c[i].granted;
    s->c[i].live = true;
    balance(s);
}

static void check(const sim *s) {
    uint32_t held = 0, granted = 0, live = 0;
    for (int i = 0; i < s->n; i++) {
        held += s->c[i].held;
        granted += s->c[i].granted;
        live += s->c[i].live;
        assert_int_equal(s->credits[i], s->c[i].live ? s->c[i].granted : s->credits[i]);
    }
    /* One credit each is the least, even when there are more brokers than places. */
    assert_true(held + granted <= s->places + live);
}

/* Brokers send what they may. */
static void fill(sim *s) {
    for (bool any = true; any;) {
        any = false;
        for (int i = 0; i < s->n; i++) {
            if (!s->c[i].live || s->waiting[i] == 0 || s->credits[i] == 0) continue;
            s->waiting[i]--;
            s->credits[i]--;
            ty_credit_take(s->c, i);
            balance(s);
            any = true;
        }
        check(s);
    }
}

static void answer(sim *s, int i) {
    assert_true(s->c[i].held > 0);
    s->credits[i] += ty_credit_release(s->c, s->n, i, s->places);
    balance(s);
    check(s);
}

static sim start(int n, uint32_t places) {
    sim s = {.n = n, .places = places};
    for (int i = 0; i < n; i++) join(&s, i);
    check(&s);
    return s;
}

static void single_broker_has_all_places(void **state) {
    (void)state;
    sim s = start(1, 16);
    assert_int_equal(s.credits[0], 16);
    s.waiting[0] = 100;
    fill(&s);
    assert_int_equal(s.c[0].held, 16);
    for (int k = 0; k < 84; k++) {
        answer(&s, 0);
        fill(&s);
        assert_int_equal(s.c[0].held, 16);
    }
    while (s.c[0].held > 0) answer(&s, 0);
    assert_int_equal(s.credits[0], 16);
}

static void idle_broker_lends_but_keeps_a_reserve(void **state) {
    (void)state;
    sim s = start(2, 16);
    s.waiting[0] = 1000;
    for (int k = 0; k < 50; k++) {
        fill(&s);
        answer(&s, 0);
    }
    fill(&s);
    assert_true(s.c[0].held >= 11);
    assert_true(s.credits[1] >= 4);
    s.waiting[1] = 4;
    fill(&s);
    assert_int_equal(s.c[1].held, 4);
}

static void equal_loads_come_to_equal_parts(void **state) {
    (void)state;
    sim s = start(2, 16);
    s.waiting[0] = 100000;
    fill(&s);
    s.waiting[1] = 100000;
    srand(1);
    for (int k = 0; k < 200; k++) {
        fill(&s);
        answer(&s, s.c[1].held == 0 || (s.c[0].held > 0 && rand() % 2) ? 0 : 1);
    }
    fill(&s);
    assert_in_range(s.c[0].held, 7, 9);
    assert_int_equal(s.c[0].held + s.c[1].held, 16);
}

static void broker_that_dies_gives_its_places_to_the_other(void **state) {
    (void)state;
    sim s = start(2, 8);
    s.waiting[0] = s.waiting[1] = 1000;
    fill(&s);
    uint32_t dead = s.c[1].held;
    s.c[1] = (ty_credit){.held = dead}; /* its tasks run on */
    s.credits[1] = 0;
    balance(&s);
    fill(&s);
    assert_int_equal(s.c[0].held, 8 - dead);
    s.c[1].held = 0; /* dropped */
    balance(&s);
    fill(&s);
    assert_int_equal(s.c[0].held, 8);
    /* And back: it can begin at once, and comes to its part. */
    s.waiting[1] = 1000;
    join(&s, 1);
    fill(&s);
    assert_true(s.c[1].held >= 1);
    for (int k = 0; k < 100; k++) {
        answer(&s, s.c[0].held > 0 && k % 2 ? 0 : (s.c[1].held > 0 ? 1 : 0));
        fill(&s);
    }
    assert_in_range(s.c[1].held, 3, 5);
}

static void more_brokers_than_places_starve_nobody(void **state) {
    (void)state;
    sim s = start(4, 2);
    uint32_t served[4] = {0};
    for (int i = 0; i < 4; i++) s.waiting[i] = 100;
    for (int k = 0; k < 400; k++) {
        fill(&s);
        int i = k % 4;
        while (s.c[i].held == 0) i = (i + 1) % 4;
        answer(&s, i);
        served[i]++;
    }
    for (int i = 0; i < 4; i++) assert_int_equal(served[i], 100);
}

static void no_order_of_events_loses_a_credit(void **state) {
    (void)state;
    for (unsigned seed = 1; seed <= 200; seed++) {
        srand(seed);
        int n = 1 + rand() % N_MAX;
        sim s = start(n, (uint32_t)(1 + rand() % 20));
        for (int k = 0; k < 300; k++) {
            int i = rand() % n;
            if (rand() % 3 == 0) s.waiting[i] += (uint32_t)(rand() % 5);
            if (rand() % 4) fill(&s);
            if (s.c[i].held > 0) answer(&s, i);
        }
        for (int i = 0; i < n; i++) s.waiting[i] = 0;
        for (int i = 0; i < n; i++)
            while (s.c[i].held > 0) answer(&s, i);
        for (int i = 0; i < n; i++) assert_true(s.credits[i] >= 1);
        /* One that is busy now gets everything but the others' reserves. */
        uint32_t live = (uint32_t)n, reserve = s.places / (2 * live) ? s.places / (2 * live) : 1;
        uint32_t all = s.places > live ? s.places : live;
        s.waiting[0] = 100;
        fill(&s);
        if (s.c[0].held < all - (live - 1) * reserve)
            fail_msg("seed %u: %u of %u places", seed, s.c[0].held, s.places);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(single_broker_has_all_places),
        cmocka_unit_test(idle_broker_lends_but_keeps_a_reserve),
        cmocka_unit_test(equal_loads_come_to_equal_parts),
        cmocka_unit_test(broker_that_dies_gives_its_places_to_the_other),
        cmocka_unit_test(more_brokers_than_places_starve_nobody),
        cmocka_unit_test(no_order_of_events_loses_a_credit),
    };
    return cmocka_run_group_tests_name("credit", tests, NULL, NULL);
}
