/* The broker and workers as real processes: itineraries, batches, faults.  The test is the gateway. */
#include "tests/support/ty_test.h"

#include "common/base/clock.h"
#include "common/wire/socket.h"
#include "tests/support/process.h"
#include "tests/support/wire_rig.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>

static void task_makes_its_way_over_two_hops(void **state) {
    (void)state;
    rig r;
    rig_start(&r, 2, NULL);
    rig_worker(&r, 0, "a", (test_toy){0});
    rig_worker(&r, 1, "b", (test_toy){0});
    rig_wait_ready(&r, true);
    rig_submit(&r, "req", 3, 40);
    ty_message *m = rig_expect(&r, TYTO__ENVELOPE__BODY_RESULT);
    const Tyto__Envelope *e = m->env;
    assert_string_equal(e->request_id, "req");
    assert_int_equal(e->part, 3);
    assert_int_equal(e->generation, 1);
    assert_int_equal(e->hop, 1);
    assert_int_equal(e->n_tensors, 1);
    assert_string_equal(e->tensors[0]->name, "t_c");
    assert_true(rig_value(m) == 42.0F);
    assert_int_equal(e->n_timings, 2);
    const char *const who[] = {"a.0", "b.1"};
    for (int i = 0; i < 2; i++) {
        const Tyto__Timing *t = e->timings[i];
        assert_string_equal(t->worker, who[i]);
        assert_int_equal(t->attempt, 1);
        assert_int_equal(t->batch, 1);
        assert_int_equal(t->bytes_in, 16);
        assert_int_equal(t->bytes_out, 16);
        assert_true(t->wire_us > 0 && t->wire_us < 10000000);
        assert_true(t->return_us > 0 && t->return_us < 10000000);
        assert_true(t->flops > 0);
    }
    ty_message_destroy(&m);
    rig_stop(&r);
}

static void worker_batches_what_waits(void **state) {
    (void)state;
    rig r;
    bool seen[9] = {false};
    uint32_t most = 0;
    rig_start(&r, 1, NULL);
    rig_worker(&r, 0, "a", (test_toy){.batch_limit = 8, .credits = 8, .delay_ms = 200});
    rig_wait_ready(&r, true);
    for (int i = 0; i < 9; i++) rig_submit(&r, "req", i, (float)i);
    for (int i = 0; i < 9; i++) {
        ty_message *m = rig_expect(&r, TYTO__ENVELOPE__BODY_RESULT);
        assert_false(seen[m->env->part]);
        seen[m->env->part] = true;
        assert_true(rig_value(m) == (float)m->env->part + 1);
        if (m->env->timings[0]->batch > most) most = m->env->timings[0]->batch;
        assert_true(m->env->timings[0]->compute_us >= 200000);
        ty_message_destroy(&m);
    }
    /* The first may go alone, the others wait for it and go together. */
    assert_true(most >= 4 && most <= 8);
    rig_stop(&r);
}

static void broker_gives_no_more_than_the_credits(void **state) {
    (void)state;
    rig r;
    rig_start(&r, 1, NULL);
    rig_worker(&r, 0, "a", (test_toy){.batch_limit = 1, .credits = 3, .delay_ms = 300});
    rig_wait_ready(&r, true);
    for (int i = 0; i < 6; i++) rig_submit(&r, "req", i, 1);
    rig_wait_in_flight(&r, 0, 3);
    assert_int_equal(r.queued[0], 3);
    for (int i = 0; i < 6; i++) {
        ty_message *m = rig_expect(&r, TYTO__ENVELOPE__BODY_RESULT);
        assert_int_equal(m->env->part, i); /* in order */
        if (i >= 3) assert_true(m->env->timings[0]->broker_queue_us > 100000);
        ty_message_destroy(&m);
    }
    rig_stop(&r);
}

static void lower_priority_number_goes_first(void **state) {
    (void)state;
    rig r;
    rig_start(&r, 1, NULL);
    rig_worker(&r, 0, "a", (test_toy){.batch_limit = 1, .credits = 1, .delay_ms = 200});
    rig_wait_ready(&r, true);
    const uint32_t priority[] = {0, 5, 5, 1}, order[] = {0, 3, 1, 2};
    for (int i = 0; i < 4; i++) {
        ty_message *m = rig_task(&r, "req", i, 1);
        m->env->priority = priority[i];
        rig_send(&r, m);
        if (i == 0) rig_wait_in_flight(&r, 0, 1);
    }
    for (int i = 0; i < 4; i++) {
        ty_message *m = rig_expect(&r, TYTO__ENVELOPE__BODY_RESULT);
        assert_int_equal(m->env->part, order[i]);
        ty_message_destroy(&m);
    }
    rig_stop(&r);
}

/* n results, each part once; the highest attempt among them. */
static uint32_t collect_all(rig *r, int n) {
    bool seen[64] = {false};
    uint32_t attempt = 0;
    for (int i = 0; i < n; i++) {
        ty_message *m = rig_expect(r, TYTO__ENVELOPE__BODY_RESULT);
        uint32_t part = m->env->part;
        assert_true(part < 64 && !seen[part]);
        seen[part] = true;
        assert_true(rig_value(m) == (float)part + (float)r->pipeline_hops);
        for (size_t k = 0; k < m->env->n_timings; k++)
            if (m->env->timings[k]->attempt > attempt) attempt = m->env->timings[k]->attempt;
        ty_message_destroy(&m);
    }
    assert_null(rig_wait(r, 300)); /* and none twice */
    return attempt;
}

