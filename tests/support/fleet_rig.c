/* fleet_rig.c - see fleet_rig.h. */
#include "tests/support/ty_test.h"

#include "tests/support/fleet_rig.h"

#include "common/base/clock.h"
#include "common/base/file.h"
#include "tests/support/http_client.h"
#include "tests/support/process.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { ARGS_MAX = 40, LOG_MAX = 64 << 20, TAIL = 1500 };

const char *const fleet_rig_stage[FLEET_RIG_STAGES] = {"preprocess", "vit", "abstractor",
                                                       "decoder"};

/* ---- what is said when it fails ---- */

static void show_tail(const fleet_rig *f, const char *who, int i) {
    char *text = NULL;
    size_t n = 0;
    const char *path = test_path("%s/%s.%d.log", f->dir, who, i);
    if (ty_file_read(path, LOG_MAX, &text, &n, NULL) == TY_OK)
        print_error("---- %s.%d\n%s\n", who, i, text + (n > TAIL ? n - TAIL : 0));
    free(text);
}

void fleet_rig_fail(const fleet_rig *f, const char *why) {
    for (int i = 0; i < f->opt.brokers; i++) show_tail(f, "broker", i);
    for (int i = 0; i < f->opt.gateways; i++) show_tail(f, "gateway", i);
    for (int k = 0; k < FLEET_RIG_STAGES; k++)
        for (int i = 0; i < f->opt.workers[k]; i++) show_tail(f, fleet_rig_stage[k], i);
    fail_msg("%s", why);
}

int fleet_rig_log_count(const fleet_rig *f, const char *who, const char *text) {
    char *all = NULL;
    size_t size;
    int n = 0;
    if (ty_file_read(test_path("%s/%s.log", f->dir, who), LOG_MAX, &all, &size, NULL) != TY_OK)
        return 0;
    for (const char *p = all; (p = strstr(p, text)); p += strlen(text)) n++;
    free(all);
    return n;
}

/* ---- processes ---- */

static pid_t spawn(const fleet_rig *f, const char *const *fixed, const char *const *more,
                   const char *name) {
    const char *argv[ARGS_MAX];
    int n = 0;
    for (; *fixed; fixed++) argv[n++] = *fixed;
    for (; more && *more && n < ARGS_MAX - 1; more++) argv[n++] = *more;
    argv[n] = NULL;
    return test_spawn((char *const *)(uintptr_t)argv, test_path("%s/%s.log", f->dir, name));
}

/* All brokers' endpoints, commas between; one of two rotating buffers. */
static const char *join(const fleet_rig *f, char at[][160]) {
    static char text[2][FLEET_RIG_MAX * 170];
    static int next;
    char *out = text[next++ % 2];
    *out = '\0';
    for (int i = 0; i < f->opt.brokers; i++) {
        if (i > 0) strcat(out, ",");
        strcat(out, at[i]);
    }
    return out;
}

void fleet_rig_broker(fleet_rig *f, int i) {
    const char *argv[] = {test_bin("tyto-broker"), "--gateways", f->gateways_at[i], "--workers",
                          f->workers_at[i],        NULL};
    f->broker[i] = spawn(f, argv, f->opt.broker_options, test_path("broker.%d", i));
}

void fleet_rig_worker(fleet_rig *f, int stage, int i) {
    const char *kind = fleet_rig_stage[stage], *name = test_path("%s.%d", kind, i);
    const char *argv[] = {test_bin(test_path("tyto-%s", kind)),
                          "--model",
                          test_path("%s/%s.gguf", f->opt.pipeline, kind),
                          "--connect",
                          join(f, f->workers_at),
                          "--worker",
                          name,
                          NULL};
    f->worker[stage][i] = spawn(f, argv, f->opt.worker_options, name);
}

void fleet_rig_gateway(fleet_rig *f, int i) {
    const char *name = test_path("gateway.%d", i);
    const char *argv[] = {test_bin("tyto-gateway"),
                          "--pipeline",
                          f->opt.pipeline,
                          "--connect",
                          join(f, f->gateways_at),
                          "--name",
                          name,
                          "--listen",
                          test_path("127.0.0.1:%d", f->api[i].port),
                          NULL};
    f->gateway[i] = spawn(f, argv, f->opt.gateway_options, name);
}

int fleet_rig_end(pid_t *pid, int sig) {
    int rc = test_stop(*pid, sig, FLEET_RIG_WAIT_S);
    *pid = 0;
    return rc;
}

