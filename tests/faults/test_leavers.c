/*
 * test_leavers.c - a thousand clients that go away, at every moment of a request's life; then 200 requests with
 * pictures at once.  Slots, KV pages, descriptors and memory of every process are what they were.
 */
#include "tests/support/fleet_rig.h"
#include "tests/support/http_client.h"
#include "tests/support/process.h"
#include "tests/support/ty_test.h"

#include "common/base/clock.h"
#include "common/base/file.h"

#include <dirent.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { CLIENTS = 200, WARM_UP = 60, BURST = 60 };
static const char llm[] = "2,128,4,352,2000", eye[] = "tiny", eye_layers[] = "1";
static const long rss_slack_kb = 1 << 20; /* a sanitizer's quarantine grows */
#else
enum { CLIENTS = 1000, WARM_UP = 200, BURST = 200 };
static const char llm[] = "2,128,4,352,2000", eye[] = "tiny", eye_layers[] = "2";
/* malloc keeps what it has freed, in arenas and by size: it settles within a few hundred clients, to so much. */
static const long rss_slack_kb = 4 << 10;
#endif
enum { THREADS = 25, SETTLE_S = 60, PROCESSES = 12, PAGES_TOLD_MS = 2600 };

/* How far a client goes before it leaves. */
typedef enum {
    CONNECTED,   /* says nothing */
    HALF_HEAD,   /* half of the request's head */
    HALF_BODY,   /* half of its body */
    JUST_SENT,   /* all of it */
    IN_VISION,   /* and some milliseconds later */
    IN_DECODER,  /* a text, so many milliseconds later */
    FIRST_TOKEN, /* of a stream */
    MANY_TOKENS,
    HALF_CLOSED, /* closes its sending side alone: taken as gone, too */
    ANSWERED,    /* stays to the end */
    PHASES
} phase;

static fleet_rig fleet;
static char *picture_request, *text_request, *short_request;

static int set_up(void **state) {
    (void)state;
    const char *dir = test_synth("slow", llm, eye, eye_layers);
    /* So little memory for keys and values that the warm-up touches all of it. */
    assert_int_equal(setenv("TYTO_KV_MIB", "4", 1), 0);
    fleet_rig_start(&fleet,
                    &(fleet_rig_options){
                        .pipeline = dir, .brokers = 2, .gateways = 1, .workers = {1, 1, 1, 1}});
    const char *picture = test_path("%s/images/photo_47.jpg", test_golden_dir());
    const char *stream = "\"max_tokens\": 400, \"ignore_eos\": true, \"stream\": true";
    picture_request = test_request("slow", "What is in this picture?", picture, stream);
    text_request = test_request("slow", "Tell me a story.", NULL, stream);
    short_request = test_request("slow", "How many?", picture, "\"max_tokens\": 4");
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    fleet_rig_stop(&fleet);
    free(picture_request);
    free(text_request);
    free(short_request);
    return 0;
}

/* ---- one client; no assertions here: these are other threads ---- */

static bool send_all(int fd, const char *bytes, size_t n) {
    for (ssize_t k; n > 0; bytes += k, n -= (size_t)k)
        if ((k = send(fd, bytes, n, MSG_NOSIGNAL)) <= 0) return false;
    return true;
}

/* Reads until so many bytes have come, or the end; how many came. */
static size_t read_until(int fd, size_t enough) {
    char bytes[8192];
    size_t n = 0;
    struct pollfd p = {.fd = fd, .events = POLLIN};
    while (n < enough && poll(&p, 1, SETTLE_S * 1000) > 0) {
        ssize_t k = recv(fd, bytes, sizeof(bytes), 0);
        if (k <= 0) break;
        n += (size_t)k;
    }
    return n;
}

static bool send_request(int fd, const char *body, double part_of_head, double part_of_body) {
    char head[256];
    int n = snprintf(head, sizeof(head),
                     "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
                     "Content-Type: application/json\r\nContent-Length: %zu\r\n\r\n",
                     strlen(body));
    return send_all(fd, head, (size_t)((double)n * part_of_head)) &&
           send_all(fd, body, (size_t)((double)strlen(body) * part_of_body));
}