static void killed_worker_loses_nothing(void **state) {
    (void)state;
    rig r;
    rig_start(&r, 2, NULL);
    rig_worker(&r, 0, "a", (test_toy){.delay_ms = 50});
    rig_worker(&r, 1, "a", (test_toy){.delay_ms = 50});
    rig_worker(&r, 2, "b", (test_toy){.delay_ms = 10});
    rig_wait_ready(&r, true);
    rig_wait_workers(&r, 0, 2);
    for (int i = 0; i < 50; i++) rig_submit(&r, "req", i, (float)i);
    rig_wait_in_flight(&r, 0, 16);
    rig_worker_kill(&r, 0, SIGKILL);
    assert_true(collect_all(&r, 50) >= 2);
    assert_true(r.n_redispatched >= 1);
    assert_true(rig_log_has(&r, "broker", "worker=a.0 lost"));
    rig_stop(&r);
}

static void restarted_worker_gets_its_old_tasks_at_once(void **state) {
    (void)state;
    rig r;
    /* So slow a heartbeat that only the new hello can tell of the death. */
    rig_start(&r, 1, (const char *[]){"--heartbeat-ms", "20000", NULL});
    rig_worker(&r, 0, "a", (test_toy){.delay_ms = 1500, .batch_limit = 8});
    rig_wait_ready(&r, true);
    for (int i = 0; i < 4; i++) rig_submit(&r, "req", i, (float)i);
    rig_wait_in_flight(&r, 0, 4);
    rig_worker_kill(&r, 0, SIGKILL);
    rig_worker(&r, 0, "a", (test_toy){.batch_limit = 8});
    assert_int_equal(collect_all(&r, 4), 2);
    rig_stop(&r);
}

static void stopped_worker_is_dead_and_its_late_results_are_dropped(void **state) {
    (void)state;
    rig r;
    rig_start(&r, 1, NULL);
    rig_worker(&r, 0, "a", (test_toy){.delay_ms = 300, .credits = 4});
    rig_wait_ready(&r, true);
    for (int i = 0; i < 4; i++) rig_submit(&r, "req", i, (float)i);
    rig_wait_in_flight(&r, 0, 4);
    kill(r.worker[0], SIGSTOP);
    rig_worker(&r, 1, "a", (test_toy){0});
    assert_int_equal(collect_all(&r, 4), 2);
    kill(r.worker[0], SIGCONT);
    /* It sends what it had, is told to say hello, and works again. */
    rig_wait_workers(&r, 0, 2);
    assert_null(rig_wait(&r, 700));
    rig_worker_kill(&r, 1, SIGTERM);
    rig_wait_workers(&r, 0, 1);
    rig_submit(&r, "again", 0, 0);
    assert_int_equal(collect_all(&r, 1), 1);
    rig_stop(&r);
}

static void task_that_kills_workers_fails_at_last(void **state) {
    (void)state;
    rig r;
    rig_start(&r, 1, NULL);
    for (int i = 0; i < 4; i++) rig_worker(&r, i, "a", (test_toy){.batch_limit = 1});
    rig_wait_workers(&r, 0, 4);
    rig_submit(&r, "poison", 0, 666);
    rig_expect_error(&r, TY_EINTERNAL, "3 workers died");
    rig_wait_workers(&r, 0, 1);
    for (int i = 0; i < 4; i++)
        if (test_stop(r.worker[i], 0, 0) == -SIGKILL) r.worker[i] = 0;
    rig_stop(&r);
}

static void failed_job_is_a_typed_error_of_its_stage(void **state) {
    (void)state;
    rig r;
    rig_start(&r, 2, NULL);
    rig_worker(&r, 0, "a", (test_toy){0});
    rig_worker(&r, 1, "b", (test_toy){0});
    rig_wait_ready(&r, true);
    rig_submit(&r, "bad", 0, 499); /* 500 for b */
    ty_message *m = rig_expect(&r, TYTO__ENVELOPE__BODY_ERROR);
    assert_string_equal(m->env->error->status, "EIMAGE");
    assert_string_equal(m->env->error->stage, "b");
    assert_string_equal(m->env->request_id, "bad");
    ty_message_destroy(&m);
    rig_submit(&r, "silent", 0, 404);
    rig_expect_error(&r, TY_EINTERNAL, "no answer");
    rig_submit(&r, "good", 0, 0);
    collect_all(&r, 1);
    rig_stop(&r);
}

