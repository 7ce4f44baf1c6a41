/*
 * fleet_rig.h - every process of a service as the test's own child, without `tyto up`: so many brokers, gateways and
 * workers, which the test can kill, stop and start one by one.
 */
#ifndef TY_TEST_FLEET_RIG_H
#define TY_TEST_FLEET_RIG_H

#include "tests/support/service.h"

enum { FLEET_RIG_MAX = 4, FLEET_RIG_STAGES = 4, FLEET_RIG_WAIT_S = 60 };

typedef struct {
    const char *pipeline; /* a directory with all four stages */
    int brokers, gateways;
    int workers[FLEET_RIG_STAGES]; /* preprocess, vit, abstractor, decoder */
    /* NULL-ended, or NULL */
    const char *const *broker_options, *const *gateway_options, *const *worker_options;
    bool tcp; /* the wire over loopback ports, not over sockets in the directory */
} fleet_rig_options;

typedef struct {
    fleet_rig_options opt;
    char dir[200];
    char gateways_at[FLEET_RIG_MAX][160], workers_at[FLEET_RIG_MAX][160]; /* of broker i */
    pid_t broker[FLEET_RIG_MAX], gateway[FLEET_RIG_MAX];
    pid_t worker[FLEET_RIG_STAGES][FLEET_RIG_MAX];
    test_service api[FLEET_RIG_MAX]; /* gateway i: port and url, for test_ask_* */
} fleet_rig;

extern const char *const fleet_rig_stage[FLEET_RIG_STAGES];

/* Starts all and waits until every gateway is ready by every broker. */
void fleet_rig_start(fleet_rig *f, const fleet_rig_options *opt);
/* SIGTERM: gateways, workers, brokers; each must end with 0. */
void fleet_rig_stop(fleet_rig *f);
/* One process again, after it was killed; what it needs besides its number is kept. */
void fleet_rig_broker(fleet_rig *f, int i);
void fleet_rig_worker(fleet_rig *f, int stage, int i);
void fleet_rig_gateway(fleet_rig *f, int i);
/* Ends one; its exit code (-signal).  *pid becomes 0. */
int fleet_rig_end(pid_t *pid, int sig);

/* Sum over the samples of a metric of gateway i whose labels hold all of `with` ("" = any). */
double fleet_rig_metric(const fleet_rig *f, int i, const char *name, const char *with);
/* Waits until that is `want`; fails the test after FLEET_RIG_WAIT_S. */
void fleet_rig_wait_metric(const fleet_rig *f, int i, const char *name, const char *with,
                           double want);
/* Waits until `brokers` brokers are up for every gateway, the pipeline ready, and every worker counted. */
void fleet_rig_wait_ready(const fleet_rig *f, int brokers);
/* How often a log ("broker.0", "decoder.1") holds the text. */
int fleet_rig_log_count(const fleet_rig *f, const char *who, const char *text);
/* Fails the test with the ends of all logs. */
void fleet_rig_fail(const fleet_rig *f, const char *why);

#endif