/* False: the gateway did not do its part. */
static bool client(phase p, unsigned *seed) {
    int fd = test_tcp_open(fleet.api[0].port);
    if (fd < 0) return false;
    bool ok = true;
    switch (p) {
    case CONNECTED: break;
    case HALF_HEAD: ok = send_request(fd, picture_request, 0.5, 0); break;
    case HALF_BODY: ok = send_request(fd, picture_request, 1, 0.5); break;
    case JUST_SENT: ok = send_request(fd, picture_request, 1, 1); break;
    case IN_VISION:
        ok = send_request(fd, picture_request, 1, 1);
        test_nap_ms(rand_r(seed) % 60);
        break;
    case IN_DECODER:
        ok = send_request(fd, text_request, 1, 1);
        test_nap_ms(rand_r(seed) % 40);
        break;
    case FIRST_TOKEN: ok = send_request(fd, picture_request, 1, 1) && read_until(fd, 1) > 0; break;
    case MANY_TOKENS:
        /* Head, role and first token are fewer bytes: behind them a chunk holds many tokens. */
        ok = send_request(fd, text_request, 1, 1) && read_until(fd, 1200) >= 1200;
        break;
    case HALF_CLOSED:
        ok = send_request(fd, text_request, 1, 1) && shutdown(fd, SHUT_WR) == 0;
        (void)read_until(fd, SIZE_MAX); /* the gateway closes */
        break;
    case ANSWERED:
        ok = send_request(fd, short_request, 1, 1) && read_until(fd, SIZE_MAX) > 200;
        break;
    case PHASES: break;
    }
    close(fd);
    return ok;
}

typedef struct {
    atomic_int next, failed;
    int n;
} herd;

static void *run_clients(void *ctx) {
    herd *h = ctx;
    for (int i; (i = atomic_fetch_add(&h->next, 1)) < h->n;) {
        unsigned seed = (unsigned)i;
        if (!client((phase)(i % PHASES), &seed)) atomic_fetch_add(&h->failed, 1);
    }
    return NULL;
}

static void run_herd(int n) {
    herd h = {.n = n};
    pthread_t thread[THREADS];
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&thread[i], NULL, run_clients, &h), 0);
    for (int i = 0; i < THREADS; i++) assert_int_equal(pthread_join(thread[i], NULL), 0);
    if (h.failed > 0)
        fleet_rig_fail(&fleet, test_path("%d of %d clients were not served", h.failed, n));
}

/* ---- figures ---- */

typedef struct {
    char name[16];
    pid_t pid;
    long fds, rss_kb;
} figures;

static long count_fds(pid_t pid) {
    long n = 0;
    DIR *d = opendir(test_path("/proc/%d/fd", (int)pid));
    assert_non_null(d);
    while (readdir(d)) n++;
    closedir(d);
    return n - 2;
}

static long rss_kb(pid_t pid) {
    char line[256];
    long kb = -1;
    FILE *f = fopen(test_path("/proc/%d/status", (int)pid), "r");
    assert_non_null(f);
    while (fgets(line, sizeof(line), f))
        if (sscanf(line, "VmRSS: %ld", &kb) == 1) break;
    fclose(f);
    return kb;
}

static void add(figures *to, int *n, const char *kind, int i, pid_t pid) {
    figures *f = &to[(*n)++];
    snprintf(f->name, sizeof(f->name), "%s.%d", kind, i);
    f->pid = pid;
    f->fds = count_fds(pid);
    f->rss_kb = rss_kb(pid);
}

static int measure(figures *to) {
    int n = 0;
    add(to, &n, "gateway", 0, fleet.gateway[0]);
    for (int i = 0; i < 2; i++) add(to, &n, "broker", i, fleet.broker[i]);
    for (int k = 0; k < FLEET_RIG_STAGES; k++)
        add(to, &n, fleet_rig_stage[k], 0, fleet.worker[k][0]);
    return n;
}

static const char *const slots[] = {"tyto_gateway_requests_in_flight", "tyto_stage_in_flight",
                                    "tyto_stage_queued"};