static void passed_deadline_is_an_error_wherever_the_task_is(void **state) {
    (void)state;
    rig r;
    rig_start(&r, 1, NULL);
    rig_worker(&r, 0, "a", (test_toy){.delay_ms = 1000, .batch_limit = 1, .credits = 2});
    rig_wait_ready(&r, true);
    for (int i = 0; i < 4; i++) { /* one computes, one waits at the worker, one here, one is late */
        ty_message *m = rig_task(&r, "req", i, (float)i);
        m->env->deadline_unix_us = i == 0 ? 0 : ty_now_unix_us() + (i == 3 ? -1000 : 300000);
        rig_send(&r, m);
    }
    rig_expect_error(&r, TY_ETIMEOUT, "before the task came");
    rig_expect_error(&r, TY_ETIMEOUT, "the deadline passed");
    rig_expect_error(&r, TY_ETIMEOUT, "the deadline passed");
    collect_all(&r, 1);
    rig_stop(&r);
}

static void cancelled_task_gives_no_answer(void **state) {
    (void)state;
    rig r;
    rig_start(&r, 1, NULL);
    rig_worker(&r, 0, "a", (test_toy){.delay_ms = 400, .batch_limit = 1, .credits = 2});
    rig_wait_ready(&r, true);
    for (int i = 0; i < 4; i++) rig_submit(&r, "req", i, (float)i);
    rig_wait_in_flight(&r, 0, 2);
    rig_cancel(&r, "req", 1); /* waits at the worker */
    rig_cancel(&r, "req", 3); /* waits here */
    rig_cancel(&r, "nobody", 0);
    ty_message *m = rig_expect(&r, TYTO__ENVELOPE__BODY_RESULT);
    assert_int_equal(m->env->part, 0);
    ty_message_destroy(&m);
    m = rig_expect(&r, TYTO__ENVELOPE__BODY_RESULT);
    assert_int_equal(m->env->part, 2);
    ty_message_destroy(&m);
    assert_null(rig_wait(&r, 600));
    /* No credit was lost on the way. */
    for (int i = 0; i < 2; i++) rig_submit(&r, "more", i, (float)i);
    rig_wait_in_flight(&r, 0, 2);
    collect_all(&r, 2);
    rig_stop(&r);
}

static void stream_comes_in_chunks_and_can_be_cancelled(void **state) {
    (void)state;
    rig r;
    rig_start(&r, 1, NULL);
    rig_worker(&r, 0, "a", (test_toy){.delay_ms = 20, .tokens = 5});
    rig_wait_ready(&r, true);
    rig_submit(&r, "req", 1, 0);
    for (uint32_t i = 0; i < 5; i++) {
        ty_message *m = rig_expect(&r, TYTO__ENVELOPE__BODY_CHUNK);
        assert_int_equal(m->env->chunk->first, i);
        assert_string_equal(m->env->request_id, "req");
        assert_int_equal(m->env->part, 1);
        ty_message_destroy(&m);
    }
    ty_message *m = rig_expect(&r, TYTO__ENVELOPE__BODY_RESULT);
    assert_int_equal(m->env->result->decode->completion_tokens, 5);
    assert_int_equal(m->env->timings[0]->prefill_us, 20);
    assert_int_equal(m->env->timings[0]->compute_us, 320);
    ty_message_destroy(&m);
    rig_worker_kill(&r, 0, SIGTERM);
    rig_worker(&r, 1, "a", (test_toy){.delay_ms = 20, .tokens = 100000, .credits = 1});
    rig_wait_workers(&r, 0, 1);
    rig_submit(&r, "long", 0, 0);
    m = rig_expect(&r, TYTO__ENVELOPE__BODY_CHUNK);
    ty_message_destroy(&m);
    rig_cancel(&r, "long", 0);
    /* The only credit comes back: the next one begins, and ends by its deadline. */
    m = rig_task(&r, "short", 0, 0);
    m->env->deadline_unix_us = ty_now_unix_us() + 1000000;
    rig_send(&r, m);
    bool began = false;
    while ((m = rig_wait(&r, 5000)) && m->env->body_case == TYTO__ENVELOPE__BODY_CHUNK) {
        if (strcmp(m->env->request_id, "short") == 0) began = true;
        ty_message_destroy(&m);
    }
    assert_true(began);
    assert_non_null(m);
    assert_string_equal(m->env->error->status, "ETIMEOUT");
    ty_message_destroy(&m);
    rig_stop(&r);
}

/* Workers die one after the other, more of them than a task without progress may cost; each goes on behind what
 * was forwarded. */
static void stream_goes_on_where_it_was_when_its_workers_die(void **state) {
    (void)state;
    enum { TOKENS = 12, WORKERS = 5 };
    rig r;
    uint32_t next = 0;
    rig_start(&r, 1, NULL);
    rig_worker(&r, 0, "a", (test_toy){.delay_ms = 30, .tokens = TOKENS});
    rig_wait_ready(&r, true);
    ty_message *m = rig_task(&r, "req", 0, 0);
    m->env->task->decode = ty_pb_new(&tyto__decode_task__descriptor);
    rig_send(&r, m);
    for (int w = 0; w < WORKERS; w++) {
        while ((m = rig_wait(&r, 10000)) && m->env->body_case == TYTO__ENVELOPE__BODY_CHUNK) {
            assert_int_equal(m->env->chunk->first, next);
            assert_int_equal(m->env->chunk->tokens[0]->id, next);
            next++;
            bool new_one = m->env->attempt == (uint32_t)w + 1;
            ty_message_destroy(&m);
            if (new_one && w + 1 < WORKERS) break;
        }
        if (w + 1 == WORKERS) break;
        rig_worker(&r, w + 1, "a", (test_toy){.delay_ms = 30, .tokens = TOKENS});
        rig_worker_kill(&r, w, SIGKILL);
    }
    assert_non_null(m);
    assert_int_equal(m->env->body_case, TYTO__ENVELOPE__BODY_RESULT);
    assert_int_equal(m->env->timings[0]->attempt, WORKERS);
    assert_int_equal(next, TOKENS);
    ty_message_destroy(&m);
    rig_stop(&r);
}