static void choose_endpoints(fleet_rig *f, int i) {
    if (f->opt.tcp) {
        snprintf(f->gateways_at[i], sizeof(f->gateways_at[i]), "tcp://127.0.0.1:%d",
                 test_free_port());
        snprintf(f->workers_at[i], sizeof(f->workers_at[i]), "tcp://127.0.0.1:%d",
                 test_free_port());
        return;
    }
    snprintf(f->gateways_at[i], sizeof(f->gateways_at[i]), "ipc://%.100s/g%d.sock", f->dir, i);
    snprintf(f->workers_at[i], sizeof(f->workers_at[i]), "ipc://%.100s/w%d.sock", f->dir, i);
}

void fleet_rig_start(fleet_rig *f, const fleet_rig_options *opt) {
    *f = (fleet_rig){.opt = *opt};
    snprintf(f->dir, sizeof(f->dir), "%s", test_temp_dir());
    for (int i = 0; i < opt->brokers; i++) {
        choose_endpoints(f, i);
        fleet_rig_broker(f, i);
    }
    for (int k = 0; k < FLEET_RIG_STAGES; k++)
        for (int i = 0; i < opt->workers[k]; i++) fleet_rig_worker(f, k, i);
    for (int i = 0; i < opt->gateways; i++) {
        f->api[i].port = test_free_port();
        snprintf(f->api[i].url, sizeof(f->api[i].url), "http://127.0.0.1:%d", f->api[i].port);
        fleet_rig_gateway(f, i);
    }
    fleet_rig_wait_ready(f, opt->brokers);
}

static void end_all(const fleet_rig *f, pid_t *pid, int n, const char *what) {
    for (int i = 0; i < n; i++)
        if (pid[i] > 0) kill(pid[i], SIGTERM);
    for (int i = 0; i < n; i++) {
        if (pid[i] <= 0) continue;
        int rc = fleet_rig_end(&pid[i], 0);
        if (rc != 0) fleet_rig_fail(f, test_path("%s.%d ended with %d", what, i, rc));
    }
}

void fleet_rig_stop(fleet_rig *f) {
    end_all(f, f->gateway, f->opt.gateways, "gateway");
    for (int k = 0; k < FLEET_RIG_STAGES; k++)
        end_all(f, f->worker[k], f->opt.workers[k], fleet_rig_stage[k]);
    end_all(f, f->broker, f->opt.brokers, "broker");
}

/* ---- what it says of itself ---- */

static bool is_listening(const fleet_rig *f, int i) {
    int fd = test_tcp_open(f->api[i].port);
    if (fd >= 0) close(fd);
    return fd >= 0;
}

double fleet_rig_metric(const fleet_rig *f, int i, const char *name, const char *with) {
    double sum = 0;
    test_reply r = TEST_GET(f->api[i].port, "/metrics");
    size_t len = strlen(name);
    for (char *save = NULL, *line = strtok_r(r.body, "\n", &save); line;
         line = strtok_r(NULL, "\n", &save)) {
        if (strncmp(line, name, len) != 0 || (line[len] != '{' && line[len] != ' ')) continue;
        if (*with && !strstr(line, with)) continue;
        const char *value = strrchr(line, ' ');
        if (value) sum += strtod(value + 1, NULL);
    }
    test_reply_clear(&r);
    return sum;
}

void fleet_rig_wait_metric(const fleet_rig *f, int i, const char *name, const char *with,
                           double want) {
    double is = -1;
    for (int64_t until = ty_now_us() + FLEET_RIG_WAIT_S * 1000000LL; ty_now_us() < until;
         test_nap_ms(20)) {
        if (!is_listening(f, i)) continue;
        is = fleet_rig_metric(f, i, name, with);
        if (is == want) return;
    }
    fleet_rig_fail(f, test_path("gateway.%d: %s{%s} is %g, want %g", i, name, with, is, want));
}

void fleet_rig_wait_ready(const fleet_rig *f, int brokers) {
    for (int i = 0; i < f->opt.gateways; i++) {
        if (f->gateway[i] <= 0) continue;
        fleet_rig_wait_metric(f, i, "tyto_gateway_broker_up", "", brokers);
        for (int k = 0; k < FLEET_RIG_STAGES; k++)
            fleet_rig_wait_metric(f, i, "tyto_stage_workers",
                                  test_path("stage=\"%s\"", fleet_rig_stage[k]),
                                  (double)(brokers * f->opt.workers[k]));
    }
}