/* Connections that are being taken down close by and by: until their number has rested for a while. */
static void wait_fds(void) {
    enum { REST = 25 };
    long last = -1;
    for (int same = 0; same < REST; test_nap_ms(20)) {
        long now = count_fds(fleet.gateway[0]);
        same = now == last ? same + 1 : 0;
        last = now;
    }
}

/* Nothing is open any more, anywhere; how long it took. */
static double settle(void) {
    int64_t begun = ty_now_us();
    for (int i = 0; i < 3; i++) fleet_rig_wait_metric(&fleet, 0, slots[i], "", 0);
    fleet_rig_wait_metric(&fleet, 0, "tyto_stage_pages", "use=\"used\"", 0);
    wait_fds(); /* last: each look at a metric is a connection too */
    return (double)(ty_now_us() - begun) / 1e6;
}

static void compare(const figures *before, const figures *after, int n) {
    print_message("%-14s %10s %10s %12s %12s\n", "", "fds before", "after", "RSS before kB",
                  "after");
    for (int i = 0; i < n; i++)
        print_message("%-14s %10ld %10ld %12ld %12ld\n", after[i].name, before[i].fds, after[i].fds,
                      before[i].rss_kb, after[i].rss_kb);
    for (int i = 0; i < n; i++) {
        assert_int_equal(after[i].fds, before[i].fds);
        if (after[i].rss_kb > before[i].rss_kb + rss_slack_kb)
            fail_msg("%s grew by %ld kB", after[i].name, after[i].rss_kb - before[i].rss_kb);
    }
}

/* ---- the tests ---- */

static void thousand_leavers_leave_nothing_behind(void **state) {
    (void)state;
    figures before[PROCESSES], after[PROCESSES];
    run_herd(WARM_UP);
    settle();
    int n = measure(before);
    int64_t begun = ty_now_us();
    run_herd(CLIENTS);
    double took = (double)(ty_now_us() - begun) / 1e6;
    print_message("%d clients in %.1f s, all slots and KV pages free %.1f s later\n", CLIENTS, took,
                  settle());
    assert_int_equal(measure(after), n);
    compare(before, after, n);
    int cancelled = fleet_rig_log_count(&fleet, "broker.0", " cancelled ") +
                    fleet_rig_log_count(&fleet, "broker.1", " cancelled ");
    print_message("tasks that were cancelled in a queue or in flight: %d\n", cancelled);
    assert_true(cancelled > CLIENTS / 5); /* else they left too late to matter */
    /* The count of pages comes with the heartbeats: that of now, not one from before. */
    test_nap_ms(PAGES_TOLD_MS);
    fleet_rig_wait_metric(&fleet, 0, "tyto_stage_pages", "use=\"used\"", 0);
    assert_true(fleet_rig_metric(&fleet, 0, "tyto_stage_pages", "use=\"total\"") > 0);
}

static void burst_of_pictures_from_one_client_loses_none(void **state) {
    (void)state;
    test_question *q = calloc(BURST, sizeof(*q));
    int lost = 0;
    for (int i = 0; i < BURST; i++) q[i].body = short_request;
    int64_t begun = ty_now_us();
    test_ask_all(&fleet.api[0], q, BURST);
    for (int i = 0; i < BURST; i++) {
        if (q[i].status != 200 || q[i].finishes != 1 || strcmp(q[i].text, q[0].text) != 0) {
            if (lost++ == 0)
                print_error("request %d: status %d: %s\n", i, q[i].status,
                            q[i].raw ? q[i].raw : "");
        }
    }
    for (int i = 0; i < BURST; i++) test_question_clear(&q[i]);
    free(q);
    print_message("%d picture requests at once: %d lost, %.1f s\n", BURST, lost,
                  (double)(ty_now_us() - begun) / 1e6);
    if (lost > 0) fleet_rig_fail(&fleet, "requests were lost");
    settle();
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(burst_of_pictures_from_one_client_loses_none),
        cmocka_unit_test(thousand_leavers_leave_nothing_behind),
    };
    if (argc == 2) cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests_name("leavers", tests, set_up, tear_down);
}