/* Counts an answer; only the poison may fail. */
static void count_answer(ty_message *m, int *results, int *failed) {
    if (!m) return;
    if (m->env->body_case == TYTO__ENVELOPE__BODY_RESULT) ++*results;
    if (m->env->body_case == TYTO__ENVELOPE__BODY_ERROR) {
        assert_string_equal(m->env->request_id, "poison");
        assert_string_equal(m->env->error->status, "EINTERNAL");
        ++*failed;
    }
    ty_message_destroy(&m);
}

/* That the others wait must have reached the broker when the worker dies, a step after it has been said. */
#ifdef __SANITIZE_THREAD__
enum { STEP_MS = 500 };
#else
enum { STEP_MS = 60 };
#endif

/* The others wait behind the one that kills: it alone is blamed. */
static void a_stream_that_kills_is_blamed_alone(void **state) {
    (void)state;
    enum { DEATHS = 3, INNOCENT = TOY_POISON_CROWD };
    const test_toy one_at_a_time = {.delay_ms = STEP_MS, .tokens = 2, .at_once = 1};
    rig r;
    int results = 0, failed = 0;
    rig_start(&r, 1, NULL);
    rig_worker(&r, 0, "a", one_at_a_time);
    rig_wait_workers(&r, 0, 1);
    rig_submit(&r, "poison", 0, 666);
    for (int i = 0; i < INNOCENT; i++) rig_submit(&r, "req", i, 0);
    for (int w = 0; w < DEATHS; w++) {
        while (waitpid(r.worker[w], NULL, WNOHANG) == 0)
            count_answer(rig_wait(&r, 20), &results, &failed);
        r.worker[w] = 0;
        rig_worker(&r, w + 1, "a", one_at_a_time);
    }
    while (results < INNOCENT || failed == 0) {
        ty_message *m = rig_wait(&r, 10000);
        assert_non_null(m);
        count_answer(m, &results, &failed);
    }
    rig_stop(&r);
}

/* A decode task of the toy stream, with the names of its prompt's beginnings, longest first. */
static void submit_named(rig *r, int part, const uint64_t *key, size_t n) {
    ty_message *m = rig_task(r, "named", part, 0);
    Tyto__DecodeTask *d = ty_pb_new(&tyto__decode_task__descriptor);
    d->prefix_keys = malloc(n * sizeof(*key));
    memcpy(d->prefix_keys, key, n * sizeof(*key));
    d->n_prefix_keys = n;
    m->env->task->decode = d;
    rig_send(r, m);
}

/* The worker that gave the next result. */
static void expect_result_of(rig *r, char *name, size_t size) {
    ty_message *m;
    while ((m = rig_wait(r, 10000)) && m->env->body_case == TYTO__ENVELOPE__BODY_CHUNK)
        ty_message_destroy(&m);
    assert_non_null(m);
    assert_int_equal(m->env->body_case, TYTO__ENVELOPE__BODY_RESULT);
    snprintf(name, size, "%s", m->env->timings[0]->worker);
    ty_message_destroy(&m);
}

static void a_task_goes_where_its_beginning_was(void **state) {
    (void)state;
    enum { CONVERSATIONS = 6 };
    rig r;
    char had[CONVERSATIONS][32], now[32];
    int on_first = 0;
    rig_start(&r, 1, NULL);
    for (int i = 0; i < 2; i++)
        rig_worker(&r, i, "a", (test_toy){.delay_ms = 2, .tokens = 2, .credits = 8});
    rig_wait_workers(&r, 0, 2);
    /* All at once, so that both get some; then a turn more of each, in another order. */
    for (uint64_t c = 0; c < CONVERSATIONS; c++) submit_named(&r, (int)c, (uint64_t[]){c + 100}, 1);
    for (int i = 0; i < CONVERSATIONS; i++) {
        ty_message *m;
        while ((m = rig_wait(&r, 10000)) && m->env->body_case == TYTO__ENVELOPE__BODY_CHUNK)
            ty_message_destroy(&m);
        assert_non_null(m);
        snprintf(had[m->env->part], sizeof(had[0]), "%s", m->env->timings[0]->worker);
        ty_message_destroy(&m);
    }
    for (int turn = 1; turn < 4; turn++)
        for (int c = CONVERSATIONS - 1; c >= 0; c--) {
            uint64_t base = (uint64_t)(turn * 1000 + c + 100);
            submit_named(&r, c, (uint64_t[]){base, base - 1000}, 2);
            expect_result_of(&r, now, sizeof(now));
            assert_string_equal(now, had[c]);
            on_first += strcmp(now, "a.0") == 0;
        }
    assert_in_range(on_first, 3, 3 * CONVERSATIONS - 3);
    rig_stop(&r);
}

