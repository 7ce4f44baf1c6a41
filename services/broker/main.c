/* main.c - tyto-broker: options -> create -> run until SIGTERM -> destroy. */
#include "common/base/log.h"
#include "common/base/options.h"
#include "common/wire/keys.h"
#include "services/broker/broker.h"

#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

enum { LARGE_BYTES = 128 << 10 };

static struct {
    broker_options broker;
    const char *log_level;
} opt;

static const ty_option table[] = {
    TY_OPT_STR("gateways", "TYTO_BROKER_GATEWAYS", opt.broker.gateways, NULL, "ENDPOINT",
               "where gateways connect: ipc:///path or tcp://host:port"),
    TY_OPT_STR("workers", "TYTO_BROKER_WORKERS", opt.broker.workers, NULL, "ENDPOINT",
               "where workers connect"),
    TY_WIRE_SECURITY_OPTIONS(opt.broker.keys, opt.broker.insecure_tcp),
    TY_OPT_INT("heartbeat-ms", "TYTO_BROKER_HEARTBEAT_MS", opt.broker.heartbeat_ms, 500, 10, 60000,
               "interval of the signs of life; three missed = dead"),
    TY_OPT_INT("queue-limit", "TYTO_BROKER_QUEUE_LIMIT", opt.broker.queue_limit, 1024, 1, 1000000,
               "tasks that may wait for one stage and model"),
    TY_OPT_INT("grace-ms", "TYTO_BROKER_GRACE_MS", opt.broker.grace_ms, 2000, 1, 3600000,
               "how long a task waits for a stage that has had no worker yet"),
    TY_OPT_INT("lost-grace-ms", "TYTO_BROKER_LOST_GRACE_MS", opt.broker.lost_grace_ms, 30000, 1,
               3600000, "and for one whose workers are all gone"),
    TY_OPT_INT("drain-ms", "TYTO_BROKER_DRAIN_MS", opt.broker.drain_ms, 10000, 1, 3600000,
               "after SIGTERM: how long tasks in flight have to end"),
    TY_OPT_STR("log-level", "TYTO_LOG_LEVEL", opt.log_level, "info", "LEVEL",
               "debug, info, warn or error"),
    TY_OPT_END};

/* Set once, before the handler is installed. */
static broker *running;

static void on_signal(int signo) {
    (void)signo;
    broker_stop(running);
}

static void install_handlers(void) {
    struct sigaction a = {.sa_handler = on_signal};
    sigemptyset(&a.sa_mask);
    sigaction(SIGTERM, &a, NULL);
    sigaction(SIGINT, &a, NULL);
}

int main(int argc, char **argv) {
    ty_err err = {0};
    switch (ty_options_parse(table, "tyto-broker --gateways ENDPOINT --workers ENDPOINT [options]",
                             "The queues between gateways and workers.", argc, argv, NULL)) {
    case TY_OPTIONS_DONE: return 0;
    case TY_OPTIONS_USAGE: return 2;
    case TY_OPTIONS_GO: break;
    }
    int level = ty_log_level_parse(opt.log_level);
    if (level < 0 || !opt.broker.gateways || !opt.broker.workers) {
        fprintf(stderr, level < 0 ? "--log-level: want debug, info, warn or error\n"
                                  : "want --gateways ENDPOINT and --workers ENDPOINT\n");
        return 2;
    }
    ty_log_init("broker", (ty_log_level)level);
    ty_status st = broker_create(&opt.broker, &running, &err);
    if (st != TY_OK) {
        ty_error("%s", err.text);
        return st == TY_EINVAL ? 2 : 1;
    }
    /* Frames of pictures and features come and go: their memory goes back to the system with them, which glibc
     * would stop doing after it has freed a few. */
    mallopt(M_MMAP_THRESHOLD, LARGE_BYTES);
    install_handlers();
    ty_info("gateways=%s workers=%s keys=%s heartbeat_ms=%d queue_limit=%d", opt.broker.gateways,
            opt.broker.workers, opt.broker.keys && *opt.broker.keys ? opt.broker.keys : "none",
            opt.broker.heartbeat_ms, opt.broker.queue_limit);
    st = broker_run(running, &err);
    if (st != TY_OK) ty_error("%s", err.text);
    ty_info("ends");
    /* From here a signal ends the process as usual: the broker it would stop is going away. */
    signal(SIGTERM, SIG_DFL);
    signal(SIGINT, SIG_DFL);
    broker_destroy(&running);
    return st == TY_OK ? 0 : 1;
}