static void a_busy_worker_is_preferred_no_more(void **state) {
    (void)state;
    enum { TASKS = 16 };
    rig r;
    char name[32];
    int n[2] = {0};
    rig_start(&r, 1, NULL);
    for (int i = 0; i < 2; i++)
        rig_worker(&r, i, "a", (test_toy){.delay_ms = 20, .tokens = 5, .credits = 16});
    rig_wait_workers(&r, 0, 2);
    for (int i = 0; i < TASKS; i++) submit_named(&r, i, (uint64_t[]){7}, 1);
    for (int i = 0; i < TASKS; i++) {
        expect_result_of(&r, name, sizeof(name));
        n[strcmp(name, "a.1") == 0]++;
    }
    assert_true(n[0] >= 5 && n[1] >= 5);
    rig_worker_kill(&r, 0, SIGKILL); /* and one that is gone not at all */
    submit_named(&r, 99, (uint64_t[]){7}, 1);
    expect_result_of(&r, name, sizeof(name));
    assert_string_equal(name, "a.1");
    rig_stop(&r);
}

static void newer_generation_takes_the_place_of_the_older(void **state) {
    (void)state;
    rig r;
    rig_start(&r, 1, NULL);
    rig_worker(&r, 0, "a", (test_toy){.delay_ms = 300, .batch_limit = 1, .credits = 1});
    rig_wait_ready(&r, true);
    rig_submit(&r, "first", 0, 0);
    rig_wait_in_flight(&r, 0, 1);
    rig_submit(&r, "req", 0, 10); /* waits */
    ty_message *m = rig_task(&r, "req", 0, 20);
    m->env->generation = 2;
    m->env->attempt = 2;
    rig_send(&r, m);
    rig_submit(&r, "req", 0, 30); /* generation 1 again: too late */
    m = rig_expect(&r, TYTO__ENVELOPE__BODY_RESULT);
    assert_string_equal(m->env->request_id, "first");
    ty_message_destroy(&m);
    m = rig_expect(&r, TYTO__ENVELOPE__BODY_RESULT);
    assert_int_equal(m->env->generation, 2);
    assert_int_equal(m->env->timings[0]->attempt, 2);
    assert_true(rig_value(m) == 21.0F);
    ty_message_destroy(&m);
    assert_null(rig_wait(&r, 600));
    rig_stop(&r);
}

static void stage_without_worker_is_unavailable_after_a_grace(void **state) {
    (void)state;
    rig r;
    rig_start(&r, 2, (const char *[]){"--grace-ms", "300", NULL});
    rig_worker(&r, 0, "a", (test_toy){0});
    rig_wait_workers(&r, 0, 1);
    assert_false(r.ready);
    assert_non_null(strstr(r.reason, "no worker serves b (model model-b)"));
    rig_submit(&r, "req", 0, 0);
    rig_expect_error(&r, TY_EUNAVAILABLE, "no worker serves b");
    rig_stop(&r);
}

static ty_message *task_with(const rig *r, int part, const char *adapter) {
    ty_message *m = rig_task(r, "req", part, 1);
    assert_int_equal(ty_pb_set_str(&m->env->itinerary[0]->adapter, adapter), TY_OK);
    return m;
}

static void task_goes_to_a_worker_that_has_its_adapter(void **state) {
    (void)state;
    rig r;
    const test_toy with = {.adapter = "X", .batch_limit = 1, .credits = 1, .delay_ms = 300};
    rig_start(&r, 1, (const char *[]){"--lost-grace-ms", "300", NULL});
    rig_worker(&r, 0, "a", (test_toy){.batch_limit = 1, .credits = 1});
    rig_worker(&r, 1, "a", with);
    rig_wait_workers(&r, 0, 2);
    /* The second waits for the one that has X, although the other is free; the third does not wait behind it. */
    rig_send(&r, task_with(&r, 0, "X"));
    rig_send(&r, task_with(&r, 1, "X"));
    rig_send(&r, task_with(&r, 2, ""));
    for (int i = 0; i < 3; i++) {
        static const int order[] = {2, 0, 1};
        ty_message *m = rig_expect(&r, TYTO__ENVELOPE__BODY_RESULT);
        assert_int_equal(m->env->part, order[i]);
        assert_string_equal(m->env->timings[0]->worker, order[i] == 2 ? "a.0" : "a.1");
        ty_message_destroy(&m);
    }
    /* Its worker is killed: the task waits for the next one that has it. */
    rig_send(&r, task_with(&r, 3, "X"));
    rig_wait_in_flight(&r, 0, 1);
    rig_worker_kill(&r, 1, SIGKILL);
    rig_worker(&r, 1, "a", with);
    ty_message *m = rig_expect(&r, TYTO__ENVELOPE__BODY_RESULT);
    assert_string_equal(m->env->timings[0]->worker, "a.1");
    assert_int_equal(m->env->timings[0]->attempt, 2);
    ty_message_destroy(&m);
    rig_send(&r, task_with(&r, 4, "Y"));
    rig_expect_error(&r, TY_EUNAVAILABLE, "no worker serves a (model model-a, adapter Y)");
    rig_stop(&r);
}

static void full_queue_is_overload(void **state) {
    (void)state;
    rig r;
    rig_start(&r, 1, (const char *[]){"--queue-limit", "2", NULL});
    rig_worker(&r, 0, "a", (test_toy){.delay_ms = 400, .batch_limit = 1, .credits = 1});
    rig_wait_ready(&r, true);
    rig_submit(&r, "req", 0, 0);
    rig_wait_in_flight(&r, 0, 1);
    for (int i = 1; i < 4; i++) rig_submit(&r, "req", i, (float)i);
    rig_expect_error(&r, TY_EOVERLOAD, "2 tasks wait for a already");
    collect_all(&r, 3);
    rig_stop(&r);
}

static void contract_that_does_not_fit_names_both_numbers(void **state) {
    (void)state;
    rig r;
    rig_start(&r, 2, NULL);
    rig_worker(&r, 0, "a", (test_toy){.gives_cols = 1024});
    rig_worker(&r, 1, "b", (test_toy){.takes_cols = 1408});
    rig_wait_workers(&r, 0, 1);
    rig_wait_workers(&r, 1, 1);
    assert_false(r.ready);
    if (!strstr(r.reason, "a gives t_b f32 [any,1024], b takes t_b f32 [any,1408]: "
                          "dimension 1 is 1024 against 1408"))
        fail_msg("reason: %s", r.reason);
    rig_submit(&r, "req", 0, 0);
    rig_expect_error(&r, TY_ECONTRACT, "1024 against 1408");
    rig_stop(&r);
}

static void tensor_that_the_stage_does_not_take_is_a_shape_error(void **state) {
    (void)state;
    rig r;
    rig_start(&r, 1, NULL);
    rig_worker(&r, 0, "a", (test_toy){.takes_cols = 7});
    rig_wait_ready(&r, true);
    rig_submit(&r, "req", 0, 0);
    rig_expect_error(&r, TY_ESHAPE, "dimension 1 is 4 against 7");
    rig_stop(&r);
}

static void workers_of_one_model_must_say_the_same(void **state) {
    (void)state;
    rig r;
    rig_start(&r, 1, NULL);
    rig_worker(&r, 0, "a", (test_toy){0});
    rig_wait_workers(&r, 0, 1);
    rig_worker(&r, 1, "a", (test_toy){.takes_cols = 5});
    assert_int_equal(test_stop(r.worker[1], 0, RIG_WAIT_S), 100 + TY_ECONTRACT);
    r.worker[1] = 0;
    assert_true(rig_log_has(&r, "a.1", "dimension 1 is 4 against 5"));
    rig_stop(&r);
}

static void newer_worker_of_a_name_drives_the_older_out(void **state) {
    (void)state;
    rig r;
    rig_start(&r, 1, NULL);
    rig_worker(&r, 0, "a", (test_toy){0});
    rig_wait_workers(&r, 0, 1);
    rig_worker(&r, 1, "a", (test_toy){.worker = "a.0"});
    assert_int_equal(test_stop(r.worker[0], 0, RIG_WAIT_S), 100 + TY_EEXIST);
    r.worker[0] = 0;
    rig_submit(&r, "req", 0, 0);
    collect_all(&r, 1);
    rig_stop(&r);
}

static void worker_drains_on_sigterm(void **state) {
    (void)state;
    rig r;
    rig_start(&r, 1, NULL);
    rig_worker(&r, 0, "a", (test_toy){.delay_ms = 1000, .batch_limit = 2, .credits = 4});
    rig_wait_ready(&r, true);
    for (int i = 0; i < 6; i++) rig_submit(&r, "req", i, (float)i);
    rig_wait_in_flight(&r, 0, 4);
    for (int i = 0; i < 500 && !rig_log_has(&r, "a.0", "computing"); i++) usleep(10000);
    kill(r.worker[0], SIGTERM);
    /* What it computed is finished by itself; what waited, there and here, goes to the next. */
    rig_worker(&r, 1, "a", (test_toy){0});
    assert_int_equal(collect_all(&r, 6), 2);
    assert_int_equal(test_stop(r.worker[0], 0, RIG_WAIT_S), 0);
    r.worker[0] = 0;
    assert_in_range(r.n_redispatched, 1, 4); /* by how far it had come */
    assert_true(rig_log_has(&r, "a.0", "tasks handed back"));
    rig_stop(&r);
}

static void worker_that_drains_for_too_long_leaves_its_task_to_others(void **state) {
    (void)state;
    rig r;
    rig_start(&r, 1, NULL);
    rig_worker(&r, 0, "a", (test_toy){.delay_ms = 50, .tokens = 100000, .drain_ms = 300});
    rig_wait_ready(&r, true);
    rig_submit(&r, "long", 0, 0);
    ty_message *m = rig_expect(&r, TYTO__ENVELOPE__BODY_CHUNK);
    ty_message_destroy(&m);
    rig_worker(&r, 1, "a", (test_toy){.delay_ms = 5, .tokens = 10});
    kill(r.worker[0], SIGTERM);
    while ((m = rig_wait(&r, 10000)) && m->env->body_case == TYTO__ENVELOPE__BODY_CHUNK)
        ty_message_destroy(&m);
    assert_non_null(m);
    assert_int_equal(m->env->body_case, TYTO__ENVELOPE__BODY_RESULT);
    assert_string_equal(m->env->timings[0]->worker, "a.1");
    ty_message_destroy(&m);
    assert_int_equal(test_stop(r.worker[0], 0, RIG_WAIT_S), 0);
    r.worker[0] = 0;
    assert_true(rig_log_has(&r, "a.0", "the time to drain is over"));
    rig_stop(&r);
}

static void broker_drains_on_sigterm(void **state) {
    (void)state;
    rig r;
    rig_start(&r, 1, NULL);
    rig_worker(&r, 0, "a", (test_toy){.delay_ms = 900, .batch_limit = 8, .credits = 4});
    rig_wait_ready(&r, true);
    for (int i = 0; i < 7; i++) rig_submit(&r, "req", i, (float)i);
    rig_wait_in_flight(&r, 0, 4);
    kill(r.broker, SIGTERM);
    ty_message *m;
    int results = 0, refused = 0, handed_back = 0;
    bool late = false;
    while (r.goodbyes == 0) {
        m = rig_wait(&r, 20);
        if (r.draining && !late) {
            rig_submit(&r, "late", 40, 0);
            late = true;
        }
        if (!m) continue;
        if (m->env->body_case == TYTO__ENVELOPE__BODY_RESULT)
            results++;
        else if (strcmp(m->env->error->status, "EUNAVAILABLE") == 0)
            *(m->env->part == 40 ? &refused : &handed_back) += 1;
        /* The news come before what is handed back. */
        assert_true(r.draining);
        ty_message_destroy(&m);
    }
    assert_int_equal(results, 4);
    assert_int_equal(handed_back, 3);
    assert_int_equal(refused, 1);
    assert_int_equal(r.goodbyes, 1);
    assert_int_equal(test_stop(r.broker, 0, RIG_WAIT_S), 0);
    r.broker = 0;
    rig_stop(&r);
}

static void new_broker_gets_everybody_back(void **state) {
    (void)state;
    rig r;
    rig_start(&r, 2, NULL);
    rig_worker(&r, 0, "a", (test_toy){.delay_ms = 500});
    rig_worker(&r, 1, "b", (test_toy){0});
    rig_wait_ready(&r, true);
    rig_submit(&r, "lost", 0, 0);
    rig_wait_in_flight(&r, 0, 1);
    test_stop(r.broker, SIGKILL, RIG_WAIT_S);
    r.ready = false;
    rig_broker_start(&r, NULL);
    rig_wait_ready(&r, true);
    /* The old task's result is nobody's; the gateway sends it again. */
    ty_message *m = rig_task(&r, "lost", 0, 0);
    m->env->generation = 2;
    m->env->attempt = 2;
    rig_send(&r, m);
    assert_int_equal(collect_all(&r, 1), 2);
    rig_stop(&r);
}

static void gateway_that_left_is_cancelled(void **state) {
    (void)state;
    rig r;
    rig_start(&r, 1, NULL);
    rig_worker(&r, 0, "a", (test_toy){.delay_ms = 20, .tokens = 100000, .credits = 1});
    rig_wait_ready(&r, true);
    rig_submit(&r, "long", 0, 0);
    ty_message *m = rig_expect(&r, TYTO__ENVELOPE__BODY_CHUNK);
    ty_message_destroy(&m);
    r.incarnation++; /* it restarted: what the old one wanted nobody wants */
    rig_reconnect(&r);
    rig_submit(&r, "next", 0, 0);
    m = rig_expect(&r, TYTO__ENVELOPE__BODY_CHUNK);
    assert_string_equal(m->env->request_id, "next");
    ty_message_destroy(&m);
    rig_cancel(&r, "next", 0);
    while ((m = rig_wait(&r, 200))) ty_message_destroy(&m);
    rig_stop(&r);
}

static test_output run_broker(const char *gateways, const char *workers) {
    const char *argv[] = {
        test_bin("tyto-broker"), "--gateways", gateways, "--workers", workers, NULL};
    return test_run((char *const *)(uintptr_t)argv, NULL, 0, RIG_WAIT_S);
}

/* One frame that is no envelope: a stranger who sends it hears EFORMAT. */
static void send_nonsense(const rig *r, const char *endpoint, const void *bytes, size_t n) {
    void *s = NULL;
    ty_err err = {0};
    ty_message *m = NULL;
    assert_int_equal(ty_socket_connect(r->zmq, ZMQ_DEALER, endpoint, NULL, &s, &err), TY_OK);
    assert_int_equal(zmq_send(s, bytes, n, 0), (int)n);
    zmq_pollitem_t item = {.socket = s, .events = ZMQ_POLLIN};
    assert_int_equal(zmq_poll(&item, 1, RIG_WAIT_S * 1000), 1);
    assert_int_equal(ty_message_recv(s, false, &m, &err), TY_OK);
    assert_int_equal(m->env->body_case, TYTO__ENVELOPE__BODY_ERROR);
    assert_string_equal(m->env->error->status, "EFORMAT");
    ty_message_destroy(&m);
    ty_socket_close(&s, 0);
}

/* Bytes that are not even ZeroMQ's. */
static void send_noise(const char *endpoint) {
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    snprintf(a.sun_path, sizeof(a.sun_path), "%s", endpoint + strlen("ipc://"));
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_true(fd >= 0 && connect(fd, (struct sockaddr *)&a, sizeof(a)) == 0);
    char noise[4096];
    memset(noise, 0xA5, sizeof(noise));
    assert_true(send(fd, noise, sizeof(noise), MSG_NOSIGNAL) > 0);
    close(fd);
}

static void wrong_frames_are_refused_and_disturb_nobody(void **state) {
    (void)state;
    static const char cut[] = {0x12, 0x7f, 'r', 'e',
                               'q'}; /* a string of 127 bytes that is not there */
    rig r;
    rig_start(&r, 1, NULL);
    rig_worker(&r, 0, "a", (test_toy){0});
    rig_wait_ready(&r, true);
    const char *const sides[] = {r.gateways, r.workers};
    for (int i = 0; i < 2; i++) {
        send_nonsense(&r, sides[i], "\xff\xff\xff\xff garbage", 12);
        send_nonsense(&r, sides[i], cut, sizeof(cut));
        send_noise(sides[i]);
    }
    rig_submit(&r, "req", 0, 0);
    assert_int_equal(collect_all(&r, 1), 1);
    rig_stop(&r);
}

static void sockets_are_private_and_not_taken_twice(void **state) {
    (void)state;
    rig r;
    struct stat sb;
    rig_start(&r, 1, NULL);
    rig_worker(&r, 0, "a", (test_toy){0});
    rig_wait_ready(&r, true);
    assert_int_equal(stat(r.workers + strlen("ipc://"), &sb), 0);
    assert_int_equal(sb.st_mode & 0777, 0600);
    test_output o = run_broker(r.gateways, r.workers);
    assert_int_equal(o.exit_code, 1);
    assert_non_null(strstr(o.err, "another process listens there"));
    test_output_clear(&o);
    o = run_broker("tcp://0.0.0.0:5555", r.workers);
    assert_int_equal(o.exit_code, 2);
    assert_non_null(strstr(o.err, "loopback"));
    test_output_clear(&o);
    rig_submit(&r, "req", 0, 0);
    collect_all(&r, 1);
    rig_stop(&r);
}

int main(int argc, char **argv) {
    if (test_toy_is_asked(argc, argv)) return test_toy_main(argc, argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(task_makes_its_way_over_two_hops),
        cmocka_unit_test(worker_batches_what_waits),
        cmocka_unit_test(broker_gives_no_more_than_the_credits),
        cmocka_unit_test(lower_priority_number_goes_first),
        cmocka_unit_test(killed_worker_loses_nothing),
        cmocka_unit_test(restarted_worker_gets_its_old_tasks_at_once),
        cmocka_unit_test(stopped_worker_is_dead_and_its_late_results_are_dropped),
        cmocka_unit_test(task_that_kills_workers_fails_at_last),
        cmocka_unit_test(failed_job_is_a_typed_error_of_its_stage),
        cmocka_unit_test(passed_deadline_is_an_error_wherever_the_task_is),
        cmocka_unit_test(cancelled_task_gives_no_answer),
        cmocka_unit_test(stream_comes_in_chunks_and_can_be_cancelled),
        cmocka_unit_test(stream_goes_on_where_it_was_when_its_workers_die),
        cmocka_unit_test(a_stream_that_kills_is_blamed_alone),
        cmocka_unit_test(a_task_goes_where_its_beginning_was),
        cmocka_unit_test(a_busy_worker_is_preferred_no_more),
        cmocka_unit_test(newer_generation_takes_the_place_of_the_older),
        cmocka_unit_test(stage_without_worker_is_unavailable_after_a_grace),
        cmocka_unit_test(task_goes_to_a_worker_that_has_its_adapter),
        cmocka_unit_test(full_queue_is_overload),
        cmocka_unit_test(contract_that_does_not_fit_names_both_numbers),
        cmocka_unit_test(tensor_that_the_stage_does_not_take_is_a_shape_error),
        cmocka_unit_test(workers_of_one_model_must_say_the_same),
        cmocka_unit_test(newer_worker_of_a_name_drives_the_older_out),
        cmocka_unit_test(worker_drains_on_sigterm),
        cmocka_unit_test(worker_that_drains_for_too_long_leaves_its_task_to_others),
        cmocka_unit_test(broker_drains_on_sigterm),
        cmocka_unit_test(new_broker_gets_everybody_back),
        cmocka_unit_test(gateway_that_left_is_cancelled),
        cmocka_unit_test(wrong_frames_are_refused_and_disturb_nobody),
        cmocka_unit_test(sockets_are_private_and_not_taken_twice),
    };
    if (argc == 2) cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests_name("broker", tests, NULL, NULL);
}
